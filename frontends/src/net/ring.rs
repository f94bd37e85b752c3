//! The two rings of a port, and the pages behind them.

use core::fmt;

use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::id::{DomainId, GrantRef};
use trunnion_protocol::layout::Width;
use trunnion_protocol::netif::{
    EXTRA_MORE, ExtraInfo, ExtraKind, Gso, Rx, RxRequest, Status, Tx, TxRequest, rx, tx,
};
use trunnion_protocol::ring::{FrontRing, Notify, Overrun};

use super::{Checksum, NetError, Offload, Received};
use crate::error::Error;
use crate::grant::{Access, GrantTable, References, share};
use crate::page::Buffer;
use crate::platform::Platform;

/// Pages of a bank: as many as one buffer's references.
const BANK: usize = crate::grant::REFERENCES;
/// Banks of each ring.
const SEND_BANKS: usize = 2;
const RECEIVE_BANKS: usize = 4;
const SEND_PAGES: usize = SEND_BANKS * BANK;
const RECEIVE_PAGES: usize = RECEIVE_BANKS * BANK;
/// Slots of one packet at most.
const SLOTS: usize = MAX_SLOTS + 2;
const MAX_SLOTS: usize = trunnion_protocol::netif::SLOTS_MIN;

/// What a back end did that no back end may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It answered a request that is not in flight.
    Unasked {
        /// The identity in the answer.
        id: u16,
    },
    /// It put a fragment where there is none.
    Fragment {
        /// First byte in the page.
        offset: u16,
        /// Bytes.
        length: i16,
    },
    /// It sent a packet of too many slots.
    Chain,
    /// It wrote an impossible index.
    Index(Overrun),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked { id } => write!(f, "the back end answers request {id}, which was not asked"),
            Self::Fragment { offset, length } => {
                write!(f, "the back end puts {length} bytes at {offset} of a page")
            }
            Self::Chain => f.write_str("the back end sends a packet of too many slots"),
            Self::Index(overrun) => write!(f, "{overrun}"),
        }
    }
}

/// Pages that the back end may reach for as long as the port lives.
struct Banks<P: Platform, const N: usize>([Option<(References, Buffer<P>)>; N]);

impl<P: Platform, const N: usize> Banks<P, N> {
    fn new(grants: &GrantTable<'_, P>, to: DomainId, access: Access) -> Result<Self, Error> {
        let mut banks = Self([const { None }; N]);
        for index in 0..N {
            match share(grants, BANK * PAGE_SIZE, to, access) {
                Ok(bank) => {
                    if let Some(place) = banks.0.get_mut(index) {
                        *place = Some(bank);
                    }
                }
                Err(error) => {
                    banks.bury(grants);
                    return Err(error);
                }
            }
        }
        Ok(banks)
    }

    fn page(&self, index: usize) -> Option<(GrantRef, &Buffer<P>, usize)> {
        let (references, buffer) = self.0.get(index / BANK)?.as_ref()?;
        let reference = references.as_slice().get(index % BANK)?;
        Some((*reference, buffer, index % BANK * PAGE_SIZE))
    }

    fn bury(&mut self, grants: &GrantTable<'_, P>) {
        for bank in &mut self.0 {
            if let Some((references, buffer)) = bank.take() {
                grants.bury(references, buffer);
            }
        }
    }
}

/// A ring with the grant of its page.
struct Shared<I: trunnion_protocol::ring::Interface, P: Platform> {
    reference: References,
    ring: Option<FrontRing<I, Buffer<P>>>,
}

impl<I: trunnion_protocol::ring::Interface, P: Platform> Shared<I, P> {
    fn new(grants: &GrantTable<'_, P>, to: DomainId) -> Result<Self, Error> {
        let (reference, page) = share(grants, PAGE_SIZE, to, Access::ReadWrite)?;
        Ok(Self { reference, ring: FrontRing::new(page, Width::W64) })
    }

    fn reference(&self) -> GrantRef {
        self.reference.as_slice().first().copied().unwrap_or_default()
    }

    fn bury(&mut self, grants: &GrantTable<'_, P>) {
        if let Some(ring) = self.ring.take() {
            grants.bury(self.reference, ring.into_pages());
        }
    }
}

/// The ring on which frames are sent.
pub(super) struct Sending<P: Platform> {
    shared: Shared<Tx, P>,
    banks: Banks<P, SEND_BANKS>,
    /// Pages that are with the back end.
    busy: [bool; SEND_PAGES],
    free: usize,
    next: usize,
    progress: u64,
}

impl<P: Platform> Sending<P> {
    pub(super) fn new(grants: &GrantTable<'_, P>, to: DomainId) -> Result<Self, Error> {
        let mut shared = Shared::new(grants, to)?;
        let banks = Banks::new(grants, to, Access::ReadOnly).inspect_err(|_| shared.bury(grants))?;
        Ok(Self { shared, banks, busy: [false; SEND_PAGES], free: SEND_PAGES, next: 0, progress: 0 })
    }

