//! Requests: four shapes that share a slot, told apart by the first byte.

use super::{INDIRECT_PAGES, Operation, SEGMENT_SIZE, SEGMENTS};
use crate::id::GrantRef;
use crate::layout::{Layout, Width};

crate::layout! {
    /// Sectors of one granted page, first to last inclusive (0 to 7).
    #[doc(alias = "blkif_request_segment")]
    pub struct Segment: 8, 8 {
        /// The page.
        #[doc(alias = "gref")]
        pub reference: GrantRef = 0, 0;
        /// First sector in the page.
        #[doc(alias = "first_sect")]
        pub first: u8 = 4, 4;
        /// Last sector in the page.
        #[doc(alias = "last_sect")]
        pub last: u8 = 5, 5;
    }

    /// What all but indirect requests begin with.
    #[doc(alias = "blkif_request")]
    pub struct Head: 24, 20 {
        /// An [`Operation`].
        pub operation: u8 = 0, 0;
        /// Segments, or flags of a discard.
        pub count: u8 = 1, 1;
        /// The device.
        pub handle: u16 = 2, 2;
        /// Echoed in the response.
        pub id: u64 = 8, 4;
        /// First sector on the disk.
        pub sector: u64 = 16, 12;
    }

    /// A discard.
    #[doc(alias = "blkif_request_discard")]
    pub struct DiscardForm: 32, 28 {
        /// [`Operation::Discard`].
        pub operation: u8 = 0, 0;
        /// Bit 0: erase.
        pub flags: u8 = 1, 1;
        /// The device.
        pub handle: u16 = 2, 2;
        /// Echoed in the response.
        pub id: u64 = 8, 4;
        /// First sector.
        pub sector: u64 = 16, 12;
        /// How many sectors.
        pub sectors: u64 = 24, 20;
    }

    /// A read or write whose segments lie in pages of their own.
    #[doc(alias = "blkif_request_indirect")]
    pub struct Indirect: 64, 56 {
        /// [`Operation::Indirect`].
        pub operation: u8 = 0, 0;
        /// [`Operation::Read`] or [`Operation::Write`].
        #[doc(alias = "indirect_op")]
        pub inner: u8 = 1, 1;
        /// Segments in all pages.
        #[doc(alias = "nr_segments")]
        pub count: u16 = 2, 2;
        /// Echoed in the response.
        pub id: u64 = 8, 4;
        /// First sector on the disk.
        pub sector: u64 = 16, 12;
        /// The device.
        pub handle: u16 = 24, 20;
        /// Pages of [`Segment`]s, each full but the last.
        #[doc(alias = "indirect_grefs")]
        pub pages: [GrantRef; INDIRECT_PAGES] = 28, 24;
    }
}

/// A read, a write or a barrier with its segments in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// [`Operation::Read`], [`Operation::Write`] or [`Operation::WriteBarrier`].
    pub operation: Operation,
    /// The device.
    pub handle: u16,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector: u64,
    /// Segments that count; a claim until it is at most [`SEGMENTS`].
    pub count: u8,
    /// The segments.
    pub segments: [Segment; SEGMENTS],
}

impl Transfer {
    /// The segments that count; `None` if the count is more than there can be.
    pub fn segments(&self) -> Option<&[Segment]> {
        self.segments.get(..usize::from(self.count))
    }
}

/// A request of any shape. Nothing in it is checked but the operation's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Moves data.
    Transfer(Transfer),
    /// Makes answered writes durable. Linux may put a segment count of 0 only.
    Flush {
        /// The device.
        handle: u16,
        /// Echoed in the response.
        id: u64,
    },
    /// Sectors that are no longer needed.
    Discard {
        /// The device.
        handle: u16,
        /// Echoed in the response.
        id: u64,
        /// First sector.
        sector: u64,
        /// How many sectors.
        sectors: u64,
        /// They shall be erased.
        secure: bool,
    },
    /// Moves data by segments in pages of their own.
    Indirect(Indirect),
    /// An operation that does not exist, to be answered with
    /// [`Status::Unsupported`](super::Status::Unsupported).
    Unknown {
        /// The number.
        operation: u8,
        /// Echoed in the response.
        id: u64,
    },
}

impl Request {
    /// The identity that the response repeats.
    pub const fn id(&self) -> u64 {
        match self {
            Self::Transfer(Transfer { id, .. })
            | Self::Flush { id, .. }
            | Self::Discard { id, .. }
            | Self::Indirect(Indirect { id, .. })
            | Self::Unknown { id, .. } => *id,
        }
    }

