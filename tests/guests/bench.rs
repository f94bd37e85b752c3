//! What single operations cost, measured from inside a guest (`trunnion bench micro`).
//!
//! Each row is measured in batches; a line `BENCH name operations min median max` gives TSC ticks for one operation, which
//! are instructions when the emulator counts them. A row that cannot be measured gives a line `BENCH name failed: why`, and
//! the others go on. With `peer` on its command line the guest is the other end of the event round trip instead: it must
//! be the next domain after the measuring one, and have no other event channels than those of its console and store. With
//! the name of a row there it repeats that one for ever, for whoever looks at it with a debugger.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    #![allow(unsafe_code, reason = "the guest owns its machine: nothing else runs in the domain")]
    use crate::runtime::{
        call, check, cpuid, hypercall, interrupts_off, interrupts_on, is_amd, lapic_read, lapic_write,
        on_interrupt, page, set_parameter, tsc,
    };
    use core::arch::asm;
    use core::sync::atomic::{AtomicU32, Ordering};
    use trunnion_protocol::address::{Gfn, Gpa, Gva};
    use trunnion_protocol::hypercall::{event, grant, memory, sched};
    use trunnion_protocol::id::{DomainId, GrantRef, Port};
    use trunnion_protocol::layout::{Layout, Width};
    use trunnion_protocol::shared::WordOffset;

    const BATCHES: usize = 15;
    const SHARED: u64 = 0x20;
    const TABLE: u64 = 0x30;
    const PAGE: u64 = 0x31;
    const HOLE: u64 = 0x32;
    const TARGET: u64 = 0x33;
    const UPCALL: u8 = 0xf3;
    const SELF_IPI: u8 = 0x51;
    /// The peer's first port after console and store.
    const PEER_PORT: Port = Port(3);
    /// Operations before a row's first batch.
    const WARM_UP: u64 = 2;
    /// Round trips in a batch, and all of them.
    const TRIPS: u64 = 100;
    const ALL_TRIPS: u64 = WARM_UP + TRIPS * BATCHES as u64;

    fn row(name: &str, operations: u64, mut batch: impl FnMut(u64)) {
        let mut figures = [0u64; BATCHES];
        batch(WARM_UP);
        while command_line_has(name.as_bytes()) {
            batch(operations);
        }
        for figure in &mut figures {
            let start = tsc();
            batch(operations);
            *figure = (tsc() - start) / operations;
        }
        figures.sort_unstable();
        say!("BENCH {name} {operations} {} {} {}", figures[0], figures[BATCHES / 2], figures[BATCHES - 1]);
    }

    macro_rules! tight {
        ($name:ident, $body:literal) => {
            /// A loop around one instruction sequence; `rsi` and `rdi` are arguments.
            #[inline(never)]
            fn $name(count: u64, number: u64, a: u64, b: u64) {
                // SAFETY: the sequences change only the registers named, and memory that this guest owns.
                unsafe {
                    asm!("2:", "mov rax, r12", "mov rdi, r13", "mov rsi, r14", $body, "dec r15", "jnz 2b",
                        in("r12") number, in("r13") a, in("r14") b, inlateout("r15") count => _,
                        out("rax") _, out("rcx") _, out("rdx") _, out("rdi") _, out("rsi") _, out("r8") _, out("r10") _);
                }
            }
        };
    }
    tight!(calls_amd, "vmmcall");
    tight!(calls_intel, "vmcall");

    fn calls(count: u64, number: u64, a: u64, b: u64) {
        if is_amd() { calls_amd(count, number, a, b) } else { calls_intel(count, number, a, b) }
    }

    fn simple() {
        row("null-hypercall", 1000, |n| calls(n, 17, 0, 0));
        row("cpuid", 1000, |n| {
            // SAFETY: changes registers only.
            unsafe {
                asm!("2:", "xor eax, eax", "push rbx", "cpuid", "pop rbx", "dec rsi", "jnz 2b", inlateout("rsi") n => _,
                    out("rax") _, out("rcx") _, out("rdx") _);
            }
        });
        row("rdmsr", 1000, |n| {
            // SAFETY: the APIC base can always be read.
            unsafe {
                asm!("2:", "rdmsr", "dec rsi", "jnz 2b", inlateout("rsi") n => _, in("ecx") 0x1b, out("rax") _, out("rdx") _);
            }
        });
        row("port-read-nobody", 1000, |n| {
            // SAFETY: nobody has that port.
            unsafe {
                asm!("2:", "in al, dx", "dec rsi", "jnz 2b", inlateout("rsi") n => _, in("dx") 0x5678, out("al") _)
            };
        });
        row("lapic-read", 300, |n| {
            for _ in 0..n {
                lapic_read(0x20);
            }
        });
        row("yield", 300, |n| calls(n, 29, 0, 0));
        row("set-timer", 300, |n| calls(n, 15, u64::MAX >> 2, 0));
        hypercall(15, 0, 0, 0);
    }

    fn lapic() {
        lapic_write(0xf0, 0x1ff);
        on_interrupt(SELF_IPI, || lapic_write(0xb0, 0));
        interrupts_on();
        row("lapic-self-ipi", 100, |n| {
            for _ in 0..n {
                lapic_write(0x300, 0x4_0000 | u32::from(SELF_IPI));
            }
        });
        interrupts_off();
    }

    fn bit(table: usize, port: Port) -> (WordOffset, u32) {
        (
            WordOffset::new(table + port.0 as usize / 32 * 4).unwrap_or(WordOffset::at::<0>()),
            1 << (port.0 % 32),
        )
    }

    fn pending(port: Port) -> bool {
        let (word, bit) = bit(2048, port);
        page(SHARED).word(word).load(Ordering::SeqCst) & bit != 0
    }

    fn clear(port: Port) {
        let (word, bit) = bit(2048, port);
        page(SHARED).word(word).fetch_and(!bit, Ordering::SeqCst);
    }

    fn mask(port: Port, on: bool) {
        let (word, bit) = bit(2560, port);
        if on {
            page(SHARED).word(word).fetch_or(bit, Ordering::SeqCst);
        } else {
            page(SHARED).word(word).fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// The upcall: clears everything that is pending.
    fn upcall() {
        let info = page(SHARED);
        info.word(WordOffset::at::<0>()).fetch_and(!0xff, Ordering::SeqCst);
        info.word(WordOffset::at::<8>()).swap(0, Ordering::SeqCst);
        info.word(WordOffset::at::<2048>()).swap(0, Ordering::SeqCst);
    }

    fn events() {
        let mut place =
            memory::AddToPhysmap { domain: DomainId::SELF, space: 0, gfn: Gfn(SHARED), ..Default::default() };
        check("shared info", call(12, 7, &mut place) == 0);
        let mut unbound =
            event::AllocUnbound { domain: DomainId::SELF, remote: DomainId::SELF, port: Port(0) };
        check("alloc_unbound", call(32, 6, &mut unbound) == 0);
        let mut bind =
            event::BindInterdomain { remote: DomainId::SELF, remote_port: unbound.port, local_port: Port(0) };
        check("bind_interdomain", call(32, 0, &mut bind) == 0);
        let argument = [unbound.port.0];
        let address = argument.as_ptr() as u64;
        mask(bind.local_port, true);
        row("event-send-masked", 300, |n| {
            for _ in 0..n {
                clear(bind.local_port);
                calls(1, 32, 4, address);
            }
        });
        check("callback", set_parameter(0, 2 << 56 | u64::from(UPCALL)) == 0);
        on_interrupt(UPCALL, upcall);
        upcall();
        mask(bind.local_port, false);
        interrupts_on();
        row("event-send-upcall", 300, |n| calls(n, 32, 4, address));
        interrupts_off();
        call(32, 3, &mut event::PortArgument { port: bind.local_port });
        call(32, 3, &mut event::PortArgument { port: unbound.port });
    }

    /// Takes the upcall flag back: a poll ends at once while it is set, whatever set it.
    fn quiet() {
        let info = page(SHARED);
        info.word(WordOffset::at::<0>()).fetch_and(!0xff, Ordering::SeqCst);
        info.word(WordOffset::at::<8>()).swap(0, Ordering::SeqCst);
    }

    /// Waits for a masked port, and clears it.
    fn await_port(port: Port) {
        let ports = [port.0];
        let argument = sched::Poll { ports: Gva(ports.as_ptr() as u64), count: 1, deadline_ns: 0 };
        let mut bytes = sched::Poll::ZEROED;
        let _ = argument.encode(Width::W64, &mut bytes);
        while !pending(port) {
            hypercall(29, 3, bytes.as_ptr() as u64, 0);
            quiet();
        }
        clear(port);
    }

    fn round_trip() {
        let peer = DomainId(own_domain().0 + 1);
        let mut bind = event::BindInterdomain { remote: peer, remote_port: PEER_PORT, local_port: Port(0) };
        let mut tries = 0;
        while call(32, 0, &mut bind) != 0 {
            tries += 1;
            if tries > 200_000 {
                say!("BENCH event-round-trip failed: no peer");
                return;
            }
            hypercall(29, 0, 0, 0);
        }
        let port = bind.local_port;
        mask(port, true);
        clear(port);
        quiet();
        let argument = [port.0];
        let address = argument.as_ptr() as u64;
        row("event-round-trip", TRIPS, |n| {
            for _ in 0..n {
                calls(1, 32, 4, address);
                await_port(port);
            }
        });
        call(32, 3, &mut event::PortArgument { port });
    }

    fn own_domain() -> DomainId {
        DomainId(cpuid(0x4000_0004, 0)[2] as u16)
    }

    fn grants() {
        let mut place =
            memory::AddToPhysmap { domain: DomainId::SELF, space: 1, gfn: Gfn(TABLE), ..Default::default() };
        check("grant table", call(12, 7, &mut place) == 0);
        let gfns = [HOLE];
        let mut hole = memory::Reservation {
            extents: Gva(gfns.as_ptr() as u64),
            count: 1,
            order: 0,
            flags: 0,
            domain: DomainId::SELF,
        };
        check("hole", call(12, 1, &mut hole) == 1);
        for (reference, flags) in [(100usize, 1u32), (101, 5)] {
            if let (Some(word), Some(frame)) =
                (page(TABLE).word_at(reference * 8), page(TABLE).word_at(reference * 8 + 4))
            {
                frame.store(PAGE as u32, Ordering::SeqCst);
                word.store(flags | u32::from(own_domain().0) << 16, Ordering::SeqCst);
            }
        }
        let map = grant::Map {
            address: Gpa(HOLE << 12),
            flags: 2,
            reference: GrantRef(100),
            domain: own_domain(),
            ..Default::default()
        };
        let mut first = map;
        check("map", call(20, 0, &mut first) == 0 && first.status == 0);
        let mut back = grant::Unmap { address: Gpa(HOLE << 12), handle: first.handle, ..Default::default() };
        check("unmap", call(20, 1, &mut back) == 0 && back.status == 0);
        row("grant-map-unmap", 100, |n| {
            for _ in 0..n {
                let mut argument = map;
                call(20, 0, &mut argument);
                let mut back =
                    grant::Unmap { address: map.address, handle: argument.handle, ..Default::default() };
                call(20, 1, &mut back);
            }
        });
        let copy = grant::Copy {
            source: 101,
            source_domain: DomainId::SELF,
            destination: TARGET,
            destination_domain: DomainId::SELF,
            length: 4096,
            flags: 1,
            ..Default::default()
        };
        let mut first = copy;
        check("copy", call(20, 5, &mut first) == 0 && first.status == 0);
        row("grant-copy-4096", 100, |n| {
            for _ in 0..n {
                let mut argument = copy;
                call(20, 5, &mut argument);
            }
        });
        let gfns = [0x34u64];
        let mut reservation = memory::Reservation {
            extents: Gva(gfns.as_ptr() as u64),
            count: 1,
            order: 0,
            flags: 0,
            domain: DomainId::SELF,
        };
        check("decrease", call(12, 1, &mut reservation) == 1);
        check("populate", call(12, 6, &mut reservation) == 1);
        row("populate-decrease", 100, |n| {
            for _ in 0..n {
                call(12, 1, &mut reservation);
                call(12, 6, &mut reservation);
            }
        });
    }

    /// The other end of the round trip: answers as many events as there are trips.
    fn peer() {
        let mut place =
            memory::AddToPhysmap { domain: DomainId::SELF, space: 0, gfn: Gfn(SHARED), ..Default::default() };
        check("shared info", call(12, 7, &mut place) == 0);
        mask(PEER_PORT, true);
        let other = DomainId(own_domain().0.wrapping_sub(1));
        let mut unbound = event::AllocUnbound { domain: DomainId::SELF, remote: other, port: Port(0) };
        check("alloc_unbound", call(32, 6, &mut unbound) == 0);
        check("the agreed port", unbound.port == PEER_PORT);
        let argument = [PEER_PORT.0];
        for _ in 0..ALL_TRIPS {
            await_port(PEER_PORT);
            calls(1, 32, 4, argument.as_ptr() as u64);
        }
        check("events answered", true);
    }

    pub(crate) fn run(start_info: u32) {
        START_INFO.store(start_info, Ordering::Relaxed);
        if command_line_has(b"peer") {
            peer();
            return;
        }
        simple();
        lapic();
        events();
        grants();
        round_trip();
    }

    static START_INFO: AtomicU32 = AtomicU32::new(0);

    fn command_line_has(wanted: &[u8]) -> bool {
        let start_info = START_INFO.load(Ordering::Relaxed);
        let line: u64 =
            page(u64::from(start_info) >> 12).load((start_info as usize & 0xfff) + 24).unwrap_or(0);
        let mut bytes = [0u8; 64];
        let offset = line as usize & 0xfff;
        let length = bytes.len().min(4096 - offset);
        line != 0
            && page(line >> 12).copy_out(offset, &mut bytes[..length]).is_ok()
            && bytes.split(|byte| matches!(byte, 0 | b' ')).any(|word| word == wanted)
    }
}

#[cfg(target_os = "none")]
use guest::run;
