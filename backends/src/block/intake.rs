//! A run of requests out of the ring: checked, and mapped in one batch. On a disk in this kernel's memory they are carried out at
//! once instead, in one batch of copies that the hypervisor makes between the disk's pages and the guest's.

use alloc::vec::Vec;

use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::blkif::{Block, Request, SECTOR_SIZE, SEGMENT_SIZE, Segment, Status};
use trunnion_protocol::errno::GrantStatus;
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::planted::{self, Bug};
use trunnion_protocol::ring::{BackRing, Claimed, Overrun};

use super::check::{self, Checked};
use super::engine::{Backend, Duty};
use super::keys::MOST_SEGMENTS;
use crate::device::{BlockDevice, BlockOperation, GuestPage};
use crate::host::{BlockHost, CopyPage, GrantCopy, GrantMapper, Wanted};
use crate::pages::RingPages;

/// Requests of one run.
const RUN: usize = 32;
/// Pages after which a run ends, so that one batch stays bounded whatever the requests ask for.
const RUN_PAGES: usize = 512;
/// Indirect requests whose segments fit a page of this kernel's.
const TABLES_PER_PAGE: usize = PAGE_SIZE / (MOST_SEGMENTS * SEGMENT_SIZE);
/// Pages that the segments of a run's indirect requests are copied to.
pub(super) const TABLE_PAGES: usize = RUN.div_ceil(TABLES_PER_PAGE);

/// A checked request; its pages are the next so many results.
pub(super) struct Draft {
    pub(super) duty: Duty,
    pub(super) operation: BlockOperation,
    pub(super) sector: u64,
    /// How many.
    pub(super) pages: usize,
    pub(super) bytes: u64,
    /// How many copies, on a disk in memory.
    copies: usize,
}

/// A request whose segments lie in a page that is to be copied first.
struct Fetch {
    duty: Duty,
    operation: BlockOperation,
    sector: u64,
    count: usize,
    page: GrantRef,
}

/// The working memory of a run, kept from run to run.
pub(super) struct Intake<P> {
    /// In the order of their results.
    pub(super) drafts: Vec<Draft>,
    /// What became of each wanted page.
    pub(super) results: Vec<Result<P, GrantStatus>>,
    /// Offset and length in each wanted page.
    pub(super) places: Vec<(usize, usize)>,
    wanted: Vec<Wanted>,
    /// The wanted pages' grants, where they may stay mapped.
    pub(super) references: Vec<GrantRef>,
    /// Those of them that are not mapped yet, and where their results belong.
    missing: (Vec<Wanted>, Vec<usize>),
    mapped: Vec<Result<P, GrantStatus>>,
    fetches: Vec<Fetch>,
    copies: Vec<GrantCopy>,
    copied: Vec<Result<(), GrantStatus>>,
}

impl<P> Default for Intake<P> {
    fn default() -> Self {
        Self {
            drafts: Vec::new(),
            results: Vec::new(),
            places: Vec::new(),
            wanted: Vec::new(),
            references: Vec::new(),
            missing: (Vec::new(), Vec::new()),
            mapped: Vec::new(),
            fetches: Vec::new(),
            copies: Vec::new(),
            copied: Vec::new(),
        }
    }
}

impl<P: GuestPage> Intake<P> {
    /// Takes up to `room` requests. Those that fail are answered, the others become drafts with their mapped pages.
    pub(super) fn take<H, D>(
        &mut self,
        backend: &mut Backend<H, D>,
        ring: &mut BackRing<Block, RingPages<P>>,
        room: usize,
    ) -> Result<(), Overrun>
    where
        H: BlockHost + GrantMapper<Page = P>,
        D: BlockDevice<P>,
    {
        let mut taken = Ok(());
        let mut pages = 0;
        for _ in 0..room.min(RUN) {
            if pages >= RUN_PAGES {
                break;
            }
            match ring.take() {
                Ok(Some(claimed)) => pages += self.claim(backend, claimed),
                Ok(None) => break,
                Err(overrun) => {
                    taken = Err(overrun);
                    break;
                }
            }
        }
        if !self.fetches.is_empty() {
            self.fetch(backend);
        }
        if self.wanted.is_empty() {
            return taken;
        }
        match backend.memory {
            Some(first) => self.copy(backend, first),
            None => self.map(backend),
        }
        self.wanted.clear();
        taken
    }