    pub(super) fn reference(&self) -> GrantRef {
        self.shared.reference()
    }

    pub(super) const fn progress(&self) -> u64 {
        self.progress
    }

    fn slots(&self) -> usize {
        self.shared.ring.as_ref().map_or(0, |ring| ring.free() as usize)
    }

    pub(super) fn has_room(&self) -> bool {
        self.free > 0 && self.slots() > 1
    }

    fn page(&mut self) -> Option<usize> {
        for step in 0..SEND_PAGES {
            let index = (self.next + step) % SEND_PAGES;
            if let Some(busy @ false) = self.busy.get_mut(index) {
                *busy = true;
                self.next = (index + 1) % SEND_PAGES;
                self.free -= 1;
                return Some(index);
            }
        }
        None
    }

    /// Puts a frame into the ring; false when there is no room.
    pub(super) fn put(&mut self, frame: &[u8], offload: Offload) -> bool {
        let pages = frame.len().div_ceil(PAGE_SIZE);
        if pages > self.free || pages + 1 > self.slots() {
            return false;
        }
        let mut flags = 0;
        if offload.checksum_blank {
            flags |= tx::CHECKSUM_BLANK | tx::DATA_VALIDATED;
        }
        if offload.large.is_some() {
            flags |= tx::EXTRA;
        }
        for (index, piece) in frame.chunks(PAGE_SIZE).enumerate() {
            let Some(page) = self.page() else { return false };
            let Some((reference, buffer, at)) = self.banks.page(page) else { return false };
            let Some(ring) = self.shared.ring.as_mut() else { return false };
            if buffer.write(at, piece).is_err() {
                return false;
            }
            let more = if index + 1 < pages { tx::MORE } else { 0 };
            // The first says how long the whole is.
            let size = if index == 0 { frame.len() } else { piece.len() };
            let request =
                TxRequest { reference, offset: 0, flags: flags | more, id: page as u16, size: size as u16 };
            let _ = ring.put(&request.into());
            if let (0, Some(gso)) = (index, offload.large) {
                let _ = ring.put(&ExtraInfo::gso(gso).into());
            }
            flags = 0;
        }
        true
    }

    /// True if the back end wants to be told.
    pub(super) fn publish(&mut self) -> bool {
        self.shared.ring.as_mut().is_some_and(|ring| ring.publish() == Notify::Peer)
    }

    /// Takes answers; true when there were some.
    pub(super) fn take_answers(&mut self) -> Result<bool, Fault> {
        let Some(ring) = self.shared.ring.as_mut() else { return Ok(false) };
        let mut news = false;
        loop {
            while let Some(answer) = ring.take().map_err(Fault::Index)? {
                news = true;
                if answer.status == Status::Null.number() {
                    continue;
                }
                match self.busy.get_mut(usize::from(answer.id)) {
                    Some(busy @ true) => {
                        *busy = false;
                        self.free += 1;
                    }
                    _ => return Err(Fault::Unasked { id: answer.id }),
                }
            }
            if !ring.arm().map_err(Fault::Index)? {
                break;
            }
        }
        self.progress = self.progress.wrapping_add(u64::from(news));
        Ok(news)
    }

    pub(super) fn bury(&mut self, grants: &GrantTable<'_, P>) {
        self.shared.bury(grants);
        self.banks.bury(grants);
    }
}

/// A fragment that has come.
#[derive(Clone, Copy)]
struct Part {
    page: u16,
    offset: u16,
    length: u16,
}

/// A packet that was taken, or lost because its place was too small.
type Taken = Result<Received, NetError>;

/// The ring on which frames are received. Buffers are answered in the order in which they were offered.
pub(super) struct Receiving<P: Platform> {
    shared: Shared<Rx, P>,
    banks: Banks<P, RECEIVE_BANKS>,
    /// Pages in the order in which they were offered: a queue whose places are used again and again.
    order: [u16; RECEIVE_PAGES],
    first: usize,
    offered: usize,
    /// The packet that is being put together.
    parts: [Part; SLOTS],
    count: usize,
    checksum: Checksum,
    large: Option<Gso>,
    extra: bool,
    more: bool,
    failed: bool,
    /// It is whole.
    whole: bool,
    progress: u64,
}

impl<P: Platform> Receiving<P> {
    pub(super) fn new(grants: &GrantTable<'_, P>, to: DomainId) -> Result<Self, Error> {
        let mut shared = Shared::new(grants, to)?;
        let banks = Banks::new(grants, to, Access::ReadWrite).inspect_err(|_| shared.bury(grants))?;
        let mut receiving = Self {
            shared,
            banks,
            order: [0; RECEIVE_PAGES],
            first: 0,
            offered: 0,
            parts: [Part { page: 0, offset: 0, length: 0 }; SLOTS],
            count: 0,
            checksum: Checksum::Unknown,
            large: None,
            extra: false,
            more: false,
            failed: false,
            whole: false,
            progress: 0,
        };
        for page in 0..RECEIVE_PAGES {
            receiving.offer(page as u16);
        }
        receiving.refill();
        Ok(receiving)
    }

