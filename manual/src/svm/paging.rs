//! Entries of nested page tables: those of a processor's own tables, all of them user pages (APM 2, 15.25.5).

use crate::paging::EntryFormat;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
/// PWT and PCD: uncached with the PAT of reset, which the host keeps.
const UNCACHED: u64 = 0x18;

/// The format, with leaves of 1 GiB where the processor has them.
#[must_use]
pub const fn format(gigabyte_pages: bool) -> EntryFormat {
    EntryFormat {
        table: PRESENT | WRITE | USER,
        leaf: PRESENT | USER,
        device_leaf: PRESENT | USER | UNCACHED,
        write: WRITE,
        execute: 0,
        no_execute: 1 << 63,
        large: 1 << 7,
        present_mask: PRESENT,
        largest_leaf: if gigabyte_pages { 3 } else { 2 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_user_pages() {
        let format = format(true);
        assert_eq!(format.leaf, 5);
        assert_eq!(format.leaf & format.present_mask, 1);
        assert_eq!(format.largest_leaf, 3);
        assert_eq!(super::format(false).largest_leaf, 2);
    }
}