    /// Maps the wanted pages, but for those that are kept mapped.
    fn map<H, D>(&mut self, backend: &mut Backend<H, D>)
    where
        H: BlockHost + GrantMapper<Page = P>,
        D: BlockDevice<P>,
    {
        let Some(kept) = &mut backend.kept else {
            backend.host.map(backend.config.domain, &self.wanted, &mut self.results);
            return;
        };
        let (missing, places) = &mut self.missing;
        for &Wanted { reference, .. } in &self.wanted {
            self.references.push(reference);
            let page = kept.take(reference).ok_or(GrantStatus::GeneralError);
            if page.is_err() {
                places.push(self.results.len());
                // What stays mapped serves reads and writes.
                missing.push(Wanted { reference, access: Access::ReadWrite });
            }
            self.results.push(page);
        }
        if missing.is_empty() {
            return;
        }
        backend.host.map(backend.config.domain, missing, &mut self.mapped);
        missing.clear();
        for (place, result) in places.drain(..).zip(self.mapped.drain(..)) {
            if let Some(to) = self.results.get_mut(place) {
                *to = result;
            }
        }
    }

    /// Checks one request; returns how many pages it is about.
    fn claim<H, D>(&mut self, backend: &mut Backend<H, D>, claimed: Claimed<Request>) -> usize
    where
        H: BlockHost + GrantMapper<Page = P>,
        D: BlockDevice<P>,
    {
        let Claimed { request, owed } = claimed;
        let duty = Duty {
            owed: Some(owed),
            id: request.id(),
            operation: request.operation(),
            references: Vec::new(),
        };
        match check::request(&request, &backend.shape) {
            Err(status) => {
                backend.answers.push((duty, status));
                0
            }
            Ok(Checked::Order { operation: BlockOperation::Flush, .. }) if planted::is(Bug::DroppedFlush) => {
                backend.answers.push((duty, Status::Okay));
                0
            }
            Ok(Checked::Order { operation, sector }) => {
                self.drafts.push(Draft { duty, operation, sector, pages: 0, bytes: 0, copies: 0 });
                0
            }
            Ok(Checked::Move { operation, sector, segments }) => {
                self.draft(backend, duty, operation, sector, segments.iter().copied());
                segments.len()
            }
            Ok(Checked::Fetch { operation, sector, count, page }) => {
                self.fetches.push(Fetch { duty, operation, sector, count, page });
                count
            }
        }
    }

    /// Checks segments and notes their pages.
    fn draft<H, D>(
        &mut self,
        backend: &mut Backend<H, D>,
        duty: Duty,
        operation: BlockOperation,
        sector: u64,
        segments: impl Iterator<Item = Segment>,
    ) where
        H: BlockHost + GrantMapper<Page = P>,
        D: BlockDevice<P>,
    {
        let start = self.wanted.len();
        let mut bytes = 0;
        let mut checked = Ok(());
        for segment in segments {
            match check::place(segment) {
                Ok((offset, length)) => {
                    bytes += length as u64;
                    self.places.push((offset, length));
                    self.wanted.push(Wanted { reference: segment.reference, access: access(operation) });
                }
                Err(status) => checked = Err(status),
            }
        }
        match checked.and_then(|()| check::range(sector, bytes, &backend.shape)) {
            Ok(()) => {
                let pages = self.wanted.len() - start;
                self.drafts.push(Draft { duty, operation, sector, pages, bytes, copies: 0 });
            }
            Err(status) => {
                self.wanted.truncate(start);
                self.places.truncate(start);
                backend.answers.push((duty, status));
            }
        }
    }

