//! Block devices: what goes through the ring and into the store (`io/blkif.h`).
//!
//! # Connecting
//!
//! The steps of [`crate::xenbus`], with the keys of [`keys`]. The front end makes one ring of 1 to 16 pages, grants its
//! pages to the back end, opens a port, and writes `ring-ref` (or `ring-page-order` with `ring-ref0` and so on),
//! `event-channel` and `protocol`. The back end maps the ring, joins the port and writes `sectors`, `sector-size` and
//! `info`.
//!
//! # A request
//!
//! 1. Grant the pages: read-only is enough for a write.
//! 2. Put a [`Request`]; publish; notify if asked to.
//! 3. On the response with the same identity, take the grants back, and only then touch the pages. The back end has let go
//!    of them *before* it published the response.
//!
//! Sectors are 512 bytes, whatever `sector-size` says; only alignment follows `sector-size`. Requests complete in any
//! order. A [`Request::Flush`] makes durable what was answered before it was put.

pub mod request;

pub use request::{Indirect, Request, Segment, Transfer};

use crate::layout::Width;
use crate::ring::Interface;

/// log2 of [`SECTOR_SIZE`].
pub const SECTOR_SHIFT: u32 = 9;
/// Bytes of a sector in this protocol.
pub const SECTOR_SIZE: usize = 512;
/// Sectors in a page.
pub const SECTORS_PER_PAGE: u8 = 8;
/// Segments in a plain request.
#[doc(alias = "BLKIF_MAX_SEGMENTS_PER_REQUEST")]
pub const SEGMENTS: usize = 11;
/// Pages of segments in an indirect request.
#[doc(alias = "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST")]
pub const INDIRECT_PAGES: usize = 8;
/// Segments in a page of them.
#[doc(alias = "BLKIF_SEGMENTS_PER_INDIRECT_FRAME")]
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = 512;
/// Bytes of a segment, in both widths.
pub const SEGMENT_SIZE: usize = 8;

closed! {
    /// What a request asks for.
    pub enum Operation: u8 {
        /// From the disk to the pages.
        #[doc(alias = "BLKIF_OP_READ")]
        Read = 0,
        /// From the pages to the disk.
        #[doc(alias = "BLKIF_OP_WRITE")]
        Write = 1,
        /// A write before and after which everything else is ordered.
        #[doc(alias = "BLKIF_OP_WRITE_BARRIER")]
        WriteBarrier = 2,
        /// Makes answered writes durable.
        #[doc(alias = "BLKIF_OP_FLUSH_DISKCACHE")]
        Flush = 3,
        /// Sectors that are no longer needed.
        #[doc(alias = "BLKIF_OP_DISCARD")]
        Discard = 5,
        /// A read or write whose segments lie in pages of their own.
        #[doc(alias = "BLKIF_OP_INDIRECT")]
        Indirect = 6,
    }
}

closed! {
    /// What became of a request.
    pub enum Status: i16 {
        /// Done.
        #[doc(alias = "BLKIF_RSP_OKAY")]
        Okay = 0,
        /// Failed.
        #[doc(alias = "BLKIF_RSP_ERROR")]
        Error = -1,
        /// This back end cannot do that.
        #[doc(alias = "BLKIF_RSP_EOPNOTSUPP")]
        Unsupported = -2,
    }
}

crate::layout! {
    /// The answer to a request.
    #[doc(alias = "blkif_response")]
    pub struct Response: 16, 12 {
        /// The request's identity, as it was.
        pub id: u64 = 0, 0;
        /// The request's operation; for an indirect request the operation inside.
        pub operation: u8 = 8, 8;
        /// A [`Status`].
        pub status: i16 = 10, 10;
    }
}

/// The block interface of a ring.
#[derive(Debug)]
pub enum Block {}

impl Interface for Block {
    type Request = Request;
    type Response = Response;
}

/// Value of the key [`keys::PROTOCOL`] for a width.
pub const fn protocol(width: Width) -> &'static str {
    match width {
        Width::W64 => "x86_64-abi",
        Width::W32 => "x86_32-abi",
    }
}

/// The width of a value of the key [`keys::PROTOCOL`].
pub fn width(protocol: &str) -> Option<Width> {
    [Width::W64, Width::W32].into_iter().find(|&width| self::protocol(width) == protocol)
}

/// Bits of the key [`keys::INFO`].
pub mod info {
    /// A CD drive.
    #[doc(alias = "VDISK_CDROM")]
    pub const CDROM: u32 = 1;
    /// A medium that can be taken out.
    #[doc(alias = "VDISK_REMOVABLE")]
    pub const REMOVABLE: u32 = 2;
    /// Writes fail.
    #[doc(alias = "VDISK_READONLY")]
    pub const READONLY: u32 = 4;
}

