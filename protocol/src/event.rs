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

use core::sync::atomic::Ordering;

use crate::id::Port;
use crate::layout::Width;
use crate::shared::SharedPage;
use crate::shared_info::vcpu::{UPCALL, UPCALL_PENDING, UPCALL_PENDING_BYTE, pending_sel};
use crate::shared_info::{self, PENDING};

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

/// What became of a port that was made pending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Posted {
    /// It was pending already: whoever made it so has done the rest.
    Before,
    /// It is pending now, and the receiver needs no upcall: it has masked the port, or has one coming.
    Quietly,
    /// It is pending now, and the vCPU is to get its upcall.
    Upcall,
}

/// The sender's three steps. `info` gives the page of the receiving vCPU's info structure and its offset there; it is asked
/// for only when it is needed.
#[inline]
pub fn post<'p>(
    shared: &SharedPage,
    place: &Place,
    info: impl FnOnce() -> Option<(&'p SharedPage, usize)>,
) -> Posted {
    let (Some(pending), Some(mask)) = (shared.word_at(place.pending), shared.word_at(place.mask)) else {
        return Posted::Before;
    };
    if pending.fetch_or(place.bit, Ordering::SeqCst) & place.bit != 0 {
        return Posted::Before;
    }
    if mask.load(Ordering::SeqCst) & place.bit == 0
        && let Some((page, offset)) = info()
        && select(page, offset, place)
    {
        return Posted::Upcall;
    }
    Posted::Quietly
}

/// The sender's second and third step: true if the vCPU is to get its upcall. Also for who unmasks a port that is pending.
#[inline]
pub fn select(page: &SharedPage, offset: usize, place: &Place) -> bool {
    let words = (page.word_at(offset + place.selector), page.word_at(offset + UPCALL));
    let (Some(selector), Some(upcall)) = words else { return false };
    selector.fetch_or(place.selector_bit, Ordering::SeqCst) & place.selector_bit == 0
        && upcall.fetch_or(UPCALL_PENDING, Ordering::SeqCst) & UPCALL_PENDING_BYTE == 0
}

/// Takes a port's mask away for its receiver (`EVTCHNOP_unmask`): true if the vCPU is to get its upcall, because the port became
/// pending while it was masked. `info` is as for [`post`].
pub fn unmask<'p>(
    shared: &SharedPage,
    place: &Place,
    info: impl FnOnce() -> Option<(&'p SharedPage, usize)>,
) -> bool {
    let (Some(pending), Some(mask)) = (shared.word_at(place.pending), shared.word_at(place.mask)) else {
        return false;
    };
    // The second is a read and write too: it cannot miss a sender who has seen the mask before the first.
    mask.fetch_and(!place.bit, Ordering::SeqCst) & place.bit != 0
        && pending.fetch_or(0, Ordering::SeqCst) & place.bit != 0
        && info().is_some_and(|(page, offset)| select(page, offset, place))
}

/// The receiver's three steps, for the vCPU whose info structure is at `offset` of the page `info`: `handle` gets every port
/// that is pending and not masked.
#[inline]
pub fn scan(
    shared: &SharedPage,
    info: &SharedPage,
    offset: usize,
    width: Width,
    mut handle: impl FnMut(Port),
) {
    if let Some(word) = info.word_at(offset + UPCALL) {
        word.fetch_and(!UPCALL_PENDING_BYTE, Ordering::AcqRel);
    }
    for half in 0..width.word() / 4 {
        let Some(selector) = info.word_at(offset + pending_sel(width) + half * 4) else { continue };
        let mut selected = selector.swap(0, Ordering::AcqRel);
        while selected != 0 {
            let bit = selected.trailing_zeros() + half as u32 * 32;
            selected &= selected - 1;
            let (first, count) = selected_words(bit, width);
            for index in first..first + count {
                let place = (PENDING + index * 4, shared_info::mask(width) + index * 4);
                let (Some(pending), Some(masked)) = (shared.word_at(place.0), shared.word_at(place.1)) else {
                    continue;
                };
                let mut ready = pending.load(Ordering::Acquire) & !masked.load(Ordering::Acquire);
                // Cleared before the handlers run: an event that comes later sets the bit again.
                pending.fetch_and(!ready, Ordering::AcqRel);
                while ready != 0 {
                    handle(Port(index as u32 * 32 + ready.trailing_zeros()));
                    ready &= ready - 1;
                }
            }
        }
    }
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

    #[test]
    fn what_is_posted_is_scanned() {
        for width in [Width::W64, Width::W32] {
            let (shared, info) = (SharedPage::zeroed(), SharedPage::zeroed());
            let at = 128;
            let sent = [1, 31, 32, 63, 64, 1000, ports(width) - 1].map(Port);
            for (number, port) in sent.into_iter().enumerate() {
                let place = place(port, width).unwrap();
                let posted = post(&shared, &place, || Some((&info, at)));
                assert_eq!(posted, if number == 0 { Posted::Upcall } else { Posted::Quietly });
                assert_eq!(post(&shared, &place, || None), Posted::Before);
            }
            let masked = place(Port(7), width).unwrap();
            shared.word_at(masked.mask).unwrap().fetch_or(masked.bit, Ordering::Relaxed);
            assert_eq!(post(&shared, &masked, || Some((&info, at))), Posted::Quietly);
            let mut heard = Vec::new();
            scan(&shared, &info, at, width, |port| heard.push(port));
            assert_eq!(heard, sent);
            // Unmasking it leads to an upcall of its own.
            assert!(unmask(&shared, &masked, || Some((&info, at))));
            assert!(!unmask(&shared, &masked, || Some((&info, at))), "it is not masked");
            scan(&shared, &info, at, width, |port| assert_eq!(port, Port(7)));
            scan(&shared, &info, at, width, |_| panic!("nothing is left"));
        }
    }
}
