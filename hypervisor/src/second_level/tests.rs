use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::pages::fake::{FakeMemory, FakePool};

/// Extended page tables with leaves of every size.
pub(crate) static EPT: EntryFormat = trunnion_manual::vmx::paging::format(true, true);
/// Nested paging without leaves of 1 GiB.
pub(crate) static NPT: EntryFormat = trunnion_manual::svm::paging::format(false);

const ALL: Rights = Rights::all();

#[test]
fn the_largest_leaves_are_used_and_split() {
    for format in [&EPT, &NPT] {
        let memory = FakeMemory::new(64);
        let pool = FakePool::new(&memory, 0..64);
        let mut tables = SecondLevel::new(format, &pool).unwrap();
        let gig = 1 << 18;
        tables
            .map(&pool, Run { gfn: Gfn(gig), mfn: Mfn(3 * gig), count: gig, rights: ALL, kind: Kind::Ram })
            .unwrap();
        let size = if format.largest_leaf == 3 { gig } else { 512 };
        let leaf = tables.lookup(&memory, Gfn(gig + 0x1234)).unwrap();
        assert_eq!(leaf, Leaf { mfn: Mfn(3 * gig + 0x1234), rights: ALL, kind: Kind::Ram, pages: size });
        let (old, stale) = tables.unmap_page(&pool, Gfn(gig + 5)).unwrap();
        assert_eq!(old.map(|leaf| (leaf.mfn, leaf.pages)), Some((Mfn(3 * gig + 5), 1)));
        assert!(stale.needs_flush());
        stale.release(&pool);
        assert_eq!(tables.lookup(&memory, Gfn(gig + 5)), None);
        assert_eq!(tables.lookup(&memory, Gfn(gig + 6)).unwrap().pages, 1);
        assert_eq!(tables.lookup(&memory, Gfn(gig + 512)).unwrap().pages, 512);
        let again =
            tables.map(&pool, Run { gfn: Gfn(gig + 4), mfn: Mfn(9), count: 2, rights: ALL, kind: Kind::Ram });
        assert_eq!(again, Err(Partial { done: 0, error: Errno::Exist }));
        let mut seen = 0;
        let (stale, done) = tables.unmap(&pool, Gfn(0), GFN_LIMIT, |_, leaf| seen += leaf.pages);
        assert_eq!((done, seen), (Ok(()), gig - 1));
        stale.release(&pool);
        assert_eq!((tables.tables(), pool.left()), (1, 63));
        assert!(tables.free_some(&pool, 5));
        assert_eq!(pool.left(), 64);
    }
}

#[test]
fn claims_outside_the_space_are_refused() {
    let memory = FakeMemory::new(16);
    let pool = FakePool::new(&memory, 0..16);
    let mut tables = SecondLevel::new(&EPT, &pool).unwrap();
    for (gfn, mfn, count) in
        [(GFN_LIMIT, 0, 1), (GFN_LIMIT - 1, 0, 2), (u64::MAX, 0, 1), (0, u64::MAX, 1), (0, 0, u64::MAX)]
    {
        let refused =
            tables.map(&pool, Run { gfn: Gfn(gfn), mfn: Mfn(mfn), count, rights: ALL, kind: Kind::Ram });
        assert_eq!(refused, Err(Partial { done: 0, error: Errno::Inval }));
    }
    assert_eq!(tables.lookup(&memory, Gfn::INVALID), None);
    assert!(tables.next(&memory, Gfn::INVALID).is_none());
    assert!(!tables.unmap(&pool, Gfn::INVALID, 1, |_, _| ()).0.needs_flush());
    tables
        .map(&pool, Run { gfn: Gfn(GFN_LIMIT - 1), mfn: Mfn(1), count: 1, rights: ALL, kind: Kind::Ram })
        .unwrap();
    assert_eq!(tables.next(&memory, Gfn(0)).unwrap().0, Gfn(GFN_LIMIT - 1));
}

