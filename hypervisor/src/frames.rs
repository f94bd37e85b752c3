//! One record for each frame of the host: owner, kind, references; and the allocator of free frames.
//!
//! A frame is in use from [`FrameTable::allocate`] until its last reference goes, and never a moment less: whoever can
//! reach a frame (the owner's physical map, another domain's mapping, a copy that is under way) has counted a reference.
//! References are kept as [`Held`] while code runs, and as a plain number where a table stores them
//! ([`Held::into_raw`], [`FrameTable::adopt`]).
//!
//! Free frames are kept in runs of powers of two (buddies), from 4 KiB to 1 GiB. A frame that is freed keeps a mark until
//! it is scrubbed; the allocator says which frames of a run still have it.

mod buddy;

use crate::prelude::*;
use buddy::Buddies;

/// log2 of the pages in a run: 0 is 4 KiB, 9 is 2 MiB, 18 is 1 GiB.
pub const LARGEST_ORDER: u32 = 18;
/// Domains that exist at one time, zombies included.
pub const DOMAINS: usize = 1024;

closed! {
/// What a frame is used for.
pub enum FrameKind: u32 {
    /// No RAM, or not the core's to give: the hypervisor's image, heap, firmware.
    Reserved = 0,
    /// Free.
    Free = 1,
    /// A domain's memory.
    Ram = 2,
    /// A second-level table of the owner.
    Table = 3,
    /// The owner's shared info page or a frame of its grant table: the hypervisor's, visible to the owner.
    Shared = 4,
    /// The boot bundle: readable by dom0, owned by nobody ([`DomainId::XEN`]).
    Bundle = 5,
}
}

const KIND: u32 = 0xff;
const FREE: u32 = FrameKind::Free.number();
/// The frame may hold what a former owner wrote.
const DIRTY: u32 = 1 << 8;
/// What the frame holds is what the firmware and the loader left, mostly nothing: looking first leaves memory alone that an emulator has
/// not made yet.
const UNUSED: u32 = 1 << 10;
/// A remembered walk may use the frame.
const WALKED: u32 = 1 << 9;
const OWNER_SHIFT: u32 = 16;

/// A frame's record; reserved at first.
#[derive(Default)]
struct Frame {
    /// Kind, [`DIRTY`], owner in the high half.
    state: AtomicU32,
    /// References; 0 exactly while free or reserved.
    references: AtomicU32,
    /// Free: links of the buddy lists. In use: see [`FrameTable::note`].
    a: AtomicU32,
    b: AtomicU32,
}

impl Frame {
    fn kind(&self) -> FrameKind {
        FrameKind::from_number(self.state.load(Ordering::Relaxed) & KIND).unwrap_or(FrameKind::Reserved)
    }

    fn owner(&self) -> DomainId {
        DomainId((self.state.load(Ordering::Relaxed) >> OWNER_SHIFT) as u16)
    }

    fn is_used(&self) -> bool {
        self.references.load(Ordering::Relaxed) != 0
    }
}

/// What an owner has: frames of memory, and of every kind.
#[derive(Default)]
struct Owned {
    memory: AtomicU32,
    all: AtomicU32,
}

/// All frames of the host.
pub struct FrameTable {
    frames: Box<[Frame]>,
    buddies: Lock<Buddies>,
    free: AtomicU64,
    /// Frames by owner; the last entry counts those whose owner is no guest.
    owned: Box<[Owned]>,
    scrub_at: AtomicU64,
}

/// A run of frames that was just allocated, each with one reference.
#[must_use = "the frames stay allocated"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First frame.
    pub start: Mfn,
    /// log2 of their number.
    pub order: u32,
}

impl Run {
    /// The frames.
    pub const fn frames(&self) -> FrameRange {
        FrameRange { start: self.start, end: Mfn(self.start.0 + (1 << self.order)) }
    }
}

/// A counted reference to a frame in use.
pub struct Held<'f> {
    table: &'f FrameTable,
    mfn: Mfn,
}