    pub(super) fn reference(&self) -> GrantRef {
        self.shared.reference()
    }

    pub(super) const fn progress(&self) -> u64 {
        self.progress
    }

    pub(super) const fn has_packet(&self) -> bool {
        self.whole
    }

    fn offer(&mut self, page: u16) {
        let Some((reference, ..)) = self.banks.page(usize::from(page)) else { return };
        let Some(ring) = self.shared.ring.as_mut() else { return };
        if ring.put(&RxRequest { id: page, reference }).is_ok()
            && let Some(place) = self.order.get_mut((self.first + self.offered) % RECEIVE_PAGES)
        {
            *place = page;
            self.offered += 1;
        }
    }

    /// Lets the back end see the buffers; true if it wants to be told.
    pub(super) fn refill(&mut self) -> bool {
        self.shared.ring.as_mut().is_some_and(|ring| ring.publish() == Notify::Peer)
    }

    /// Puts the next packet together as far as it has come; true when something was taken.
    pub(super) fn take_answers(&mut self) -> Result<bool, Fault> {
        let mut news = false;
        while !self.whole {
            let Some(ring) = self.shared.ring.as_mut() else { break };
            let Some(slot) = ring.take().map_err(Fault::Index)? else {
                if ring.arm().map_err(Fault::Index)? {
                    continue;
                }
                break;
            };
            news = true;
            if self.offered == 0 {
                return Err(Fault::Chain);
            }
            let page = self.order.get(self.first).copied().unwrap_or_default();
            self.first = (self.first + 1) % RECEIVE_PAGES;
            self.offered -= 1;
            if self.extra {
                let extra = slot.extra();
                if extra.kind == ExtraKind::Gso.number() {
                    self.large = extra.as_gso();
                }
                self.extra = extra.flags & EXTRA_MORE != 0;
                self.offer(page);
            } else {
                self.part(page, &slot.response())?;
            }
            self.whole = !self.more && !self.extra;
        }
        self.progress = self.progress.wrapping_add(u64::from(news));
        Ok(news)
    }

    fn part(&mut self, page: u16, response: &trunnion_protocol::netif::RxResponse) -> Result<(), Fault> {
        if response.id != page {
            return Err(Fault::Unasked { id: response.id });
        }
        let (offset, length) = (response.offset, response.status);
        let inside = usize::from(offset) + usize::from(length.max(0) as u16) <= PAGE_SIZE;
        if !inside {
            return Err(Fault::Fragment { offset, length });
        }
        if self.count == 0 {
            let blank = response.flags & rx::CHECKSUM_BLANK != 0;
            let good = response.flags & rx::DATA_VALIDATED != 0;
            self.checksum = match (blank, good) {
                (true, _) => Checksum::Blank,
                (false, true) => Checksum::Good,
                (false, false) => Checksum::Unknown,
            };
            self.extra = response.flags & rx::EXTRA != 0;
        }
        self.failed |= length < 0;
        self.more = response.flags & rx::MORE != 0;
        *self.parts.get_mut(self.count).ok_or(Fault::Chain)? =
            Part { page, offset, length: length.max(0) as u16 };
        self.count += 1;
        Ok(())
    }

    /// Copies the packet out, if one is whole, and offers its buffers again.
    pub(super) fn take(&mut self, into: &mut [u8]) -> Result<Option<Taken>, Fault> {
        loop {
            if !self.whole {
                return Ok(None);
            }
            let mut at = 0;
            let mut fits = true;
            for index in 0..self.count {
                let Some(&Part { page, offset, length }) = self.parts.get(index) else { break };
                let place = into.get_mut(at..at + usize::from(length));
                match (place, self.banks.page(usize::from(page))) {
                    (Some(place), Some((_, buffer, start))) => {
                        fits &= buffer.read(start + usize::from(offset), place).is_ok();
                    }
                    _ => fits = false,
                }
                at += usize::from(length);
                self.offer(page);
            }
            let received = Received { length: at, checksum: self.checksum, large: self.large };
            let failed = self.failed;
            (self.count, self.failed, self.whole) = (0, false, false);
            self.large = None;
            if failed {
                // The back end says that the packet did not come; the next may have.
                self.take_answers()?;
                continue;
            }
            return Ok(Some(if fits { Ok(received) } else { Err(NetError::TooLong) }));
        }
    }

    pub(super) fn bury(&mut self, grants: &GrantTable<'_, P>) {
        self.shared.bury(grants);
        self.banks.bury(grants);
    }
}
