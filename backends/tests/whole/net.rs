//! The network back end's data path, from ring to ring.

use std::rc::Rc;
use std::time::Duration;

use crate::wire::{ALL, Guest, Lan, Packet, Reader, Sent, UDP, data, packet, pair};
use trunnion_backends::frame::Checksum;
use trunnion_backends::net::keys::{Features, LinkPlan, PortPlan, QueuePlan};
use trunnion_backends::net::{Fault, offload};
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::netif::{EXTRA_MORE, ExtraInfo, ExtraKind, Gso, GsoKind, TxRequest, tx};

const TCP: u8 = 6;

#[test]
fn a_frame_between_guests_is_copied_once() {
    let (lan, mut one, mut two) = pair(ALL);
    two.offer(40);
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1448 });
    let bytes = packet(two.address, one.address, false, TCP, &data(60_000));
    let length = bytes.len() as u64;
    for first in [0, 66, 1000, 4096] {
        let calls = lan.world.copy_calls.get();
        lan.world.copied.set((0, 0));
        one.put(&Sent { bytes: bytes.clone(), blank: true, gso, first });
        assert_eq!(one.run(), None);
        two.take();
        assert_eq!(two.received, [Packet { bytes: bytes.clone(), checksum: Checksum::Blank, gso }]);
        two.received.clear();
        assert_eq!(lan.world.copy_calls.get() - calls, 2);
        // The first bytes are looked at in a private copy, and only they are copied again.
        assert_eq!(lan.world.copied.get().0, length + 192);
        two.offer(16);
    }
    let notified = two.channel.notified.get();
    for _ in 0..10 {
        one.put(&Sent { bytes: bytes[..1000].to_vec(), ..Sent::default() });
    }
    assert_eq!(one.run(), None);
    two.take();
    assert_eq!((two.received.len(), two.channel.notified.get() - notified), (10, 1), "a run is one event");
    assert_eq!((one.unanswered(), one.errors + two.errors), (0, 0));
}

#[test]
fn every_length_and_every_cut_arrives() {
    let (_lan, mut one, mut two) = pair(ALL);
    two.offer(250);
    let mut sent = Vec::new();
    for length in
        [0usize, 1, 100, 149, 150, 151, 214, 215, 300, 1000, 1472, 3000, 4054, 4055, 4096, 9000, 20000]
    {
        for first in [0, 42, 60, 200, 333] {
            let bytes = packet(two.address, one.address, false, UDP, &data(length));
            one.put(&Sent { bytes: bytes.clone(), first: first.min(bytes.len()), ..Sent::default() });
            sent.push(bytes);
            assert_eq!(one.run(), None);
            two.take();
            let used = two.received.last().unwrap().bytes.len().div_ceil(4096);
            two.offer(used);
        }
    }
    let got: Vec<_> = two.received.iter().map(|packet| packet.bytes.clone()).collect();
    assert!(got == sent);
    assert!(one.statuses.iter().all(|(_, status)| *status == 0));
    assert_eq!(two.counts().rx_packets, 1 + sent.len() as u64);
}

#[test]
fn guests_without_offloads_get_what_they_can_take() {
    for (v6, kind) in [(false, GsoKind::TcpV4), (true, GsoKind::TcpV6)] {
        for sg in [false, true] {
            let (_lan, mut one, mut two) = pair(Features { sg, ..Features::default() });
            two.offer(200);
            let payload = data(50_000);
            let bytes = packet(two.address, one.address, v6, TCP, &payload);
            one.put(&Sent { bytes, blank: true, gso: Some(Gso { kind, size: 1448 }), first: 0 });
            assert_eq!(one.run(), None);
            two.take();
            assert_eq!(two.received.len(), 50_000usize.div_ceil(1448));
            let mut got = Vec::new();
            for packet in &two.received {
                assert_eq!((packet.checksum, packet.gso), (Checksum::Good, None));
                assert!(offload::is_good(&packet.bytes));
                let headers = offload::headers(&packet.bytes).unwrap();
                got.extend_from_slice(&packet.bytes[headers.transport + 20..]);
            }
            assert!(got == payload);
            two.received.clear();
            let small = packet(two.address, one.address, v6, UDP, &data(900));
            one.put(&Sent { bytes: small, blank: true, ..Sent::default() });
            assert_eq!(one.run(), None);
            two.take();
            assert_eq!(two.received.len(), 1);
            assert_eq!(two.received[0].checksum, Checksum::Good);
            assert!(offload::is_good(&two.received[0].bytes));
            // A jumbo frame needs several buffers.
            let jumbo = packet(two.address, one.address, v6, UDP, &data(8000));
            one.put(&Sent { bytes: jumbo, ..Sent::default() });
            assert_eq!(one.run(), None);
            two.take();
            assert_eq!(two.received.len(), if sg { 2 } else { 1 });
        }
    }
}

