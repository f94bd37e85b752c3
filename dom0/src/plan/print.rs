//! A plan in words.

use super::{Content, Plan, store};
use core::fmt;
use trunnion_protocol::hypercall::memory::RegionKind;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "domain {} {}", self.name, store::uuid_text(&self.uuid))?;
        writeln!(
            f,
            "  vcpus {} of {}, weight {}, cap {}",
            self.vcpus, self.max_vcpus, self.weight, self.cap
        )?;
        writeln!(f, "  memory {} pages of at most {}", self.ram_pages, self.max_pages)?;
        for extent in &self.extents {
            writeln!(f, "  populate {:#x} + {} x 2^{}", extent.first, extent.count, extent.order)?;
        }
        for region in &self.memory_map {
            let kind = match RegionKind::from_number(region.kind) {
                Some(RegionKind::Ram) => "ram",
                Some(RegionKind::Reserved) => "reserved",
                Some(RegionKind::AcpiNvs) => "nvs",
                _ => "other",
            };
            writeln!(f, "  map {:#011x}..{:#011x} {kind}", region.address, region.address.0 + region.length)?;
        }
        for write in &self.writes {
            match &write.content {
                Content::Kernel(bytes) => {
                    writeln!(f, "  write {:#x} kernel {:#x}..{:#x}", write.address, bytes.start, bytes.end)
                }
                Content::Ramdisk => writeln!(f, "  write {:#x} ramdisk", write.address),
                Content::Firmware(bytes) => {
                    writeln!(f, "  write {:#x} firmware {:#x}..{:#x}", write.address, bytes.start, bytes.end)
                }
                Content::Bytes(bytes) => writeln!(f, "  write {:#x} {} bytes", write.address, bytes.len()),
            }?;
        }
        match &self.pc {
            None => writeln!(f, "  start {:#x} with {:#x}", self.entry, self.start_info)?,
            Some(pc) => writeln!(f, "  start with firmware, boot {}", pc.boot)?,
        }
        for disk in &self.disks {
            write!(
                f,
                "  disk {} ({}) {}",
                disk.vdev,
                disk.vdev.number,
                disk.target.as_deref().unwrap_or("empty")
            )?;
            writeln!(
                f,
                "{}{}{}",
                if disk.read_only { " read-only" } else { "" },
                if disk.cdrom { " cdrom" } else { "" },
                if disk.in_memory { " in memory" } else { "" }
            )?;
        }
        for nic in &self.nics {
            writeln!(f, "  nic {}", nic.mac)?;
        }
        writeln!(
            f,
            "  on poweroff {:?}, on reboot {:?}, on crash {:?}",
            self.on_poweroff, self.on_reboot, self.on_crash
        )
    }
}
