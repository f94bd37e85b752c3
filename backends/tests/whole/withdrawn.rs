//! Packets whose copies fail: it costs the one who is to blame.

use std::rc::Rc;

use crate::wire::{ALL, Guest, Packet, Sent, UDP, data, packet, pair};
use trunnion_backends::frame::Checksum;
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::netif::{Gso, GsoKind, RxRequest, TxRequest, tx};

const TCP: u8 = 6;

/// Puts a packet whose head is good, and whose second fragment cannot be read.
fn spoilt(one: &mut Guest, bytes: &[u8]) {
    let page = Rc::new(trunnion_protocol::shared::SharedPage::zeroed());
    page.copy_in(0, &bytes[..1000]).unwrap();
    let reference = one.world.grant(one.domain, &page, false);
    let request = |reference, flags, size| TxRequest { reference, offset: 0, flags, id: 998, size };
    one.raw(request(reference, tx::MORE, 4000).into());
    one.raw(request(GrantRef(0xffff_0000), 0, 3000).into());
}

#[test]
fn a_packet_that_is_withdrawn_leaves_its_place_to_the_next() {
    let (_lan, mut one, mut two) = pair(ALL);
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1448 });
    let sizes = [100usize, 3000, 20_000, 5000, 60_000, 900];
    for pattern in 0..64u32 {
        let offered = 100;
        two.offer(offered);
        let (mut sent, mut used) = (Vec::new(), 0);
        for (bit, size) in sizes.into_iter().enumerate() {
            let bytes = packet(two.address, one.address, false, TCP, &data(size));
            if pattern >> bit & 1 != 0 {
                let bytes = packet(two.address, one.address, false, UDP, &data(4000));
                spoilt(&mut one, &bytes);
            }
            let gso = gso.filter(|_| size > 4000);
            used += bytes.len().div_ceil(4096) + usize::from(gso.is_some());
            one.put(&Sent { bytes: bytes.clone(), blank: true, gso, first: 0 });
            sent.push(Packet { bytes, checksum: Checksum::Blank, gso });
        }
        assert_eq!(one.run(), None);
        two.take();
        assert!(two.received == sent, "pattern {pattern:b}");
        assert_eq!(two.errors, 0);
        two.received.clear();
        // What was not needed is still there.
        drain(&mut one, &mut two, offered - used);
    }
}

/// Uses up so many buffers.
fn drain(one: &mut Guest, two: &mut Guest, count: usize) {
    for _ in 0..count {
        one.put(&Sent { bytes: packet(two.address, one.address, false, UDP, b"x"), ..Sent::default() });
        assert_eq!(one.run(), None);
    }
    two.take();
    assert_eq!(two.received.len(), count);
    two.received.clear();
}

#[test]
fn buffers_that_cannot_be_written_cost_their_owner() {
    let (_lan, mut one, mut two) = pair(ALL);
    let page = Rc::new(trunnion_protocol::shared::SharedPage::zeroed());
    let readonly = two.world.grant(two.domain, &page, false);
    for reference in [readonly, GrantRef(0xffff_0000)] {
        two.rx.put(&RxRequest { id: 77, reference }).unwrap();
        let _ = two.rx.publish();
        let id =
            one.put(&Sent { bytes: packet(two.address, one.address, false, UDP, b"x"), ..Sent::default() });
        assert_eq!(one.run(), None);
        assert_eq!(one.statuses.last(), Some(&(id, 0)), "the sender is not to blame");
        let answer = two.rx.take().unwrap().expect("an answer").response();
        assert_eq!((answer.id, answer.status), (77, -1));
    }
    assert_eq!(two.counts().rx_dropped, 2);
}
