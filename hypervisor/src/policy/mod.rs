//! What a guest sees of its processor: CPUID leaves, MSRs and control registers, from tables.
//!
//! Deny by default: a feature that no row names is hidden, an MSR that no row names is #GP, a control bit whose feature is
//! hidden cannot be set. Each row has its reason. The three tables belong together: a control bit is allowed exactly when
//! the CPUID leaf shows its feature.

pub mod control;
pub mod cpuid;
pub mod features;
pub mod msr;

/// The version of the ABI, as CPUID and `XENVER_version` report it: 4.17.
pub const VERSION: u32 = 0x0004_0011;

/// The local APIC's number of a vCPU. The ACPI tables say the same; those of SeaBIOS take it for the processor's number too, which
/// Linux takes for the vCPU's number.
pub const fn apic_id(vcpu: u32) -> u32 {
    vcpu
}

#[cfg(test)]
mod tests;
