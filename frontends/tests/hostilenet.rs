//! A back end that lies, against the network front end: answers never asked for and twice, fragments that leave their page, packets
//! without end, extra information of nonsense, indices that jump, states out of order, frames that change while they are looked at.
//! Whatever it does, nothing panics, every task ends, and every page comes back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::mapping::{Mapping, Window};
use trunnion_frontends::net::{Fault, NetError, Nic, Offload, Options};
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::testbed::{Guest, World};
use trunnion_frontends::xenbus::{BackDevice, Device, clients};
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::netif::{
    ExtraInfo, Gso, GsoKind, Rx, RxRequest, RxResponse, RxSlot, Tx, TxResponse, TxSlot, rx, tx,
};
use trunnion_protocol::ring::{BackRing, Claimed, RSP_PROD};
use trunnion_protocol::xenbus::State;

const SEEDS: u64 = 600;
const NONE: Transaction = Transaction::NONE;
const PAGE: usize = 4096;
/// Frames that the front end sends in one connection.
const FRAMES: u32 = 30;

/// The frame of a number: its length and every byte follow from it.
fn frame(number: u32) -> Vec<u8> {
    let length = 60 + number as usize * 769 % 6000;
    (0..length)
        .map(|at| if at < 4 { number.to_le_bytes()[at] } else { (number as usize + at) as u8 })
        .collect()
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|number| frame(u32::from_le_bytes(*number)) == bytes)
}

/// A back end's connection to one port.
struct Liar<'w, 'p> {
    world: &'w World,
    honest: bool,
    device: &'w BackDevice<'w, 'p, Guest>,
    window: &'w Window<'p, Guest>,
    channel: &'w Channel<'p, Guest>,
    tx: BackRing<Tx, Mapping<'w, 'p, Guest>>,
    rx: BackRing<Rx, Mapping<'w, 'p, Guest>>,
    buffers: VecDeque<Claimed<RxRequest>>,
    frames: VecDeque<Vec<u8>>,
    last: TxResponse,
}

impl Liar<'_, '_> {
    fn chance(&self, one_in: u64) -> bool {
        !self.honest && self.world.below(one_in) == 0
    }

    /// Answers what the guest has sent, and keeps the frames.
    fn hear(&mut self) {
        let mut bytes = Vec::new();
        let (mut more, mut extra, mut total) = (false, false, 0);
        while let Ok(Some(claimed)) = self.tx.take() {
            let slot: &TxSlot = &claimed.request;
            let mut truth = TxResponse { id: slot.request().id, status: 0 };
            if extra {
                extra = false;
                truth = TxResponse { id: 0, status: 1 };
            } else {
                let request = slot.request();
                if !more {
                    bytes.clear();
                    total = usize::from(request.size);
                }
                let length = if more { usize::from(request.size) } else { total.min(PAGE) };
                let mut part = vec![0; length];
                if let Ok(page) = self.window.map_to_read(self.device.client().domain, request.reference) {
                    let _ = page.copy_out(usize::from(request.offset), &mut part);
                }
                bytes.extend(part);
                extra = !more && request.flags & tx::EXTRA != 0;
                more = request.flags & tx::MORE != 0;
            }
            if !more && !extra {
                self.frames.push_back(std::mem::take(&mut bytes));
            }
            let told = match self.world.below(200) {
                _ if self.honest => truth,
                0 => self.last,
                1 => TxResponse { id: self.world.below(1 << 16) as u16, ..truth },
                2 => TxResponse { status: self.world.below(1 << 16) as i16, ..truth },
                _ => truth,
            };
            self.last = truth;
            let _ = self.tx.answer(claimed, &told);
        }
        let _ = self.tx.publish();
    }

    fn nonsense(&self, id: u16) -> RxSlot {
        let bits = |end: u64| self.world.below(end);
        match bits(4) {
            0 => RxResponse { id: bits(1 << 16) as u16, offset: 0, flags: 0, status: 64 }.into(),
            1 => {
                let (offset, status) = (bits(1 << 13) as u16, bits(1 << 16) as i16);
                RxResponse { id, offset, flags: bits(16) as u16, status }.into()
            }
            2 => ExtraInfo { kind: bits(6) as u8, flags: bits(2) as u8, payload: [bits(4) as u8; 6] }.into(),
            _ => RxResponse { id, offset: 0, flags: rx::MORE, status: 1 }.into(),
        }
    }

