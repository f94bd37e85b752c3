//! A guest that lies, against the network back end: nonsense of every kind in rings, requests and grants. A case is a
//! few dozen moves of one guest beside an honest one, which must notice nothing.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use trunnion_backends::net::Fault;
use trunnion_backends::net::keys::Features;
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::netif::{ExtraInfo, Gso, GsoKind, RxRequest, TxRequest, TxSlot, tx};
use trunnion_protocol::shared::SharedPage;

use super::Source;
use crate::wire::{ALL, Guest, Lan, Sent, packet};

/// What the cases reached.
#[derive(Default, Debug)]
pub struct Reached {
    pub cases: u64,
    /// Packets of the liar that were sent on, and that were refused.
    pub sent: u64,
    pub refused: u64,
    /// Packets that the liar received, and that its buffers refused.
    pub received: u64,
    pub dropped: u64,
    pub faults: BTreeMap<&'static str, u64>,
}

/// The liar's pages: one that may be read, one that may be written, one that was granted and taken back.
struct Pages {
    good: GrantRef,
    readonly: GrantRef,
    revoked: GrantRef,
    foreign: GrantRef,
}

impl Pages {
    fn reference(&self, random: &mut Source) -> GrantRef {
        match random.below(12) {
            0 => self.readonly,
            1 => self.revoked,
            2 => self.foreign,
            3 => GrantRef(random.bits() as u32),
            _ => self.good,
        }
    }
}

fn request(random: &mut Source, pages: &Pages) -> TxRequest {
    let plausible =
        |random: &mut Source, right: u16| if random.one_in(8) { random.bits() as u16 } else { right };
    let flags = match random.below(6) {
        0 => random.bits() as u16,
        1 => tx::MORE,
        2 => tx::EXTRA | tx::CHECKSUM_BLANK,
        3 => tx::CHECKSUM_BLANK | tx::DATA_VALIDATED,
        _ => 0,
    };
    let size = 60 + random.below(3000) as u16;
    TxRequest {
        reference: pages.reference(random),
        offset: plausible(random, 0),
        flags,
        id: random.bits() as u16,
        size: plausible(random, size),
    }
}

fn extra(random: &mut Source) -> ExtraInfo {
    let mut extra = ExtraInfo::gso(Gso {
        kind: if random.one_in(2) { GsoKind::TcpV4 } else { GsoKind::TcpV6 },
        size: random.below(3000) as u16,
    });
    if random.one_in(4) {
        extra.kind = random.below(8) as u8;
    }
    if random.one_in(6) {
        extra.flags = random.bits() as u8;
    }
    if random.one_in(6) {
        extra.payload = random.bits().to_le_bytes()[..6].try_into().unwrap();
    }
    extra
}

/// Bytes that look like a packet, more or less.
fn content(random: &mut Source, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let protocol = [6, 17, 1][random.below(3) as usize];
    let mut bytes = packet(to, from, random.one_in(2), protocol, &vec![0x5a; random.below(3900) as usize]);
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len().min(80) as u64) as usize;
        bytes[at] = random.bits() as u8;
    }
    bytes.truncate(4096);
    bytes
}

fn put(liar: &mut Guest, slot: TxSlot) {
    if liar.tx.free() > 1 {
        liar.raw(slot);
    }
}

