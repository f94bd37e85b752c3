//! The VMX instructions (SDM 3, chapter 30). Each says whether it succeeded.

use crate::machine::prelude::*;

/// An instruction failed: no current VMCS, or a wrong operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failed;

macro_rules! by_pointer {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// VMX is on (or being switched on), and the address is that of a page in the form the instruction wants, which belongs to
        /// the caller.
        pub(super) unsafe fn $name(address: u64) -> Result<(), Failed> {
            let ok: u8;
            // SAFETY: the caller's promise.
            unsafe {
                asm!(concat!($instruction, " [{}]"), "seta {}", in(reg) &raw const address, lateout(reg_byte) ok, options(nostack));
            }
            if ok != 0 { Ok(()) } else { Err(Failed) }
        }
    };
}

by_pointer! {
    /// Enters VMX operation.
    vmxon, "vmxon"
}
by_pointer! {
    /// Puts a VMCS into memory, and makes it no CPU's.
    vmclear, "vmclear"
}
by_pointer! {
    /// Makes a VMCS the current one.
    vmptrld, "vmptrld"
}

/// The current VMCS; all ones when there is none.
pub(super) fn vmptrst() -> u64 {
    let mut address = 0u64;
    // SAFETY: stores a pointer into the variable.
    unsafe { asm!("vmptrst [{}]", in(reg) &raw mut address, options(nostack)) };
    address
}

/// Reads a field of the current VMCS.
pub(super) fn vmread(field: u32) -> u64 {
    let value: u64;
    // SAFETY: reads a field; without a current VMCS the instruction fails and the value means nothing.
    unsafe { asm!("vmread {}, {}", out(reg) value, in(reg) field as u64, options(nostack)) };
    value
}

/// Writes a field of the current VMCS.
pub(super) fn vmwrite(field: u32, value: u64) {
    let ok: u8;
    // SAFETY: changes only the control structure of a vCPU; the host half is written once, from the host's own state.
    unsafe {
        asm!("vmwrite {}, {}", "seta {}", in(reg) field as u64, in(reg) value, lateout(reg_byte) ok, options(nostack));
    }
    debug_assert!(ok != 0, "vmwrite {field:#x}");
}

/// Forgets translations of EPT: `kind` 1 of one root, 2 of all.
pub(super) fn invept(kind: u64, pointer: u64) {
    let descriptor = [pointer, 0];
    // SAFETY: forgetting translations changes no memory; the kind was found to be supported.
    unsafe { asm!("invept {}, [{}]", in(reg) kind, in(reg) &raw const descriptor, options(nostack)) };
}

/// Forgets translations of all VPIDs.
pub(super) fn invvpid_all() {
    let descriptor = [0u64; 2];
    // SAFETY: as above.
    unsafe { asm!("invvpid {}, [{}]", in(reg) 2u64, in(reg) &raw const descriptor, options(nostack)) };
}
