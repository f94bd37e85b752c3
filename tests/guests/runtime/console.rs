//! The PV console of a tiny guest; the hypervisor's console when there is none.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use trunnion_protocol::hypercall::event::PortArgument;
use trunnion_protocol::id::Port;
use trunnion_protocol::shared::WordOffset;

/// HVM parameters that say where the console is (`hvm/params.h`).
const CONSOLE_PFN: u32 = 17;
const CONSOLE_EVTCHN: u32 = 18;
/// Layout of the ring page (`io/console.h`).
const OUT: usize = 1024;
const OUT_BYTES: u32 = 2048;
const OUT_CONS: WordOffset = WordOffset::at::<3080>();
const OUT_PROD: WordOffset = WordOffset::at::<3084>();

static PFN: AtomicU32 = AtomicU32::new(0);
static PORT: AtomicU32 = AtomicU32::new(0);
static LOCK: AtomicU32 = AtomicU32::new(0);

/// Finds the console.
pub fn open() {
    PORT.store(super::parameter(CONSOLE_EVTCHN) as u32, Ordering::SeqCst);
    PFN.store(super::parameter(CONSOLE_PFN) as u32, Ordering::SeqCst);
}

fn kick() {
    let mut argument = PortArgument { port: Port(PORT.load(Ordering::Relaxed)) };
    super::call(32, 4, &mut argument);
}

/// Writes bytes, waiting while the ring is full.
pub fn write(bytes: &[u8]) {
    while LOCK.swap(1, Ordering::Acquire) != 0 {
        core::hint::spin_loop();
    }
    let pfn = PFN.load(Ordering::SeqCst);
    if pfn == 0 || PORT.load(Ordering::SeqCst) == 0 {
        super::hypercall(18, 0, bytes.len() as u64, bytes.as_ptr() as u64);
    } else {
        let page = super::page(u64::from(pfn));
        for byte in bytes {
            let prod = page.word(OUT_PROD).load(Ordering::Relaxed);
            while prod.wrapping_sub(page.word(OUT_CONS).load(Ordering::Acquire)) >= OUT_BYTES {
                kick();
                super::hypercall(29, 0, 0, 0);
            }
            let _ = page.copy_in(OUT + (prod % OUT_BYTES) as usize, core::slice::from_ref(byte));
            fence(Ordering::Release);
            page.word(OUT_PROD).store(prod.wrapping_add(1), Ordering::Release);
        }
        kick();
    }
    LOCK.store(0, Ordering::Release);
}

/// Waits until the other side has taken everything.
pub fn drain() {
    let pfn = PFN.load(Ordering::SeqCst);
    if pfn == 0 || PORT.load(Ordering::SeqCst) == 0 {
        return;
    }
    let page = super::page(u64::from(pfn));
    for _ in 0..100_000 {
        if page.word(OUT_PROD).load(Ordering::Relaxed) == page.word(OUT_CONS).load(Ordering::Acquire) {
            return;
        }
        super::hypercall(29, 0, 0, 0);
    }
}