impl FrameTable {
    /// A table for the frames of `ram`, of which those in `free` can be allocated; the others are reserved.
    pub fn new(ram: &[FrameRange], free: &[FrameRange]) -> Result<Self, OutOfHeap> {
        let end = ram.iter().chain(free).map(|range| range.end.0).max().unwrap_or(0);
        // Links are 32 bits wide: 16 TiB, with one number to spare.
        let end = usize::try_from(end.min(u64::from(u32::MAX) - 1)).map_err(|_| OutOfHeap)?;
        let table = Self {
            frames: boxed(end, Frame::default)?,
            buddies: Lock::new(Rank::Frames, Buddies::new()),
            free: AtomicU64::new(0),
            owned: boxed(DOMAINS + 1, Owned::default)?,
            scrub_at: AtomicU64::new(0),
        };
        for range in free {
            table.release_range(*range);
        }
        Ok(table)
    }

    /// Gives reserved frames to the allocator. They are scrubbed before use.
    pub fn release_range(&self, range: FrameRange) {
        let mut buddies = self.buddies.lock();
        let end = range.end.0.min(self.frames.len() as u64);
        let mut at = range.start.0;
        while at < end {
            let order = (at.trailing_zeros()).min((end - at).ilog2()).min(LARGEST_ORDER);
            for frame in self.run(at, order) {
                frame.state.store(FREE | DIRTY | UNUSED, Ordering::Relaxed);
            }
            buddies.insert(&self.frames, at as u32, order);
            self.free.fetch_add(1 << order, Ordering::Relaxed);
            at += 1 << order;
        }
    }

    /// Claims reserved frames by number for an owner, as the bundle's are at boot. Frames that are not reserved are left
    /// alone.
    pub fn claim_range(&self, range: FrameRange, owner: DomainId, kind: FrameKind) {
        for mfn in range.start.0..range.end.0.min(self.frames.len() as u64) {
            if let Some(frame) = self.frames.get(mfn as usize)
                && frame.kind() == FrameKind::Reserved
            {
                self.begin(frame, owner, kind);
                self.count(owner, kind, 1);
            }
        }
    }

    /// Allocates 2^`order` frames, aligned to their size, each with one reference. They hold zeroes only after
    /// [`FrameTable::scrub_run`]; allocate through `Host::allocate`, which does that.
    pub fn allocate(&self, order: u32, owner: DomainId, kind: FrameKind) -> Option<Run> {
        #[cfg(any(test, feature = "sim"))]
        if crate::fake::faults::is_to_fail() {
            return None;
        }
        self.allocate_below(order, Mfn(u64::MAX), owner, kind)
    }

    /// As [`FrameTable::allocate`], from frames below `limit`. For boot.
    pub fn allocate_below(&self, order: u32, limit: Mfn, owner: DomainId, kind: FrameKind) -> Option<Run> {
        let limit = u32::try_from(limit.0).unwrap_or(u32::MAX);
        let start = u64::from(self.buddies.lock().take(&self.frames, order, limit)?);
        self.free.fetch_sub(1 << order, Ordering::Relaxed);
        for frame in self.run(start, order) {
            self.begin(frame, owner, kind);
        }
        self.count(owner, kind, 1 << order);
        Some(Run { start: Mfn(start), order })
    }

    /// Takes the dirty mark from each frame of a run that has it, and hands the frame to `scrub` first, which is told whether nobody
    /// has used it since power-on. At most `budget` frames; false when some are left.
    pub fn scrub_run(&self, run: Run, budget: u32, mut scrub: impl FnMut(Mfn, bool)) -> bool {
        let mut left = budget;
        for (index, frame) in self.run(run.start.0, run.order).iter().enumerate() {
            let state = frame.state.load(Ordering::Relaxed);
            if state & DIRTY != 0 {
                let Some(rest) = left.checked_sub(1) else { return false };
                left = rest;
                scrub(Mfn(run.start.0 + index as u64), state & UNUSED != 0);
                frame.state.fetch_and(!(DIRTY | UNUSED), Ordering::Relaxed);
            }
        }
        true
    }