/// Names of the keys in the store. *Front* and *back* say in whose directory.
pub mod keys {
    /// Back, before state 2: most segments of an indirect request.
    pub const FEATURE_MAX_INDIRECT_SEGMENTS: &str = "feature-max-indirect-segments";
    /// Back, before state 2: log2 of the most ring pages.
    pub const MAX_RING_PAGE_ORDER: &str = "max-ring-page-order";
    /// Back, before state 2: most rings.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Both: grants stay mapped.
    pub const FEATURE_PERSISTENT: &str = "feature-persistent";
    /// Back: write barriers work.
    pub const FEATURE_BARRIER: &str = "feature-barrier";
    /// Back: flushes work. Without it and barriers, Linux issues none.
    pub const FEATURE_FLUSH_CACHE: &str = "feature-flush-cache";
    /// Back: discards work.
    pub const FEATURE_DISCARD: &str = "feature-discard";
    /// Back: bytes that a discard is rounded to.
    pub const DISCARD_GRANULARITY: &str = "discard-granularity";
    /// Back: bytes by which the granules are shifted.
    pub const DISCARD_ALIGNMENT: &str = "discard-alignment";
    /// Back: discards can erase.
    pub const DISCARD_SECURE: &str = "discard-secure";
    /// Back, by state 4: sectors of 512 bytes.
    pub const SECTORS: &str = "sectors";
    /// Back, by state 4: bytes that requests are aligned to.
    pub const SECTOR_SIZE: &str = "sector-size";
    /// Back, by state 4: bytes that the medium is written in.
    pub const PHYSICAL_SECTOR_SIZE: &str = "physical-sector-size";
    /// Back, by state 4: bits of [`info`](super::info).
    pub const INFO: &str = "info";
    /// Front: the ring's grant; with a number behind it when there are several pages.
    pub const RING_REF: &str = "ring-ref";
    /// Front: log2 of the ring's pages.
    pub const RING_PAGE_ORDER: &str = "ring-page-order";
    /// Front: the port.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front: the width, see [`width`](super::width).
    pub const PROTOCOL: &str = "protocol";
    /// Front: rings, when more than one.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
    /// Front: the device's number.
    pub const VIRTUAL_DEVICE: &str = "virtual-device";
    /// Both: `disk` or `cdrom`.
    pub const DEVICE_TYPE: &str = "device-type";
    /// Back, by the toolstack: 0 when the device is to go away.
    pub const ONLINE: &str = "online";
    /// Back, by the toolstack: `w` or `r`.
    pub const MODE: &str = "mode";
    /// Both: the state.
    pub const STATE: &str = "state";
}

/// The device number of a name such as `xvda`, `xvdb3` or `hda`; partitions count from 1. `None` for other names.
pub fn device_number(name: &str) -> Option<u32> {
    let (kind, rest) = name.split_at_checked(if name.starts_with("xvd") { 3 } else { 2 })?;
    let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
    let (letters, digits) = rest.split_at_checked(letters)?;
    let disk = match letters.as_bytes() {
        [one] => u32::from(one - b'a'),
        [high, low] => (u32::from(high - b'a') + 1) * 26 + u32::from(low - b'a'),
        _ => return None,
    };
    let partition = match digits {
        "" => 0,
        digits if digits.starts_with('0') || digits.len() > 3 => return None,
        digits => digits.parse::<u32>().ok()?,
    };
    match (kind, disk, partition) {
        ("xvd", 0..16, 0..16) => Some(202 << 8 | disk << 4 | partition),
        ("xvd", _, 0..256) => Some(1 << 28 | disk << 8 | partition),
        ("hd", 0..2, 0..64) => Some(3 << 8 | disk << 6 | partition),
        ("hd", 2..4, 0..64) => Some(22 << 8 | (disk - 2) << 6 | partition),
        ("sd", 0..16, 0..16) => Some(8 << 8 | disk << 4 | partition),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        for (name, number) in [
            ("xvda", 51712),
            ("xvdb", 51728),
            ("xvda1", 51713),
            ("xvdq", 1 << 28 | 16 << 8),
            ("xvdaa", 1 << 28 | 26 << 8),
            ("hda", 768),
            ("hdb", 832),
            ("hdc", 5632),
            ("hdd", 5696),
            ("sdb2", 8 << 8 | 1 << 4 | 2),
        ] {
            assert_eq!(device_number(name), Some(number), "{name}");
        }
        for name in ["", "x", "xvd", "xvd1", "xvda01", "xvda300", "hde", "vda", "xvdaaa", "é"] {
            assert_eq!(device_number(name), None, "{name}");
        }
    }

    #[test]
    fn rings_have_the_slots_of_the_header() {
        assert_eq!((Block::stride(Width::W64), Block::stride(Width::W32)), (112, 108));
        for (pages, slots) in [(0, 0), (1, 32), (2, 64), (4, 128), (8, 256), (16, 512)] {
            assert_eq!(Block::slots(Width::W64, pages), slots);
            assert_eq!(Block::slots(Width::W32, pages), slots);
        }
    }

    #[test]
    fn widths_by_name() {
        assert_eq!(width("x86_64-abi"), Some(Width::W64));
        assert_eq!(width("x86_32-abi"), Some(Width::W32));
        assert_eq!(width("arm-abi"), None);
    }
}