    /// Sends a frame back, or something else.
    fn tell(&mut self) {
        while let Ok(Some(claimed)) = self.rx.take() {
            self.buffers.push_back(claimed);
        }
        while let Some(frame) = self.frames.pop_front() {
            let large = frame.len() % 5 == 0;
            if self.buffers.len() < frame.len().div_ceil(PAGE) + 1 {
                self.frames.push_front(frame);
                break;
            }
            let pieces = frame.chunks(PAGE).count();
            for (index, piece) in frame.chunks(PAGE).enumerate() {
                let Some(buffer) = self.buffers.pop_front() else { break };
                if let Ok(page) = self.window.map(self.device.client().domain, buffer.request.reference) {
                    let _ = page.page().copy_in(0, piece);
                    if self.chance(8) {
                        // The frame changes after it was told of, as far as its pages are still mapped.
                        let _ = page.page().store(self.world.below(1024) as usize * 4, &0xffff_ffffu32);
                    }
                }
                let more = if index + 1 < pieces { rx::MORE } else { 0 };
                let extra = if index == 0 && large { rx::EXTRA } else { 0 };
                let id = buffer.request.id;
                let mut slot: RxSlot =
                    RxResponse { id, offset: 0, flags: more | extra, status: piece.len() as i16 }.into();
                if self.chance(40) {
                    slot = self.nonsense(id);
                }
                let _ = self.rx.answer(buffer, &slot);
                if extra != 0
                    && let Some(buffer) = self.buffers.pop_front()
                {
                    let gso = ExtraInfo::gso(Gso { kind: GsoKind::TcpV4, size: 1448 });
                    let _ = self.rx.answer(buffer, &gso.into());
                }
            }
            if self.chance(30)
                && let Some(buffer) = self.buffers.pop_front()
            {
                // A packet that did not come, which the front end passes over.
                let (id, status) = (buffer.request.id, -1);
                let _ = self.rx.answer(buffer, &RxResponse { id, offset: 0, flags: 0, status }.into());
            }
        }
        if self.chance(60) {
            // A packet without end.
            for buffer in self.buffers.drain(..) {
                let id = buffer.request.id;
                let _ =
                    self.rx.answer(buffer, &RxResponse { id, offset: 0, flags: rx::MORE, status: 1 }.into());
            }
        }
        let _ = self.rx.publish();
    }

    async fn turns(mut self, count: u64) -> Result<(), Error> {
        for turn in 0..count {
            self.hear();
            self.tell();
            self.channel.notify();
            if self.chance(40) {
                let state = State::ALL[self.world.below(State::ALL.len() as u64) as usize];
                self.device.set_state(state).await?;
            } else {
                // Gives the others a turn.
                self.device.write(NONE, "turn", &turn.to_string()).await?;
            }
        }
        if self.chance(3) {
            let page = if self.chance(2) { self.tx.into_pages() } else { self.rx.into_pages() };
            let _ = page.page().store(RSP_PROD, &(self.world.below(1 << 32) as u32));
            self.channel.notify();
        }
        Ok(())
    }
}

/// The bad back end: one connection, and then it lets everything go.
async fn lie(world: &World, back: &Guest, honest: bool) -> Result<(), Error> {
    let store = Store::new(back)?;
    let window = Window::new(back, 48)?;
    let [Some(client)] = clients(&store, "vif").await? else { return Err(Error::Closed) };
    let mut device = BackDevice::open(&store, "vif", client).await?;
    for (key, value) in [
        ("feature-rx-copy", "1"),
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
    ] {
        let value = if honest || world.below(20) != 0 { value } else { "-1" };
        device.write(NONE, key, value).await?;
    }
    device.set_state(State::InitWait).await?;
    device.next_step(State::InitWait).await?;
    if device.front_state().await? == State::Connected {
        let (tx, rx) = (device.required("tx-ring-ref").await?, device.required("rx-ring-ref").await?);
        let channel = Channel::join(back, client.domain, Port(device.required("event-channel").await?))?;
        let (tx, rx) = (window.map(client.domain, GrantRef(tx))?, window.map(client.domain, GrantRef(rx))?);
        if honest || world.below(20) != 0 {
            device.set_state(State::Connected).await?;
            let liar = Liar {
                world,
                honest,
                device: &device,
                window: &window,
                channel: &channel,
                tx: BackRing::new(tx, Width::W64).ok_or(Error::Broken)?,
                rx: BackRing::new(rx, Width::W64).ok_or(Error::Broken)?,
                buffers: VecDeque::new(),
                frames: VecDeque::new(),
                last: TxResponse { id: 0, status: 0 },
            };
            liar.turns(if honest { 200 } else { world.below(60) }).await?;
        }
        device.set_state(State::Closing).await?;
    }
    device.set_state(State::Closed).await
}

#[derive(Default)]
struct Outcomes {
    sent: Cell<u32>,
    received: Cell<u32>,
    torn: Cell<u32>,
    lost: Cell<u32>,
    unconnected: Cell<u32>,
    cut: Cell<u32>,
    faults: RefCell<BTreeMap<&'static str, u32>>,
}