    /// Scrubs up to `budget` free frames that need it, going round; returns how many it looked at were dirty. For the
    /// idle loop.
    pub fn scrub_free(&self, budget: u32, mut scrub: impl FnMut(Mfn, bool)) -> u32 {
        let total = self.frames.len() as u64;
        let mut done = 0;
        for _ in 0..budget {
            let at = self.scrub_at.fetch_add(1, Ordering::Relaxed);
            if at >= total {
                self.scrub_at.store(0, Ordering::Relaxed);
                break;
            }
            // The lock keeps the frame free while it is scrubbed; one page is a short time.
            let _buddies = self.buddies.lock();
            let Some(frame) = self.frames.get(at as usize) else { continue };
            let state = frame.state.load(Ordering::Relaxed);
            if state & (KIND | DIRTY) == FREE | DIRTY {
                scrub(Mfn(at), state & UNUSED != 0);
                frame.state.fetch_and(!(DIRTY | UNUSED), Ordering::Relaxed);
                done += 1;
            }
        }
        done
    }

    /// One more reference to a frame in use; `None` for a frame that is free, reserved or does not exist.
    #[inline]
    pub fn hold(&self, mfn: Mfn) -> Option<Held<'_>> {
        let more = |count: u32| if count == 0 { None } else { count.checked_add(1) };
        let held = self.get(mfn)?.references.fetch_update(Ordering::Acquire, Ordering::Relaxed, more);
        held.is_ok().then_some(Held { table: self, mfn })
    }

    /// Takes a stored reference back into a guard. The caller's table gives its reference up by this.
    pub fn adopt(&self, mfn: Mfn) -> Held<'_> {
        Held { table: self, mfn }
    }

    /// Gives a stored reference up; the frame is freed if it was the last.
    #[inline]
    pub fn put(&self, mfn: Mfn) {
        let Some(frame) = self.frames.get(mfn.0 as usize) else { return };
        if frame.references.fetch_sub(1, Ordering::Release) == 1 {
            core::sync::atomic::fence(Ordering::Acquire);
            self.free_run(Run { start: mfn, order: 0 }, DIRTY);
        }
    }

    /// Gives up one stored reference to each of `count` frames. A whole run whose last references go is freed as one.
    pub fn put_run(&self, start: Mfn, count: u64) {
        let order = count.max(1).ilog2().min(LARGEST_ORDER);
        let aligned = count.is_power_of_two() && start.0.is_multiple_of(count);
        if aligned && self.run(start.0, order).len() as u64 == count {
            self.release(Run { start, order }, DIRTY);
        } else {
            (0..count).for_each(|page| self.put(Mfn(start.0 + page)));
        }
    }

    /// Takes an allocation back that nobody has seen. Frames that were scrubbed stay scrubbed.
    pub fn give_back(&self, run: Run) {
        self.release(run, 0);
    }

    /// Gives up a reference to each frame of a run, and frees the run as one if they were the last. Until a frame's count is zero
    /// somebody who has its number alone may hold it for a moment, and then frees it.
    fn release(&self, run: Run, mark: u32) {
        let is_last = |frame: &&Frame| {
            frame.references.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let free = self.run(run.start.0, run.order).iter().take_while(is_last).count() as u64;
        if free == 1 << run.order {
            return self.free_run(run, mark);
        }
        for page in 0..1 << run.order {
            let start = Mfn(run.start.0 + page);
            if page < free { self.free_run(Run { start, order: 0 }, mark) } else { self.put(start) }
        }
    }

    /// Frees a run that nobody refers to any more; `mark` is [`DIRTY`] when somebody may have written to it.
    #[cold]
    fn free_run(&self, run: Run, mark: u32) {
        for frame in self.run(run.start.0, run.order) {
            self.count(frame.owner(), frame.kind(), 1u32.wrapping_neg());
            let mark = mark | frame.state.load(Ordering::Relaxed) & (DIRTY | UNUSED);
            frame.state.store(FREE | mark, Ordering::Relaxed);
        }
        self.buddies.lock().free(&self.frames, run.start.0 as u32, run.order);
        self.free.fetch_add(1 << run.order, Ordering::Relaxed);
    }

    #[inline]
    fn get(&self, mfn: Mfn) -> Option<&Frame> {
        self.frames.get(usize::try_from(mfn.0).ok()?)
    }

    /// Notes that a remembered walk uses a frame. The mark stays until the frame is free.
    pub fn mark_walked(&self, mfn: Mfn) {
        if let Some(frame) = self.get(mfn) {
            frame.state.fetch_or(WALKED, Ordering::Relaxed);
        }
    }

    /// Whether a remembered walk may use a frame.
    pub fn is_walked(&self, mfn: Mfn) -> bool {
        self.get(mfn).is_none_or(|frame| frame.state.load(Ordering::Relaxed) & WALKED != 0)
    }

    /// What a frame is used for.
    #[inline]
    pub fn kind(&self, mfn: Mfn) -> FrameKind {
        self.get(mfn).map_or(FrameKind::Reserved, Frame::kind)
    }

    /// Who owns a frame in use.
    pub fn owner(&self, mfn: Mfn) -> Option<DomainId> {
        self.get(mfn).filter(|frame| frame.is_used()).map(Frame::owner)
    }

    /// References to a frame.
    pub fn references(&self, mfn: Mfn) -> u32 {
        self.get(mfn).map_or(0, |frame| frame.references.load(Ordering::Relaxed))
    }

    /// A word that belongs to a frame while it is in use, 0 at first: readers (low half) and writers (high half) of
    /// dom0's one-to-one mapping of another domain's frame. Changed under dom0's memory lock.
    pub fn note(&self, mfn: Mfn) -> Option<&AtomicU32> {
        self.get(mfn).filter(|frame| frame.is_used()).map(|frame| &frame.a)
    }

    /// Frames that can be allocated.
    pub fn free_frames(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    fn owned_by(&self, owner: DomainId) -> Option<&Owned> {
        self.owned.get(usize::from(owner.0).min(DOMAINS))
    }

    /// Frames of memory a domain owns, also those that only others still hold.
    pub fn owned(&self, owner: DomainId) -> u32 {
        self.owned_by(owner).map_or(0, |owned| owned.memory.load(Ordering::Relaxed))
    }

    /// Frames a domain owns, of every kind: memory, tables, what the hypervisor shares with it.
    pub fn all_owned(&self, owner: DomainId) -> u32 {
        self.owned_by(owner).map_or(0, |owned| owned.all.load(Ordering::Relaxed))
    }

    /// One past the highest frame of the host.
    pub fn end_frame(&self) -> Mfn {
        Mfn(self.frames.len() as u64)
    }

    /// Adds to an owner's counts, modulo 2^32.
    fn count(&self, owner: DomainId, kind: FrameKind, frames: u32) {
        let Some(owned) = self.owned_by(owner) else { return };
        owned.all.fetch_add(frames, Ordering::Relaxed);
        if kind == FrameKind::Ram {
            owned.memory.fetch_add(frames, Ordering::Relaxed);
        }
    }

    fn run(&self, start: u64, order: u32) -> &[Frame] {
        self.frames.get(start as usize..(start + (1 << order)) as usize).unwrap_or(&[])
    }

    fn begin(&self, frame: &Frame, owner: DomainId, kind: FrameKind) {
        let dirty = frame.state.load(Ordering::Relaxed) & (DIRTY | UNUSED);
        frame.state.store(kind.number() | dirty | u32::from(owner.0) << OWNER_SHIFT, Ordering::Relaxed);
        frame.a.store(0, Ordering::Relaxed);
        frame.b.store(0, Ordering::Relaxed);
        frame.references.store(1, Ordering::Release);
    }
}

impl Held<'_> {
    /// The frame.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Who owns it.
    #[inline]
    pub fn owner(&self) -> DomainId {
        self.table.get(self.mfn).map_or(DomainId::INVALID, Frame::owner)
    }

    /// Whether it is of the memory of this domain.
    #[inline]
    pub fn is_memory_of(&self, id: DomainId) -> bool {
        let wanted = FrameKind::Ram.number() | u32::from(id.0) << OWNER_SHIFT;
        let state = self.table.get(self.mfn).map_or(FREE, |frame| frame.state.load(Ordering::Relaxed));
        state & (KIND | u32::MAX << OWNER_SHIFT) == wanted
    }

    /// What it is used for.
    #[inline]
    pub fn kind(&self) -> FrameKind {
        self.table.kind(self.mfn)
    }

    /// Turns the guard into a number whose reference is still counted, for a table that keeps it. Goes back with
    /// [`FrameTable::adopt`] or [`FrameTable::put`].
    #[must_use = "the reference would be lost"]
    pub fn into_raw(self) -> Mfn {
        core::mem::ManuallyDrop::new(self).mfn
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.table.put(self.mfn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(frames: u64) -> FrameTable {
        let all = [FrameRange { start: Mfn(0), end: Mfn(frames) }];
        FrameTable::new(&all, &[FrameRange { start: Mfn(1), end: Mfn(frames) }]).unwrap()
    }

    #[test]
    fn a_frame_is_freed_with_its_last_reference() {
        let table = table(64);
        assert_eq!(table.free_frames(), 63);
        let run = table.allocate(0, DomainId(5), FrameKind::Ram).unwrap();
        let held = table.hold(run.start).unwrap();
        assert_eq!((table.references(run.start), table.owned(DomainId(5))), (2, 1));
        table.put(run.start);
        assert_eq!(table.free_frames(), 62);
        drop(held);
        assert_eq!((table.free_frames(), table.owned(DomainId(5))), (63, 0));
        assert!(table.hold(run.start).is_none());
        assert!(table.hold(Mfn(0)).is_none(), "reserved");
        assert!(table.hold(Mfn(u64::MAX)).is_none());
    }

    #[test]
    fn buddies_split_and_join() {
        let table = table(4096);
        let mut runs = Vec::new();
        while let Some(run) = table.allocate(3, DomainId(1), FrameKind::Ram) {
            assert_eq!(run.start.0 % 8, 0);
            runs.push(run);
        }
        assert_eq!(runs.len(), 511);
        for run in runs.into_iter().rev() {
            for frame in 0..8 {
                table.put(Mfn(run.start.0 + frame));
            }
        }
        assert_eq!(table.free_frames(), 4095);
        assert!(table.allocate(11, DomainId(1), FrameKind::Ram).is_some(), "runs join again");
    }

    #[test]
    fn a_run_leaves_what_others_hold() {
        let table = table(64);
        let run = table.allocate(3, DomainId(5), FrameKind::Ram).unwrap();
        let held = table.hold(Mfn(run.start.0 + 3)).unwrap();
        table.put_run(run.start, 8);
        assert_eq!((table.free_frames(), table.owned(DomainId(5)), table.references(held.mfn())), (62, 1, 1));
        drop(held);
        assert_eq!((table.free_frames(), table.owned(DomainId(5))), (63, 0));
        let again = table.allocate(3, DomainId(5), FrameKind::Ram).unwrap();
        table.put_run(again.start, 8);
        assert_eq!((table.free_frames(), table.references(again.start)), (63, 0));
    }

    #[test]
    fn dirty_frames_are_scrubbed_once() {
        let table = table(16);
        let run = table.allocate(3, DomainId(1), FrameKind::Ram).unwrap();
        let mut scrubbed = 0;
        table.scrub_run(run, u32::MAX, |_, _| scrubbed += 1);
        table.scrub_run(run, u32::MAX, |_, _| scrubbed += 1);
        assert_eq!(scrubbed, 8);
        let rest = table.scrub_free(100, |_, unused| assert!(unused));
        assert_eq!(rest, 7);
    }

    #[test]
    fn a_frame_is_unused_until_it_was_given_away_once() {
        let table = table(16);
        for unused in [true, false] {
            let run = table.allocate(3, DomainId(1), FrameKind::Ram).unwrap();
            assert!(!table.scrub_run(run, 2, |_, is| assert_eq!(is, unused)));
            // Given back half-way, the frames that were not looked at are as they were.
            table.give_back(run);
            let run = table.allocate(3, DomainId(1), FrameKind::Ram).unwrap();
            let mut scrubbed = 0;
            let each = |_, is| {
                assert_eq!(is, unused);
                scrubbed += 1;
            };
            assert!(table.scrub_run(run, u32::MAX, each));
            assert_eq!(scrubbed, 6);
            table.put_run(run.start, 8);
        }
    }
}
