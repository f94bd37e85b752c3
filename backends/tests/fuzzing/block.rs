//! A front end of malice against the block back end, in a few connections: keys of junk, keys that vanish or change in the
//! middle of a connection, states in any order, reconnect storms, kicks without work, requests of nonsense, indices that jump,
//! grants that are revoked, used twice or read-only. The back end neither panics nor spins, and lets everything go.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use super::Source;
use crate::support::front::Front;
use crate::support::{GUEST, Host, Mapped, Store, Woken, World};
use trunnion_backends::block::{Backend, Config, Ended, Limits, Place, serve};
use trunnion_backends::host::GrantCopier;
use trunnion_backends::ram::RamDisk;
use trunnion_protocol::blkif::request::{Indirect, Request, Segment, Transfer};
use trunnion_protocol::blkif::{Operation, protocol};
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::layout::Width;

const BACK: &str = "/local/domain/0/backend/vbd/7/51712";
const FRONT: &str = "/local/domain/7/device/vbd/51712";

struct Attack {
    random: Source,
    world: Rc<World>,
    store: Store,
    woken: Arc<Woken>,
    task: Pin<Box<dyn Future<Output = Ended>>>,
    ended: Option<Ended>,
    connections: u32,
    next_port: u32,
}

impl Attack {
    fn new(mut random: Source) -> Self {
        let (world, store) = (World::new(), Store::default());
        for (path, value) in
            [("state", "1"), ("online", "1"), ("frontend", FRONT), ("frontend-id", "7"), ("mode", "w")]
        {
            store.set(&format!("{BACK}/{path}"), value);
        }
        store.set(&format!("{FRONT}/state"), "1");
        let mut device: RamDisk<Vec<u8>, Mapped> = RamDisk::new(vec![0; 1 << 16], false);
        if random.one_in(2) {
            let (_, first) = Host(world.clone()).local(16).expect("there is memory");
            device = device.placed(first);
        }
        let limits = Limits::default();
        let config =
            Config { domain: GUEST, read_only: random.one_in(2), removable: false, cdrom: false, limits };
        let mut backend = Backend::new(Host(world.clone()), device, config);
        let place = Place { back: BACK.into(), front: FRONT.into() };
        let for_task = store.clone();
        let task = Box::pin(async move { serve(&mut backend, &for_task, &place).await });
        Self { random, world, store, woken: Woken::new(), task, ended: None, connections: 0, next_port: 3 }
    }

