//! An Intel 82540EM (*PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual*, 317453): descriptor rings,
//! checksums and segmentation of what is sent, filters for what is received.

mod eeprom;
mod moderation;
mod receive;
mod transmit;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Waker;

use serde::{Deserialize, Serialize};

use crate::memory::GuestMemory;
use crate::nic::{Inbox, Outlet};
use crate::pci::{Config, Identity, Space};
use eeprom::Eeprom;
use moderation::Moderation;
use transmit::Sending;

/// Bytes of the register window, BAR 0.
pub const WINDOW: u32 = 0x2_0000;

/// Offsets of registers (317453, 13.2).
mod reg {
    pub(super) const CTRL: u32 = 0x0000;
    pub(super) const STATUS: u32 = 0x0008;
    pub(super) const EECD: u32 = 0x0010;
    pub(super) const EERD: u32 = 0x0014;
    pub(super) const MDIC: u32 = 0x0020;
    pub(super) const ICR: u32 = 0x00c0;
    pub(super) const ITR: u32 = 0x00c4;
    pub(super) const ICS: u32 = 0x00c8;
    pub(super) const IMS: u32 = 0x00d0;
    pub(super) const IMC: u32 = 0x00d8;
    pub(super) const RCTL: u32 = 0x0100;
    pub(super) const TCTL: u32 = 0x0400;
    pub(super) const RDBAL: u32 = 0x2800;
    pub(super) const RDBAH: u32 = 0x2804;
    pub(super) const RDLEN: u32 = 0x2808;
    pub(super) const RDH: u32 = 0x2810;
    pub(super) const RDT: u32 = 0x2818;
    pub(super) const RDTR: u32 = 0x2820;
    pub(super) const RADV: u32 = 0x282c;
    pub(super) const TDBAL: u32 = 0x3800;
    pub(super) const TDBAH: u32 = 0x3804;
    pub(super) const TDLEN: u32 = 0x3808;
    pub(super) const TDH: u32 = 0x3810;
    pub(super) const TDT: u32 = 0x3818;
    pub(super) const TIDV: u32 = 0x3820;
    pub(super) const TADV: u32 = 0x382c;
    pub(super) const STATISTICS: u32 = 0x4000;
    pub(super) const STATISTICS_END: u32 = 0x4124;
    pub(super) const RXCSUM: u32 = 0x5000;
    pub(super) const MTA: u32 = 0x5200;
    pub(super) const RAL: u32 = 0x5400;
    pub(super) const VFTA: u32 = 0x5600;
    pub(super) const END: u32 = 0x6000;
    pub(super) const GPRC: u32 = 0x4074;
    pub(super) const GPTC: u32 = 0x4080;
    pub(super) const MPC: u32 = 0x4010;
}

/// Causes of interrupts (13.4.17).
mod cause {
    pub(super) const SENT: u32 = 1;
    pub(super) const QUEUE_EMPTY: u32 = 2;
    pub(super) const LINK: u32 = 4;
    pub(super) const FEW_DESCRIPTORS: u32 = 0x10;
    pub(super) const OVERRUN: u32 = 0x40;
    pub(super) const RECEIVED: u32 = 0x80;
    pub(super) const MDIO: u32 = 0x200;
}

const RESET: u32 = 1 << 26;

/// The card's registers, and a packet that is half sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    registers: Vec<u32>,
    phy: Vec<u16>,
    eeprom: Eeprom,
    cause: u32,
    mask: u32,
    sending: Sending,
    moderation: Moderation,
    /// The offset that the indirect window's first port names.
    indirect: u32,
}

/// The card.
pub struct E1000 {
    /// Configuration space. BAR 0 is the registers, BAR 1 an indirect window to them.
    pub config: Config,
    state: State,
    address: [u8; 6],
    outlet: Option<Outlet>,
    inbox: Rc<Inbox>,
}

