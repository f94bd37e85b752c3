//! The end of a run: wanted or not.

use core::panic::PanicInfo;

use super::cpu::{self, port};
use super::serial;
use crate::machine::prelude::*;

/// QEMU's `isa-debug-exit` device.
const QEMU_EXIT: u16 = 0xf4;
/// Added to the code there, so that success differs from the emulator's own statuses.
const QEMU_BIAS: u8 = 0x10;
/// Bochs's: `D` stops in its debugger, the word `Shutdown` ends it.
const BOCHS_EXIT: u16 = 0x8900;
/// The code of a crash of the hypervisor.
const CRASH: u8 = 0x7f;

/// Ends the machine with a code: 0 is success. An emulator ends; a real machine stops.
pub fn exit(code: u8) -> ! {
    let _ = writeln!(serial::Console, "EXIT {code}");
    serial::drain();
    port::out8(QEMU_EXIT, QEMU_BIAS.wrapping_add(code));
    if code == 0 {
        port::out8(BOCHS_EXIT, b'D');
    }
    for byte in b"Shutdown" {
        port::out8(BOCHS_EXIT, *byte);
    }
    cpu::stop()
}

/// Ends the machine after a crash.
pub fn end() -> ! {
    exit(CRASH)
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    serial::force_unlock();
    let _ = writeln!(serial::Console, "\nhypervisor panic: {info}");
    end()
}
