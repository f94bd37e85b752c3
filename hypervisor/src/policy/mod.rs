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

/// How the numbers of a domain's local APICs follow from its vCPUs'. The ACPI tables say the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicIds {
    /// Twice the vCPU's, as Xen has them.
    Doubled,
    /// The vCPU's own: tables of SeaBIOS take an APIC's number for the processor's, which Linux takes for the vCPU's.
    Own,
}

impl ApicIds {
    /// Bits by which a vCPU's number is shifted.
    const fn shift(self) -> u32 {
        match self {
            Self::Doubled => 1,
            Self::Own => 0,
        }
    }

    /// The number of a vCPU's.
    pub const fn of(self, vcpu: u32) -> u32 {
        vcpu << self.shift()
    }
}

#[cfg(test)]
mod tests;
