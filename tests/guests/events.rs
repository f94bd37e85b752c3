//! Event channels: allocation, masks, upcalls by vector, poll, virtual interrupts, timers, clock.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    use crate::runtime::{
        call, check, check_eq, halt, hypercall, interrupts_off, interrupts_on, on_interrupt, page,
        set_parameter,
    };
    use core::sync::atomic::{AtomicU32, Ordering};
    use trunnion_protocol::address::{Gfn, Gva};
    use trunnion_protocol::hypercall::{event, memory, sched};
    use trunnion_protocol::id::{DomainId, Port, VcpuId, Virq};
    use trunnion_protocol::shared::WordOffset;

    /// A free page for shared info, below the image.
    const SHARED: u64 = 0x20;
    const VECTOR: u8 = 0xf3;
    static UPCALLS: AtomicU32 = AtomicU32::new(0);

    fn op<T: trunnion_protocol::layout::Layout>(operation: u64, value: &mut T) -> i64 {
        call(32, operation, value)
    }

    fn pending(port: Port) -> bool {
        let word = WordOffset::new(2048 + port.0 as usize / 32 * 4).unwrap_or(WordOffset::at::<2048>());
        page(SHARED).word(word).load(Ordering::SeqCst) >> (port.0 % 32) & 1 == 1
    }

    fn clear(port: Port) {
        let word = WordOffset::new(2048 + port.0 as usize / 32 * 4).unwrap_or(WordOffset::at::<2048>());
        page(SHARED).word(word).fetch_and(!(1 << (port.0 % 32)), Ordering::SeqCst);
    }

    fn mask(port: Port, on: bool) {
        let word = WordOffset::new(2560 + port.0 as usize / 32 * 4).unwrap_or(WordOffset::at::<2560>());
        let word = page(SHARED).word(word);
        if on {
            word.fetch_or(1 << (port.0 % 32), Ordering::SeqCst);
        } else {
            word.fetch_and(!(1 << (port.0 % 32)), Ordering::SeqCst);
        }
    }

    fn acknowledge() {
        page(SHARED).word(WordOffset::at::<0>()).fetch_and(!0xff, Ordering::SeqCst);
        page(SHARED).word(WordOffset::at::<8>()).swap(0, Ordering::SeqCst);
        page(SHARED).word(WordOffset::at::<12>()).swap(0, Ordering::SeqCst);
    }

    fn upcall() {
        acknowledge();
        UPCALLS.fetch_add(1, Ordering::SeqCst);
    }

    /// Nanoseconds of system time, by the version protocol.
    fn now() -> u64 {
        let page = page(SHARED);
        loop {
            let version = page.word(WordOffset::at::<32>()).load(Ordering::Acquire);
            let fields: [u32; 8] = page.load(32).unwrap_or_default();
            if version & 1 == 0 && page.word(WordOffset::at::<32>()).load(Ordering::Acquire) == version {
                let stamp = u64::from(fields[3]) << 32 | u64::from(fields[2]);
                let system = u64::from(fields[5]) << 32 | u64::from(fields[4]);
                let shift = fields[7] as u8 as i8;
                let ticks = crate::runtime::tsc().wrapping_sub(stamp);
                let ticks = if shift < 0 { ticks >> -shift } else { ticks << shift };
                return system + (u128::from(ticks) * u128::from(fields[6]) >> 32) as u64;
            }
        }
    }

    pub(crate) fn run(_start_info: u32) {
        let mut place =
            memory::AddToPhysmap { domain: DomainId::SELF, space: 0, gfn: Gfn(SHARED), ..Default::default() };
        check_eq("shared info", call(12, 7, &mut place) as u64, 0);
        let base: [u32; 8] = page(SHARED).load(32).unwrap_or_default();
        check("clock multiplier", base[6] != 0);
        let first = now();
        let second = now();
        check("clock goes on", second >= first && first > 0);

        let mut unbound =
            event::AllocUnbound { domain: DomainId::SELF, remote: DomainId::SELF, port: Port(0) };
        check_eq("alloc_unbound", op(6, &mut unbound) as u64, 0);
        check("a port that is not 0", unbound.port.0 > 0);
        let mut bind =
            event::BindInterdomain { remote: DomainId::SELF, remote_port: unbound.port, local_port: Port(0) };
        mask(Port(unbound.port.0 + 1), true);
        check_eq("bind_interdomain to itself", op(0, &mut bind) as u64, 0);
        check("the new port is pending", pending(bind.local_port));
        let mut status =
            event::Status { domain: DomainId::SELF, port: bind.local_port, ..Default::default() };
        check_eq("status", op(5, &mut status) as u64, 0);
        check_eq("status says interdomain", u64::from(status.status), 2);
        check_eq(
            "send on a bad port",
            op(4, &mut event::PortArgument { port: Port(4095) }) as u64,
            -22i64 as u64,
        );
        check_eq("send on port 0", op(4, &mut event::PortArgument { port: Port(0) }) as u64, -22i64 as u64);
        check_eq(
            "send far out",
            op(4, &mut event::PortArgument { port: Port(u32::MAX) }) as u64,
            -22i64 as u64,
        );

        clear(bind.local_port);
        acknowledge();
        check_eq("callback vector", set_parameter(0, 2 << 56 | u64::from(VECTOR)) as u64, 0);
        on_interrupt(VECTOR, upcall);
        clear(unbound.port);
        mask(bind.local_port, false);
        UPCALLS.store(0, Ordering::SeqCst);
        check_eq("send", op(4, &mut event::PortArgument { port: unbound.port }) as u64, 0);
        check("pending after send", pending(bind.local_port));
        check_eq("no upcall while interrupts are off", u64::from(UPCALLS.load(Ordering::SeqCst)), 0);
        interrupts_on();
        interrupts_off();
        check_eq("one upcall", u64::from(UPCALLS.load(Ordering::SeqCst)), 1);

        mask(bind.local_port, true);
        clear(bind.local_port);
        op(4, &mut event::PortArgument { port: unbound.port });
        interrupts_on();
        interrupts_off();
        check_eq("no upcall for a masked port", u64::from(UPCALLS.load(Ordering::SeqCst)), 1);
        check_eq("unmask", op(9, &mut event::PortArgument { port: bind.local_port }) as u64, 0);
        interrupts_on();
        interrupts_off();
        check_eq("an upcall after unmask", u64::from(UPCALLS.load(Ordering::SeqCst)), 2);

        let mut timer = event::BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
        check_eq("bind timer", op(1, &mut timer) as u64, 0);
        check_eq("bind timer twice", op(1, &mut timer.clone()) as u64, -17i64 as u64);
        clear(bind.local_port);
        let before = now();
        check_eq("set_timer_op", hypercall(15, before + 2_000_000, 0, 0) as u64, 0);
        while !pending(timer.port) {
            halt();
        }
        let waited = now() - before;
        check("the timer waits", waited >= 2_000_000);
        check("the timer comes", waited < 2_000_000_000);
        clear(timer.port);
        let ports = [timer.port.0];
        mask(timer.port, true);
        let deadline = now() + 1_000_000;
        hypercall(15, deadline, 0, 0);
        let mut result = 0;
        // Poll also returns for an upcall that waits, such as the console's when dom0 has taken its bytes.
        for _ in 0..100 {
            if pending(timer.port) || result != 0 {
                break;
            }
            acknowledge();
            let mut poll = sched::Poll { ports: Gva(ports.as_ptr() as u64), count: 1, deadline_ns: 0 };
            result = call(29, 3, &mut poll);
        }
        check_eq("poll", result as u64, 0);
        check("poll woke for a masked port", pending(timer.port));
        clear(timer.port);
        let mut poll =
            sched::Poll { ports: Gva(ports.as_ptr() as u64), count: 1, deadline_ns: now() + 1_000_000 };
        check_eq("poll with a limit", call(29, 3, &mut poll) as u64, 0);
        check("poll with a limit ended", !pending(timer.port));
        let mut poll = sched::Poll { ports: Gva(ports.as_ptr() as u64), count: 1000, deadline_ns: 0 };
        check_eq("poll with too many ports", call(29, 3, &mut poll) as u64, -22i64 as u64);

        check_eq("close", op(3, &mut event::PortArgument { port: bind.local_port }) as u64, 0);
        let mut status = event::Status { domain: DomainId::SELF, port: unbound.port, ..Default::default() };
        op(5, &mut status);
        check_eq("the peer is unbound", u64::from(status.status), 1);
        check_eq(
            "close twice",
            op(3, &mut event::PortArgument { port: bind.local_port }) as u64,
            -22i64 as u64,
        );
        let mut count = 0;
        let mut more = event::AllocUnbound { domain: DomainId::SELF, remote: DomainId::DOM0, port: Port(0) };
        while op(6, &mut more) == 0 && count < 5000 {
            count += 1;
        }
        check("ports run out at 4096", count > 4000 && count < 4096);
        check_eq("the highest port", u64::from(more.port.0 <= 4095), 1);
    }
}

#[cfg(target_os = "none")]
use guest::run;