fn add(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

async fn send(nic: &Nic<'_, '_, Guest>, outcomes: &Outcomes) {
    for number in 0..FRAMES {
        match nic.send(&frame(number), Offload::default()).await {
            Ok(()) => add(&outcomes.sent),
            Err(NetError::Length) => {}
            Err(_) => break,
        }
    }
}

/// Takes frames until the port is closed.
async fn receive(nic: &Nic<'_, '_, Guest>, outcomes: &Outcomes) {
    let mut bytes = vec![0; 7000];
    loop {
        match nic.receive(&mut bytes).await {
            Ok(received) if is_whole(&bytes[..received.length]) => add(&outcomes.received),
            Ok(_) => add(&outcomes.torn),
            Err(NetError::TooLong) => add(&outcomes.lost),
            Err(_) => break,
        }
    }
}

async fn use_port(world: &World, front: &Guest, back: &Guest, outcomes: &Outcomes) -> Result<(), Error> {
    let store = Store::new(front)?;
    let grants = GrantTable::new(front, 2)?;
    let device = Device::open(&store, "vif", "0").await?;
    let Ok(nic) = Nic::connect(&grants, device, Options { offload: true }).await else {
        add(&outcomes.unconnected);
        world.detach(front, back, "vif", 0);
        return Ok(());
    };
    {
        let mut works = (
            pin!(send(&nic, outcomes)),
            pin!(receive(&nic, outcomes)),
            pin!(async {
                // Somebody stops waiting for the end in the middle of it, and begins again.
                let patience = world.below(40);
                let mut unplugged = Box::pin(nic.unplugged());
                let mut polls = 0;
                let ended = poll_fn(|context| {
                    polls += 1;
                    match unplugged.as_mut().poll(context) {
                        Poll::Ready(_) => Poll::Ready(true),
                        Poll::Pending if polls > patience => Poll::Ready(false),
                        Poll::Pending => Poll::Pending,
                    }
                })
                .await;
                drop(unplugged);
                if !ended {
                    add(&outcomes.cut);
                    let _ = nic.unplugged().await;
                }
            }),
        );
        let mut done = [false; 3];
        poll_fn(|context| {
            done[0] = done[0] || works.0.as_mut().poll(context).is_ready();
            done[1] = done[1] || works.1.as_mut().poll(context).is_ready();
            done[2] = done[2] || works.2.as_mut().poll(context).is_ready();
            // A port with a fault is closed without waiting for the other side's end.
            let over = done[2] || nic.fault().is_some();
            if done[0] && done[1] && over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    let fault = match nic.fault() {
        None => "none",
        Some(Fault::Unasked { .. }) => "unasked",
        Some(Fault::Fragment { .. }) => "fragment",
        Some(Fault::Chain) => "chain",
        Some(Fault::Index(_)) => "index",
        Some(_) => "another",
    };
    *outcomes.faults.borrow_mut().entry(fault).or_default() += 1;
    nic.close().await?;
    assert_eq!(grants.lost(), 0);
    Ok(())
}

fn run(seed: u64, honest: bool, outcomes: &Rc<Outcomes>) {
    let world = World::new(seed);
    let (front, back) = (world.guest(3), world.guest(7));
    world.attach(&front, &back, "vif", 0);
    world.set("/local/domain/3/device/vif/0/mac", "00:16:3e:00:00:03");
    let before = world.held();
    back.spawn({
        let (back, world) = (back.clone(), world.clone());
        async move { lie(&world, &back, honest).await.expect("the bad back end does its work") }
    });
    front.spawn({
        let (front, back, world, outcomes) =
            (front.clone(), back.clone(), world.clone(), Rc::clone(outcomes));
        async move { use_port(&world, &front, &back, &outcomes).await.expect("the front end ends well") }
    });
    world.run().unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
    assert_eq!(world.held(), before, "seed {seed}: something is left");
}

fn tell(outcomes: &Outcomes) {
    let Outcomes { sent, received, torn, lost, unconnected, cut, faults } = outcomes;
    println!(
        "{sent:?} sent, {received:?} received, {torn:?} torn, {lost:?} lost, {unconnected:?} not connected, {cut:?} ends begun again, {:?}",
        faults.borrow()
    );
}

#[test]
fn a_network_back_end_that_lies_harms_nobody() {
    let outcomes = Rc::new(Outcomes::default());
    for seed in 0..SEEDS {
        run(seed, false, &outcomes);
    }
    tell(&outcomes);
    // A search that never gets to the lies is worth nothing.
    let faults = outcomes.faults.borrow();
    let wanted = ["none", "unasked", "fragment", "chain", "index"];
    assert!(wanted.iter().all(|fault| faults.contains_key(fault)), "{faults:?}");
    assert!(outcomes.received.get() > 1_000 && outcomes.cut.get() > 50 && outcomes.unconnected.get() > 10);
}

#[test]
fn the_same_network_back_end_when_it_is_honest() {
    let outcomes = Rc::new(Outcomes::default());
    for seed in 0..100 {
        run(seed, true, &outcomes);
    }
    tell(&outcomes);
    assert_eq!(outcomes.faults.borrow().keys().collect::<Vec<_>>(), [&"none"]);
    assert_eq!((outcomes.torn.get(), outcomes.lost.get(), outcomes.unconnected.get()), (0, 0, 0));
    assert_eq!(outcomes.sent.get(), 100 * FRAMES);
}