    /// Has the segments of indirect requests copied to pages of this kernel's, and drafts the requests.
    fn fetch<H, D>(&mut self, backend: &mut Backend<H, D>)
    where
        H: BlockHost + GrantMapper<Page = P>,
        D: BlockDevice<P>,
    {
        let domain = backend.config.domain;
        let tables = backend.tables.take();
        let first = tables.as_ref().map_or(Gfn(0), |(_, first)| *first);
        self.copies.extend(self.fetches.iter().enumerate().map(|(index, fetch)| {
            let (page, offset) = table(index);
            GrantCopy {
                from: CopyPage::Granted(domain, fetch.page),
                from_offset: 0,
                to: CopyPage::Local(Gfn(first.0 + page as u64)),
                to_offset: offset as u16,
                length: (fetch.count * SEGMENT_SIZE) as u16,
            }
        }));
        backend.host.copy(&self.copies, &mut self.copied);
        self.copies.clear();
        let mut copied = core::mem::take(&mut self.copied);
        let mut fetches = core::mem::take(&mut self.fetches);
        for ((index, fetch), copied) in fetches.drain(..).enumerate().zip(copied.drain(..)) {
            let (page, offset) = table(index);
            let pages = tables.as_ref().map_or(&[][..], |(pages, _)| pages.as_ref());
            let Some(page) = pages.get(page).filter(|_| copied.is_ok()) else {
                backend.answers.push((fetch.duty, Status::Error));
                continue;
            };
            let segments = (0..fetch.count).map(|index| {
                // A place outside the page would be a segment of nothing, which is refused.
                check::segment(page.load(offset + index * SEGMENT_SIZE).unwrap_or([u8::MAX; SEGMENT_SIZE]))
            });
            self.draft(backend, fetch.duty, fetch.operation, fetch.sector, segments);
        }
        backend.tables = tables;
        self.copied = copied;
        self.fetches = fetches;
    }

    /// Carries out what is drafted of reads and writes, on a disk that lies in this kernel's memory from `first` on. What is left
    /// are drafts that move nothing.
    fn copy<H, D>(&mut self, backend: &mut Backend<H, D>, first: Gfn)
    where
        H: BlockHost + GrantMapper<Page = P>,
        D: BlockDevice<P>,
    {
        let mut pieces = self.wanted.iter().zip(self.places.drain(..));
        for draft in &mut self.drafts {
            let before = self.copies.len();
            // The range was checked to be on the disk.
            let mut disk = Span { first, at: draft.sector.wrapping_mul(SECTOR_SIZE as u64) };
            let is_read = draft.operation == BlockOperation::Read;
            for (wanted, place) in pieces.by_ref().take(draft.pages) {
                let granted = CopyPage::Granted(backend.config.domain, wanted.reference);
                disk.add(&mut self.copies, granted, place, is_read);
            }
            draft.copies = self.copies.len() - before;
        }
        backend.host.copy(&self.copies, &mut self.copied);
        self.copies.clear();
        let mut copied = self.copied.drain(..);
        for draft in self.drafts.extract_if(.., |draft| draft.pages != 0) {
            let mut is_done = true;
            for _ in 0..draft.copies {
                is_done &= copied.next().is_some_and(|result| result.is_ok());
            }
            backend.moved(draft, is_done);
        }
    }
}

/// The rest of what a request is about, on a disk in this kernel's memory.
struct Span {
    /// The disk's first frame.
    first: Gfn,
    /// The byte on the disk.
    at: u64,
}

impl Span {
    /// Adds the copies for a piece of a guest's page, and goes on behind it. Where the piece crosses the end of a page of the
    /// disk, there are two.
    #[inline(never)]
    fn add(
        &mut self,
        copies: &mut Vec<GrantCopy>,
        guest: CopyPage,
        (offset, length): (usize, usize),
        is_read: bool,
    ) {
        let (mut offset, mut left) = (offset, length);
        while left > 0 {
            let inside = self.at as usize % PAGE_SIZE;
            let length = left.min(PAGE_SIZE - inside);
            let disk = CopyPage::Local(Gfn(self.first.0 + self.at / PAGE_SIZE as u64));
            let (disk_offset, guest_offset, bytes) = (inside as u16, offset as u16, length as u16);
            copies.push(if is_read {
                GrantCopy {
                    from: disk,
                    from_offset: disk_offset,
                    to: guest,
                    to_offset: guest_offset,
                    length: bytes,
                }
            } else {
                GrantCopy {
                    from: guest,
                    from_offset: guest_offset,
                    to: disk,
                    to_offset: disk_offset,
                    length: bytes,
                }
            });
            self.at += length as u64;
            (offset, left) = (offset + length, left - length);
        }
    }
}

/// Where the segments of a run's indirect request with this number are copied to: which page, and where in it.
const fn table(index: usize) -> (usize, usize) {
    (index / TABLES_PER_PAGE, index % TABLES_PER_PAGE * MOST_SEGMENTS * SEGMENT_SIZE)
}

/// What pages are mapped for.
fn access(operation: BlockOperation) -> Access {
    if planted::is(Bug::ReadOnlyMap) { Access::ReadOnly } else { check::access(operation) }
}