    /// Lets the back end run until it sleeps. It panics where the back end never does.
    fn run(&mut self) {
        if self.ended.is_none() {
            self.ended = self.woken.run_future(&mut self.task);
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        self.store.set(&format!("{FRONT}/{key}"), value);
        if self.random.one_in(3) {
            self.run();
        }
    }

    fn state(&self) -> String {
        self.store.get(&format!("{BACK}/state")).unwrap_or_default()
    }

    /// A handshake with something wrong in it, as often as not; the keys may vanish or change before they are read.
    fn handshake(&mut self) -> Front {
        let (order, width) =
            (self.random.below(3) as u32, [Width::W64, Width::W32][self.random.below(2) as usize]);
        self.next_port += 1;
        let front = Front::new(&self.world, width, order, self.next_port);
        let mut keys: Vec<(String, String)> = vec![
            ("event-channel".into(), front.plan.port.to_string()),
            ("protocol".into(), protocol(width).into()),
            ("feature-persistent".into(), self.random.below(2).to_string()),
        ];
        if let [reference] = front.plan.references[..] {
            keys.push(("ring-ref".into(), reference.to_string()));
        } else {
            keys.push(("ring-page-order".into(), order.to_string()));
            let pages = front.plan.references.iter().enumerate();
            keys.extend(pages.map(|(index, reference)| (format!("ring-ref{index}"), reference.to_string())));
        }
        for (key, value) in keys {
            let junk = ["", "-1", "0", "4294967296", "99999999999999999999", "x", "4\u{0}4", "é"];
            let (pick, bits) =
                (self.random.below(junk.len() as u64) as usize, self.random.bits().to_string());
            match self.random.below(40) {
                0 => {}
                1 => self.set(&key, junk[pick]),
                2 => self.set(&key, &bits),
                _ => self.set(&key, &value),
            }
        }
        let connect = ["3", "4"][self.random.below(2) as usize];
        self.store.set(&format!("{FRONT}/state"), connect);
        if self.random.one_in(10) {
            self.store.remove(&format!("{FRONT}/event-channel"));
        }
        self.run();
        self.connections += u32::from(self.state() == "4");
        front
    }

    fn request(&mut self, front: &Front) -> Request {
        let id = self.random.bits();
        let mut segments = [Segment::default(); 11];
        for segment in &mut segments {
            let reference = match self.random.below(4) {
                0 => GrantRef(self.random.bits() as u32),
                1 => front.plan.references[0],
                _ => self.world.grant(&front.memory[0], self.random.one_in(2)),
            };
            *segment =
                Segment { reference, first: self.random.below(9) as u8, last: self.random.below(9) as u8 };
        }
        let operations = [Operation::Read, Operation::Write, Operation::WriteBarrier];
        let operation = operations[self.random.below(3) as usize];
        let sector = if self.random.one_in(3) { self.random.bits() } else { self.random.below(140) };
        match self.random.below(4) {
            0 => Request::Flush { handle: self.random.bits() as u16, id },
            1 => Request::Indirect(Indirect {
                operation: 6,
                inner: self.random.below(8) as u8,
                count: self.random.bits() as u16,
                id,
                sector,
                handle: 0,
                pages: [segments[0].reference; 8],
            }),
            _ => Request::Transfer(Transfer {
                operation,
                handle: 0,
                id,
                sector,
                count: self.random.below(14) as u8,
                segments,
            }),
        }
    }

    /// Traffic of nonsense over whatever connection there is.
    fn traffic(&mut self, front: &mut Front) {
        for _ in 0..self.random.below(60) {
            if self.random.is_spent() {
                break;
            }
            match self.random.below(12) {
                0 => front.channel.kick(),
                1 => {
                    // Indices and slots, by hand.
                    let page = &front.memory[self.random.below(front.memory.len() as u64) as usize];
                    let _ = page.store(self.random.below(1024) as usize * 4, &(self.random.bits() as u32));
                    front.channel.kick();
                }
                2 => {
                    // A grant is taken back behind the back end's back.
                    let last = self.world.grants.borrow().keys().next_back().copied();
                    if let Some(last) = last {
                        let mapped = self
                            .world
                            .grants
                            .borrow()
                            .get(&last)
                            .is_some_and(|granted| granted.maps.get() > 0);
                        if !mapped {
                            self.world.grants.borrow_mut().remove(&last);
                        }
                    }
                }
                3 => {
                    let state = self.random.below(10).to_string();
                    // 0 and what is no state mean that the guest is gone, which ends the attack.
                    if !matches!(state.as_str(), "0" | "9") {
                        self.set("state", &state);
                    }
                }
                4 => self.set("feature-persistent", "1"),
                _ => {
                    let request = self.request(front);
                    if front.ring.free() > 0 {
                        front.raw(&request);
                    }
                    let _ = front.ring.publish();
                    front.channel.kick();
                }
            }
            if self.random.one_in(2) {
                self.run();
            }
            while let Ok(Some(_)) = front.ring.take() {}
        }
    }
}

/// What the cases reached.
#[derive(Default, Debug)]
pub struct Reached {
    pub cases: u64,
    pub connections: u64,
    /// How the back ends ended: the guest gone, the device removed, otherwise.
    pub ends: [u64; 3],
}

/// A case.
pub fn case(source: Source, reached: &mut Reached) {
    let name = source.clone();
    let mut attack = Attack::new(source);
    attack.run();
    for _ in 0..=attack.random.below(6) {
        let mut front = attack.handshake();
        attack.traffic(&mut front);
        // A storm: closed and opened again at once, not always in order.
        for state in ["5", "6", "1"] {
            if !attack.random.one_in(6) {
                attack.set("state", state);
            }
        }
        attack.run();
        if attack.random.is_spent() {
            break;
        }
    }
    reached.cases += 1;
    reached.connections += u64::from(attack.connections);
    attack.store.remove(FRONT);
    attack.run();
    assert!(attack.ended.is_some(), "{name}: the back end waits for a guest that is gone");
    assert_eq!(attack.world.mapped.get(), 0, "{name}: pages stay mapped");
    reached.ends[match attack.ended {
        Some(Ended::Gone) => 0,
        Some(Ended::Removed) => 1,
        _ => 2,
    }] += 1;
}
