//! A network front end that lies, for whoever writes a back end: nonsense in every key, request, buffer and index of its port,
//! many connections one after the other; then an honest one, which must work as if nothing had been. `rounds=N` on the
//! command line.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;

use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::{Access, Grant, GrantTable};
use trunnion_frontends::net::{Nic, Offload, Options};
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::xenbus::Device;
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::layout::Width;
use trunnion_protocol::netif::{ExtraInfo, Gso, GsoKind, Rx, RxRequest, Tx, TxRequest, TxSlot, tx};
use trunnion_protocol::ring::{FrontRing, Pages};
use trunnion_protocol::xenbus::State;

static KERNEL: Kernel = Kernel;
const NONE: Transaction = Transaction::NONE;

/// SplitMix64, from a fixed seed: a run repeats.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

type Shared<'t> = Grant<'t, 'static, Kernel>;

fn share<'t>(
    grants: &'t GrantTable<'static, Kernel>,
    device: &Device<'_, '_, Kernel>,
    access: Access,
) -> Result<Shared<'t>, Error> {
    let page = Buffer::new(&KERNEL, PAGE_SIZE)?;
    grants.offer(page, device.backend(), access).map_err(|(error, _)| error)
}

/// A page that is right, one that may only be read, one that is a ring; or no page at all.
fn reference(random: &mut Random, references: &[GrantRef; 3]) -> GrantRef {
    match random.below(10) {
        0 => GrantRef(random.bits() as u32),
        1 => references[1],
        2 => references[2],
        _ => references[0],
    }
}

/// A slot of the ring on which the guest sends: a request that may be good, or extra information that is not.
fn slot(random: &mut Random, references: &[GrantRef; 3]) -> TxSlot {
    if random.one_in(12) {
        let kind = if random.one_in(2) { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
        let mut extra = ExtraInfo::gso(Gso { kind, size: random.below(2000) as u16 });
        if random.one_in(2) {
            (extra.kind, extra.flags) = (random.below(8) as u8, random.bits() as u8);
        }
        return extra.into();
    }
    let flags = match random.below(8) {
        0 => random.bits() as u16,
        1 => tx::MORE,
        2 => tx::EXTRA | tx::CHECKSUM_BLANK,
        _ => 0,
    };
    let (offset, size) = if random.one_in(6) {
        (random.bits() as u16, random.bits() as u16)
    } else {
        (0, 60 + random.below(2000) as u16)
    };
    TxRequest { reference: reference(random, references), offset, flags, id: random.bits() as u16, size }
        .into()
}

/// One connection of malice. Whatever it breaks is its own.
async fn attack(
    store: &Store<'static, Kernel>,
    grants: &GrantTable<'static, Kernel>,
    random: &mut Random,
) -> Result<bool, Error> {
    let device = Device::open(store, "vif", "0").await?;
    device.reset().await?;
    let pages = [Access::ReadWrite, Access::ReadWrite, Access::ReadWrite, Access::ReadOnly];
    let [sending, receiving, data, readonly] = pages.map(|access| share(grants, &device, access));
    let (sending, receiving, data, readonly) = (sending?, receiving?, data?, readonly?);
    let channel = Channel::open(&KERNEL, device.backend())?;
    for (key, value) in [
        ("tx-ring-ref", sending.reference().to_string()),
        ("rx-ring-ref", receiving.reference().to_string()),
        ("event-channel", channel.port().to_string()),
        ("request-rx-copy", "1".into()),
        ("feature-sg", random.below(2).to_string()),
        ("feature-gso-tcpv4", random.below(2).to_string()),
    ] {
        let value: String = match random.below(24) {
            0 => random.bits().to_string(),
            1 => "-1".into(),
            _ => value,
        };
        device.write(NONE, key, &value).await?;
    }
    let references = [data.reference(), readonly.reference(), sending.reference()];
    let mut sending = FrontRing::<Tx, _>::new(sending, Width::W64).ok_or(Error::Broken)?;
    let mut receiving = FrontRing::<Rx, _>::new(receiving, Width::W64).ok_or(Error::Broken)?;
    device.set_state(State::Connected).await?;
    let back = device.wait_back(|back| !matches!(back, State::InitWait | State::Initialising)).await?;
    for _ in 0..random.below(60) {
        for _ in 0..random.below(8) {
            let _ = sending.put(&slot(random, &references));
        }
        for _ in 0..random.below(8) {
            let reference = reference(random, &references);
            let _ = receiving.put(&RxRequest { id: random.bits() as u16, reference });
        }
        let _ = (sending.publish(), receiving.publish());
        channel.notify();
        while let Ok(Some(_)) = sending.take() {}
        while let Ok(Some(_)) = receiving.take() {}
        if random.one_in(40) {
            device.set_state(State::ALL[1 + random.below(6) as usize]).await?;
        }
    }
    let rings = [sending.into_pages(), receiving.into_pages()];
    if random.one_in(2) {
        let page = Pages::page(&rings[random.below(2) as usize], 0).ok_or(Error::Broken)?;
        let _ = page.store(random.below(64) as usize * 4, &(random.bits() as u32));
        channel.notify();
        clock::sleep(Duration::from_millis(1)).await;
    }
    device.set_state(State::Closing).await?;
    device.wait_back(|back| !matches!(back, State::Connected)).await?;
    device.set_state(State::Closed).await?;
    device.wait_back(|back| matches!(back, State::Closed | State::InitWait | State::Unknown)).await?;
    Ok(back == State::Connected)
}

async fn run(rounds: u32) -> Result<String, Error> {
    let store = Store::new(&KERNEL)?;
    let grants = GrantTable::new(&KERNEL, 2)?;
    let free = grants.free();
    let mut random = Random(1);
    let mut connected = 0;
    for _ in 0..rounds {
        connected += u32::from(Box::pin(attack(&store, &grants, &mut random)).await?);
    }
    // What the back end still held when it closed is back by now.
    let lost = free - grants.free();
    // And now an honest one, which asks everybody who has 10.0.2.1 and waits for the answer of dom0.
    let nic = Nic::connect(&grants, Device::open(&store, "vif", "0").await?, Options::default()).await?;
    let own = nic.address();
    let mut question = [0xff; 60];
    question[6..12].copy_from_slice(&own);
    question[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question[22..28].copy_from_slice(&own);
    question[28..42].copy_from_slice(&[10, 0, 2, 66, 0, 0, 0, 0, 0, 0, 10, 0, 2, 1]);
    nic.send(&question, Offload::default()).await.map_err(|_| Error::Broken)?;
    let mut bytes = [0; 1514];
    loop {
        let length = nic.receive(&mut bytes).await.map_err(|_| Error::Broken)?.length;
        // ARP, an answer, from 10.0.2.1.
        if length >= 42 && bytes[12..14] == [8, 6] && bytes[21] == 2 && bytes[28..32] == [10, 0, 2, 1] {
            break;
        }
    }
    nic.close().await?;
    Ok(format!(
        "{rounds} attacks, {connected} got a connection, {lost} grants not back; the honest port works"
    ))
}

async fn guest(_: Spawner, start: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let rounds = start.option("rounds").and_then(|text| text.parse().ok()).unwrap_or(100);
    let ended = Box::pin(run(rounds)).await;
    let line = match &ended {
        Ok(line) => line.clone(),
        Err(error) => format!("failed: {error}"),
    };
    console.write(format!("hostile-net: {line}\r\n").as_bytes()).await;
    console.flush().await;
    if ended.is_ok() { ShutdownReason::PowerOff } else { ShutdownReason::Crash }
}

trunnion_guest::entry!(guest);