#[test]
fn whoever_reads_gets_whole_packets_in_one_hypercall() {
    let lan = Lan::new();
    let reader = Rc::new(Reader::default());
    lan.bridge.join(reader.clone(), Duration::ZERO);
    let mut one = lan.guest(1, ALL, |_| {});
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1448 });
    let bytes = packet([2; 6], one.address, false, TCP, &data(30_000));
    for round in 0..3 {
        let calls = lan.world.copy_calls.get();
        one.put(&Sent { bytes: bytes.clone(), blank: true, gso, first: 0 });
        assert_eq!(one.run(), None);
        assert_eq!(lan.world.copy_calls.get() - calls, 1);
        // The first comes in pieces that this reader cannot see.
        let frames = reader.frames.take();
        assert_eq!(frames[0].bytes.len(), if round == 0 { 192 } else { bytes.len() });
    }
    assert_eq!(reader.flushes.get(), 3);
}

#[test]
fn a_guest_without_buffers_costs_others_nothing() {
    let lan = Lan::new();
    let mut one = lan.guest(1, ALL, |_| {});
    let mut deaf = lan.guest(2, ALL, |_| {});
    let mut three = lan.guest(3, ALL, |_| {});
    for guest in [&mut deaf, &mut three] {
        guest.put(&Sent { bytes: packet([4; 6], guest.address, false, UDP, b""), ..Sent::default() });
        assert_eq!(guest.run(), None);
    }
    three.offer(100);
    assert_eq!(three.poll(), None);
    three.take();
    three.received.clear();
    let to_deaf = packet(deaf.address, one.address, false, UDP, &data(1400));
    let to_three = packet(three.address, one.address, false, UDP, &data(1400));
    let mut kept = 0;
    for _ in 0..2000 {
        one.put(&Sent { bytes: to_deaf.clone(), ..Sent::default() });
        one.put(&Sent { bytes: to_three.clone(), ..Sent::default() });
        assert_eq!(one.run(), None);
        assert_eq!(one.unanswered(), 0, "a sender waits for nobody");
        three.take();
        three.offer(three.received.len());
        kept += three.received.len();
        three.received.clear();
    }
    assert_eq!((kept, three.counts().rx_dropped), (2000, 0));
    let dropped = deaf.counts().rx_dropped;
    assert!((1200..1999).contains(&dropped), "about a MiB is kept, the rest is counted: {dropped}");
    // What was kept comes whole, in order, once there are buffers; the rest is gone.
    deaf.offer(250);
    assert_eq!(deaf.poll(), None);
    deaf.take();
    let got = deaf.received.iter().filter(|packet| packet.bytes == to_deaf).count();
    assert!(got >= 249, "{got}");
    // Frames that wait too long are dropped.
    lan.world.now.set(Duration::from_mins(1));
    assert_eq!(deaf.poll(), None);
    deaf.offer(10);
    assert_eq!(deaf.poll(), None);
    deaf.received.clear();
    deaf.take();
    assert_eq!(deaf.received.len(), 0);
    assert_eq!(deaf.counts().rx_packets + deaf.counts().rx_dropped, 2000 + 1);
}