/// A case.
pub fn case(mut random: Source, reached: &mut Reached) {
    let seed = &random.clone();
    let lan = Lan::new();
    let features = |random: &mut Source| if random.one_in(3) { Features::default() } else { ALL };
    let theirs = features(&mut random);
    let mut liar = lan.guest(1, theirs, |config| config.queues = 1);
    let ours = features(&mut random);
    let mut honest = lan.guest(2, ours, |_| {});
    let mut third = lan.guest(3, ALL, |_| {});
    honest.offer(120);
    third.offer(120);
    let page = Rc::new(SharedPage::zeroed());
    let pages = Pages {
        good: lan.world.grant(liar.domain, &page, true),
        readonly: lan.world.grant(liar.domain, &page, false),
        revoked: lan.world.grant(liar.domain, &page, true),
        foreign: lan.world.grant(honest.domain, &page, true),
    };
    lan.world.revoke(liar.domain, pages.revoked);
    let mut fault = None;
    let mut moves = 0;
    while fault.is_none() && moves < 60 && !random.is_spent() {
        moves += 1;
        match random.below(16) {
            0..=5 => {
                page.copy_in(0, &content(&mut random, honest.address, liar.address)).unwrap();
                let endless = random.one_in(100);
                let mut flags = 0;
                for _ in 0..if endless { 70 } else { random.below(6) } {
                    let mut request = request(&mut random, &pages);
                    if endless {
                        request.flags = tx::MORE;
                    }
                    flags = request.flags;
                    put(&mut liar, request.into());
                    if flags & tx::EXTRA != 0 {
                        put(&mut liar, extra(&mut random).into());
                    }
                }
                // Most chains have an end.
                if flags & tx::MORE != 0 && !endless && !random.one_in(60) {
                    let last = request(&mut random, &pages);
                    put(&mut liar, TxRequest { flags: 0, ..last }.into());
                }
                let _ = liar.tx.publish();
            }
            6 | 7 => {
                for _ in 0..random.below(20) {
                    let reference = pages.reference(&mut random);
                    let _ = liar.rx.put(&RxRequest { id: random.bits() as u16, reference });
                }
                let _ = liar.rx.publish();
            }
            8 | 9 => {
                let bytes = content(&mut random, liar.address, honest.address);
                if bytes.len() > 13 && honest.tx.free() > 4 && bytes[6..12] == honest.address {
                    honest.put(&Sent { bytes, ..Sent::default() });
                    assert_eq!(honest.run(), None, "{seed}");
                }
            }
            10 if random.one_in(6) => {
                let ring = if random.one_in(2) { &liar.tx_page } else { &liar.rx_page };
                let at = 4 * random.below(4) as usize;
                let value = if random.one_in(2) { random.bits() as u32 } else { random.below(400) as u32 };
                ring.0.store(at, &value).unwrap();
            }
            11 => lan.world.now.set(lan.world.now.get() + Duration::from_millis(random.below(20_000))),
            _ => {
                fault = liar.poll();
                while let Ok(Some(_)) = liar.tx.take() {}
                while let Ok(Some(_)) = liar.rx.take() {}
            }
        }
    }
    fault = fault.or_else(|| liar.poll());
    let counts = liar.counts();
    reached.cases += 1;
    reached.sent += counts.tx_packets;
    reached.refused += counts.tx_dropped;
    reached.received += counts.rx_packets;
    reached.dropped += counts.rx_dropped;
    if let Some(fault) = fault {
        let name = match fault {
            Fault::Ring(_) => "an index that jumps",
            Fault::Chain => "a chain without end",
            Fault::Cut => "a chain that is cut",
            Fault::RingPage(_) | Fault::Port(_) => "the connection",
        };
        *reached.faults.entry(name).or_default() += 1;
        assert!(!liar.vif.is_connected(), "{seed}");
    }
    let rings = if liar.vif.is_connected() { 6 } else { 4 };
    assert_eq!(lan.world.mapped.get(), rings, "{seed}: only rings are mapped");
    unharmed(&mut honest, &mut third, seed);
    // A bridge and its ports hold each other until they part.
    for guest in [&liar, &honest, &third] {
        guest.vif.disconnect();
    }
    assert_eq!(lan.world.mapped.get(), 0, "{seed}: pages stay mapped");
}

/// Takes what has come, and what still waits for buffers.
fn calm(guest: &mut Guest) {
    loop {
        let before = guest.counts().rx_packets;
        guest.take();
        guest.offer(60usize.saturating_sub(guest.buffers.len()));
        assert_eq!(guest.poll(), None);
        if guest.counts().rx_packets == before {
            break;
        }
    }
}

/// What the others send each other arrives, whatever the liar did.
fn unharmed(honest: &mut Guest, third: &mut Guest, seed: &Source) {
    calm(honest);
    calm(third);
    assert_eq!((honest.errors, third.errors), (0, 0), "{seed}: nobody hears of the liar's mistakes");
    assert_eq!((honest.unanswered(), third.unanswered()), (0, 0), "{seed}");
    for (from, to) in [(0, 1), (1, 0)] {
        let pair = [&mut *honest, &mut *third];
        let (source, target) = (pair[from].address, pair[to].address);
        let bytes = packet(target, source, false, 17, format!("{seed}").as_bytes());
        pair[to].offer(1);
        pair[to].received.clear();
        pair[from].put(&Sent { bytes: bytes.clone(), ..Sent::default() });
        assert_eq!(pair[from].run(), None, "{seed}");
        assert_eq!(pair[to].poll(), None, "{seed}");
        pair[to].take();
        let heard = pair[to].received.iter().any(|packet| packet.bytes == bytes);
        assert!(heard, "{seed}: {:?}, {:?}", pair[from].counts(), pair[to].counts());
    }
}
