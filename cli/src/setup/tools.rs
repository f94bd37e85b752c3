//! The programs and files of other projects that the tool uses, and the Debian packages they are in.

use crate::machine::Machine;
use crate::setup::which;
use std::path::Path;

/// One package that the tool may need, known by one thing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// QEMU for x86.
    Qemu,
    /// Bochs.
    Bochs,
    /// The BIOS for Bochs.
    BochsBios,
    /// The VGA BIOS for Bochs.
    VgaBios,
    /// GRUB's modules for BIOS machines.
    GrubModules,
    /// GRUB's modules for UEFI machines.
    GrubEfi,
    /// `grub-mkrescue`.
    Grub,
    /// What `grub-mkrescue` writes an image with.
    Xorriso,
    /// What `grub-mkrescue` makes FAT file systems with.
    Mtools,
    /// `mke2fs`, for guests' disks, and `debugfs`, with which the tests look into them.
    Ext4,
    /// The `xenstore-*` programs, which the tests hold against the store.
    StoreTools,
    /// SeaBIOS and its VGA BIOS, which the tests boot the emulated PC with.
    SeaBios,
    /// SYSLINUX, with which the tests make a floppy that boots.
    Syslinux,
    /// memtest86+, which the tests boot from it.
    Memtest,
    /// UEFI's firmware for QEMU, which the tests start an image with.
    Ovmf,
}

impl Tool {
    /// All of them.
    pub const ALL: [Tool; 15] = [
        Tool::Qemu,
        Tool::Bochs,
        Tool::BochsBios,
        Tool::VgaBios,
        Tool::GrubModules,
        Tool::GrubEfi,
        Tool::Grub,
        Tool::Xorriso,
        Tool::Mtools,
        Tool::Ext4,
        Tool::StoreTools,
        Tool::SeaBios,
        Tool::Syslinux,
        Tool::Memtest,
        Tool::Ovmf,
    ];

    /// Where Debian has memtest86+ in the form of a Linux kernel.
    pub const MEMTEST: &str = "/boot/memtest86+x64.bin";

    /// What a machine needs.
    pub fn of(machine: Machine) -> &'static [Tool] {
        if machine.is_bochs() {
            &[
                Tool::Bochs,
                Tool::BochsBios,
                Tool::VgaBios,
                Tool::GrubModules,
                Tool::Grub,
                Tool::Xorriso,
                Tool::Mtools,
            ]
        } else {
            &[Tool::Qemu]
        }
    }

    /// The Debian package.
    pub fn package(self) -> &'static str {
        match self {
            Tool::Qemu => "qemu-system-x86",
            Tool::Bochs => "bochs",
            Tool::BochsBios => "bochsbios",
            Tool::VgaBios => "vgabios",
            Tool::GrubModules => "grub-pc-bin",
            Tool::GrubEfi => "grub-efi-amd64-bin",
            Tool::Grub => "grub-common",
            Tool::Xorriso => "xorriso",
            Tool::Mtools => "mtools",
            Tool::Ext4 => "e2fsprogs",
            Tool::StoreTools => "xenstore-utils",
            Tool::SeaBios => "seabios",
            Tool::Syslinux => "syslinux",
            Tool::Memtest => "memtest86+",
            Tool::Ovmf => "ovmf",
        }
    }

    /// The program, or the file (an absolute path), by which it is known.
    pub fn what(self) -> &'static str {
        match self {
            Tool::Qemu => "qemu-system-x86_64",
            Tool::Bochs => "bochs-bin",
            Tool::BochsBios => "/usr/share/bochs/BIOS-bochs-latest",
            Tool::VgaBios => "/usr/share/bochs/VGABIOS-lgpl-latest",
            Tool::GrubModules => "/usr/lib/grub/i386-pc/multiboot2.mod",
            Tool::GrubEfi => "/usr/lib/grub/x86_64-efi/multiboot2.mod",
            Tool::Grub => "grub-mkrescue",
            Tool::Xorriso => "xorriso",
            Tool::Mtools => "mformat",
            Tool::Ext4 => "mke2fs",
            Tool::StoreTools => "xenstore-read",
            Tool::SeaBios => "/usr/share/seabios/bios-256k.bin",
            Tool::Syslinux => "syslinux",
            Tool::Memtest => Tool::MEMTEST,
            Tool::Ovmf => "/usr/share/ovmf/OVMF.fd",
        }
    }

    /// Whether it is on this machine.
    pub fn is_here(self) -> bool {
        if self.what().starts_with('/') {
            Path::new(self.what()).exists()
        } else {
            which(self.what()).is_some()
        }
    }
}