#[test]
fn guests_without_buffers_share_one_limit() {
    let lan = Lan::new();
    let mut one = lan.guest(1, ALL, |_| {});
    let mut deaf: Vec<Guest> = (2..8).map(|domain| lan.guest(domain, ALL, |_| {})).collect();
    for guest in &mut deaf {
        guest.put(&Sent { bytes: packet([4; 6], guest.address, false, UDP, b""), ..Sent::default() });
        assert_eq!(guest.run(), None);
    }
    let fill = |one: &mut Guest, to: &Guest| {
        let before = to.counts().rx_dropped;
        let bytes = packet(to.address, one.address, false, UDP, &data(1400));
        for _ in 0..800 {
            one.put(&Sent { bytes: bytes.clone(), ..Sent::default() });
            assert_eq!(one.run(), None);
        }
        800 - (to.counts().rx_dropped - before)
    };
    let kept: Vec<u64> = deaf.iter().map(|to| fill(&mut one, to)).collect();
    assert!(kept[0] > 700 && kept[5] == 0, "{kept:?}");
    assert!(kept.iter().sum::<u64>() * 1442 < 4 << 20, "{kept:?}");
    // What one had is there for another when it goes.
    deaf[0].vif.disconnect();
    assert!(fill(&mut one, &deaf[5]) > 600);
    // Frames that waited for too long are not delivered to who comes back.
    lan.world.now.set(Duration::from_secs(11));
    deaf[1].offer(100);
    assert_eq!(deaf[1].poll(), None);
    deaf[1].take();
    assert_eq!(deaf[1].received.len(), 0);
}

#[test]
fn only_own_addresses_leave() {
    let (_lan, mut one, mut two) = pair(ALL);
    two.offer(10);
    let id = one.put(&Sent { bytes: packet(two.address, [2; 6], false, UDP, b"x"), ..Sent::default() });
    let group = one.put(&Sent { bytes: packet(two.address, [1; 6], false, UDP, b"x"), ..Sent::default() });
    assert_eq!(one.run(), None);
    two.take();
    assert_eq!(two.received.len(), 0);
    assert_eq!(one.statuses[1..], [(id, -1), (group, -1)]);
    assert_eq!(one.counts().tx_dropped, 2);
    let lan = Lan::new();
    let mut any = lan.guest(1, ALL, |config| config.any_address = true);
    let mut two = lan.guest(2, ALL, |_| {});
    two.offer(1);
    any.put(&Sent { bytes: packet(two.address, [2; 6], false, UDP, b"x"), ..Sent::default() });
    assert_eq!(any.run(), None);
    two.take();
    assert_eq!(two.received.len(), 1);
}

#[test]
fn tags_pass_and_keep_networks_apart() {
    let (_lan, mut one, mut two) = pair(ALL);
    two.offer(10);
    let mut bytes = packet(two.address, one.address, false, UDP, &data(100));
    bytes.splice(12..12, [0x81, 0, 0x20, 5]);
    one.put(&Sent { bytes: bytes.clone(), blank: true, ..Sent::default() });
    assert_eq!(one.run(), None);
    two.take();
    assert_eq!(two.received, [Packet { bytes, checksum: Checksum::Blank, gso: None }]);
}

#[test]
fn groups_are_filtered_when_asked() {
    let lan = Lan::new();
    let mut one = lan.guest(1, ALL, |_| {});
    let mut two = lan.guest(2, Features { multicast_control: true, ..ALL }, |_| {});
    two.offer(20);
    let group = [1, 0, 0x5e, 0, 0, 9];
    let mut send = |two: &mut Guest, to: [u8; 6]| {
        one.put(&Sent { bytes: packet(to, one.address, false, UDP, b"x"), ..Sent::default() });
        assert_eq!(one.run(), None);
        two.take();
        let count = two.received.len();
        two.received.clear();
        count
    };
    let control = |two: &mut Guest, kind| {
        two.raw(TxRequest { flags: tx::EXTRA, id: 7, ..TxRequest::default() }.into());
        two.raw(ExtraInfo::multicast(kind, group).into());
        assert_eq!(two.run(), None);
        two.statuses.pop()
    };
    assert_eq!((send(&mut two, group), send(&mut two, [0xff; 6])), (0, 1));
    assert_eq!(
        control(&mut two, ExtraKind::MulticastAdd),
        Some((7, -1)),
        "a request of no bytes is no packet"
    );
    assert_eq!(send(&mut two, group), 1, "but the group is heard");
    control(&mut two, ExtraKind::MulticastDelete);
    assert_eq!(send(&mut two, group), 0);
}

