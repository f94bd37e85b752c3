//! Event channels, two-level form: where a port's bits are, and what to do with them.
//!
//! A port has a bit in the pending bitmap and one in the mask bitmap of the shared info page, and a bit of its word in the
//! selector of the vCPU that receives it. Both sides change them by atomic operations.
//!
//! # The sender's order (the hypervisor)
//!
//! 1. Set the pending bit; if it was set, stop.
//! 2. If the mask bit is clear, set the selector bit; if it was set, stop.
//! 3. Set the upcall-pending flag of the vCPU; if it was clear, deliver the upcall.
//!
//! Waiters that poll the port wake whatever the mask says.
//!
//! # The receiver's order (the guest)
//!
//! 1. Clear the upcall-pending flag.
//! 2. Exchange the selector with 0.
//! 3. For each of its bits, look at `pending & !mask` of that word; clear each pending bit before its handler runs.
//!
//! Selectors and bitmap words are as wide as the [`Width`]; here they are handled in 32-bit pieces, which is the same
//! memory.

use crate::id::Port;
use crate::layout::Width;
use crate::shared_info;
use crate::shared_info::PENDING;

/// Ports that the two-level form has: 4096 or 1024.
#[doc(alias = "EVTCHN_2L_NR_CHANNELS")]
pub const fn ports(width: Width) -> u32 {
    (width.word() * width.word() * 64) as u32
}

/// Where a port's bits are. Offsets are of 32-bit words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset in the shared info page of the pending word.
    pub pending: usize,
    /// Offset in the shared info page of the mask word.
    pub mask: usize,
    /// The port's bit in both.
    pub bit: u32,
    /// Offset in the vCPU's info structure of the selector word.
    pub selector: usize,
    /// The bit in the selector.
    pub selector_bit: u32,
}

/// Where a port's bits are; `None` for port 0 and for one that the width does not have.
pub const fn place(port: Port, width: Width) -> Option<Place> {
    if port.is_none() || port.0 >= ports(width) {
        return None;
    }
    let word = (port.0 / 32) as usize * 4;
    let select = port.0 / (width.word() as u32 * 8);
    Some(Place {
        pending: PENDING + word,
        mask: shared_info::mask(width) + word,
        bit: 1 << (port.0 % 32),
        selector: shared_info::vcpu::pending_sel(width) + (select / 32) as usize * 4,
        selector_bit: 1 << (select % 32),
    })
}

/// The ports of one selector bit, as offsets of 32-bit words: the first word's index in the bitmaps, and how many there
/// are (two in the 64-bit form).
pub const fn selected_words(selector_bit: u32, width: Width) -> (usize, usize) {
    let words = width.word() / 4;
    (selector_bit as usize * words, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!((ports(Width::W64), ports(Width::W32)), (4096, 1024));
        assert_eq!(place(Port(0), Width::W64), None);
        assert_eq!(place(Port(4096), Width::W64), None);
        assert_eq!(place(Port(1024), Width::W32), None);
        let last = place(Port(4095), Width::W64).unwrap();
        assert_eq!((last.pending, last.mask, last.bit), (2048 + 508, 2560 + 508, 1 << 31));
        assert_eq!((last.selector, last.selector_bit), (12, 1 << 31));
        let port = place(Port(33), Width::W32).unwrap();
        assert_eq!((port.pending, port.mask, port.bit), (2052, 2180, 2));
        assert_eq!((port.selector, port.selector_bit), (4, 2));
        assert_eq!(selected_words(3, Width::W64), (6, 2));
    }
}
