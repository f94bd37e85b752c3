//! The breakpoint registers. The host sets no breakpoint, and in the host DR7 enables none, so they are the guest's.

use x86_64::registers::debug::{DebugAddressRegister, Dr0, Dr1, Dr2, Dr3};

/// DR0 to DR3.
pub fn read() -> [u64; 4] {
    [Dr0::read(), Dr1::read(), Dr2::read(), Dr3::read()]
}

/// Sets them.
pub fn write([dr0, dr1, dr2, dr3]: [u64; 4]) {
    Dr0::write(dr0);
    Dr1::write(dr1);
    Dr2::write(dr2);
    Dr3::write(dr3);
}
