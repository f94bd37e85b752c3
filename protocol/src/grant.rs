//! Entries of a grant table, version 1: their words, and who may change which bit when.
//!
//! An entry is eight bytes: the *access word* (flags in the low half, domain in the high half) and the frame. Granter and
//! hypervisor both change the access word, each by compare-and-exchange of the whole 32 bits; the functions here compute
//! the new word from the old one and are the only rules there are.
//!
//! # The safe order, for the granter
//!
//! 1. Write the frame.
//! 2. Write barrier (or a release store in step 3).
//! 3. Store the access word from [`permit`].
//! 4. Hand the reference out.
//! 5. To take the page back: compare-and-exchange the word with what [`revoke`] gives, until it succeeds or says that the
//!    page is in use. Only then touch the page.
//!
//! # For the hypervisor
//!
//! [`pin`] before a mapping or copy begins; [`unpin`] after the last access is complete and every translation is gone.
//! How many pins there are is counted outside of the word.

use crate::errno::GrantStatus;
use crate::id::{DomainId, GrantRef};

/// Bytes of an entry.
#[doc(alias = "grant_entry_v1")]
pub const ENTRY_SIZE: usize = 8;
/// Entries in a frame of the table.
pub const ENTRIES_PER_FRAME: u32 = 512;
/// Frames of a new table.
pub const INITIAL_FRAMES: u32 = 1;
/// Frames of a table at most, unless configured otherwise.
pub const DEFAULT_MAX_FRAMES: u32 = 64;

/// Mask of the kind in the flags.
#[doc(alias = "GTF_type_mask")]
pub const KIND_MASK: u32 = 3;
/// Kind: nothing is granted.
#[doc(alias = "GTF_invalid")]
pub const INVALID: u32 = 0;
/// Kind: the domain may map or copy.
#[doc(alias = "GTF_permit_access")]
pub const PERMIT_ACCESS: u32 = 1;
/// Kind: the domain may give a page.
#[doc(alias = "GTF_accept_transfer")]
pub const ACCEPT_TRANSFER: u32 = 2;
/// Kind: names another grant (version 2 only).
#[doc(alias = "GTF_transitive")]
pub const TRANSITIVE: u32 = 3;
/// Flag: only for reading.
#[doc(alias = "GTF_readonly")]
pub const READONLY: u32 = 1 << 2;
/// Flag, set by the hypervisor: the page is in use.
#[doc(alias = "GTF_reading")]
pub const READING: u32 = 1 << 3;
/// Flag, set by the hypervisor: the page is in use for writing.
#[doc(alias = "GTF_writing")]
pub const WRITING: u32 = 1 << 4;
/// Flag: part of a page, copy only (version 2 only).
#[doc(alias = "GTF_sub_page")]
pub const SUB_PAGE: u32 = 1 << 8;
/// Where the domain is in the access word.
pub const DOMAIN_SHIFT: u32 = 16;

/// What a grant allows, or what a mapping wants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Access {
    /// Reading alone.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// Where an entry is: frame of the table, and offset in it of the access word. The frame number is four bytes further.
pub const fn place(reference: GrantRef) -> (u32, usize) {
    (reference.0 / ENTRIES_PER_FRAME, (reference.0 % ENTRIES_PER_FRAME) as usize * ENTRY_SIZE)
}

/// The access word that grants a page to a domain.
pub const fn permit(to: DomainId, access: Access) -> u32 {
    let flags = match access {
        Access::ReadOnly => PERMIT_ACCESS | READONLY,
        Access::ReadWrite => PERMIT_ACCESS,
    };
    (to.0 as u32) << DOMAIN_SHIFT | flags
}

/// Who the access word names.
pub const fn grantee(word: u32) -> DomainId {
    DomainId((word >> DOMAIN_SHIFT) as u16)
}

/// True while the hypervisor holds the page for somebody.
pub const fn in_use(word: u32) -> bool {
    word & (READING | WRITING) != 0
}

/// The word with which the granter takes the page back, or `None` while it is in use.
#[doc(alias = "gnttab_end_foreign_access_ref")]
pub const fn revoke(word: u32) -> Option<u32> {
    if in_use(word) { None } else { Some(0) }
}

/// The word while `by` uses the page, or why it may not.
pub const fn pin(word: u32, by: DomainId, access: Access) -> Result<u32, GrantStatus> {
    let wanted = (by.0 as u32) << DOMAIN_SHIFT | PERMIT_ACCESS;
    if word & (u32::MAX << DOMAIN_SHIFT | SUB_PAGE | KIND_MASK) != wanted {
        return Err(GrantStatus::BadGntref);
    }
    match access {
        Access::ReadOnly => Ok(word | READING),
        Access::ReadWrite if word & READONLY != 0 => Err(GrantStatus::PermissionDenied),
        Access::ReadWrite => Ok(word | READING | WRITING),
    }
}

/// The word after a use has ended: `writers` and `users` are the pins that are left, for writing and of any kind.
pub const fn unpin(word: u32, writers: u32, users: u32) -> u32 {
    let word = if writers == 0 { word & !WRITING } else { word };
    if users == 0 { word & !(READING | WRITING) } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_an_entry() {
        let word = permit(DomainId(3), Access::ReadWrite);
        assert_eq!(word, 0x0003_0001);
        assert_eq!(pin(word, DomainId(4), Access::ReadOnly), Err(GrantStatus::BadGntref));
        let read = pin(word, DomainId(3), Access::ReadOnly).unwrap();
        assert_eq!(read, 0x0003_0009);
        let both = pin(read, DomainId(3), Access::ReadWrite).unwrap();
        assert_eq!(both, 0x0003_0019);
        assert_eq!(revoke(both), None);
        let read = unpin(both, 0, 1);
        assert_eq!(read, 0x0003_0009);
        assert_eq!(revoke(read), None);
        let word = unpin(read, 0, 0);
        assert_eq!(revoke(word), Some(0));
        assert_eq!(pin(0, DomainId(0), Access::ReadOnly), Err(GrantStatus::BadGntref));
    }

    #[test]
    fn read_only_grants_are_not_written() {
        let word = permit(DomainId(0), Access::ReadOnly);
        assert_eq!(word, 5);
        assert_eq!(pin(word, DomainId(0), Access::ReadWrite), Err(GrantStatus::PermissionDenied));
        assert!(pin(word, DomainId(0), Access::ReadOnly).is_ok());
    }

    #[test]
    fn places() {
        assert_eq!(place(GrantRef(0)), (0, 0));
        assert_eq!(place(GrantRef(513)), (1, 8));
        assert_eq!(place(GrantRef(u32::MAX)), (0x7f_ffff, 511 * 8));
    }
}
