//! QEMU's command line: a `pc` machine with nothing that is not asked for, the image as the PVH kernel and the bundle as its one module.

use crate::machine::{Boot, Machine};
use std::path::Path;
use std::process::{Command, Stdio};

/// The program's name.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// Adds the options for `boot`, with COM1 in the file `serial`.
pub(crate) fn options(command: &mut Command, boot: &Boot, serial: &Path) {
    let accelerator = match boot.machine {
        Machine::QemuKvm => "kvm",
        // Instruction counting works with one thread only.
        _ if boot.smp > 1 && !boot.icount => "tcg,thread=multi",
        _ => "tcg",
    };
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "pc",
        "-accel",
        accelerator,
    ]);
    command.args(["-cpu", boot.cpu.as_deref().unwrap_or(boot.machine.default_cpu())]);
    command.args(["-m", &boot.memory_mib.to_string(), "-smp", &boot.smp.to_string()]);
    if boot.icount {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    command.arg("-serial").arg(format!("file:{}", comma(serial)));
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    command.arg("-kernel").arg(&boot.elf);
    if let Some(module) = &boot.module {
        command.arg("-initrd").arg(module);
    }
    if !boot.cmdline.is_empty() {
        command.arg("-append").arg(&boot.cmdline);
    }
    command.args(&boot.extra).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
}

/// A path inside one of QEMU's option lists, where a comma is written twice.
pub(crate) fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
