//! What a domain has granted.
//!
//! The frames of the table are shared with the guest, which writes them at any moment. An entry that is in use has a
//! record of its own here, which the guest cannot reach: how many use it, how many of them for writing, and the frame.
//! The frame is the one the entry named when the first use began; what the guest writes there later is not looked at.

use trunnion_protocol::grant::{self, ENTRIES_PER_FRAME, READING, WRITING, place};

use crate::prelude::*;

/// How often an access word is tried while the guest changes it.
const TRIES: u32 = 5;

/// One entry's uses.
#[derive(Clone, Copy, Default)]
struct Active {
    users: u16,
    writers: u16,
    /// The frame, while there are users.
    mfn: u32,
}

impl Active {
    /// The frame that a further use is for, of an entry that is marked.
    #[inline]
    fn wanted(&self, page: &SharedPage, offset: usize) -> Wanted {
        if self.users != 0 {
            return Wanted::Known(Mfn(u64::from(self.mfn)));
        }
        // The frame is read after the word: the granter wrote it before.
        let frame = page.word_at(offset + 4).map_or(0, |word| word.load(Ordering::Acquire));
        Wanted::Claimed(Gfn(u64::from(frame)))
    }
}

/// A frame of the table.
struct Frame {
    mfn: Mfn,
    place: Option<Gfn>,
    active: Box<[Active]>,
}

/// One domain's table.
pub struct Table {
    frames: Vec<Frame>,
    limit: u32,
    pins: u64,
}

/// The frame that a pin is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The granting domain's frame with this number, by the entry.
    Claimed(Gfn),
    /// The frame that others who use the entry have already.
    Known(Mfn),
}

impl Table {
    /// A table without frames, of at most `limit`.
    pub const fn new(limit: u32) -> Self {
        Self { frames: Vec::new(), limit, pins: 0 }
    }

    /// Frames it has.
    pub fn frames(&self) -> u32 {
        self.frames.len() as u32
    }

    /// Frames it may have.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Uses of its entries, all together.
    pub const fn pins(&self) -> u64 {
        self.pins
    }

    /// Adds a frame, which `allocate` gives full of zeroes. `EINVAL` when it has its greatest size.
    pub fn grow(&mut self, allocate: impl FnOnce() -> Option<Mfn>) -> Result<(), Errno> {
        if self.frames() >= self.limit {
            return Err(Errno::Inval);
        }
        self.frames.try_reserve(1).map_err(|_| Errno::NoMem)?;
        let active = boxed(ENTRIES_PER_FRAME as usize, Active::default)?;
        let mfn = allocate().ok_or(Errno::NoMem)?;
        self.frames.push(Frame { mfn, place: None, active });
        Ok(())
    }

    /// A frame, and where the domain has it.
    pub fn frame(&self, index: u32) -> Option<(Mfn, Option<Gfn>)> {
        self.frames.get(index as usize).map(|frame| (frame.mfn, frame.place))
    }

    /// A frame, and the note of where the domain has it.
    pub fn frame_mut(&mut self, index: u32) -> Option<(Mfn, &mut Option<Gfn>)> {
        self.frames.get_mut(index as usize).map(|frame| (frame.mfn, &mut frame.place))
    }

    /// Takes the last frame away, for a domain that is gone. Uses that are left end without an entry.
    pub fn shrink(&mut self) -> Option<Mfn> {
        self.frames.pop().map(|frame| frame.mfn)
    }

    /// Begins a use of an entry by `by`. `hold` makes sure that the frame stays, and says which it is.
    pub fn pin<H>(
        &mut self,
        pages: &impl Pages,
        reference: GrantRef,
        by: DomainId,
        access: Access,
        hold: impl FnOnce(Wanted) -> Result<(Mfn, H), GrantStatus>,
    ) -> Result<H, GrantStatus> {
        let (page, offset, active) =
            entry(&mut self.frames, pages, reference).ok_or(GrantStatus::BadGntref)?;
        let users = active.users.checked_add(1).ok_or(GrantStatus::GeneralError)?;
        mark(page, offset, by, access)?;
        let held = hold(active.wanted(page, offset)).and_then(|(mfn, held)| {
            let mfn = u32::try_from(mfn.0).map_err(|_| GrantStatus::AddressTooBig)?;
            Ok((mfn, held))
        });
        match held {
            Ok((mfn, held)) => {
                active.users = users;
                active.writers += u16::from(access == Access::ReadWrite);
                active.mfn = mfn;
                self.pins += 1;
                Ok(held)
            }
            Err(status) => {
                clear(page, offset, *active);
                Err(status)
            }
        }
    }

