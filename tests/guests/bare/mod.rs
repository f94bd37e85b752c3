//! A machine of its own: no hypervisor is below, COM1 is the console, and the emulator is told when it is over.

mod entry;
mod loops;
mod svm;
mod vmx;

use core::arch::asm;
use core::fmt::{self, Write};

pub use core::arch::x86_64::__cpuid_count as cpuid;

const COM1: u16 = 0x3f8;
/// QEMU's `isa-debug-exit`, and Bochs's port for its debugger and its end.
const EXIT: u16 = 0xf4;
const BOCHS: u16 = 0x8900;

/// A page of memory that the processor reads and writes by itself.
#[repr(C, align(4096))]
pub struct Page(pub [u64; 512]);

impl Page {
    /// A page of zeroes.
    pub const fn new() -> Self {
        Self([0; 512])
    }
}

/// The guest's general registers but RSP, RAX first, in the order of the switches.
#[derive(Default)]
#[repr(C)]
pub struct Registers(pub [u64; 15]);

/// RAX and RBX among them.
pub const RAX: usize = 0;
pub const RBX: usize = 1;

pub fn outb(port: u16, value: u8) {
    // SAFETY: nothing else runs on the machine.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

pub fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: nothing else runs on the machine.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

pub fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: only registers that the processor says it has are read.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack)) }
    u64::from(high) << 32 | u64::from(low)
}

pub fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the machine is this program's own.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

pub fn tsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

macro_rules! control {
    ($read:ident, $write:ident, $name:literal) => {
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reads a register.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack)) }
            value
        }
        pub fn $write(value: u64) {
            // SAFETY: only bits that virtualization asks for are added.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) }
        }
    };
}
control!(cr0, set_cr0, "cr0");
control!(cr3, _set_cr3, "cr3");
control!(cr4, set_cr4, "cr4");

unsafe extern "C" {
    static bare_gdt: u64;
}

/// Where the descriptor table lies.
pub fn gdt() -> u64 {
    &raw const bare_gdt as u64
}

/// COM1.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while inb(COM1 + 5) & 0x20 == 0 {}
            outb(COM1, byte);
        }
        Ok(())
    }
}

#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::bare::Serial, $($argument)*);
    }};
}

/// Ends the run: 0 is success.
pub fn end(code: u8) -> ! {
    say!("EXIT {code}");
    while inb(COM1 + 5) & 0x40 == 0 {}
    outb(EXIT, 0x10 + code);
    if code == 0 {
        outb(BOCHS, b'D');
    }
    for byte in b"Shutdown" {
        outb(BOCHS, *byte);
    }
    loop {
        // SAFETY: stops the processor.
        unsafe { asm!("cli", "hlt") }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("FAILED {info}");
    end(1)
}

/// Measurements of each row.
pub const SAMPLES: usize = 101;

/// Prints `COST name samples min median max`.
pub fn row(name: &str, mut one: impl FnMut() -> u64) {
    let mut figures = [0u64; SAMPLES];
    one();
    for figure in &mut figures {
        *figure = one();
    }
    figures.sort_unstable();
    say!("COST {name} {SAMPLES} {} {} {}", figures[0], figures[SAMPLES / 2], figures[SAMPLES - 1]);
}

/// The time of `operations` of something, for one, without the reading of the clock.
pub fn each(operations: u64, what: impl FnOnce()) -> u64 {
    let start = tsc();
    what();
    (tsc() - start) / operations
}

extern "C" fn main() -> ! {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 0xc7), (4, 3)] {
        outb(COM1 + register, value);
    }
    let vmx = cpuid(1, 0).ecx & 1 << 5 != 0;
    let svm = cpuid(0x8000_0000, 0).eax >= 0x8000_000a && cpuid(0x8000_0001, 0).ecx & 4 != 0;
    match (vmx, svm) {
        (true, _) => vmx::measure(),
        (_, true) => svm::measure(),
        _ => {
            say!("FAILED the processor has neither VMX nor SVM");
            end(2)
        }
    }
    end(0)
}
