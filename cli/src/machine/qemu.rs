//! QEMU's command line: a `pc` machine with nothing that is not asked for, the image as the PVH kernel and the bundle as its one module.

use crate::machine::{Boot, Machine};
use crate::run::disks::Disk;
use crate::run::options::Forward;
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

/// Adds the control connection, a console port of a virtio-serial device, and the monitor.
pub(crate) fn control(command: &mut Command, control: &Path, monitor: &Path) {
    command.arg("-chardev").arg(format!("socket,id=control,path={}", comma(control)));
    command.args(["-device", "virtio-serial-pci,id=serial,disable-legacy=on,max_ports=1,addr=2"]);
    command.args(["-device", "virtconsole,bus=serial.0,nr=0,chardev=control"]);
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", comma(monitor)));
}

/// The uplink, a virtio network card on the emulator's own network or on a socket.
pub(crate) fn network(kind: &str, forward: &[Forward]) -> Vec<String> {
    let backend = match kind.strip_prefix("socket:") {
        Some(words) => format!("socket,id=uplink,{words}"),
        None => {
            let rule = |rule: &Forward| {
                let Forward { protocol, here, guest, there } = rule;
                format!(",hostfwd={protocol}:127.0.0.1:{here}-{guest}:{there}")
            };
            format!("user,id=uplink{}", forward.iter().map(rule).collect::<String>())
        }
    };
    let card = "virtio-net-pci,netdev=uplink,disable-legacy=on,addr=3,rx_queue_size=256,tx_queue_size=256,mac=52:54:00:12:34:56";
    ["-netdev", &backend, "-device", card].map(str::to_string).to_vec()
}

/// The first slot of the bus that disks are put in; those before it hold the chipset, the control connection and the uplink.
const FIRST_SLOT: usize = 4;
/// Slots from here on are left for disks that are plugged in later.
const LAST_SLOT: usize = 26;

/// The slot of the disk number `number` when it is plugged in later: one a disk, from the last slot down to those of the `first` disks that the
/// machine began with.
pub(crate) fn slot_for_later(number: usize, first: usize) -> Option<usize> {
    let slot = 31usize.checked_sub(number.checked_sub(first)?)?;
    (slot >= FIRST_SLOT + first.div_ceil(8)).then_some(slot)
}

/// The most disks that a machine starts with.
pub(crate) const MOST_DISKS: usize = (LAST_SLOT - FIRST_SLOT) * 8;

/// Adds one virtio-blk device for each of `disks`, eight to a slot.
pub(crate) fn disks(command: &mut Command, disks: &[Disk]) {
    for (n, disk) in disks.iter().enumerate() {
        let (slot, function) = (FIRST_SLOT + n / 8, n % 8);
        let read_only = if disk.writable { "off" } else { "on" };
        command.arg("-blockdev").arg(format!(
            "driver=raw,node-name=disk{n},read-only={read_only},discard=unmap,file.driver=file,file.node-name=file{n},file.filename={}",
            comma(&disk.path)
        ));
        // Errors are the guest's to hear of: by itself QEMU would stop the whole machine when this one's file system is full.
        command.arg("-device").arg(format!(
            "virtio-blk-pci,id=vd{n},drive=disk{n},serial={},werror=report,rerror=report,disable-legacy=on,num-queues=1,queue-size=256,multifunction=on,addr={slot:#x}.{function}",
            disk.serial
        ));
    }
}
