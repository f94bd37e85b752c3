//! The handshake of the network back end, step by step, against a store.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::support::{Store, Woken};
use crate::wire::{ALL, Guest, Lan, Sent, packet};
use trunnion_backends::net::{Ended, Place, serve};
use trunnion_protocol::id::DomainId;

const BACK: &str = "/local/domain/0/backend/vif/7/0";
const FRONT: &str = "/local/domain/7/device/vif/0";

struct Served {
    lan: Lan,
    store: Store,
    woken: Arc<Woken>,
    task: Pin<Box<dyn Future<Output = Ended>>>,
    guest: Guest,
}

impl Served {
    fn new() -> Self {
        let (lan, store) = (Lan::new(), Store::default());
        for (path, value) in [("state", "1"), ("online", "1"), ("frontend", FRONT), ("frontend-id", "7")] {
            store.set(&format!("{BACK}/{path}"), value);
        }
        store.set(&format!("{FRONT}/state"), "1");
        let guest = lan.guest(7, ALL, |_| {});
        guest.vif.disconnect();
        let place = Place { back: BACK.into(), front: FRONT.into() };
        let (vif, for_task) = (Rc::clone(&guest.vif), store.clone());
        let task = Box::pin(async move { serve(&vif, &for_task, &place).await });
        let mut served = Self { lan, store, woken: Woken::new(), task, guest };
        assert_eq!(served.run(), None);
        served
    }

    fn run(&mut self) -> Option<Ended> {
        self.woken.run_future(&mut self.task)
    }

    fn back(&self, key: &str) -> Option<String> {
        self.store.get(&format!("{BACK}/{key}"))
    }

    fn set_front(&mut self, state: &str) -> String {
        self.store.set(&format!("{FRONT}/state"), state);
        assert_eq!(self.run(), None);
        self.back("state").unwrap()
    }

    /// Writes a front end's keys.
    fn keys(&self) {
        let world = &self.lan.world;
        let set = |key: &str, value: u32| self.store.set(&format!("{FRONT}/{key}"), &value.to_string());
        set("tx-ring-ref", world.grant(DomainId(7), &self.guest.tx_page.0, true).0);
        set("rx-ring-ref", world.grant(DomainId(7), &self.guest.rx_page.0, true).0);
        set("event-channel", 3);
        set("request-rx-copy", 1);
        set("feature-sg", 1);
    }
}

#[test]
fn the_usual_way_up_and_down() {
    let mut served = Served::new();
    assert_eq!(served.back("state").unwrap(), "2");
    for (key, value) in [
        ("feature-rx-copy", "1"),
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-split-event-channels", "1"),
        ("feature-multicast-control", "1"),
        ("multi-queue-max-queues", "4"),
    ] {
        assert_eq!(served.back(key).unwrap(), value, "{key}");
    }
    served.keys();
    assert_eq!(served.set_front("3"), "2", "a network connects at 4 only");
    assert_eq!(served.set_front("4"), "4");
    assert_eq!(served.back("carrier").unwrap(), "1");
    assert_eq!((served.lan.world.mapped.get(), served.lan.bridge.ports()), (2, 1));
    let bytes = packet([2; 6], served.guest.address, false, 17, b"x");
    served.guest.put(&Sent { bytes, ..Sent::default() });
    assert_eq!(served.guest.run(), None);
    assert_eq!(served.guest.counts().tx_packets, 1);
    assert_eq!(served.set_front("5"), "5");
    assert_eq!((served.lan.world.mapped.get(), served.lan.bridge.ports()), (0, 0));
    assert_eq!(served.set_front("6"), "6");
    // A second kernel takes the device over.
    assert_eq!(served.set_front("1"), "2");
    served.keys();
    assert_eq!(served.set_front("4"), "4");
    // It starts again without closing.
    assert_eq!(served.set_front("1"), "2");
    assert_eq!(served.lan.world.mapped.get(), 0);
}

#[test]
fn removal_asks_the_front_end_first() {
    let mut served = Served::new();
    served.keys();
    assert_eq!(served.set_front("4"), "4");
    served.store.set(&format!("{BACK}/online"), "0");
    assert_eq!(served.run(), None);
    assert_eq!(served.back("state").unwrap(), "5");
    served.store.set(&format!("{FRONT}/state"), "6");
    assert_eq!(served.run(), Some(Ended::Removed));
    assert_eq!((served.back("state").unwrap().as_str(), served.lan.world.mapped.get()), ("6", 0));
}

#[test]
fn removal_of_a_port_that_nobody_used_and_of_a_dead_guest() {
    let mut served = Served::new();
    served.store.set(&format!("{BACK}/online"), "0");
    assert_eq!(served.run(), Some(Ended::Removed));
    let mut served = Served::new();
    served.keys();
    assert_eq!(served.set_front("4"), "4");
    served.store.remove(FRONT);
    assert_eq!(served.run(), Some(Ended::Gone));
    assert_eq!((served.lan.world.mapped.get(), served.lan.bridge.ports()), (0, 0));
}

#[test]
fn bad_keys_close_the_device() {
    for (key, value) in [
        ("tx-ring-ref", "x"),
        ("rx-ring-ref", "4000"),
        ("event-channel", "0"),
        ("event-channel", "99"),
        ("request-rx-copy", "0"),
        ("multi-queue-num-queues", "9"),
        ("multi-queue-num-queues", "2"),
        ("feature-sg", "often"),
    ] {
        let mut served = Served::new();
        served.keys();
        served.store.set(&format!("{FRONT}/{key}"), value);
        assert_eq!(served.set_front("4"), "5", "{key}={value}");
        assert_eq!((served.lan.world.mapped.get(), served.lan.bridge.ports()), (0, 0));
        assert_eq!(served.set_front("6"), "6");
        served.store.set(&format!("{FRONT}/multi-queue-num-queues"), "1");
        assert_eq!(served.set_front("1"), "2");
        served.keys();
        assert_eq!(served.set_front("4"), "4");
    }
}

#[test]
fn states_in_any_order_do_no_harm() {
    let mut state = 88_172_645_463_325_252u64;
    let mut served = Served::new();
    for _ in 0..3000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if (state >> 20).is_multiple_of(3) {
            served.keys();
        }
        let own = served.set_front(["1", "2", "3", "4", "5", "6", "7", "8"][(state >> 30) as usize % 8]);
        if own != "4" {
            assert_eq!((served.lan.world.mapped.get(), served.lan.bridge.ports()), (0, 0));
        }
    }
}