#[test]
fn rates_hold() {
    let lan = Lan::new();
    let mut one = lan.guest(1, ALL, |config| config.rate = Some(1_000_000));
    let mut two = lan.guest(2, ALL, |_| {});
    let bytes = packet(two.address, one.address, false, UDP, &data(1400));
    two.offer(100);
    let mut got = 0;
    while lan.world.now.get() < Duration::from_secs(2) {
        while one.tx.free() > 0 {
            one.put(&Sent { bytes: bytes.clone(), ..Sent::default() });
        }
        assert_eq!(one.run(), None);
        two.take();
        two.offer(two.received.len());
        got += two.received.iter().map(|packet| packet.bytes.len()).sum::<usize>();
        two.received.clear();
        lan.world.now.set(lan.world.now.get() + Duration::from_millis(1));
    }
    assert!((2_000_000..2_100_000).contains(&got), "{got}");
}

#[test]
fn the_last_packet_of_a_run_counts_too() {
    let lan = Lan::new();
    let mut one = lan.guest(1, ALL, |config| config.rate = Some(1_000_000));
    let two = lan.guest(2, ALL, |_| {});
    let small = packet(two.address, one.address, false, UDP, b"");
    let large = packet(two.address, one.address, false, UDP, &data(40_000));
    let mut sent = 0;
    while lan.world.now.get() < Duration::from_secs(2) {
        // A run has 64 packets.
        for _ in 0..63 {
            one.put(&Sent { bytes: small.clone(), ..Sent::default() });
        }
        one.put(&Sent { bytes: large.clone(), ..Sent::default() });
        assert_eq!(one.run(), None);
        while one.unanswered() > 0 {
            lan.world.now.set(lan.world.now.get() + Duration::from_millis(1));
            assert_eq!(one.run(), None);
        }
        sent += 63 * small.len() + large.len();
    }
    let used = lan.world.now.get();
    assert!(sent as u128 <= used.as_micros() + 150_000, "{sent} bytes in {used:?}");
}

#[test]
fn a_run_becomes_a_bounded_number_of_frames() {
    let (_lan, mut one, mut two) = pair(Features::default());
    let bytes = packet(two.address, one.address, false, TCP, &data(8_000));
    let gso = |size| Some(Gso { kind: GsoKind::TcpV4, size });
    let tiny = one.put(&Sent { bytes: bytes.clone(), blank: true, gso: gso(1), first: 0 });
    assert_eq!(one.run(), None);
    assert_eq!(one.statuses.last(), Some(&(tiny, -1)), "nobody cuts so small");
    for _ in 0..20 {
        one.put(&Sent { bytes: bytes.clone(), blank: true, gso: gso(8), first: 0 });
    }
    let _ = one.tx.publish();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    two.take();
    for run in 1..=10 {
        assert!(one.vif.poll(&mut context).is_pending());
        one.take();
        assert!(20 - one.unanswered() <= run * 2, "run {run}: {} wait", one.unanswered());
    }
}

