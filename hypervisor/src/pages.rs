//! Access to frames of the host by number, which is all that table code needs of a machine.

use crate::prelude::*;

/// Frames of the host, reached by number.
pub trait Pages {
    /// The page; `None` for a number that is no RAM of this host. The caller holds a reference to the frame.
    fn page(&self, frame: Mfn) -> Option<&SharedPage>;
}

impl<M: Machine> Pages for M {
    fn page(&self, frame: Mfn) -> Option<&SharedPage> {
        Machine::page(self, frame)
    }
}

/// Where frames for tables come from, and how they are reached.
pub trait TablePool: Pages {
    /// A frame full of zeroes that nobody else uses; `None` when there is none.
    fn take(&self) -> Option<Mfn>;
    /// Takes one back. No processor can reach it as a table any more; its contents do not matter.
    fn give(&self, frame: Mfn);
}

#[cfg(test)]
pub(crate) mod fake {
    use core::cell::RefCell;

    use super::*;

    /// Host memory for tests: frames 0 to n - 1, of which the pool hands out those that nobody reserved.
    pub(crate) struct FakeMemory(Vec<SharedPage>);

    impl FakeMemory {
        pub(crate) fn new(frames: usize) -> Self {
            Self((0..frames).map(|_| SharedPage::zeroed()).collect())
        }
    }

    impl Pages for FakeMemory {
        fn page(&self, frame: Mfn) -> Option<&SharedPage> {
            self.0.get(usize::try_from(frame.0).ok()?)
        }
    }

    /// Hands out the frames it was given, zeroing them first.
    pub(crate) struct FakePool<'m> {
        memory: &'m FakeMemory,
        free: RefCell<Vec<Mfn>>,
    }

    impl<'m> FakePool<'m> {
        pub(crate) fn new(memory: &'m FakeMemory, frames: core::ops::Range<u64>) -> Self {
            Self { memory, free: RefCell::new(frames.rev().map(Mfn).collect()) }
        }

        pub(crate) fn left(&self) -> usize {
            self.free.borrow().len()
        }
    }

    impl Pages for FakePool<'_> {
        fn page(&self, frame: Mfn) -> Option<&SharedPage> {
            self.memory.page(frame)
        }
    }

    impl TablePool for FakePool<'_> {
        fn take(&self) -> Option<Mfn> {
            let frame = self.free.borrow_mut().pop()?;
            self.memory.page(frame)?.fill_zero();
            Some(frame)
        }

        fn give(&self, frame: Mfn) {
            let mut free = self.free.borrow_mut();
            assert!(!free.contains(&frame), "given twice");
            free.push(frame);
        }
    }
}
