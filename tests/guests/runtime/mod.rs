//! The little that a tiny machine guest needs: entry, traps, hypercalls, a console, a verdict.
//!
//! A guest is one file with a `run` function. It prints a line `PASS name` or `FAIL name: why` for each check, then a last
//! line `RESULT n passed, m failed`, and powers off, or crashes when something failed.
#![allow(dead_code, unused_imports, reason = "no guest uses all of it")]
#![allow(unreachable_pub, missing_docs, reason = "a module of a binary")]
#![allow(unsafe_code, reason = "the guest owns its machine: nothing else runs in the domain")]

mod console;
mod entry;
mod trap;

pub use console::write;
pub use trap::{Trap, on_interrupt, try_run};

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use trunnion_protocol::hypercall::hvm;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared::SharedPage;

unsafe extern "C" {
    static tiny_is_amd: u32;
    static tiny_version32: u32;
    static tiny_result32: i32;
    static tiny_features32: [u32; 2];
    static tiny_ap: u8;
    static tiny_ap_end: u8;
}

/// Prints to the console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        let mut line = $crate::runtime::Line::default();
        let _ = core::fmt::Write::write_fmt(&mut line, format_args!($($argument)*));
        line.end();
    }};
}

/// One line of output, gathered so that it leaves in one piece.
pub struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 256], length: 0 }
    }
}

impl Line {
    /// Sends the line.
    pub fn end(mut self) {
        let length = self.length.min(254);
        self.bytes[length] = b'\r';
        self.bytes[length + 1] = b'\n';
        write(&self.bytes[..length + 2]);
    }
}

