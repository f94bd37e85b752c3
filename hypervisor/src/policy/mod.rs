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

/// The local APIC's number of a vCPU. The ACPI tables say the same.
pub const fn apic_id(vcpu: u32) -> u32 {
    2 * vcpu
}

#[cfg(test)]
mod tests {
    /// The book's page has the tables as the code has them. With `WRITE_DOCS` set it is written anew.
    #[test]
    fn the_book_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/processor.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (mut features, mut msrs) = (String::new(), String::new());
        super::features::describe(&mut features).unwrap();
        super::msr::describe(&mut msrs).unwrap();
        let (start, _) = page.split_once("| leaf |").unwrap();
        let (_, rest) = page.split_once("\n\n## MSRs").unwrap();
        let (between, _) = rest.split_once("| MSR |").unwrap();
        let wanted = format!("{start}{features}\n## MSRs{between}{msrs}");
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(path, wanted).unwrap();
        } else {
            assert_eq!(page, wanted, "run this test with WRITE_DOCS=1");
        }
    }
}
