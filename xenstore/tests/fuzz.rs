//! Malformed messages of every kind, and rings whose page somebody scribbles on: the server answers or ends the
//! connection, its accounts stay right, and others are served.
//!
//! The loop is seeded and takes a few seconds; `TRUNNION_SEED=N` chooses another start, `TRUNNION_TIER=full` runs longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::shared::SharedPage;
use trunnion_protocol::store::{Header, Kind, PAYLOAD_MAX, page};
use trunnion_xenstore::path::{Path, Special};
use trunnion_xenstore::ring::MemoryRing;
use trunnion_xenstore::server::{Detached, Store};

#[path = "model/talk.rs"]
#[allow(dead_code, reason = "the other half is the model's")]
mod talk;

use talk::{Op, Random};

fn time() -> Duration {
    let full = std::env::var("TRUNNION_TIER").is_ok_and(|tier| tier == "full");
    Duration::from_secs(if full { 120 } else { 4 })
}

fn seed() -> u64 {
    std::env::var("TRUNNION_SEED").map_or(1, |seed| seed.parse().expect("TRUNNION_SEED is a number"))
}

/// A payload that is nearly right, or not at all.
fn payload(random: &mut Random) -> (u32, Vec<u8>) {
    let op = Op::random(random);
    let mut payload = op.payload();
    let mut kind = op.kind().number();
    match random.below(6) {
        0 => {}
        1 => kind = random.below(40) as u32,
        2 => {
            payload = (0..random.below(40)).map(|_| random.next() as u8).collect();
        }
        3 => {
            payload.pop();
        }
        4 => {
            let at = random.below(payload.len().max(1));
            if let Some(byte) = payload.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        _ => {
            let words =
                ["1", "0", "-1", "99999999999999999999", "/", "", "n0", "b1", "T", "check", "\u{fffd}"];
            payload = (0..random.below(5))
                .flat_map(|_| format!("{}\0", random.pick(&words)).into_bytes())
                .collect();
        }
    }
    if random.below(50) == 0 {
        payload.resize(random.below(PAYLOAD_MAX + 1), b'a');
    }
    (kind, payload)
}

/// Counts what domains own anew, and compares with the store's accounts.
fn check_accounts(store: &Store) {
    let mut owned: BTreeMap<DomainId, (usize, usize)> = BTreeMap::new();
    let root = Path::parse(b"/", DomainId::DOM0, Special::Refused, None).unwrap().path;
    let specials = [&b"@introduceDomain"[..], b"@releaseDomain"]
        .map(|name| Path::parse(name, DomainId::DOM0, Special::Allowed, None).unwrap().path);
    for path in [root].iter().chain(&specials) {
        for (path, node) in store.tree().below(path) {
            let entry = owned.entry(node.perms.owner()).or_default();
            *entry = (entry.0 + 1, entry.1 + node.size() + path.as_str().len());
        }
    }
    owned.remove(&DomainId::DOM0);
    for (domain, counted) in &owned {
        let usage = store.tree().usage(*domain);
        assert_eq!((usage.nodes, usage.bytes), *counted, "accounts of domain {domain}");
    }
    assert_eq!(store.tree().owners().count(), owned.len());
}

#[test]
fn malformed_messages() {
    let (mut random, end) = (Random(seed()), Instant::now() + time());
    let mut store = Store::new(Box::new(Detached));
    let domains = [0, 0, 1, 2, 3].map(DomainId);
    let mut lines = domains.map(|domain| store.connect(domain));
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = 0u64;
    while Instant::now() < end {
        for _ in 0..500 {
            count += 1;
            let line = random.below(lines.len());
            let (kind, payload) = payload(&mut random);
            let tx_id = [0, 0, 1, 2, 3, random.next() as u32][random.below(6)];
            let len = if random.below(300) == 0 { random.next() as u32 } else { payload.len() as u32 };
            store.handle(lines[line], &Header { kind, req_id: 1, tx_id, len }, &payload);
            for &line in &lines {
                while let Some(message) = store.next_output(line) {
                    assert!(message.payload.len() <= PAYLOAD_MAX);
                    assert_eq!(message.header.len as usize, message.payload.len());
                    let error = message.header.kind == Kind::Error.number();
                    let name = if error { String::from_utf8(message.payload).unwrap() } else { "ok".into() };
                    *answers.entry(name).or_default() += 1;
                }
            }
            if store.is_broken(lines[line]) {
                store.disconnect(lines[line]);
                lines[line] = store.connect(domains[line]);
            }
        }
        if random.below(4) == 0 {
            store.remove_domain(DomainId(1 + random.below(3) as u16));
        }
        check_accounts(&store);
    }
    let good = answers.get("ok").copied().unwrap_or(0);
    println!("{count} messages, {good} good answers and events, answers: {answers:?}");
    assert!(good > count / 20, "hardly anything gets past the first check");
}

#[test]
fn scribbled_rings() {
    let (mut random, end) = (Random(seed()), Instant::now() + time());
    let mut store = Store::new(Box::new(Detached));
    let pages: Vec<_> = (1..=3u16)
        .map(|domain| {
            let page = Arc::new(SharedPage::zeroed());
            store.introduce(DomainId(domain), Box::new(MemoryRing(page.clone())), Port(u32::from(domain)));
            page
        })
        .collect();
    let honest = store.connect(DomainId::DOM0);
    let mut failures = 0;
    while Instant::now() < end {
        let which = random.below(pages.len());
        let (domain, shared) = (DomainId(which as u16 + 1), &pages[which]);
        let word = |offset| shared.word_at(offset).unwrap();
        match random.below(12) {
            0 => {
                let offset = page::REQUEST_CONSUMER + 4 * random.below(8);
                word(offset).store(random.next() as u32, Ordering::SeqCst);
            }
            1 => word(4 * random.below(1024)).store(random.next() as u32, Ordering::SeqCst),
            2 => shared.fill_zero(),
            3 => word(page::CONNECTION).store(1, Ordering::SeqCst),
            _ => {
                let (kind, payload) = payload(&mut random);
                let header =
                    Header { kind, req_id: 1, tx_id: random.below(3) as u32, len: payload.len() as u32 };
                for byte in [&header.to_bytes()[..], &payload].concat().into_iter().take(1000) {
                    let at = word(page::REQUEST_PRODUCER).load(Ordering::SeqCst);
                    shared.copy_in(at as usize % 1024, &[byte]).unwrap();
                    word(page::REQUEST_PRODUCER).store(at.wrapping_add(1), Ordering::SeqCst);
                }
            }
        }
        if random.below(3) > 0 {
            let taken = word(page::RESPONSE_PRODUCER).load(Ordering::SeqCst);
            word(page::RESPONSE_CONSUMER).store(taken, Ordering::SeqCst);
        }
        for _ in 0..8 {
            if !store.service(domain).more {
                break;
            }
        }
        failures += u32::from(word(page::ERROR).load(Ordering::SeqCst) != 0);
        if random.below(50) == 0 {
            let page = pages[which].clone();
            store.introduce(domain, Box::new(MemoryRing(page)), Port(u32::from(domain.0)));
            check_accounts(&store);
            let header = Header { kind: Kind::Read.number(), req_id: 5, tx_id: 0, len: 6 };
            store.handle(honest, &header, b"/tool\0");
            assert!(store.next_output(honest).is_some_and(|reply| reply.header.req_id == 5));
        }
    }
    assert!(failures > 0);
}
