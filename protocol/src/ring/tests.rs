//! Rings against a model: any interleaving of two honest sides, and hostile indices.

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::blkif::{Block, Request, Response};
use crate::layout::Width;
use crate::ring::*;
use crate::shared::SharedPage;

fn pages(count: usize) -> Vec<SharedPage> {
    (0..count).map(|_| SharedPage::zeroed()).collect()
}

fn flush(id: u64) -> Request {
    Request::Discard { handle: 1, id, sector: !id, sectors: id.rotate_left(7), secure: id & 1 == 0 }
}

#[derive(Clone, Debug)]
enum Step {
    Put,
    PublishRequests,
    Take,
    Answer(usize),
    PublishResponses,
    TakeResponse,
    ArmBack,
    ArmFront,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Put),
        2 => Just(Step::PublishRequests),
        4 => Just(Step::Take),
        4 => any::<usize>().prop_map(Step::Answer),
        2 => Just(Step::PublishResponses),
        4 => Just(Step::TakeResponse),
        1 => Just(Step::ArmBack),
        1 => Just(Step::ArmFront),
    ]
}

proptest! {
    #[test]
    fn honest_sides_agree_with_queues(
        steps in proptest::collection::vec(step(), 1..600),
        order in 0u32..=3,
        w32: bool,
    ) {
        let width = if w32 { Width::W32 } else { Width::W64 };
        let memory = pages(1 << order);
        let mut front = FrontRing::<Block, _>::new(memory.as_slice(), width).unwrap();
        let mut back = BackRing::<Block, _>::new(memory.as_slice(), width).unwrap();
        let slots = Block::slots(width, memory.len());
        let (mut written, mut requests) = (VecDeque::new(), VecDeque::new());
        let (mut answers, mut responses) = (VecDeque::new(), VecDeque::new());
        let mut claimed: Vec<Claimed<Request>> = Vec::new();
        let mut next = 0u64;
        // Each side sleeps after `arm` said that nothing is there, and must be woken by the other's publish.
        let (mut back_sleeps, mut front_sleeps) = (true, true);
        for step in steps {
            match step {
                Step::Put => {
                    let result = front.put(&flush(next));
                    let in_flight = written.len() + requests.len() + claimed.len() + answers.len() + responses.len();
                    prop_assert_eq!(result.is_ok(), (in_flight as u32) < slots);
                    if result.is_ok() {
                        written.push_back(next);
                        next += 1;
                    }
                }
                Step::PublishRequests => {
                    let some = !written.is_empty();
                    let notify = front.publish();
                    if back_sleeps && some {
                        prop_assert_eq!(notify, Notify::Peer);
                        back_sleeps = false;
                    }
                    requests.append(&mut written);
                }
                Step::Take => {
                    let taken = back.take().unwrap();
                    prop_assert_eq!(taken.as_ref().map(|taken| taken.request), requests.pop_front().map(flush));
                    claimed.extend(taken);
                }
                Step::Answer(which) if !claimed.is_empty() => {
                    let claimed = claimed.swap_remove(which % claimed.len());
                    let id = claimed.request.id();
                    back.answer(claimed, &Response { id, operation: 5, status: -1 }).unwrap();
                    answers.push_back(id);
                }
                Step::Answer(_) => {}
                Step::PublishResponses => {
                    let some = !answers.is_empty();
                    let notify = back.publish();
                    if front_sleeps && some {
                        prop_assert_eq!(notify, Notify::Peer);
                        front_sleeps = false;
                    }
                    responses.append(&mut answers);
                }
                Step::TakeResponse => {
                    prop_assert_eq!(front.take().unwrap().map(|response| response.id), responses.pop_front());
                }
                Step::ArmBack => {
                    let more = back.arm().unwrap();
                    prop_assert_eq!(more, !requests.is_empty());
                    back_sleeps = !more;
                }
                Step::ArmFront => {
                    let more = front.arm().unwrap();
                    prop_assert_eq!(more, !responses.is_empty());
                    front_sleeps = !more;
                }
            }
            prop_assert_eq!(back.outstanding() as usize, claimed.len());
        }
    }

    #[test]
    fn a_hostile_front_end_never_gets_more_than_the_ring(
        writes in proptest::collection::vec((any::<u32>(), any::<bool>(), 0usize..8), 1..200),
        bytes in proptest::collection::vec(any::<u8>(), 4096),
    ) {
        let memory = SharedPage::zeroed();
        memory.copy_in(64, &bytes[64..]).unwrap();
        let mut back = BackRing::<Block, _>::new(&memory, Width::W64).unwrap();
        let mut held = Vec::new();
        for (value, near, takes) in writes {
            let word = memory.word_at(REQ_PROD).unwrap();
            let old = word.load(core::sync::atomic::Ordering::Relaxed);
            word.store(if near { old.wrapping_add(value % 8) } else { value }, core::sync::atomic::Ordering::Relaxed);
            for _ in 0..takes {
                match back.take() {
                    Ok(Some(claimed)) => held.push(claimed),
                    Ok(None) => break,
                    Err(first) => {
                        // Broken for good, whatever the page says later.
                        word.store(0, core::sync::atomic::Ordering::Relaxed);
                        prop_assert_eq!(back.take().err(), Some(first));
                        prop_assert_eq!(back.arm(), Err(first));
                        return Ok(());
                    }
                }
            }
            prop_assert!(back.outstanding() <= back.slots());
            if let Some(claimed) = held.pop() {
                let id = claimed.request.id();
                back.answer(claimed, &Response { id, ..Response::default() }).unwrap();
                let _ = back.publish();
            }
        }
    }

    #[test]
    fn a_hostile_back_end_answers_nothing_that_was_not_asked(index: u32, asked in 0u32..32) {
        let memory = SharedPage::zeroed();
        let mut front = FrontRing::<Block, _>::new(&memory, Width::W64).unwrap();
        for id in 0..asked {
            front.put(&flush(u64::from(id))).unwrap();
        }
        let _ = front.publish();
        memory.word_at(RSP_PROD).unwrap().store(index, core::sync::atomic::Ordering::Relaxed);
        let mut got = 0;
        loop {
            match front.take() {
                Ok(Some(_)) => got += 1,
                Ok(None) => break,
                Err(overrun) => {
                    prop_assert_eq!(overrun.index, index);
                    break;
                }
            }
        }
        prop_assert_eq!(got, if index <= asked { index } else { 0 });
    }
}

