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

/// The number of a vCPU's local APIC: twice its own, as Xen has them. The ACPI tables say the same.
pub const fn apic_id(vcpu: u32) -> u32 {
    vcpu << 1
}

#[cfg(test)]
mod tests;
