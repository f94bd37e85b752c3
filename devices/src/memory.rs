//! The guest's memory, as its devices reach it.

use trunnion_backends::device::GuestPage;
use trunnion_protocol::address::{Gfn, Gpa, PAGE_SIZE};

/// An address that has no RAM behind it. A device's own registers are no RAM: a DMA never reaches a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outside;

/// The RAM of one guest, held a page at a time, and pages of the device model's own.
pub trait GuestMemory {
    /// A page that stays where it is for as long as the value lives.
    type Page: GuestPage;

    /// The RAM at a guest frame.
    fn page(&self, gfn: Gfn) -> Option<Self::Page>;

    /// A zeroed page of the device model's own, for data on its way through a port; `None` when there is no memory.
    fn own(&self) -> Option<Self::Page>;

    /// A page of the device model's own that nobody holds, with whatever was last in it; `None` when there is no memory.
    fn scratch(&self) -> Option<Self::Page> {
        self.own()
    }

    /// Copies bytes out of RAM. What was copied before an address outside it stays in `into`.
    fn read(&self, at: Gpa, into: &mut [u8]) -> Result<(), Outside> {
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let length = rest.len().min(PAGE_SIZE - at.page_offset());
            let (piece, next) = rest.split_at_mut_checked(length).ok_or(Outside)?;
            let page = self.page(at.frame()).ok_or(Outside)?;
            page.shared().copy_out(at.page_offset(), piece).map_err(|_| Outside)?;
            rest = next;
            at = at.checked_add(length as u64).ok_or(Outside)?;
        }
        Ok(())
    }

    /// Copies bytes into RAM. What was copied before an address outside it stays there.
    fn write(&self, at: Gpa, from: &[u8]) -> Result<(), Outside> {
        let mut at = at;
        let mut rest = from;
        while !rest.is_empty() {
            let length = rest.len().min(PAGE_SIZE - at.page_offset());
            let (piece, next) = rest.split_at_checked(length).ok_or(Outside)?;
            let page = self.page(at.frame()).ok_or(Outside)?;
            page.shared().copy_in(at.page_offset(), piece).map_err(|_| Outside)?;
            rest = next;
            at = at.checked_add(length as u64).ok_or(Outside)?;
        }
        Ok(())
    }
}

impl<T: GuestMemory + ?Sized> GuestMemory for alloc::rc::Rc<T> {
    type Page = T::Page;
    fn page(&self, gfn: Gfn) -> Option<Self::Page> {
        (**self).page(gfn)
    }
    fn own(&self) -> Option<Self::Page> {
        (**self).own()
    }
    fn scratch(&self) -> Option<Self::Page> {
        (**self).scratch()
    }
}
