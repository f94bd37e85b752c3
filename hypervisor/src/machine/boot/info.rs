//! What any loader tells: command line, memory map, modules, the place of ACPI's root pointer.

use super::ranges::Ranges;

/// Magic of multiboot2 in EAX (specification 3.3).
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;

/// Most modules that are remembered.
pub(super) const MODULES: usize = 4;

/// A file that the loader put into memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Module {
    /// Physical address of its first byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// The loader's account of the machine.
#[derive(Clone, Debug)]
pub struct BootInfo<'a> {
    /// Which protocol it came by.
    pub loader: &'static str,
    /// The command line.
    pub command_line: &'a str,
    /// Usable RAM, sorted, byte addresses.
    pub ram: Ranges,
    /// Memory that must be left alone until the information was used up.
    pub busy: Ranges,
    /// Modules in the loader's order.
    pub modules: [Module; MODULES],
    /// How many of them there are.
    pub module_count: usize,
    /// ACPI's root pointer, when the loader knows it.
    pub rsdp: Option<u64>,
}

impl BootInfo<'_> {
    pub(super) fn empty(loader: &'static str) -> Self {
        Self {
            loader,
            command_line: "",
            ram: Ranges::default(),
            busy: Ranges::default(),
            modules: [Module::default(); MODULES],
            module_count: 0,
            rsdp: None,
        }
    }

    pub(super) fn add_module(&mut self, module: Module) {
        if let Some(slot) = self.modules.get_mut(self.module_count) {
            *slot = module;
            self.module_count += 1;
            self.busy.add(module.address, module.address.saturating_add(module.size));
        }
    }

    /// The modules.
    pub fn modules(&self) -> &[Module] {
        self.modules.get(..self.module_count).unwrap_or_default()
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
