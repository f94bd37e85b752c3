//! What any loader tells: command line, memory map, modules, the place of ACPI's root pointer.

use trunnion_protocol::start_info::MapEntry;

use super::ranges::Ranges;

/// Magic of multiboot2 in EAX (specification 3.3).
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;

/// The loader's account of the machine.
#[derive(Clone, Debug, Default)]
pub struct BootInfo<'a> {
    /// Which protocol it came by.
    pub loader: &'static str,
    /// The command line.
    pub command_line: &'a str,
    /// Usable RAM, sorted, byte addresses.
    pub ram: Ranges,
    /// Memory that must be left alone until the information was used up.
    pub busy: Ranges,
    /// Physical address and bytes of the first module, the bundle; 0 bytes when there is none.
    pub module: (u64, u64),
    /// ACPI's root pointer, when the loader knows it.
    pub rsdp: Option<u64>,
}

impl BootInfo<'_> {
    /// An entry of the memory map.
    pub(super) fn add_memory(&mut self, entry: &MapEntry) {
        if entry.kind == 1 {
            self.ram.add(entry.address, entry.address.saturating_add(entry.size));
        }
    }

    pub(super) fn add_module(&mut self, address: u64, size: u64) {
        self.busy.add(address, address.saturating_add(size));
        if self.module.1 == 0 {
            self.module = (address, size);
        }
    }
}

/// The value of `key=value` on a command line.
pub fn value<'a>(command_line: &'a str, key: &str) -> Option<&'a str> {
    command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Why the machine cannot start from what the loader left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootError {
    /// Neither multiboot2 nor PVH.
    UnknownLoader,
    /// The information ends early or points nowhere.
    Truncated,
    /// No memory map.
    NoMemoryMap,
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UnknownLoader => "started by an unknown loader: neither multiboot2 nor PVH",
            Self::Truncated => "the loader's information ends early or points nowhere",
            Self::NoMemoryMap => "the loader gave no memory map",
        })
    }
}