#[test]
fn tokens_of_another_ring_are_refused() {
    let memory = pages(1);
    let mut front = FrontRing::<Block, _>::new(memory.as_slice(), Width::W64).unwrap();
    let mut old = BackRing::<Block, _>::new(memory.as_slice(), Width::W64).unwrap();
    front.put(&flush(1)).unwrap();
    assert_eq!(front.publish(), Notify::Peer);
    let claimed = old.take().unwrap().unwrap();
    let mut new = BackRing::<Block, _>::new(memory.as_slice(), Width::W64).unwrap();
    let again = new.take().unwrap().unwrap();
    assert_eq!(new.answer(claimed, &Response::default()), Err(Refused::Foreign));
    assert_eq!(new.answer(again, &Response::default()), Ok(()));
}

#[test]
fn indices_wrap() {
    let memory = pages(1);
    let mut front = FrontRing::<Block, _>::new(memory.as_slice(), Width::W32).unwrap();
    let mut back = BackRing::<Block, _>::new(memory.as_slice(), Width::W32).unwrap();
    for round in 0..200u64 {
        for id in 0..round % 33 {
            front.put(&flush(id)).unwrap();
        }
        let _ = front.publish();
        while let Some(claimed) = back.take().unwrap() {
            let id = claimed.request.id();
            back.answer(claimed, &Response { id, ..Response::default() }).unwrap();
        }
        let _ = back.publish();
        for id in 0..round % 33 {
            assert_eq!(front.take().unwrap().unwrap().id, id);
        }
        assert!(front.take().unwrap().is_none());
    }
}

#[test]
fn identities_are_good_for_one_answer() {
    let mut table = Outstanding::<&str, 2>::new();
    let a = table.insert("a").unwrap();
    let b = table.insert("b").unwrap();
    assert_eq!(table.insert("c"), Err("c"));
    assert_eq!(table.remove(a), Some("a"));
    assert_eq!(table.remove(a), None);
    let c = table.insert("c").unwrap();
    assert_ne!(a, c);
    assert_eq!(table.remove(a), None);
    assert_eq!(table.remove(u64::MAX), None);
    assert_eq!(table.len(), 2);
    assert_eq!(table.drain().collect::<Vec<_>>(), ["c", "b"]);
    assert!(table.is_empty());
    assert_eq!(table.remove(b), None);
}