impl core::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if self.length < self.bytes.len() - 2 {
                self.bytes[self.length] = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Records one check.
pub fn check(name: &str, ok: bool) {
    if ok {
        PASSED.fetch_add(1, Ordering::Relaxed);
        say!("PASS {name}");
    } else {
        FAILED.fetch_add(1, Ordering::Relaxed);
        say!("FAIL {name}");
    }
}

/// Records a check that two numbers are equal.
pub fn check_eq(name: &str, found: u64, wanted: u64) {
    if found == wanted {
        check(name, true);
    } else {
        FAILED.fetch_add(1, Ordering::Relaxed);
        say!("FAIL {name}: found {found:#x}, wanted {wanted:#x}");
    }
}

/// True on processors whose hypercall instruction is VMMCALL.
pub fn is_amd() -> bool {
    // SAFETY: written once by the entry code, before Rust runs.
    unsafe { tiny_is_amd != 0 }
}

/// What the entry code's hypercalls from 32-bit code with paging off gave: the version, the result of `get_features`, and
/// the features.
pub fn from_32_bit() -> (u32, i32, u32) {
    // SAFETY: written once by the entry code, before Rust runs.
    unsafe { (tiny_version32, tiny_result32, tiny_features32[1]) }
}

/// One hypercall by the vendor's instruction.
pub fn hypercall(number: u32, a: u64, b: u64, c: u64) -> i64 {
    if is_amd() { vmmcall(number, a, b, c) } else { vmcall(number, a, b, c) }
}

macro_rules! call {
    ($name:ident, $instruction:literal) => {
        /// One hypercall by this instruction.
        pub fn $name(number: u32, a: u64, b: u64, c: u64) -> i64 {
            let result: i64;
            // SAFETY: the guest owns its memory; pointers among the arguments are to live buffers of the caller.
            unsafe {
                asm!($instruction, inlateout("rax") u64::from(number) => result, inlateout("rdi") a => _,
                    inlateout("rsi") b => _, inlateout("rdx") c => _, out("r10") _, out("r8") _, options(nostack));
            }
            result
        }
    };
}
call!(vmcall, "vmcall");
call!(vmmcall, "vmmcall");

/// Makes a call with a structure that goes in and comes back.
pub fn call<T: Layout>(number: u32, operation: u64, value: &mut T) -> i64 {
    let mut bytes = T::ZEROED;
    let _ = value.encode(Width::W64, bytes.as_mut());
    let result = hypercall(number, operation, bytes.as_mut().as_mut_ptr() as u64, 1);
    if let Some(back) = T::decode(Width::W64, bytes.as_ref()) {
        *value = back;
    }
    result
}

/// Reads an HVM parameter of this domain.
pub fn parameter(index: u32) -> u64 {
    let mut argument = hvm::ParamArgument { domain: DomainId::SELF, index, value: 0 };
    if call(34, 1, &mut argument) == 0 { argument.value } else { 0 }
}

/// Sets an HVM parameter of this domain.
pub fn set_parameter(index: u32, value: u64) -> i64 {
    call(34, 0, &mut hvm::ParamArgument { domain: DomainId::SELF, index, value })
}

/// A page of guest-physical space, which is mapped one to one.
pub fn page(gfn: u64) -> &'static SharedPage {
    // SAFETY: the lowest 4 GiB are mapped one to one; a `SharedPage` is atomic words, so that nothing is assumed of what
    // is there, and the callers name frames that are not Rust's own data.
    unsafe { &*((gfn << 12) as *const SharedPage) }
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Lets interrupts in.
pub fn interrupts_on() {
    // SAFETY: the descriptor table is loaded before `run`.
    unsafe { asm!("sti", "nop", options(nomem, nostack)) }
}

/// Keeps interrupts out.
pub fn interrupts_off() {
    // SAFETY: changes a flag only.
    unsafe { asm!("cli", options(nomem, nostack)) }
}

/// Sleeps until an interrupt, which is let in. Call it with interrupts off.
pub fn halt() {
    // SAFETY: the descriptor table is loaded before `run`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Powers the domain off, crashes it, or whatever `reason` says.
pub fn shutdown(reason: u32) -> ! {
    let argument = [reason];
    hypercall(29, 2, argument.as_ptr() as u64, 0);
    loop {
        // SAFETY: ends this vCPU.
        unsafe { asm!("cli", "hlt") }
    }
}

/// Starts vCPU 1 and up at `entry` (INIT, start-up IPI through the virtual LAPIC).
pub fn start_vcpu(vcpu: u32) {
    let length = (&raw const tiny_ap_end) as usize - (&raw const tiny_ap) as usize;
    // SAFETY: page 8 is RAM that nothing uses; the stub is position-independent and shorter than a page.
    unsafe { core::ptr::copy_nonoverlapping(&raw const tiny_ap, 0x8000 as *mut u8, length) };
    lapic_write(0x310, (2 * vcpu) << 24);
    lapic_write(0x300, 0x4500);
    lapic_write(0x310, (2 * vcpu) << 24);
    lapic_write(0x300, 0x4608);
}

/// Reads a register of the local APIC.
pub fn lapic_read(offset: u64) -> u32 {
    let value: u32;
    // SAFETY: the LAPIC's page is mapped; reading it is what the guest tests.
    unsafe {
        asm!("mov {0:e}, dword ptr [{1}]", out(reg) value, in(reg) 0xfee0_0000u64 + offset, options(nostack))
    };
    value
}

/// Writes a register of the local APIC.
pub fn lapic_write(offset: u64, value: u32) {
    // SAFETY: as for `lapic_read`.
    unsafe {
        asm!("mov dword ptr [{1}], {0:e}", in(reg) value, in(reg) 0xfee0_0000u64 + offset, options(nostack))
    };
}

static AP_ENTRY: AtomicU32 = AtomicU32::new(0);

/// What further vCPUs execute; they stop when it returns.
pub fn on_start(entry: fn()) {
    AP_ENTRY.store(entry as usize as u32, Ordering::SeqCst);
}

#[unsafe(no_mangle)]
extern "C" fn tiny_ap_main() {
    trap::load();
    let entry = AP_ENTRY.load(Ordering::SeqCst) as usize;
    // SAFETY: `on_start` stored a function of this image, which lies below 4 GiB.
    let entry: fn() = unsafe { core::mem::transmute(entry) };
    entry();
}

#[unsafe(no_mangle)]
extern "C" fn tiny_main(start_info: u32) -> ! {
    trap::load();
    console::open();
    crate::run(start_info);
    let failed = FAILED.load(Ordering::Relaxed);
    say!("RESULT {} passed, {failed} failed", PASSED.load(Ordering::Relaxed));
    console::drain();
    shutdown(if failed == 0 { 0 } else { 3 })
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("FAIL panic: {info}");
    console::drain();
    shutdown(3)
}
