//! The tiny guests on each outer machine, all in one boot.

use crate::DRIVER;
use trunnion_tests::system::{
    BOCHS_HASWELL, BOCHS_IVY_BRIDGE, BOCHS_RYZEN, BOCHS_SKYLAKE, Ended, Outer, QEMU_SVM, Run,
};

/// The guests that check something, with what their domain needs beyond the usual.
const GUESTS: [(&str, &str); 6] =
    [("basics", ""), ("events", ""), ("memory", ""), ("grants", ""), ("smp", "vcpus = 4"), ("hostile", "")];

fn all_guests(outer: Outer, limit: u32) -> Ended {
    let mut run = Run::new(DRIVER, outer).option(&["--sequence"]);
    for (name, more) in GUESTS {
        run = run.tiny(name, more);
    }
    let ended = run.go(limit);
    for (name, _) in GUESTS {
        ended.assert_passed(name);
    }
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
    ended
}

#[test]
fn guests_on_svm_under_qemu() {
    let ended = all_guests(QEMU_SVM, 120);
    let exits = &ended.domain("basics")["exits"];
    assert!(exits["hypercall"].as_u64().unwrap_or(0) > 10, "{}", ended.report());
    assert!(exits["cpuid"].as_u64().unwrap_or(0) > 3, "{}", ended.report());
}

#[test]
fn guests_on_vmx_skylake() {
    all_guests(BOCHS_SKYLAKE, 240);
}

#[test]
fn guests_on_vmx_haswell() {
    all_guests(BOCHS_HASWELL, 240);
}

#[test]
fn guests_on_vmx_ivy_bridge() {
    all_guests(BOCHS_IVY_BRIDGE, 240);
}

#[test]
fn guests_on_svm_under_bochs() {
    all_guests(BOCHS_RYZEN, 240);
}

#[test]
fn a_triple_fault_ends_only_its_domain() {
    let ended = Run::new(DRIVER, QEMU_SVM).tiny("triple", "").tiny("basics", "").go(60);
    assert!(ended.console("triple").contains("FAULTING"), "{}", ended.report());
    assert_ne!(ended.outcome("triple"), "poweroff", "{}", ended.report());
    ended.assert_passed("basics");
    assert_eq!(ended.status, 1, "{}", ended.report());
    ended.assert_no_leaks();
}

/// The processor says next to nothing about why it refuses a state; the crash report names the rule.
fn a_refused_entry_names_its_rule(outer: Outer) {
    let ended = Run::new(DRIVER, outer).tiny("refused", "vcpus = 2").go(120);
    assert!(ended.console("refused").contains("STARTING"), "{}", ended.report());
    assert_eq!(ended.outcome("refused"), "crash", "{}", ended.report());
    let log = ended.file("dom0.log");
    let line = log.lines().find(|line| line.contains("entry refused")).unwrap_or_default();
    assert!(line.contains("CR4 = 0x") && line.contains("PAE is set"), "{log}");
    assert!(ended.file("hypervisor.log").contains("entry state "), "the structure is written down");
    ended.assert_no_leaks();
}

#[test]
fn a_refused_entry_names_its_rule_on_svm() {
    a_refused_entry_names_its_rule(QEMU_SVM);
}

#[test]
fn a_refused_entry_names_its_rule_on_vmx() {
    a_refused_entry_names_its_rule(BOCHS_HASWELL);
}