    /// Uses an entry for as long as `work` takes. The table is locked meanwhile, so nothing has to be noted of this use.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call would be as long as what it does")]
    pub fn lend(
        &mut self,
        pages: &impl Pages,
        reference: GrantRef,
        by: DomainId,
        access: Access,
        work: impl FnOnce(Wanted) -> Result<(), GrantStatus>,
    ) -> Result<(), GrantStatus> {
        let (page, offset, active) =
            entry(&mut self.frames, pages, reference).ok_or(GrantStatus::BadGntref)?;
        mark(page, offset, by, access)?;
        let result = work(active.wanted(page, offset));
        clear(page, offset, *active);
        result
    }

    /// Ends a use. The last access is complete and no translation is left. False when there was none, which only happens
    /// once the table has lost its frames.
    pub fn unpin(&mut self, pages: &impl Pages, reference: GrantRef, access: Access) -> bool {
        let Some((page, offset, active)) = entry(&mut self.frames, pages, reference) else { return false };
        let write = u16::from(access == Access::ReadWrite);
        let (Some(users), Some(writers)) = (active.users.checked_sub(1), active.writers.checked_sub(write))
        else {
            return false;
        };
        active.users = users;
        active.writers = writers;
        if !planted::is(Bug::LateClear) {
            clear(page, offset, *active);
        }
        self.pins -= 1;
        true
    }

    /// Fills an entry in for the guest, as a toolstack does before it starts. False when there is no such entry.
    pub fn seed(&mut self, pages: &impl Pages, reference: GrantRef, to: DomainId, frame: u32) -> bool {
        let Some((page, offset, active)) = entry(&mut self.frames, pages, reference) else { return false };
        let (Some(word), Some(name)) = (page.word_at(offset), page.word_at(offset + 4)) else { return false };
        if active.users != 0 {
            return false;
        }
        name.store(frame, Ordering::Relaxed);
        word.store(grant::permit(to, Access::ReadWrite), Ordering::Release);
        true
    }
}

#[inline]
fn entry<'a, 'p>(
    frames: &'a mut [Frame],
    pages: &'p impl Pages,
    reference: GrantRef,
) -> Option<(&'p SharedPage, usize, &'a mut Active)> {
    let (frame, offset) = place(reference);
    let frame = frames.get_mut(frame as usize)?;
    let active = frame.active.get_mut((reference.0 % ENTRIES_PER_FRAME) as usize)?;
    Some((pages.page(frame.mfn)?, offset, active))
}

/// Sets the bits that say that the page is in use, if the word allows the use.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would be as long as what it does")]
fn mark(page: &SharedPage, offset: usize, by: DomainId, access: Access) -> Result<(), GrantStatus> {
    let word = page.word_at(offset).ok_or(GrantStatus::BadGntref)?;
    let mut old = word.load(Ordering::Acquire);
    for _ in 0..TRIES {
        let new = grant::pin(old, by, access)?;
        if new == old {
            return Ok(());
        }
        match word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(()),
            Err(now) => old = now,
        }
    }
    Err(GrantStatus::GeneralError)
}