#[test]
fn malformed_packets_cost_themselves() {
    let (_lan, mut one, mut two) = pair(ALL);
    two.offer(100);
    let good = packet(two.address, one.address, false, TCP, &data(3000));
    let sent = |blank, gso, bytes: &[u8]| Sent { bytes: bytes.to_vec(), blank, gso, first: 0 };
    let v4 = Some(Gso { kind: GsoKind::TcpV4, size: 1000 });
    // Too short; a large packet that is not blank, of the other protocol, and not TCP; a blank checksum of nothing.
    let ids = [
        one.put(&sent(false, None, &good[..13])),
        one.put(&sent(false, v4, &good)),
        one.put(&sent(true, Some(Gso { kind: GsoKind::TcpV6, size: 1000 }), &good)),
        one.put(&sent(true, v4, &packet(two.address, one.address, false, UDP, &data(3000)))),
        one.put(&sent(true, None, &packet(two.address, one.address, false, 1, b"ping"))),
        one.put(&sent(true, Some(Gso { kind: GsoKind::TcpV4, size: 0 }), &good)),
    ];
    assert_eq!(one.run(), None);
    // References that do not exist, places outside of the page, fragments larger than the whole.
    let raw = |one: &mut Guest, flags, offset, size, reference| {
        one.raw(TxRequest { reference: GrantRef(reference), offset, flags, id: 999, size }.into());
    };
    raw(&mut one, 0, 0, 1000, 0xffff_0000);
    raw(&mut one, 0, 4000, 1000, 8);
    raw(&mut one, 0, 0xffff, 0xffff, 8);
    raw(&mut one, tx::MORE, 0, 100, 8);
    raw(&mut one, 0, 0, 200, 8);
    raw(&mut one, tx::MORE, 0, 0xffff, 8);
    raw(&mut one, 0, 0, 10, 8);
    assert_eq!(one.run(), None);
    two.take();
    assert_eq!((two.received.len(), two.errors), (0, 0));
    for id in ids {
        assert!(one.statuses.contains(&(id, -1)), "{id}");
    }
    assert_eq!(one.statuses.iter().filter(|answer| **answer == (999, -1)).count(), 7);
    // A fragment that cannot be read spoils a packet whose head was good: the receiver hears nothing of it.
    let page = Rc::new(trunnion_protocol::shared::SharedPage::zeroed());
    page.copy_in(0, &good[..1000]).unwrap();
    let reference = one.world.grant(one.domain, &page, false);
    one.raw(TxRequest { reference, offset: 0, flags: tx::MORE, id: 998, size: 2000 }.into());
    raw(&mut one, 0, 0, 1000, 0xffff_0000);
    assert_eq!(one.run(), None);
    two.take();
    assert_eq!((two.received.len(), two.errors), (0, 0));
    // And afterwards everything works.
    one.put(&sent(false, None, &good));
    assert_eq!(one.run(), None);
    two.take();
    assert_eq!(two.received.len(), 1);
}

#[test]
fn nonsense_in_the_ring_ends_the_connection() {
    // A chain without end.
    let (lan, mut one, _two) = pair(ALL);
    for _ in 0..100 {
        one.raw(TxRequest { reference: GrantRef(8), offset: 0, flags: tx::MORE, id: 1, size: 10 }.into());
    }
    assert_eq!(one.run(), Some(Fault::Chain));
    assert!(!one.vif.is_connected());
    assert_eq!(lan.bridge.ports(), 1);
    // Extra information without end.
    let (_lan, mut one, _two) = pair(ALL);
    one.raw(TxRequest { flags: tx::EXTRA, ..TxRequest::default() }.into());
    for _ in 0..100 {
        one.raw(ExtraInfo { kind: 4, flags: EXTRA_MORE, payload: [0; 6] }.into());
    }
    assert_eq!(one.run(), Some(Fault::Chain));
    // A packet that is not all there.
    let (_lan, mut one, _two) = pair(ALL);
    one.raw(TxRequest { flags: tx::MORE, ..TxRequest::default() }.into());
    assert_eq!(one.run(), Some(Fault::Cut));
    // Indices that jump, in either ring, the second while somebody else sends.
    let (_lan, mut one, _two) = pair(ALL);
    one.tx_page.0.store(0, &0x7000_0000u32).unwrap();
    assert!(matches!(one.run(), Some(Fault::Ring(_))));
    let (lan, mut one, mut two) = pair(ALL);
    two.rx_page.0.store(0, &0x7000_0000u32).unwrap();
    one.put(&Sent { bytes: packet(two.address, one.address, false, UDP, b"x"), ..Sent::default() });
    assert_eq!(one.run(), None);
    assert!(matches!(two.run(), Some(Fault::Ring(_))));
    assert_eq!(lan.world.mapped.get(), 2, "only the other guest's rings are mapped");
}

