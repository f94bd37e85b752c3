//! Which outer machine works here, and why.

use crate::machine::Machine;
use std::fs;

/// The machine that a run uses when none is named: the first that can work.
pub fn choose() -> Machine {
    Machine::ALL.into_iter().find(|machine| verdict(*machine).is_ok()).unwrap_or(Machine::QemuSvm)
}

/// Whether `machine` can work on this processor and kernel (what has to be installed does not count), and why or why not.
pub fn verdict(machine: Machine) -> Result<String, String> {
    match machine {
        Machine::QemuKvm => nested_kvm(),
        Machine::QemuSvm => {
            Ok("QEMU emulates SVM with nested paging; needs nothing of this processor".into())
        }
        Machine::BochsVmx => Ok("Bochs emulates VMX with EPT; about thirty times slower than QEMU".into()),
        Machine::BochsSvm => Ok("Bochs emulates SVM; about thirty times slower than QEMU".into()),
    }
}

/// A /dev/kvm proves little: the processor must show VMX or SVM, and the module must pass it on to guests.
fn nested_kvm() -> Result<String, String> {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |name: &str| flags.split_ascii_whitespace().any(|flag| flag == name);
    let (extension, module) = match (has("vmx"), has("svm")) {
        (true, _) => ("VMX", "kvm_intel"),
        (_, true) => ("SVM", "kvm_amd"),
        _ => return Err("this processor shows neither VMX nor SVM (a virtual machine without nesting, or switched off in the firmware)".into()),
    };
    let parameter = format!("/sys/module/{module}/parameters/nested");
    match fs::read_to_string(&parameter).unwrap_or_default().trim() {
        "Y" | "1" => {}
        "" => return Err(format!("the kernel module {module} is not loaded")),
        _ => {
            return Err(format!(
                "nested {extension} is off ({parameter}); as root: modprobe -r {module}; modprobe {module} nested=1"
            ));
        }
    }
    match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(format!("KVM with nested {extension}")),
        Err(e) => Err(format!(
            "/dev/kvm cannot be opened: {} (is this user in the group kvm?)",
            crate::failure::reason(&e)
        )),
    }
}
