//! Interrupts and exceptions of a tiny guest.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

unsafe extern "C" {
    static tiny_stubs: [[u8; 16]; 256];
}

/// An exception that was caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// Vector.
    pub vector: u8,
    /// Error code, or 0.
    pub error: u64,
}

#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

#[repr(C, packed)]
struct Table {
    limit: u16,
    base: u64,
}

static mut IDT: [[u64; 2]; 256] = [[0; 2]; 256];
/// Where execution goes on after an exception, and the stack pointer it needs; 0: nowhere.
static RECOVER: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
static CAUGHT: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
static HANDLERS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

/// Fills and loads the interrupt descriptor table of the calling vCPU.
pub fn load() {
    let table = Table { limit: 4095, base: (&raw const IDT) as u64 };
    for vector in 0..256 {
        let stub = (&raw const tiny_stubs) as u64 + vector as u64 * 16;
        let low = stub & 0xffff | 8 << 16 | 0x8e00 << 32 | (stub >> 16 & 0xffff) << 48;
        // SAFETY: every vCPU writes the same values.
        unsafe { (&raw mut IDT).cast::<[u64; 2]>().add(vector).write_volatile([low, stub >> 32]) };
    }
    // SAFETY: the table is complete and lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const table, options(nostack)) };
}

/// Calls `handler` at each interrupt with `vector` (32 and up). It runs with interrupts off.
pub fn on_interrupt(vector: u8, handler: fn()) {
    HANDLERS[vector as usize].store(handler as usize as u32, Ordering::SeqCst);
}

/// Runs `code` and returns the exception that it raised, if any. `code` must keep nothing that needs dropping.
#[inline(never)]
pub fn try_run(code: fn()) -> Option<Trap> {
    CAUGHT[0].store(u64::MAX, Ordering::SeqCst);
    // SAFETY: the label is inside this block; registers that a call may change are declared changed, and the others are
    // saved around it because an exception comes back with whatever `code` left in them.
    unsafe {
        asm!(
            "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
            "lea rcx, [rip + 2f]",
            "mov [rdi], rcx",
            "mov [rdi + 8], rsp",
            "push rdi", "push rdi",
            "call rax",
            "pop rdi", "pop rdi",
            "2:",
            "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
            in("rax") code, inlateout("rdi") RECOVER.as_ptr() => _, clobber_abi("sysv64"),
        );
    }
    RECOVER[0].store(0, Ordering::SeqCst);
    let vector = CAUGHT[0].load(Ordering::SeqCst);
    (vector != u64::MAX).then(|| Trap { vector: vector as u8, error: CAUGHT[1].load(Ordering::SeqCst) })
}

#[unsafe(no_mangle)]
extern "C" fn tiny_dispatch(frame: &mut Frame) {
    if frame.vector >= 32 {
        let handler = HANDLERS[frame.vector as usize & 255].load(Ordering::SeqCst) as usize;
        if handler == 0 {
            crate::say!("NOTE interrupt {} with no handler", frame.vector);
            return;
        }
        // SAFETY: `on_interrupt` stored a function of this image, which lies below 4 GiB.
        let handler: fn() = unsafe { core::mem::transmute(handler) };
        handler();
        return;
    }
    let recover = RECOVER[0].load(Ordering::SeqCst);
    if recover != 0 {
        CAUGHT[0].store(frame.vector, Ordering::SeqCst);
        CAUGHT[1].store(frame.error, Ordering::SeqCst);
        frame.rip = recover;
        frame.rsp = RECOVER[1].load(Ordering::SeqCst);
        return;
    }
    crate::say!("FAIL exception {} error {:#x} at {:#x}", frame.vector, frame.error, frame.rip);
    super::console::drain();
    super::shutdown(3);
}