impl E1000 {
    /// A card with an address, on a wire. Without an outlet the cable is not plugged in.
    #[must_use]
    pub fn new(address: [u8; 6], outlet: Option<Outlet>) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x100e,
            class: 0x02_0000,
            revision: 3,
            subsystem: 0x1100_1af4,
        };
        let mut card = Self {
            config: Config::new(identity).with_pin(1).with_bar(0, Space::Memory, WINDOW).with_bar(
                1,
                Space::Port,
                64,
            ),
            state: State {
                registers: Vec::new(),
                phy: Vec::new(),
                eeprom: Eeprom::new(address),
                cause: 0,
                mask: 0,
                sending: Sending::default(),
                moderation: Moderation::default(),
                indirect: 0,
            },
            address,
            outlet,
            inbox: Rc::default(),
        };
        card.reset();
        card
    }

    /// Where the bridge delivers this card's frames.
    #[must_use]
    pub fn inbox(&self) -> Rc<Inbox> {
        Rc::clone(&self.inbox)
    }

    /// The state.
    #[must_use]
    pub fn save(&self) -> State {
        self.state.clone()
    }

    /// Takes a saved state over.
    pub fn load(&mut self, state: State) {
        self.state = state;
        self.state.registers.resize(reg::END as usize / 4, 0);
        self.state.phy.resize(32, 0);
    }

    fn reset(&mut self) {
        self.state.registers = vec![0; reg::END as usize / 4];
        self.state.phy = vec![0; 32];
        self.state.sending = Sending::default();
        self.state.moderation = Moderation::default();
        self.state.cause = 0;
        self.state.mask = 0;
        let link = self.outlet.is_some();
        self.set(reg::CTRL, 0x0000_0281);
        // Full duplex, 1000 Mb/s, and link where there is a cable.
        self.set(reg::STATUS, 0x81 | u32::from(link) << 1);
        let phy = [
            (0, 0x1140),
            (1, 0x7949 | if link { 0x24 } else { 0 }),
            (2, 0x0141),
            (3, 0x0c20),
            (4, 0x0de1),
            (5, if link { 0x41e0 } else { 0 }),
            (9, 0x0e00),
            (10, if link { 0x3c00 } else { 0 }),
            (16, 0x0360),
            (17, if link { 0xac00 } else { 0 }),
            (20, 0x0d60),
        ];
        for (index, value) in phy {
            if let Some(place) = self.state.phy.get_mut(index) {
                *place = value;
            }
        }
        let [a, b, c, d, e, f] = self.address;
        self.set(reg::RAL, u32::from_le_bytes([a, b, c, d]));
        self.set(reg::RAL + 4, u32::from_le_bytes([e, f, 0, 0x80]));
    }

    fn get(&self, offset: u32) -> u32 {
        self.state.registers.get(offset as usize / 4).copied().unwrap_or(0)
    }

    fn set(&mut self, offset: u32, value: u32) {
        if let Some(place) = self.state.registers.get_mut(offset as usize / 4) {
            *place = value;
        }
    }

    fn count(&mut self, offset: u32) {
        self.set(offset, self.get(offset).saturating_add(1));
    }

    fn raise(&mut self, causes: u32) {
        self.state.cause |= causes;
    }

    /// Reads a register of four bytes; the offset's low two bits do not count.
    pub fn read(&mut self, offset: u32) -> u32 {
        let offset = offset & (WINDOW - 4);
        match offset {
            reg::ICR => {
                let cause = core::mem::take(&mut self.state.cause);
                cause | if cause & self.state.mask != 0 { 0x8000_0000 } else { 0 }
            }
            reg::ICS => self.state.cause,
            reg::IMS => self.state.mask,
            reg::EECD => self.state.eeprom.control(),
            reg::STATISTICS..reg::STATISTICS_END => {
                let value = self.get(offset);
                self.set(offset, 0);
                value
            }
            _ => self.get(offset),
        }
    }

    /// Writes a register. Sends what the write lets go.
    pub fn write<M: GuestMemory>(&mut self, memory: &M, offset: u32, value: u32) {
        let offset = offset & (WINDOW - 4);
        match offset {
            reg::CTRL if value & RESET != 0 => self.reset(),
            reg::CTRL => self.set(offset, value & !RESET),
            reg::STATUS => {}
            reg::EECD => self.state.eeprom.write(value),
            reg::EERD => {
                let word = self.state.eeprom.word(value >> 8 & 0xff);
                if value & 1 != 0 {
                    self.set(offset, u32::from(word) << 16 | value & 0xff00 | 0x10);
                }
            }
            reg::MDIC => self.mdio(value),
            // A read clears causes; so do ones that are written.
            reg::ICR => self.state.cause &= !value,
            reg::ICS => self.raise(value & 0x1_ffff),
            reg::IMS => self.state.mask |= value,
            reg::IMC => self.state.mask &= !value,
            reg::RDH | reg::RDT | reg::TDH => self.set(offset, value & 0xffff),
            reg::RDLEN | reg::TDLEN => self.set(offset, value & 0x000f_ff80),
            reg::RDBAL | reg::TDBAL => self.set(offset, value & !0xf),
            reg::RDTR | reg::TIDV => self.set_delay(offset, value),
            reg::TDT => {
                self.set(offset, value & 0xffff);
                self.send(memory);
            }
            reg::TCTL => {
                self.set(offset, value);
                self.send(memory);
            }
            _ => self.set(offset, value),
        }
    }

    /// The management interface of the physical layer (13.4.9).
    fn mdio(&mut self, value: u32) {
        let register = (value >> 16 & 31) as usize;
        let right = value >> 21 & 31 == 1;
        let mut answer = value | 1 << 28;
        match value >> 26 & 3 {
            2 if right => {
                let read = self.state.phy.get(register).copied().unwrap_or(0);
                answer = answer & 0xffff_0000 | u32::from(read);
            }
            1 if right => {
                let value = match register {
                    // A reset and a restarted negotiation are over at once.
                    0 => value as u16 & !0x8200,
                    4 | 9 | 16 | 20 => value as u16,
                    _ => self.state.phy.get(register).copied().unwrap_or(0),
                };
                if let Some(place) = self.state.phy.get_mut(register) {
                    *place = value;
                }
                if register == 0 && self.outlet.is_some() {
                    self.raise(cause::LINK);
                }
            }
            1 | 2 => answer |= 1 << 30,
            _ => {}
        }
        self.set(reg::MDIC, answer);
        if value & 1 << 29 != 0 {
            self.raise(cause::MDIO);
        }
    }

    /// Reads BAR 1: the offset, or the register that it names.
    pub fn read_port(&mut self, offset: u16) -> u32 {
        match offset {
            0 => self.state.indirect,
            4 => self.read(self.state.indirect),
            _ => 0,
        }
    }

    /// Writes BAR 1.
    pub fn write_port<M: GuestMemory>(&mut self, memory: &M, offset: u16, value: u32) {
        match offset {
            0 => self.state.indirect = value & (WINDOW - 1),
            4 => self.write(memory, self.state.indirect, value),
            _ => {}
        }
    }

    /// Goes on with what is to be sent, and takes frames that have arrived.
    pub fn poll<M: GuestMemory>(&mut self, memory: &M, waker: &Waker) {
        self.send(memory);
        if self.receive(memory) || self.has_to_send() {
            waker.wake_by_ref();
        }
        self.inbox.wake(waker);
    }
}