#[test]
fn several_queues_share_the_flows() {
    let lan = Lan::new();
    let mut one = lan.guest(1, ALL, |_| {});
    let vif = lan.vif(2, |_| {});
    // Four queues of one guest, each with rings that belong to a guest's half.
    let mut halves: Vec<Guest> = (0..4).map(|n| lan.guest(20 + n, ALL, |_| {})).collect();
    halves.iter().for_each(|half| half.vif.disconnect());
    let domain = vif.config().domain;
    let queues = halves
        .iter()
        .zip(1..)
        .map(|(half, number)| QueuePlan {
            tx: lan.world.grant(domain, &half.tx_page.0, true),
            rx: lan.world.grant(domain, &half.rx_page.0, true),
            port: PortPlan::Two(Port(number * 2), Port(number * 2 + 1)),
        })
        .collect();
    let plan = LinkPlan { queues, features: ALL };
    // Ports that do not exist: nothing is left behind.
    let mapped = lan.world.mapped.get();
    assert!(matches!(vif.connect(&plan), Err(Fault::Port(_))));
    assert_eq!((lan.world.mapped.get(), lan.bridge.ports()), (mapped, 1));
    (2..10).for_each(|port| drop(lan.world.open(domain, port)));
    vif.connect(&plan).unwrap();
    assert_eq!(lan.world.mapped.get(), mapped + 8);
    // Each half offers buffers with grants of the guest that has all four queues.
    for half in &mut halves {
        half.domain = domain;
        half.offer(100);
    }
    for port in 0..100u16 {
        let mut bytes = packet(vif.config().address, one.address, false, UDP, b"x");
        bytes[34..36].copy_from_slice(&port.to_be_bytes());
        one.put(&Sent { bytes, ..Sent::default() });
        assert_eq!(one.run(), None);
    }
    let got: Vec<usize> = halves
        .iter_mut()
        .map(|half| {
            half.take();
            half.received.len()
        })
        .collect();
    assert_eq!(got.iter().sum::<usize>(), 100);
    assert!(got.iter().all(|count| *count > 5), "{got:?}");
    vif.disconnect();
    assert_eq!(lan.world.mapped.get(), mapped);
}

#[test]
fn random_slots_do_no_harm() {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let (lan, mut one, mut two) = pair(ALL);
        two.offer(200);
        let page = Rc::new(trunnion_protocol::shared::SharedPage::zeroed());
        page.copy_in(0, &packet(two.address, one.address, false, TCP, &data(2000))).unwrap();
        let good = one.world.grant(one.domain, &page, next() & 1 == 0);
        for _ in 0..next() % 40 {
            let word = next();
            let request = TxRequest {
                reference: if word & 3 == 0 { GrantRef((word >> 8) as u32) } else { good },
                offset: if word & 0xc == 0 { (word >> 40) as u16 } else { 0 },
                flags: if word & 0x30 == 0 { (word >> 16) as u16 } else { (word >> 16) as u16 & 3 },
                id: (word >> 24) as u16,
                size: if word & 0xc0 == 0 { (word >> 48) as u16 } else { 60 + (word >> 48) as u16 % 1900 },
            };
            one.raw(request.into());
        }
        let fault = one.run();
        two.take();
        if fault.is_some() {
            assert!(!one.vif.is_connected());
        }
        assert_eq!(lan.world.mapped.get(), if fault.is_some() { 2 } else { 4 });
        // The other is unharmed.
        assert!(two.vif.is_connected());
        let (sender, bytes) = (&mut two, packet([6; 6], [0, 0x16, 0x3e, 0, 0, 2], false, UDP, b"x"));
        sender.put(&Sent { bytes, ..Sent::default() });
        assert_eq!(sender.run(), None);
        assert_eq!(sender.statuses.last().map(|(_, status)| *status), Some(0));
    }
}
