//! From a guest's own addresses to bytes: the page walk, and copies through it.
//!
//! A pointer in a hypercall is guest-virtual, translated by the vCPU's present paging mode as a supervisor access (SDM
//! 4.3 to 4.5, APM 5.2 to 5.4); with paging off it is guest-physical. Accessed and dirty flags are not set, and reserved
//! bits are not judged: QEMU's TCG sets the accessed bit in PAE page-directory-pointer entries, where it is reserved.
//! Whatever a table claims, the frames it names go through the domain's second-level tables.
//!
//! [`Remembered`] keeps the last walks. The hypervisor sees neither INVLPG nor writes of CR3, so a hit reads every table
//! entry that the walk used again and compares it, and compares an epoch that changes when memory that walks use is taken
//! out of the second-level tables. The frame table marks such memory: most of what comes and goes is no part of a walk.
//! Code has a shorter memory, [`Remembered::code`], that does not read the tables again.

use crate::prelude::*;

mod tables;
#[cfg(test)]
mod tests;

pub use tables::{Paging, Remembered};

/// A domain's guest-physical space, as copies see it.
pub trait Space {
    /// The memory behind a frame number and whether the guest may write it; `None` where there is no memory (a hole,
    /// device memory). From now on [`Space::epoch`] changes when it is taken out.
    fn frame(&self, gfn: Gfn) -> Option<(Mfn, bool)>;
    /// The page of such a frame. It stays what it is until [`Space::epoch`] changes.
    fn page(&self, mfn: Mfn) -> Option<&SharedPage>;
    /// Changes whenever memory that [`Space::frame`] has found is taken out of the space.
    fn epoch(&self) -> u64;
}

/// Why an address cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultReason {
    /// A table entry is not present.
    NotPresent,
    /// A write to a page that is read-only in the guest's tables or in its second-level tables.
    ReadOnly,
    /// No address of 48 bits.
    NotCanonical,
    /// A table, or the page itself, is where the guest has no memory.
    NoMemory,
    /// Five-level paging.
    Unsupported,
}

/// An access that the guest's tables do not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address.
    pub gva: Gva,
    /// Why.
    pub reason: FaultReason,
}

impl From<Fault> for trunnion_protocol::errno::Errno {
    fn from(_: Fault) -> Self {
        Self::Fault
    }
}

/// A page that an address was translated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Guest frame.
    pub gfn: Gfn,
    /// Machine frame.
    pub mfn: Mfn,
}

/// A vCPU's view of its memory.
pub struct Memory<'a, S> {
    space: &'a S,
    paging: Paging,
    last: &'a mut Remembered,
}

impl<'a, S: Space> Memory<'a, S> {
    /// The view with the paging registers as they are now.
    pub const fn new(space: &'a S, paging: Paging, last: &'a mut Remembered) -> Self {
        Self { space, paging, last }
    }

    /// The page behind an address.
    pub fn translate(&mut self, gva: Gva, write: bool) -> Result<Found, Fault> {
        self.last.translate(self.space, &self.paging, gva, write).map_err(|reason| Fault { gva, reason })
    }

    /// The guest-physical address of an address.
    pub fn gpa(&mut self, gva: Gva, write: bool) -> Result<Gpa, Fault> {
        let found = self.translate(gva, write)?;
        Ok(Gpa(found.gfn.address().0 | gva.page_offset() as u64))
    }

    /// Remembers that code at an address is executed, for [`Remembered::code`].
    pub fn see(&mut self, gva: Gva) {
        self.last.see(self.space, &self.paging, gva);
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs as much as what it does")]
    fn page(&mut self, gva: Gva, write: bool) -> Result<&'a SharedPage, Fault> {
        let found = self.translate(gva, write)?;
        self.space.page(found.mfn).ok_or(Fault { gva, reason: FaultReason::NoMemory })
    }

    /// Copies bytes out of the guest.
    pub fn read(&mut self, gva: Gva, into: &mut [u8]) -> Result<(), Fault> {
        let offset = gva.page_offset();
        if into.len() <= PAGE_SIZE - offset {
            let page = self.page(gva, false)?;
            return page.copy_out(offset, into).map_err(|_| Fault { gva, reason: FaultReason::NoMemory });
        }
        self.read_long(gva, into)
    }

    fn read_long(&mut self, gva: Gva, mut into: &mut [u8]) -> Result<(), Fault> {
        let mut at = gva;
        while !into.is_empty() {
            let (part, rest) = into.split_at_mut(into.len().min(PAGE_SIZE - at.page_offset()));
            self.read(at, part)?;
            at = Gva(at.0.wrapping_add(part.len() as u64));
            into = rest;
        }
        Ok(())
    }

    /// Copies bytes into the guest. When an address in the middle faults, the bytes before it have been written.
    pub fn write(&mut self, gva: Gva, from: &[u8]) -> Result<(), Fault> {
        let offset = gva.page_offset();
        if from.len() <= PAGE_SIZE - offset {
            let page = self.page(gva, true)?;
            return page.copy_in(offset, from).map_err(|_| Fault { gva, reason: FaultReason::NoMemory });
        }
        self.write_long(gva, from)
    }

    fn write_long(&mut self, gva: Gva, mut from: &[u8]) -> Result<(), Fault> {
        let mut at = gva;
        while !from.is_empty() {
            let (part, rest) = from.split_at(from.len().min(PAGE_SIZE - at.page_offset()));
            self.write(at, part)?;
            at = Gva(at.0.wrapping_add(part.len() as u64));
            from = rest;
        }
        Ok(())
    }

    /// Copies instruction bytes: as many as can be read, which are fewer than asked for where the next page faults.
    pub fn fetch<'b>(&mut self, gva: Gva, into: &'b mut [u8]) -> &'b [u8] {
        let first = into.len().min(PAGE_SIZE - gva.page_offset());
        let (start, rest) = into.split_at_mut(first);
        if self.read(gva, start).is_err() {
            return &[];
        }
        let second = Gva(gva.0.wrapping_add(first as u64));
        let length = if !rest.is_empty() && self.read(second, rest).is_ok() { into.len() } else { first };
        into.get(..length).unwrap_or(&[])
    }

    /// Reads a structure of the ABI.
    pub fn get<T: Layout>(&mut self, width: Width, gva: Gva) -> Result<T, Fault> {
        let mut bytes = T::ZEROED;
        let short = Fault { gva, reason: FaultReason::NoMemory };
        let bytes = bytes.as_mut().get_mut(..T::size(width)).ok_or(short)?;
        self.read(gva, bytes)?;
        T::decode(width, bytes).ok_or(short)
    }

    /// Writes a structure of the ABI. Its padding is written as zero.
    pub fn put<T: Layout>(&mut self, width: Width, gva: Gva, value: &T) -> Result<(), Fault> {
        let mut bytes = T::ZEROED;
        let short = Fault { gva, reason: FaultReason::NoMemory };
        let bytes = bytes.as_mut().get_mut(..T::size(width)).ok_or(short)?;
        value.encode(width, bytes).ok_or(short)?;
        self.write(gva, bytes)
    }

    /// Reads a word of the caller's width (`xen_ulong_t`, `xen_pfn_t`).
    pub fn get_word(&mut self, width: Width, gva: Gva) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        let (word, _) = bytes.split_at_mut(width.word());
        self.read(gva, word)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a word of the caller's width; higher bits are cut off.
    pub fn put_word(&mut self, width: Width, gva: Gva, value: u64) -> Result<(), Fault> {
        let bytes = value.to_le_bytes();
        let (word, _) = bytes.split_at(width.word());
        self.write(gva, word)
    }
}
