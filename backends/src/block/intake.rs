//! A run of requests out of the ring: checked, and mapped in one batch.

use alloc::vec::Vec;

use trunnion_protocol::blkif::{Block, Request, SEGMENT_SIZE, SEGMENTS_PER_INDIRECT_PAGE, Segment, Status};
use trunnion_protocol::errno::GrantStatus;
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::planted::{self, Bug};
use trunnion_protocol::ring::{BackRing, Claimed, Overrun};

use super::check::{self, Checked};
use super::engine::{Backend, Duty};
use crate::device::{BlockDevice, BlockOperation, GuestPage};
use crate::host::{Events, GrantMapper, Wanted};
use crate::pages::RingPages;

/// Requests of one run.
const RUN: usize = 32;
/// Pages after which a run ends, so that one batch stays bounded whatever the requests ask for.
const RUN_PAGES: usize = 512;

/// A checked request; its pages are the next so many results.
pub(super) struct Draft {
    pub(super) duty: Duty,
    pub(super) operation: BlockOperation,
    pub(super) sector: u64,
    /// How many.
    pub(super) pages: usize,
}

/// A request whose segments lie in pages that are to be mapped first.
struct Fetch {
    duty: Duty,
    operation: BlockOperation,
    sector: u64,
    count: usize,
    pages: usize,
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
    /// Pages full of segments.
    indirect: Vec<Wanted>,
    mapped: Vec<Result<P, GrantStatus>>,
    fetches: Vec<Fetch>,
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
            indirect: Vec::new(),
            mapped: Vec::new(),
            fetches: Vec::new(),
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
        H: GrantMapper<Page = P> + Events,
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
        if !self.indirect.is_empty() {
            self.fetch(backend);
        }
        if !self.wanted.is_empty() {
            self.map(backend);
            self.wanted.clear();
        }
        taken
    }

    /// Maps the wanted pages, but for those that are kept mapped.
    fn map<H, D>(&mut self, backend: &mut Backend<H, D>)
    where
        H: GrantMapper<Page = P> + Events,
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
        H: GrantMapper<Page = P> + Events,
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
                self.drafts.push(Draft { duty, operation, sector, pages: 0 });
                0
            }
            Ok(Checked::Move { operation, sector, segments }) => {
                self.draft(backend, duty, operation, sector, segments.iter().copied());
                segments.len()
            }
            Ok(Checked::Fetch { operation, sector, count, pages }) => {
                let wanted = pages.iter().map(|&reference| Wanted { reference, access: Access::ReadOnly });
                self.indirect.extend(wanted);
                self.fetches.push(Fetch { duty, operation, sector, count, pages: pages.len() });
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
        H: GrantMapper<Page = P> + Events,
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
            Ok(()) => self.drafts.push(Draft { duty, operation, sector, pages: self.wanted.len() - start }),
            Err(status) => {
                self.wanted.truncate(start);
                self.places.truncate(start);
                backend.answers.push((duty, status));
            }
        }
    }

    /// Maps the pages of segments, copies the segments out, and drafts their requests. The pages go with the next batch
    /// that is unmapped.
    fn fetch<H, D>(&mut self, backend: &mut Backend<H, D>)
    where
        H: GrantMapper<Page = P> + Events,
        D: BlockDevice<P>,
    {
        backend.host.map(backend.config.domain, &self.indirect, &mut self.mapped);
        self.indirect.clear();
        let mut mapped = core::mem::take(&mut self.mapped);
        let mut pages = mapped.drain(..);
        for fetch in core::mem::take(&mut self.fetches) {
            let mut segments = Vec::with_capacity(fetch.count);
            let mut rest = fetch.count;
            let mut failed = false;
            for _ in 0..fetch.pages {
                let Some(Ok(page)) = pages.next() else {
                    failed = true;
                    continue;
                };
                let here = rest.min(SEGMENTS_PER_INDIRECT_PAGE);
                for index in 0..here {
                    let mut bytes = [0; SEGMENT_SIZE];
                    failed |= page.shared().copy_out(index * SEGMENT_SIZE, &mut bytes).is_err();
                    segments.push(check::segment(bytes));
                }
                rest -= here;
                backend.unmap.push(page);
            }
            if failed {
                backend.answers.push((fetch.duty, Status::Error));
            } else {
                self.draft(backend, fetch.duty, fetch.operation, fetch.sector, segments.into_iter());
            }
        }
        backend.unmap.extend(pages.flatten());
        self.mapped = mapped;
    }
}

/// What pages are mapped for.
fn access(operation: BlockOperation) -> Access {
    if planted::is(Bug::ReadOnlyMap) { Access::ReadOnly } else { check::access(operation) }
}
