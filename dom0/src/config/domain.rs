//! What a configuration says, checked.

use super::{Disk, Nic};
use alloc::string::String;
use alloc::vec::Vec;

/// How a domain starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A kernel by the PVH entry, with split drivers only.
    Pvh,
    /// Firmware on an emulated PC.
    Hvm,
}

/// What happens when a domain ends in some way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is removed.
    Destroy,
    /// It is removed and built anew.
    Restart,
    /// It is kept as it is, for inspection.
    Preserve,
}

/// A domain's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// `name`.
    pub name: String,
    /// `uuid`, if given.
    pub uuid: Option<[u8; 16]>,
    /// `type`; without it a domain with a `kernel` is PVH.
    pub kind: Kind,
    /// `memory` in MiB: what it starts with.
    pub memory_mib: u64,
    /// `maxmem` in MiB, at least `memory`.
    pub max_memory_mib: u64,
    /// `vcpus`: how many are online at first.
    pub vcpus: u32,
    /// `maxvcpus`, at least `vcpus`.
    pub max_vcpus: u32,
    /// `cpus`: physical CPUs it may run on, in order; none is all.
    pub cpus: Option<Vec<u32>>,
    /// `cpu_weight`, 1 to 65535; 256 is the default.
    pub weight: u32,
    /// `cap` in per cent of one CPU; 0 is no limit.
    pub cap: u32,
    /// `kernel`.
    pub kernel: Option<String>,
    /// `ramdisk`.
    pub ramdisk: Option<String>,
    /// `cmdline`, or `root` and `extra` together.
    pub cmdline: String,
    /// `disk`, in order.
    pub disks: Vec<Disk>,
    /// `vif`, in order.
    pub nics: Vec<Nic>,
    /// `on_poweroff`; destroy by default.
    pub on_poweroff: Action,
    /// `on_reboot`; restart by default.
    pub on_reboot: Action,
    /// `on_crash`; destroy by default.
    pub on_crash: Action,
    /// What only an emulated PC has.
    pub hvm: Hvm,
}

/// Name under which the tool brings the firmware of emulated PCs that name none.
pub const BIOS: &str = "<seabios>";
/// Name under which it brings the firmware of their screens.
pub const VGA_BIOS: &str = "<vgabios>";

impl DomainConfig {
    /// The name under which a domain's firmware is brought.
    pub fn firmware(&self) -> &str {
        self.hvm.firmware.as_deref().unwrap_or(BIOS)
    }

    /// The paths of all files that the domain needs, each once, in the order of the keys.
    pub fn paths(&self) -> Vec<&str> {
        let disks = self.disks.iter().filter_map(|disk| disk.target.as_deref());
        let hvm = [&self.hvm.firmware, &self.hvm.floppy].into_iter().flatten();
        let all = self.kernel.iter().chain(&self.ramdisk).chain(hvm).map(String::as_str).chain(disks);
        let mut paths = Vec::new();
        for path in all {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }
}

/// Keys of an emulated PC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hvm {
    /// `bios`.
    pub bios: Option<String>,
    /// `firmware_override`: a path.
    pub firmware: Option<String>,
    /// `boot`: letters of `c` disk, `d` CD-ROM, `n` network, in order.
    pub boot: String,
    /// `serial`: whether there is a COM1.
    pub serial: bool,
    /// `floppy`: a path.
    pub floppy: Option<String>,
    /// `vga`.
    pub vga: Option<String>,
    /// `xen_platform_pci`.
    pub platform_device: bool,
    /// `hpet`.
    pub hpet: bool,
    /// `hvm_fep`: instructions behind the forced-emulation prefix are emulated.
    pub forced: bool,
}

impl Default for Hvm {
    fn default() -> Self {
        Self {
            bios: None,
            firmware: None,
            boot: "cd".into(),
            serial: false,
            floppy: None,
            vga: None,
            platform_device: true,
            hpet: true,
            forced: false,
        }
    }
}
