//! The handshake of the block back end, step by step, against a store.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::support::front::Front;
use crate::support::{GUEST, Host, Mapped, Store, Woken, World};
use trunnion_backends::block::{Backend, Config, Ended, Limits, Place, Statistics, serve};
use trunnion_backends::device::BlockRequest;
use trunnion_backends::faulty::{Fate, Faulty};
use trunnion_backends::ram::RamDisk;
use trunnion_protocol::blkif::protocol;
use trunnion_protocol::layout::Width;

const BACK: &str = "/local/domain/0/backend/vbd/7/51712";
const FRONT: &str = "/local/domain/7/device/vbd/51712";

type Device = Rc<Faulty<RamDisk<Vec<u8>, Mapped>, fn(&BlockRequest<Mapped>) -> Fate, Mapped>>;

/// A back end that is served, with its store.
struct Served {
    world: Rc<World>,
    store: Store,
    woken: Arc<Woken>,
    task: Pin<Box<dyn Future<Output = Ended>>>,
    statistics: Arc<Statistics>,
    device: Device,
}

impl Served {
    fn new(fate: fn(&BlockRequest<Mapped>) -> Fate) -> Self {
        let (world, store) = (World::new(), Store::default());
        for (path, value) in
            [("state", "1"), ("online", "1"), ("frontend", FRONT), ("frontend-id", "7"), ("mode", "w")]
        {
            store.set(&format!("{BACK}/{path}"), value);
        }
        store.set(&format!("{FRONT}/state"), "1");
        let device: Device = Rc::new(Faulty::new(RamDisk::new(vec![0; 1 << 20], false), fate));
        let config = Config {
            domain: GUEST,
            read_only: false,
            removable: false,
            cdrom: false,
            limits: Limits::default(),
        };
        let mut backend = Backend::new(Host(world.clone()), device.clone(), config);
        let statistics = backend.statistics();
        let place = Place { back: BACK.into(), front: FRONT.into() };
        let for_task = store.clone();
        let task = Box::pin(async move { serve(&mut backend, &for_task, &place).await });
        Self { world, store, woken: Woken::new(), task, statistics, device }
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
    fn keys(&self, front: &Front) {
        let set = |key: &str, value: String| self.store.set(&format!("{FRONT}/{key}"), &value);
        if let [reference] = front.plan.references[..] {
            set("ring-ref", reference.to_string());
        } else {
            set("ring-page-order", front.plan.references.len().ilog2().to_string());
            for (index, reference) in front.plan.references.iter().enumerate() {
                set(&format!("ring-ref{index}"), reference.to_string());
            }
        }
        set("event-channel", front.plan.port.to_string());
        set("protocol", protocol(front.plan.width).into());
    }

    fn io(&mut self, front: &mut Front) {
        front.transfer(true, 8, &[[0x5a; 4096]; 3], 0, 7);
        front.kick();
        assert_eq!(self.run(), None);
        let answers = front.responses();
        assert_eq!(answers.iter().map(|(answer, _)| answer.status).collect::<Vec<_>>(), [0]);
    }
}

fn pass(_: &BlockRequest<Mapped>) -> Fate {
    Fate::Pass
}

fn hold(_: &BlockRequest<Mapped>) -> Fate {
    Fate::Hold
}

#[test]
fn the_usual_way_up_and_down() {
    let mut served = Served::new(pass);
    assert_eq!(served.run(), None);
    assert_eq!(served.back("state").unwrap(), "2");
    assert_eq!(served.back("feature-max-indirect-segments").unwrap(), "256");
    assert_eq!(served.back("max-ring-page-order").unwrap(), "4");
    assert_eq!(served.back("feature-flush-cache").unwrap(), "1");
    assert_eq!(served.back("sectors"), None);
    let mut front = Front::new(&served.world, Width::W64, 2, 3);
    served.keys(&front);
    assert_eq!(served.set_front("3"), "4");
    assert_eq!(served.back("sectors").unwrap(), "2048");
    assert_eq!(served.back("sector-size").unwrap(), "512");
    assert_eq!(served.back("info").unwrap(), "0");
    assert_eq!(served.set_front("4"), "4");
    served.io(&mut front);
    assert_eq!(served.statistics.snapshot().writes, 1);
    assert_eq!(served.set_front("5"), "5");
    // Requests are still served while closing.
    served.io(&mut front);
    assert_eq!(served.set_front("6"), "6");
    assert_eq!(served.world.mapped.get(), 0);
}

#[test]
fn front_ends_that_jump_to_connected_are_connected() {
    let mut served = Served::new(pass);
    assert_eq!(served.run(), None);
    let mut front = Front::new(&served.world, Width::W32, 0, 3);
    served.keys(&front);
    assert_eq!(served.set_front("4"), "4");
    served.io(&mut front);
    // GRUB closes without the closing state; Linux takes over.
    assert_eq!(served.set_front("6"), "6");
    assert_eq!(served.set_front("1"), "2");
    let mut front = Front::new(&served.world, Width::W64, 0, 5);
    served.keys(&front);
    assert_eq!(served.set_front("3"), "4");
    served.io(&mut front);
    assert_eq!(served.statistics.snapshot().writes, 2);
}

#[test]
fn removal_asks_the_front_end_first() {
    let mut served = Served::new(pass);
    assert_eq!(served.run(), None);
    let front = Front::new(&served.world, Width::W64, 0, 3);
    served.keys(&front);
    assert_eq!(served.set_front("3"), "4");
    served.store.set(&format!("{BACK}/online"), "0");
    assert_eq!(served.run(), None);
    assert_eq!(served.back("state").unwrap(), "5");
    assert_eq!(served.set_front("5"), "5");
    served.store.set(&format!("{FRONT}/state"), "6");
    assert_eq!(served.run(), Some(Ended::Removed));
    assert_eq!(served.back("state").unwrap(), "6");
    assert_eq!(served.world.mapped.get(), 0);
}

#[test]
fn removal_of_a_device_that_nobody_used() {
    let mut served = Served::new(pass);
    assert_eq!(served.run(), None);
    served.store.set(&format!("{BACK}/online"), "0");
    assert_eq!(served.run(), Some(Ended::Removed));
}

#[test]
fn a_dead_guest_is_waited_for_while_the_device_has_its_pages() {
    let mut served = Served::new(hold);
    assert_eq!(served.run(), None);
    let mut front = Front::new(&served.world, Width::W64, 0, 3);
    served.keys(&front);
    assert_eq!(served.set_front("3"), "4");
    front.transfer(false, 0, &[[0; 4096]; 4], 0, 7);
    front.kick();
    assert_eq!(served.run(), None);
    assert_eq!(served.world.mapped.get(), 5);
    served.store.remove(FRONT);
    assert_eq!(served.run(), None);
    assert_eq!(served.world.mapped.get(), 4, "the ring is let go of, the data is not");
    assert!(served.device.release(0));
    assert_eq!(served.run(), Some(Ended::Gone));
    assert_eq!(served.world.mapped.get(), 0);
    // Nothing was written into the directory of a device that is gone.
    assert_eq!(served.back("state").unwrap(), "4");
}

#[test]
fn a_closing_state_with_work_in_flight_waits_for_it() {
    let mut served = Served::new(hold);
    assert_eq!(served.run(), None);
    let mut front = Front::new(&served.world, Width::W64, 0, 3);
    served.keys(&front);
    assert_eq!(served.set_front("4"), "4");
    front.transfer(false, 0, &[[0; 4096]; 4], 0, 7);
    front.kick();
    assert_eq!(served.run(), None);
    assert_eq!(served.set_front("6"), "4", "closed only when nothing is mapped");
    assert!(served.device.release(0));
    assert_eq!(served.run(), None);
    assert_eq!((served.back("state").unwrap().as_str(), served.world.mapped.get()), ("6", 0));
}

#[test]
fn a_hostile_ring_closes_the_device_and_a_new_handshake_opens_it() {
    let mut served = Served::new(pass);
    assert_eq!(served.run(), None);
    for round in 0..20 {
        let mut front = Front::new(&served.world, Width::W64, 0, 3 + round);
        served.keys(&front);
        assert_eq!(served.set_front("3"), "4");
        served.io(&mut front);
        front.memory[0].store(0, &0x8000_0000u32).unwrap();
        front.channel.kick();
        assert_eq!(served.run(), None);
        assert_eq!((served.back("state").unwrap().as_str(), served.world.mapped.get()), ("5", 0));
        assert_eq!(served.set_front("6"), "6");
        assert_eq!(served.set_front("1"), "2");
    }
}

#[test]
fn bad_keys_close_the_device() {
    for (key, value) in [
        ("ring-ref", "x"),
        ("ring-ref", "4000"),
        ("event-channel", "0"),
        ("event-channel", "99"),
        ("protocol", "vax-abi"),
        ("ring-page-order", "9"),
        ("ring-page-order", "3"),
        ("multi-queue-num-queues", "4"),
    ] {
        let mut served = Served::new(pass);
        assert_eq!(served.run(), None);
        let front = Front::new(&served.world, Width::W64, 0, 3);
        served.keys(&front);
        served.store.set(&format!("{FRONT}/{key}"), value);
        assert_eq!(served.set_front("3"), "5", "{key}={value}");
        assert_eq!(served.world.mapped.get(), 0);
        assert_eq!(served.set_front("6"), "6");
    }
}

#[test]
fn states_in_any_order_do_no_harm() {
    let mut state = 88_172_645_463_325_252u64;
    let mut served = Served::new(pass);
    assert_eq!(served.run(), None);
    let mut next = 3;
    for _ in 0..3000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if (state >> 20).is_multiple_of(3) {
            let front = Front::new(&served.world, Width::W64, (state >> 40) as u32 % 3, next);
            next += 1;
            served.keys(&front);
        }
        let text = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "", "44"][((state >> 30) % 10 + 1) as usize];
        // 0 and nonsense mean that the front end is gone.
        if matches!(text, "" | "44") {
            continue;
        }
        let own = served.set_front(text);
        if own == "6" || own == "2" {
            assert_eq!(served.world.mapped.get(), 0);
        }
    }
    served.store.set(&format!("{FRONT}/state"), "");
    assert_eq!(served.run(), Some(Ended::Gone));
    assert_eq!(served.world.mapped.get(), 0);
}
