//! Interrupt lines: ISA lines 0 to 15, and the four lines of PCI through the router (82371SB, 2.3.5: PIRQRC). With the I/O APIC,
//! ISA line n is input n but for the timer, which is input 2, and PCI line A to D is input 16 to 19.

use super::Board;
use crate::memory::GuestMemory;
use crate::pci::Config;
use crate::time::Time;

/// PCI lines, A to D.
const PCI: usize = 4;
/// Lines that have a level: not the timer's, the one between the controllers, and the coprocessor's.
const LINES: u32 = 0xf_dffa;

/// What the interrupt controllers were told.
#[derive(Default)]
pub(super) struct Told {
    /// The levels; `None` when they have to be told anew.
    levels: Option<u32>,
    /// Until when nothing comes of the timer. That its output falls meanwhile matters to nobody: the next edge is one all the same.
    timer: Time,
}

impl Told {
    /// A controller or the timer was written to, or changed as a whole.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl<M: GuestMemory> Board<M> {
    /// Levels of the PCI lines: pin p of device d is line (d + p - 2) mod 4, as on boards with this router.
    fn pci_lines(&self) -> [bool; PCI] {
        let mut lines = [false; PCI];
        for (device, config, level) in self.pci_levels() {
            let pin = config.get(crate::pci::register::PIN);
            if level && pin != 0 && config.interrupts() {
                let line = device.wrapping_add(pin).wrapping_sub(2) & 3;
                if let Some(place) = lines.get_mut(usize::from(line)) {
                    *place = true;
                }
            }
        }
        lines
    }

    /// PCI functions that have an interrupt: their device number, configuration and level.
    fn pci_levels(&self) -> impl Iterator<Item = (u8, &Config, bool)> {
        let platform = core::iter::once((super::bus::PLATFORM, &self.platform.config, false));
        platform.chain((super::bus::FIRST_NIC..).zip(&self.nics).map(|(device, nic)| {
            let (config, level) = nic.level();
            (device, config, level)
        }))
    }

    /// The levels of ISA lines 0 to 15 and of the PCI lines above them; the timer's is not among them.
    fn levels(&self) -> u32 {
        let keyboard = self.keyboard.lines();
        let [first, second] = &self.serial;
        let mut levels = 0;
        for (line, level) in [
            (1, keyboard.keyboard),
            (3, second.uart.line()),
            (4, first.uart.line()),
            (6, self.floppy.line()),
            (8, self.rtc.line()),
            (9, self.pm.line()),
            (12, keyboard.mouse),
            (14, self.ide.line(0)),
            (15, self.ide.line(1)),
        ] {
            levels |= u32::from(level) << line;
        }
        for (index, level) in self.pci_lines().into_iter().enumerate() {
            if level {
                levels |= 1 << (16 + index);
                let route = self.isa.get(0x60 + index);
                if route & 0x80 == 0 {
                    levels |= 1 << (route & 0xf);
                }
            }
        }
        levels & LINES
    }

    /// Puts every line to its level. The controllers are told what has changed.
    pub(super) fn update_lines(&mut self, now: Time) {
        for nic in &mut self.nics {
            nic.settle(now);
        }
        if self.keyboard.take_fall() {
            for line in [1, 12] {
                self.pic.set_line(line, false);
                self.ioapic.set_line(line, false);
            }
            self.told.levels = self.told.levels.map(|told| told & !0x1002);
        }
        let levels = self.levels();
        let mut changed = self.told.levels.map_or(LINES, |told| told ^ levels);
        self.told.levels = Some(levels);
        while changed != 0 {
            let line = changed.trailing_zeros() as u8;
            changed &= changed - 1;
            let level = levels >> line & 1 != 0;
            if line < 16 {
                self.pic.set_line(line, level);
            }
            self.ioapic.set_line(line, level);
        }
        if self.update_hpet() || now < self.told.timer {
            return;
        }
        // The timer's output may have turned several times; one edge is what a controller would remember.
        if self.pit.take_edges(now) > 0 {
            self.timer(false);
            self.timer(true);
        }
        self.timer(self.pit.line(now));
        self.told.timer = self.pit.deadline().unwrap_or(Time(u64::MAX));
    }

    /// The event timer's interrupts; true when it has taken the other timer's place.
    fn update_hpet(&mut self) -> bool {
        let Some(hpet) = &mut self.hpet else { return false };
        let legacy = hpet.is_legacy();
        for interrupt in hpet.take_interrupts().into_iter().flatten() {
            match (interrupt.level, interrupt.input) {
                (Some(level), input) => self.ioapic.set_line(input, level),
                (None, 2) if legacy => {
                    self.timer(false);
                    self.timer(true);
                }
                (None, input) => {
                    for level in [false, true, false] {
                        self.ioapic.set_line(input, level);
                        if legacy {
                            self.pic.set_line(input, level);
                        }
                    }
                }
            }
        }
        legacy
    }

    fn timer(&mut self, level: bool) {
        self.pic.set_line(0, level);
        self.ioapic.set_line(2, level);
    }
}
