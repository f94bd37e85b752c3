//! The two 8259s: moved out of the way of the exceptions, and masked. The I/O APIC and MSIs replace them.

use crate::machine::prelude::*;

/// Masks both. The vectors matter for spurious interrupts alone.
pub fn disable() {
    for (command, data, vector, cascade) in [(0x20, 0x21, 0x20, 4), (0xa0, 0xa1, 0x28, 2)] {
        out8(command, 0x11);
        out8(data, vector);
        out8(data, cascade);
        out8(data, 1);
        out8(data, 0xff);
    }
}