#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, u64, u8),
    Unmap(u64, u64),
    Protect(u64, u64, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Places around table ends, and multiples of 512 so that large leaves occur.
    let gfn = prop_oneof![0..1100u64, (0..5u64).prop_map(|n| n * 512), (1 << 18) - 600..(1 << 18) + 600u64];
    let count = prop_oneof![1..4u64, 500..530u64, Just(1024u64)];
    let step = prop_oneof![
        3 => (gfn.clone(), prop_oneof![0..5000u64, (0..9u64).prop_map(|n| n * 512)], count.clone(), 0..4u8)
            .prop_map(|(gfn, mfn, count, rights)| Step::Map(gfn, mfn, count, rights)),
        2 => (gfn.clone(), count.clone()).prop_map(|(gfn, count)| Step::Unmap(gfn, count)),
        1 => (gfn, count, 0..4u8).prop_map(|(gfn, count, rights)| Step::Protect(gfn, count, rights)),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The tables and a plain map agree after any sequence of changes, and all frames come back.
    #[test]
    fn tables_agree_with_a_map(steps in steps(), frames in 4..40u64, ept: bool) {
        let memory = FakeMemory::new(40);
        let pool = FakePool::new(&memory, 0..frames);
        let mut tables = SecondLevel::new(if ept { &EPT } else { &NPT }, &pool).unwrap();
        let mut model: BTreeMap<u64, (u64, Rights)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Map(gfn, mfn, count, rights) => {
                    let rights = Rights::from_bits_truncate(rights);
                    let free = (gfn..gfn + count).take_while(|gfn| !model.contains_key(gfn)).count() as u64;
                    let done = match tables.map(&pool, Run { gfn: Gfn(gfn), mfn: Mfn(mfn), count, rights, kind: Kind::Ram }) {
                        Ok(()) => count,
                        Err(Partial { done, error: Errno::Exist }) => { prop_assert!(free < count); done }
                        Err(partial) => { prop_assert_eq!(partial.error, Errno::NoMem); partial.done }
                    };
                    prop_assert!(done <= free);
                    model.extend((0..done).map(|n| (gfn + n, (mfn + n, rights))));
                }
                Step::Unmap(gfn, count) => {
                    let mut gone = Vec::new();
                    let (stale, _) = tables.unmap(&pool, Gfn(gfn), count, |gfn, leaf| {
                        gone.extend((0..leaf.pages).map(|n| (gfn.0 + n, (leaf.mfn.0 + n, leaf.rights))));
                    });
                    stale.release(&pool);
                    for (gfn, value) in gone {
                        prop_assert_eq!(model.remove(&gfn), Some(value));
                    }
                }
                Step::Protect(gfn, count, rights) => {
                    let rights = Rights::from_bits_truncate(rights);
                    let (stale, result) = tables.protect(&pool, Gfn(gfn), count, rights);
                    let mut narrowed = false;
                    for (gfn, value) in model.range_mut(gfn..gfn + count) {
                        let now = tables.lookup(&memory, Gfn(*gfn)).unwrap().rights;
                        prop_assert!(now == rights || now == value.1);
                        prop_assert!(result.is_err() || now == rights);
                        narrowed |= !now.contains(value.1);
                        value.1 = now;
                    }
                    prop_assert_eq!(stale.needs_flush(), narrowed);
                    stale.release(&pool);
                }
            }
            let mut from = Gfn(0);
            let mut all = BTreeMap::new();
            while let Some((gfn, leaf)) = tables.next(&memory, from) {
                all.extend((0..leaf.pages).map(|n| (gfn.0 + n, (leaf.mfn.0 + n, leaf.rights))));
                from = Gfn(gfn.0 + leaf.pages);
            }
            prop_assert_eq!(&all, &model);
            for gfn in [0, 1, 511, 512, 1023, 1024, (1 << 18) - 1, 1 << 18] {
                let found = tables.lookup(&memory, Gfn(gfn)).map(|leaf| (leaf.mfn.0, leaf.rights));
                prop_assert_eq!(found, model.get(&gfn).copied());
            }
        }
        while let Some((gfn, leaf, stale)) = tables.take_first(&pool, Gfn(0)) {
            for n in 0..leaf.pages { model.remove(&(gfn.0 + n)); }
            stale.release(&pool);
        }
        prop_assert!(model.is_empty());
        while !tables.free_some(&pool, 3) {}
        prop_assert_eq!(pool.left() as u64, frames);
    }
}
