//! Bochs's configuration: a machine without display, network or virtio, whose time counts instructions.

use crate::machine::Boot;
use std::path::Path;

/// The program's name; Debian's `bochs` is a wrapper that wants a display.
pub(crate) const PROGRAM: &str = "bochs-bin";

/// What the debugger, which Debian's build always has, is told: start; and end when the machine stops itself.
pub(crate) const DEBUGGER: &str = "c\nq\n";

/// The configuration file for `boot`: it starts the CD `iso`, and COM1 goes to the file `serial`.
pub(crate) fn configuration(
    boot: &Boot,
    iso: &Path,
    serial: &Path,
    log: &Path,
    com2: Option<&Path>,
) -> String {
    let cpu = boot.cpu.as_deref().unwrap_or(boot.machine.default_cpu());
    let memory = boot.memory_mib;
    let mut lines = vec![
        "config_interface: textconfig".into(),
        // This display needs neither X nor a terminal; with timeout 0 it waits for no viewer.
        "display_library: rfb, options=\"timeout=0\"".into(),
        format!(
            "cpu: model={cpu}, count={}, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1",
            boot.smp
        ),
        format!("memory: guest={memory}, host={}", memory.min(2048)),
        "romimage: file=$BXSHARE/BIOS-bochs-latest, options=fastboot".into(),
        "vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest".into(),
        // GRUB's VBE path damages itself on this VGA BIOS.
        "vga: extension=none".into(),
        "pci: enabled=1, chipset=i440fx".into(),
        "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14".into(),
        "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15".into(),
        format!("ata0-master: type=cdrom, path={}, status=inserted", iso.display()),
        "boot: cdrom".into(),
        // No host clock: time depends on executed instructions alone, so runs repeat.
        "clock: sync=none, time0=946684800".into(),
        format!("com1: enabled=1, mode=file, dev={}", serial.display()),
        format!("log: {}", log.display()),
        "debugger_log: -".into(),
        "panic: action=fatal".into(),
        "error: action=report".into(),
        "info: action=report".into(),
        "debug: action=ignore".into(),
        "speaker: enabled=0".into(),
        "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy".into(),
    ];
    if let Some(terminal) = com2 {
        lines.push(format!("com2: enabled=1, mode=term, dev={}", terminal.display()));
    }
    lines.push(String::new());
    lines.join("\n")
}
