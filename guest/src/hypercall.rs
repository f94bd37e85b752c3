//! Hypercalls: the one instruction, and typed calls for what a kernel needs itself.
//!
//! The instruction is chosen by the processor's vendor, as Linux does ([`init`]); on a machine with no hypervisor every
//! call fails with `ENOSYS`. Structures travel in private, aligned copies.
#![expect(unsafe_code, reason = "the hypercall instruction")]

use core::sync::atomic::{AtomicU8, Ordering};

use trunnion_protocol::address::{Gfn, Gva};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::hvm::{self, Param, ParamArgument};
use trunnion_protocol::hypercall::memory::{self, AddToPhysmap, Space};
use trunnion_protocol::hypercall::misc::ConsoleOp;
use trunnion_protocol::hypercall::sched::{self, Shutdown, ShutdownReason};
use trunnion_protocol::hypercall::vcpu::{self, SingleshotTimer};
use trunnion_protocol::hypercall::{Hypercall, grant};
use trunnion_protocol::id::DomainId;
use trunnion_protocol::layout::{Layout, Width};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const NONE: u8 = 0;
const VMCALL: u8 = 1;
const VMMCALL: u8 = 2;
static INSTRUCTION: AtomicU8 = AtomicU8::new(NONE);

/// Chooses the instruction. Returns whether a Xen-ABI hypervisor is there.
pub fn init() -> bool {
    use trunnion_protocol::cpuid::{BASE, LAST_BASE, SIGNATURE_WORDS, STEP};
    let cpuid = |leaf| raw_cpuid::native_cpuid::cpuid_count(leaf, 0);
    let present = (BASE..=LAST_BASE).step_by(STEP as usize).any(|base| {
        let words = cpuid(base);
        [words.ebx, words.ecx, words.edx] == SIGNATURE_WORDS && words.eax.wrapping_sub(base) >= 2
    });
    if present {
        let vendor = cpuid(0);
        // "AuthenticAMD" and "HygonGenuine" by their first four letters.
        let amd = [*b"Auth", *b"Hygo"].map(u32::from_le_bytes).contains(&vendor.ebx);
        INSTRUCTION.store(if amd { VMMCALL } else { VMCALL }, Ordering::Relaxed);
    }
    present
}

/// Whether [`init`] found a hypervisor.
pub fn is_present() -> bool {
    INSTRUCTION.load(Ordering::Relaxed) != NONE
}

/// One hypercall with plain register values; returns the result register.
///
/// Addresses among the arguments must be those of memory that the caller may lend: this is what the typed calls take
/// care of, so prefer them.
pub fn raw(number: u32, arguments: [u64; 5]) -> i64 {
    let mut result = u64::from(number);
    let [a, b, c, d, e] = arguments;
    macro_rules! execute {
        ($instruction:literal) => {
            // SAFETY: the hypervisor preserves all but the listed registers (`arch-x86/xen-x86_64.h`) and writes only to
            // memory that the arguments name, which the callers of this function lend to it.
            unsafe {
                core::arch::asm!($instruction,
                    inout("rax") result, inout("rdi") a => _, inout("rsi") b => _, inout("rdx") c => _,
                    inout("r10") d => _, inout("r8") e => _, options(nostack));
            }
        };
    }
    match INSTRUCTION.load(Ordering::Relaxed) {
        VMCALL => execute!("vmcall"),
        VMMCALL => execute!("vmmcall"),
        _ => return -i64::from(Errno::NoSys.number()),
    }
    result as i64
}

/// A hypercall whose failure is an [`Errno`].
pub fn call(number: Hypercall, arguments: [u64; 5]) -> Result<u64, Errno> {
    Errno::from_return(raw(number.number(), arguments))
}

#[repr(C, align(16))]
struct Aligned<B>(B);

/// A hypercall with an operation and one structure, which the hypervisor may change.
pub fn with<T: Layout>(number: Hypercall, operation: u64, value: &mut T) -> Result<u64, Errno> {
    let mut bytes = Aligned(T::ZEROED);
    value.encode(Width::W64, bytes.0.as_mut()).ok_or(Errno::Inval)?;
    let result = call(number, [operation, (&raw mut bytes) as u64, 0, 0, 0]);
    if let Some(changed) = T::decode(Width::W64, bytes.0.as_ref()) {
        *value = changed;
    }
    result
}

