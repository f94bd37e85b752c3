//! The console against a guest that plays by the rules, and against one that does not.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use trunnion_protocol::shared::SharedPage;

use super::*;

struct Page(SharedPage);
impl AsRef<SharedPage> for Page {
    fn as_ref(&self) -> &SharedPage {
        &self.0
    }
}

/// Prints as a guest does; returns how much found room.
fn print(page: &SharedPage, bytes: &[u8]) -> usize {
    let cons = page.word(OUT_CONS_WORD).load(Ordering::Acquire);
    let prod = page.word(OUT_PROD_WORD);
    let mut at = prod.load(Ordering::Acquire);
    let mut count = 0;
    for byte in bytes {
        if at.wrapping_sub(cons) == OUT_SIZE {
            break;
        }
        page.store(OUT + (at % OUT_SIZE) as usize, byte).unwrap();
        at = at.wrapping_add(1);
        count += 1;
    }
    prod.store(at, Ordering::Release);
    count
}

fn typed(page: &SharedPage) -> Vec<u8> {
    let prod = page.word(IN_PROD_WORD).load(Ordering::Acquire);
    let cons = page.word(IN_CONS_WORD);
    let mut at = cons.load(Ordering::Acquire);
    let mut out = Vec::new();
    while at != prod {
        out.push(page.load(IN + (at % IN_SIZE) as usize).unwrap());
        at = at.wrapping_add(1);
    }
    cons.store(at, Ordering::Release);
    out
}

proptest! {
    #[test]
    fn every_byte_arrives_once_in_order(
        pieces in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..3000), any::<bool>()), 1..30),
    ) {
        let page = Page(SharedPage::zeroed());
        let mut console = Console::fresh(&page);
        let (mut sent, mut got, mut fed, mut read) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (piece, drain) in pieces {
            let count = print(&page.0, &piece);
            sent.extend_from_slice(&piece[..count]);
            if drain {
                console.drain(|bytes| got.extend_from_slice(bytes)).unwrap();
                prop_assert_eq!(&got, &sent);
                read.extend(typed(&page.0));
            }
            let count = console.feed(&piece).unwrap();
            fed.extend_from_slice(&piece[..count]);
        }
        read.extend(typed(&page.0));
        prop_assert_eq!(read, fed);
    }

    #[test]
    fn wild_indices_are_refused_or_harmless(words in proptest::collection::vec(any::<u32>(), 4), rounds in 1usize..5) {
        let page = Page(SharedPage::zeroed());
        for (offset, word) in [IN_CONS, IN_PROD, OUT_CONS, OUT_PROD].into_iter().zip(words) {
            page.0.store(offset, &word).unwrap();
        }
        let mut console = Console::resume(&page);
        for _ in 0..rounds {
            let mut count = 0;
            let drained = console.drain(|bytes| count += bytes.len());
            prop_assert!(count <= OUT_SIZE as usize);
            prop_assert_eq!(drained.unwrap_or(0), count);
            prop_assert!(console.feed(&[7; 2000]).unwrap_or(0) <= IN_SIZE as usize);
        }
    }

    #[test]
    fn a_log_keeps_the_last_bytes(
        capacity in 0usize..50,
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20),
        from in 0u64..500,
    ) {
        let mut log = RingLog::new(capacity);
        let mut all = Vec::new();
        for piece in &pieces {
            log.push(piece);
            all.extend_from_slice(piece);
        }
        prop_assert_eq!(log.end(), all.len() as u64);
        let mut at = from;
        let mut got = Vec::new();
        loop {
            let (position, piece) = log.read(at);
            if piece.is_empty() {
                break;
            }
            got.extend_from_slice(piece);
            at = position + piece.len() as u64;
        }
        let first = (from as usize).max(all.len().saturating_sub(capacity)).min(all.len());
        prop_assert_eq!(&got, &all[first..]);
    }
}