    /// The operation that the response repeats.
    pub const fn operation(&self) -> u8 {
        match self {
            Self::Transfer(transfer) => transfer.operation.number(),
            Self::Flush { .. } => Operation::Flush.number(),
            Self::Discard { .. } => Operation::Discard.number(),
            Self::Indirect(indirect) => indirect.inner,
            Self::Unknown { operation, .. } => *operation,
        }
    }
}

impl Layout for Request {
    const SIZE64: usize = 112;
    const SIZE32: usize = 108;
    type Bytes = [u8; 112];
    const ZEROED: Self::Bytes = [0; 112];

    fn decode(width: Width, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::size(width))?;
        let head = Head::decode(width, bytes)?;
        let (handle, id) = (head.handle, head.id);
        Some(match Operation::from_number(head.operation) {
            Some(operation @ (Operation::Read | Operation::Write | Operation::WriteBarrier)) => {
                let mut segments = [Segment::default(); SEGMENTS];
                let raw = bytes.get(Head::size(width)..)?.chunks_exact(SEGMENT_SIZE);
                // Only what counts is decoded: most requests have a few segments.
                for (segment, raw) in segments.iter_mut().zip(raw).take(usize::from(head.count)) {
                    *segment = Segment::decode(width, raw)?;
                }
                Self::Transfer(Transfer {
                    operation,
                    handle,
                    id,
                    sector: head.sector,
                    count: head.count,
                    segments,
                })
            }
            Some(Operation::Flush) => Self::Flush { handle, id },
            Some(Operation::Discard) => {
                let discard = DiscardForm::decode(width, bytes)?;
                Self::Discard {
                    handle,
                    id,
                    sector: discard.sector,
                    sectors: discard.sectors,
                    secure: discard.flags & 1 != 0,
                }
            }
            Some(Operation::Indirect) => Self::Indirect(Indirect::decode(width, bytes)?),
            None => Self::Unknown { operation: head.operation, id },
        })
    }

    fn encode(&self, width: Width, bytes: &mut [u8]) -> Option<()> {
        let bytes = bytes.get_mut(..Self::size(width))?;
        match *self {
            Self::Transfer(Transfer { operation, handle, id, sector, count, segments }) => {
                Head { operation: operation.number(), count, handle, id, sector }.encode(width, bytes)?;
                let raw = bytes.get_mut(Head::size(width)..)?.chunks_exact_mut(SEGMENT_SIZE);
                for (segment, raw) in segments.iter().zip(raw).take(usize::from(count)) {
                    segment.encode(width, raw)?;
                }
                Some(())
            }
            Self::Flush { handle, id } => {
                Head { operation: Operation::Flush.number(), handle, id, ..Head::default() }
                    .encode(width, bytes)
            }
            Self::Discard { handle, id, sector, sectors, secure } => DiscardForm {
                operation: Operation::Discard.number(),
                flags: u8::from(secure),
                handle,
                id,
                sector,
                sectors,
            }
            .encode(width, bytes),
            Self::Indirect(indirect) => indirect.encode(width, bytes),
            Self::Unknown { operation, id } => Head { operation, id, ..Head::default() }.encode(width, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_round_trips_in_both_widths() {
        let mut segments = [Segment::default(); SEGMENTS];
        for (index, segment) in segments.iter_mut().enumerate() {
            *segment = Segment { reference: GrantRef(100 + index as u32), first: 1, last: 6 };
        }
        let sector = 0x1234_5678_9abc;
        for request in [
            Request::Transfer(Transfer {
                operation: Operation::Write,
                handle: 51712,
                id: u64::MAX,
                sector,
                count: 11,
                segments,
            }),
            Request::Flush { handle: 3, id: 9 },
            Request::Discard { handle: 3, id: 9, sector, sectors: 77, secure: true },
            Request::Indirect(Indirect {
                operation: 6,
                inner: 1,
                count: 300,
                id: 5,
                sector,
                handle: 51712,
                pages: [GrantRef(8); 8],
            }),
            Request::Unknown { operation: 99, id: 4 },
        ] {
            for width in [Width::W64, Width::W32] {
                let mut bytes = Request::ZEROED;
                request.encode(width, &mut bytes).unwrap();
                assert_eq!(Request::decode(width, &bytes), Some(request));
            }
        }
    }

    #[test]
    fn too_many_segments_are_a_claim_that_fails() {
        let mut bytes = Request::ZEROED;
        bytes[1] = 12;
        let Some(Request::Transfer(transfer)) = Request::decode(Width::W64, &bytes) else { panic!() };
        assert_eq!(transfer.segments(), None);
    }
}
