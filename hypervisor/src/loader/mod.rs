//! From the loader's last instruction to a parsed account of the machine: [`BootInfo`].

pub mod acpi;
pub mod bundle;
mod info;
pub mod multiboot;
pub mod pvh;
pub mod ranges;
pub mod source;
#[cfg(test)]
mod tests;

pub use info::{BootError, BootInfo, MULTIBOOT2_MAGIC, value};
use source::Source;

/// Reads what the loader left: `magic` and `pointer` are EAX and EBX at the entry.
pub fn parse(memory: &impl Source, magic: u32, pointer: u32) -> Result<BootInfo<'_>, BootError> {
    if magic == MULTIBOOT2_MAGIC {
        multiboot::parse(memory, pointer as u64)
    } else {
        pvh::parse(memory, pointer as u64)
    }
}
