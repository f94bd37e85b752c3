//! Entries of extended page tables (SDM 3, 28.3.2).

use crate::paging::EntryFormat;

const READ: u64 = 1;
const WRITE: u64 = 2;
const EXECUTE: u64 = 4;
/// Memory type write-back, in bits 3 to 5.
const WRITE_BACK: u64 = 6 << 3;

/// The format, with the leaf sizes that the processor has.
#[must_use]
pub const fn format(gigabyte_pages: bool, two_megabyte_pages: bool) -> EntryFormat {
    EntryFormat {
        table: READ | WRITE | EXECUTE,
        leaf: READ | WRITE_BACK,
        device_leaf: READ,
        write: WRITE,
        execute: EXECUTE,
        no_execute: 0,
        large: 1 << 7,
        present_mask: READ | WRITE | EXECUTE,
        largest_leaf: if gigabyte_pages {
            3
        } else if two_megabyte_pages {
            2
        } else {
            1
        },
    }
}

/// The pointer to a root table: write-back, four levels, accessed and dirty flags if there are any.
#[must_use]
pub const fn pointer(root: u64, accessed_dirty: bool) -> u64 {
    root | 6 | 3 << 3 | if accessed_dirty { 1 << 6 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_readable_write_back_memory() {
        let format = format(false, true);
        assert_eq!(format.leaf, 0x31);
        assert_eq!(format.largest_leaf, 2);
        assert_eq!(pointer(0x5000, true), 0x505e);
    }
}
