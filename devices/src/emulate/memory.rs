//! Segmentation, and accesses that may cross a page. Every page of an access is translated before any byte moves, so an
//! access that faults has had no effect.

use iced_x86::Register;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::Segment;

use super::cpu::Cpu;
use super::fault::{Fault, Stop, vector};
use super::machine::Machine;
use super::paging::Access;

/// Most bytes of one access.
const LONGEST: usize = 16;

impl<M: Machine> Cpu<'_, M> {
    /// The linear address of `size` bytes of a segment (SDM 3, 5.3 to 5.5; 64-bit mode 3.2.4).
    pub(crate) fn linear(&self, name: Register, offset: u64, size: u64, access: Access) -> Result<u64, Stop> {
        let fault = if name == Register::SS { vector::SS } else { vector::GP };
        let refuse = Stop::Fault(Fault::with(fault, 0));
        let segment = self.segment(name);
        let last = offset.wrapping_add(size.wrapping_sub(1));
        if self.bits == 64 {
            let base = if matches!(name, Register::FS | Register::GS) { segment.base } else { 0 };
            let linear = base.wrapping_add(offset);
            return if canonical(linear) && canonical(base.wrapping_add(last)) {
                Ok(linear)
            } else {
                Err(refuse)
            };
        }
        if self.protected() {
            let kind = segment.attributes & 0xf;
            if segment.attributes & 0x80 == 0
                || access.writes() && kind & 0xa != 2
                || !access.writes() && access != Access::Fetch && kind & 0xa == 8
            {
                return Err(refuse);
            }
        }
        if !within(&segment, offset, last) {
            return Err(refuse);
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Reads a little-endian number of up to eight bytes at a linear address.
    pub(crate) fn load(&mut self, linear: u64, size: usize, access: Access) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        if let Some(into) = bytes.get_mut(..size) {
            self.load_bytes(linear, into, access)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads up to [`LONGEST`] bytes at a linear address.
    pub(crate) fn load_bytes(&mut self, linear: u64, into: &mut [u8], access: Access) -> Result<(), Stop> {
        let (first, second, split) = self.pieces(linear, into.len(), access)?;
        let (low, high) = into.split_at_mut_checked(split).ok_or(Stop::Unknown)?;
        self.machine.read(Gpa(first), low)?;
        if !high.is_empty() {
            self.machine.read(Gpa(second), high)?;
        }
        Ok(())
    }

    /// Writes a little-endian number of up to eight bytes at a linear address.
    pub(crate) fn store(&mut self, linear: u64, size: usize, value: u64, access: Access) -> Result<(), Stop> {
        self.store_bytes(linear, value.to_le_bytes().get(..size).unwrap_or(&[]), access)
    }

    /// Writes up to [`LONGEST`] bytes at a linear address.
    pub(crate) fn store_bytes(&mut self, linear: u64, from: &[u8], access: Access) -> Result<(), Stop> {
        let (first, second, split) = self.pieces(linear, from.len(), access)?;
        let (low, high) = from.split_at_checked(split).ok_or(Stop::Unknown)?;
        self.machine.write(Gpa(first), low)?;
        if !high.is_empty() {
            self.machine.write(Gpa(second), high)?;
        }
        Ok(())
    }

    /// Checks that bytes could be written, and writes nothing.
    pub(crate) fn probe(&mut self, linear: u64, size: usize, access: Access) -> Result<(), Stop> {
        self.pieces(linear, size, access).map(|_| ())
    }

    /// The physical addresses of an access: of its first byte, of the first byte in its second page, and how many bytes are
    /// in the first page.
    fn pieces(&mut self, linear: u64, size: usize, access: Access) -> Result<(u64, u64, usize), Stop> {
        if size > LONGEST {
            return Err(Stop::Unknown);
        }
        let room = 0x1000 - (linear & 0xfff) as usize;
        let first = self.translate(linear, access)?;
        if size <= room {
            return Ok((first, 0, size));
        }
        let mut next = linear.wrapping_add(room as u64);
        if self.bits != 64 {
            next &= 0xffff_ffff;
        }
        Ok((first, self.translate(next, access)?, room))
    }
}

/// Whether an address is canonical with four levels of tables.
pub(crate) const fn canonical(linear: u64) -> bool {
    ((linear << 16) as i64 >> 16) as u64 == linear
}

/// Whether bytes are inside a segment's limit, also of one that grows down (SDM 3, 5.3).
const fn within(segment: &Segment, first: u64, last: u64) -> bool {
    let limit = segment.limit as u64;
    if last < first {
        return false;
    }
    if segment.attributes & 0x1c == 0x14 {
        let top = if segment.attributes >> 10 & 1 != 0 { 0xffff_ffff } else { 0xffff };
        first > limit && last <= top
    } else {
        last <= limit
    }
}
