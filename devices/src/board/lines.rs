//! Interrupt lines: ISA lines 0 to 15, and the four lines of PCI through the router (82371SB, 2.3.5: PIRQRC). With the I/O APIC,
//! ISA line n is input n but for the timer, which is input 2, and PCI line A to D is input 16 to 19.

use super::Board;
use crate::memory::GuestMemory;
use crate::pci::Config;
use crate::time::Time;

/// PCI lines, A to D.
const PCI: usize = 4;

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

    /// Puts every line to its level.
    pub(super) fn update_lines(&mut self, now: Time) {
        let keyboard = self.keyboard.lines();
        let [first, second] = &self.serial;
        let mut isa = [None; 16];
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
            if let Some(place) = isa.get_mut(line) {
                *place = Some(level);
            }
        }
        for (index, level) in self.pci_lines().into_iter().enumerate() {
            self.ioapic.set_line(16 + index as u8, level);
            let route = self.isa.get(0x60 + index);
            if route & 0x80 == 0
                && let Some(place) = isa.get_mut(usize::from(route & 0xf))
            {
                *place = Some(place.unwrap_or(false) | level);
            }
        }
        for (line, level) in (0u8..).zip(isa) {
            let Some(level) = level else { continue };
            self.pic.set_line(line, level);
            self.ioapic.set_line(line, level);
        }
        // The timer's output may have turned several times; one edge is what a controller would remember.
        let edges = self.pit.take_edges(now);
        let level = self.pit.line(now);
        if self.update_hpet() {
            return;
        }
        if edges > 0 {
            self.timer(false);
            self.timer(true);
        }
        self.timer(level);
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
