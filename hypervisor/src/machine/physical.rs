//! What a loader has left in memory, before the host's own page tables are in force.

use crate::loader::source::Source;

/// Memory below 4 GiB, which the entry code maps one to one.
pub struct Physical;

impl Source for Physical {
    fn bytes(&self, address: u64, length: u64) -> Option<&[u8]> {
        let end = address.checked_add(length)?;
        if address == 0 || end > 1 << 32 {
            return None;
        }
        // SAFETY: the entry code maps the first 4 GiB one to one, any byte pattern is a `u8`, and nobody writes what a
        // loader has left until the frames are handed to the core, by when these borrows have ended.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) })
    }
}
