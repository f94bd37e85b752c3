//! Further vCPUs by INIT and start-up IPI, interrupts between them, and taking them down. Needs `vcpus = 4`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    use crate::runtime::{
        check, check_eq, halt, hypercall, interrupts_off, lapic_read, lapic_write, on_interrupt, on_start,
        start_vcpu,
    };
    use core::sync::atomic::{AtomicU32, Ordering};

    static STARTED: AtomicU32 = AtomicU32::new(0);
    static IDS: AtomicU32 = AtomicU32::new(0);
    static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
    static STOP: AtomicU32 = AtomicU32::new(0);
    const VECTOR: u8 = 0x51;

    fn end_of_interrupt() {
        lapic_write(0xb0, 0);
    }

    fn interrupt() {
        INTERRUPTS.fetch_add(1, Ordering::SeqCst);
        end_of_interrupt();
    }

    fn other() {
        IDS.fetch_or(1 << (lapic_read(0x20) >> 24), Ordering::SeqCst);
        lapic_write(0xf0, 0x1ff);
        STARTED.fetch_add(1, Ordering::SeqCst);
        while STOP.load(Ordering::SeqCst) == 0 {
            halt();
        }
        STARTED.fetch_sub(1, Ordering::SeqCst);
    }

    fn wait(what: impl Fn() -> bool) -> bool {
        for _ in 0..2_000_000 {
            if what() {
                return true;
            }
            hypercall(29, 0, 0, 0);
        }
        false
    }

    pub(crate) fn run(_start_info: u32) {
        interrupts_off();
        check_eq("LAPIC id of vCPU 0", u64::from(lapic_read(0x20) >> 24), 0);
        check("LAPIC version", lapic_read(0x30) & 0xff >= 0x10);
        lapic_write(0xf0, 0x1ff);
        on_interrupt(VECTOR, interrupt);
        lapic_write(0x300, 0x4_0000 | u32::from(VECTOR));
        check("a self-IPI waits", INTERRUPTS.load(Ordering::SeqCst) == 0);
        crate::runtime::interrupts_on();
        crate::runtime::interrupts_off();
        check_eq("a self-IPI comes", u64::from(INTERRUPTS.load(Ordering::SeqCst)), 1);

        on_start(other);
        for vcpu in 1..4 {
            check_eq("is_up before", hypercall(24, 3, vcpu, 0) as u64, 0);
            start_vcpu(vcpu as u32);
            check("it starts", wait(|| u64::from(STARTED.load(Ordering::SeqCst)) == vcpu));
            check_eq("is_up after", hypercall(24, 3, vcpu, 0) as u64, 1);
        }
        check_eq("LAPIC ids", u64::from(IDS.load(Ordering::SeqCst)), 1 << 2 | 1 << 4 | 1 << 6);
        check_eq("no vCPU 4", hypercall(24, 3, 4, 0) as u64, -2i64 as u64);
        INTERRUPTS.store(0, Ordering::SeqCst);
        lapic_write(0x300, 0xc_0000 | u32::from(VECTOR));
        check("an IPI to all others", wait(|| INTERRUPTS.load(Ordering::SeqCst) == 3));
        STOP.store(1, Ordering::SeqCst);
        lapic_write(0x300, 0xc_0000 | u32::from(VECTOR));
        check("they stop", wait(|| STARTED.load(Ordering::SeqCst) == 0));
        check("halted for good is down", wait(|| (1..4).all(|vcpu| hypercall(24, 3, vcpu, 0) == 0)));
    }
}

#[cfg(target_os = "none")]
use guest::run;
