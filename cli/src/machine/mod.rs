//! The outer machines: what they are called, what they can do, and how a run of one begins and ends.
//!
//! [`boot`] runs one ELF with one module to its end and gives back what it said on COM1. An image ends its run in words that every emulator
//! understands; it prints `EXIT n` on COM1, then writes `0x10 + n` to port 0xF4 (QEMU's `isa-debug-exit`), then for n = 0 the byte `D`, and
//! last `Shutdown`, to port 0x8900 (Bochs).

mod bochs;
mod boot;
pub(crate) mod child;
pub mod choice;
pub(crate) mod iso;
pub(crate) mod monitor;
pub(crate) mod platform;
pub(crate) mod qemu;
mod strip;

pub(crate) use qemu::MOST_DISKS;
pub(crate) use strip::stripped;

pub use boot::{Boot, End, Outcome, boot};

use std::fmt;
use std::process::{Command, Stdio};
use std::str::FromStr;

/// An outer machine: an emulator and the virtualisation it offers to the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    /// QEMU with KVM, where KVM offers nested VMX or SVM.
    QemuKvm,
    /// QEMU's own emulation (TCG) with SVM.
    QemuSvm,
    /// Bochs with an Intel processor.
    BochsVmx,
    /// Bochs with an AMD processor.
    BochsSvm,
}

impl Machine {
    /// All of them, in the order of preference.
    pub const ALL: [Machine; 4] = [Machine::QemuKvm, Machine::QemuSvm, Machine::BochsVmx, Machine::BochsSvm];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Machine::QemuKvm => "qemu-kvm",
            Machine::QemuSvm => "qemu-svm",
            Machine::BochsVmx => "bochs-vmx",
            Machine::BochsSvm => "bochs-svm",
        }
    }

    /// The processor model when none is asked for, in the emulator's own words.
    pub fn default_cpu(self) -> &'static str {
        match self {
            Machine::QemuKvm => "host",
            // No SMAP and MONITOR: TCG would emulate them at a cost. An invariant TSC has to be named.
            Machine::QemuSvm => "EPYC,+svm,+npt,-smap,-monitor,+invtsc",
            // The one with an honest clock that also boots Linux.
            Machine::BochsVmx => "corei7_haswell_4770",
            Machine::BochsSvm => "ryzen",
        }
    }

    /// The emulator and its version, as far as it can be asked.
    pub(crate) fn version(self) -> Option<String> {
        let said = |command: &mut Command| {
            let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().next().map(str::to_string).filter(|line| !line.is_empty())
        };
        if self.is_bochs() {
            // Bochs itself tells it only in its log.
            let version = said(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "bochs"]))?;
            return Some(format!("Bochs {version}"));
        }
        said(Command::new(qemu::PROGRAM).arg("--version"))
    }

    /// Whether it is Bochs: no virtio devices, and an image comes from a CD.
    pub fn is_bochs(self) -> bool {
        matches!(self, Machine::BochsVmx | Machine::BochsSvm)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Machine::ALL.into_iter().find(|machine| machine.name() == name).ok_or_else(|| {
            format!(
                "there is no machine \"{name}\"; there are {}, {}",
                Machine::ALL.map(Machine::name).join(", "),
                crate::xen::NAME
            )
        })
    }
}
