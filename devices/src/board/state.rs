//! The state of the board, but for drives and network cards, which save their own ([`crate::ide::Controller::save`] and kin) because
//! they may have requests on their way.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Board, Nic};
use crate::dma::Dma;
use crate::fwcfg::FwCfg;
use crate::hpet::Hpet;
use crate::i8042::Controller as Keyboard;
use crate::ioapic::IoApic;
use crate::memory::GuestMemory;
use crate::pci::{Address, Config};
use crate::pic::Pic;
use crate::pit::Pit;
use crate::platform::Platform;
use crate::pm::Pm;
use crate::rtc::Rtc;
use crate::uart::Uart;
use crate::vga::Vga;

/// What a board saves. Output that waits for a serial line is not part of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    rtc: Rtc,
    keyboard: Keyboard,
    vga: Option<Vga>,
    pm: Pm,
    fwcfg: FwCfg,
    platform: Platform,
    pic: Pic,
    ioapic: IoApic,
    pit: Pit,
    hpet: Option<Hpet>,
    dma: Dma,
    serial: [Uart; 2],
    address: Address,
    host: Config,
    isa: Config,
    ide: Config,
    power: Config,
    nics: Vec<Config>,
    fast_gate: u8,
    reset_control: u8,
    smi_status: u8,
}

impl<M: GuestMemory> Board<M> {
    /// The state.
    pub fn save(&self) -> State {
        let [first, second] = &self.serial;
        State {
            rtc: self.rtc.clone(),
            keyboard: self.keyboard.clone(),
            vga: self.vga.clone(),
            pm: self.pm.clone(),
            fwcfg: self.fwcfg.clone(),
            platform: self.platform.clone(),
            pic: self.pic.clone(),
            ioapic: self.ioapic.clone(),
            pit: self.pit.clone(),
            hpet: self.hpet.clone(),
            dma: self.dma.clone(),
            serial: [first.uart.clone(), second.uart.clone()],
            address: self.address,
            host: self.host.clone(),
            isa: self.isa.clone(),
            ide: self.ide.config.clone(),
            power: self.power.clone(),
            nics: self.nics.iter().map(|nic| nic.level().0.clone()).collect(),
            fast_gate: self.fast_gate,
            reset_control: self.reset_control,
            smi_status: self.smi_status,
        }
    }

    /// Takes over a state that a board of the same parts has saved.
    pub fn load(&mut self, state: State) {
        self.rtc = state.rtc;
        self.keyboard = state.keyboard;
        self.vga = state.vga;
        self.pm = state.pm;
        self.fwcfg = state.fwcfg;
        self.platform = state.platform;
        self.pic = state.pic;
        self.ioapic = state.ioapic;
        self.pit = state.pit;
        self.hpet = state.hpet;
        self.dma = state.dma;
        for (serial, uart) in self.serial.iter_mut().zip(state.serial) {
            serial.uart = uart;
        }
        self.address = state.address;
        self.host = state.host;
        self.isa = state.isa;
        self.ide.config = state.ide;
        self.power = state.power;
        for (nic, config) in self.nics.iter_mut().zip(state.nics) {
            *Nic::config(nic) = config;
        }
        self.fast_gate = state.fast_gate;
        self.reset_control = state.reset_control;
        self.smi_status = state.smi_status;
        self.told.forget();
    }
}