/// Clears the bits that the uses that are left do not need. One locked instruction, however busy the guest is with the
/// word.
#[inline]
fn clear(page: &SharedPage, offset: usize, left: Active) {
    let gone = match (left.users, left.writers) {
        (0, _) => READING | WRITING,
        (_, 0) => WRITING,
        _ => return,
    };
    if let Some(word) = page.word_at(offset) {
        word.fetch_and(!gone, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pages::fake::FakeMemory;

    const GUEST: DomainId = DomainId(7);

    fn table(memory: &FakeMemory, frames: u64) -> Table {
        let mut table = Table::new(2);
        for frame in 0..frames {
            memory.page(Mfn(frame)).unwrap().fill_zero();
            table.grow(|| Some(Mfn(frame))).unwrap();
        }
        table
    }

    fn word(memory: &FakeMemory, reference: u32) -> u32 {
        memory.page(Mfn(u64::from(reference / 512))).unwrap().load((reference % 512 * 8) as usize).unwrap()
    }

    fn set(memory: &FakeMemory, reference: u32, words: [u32; 2]) {
        memory
            .page(Mfn(u64::from(reference / 512)))
            .unwrap()
            .store((reference % 512 * 8) as usize, &words)
            .unwrap();
    }

    fn pin(
        table: &mut Table,
        memory: &FakeMemory,
        reference: u32,
        access: Access,
    ) -> Result<Wanted, GrantStatus> {
        table.pin(memory, GrantRef(reference), GUEST, access, |wanted| match wanted {
            Wanted::Claimed(gfn) => Ok((Mfn(gfn.0 + 1000), wanted)),
            Wanted::Known(mfn) => Ok((mfn, wanted)),
        })
    }

    #[test]
    fn the_first_use_decides_the_frame() {
        let memory = FakeMemory::new(2);
        let mut table = table(&memory, 2);
        set(&memory, 600, [grant::permit(GUEST, Access::ReadWrite), 5]);
        assert_eq!(pin(&mut table, &memory, 600, Access::ReadOnly), Ok(Wanted::Claimed(Gfn(5))));
        assert_eq!(word(&memory, 600), 0x0007_0009);
        set(&memory, 600, [word(&memory, 600), 6]);
        assert_eq!(pin(&mut table, &memory, 600, Access::ReadWrite), Ok(Wanted::Known(Mfn(1005))));
        assert_eq!((word(&memory, 600), table.pins()), (0x0007_0019, 2));
        assert!(table.unpin(&memory, GrantRef(600), Access::ReadWrite));
        assert_eq!(word(&memory, 600), 0x0007_0009);
        assert!(!table.unpin(&memory, GrantRef(600), Access::ReadWrite), "no writer is left");
        assert!(table.unpin(&memory, GrantRef(600), Access::ReadOnly));
        assert_eq!((word(&memory, 600), table.pins()), (0x0007_0001, 0));
        assert!(!table.unpin(&memory, GrantRef(600), Access::ReadOnly));
        assert_eq!(pin(&mut table, &memory, 600, Access::ReadOnly), Ok(Wanted::Claimed(Gfn(6))));
    }

    #[test]
    fn claims_that_are_refused() {
        let memory = FakeMemory::new(2);
        let mut table = table(&memory, 1);
        for claim in [512, 1024, u32::MAX] {
            assert_eq!(pin(&mut table, &memory, claim, Access::ReadOnly), Err(GrantStatus::BadGntref));
        }
        assert_eq!(pin(&mut table, &memory, 3, Access::ReadOnly), Err(GrantStatus::BadGntref));
        set(&memory, 3, [grant::permit(DomainId(8), Access::ReadWrite), 5]);
        assert_eq!(pin(&mut table, &memory, 3, Access::ReadOnly), Err(GrantStatus::BadGntref));
        set(&memory, 3, [grant::permit(GUEST, Access::ReadOnly), 5]);
        assert_eq!(pin(&mut table, &memory, 3, Access::ReadWrite), Err(GrantStatus::PermissionDenied));
        // A frame that cannot be held leaves the entry as it was.
        let failed = table.pin(&memory, GrantRef(3), GUEST, Access::ReadOnly, |_| {
            Err::<(Mfn, ()), _>(GrantStatus::BadPage)
        });
        assert_eq!((failed, word(&memory, 3)), (Err(GrantStatus::BadPage), 0x0007_0005));
        let far = table.pin(&memory, GrantRef(3), GUEST, Access::ReadOnly, |_| Ok((Mfn(1 << 32), ())));
        assert_eq!((far, table.pins()), (Err(GrantStatus::AddressTooBig), 0));
    }

    #[test]
    fn size_and_seeds() {
        let memory = FakeMemory::new(2);
        let mut table = table(&memory, 1);
        assert_eq!(table.grow(|| None), Err(Errno::NoMem));
        assert_eq!(table.grow(|| Some(Mfn(1))), Ok(()));
        assert_eq!(table.grow(|| Some(Mfn(2))), Err(Errno::Inval));
        assert!(table.seed(&memory, GrantRef(1), DomainId(0), 0xfeffc));
        assert_eq!(memory.page(Mfn(0)).unwrap().load::<[u32; 2]>(8), Ok([1, 0xfeffc]));
        *table.frame_mut(1).unwrap().1 = Some(Gfn(9));
        assert_eq!((table.frame(1), table.frame(2)), (Some((Mfn(1), Some(Gfn(9)))), None));
        assert_eq!((table.shrink(), table.shrink(), table.shrink()), (Some(Mfn(1)), Some(Mfn(0)), None));
        assert!(!table.unpin(&memory, GrantRef(1), Access::ReadOnly));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// An honest granter: grants a free entry, or revokes one that is not in use.
        Grant(u32, bool),
        Revoke(u32),
        /// A dishonest one writes what it likes.
        Scribble(u32, u32, u32),
        Pin(u32, bool),
        Unpin(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let reference = 0..6u32;
        prop_oneof![
            3 => (reference.clone(), any::<bool>()).prop_map(|(reference, write)| Step::Grant(reference, write)),
            2 => reference.clone().prop_map(Step::Revoke),
            1 => (reference.clone(), any::<u32>(), 0..4u32).prop_map(|(r, word, frame)| Step::Scribble(r, word, frame)),
            5 => (0..8u32, any::<bool>()).prop_map(|(reference, write)| Step::Pin(reference, write)),
            4 => any::<usize>().prop_map(Step::Unpin),
        ]
    }

    proptest! {
        /// Counts agree with a list of uses whatever the guest does, and an honest guest sees exactly the bits that the
        /// uses mean.
        #[test]
        fn pins_agree_with_a_list(steps in proptest::collection::vec(step(), 1..200), honest: bool) {
            let memory = FakeMemory::new(1);
            let mut table = table(&memory, 1);
            let mut uses: Vec<(u32, Access, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Grant(reference, write) => {
                        if word(&memory, reference) == 0 {
                            let access = if write { Access::ReadWrite } else { Access::ReadOnly };
                            set(&memory, reference, [grant::permit(GUEST, access), reference + 10]);
                        }
                    }
                    Step::Revoke(reference) => {
                        if let Some(new) = grant::revoke(word(&memory, reference)) {
                            set(&memory, reference, [new, 0]);
                            if honest {
                                prop_assert!(uses.iter().all(|(other, ..)| *other != reference));
                            }
                        }
                    }
                    Step::Scribble(reference, word, frame) => {
                        if !honest { set(&memory, reference, [word & 0x001f_031f | 0x0007_0000, frame]); }
                    }
                    Step::Pin(reference, write) => {
                        let access = if write { Access::ReadWrite } else { Access::ReadOnly };
                        let pinned = table.pin(&memory, GrantRef(reference), GUEST, access, |wanted| match wanted {
                            Wanted::Claimed(gfn) => Ok((Mfn(gfn.0), gfn.0 as u32)),
                            Wanted::Known(mfn) => Ok((mfn, mfn.0 as u32)),
                        });
                        if let Ok(frame) = pinned {
                            // All uses of an entry are of one frame.
                            prop_assert!(uses.iter().all(|(other, _, mfn)| *other != reference || *mfn == frame));
                            uses.push((reference, access, frame));
                        }
                    }
                    Step::Unpin(at) => if !uses.is_empty() {
                        let (reference, access, _) = uses.swap_remove(at % uses.len());
                        prop_assert!(table.unpin(&memory, GrantRef(reference), access));
                    },
                }
                prop_assert_eq!(table.pins() as usize, uses.len());
                if honest {
                    for reference in 0..6 {
                        let of = |write: bool| uses.iter().any(|(other, access, _)| {
                            *other == reference && (!write || *access == Access::ReadWrite)
                        });
                        let bits = if of(false) { READING } else { 0 } | if of(true) { WRITING } else { 0 };
                        prop_assert_eq!(word(&memory, reference) & (READING | WRITING), bits);
                    }
                }
            }
            for (reference, access, _) in uses.drain(..) {
                prop_assert!(table.unpin(&memory, GrantRef(reference), access));
            }
            prop_assert_eq!(table.pins(), 0);
        }
    }
}
