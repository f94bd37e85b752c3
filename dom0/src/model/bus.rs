//! The guest's memory and devices, as an emulated instruction reaches them.

use core::ops::Range;

use trunnion_devices::board::Board;
use trunnion_devices::emulate::{Machine, Pending, Refused};
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::time::Time;
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;

/// The board and the time of one instruction.
pub(super) struct Bus<'a, M: GuestMemory> {
    pub(super) board: &'a mut Board<M>,
    pub(super) ram: &'a [Range<u64>; 4],
    pub(super) now: Time,
}

impl<M: GuestMemory> Bus<'_, M> {
    fn is_ram(&self, at: u64) -> bool {
        self.ram.iter().any(|range| range.contains(&at))
    }
}

impl<M: GuestMemory> Machine for Bus<'_, M> {
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        let there = if self.is_ram(at.0) {
            self.board.memory.read(at, into).is_ok()
        } else {
            self.board.memory_read(at.0, into, self.now)
        };
        if !there {
            into.fill(0xff);
        }
        Ok(())
    }

    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending> {
        if self.is_ram(at.0) {
            // A page that the guest gave back is as one that was never there.
            let _ = self.board.memory.write(at, from);
        } else {
            self.board.memory_write(at.0, from, self.now);
        }
        Ok(())
    }

    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Pending> {
        Ok(self.board.port_read(port, width, self.now))
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<(), Pending> {
        self.board.port_write(port, width, value, self.now);
        Ok(())
    }

    fn port_read_string(&mut self, port: u16, width: Width, into: &mut [u8]) -> Result<(), Pending> {
        self.board.port_read_string(port, width, into, self.now);
        Ok(())
    }

    fn port_write_string(&mut self, port: u16, width: Width, from: &[u8]) -> Result<(), Pending> {
        self.board.port_write_string(port, width, from, self.now);
        Ok(())
    }

    // What follows touches no device: such an instruction never comes here unless its bytes were changed meanwhile.

    fn cpuid(&mut self, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }

    fn msr_read(&mut self, _: u32) -> Result<u64, Refused> {
        Err(Refused)
    }

    fn msr_write(&mut self, _: u32, _: u64) -> Result<(), Refused> {
        Err(Refused)
    }

    fn tsc(&mut self) -> u64 {
        self.now.0
    }
}