/// One of dom0's control calls ([`trunnion_protocol::control`]).
pub fn control<T: IntoBytes + FromBytes + Immutable>(
    operation: trunnion_protocol::control::Operation,
    value: &mut T,
) -> Result<u64, Errno> {
    let address = core::ptr::from_mut(value) as u64;
    Errno::from_return(raw(trunnion_protocol::control::CALL, [operation.number(), address, 0, 0, 0]))
}

/// Writes text to the hypervisor's console.
pub fn console_write(text: &[u8]) -> Result<(), Errno> {
    let operation = u64::from(ConsoleOp::Write.number());
    call(Hypercall::ConsoleIo, [operation, text.len() as u64, text.as_ptr() as u64, 0, 0]).map(drop)
}

/// Takes bytes that were typed on the hypervisor's console; says how many. Only dom0 gets any.
pub fn console_read(into: &mut [u8]) -> Result<usize, Errno> {
    let operation = u64::from(ConsoleOp::Read.number());
    let count = call(Hypercall::ConsoleIo, [operation, into.len() as u64, into.as_mut_ptr() as u64, 0, 0])?;
    Ok(count as usize)
}

/// Ends the domain. Returns only when the hypervisor refuses.
pub fn shutdown(reason: ShutdownReason) {
    let operation = u64::from(sched::Op::Shutdown.number());
    let _ = with(Hypercall::SchedOp, operation, &mut Shutdown { reason: reason.number() });
}

/// Lets others run.
pub fn yield_now() {
    let _ = call(Hypercall::SchedOp, [u64::from(sched::Op::Yield.number()), 0, 0, 0, 0]);
}

/// A parameter of a domain.
pub fn param(domain: DomainId, param: Param) -> Result<u64, Errno> {
    let mut argument = ParamArgument { domain, index: param.number(), value: 0 };
    with(Hypercall::HvmOp, u64::from(hvm::Op::GetParam.number()), &mut argument)?;
    Ok(argument.value)
}

/// Sets a parameter of a domain.
pub fn set_param(domain: DomainId, param: Param, value: u64) -> Result<(), Errno> {
    let mut argument = ParamArgument { domain, index: param.number(), value };
    with(Hypercall::HvmOp, u64::from(hvm::Op::SetParam.number()), &mut argument).map(drop)
}

/// Puts a page of the hypervisor's into this domain's address space.
pub fn add_to_physmap(space: Space, index: u64, gfn: Gfn) -> Result<(), Errno> {
    let mut argument = AddToPhysmap { domain: DomainId::SELF, size: 0, space: space.number(), index, gfn };
    with(Hypercall::MemoryOp, u64::from(memory::Op::AddToPhysmap.number()), &mut argument).map(drop)
}

/// Sets the vCPU's timer: [`Virq::TIMER`](trunnion_protocol::id::Virq::TIMER) comes at `deadline_ns` of system time.
pub fn set_timer(deadline_ns: u64) -> Result<(), Errno> {
    let mut bytes = Aligned(SingleshotTimer::ZEROED);
    SingleshotTimer { deadline_ns, flags: 0 }.encode(Width::W64, &mut bytes.0).ok_or(Errno::Inval)?;
    let operation = u64::from(vcpu::Op::SetSingleshotTimer.number());
    call(Hypercall::VcpuOp, [operation, 0, (&raw mut bytes) as u64, 0, 0]).map(drop)
}

/// Maps and unmaps: a batch of grant operations of one kind, each with its own status inside. `bytes` holds the
/// structures one after the other in their 64-bit form.
pub fn grant_batch(operation: grant::Op, bytes: &mut [u64], count: usize) -> Result<u64, Errno> {
    let address = Gva(bytes.as_mut_ptr() as u64);
    call(Hypercall::GrantTableOp, [u64::from(operation.number()), address.0, count as u64, 0, 0])
}
