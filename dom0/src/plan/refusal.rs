//! Why a domain cannot be planned.

use core::fmt;

/// A refusal; nothing has been done. Sizes are in MiB, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The firmware has a size that does not fit into a PC.
    Firmware {
        /// Its size in bytes.
        bytes: u64,
    },
    /// Two disks have names of the same IDE drive.
    Drive {
        /// Which, from 0.
        place: u8,
    },
    /// The kernel does not fit into the guest's memory.
    Kernel {
        /// Memory that it takes at least.
        needed_mib: u64,
        /// Memory below 4 GiB that the guest has.
        memory_mib: u64,
    },
    /// The RAM disk does not fit behind the kernel.
    Ramdisk {
        /// Its size in bytes.
        bytes: u64,
        /// Memory that kernel and RAM disk take at least.
        needed_mib: u64,
        /// Memory below 4 GiB that the guest has.
        memory_mib: u64,
    },
    /// The host has too little free memory.
    Memory {
        /// What the domain takes in all.
        needed_mib: u64,
        /// What is free.
        free_mib: u64,
    },
    /// The command line is too long.
    CommandLine {
        /// Its length.
        bytes: usize,
        /// What it may be.
        most: usize,
    },
    /// `cpus` names a CPU that is not there.
    NoSuchCpu {
        /// Which.
        cpu: u32,
        /// How many there are.
        cpus: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firmware { bytes } => {
                write!(f, "the firmware has {bytes} bytes, and must have whole pages from 64 KiB to 1 MiB")
            }
            Self::Drive { place } => {
                let (name, letter) = match place {
                    0 => ("first", 'a'),
                    1 => ("second", 'b'),
                    2 => ("third", 'c'),
                    _ => ("fourth", 'd'),
                };
                write!(f, "two disks are the {name} IDE drive (`hd{letter}`)")
            }
            Self::Kernel { needed_mib, memory_mib } => {
                write!(
                    f,
                    "the kernel does not fit: it takes at least {needed_mib} MiB, and the guest has {memory_mib} MiB below 4 GiB"
                )
            }
            Self::Ramdisk { bytes, needed_mib, memory_mib } => write!(
                f,
                "the RAM disk of {} MiB does not fit behind the kernel: together they take at least {needed_mib} MiB, and the guest has {memory_mib} MiB below 4 GiB",
                bytes.div_ceil(1 << 20)
            ),
            Self::Memory { needed_mib, free_mib } => {
                write!(
                    f,
                    "not enough memory: the domain takes {needed_mib} MiB in all, and {free_mib} MiB are free"
                )
            }
            Self::CommandLine { bytes, most } => {
                write!(f, "the kernel's command line has {bytes} bytes, and may have {most}")
            }
            Self::NoSuchCpu { cpu, cpus } => write!(f, "`cpus` names CPU {cpu}, and the host has {cpus}"),
        }
    }
}
