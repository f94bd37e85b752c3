//! A hostile network front end: requests of nonsense, chains without end, references that mean nothing, extra information that
//! goes in circles, indices that jump, on rings that keep to the form until then.

use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::netif::{ExtraInfo, Rx, RxRequest, Tx, TxRequest, TxSlot};
use trunnion_protocol::ring::{FrontRing, REQ_PROD};

use super::hostile::{OWN, grant};
use super::kernel::Kernel;

/// The references of the two rings.
const RINGS: [u32; 2] = [101, 102];
/// The first of the references that requests name.
const FIRST: u32 = 140;

struct Rings {
    port: Port,
    tx: FrontRing<Tx, Buffer<Kernel>>,
    rx: FrontRing<Rx, Buffer<Kernel>>,
}

/// The guest's task: a few connections, each of which it spoils in the end.
pub async fn run(kernel: &Kernel) {
    for _ in 0..=kernel.shared.below(3) {
        let Some(rings) = connect(kernel).await else { return };
        disturb(kernel, rings).await;
    }
}

async fn connect(kernel: &Kernel) -> Option<Rings> {
    let store = Store::new(kernel).ok()?;
    let port = trunnion_frontends::hypercall::open_port(kernel, DomainId::DOM0).ok()?;
    let page = |reference| {
        let buffer = Buffer::new(kernel, PAGE_SIZE).ok()?;
        grant(kernel, reference, buffer.gfn(0)?.0);
        Some(buffer)
    };
    let (tx, rx) = (page(RINGS[0])?, page(RINGS[1])?);
    let (tx, rx) = (FrontRing::new(tx, Width::W64)?, FrontRing::new(rx, Width::W64)?);
    let flag = |kernel: &Kernel| kernel.shared.below(2).to_string();
    for (key, value) in [
        ("state", "1".to_owned()),
        ("tx-ring-ref", RINGS[0].to_string()),
        ("rx-ring-ref", RINGS[1].to_string()),
        ("event-channel", port.to_string()),
        ("request-rx-copy", "1".to_owned()),
        ("feature-sg", flag(kernel)),
        ("feature-gso-tcpv4", flag(kernel)),
        ("request-multicast-control", flag(kernel)),
        ("state", "4".to_owned()),
    ] {
        store.write(Transaction::NONE, &format!("device/vif/0/{key}"), value.as_bytes()).await.ok()?;
    }
    kernel.sleep(300_000).await;
    Some(Rings { port, tx, rx })
}

/// A page of the guest's own, most of the time.
fn reference(kernel: &Kernel) -> GrantRef {
    let reference = FIRST + kernel.shared.below(16) as u32;
    if kernel.shared.permille(700) {
        grant(kernel, reference, OWN + u64::from(reference % 8));
    }
    GrantRef(reference + if kernel.shared.permille(100) { 5000 } else { 0 })
}

fn request(kernel: &Kernel) -> TxSlot {
    let below = |end: u64| kernel.shared.below(end) as u16;
    match kernel.shared.below(12) {
        0 => ExtraInfo { kind: below(6) as u8, flags: below(2) as u8, payload: [below(4) as u8; 6] }.into(),
        1 => TxRequest {
            reference: GrantRef(kernel.shared.bits() as u32),
            offset: kernel.shared.bits() as u16,
            flags: kernel.shared.bits() as u16,
            id: 0,
            size: kernel.shared.bits() as u16,
        }
        .into(),
        _ => {
            let flags = if kernel.shared.permille(300) { below(16) } else { 0 };
            let (offset, size) = (below(64), 14 + below(3000));
            TxRequest { reference: reference(kernel), offset, flags, id: below(64), size }.into()
        }
    }
}

/// The guest's own address in front of a page's nonsense, so that frames of it pass.
fn write_header(kernel: &Kernel) {
    let own = kernel.id().0 as u8;
    for page in 0..8 {
        if let Some(page) = kernel.page(trunnion_protocol::address::Gfn(OWN + page)) {
            let to = if kernel.shared.permille(300) { [0xff; 6] } else { [0, 0x16, 0x3e, 0, 0, own % 4] };
            let _ = page.copy_in(0, &to);
        }
    }
}

async fn disturb(kernel: &Kernel, mut rings: Rings) {
    for _ in 0..20 {
        write_header(kernel);
        for _ in 0..kernel.shared.below(12) {
            if rings.tx.put(&request(kernel)).is_err() {
                break;
            }
        }
        for id in 0..kernel.shared.below(8) as u16 {
            if rings.rx.put(&RxRequest { id, reference: reference(kernel) }).is_err() {
                break;
            }
        }
        let _ = (rings.tx.publish(), rings.rx.publish());
        kernel.send(rings.port);
        kernel.sleep(1_000 + kernel.shared.below(100_000)).await;
        while let Ok(Some(_)) = rings.tx.take() {}
        while let Ok(Some(_)) = rings.rx.take() {}
    }
    let page = if kernel.shared.permille(500) { rings.tx.into_pages() } else { rings.rx.into_pages() };
    if kernel.shared.permille(700) {
        let _ = page.write(REQ_PROD, &(kernel.shared.bits() as u32).to_le_bytes());
        kernel.send(rings.port);
    }
    kernel.sleep(500_000).await;
}
