//! Domain files, read and checked with everything they name, before anything starts.

use crate::bundle::{Bundle, Member};
use crate::failure::{Failure, Result};
use crate::machine::{self, Machine};
use crate::run::disks::{self, Disk};
use crate::setup::Tool;
use crate::{kernel, say};
use std::fs;
use std::path::{Path, PathBuf};
use trunnion_dom0::config::{self, Access, DomainConfig, Kind, Severity, Storage};
use trunnion_dom0::control::manifest::{Create, Placed, Source};

/// A domain file with all that it names.
#[derive(Debug)]
pub(crate) struct Domain {
    /// The file, as the user named it.
    pub file: String,
    /// Its text.
    pub text: String,
    /// What it says.
    pub config: DomainConfig,
    /// What it names, by path as it is written.
    pub files: Vec<(String, Content)>,
}

/// What is behind a path of a domain file.
#[derive(Debug)]
pub(crate) enum Content {
    /// A kernel, ready to load.
    Kernel(Vec<u8>),
    /// A RAM disk for the guest's kernel.
    Ramdisk(Vec<u8>),
    /// Firmware of an emulated PC or of its screen: a file that set-up may still have to bring.
    Firmware(PathBuf),
    /// A disk that the machine gets as a device.
    Device(Disk),
    /// A disk that dom0 keeps in memory.
    Memory(Disk),
}

/// Memory of the machine that no domain gets, in MiB: the hypervisor with its tables, and dom0.
const PLATFORM_MIB: u64 = 96;

/// dom0's share of that when it keeps no disks, in MiB (the hypervisor's default).
const DOM0_MIB: u32 = 32;

/// What dom0 keeps for each emulated PC, in MiB: the memory of its screen, buffers, tables.
const MODEL_MIB: u32 = 8;

/// The firmware of an emulated PC's screen, from the same package as the PC's own.
const VGA_BIOS: &str = "/usr/share/seabios/vgabios-stdvga.bin";

/// Reads the domain file `path` for `machine`. What its author should know is said as a warning.
pub(crate) fn read(path: &Path, machine: Machine) -> Result<Domain> {
    let file = path.display().to_string();
    let bytes = fs::read(path).map_err(|e| Failure::file("read the domain file", path, &e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        Failure::usage(format!(
            "the domain file {file} is no text: byte {} is not UTF-8",
            e.utf8_error().valid_up_to()
        ))
    })?;
    let accepted = config::parse(&text).map_err(|found| {
        // Errors last: the last line of a failure is what matters.
        let (errors, warnings): (Vec<_>, Vec<_>) = found.iter().partition(|d| d.severity == Severity::Error);
        let lines: Vec<String> =
            warnings.into_iter().chain(errors).map(|diagnostic| format!("{file}:{diagnostic}")).collect();
        Failure::usage(if lines.len() == 1 {
            lines.concat()
        } else {
            format!("nothing was started:\n{}", lines.join("\n"))
        })
    })?;
    for warning in &accepted.warnings {
        say::progress(&format!("{file}:{warning}"));
    }
    let config = accepted.config;
    supported(&file, &config)?;
    let files = contents(path, &file, &config, machine)?;
    Ok(Domain { file, text, config, files })
}

/// Refuses what no part of the platform does yet.
fn supported(file: &str, config: &DomainConfig) -> Result<()> {
    let name = &config.name;
    if config.kind == Kind::Hvm && config.hvm.bios.as_deref().is_some_and(|bios| bios != "seabios") {
        return Err(Failure::usage(format!(
            "{file}: domain \"{name}\" wants bios = \"ovmf\", which is not there yet; bios = \"seabios\" is"
        )));
    }
    Ok(())
}

fn contents(
    path: &Path,
    file: &str,
    config: &DomainConfig,
    machine: Machine,
) -> Result<Vec<(String, Content)>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let place = |name: &str| -> PathBuf { folder.join(name) };
    let mut files: Vec<(String, Content)> = Vec::new();
    let mut needed = 0;
    if let Some(name) = &config.kernel {
        let kernel = kernel::load(&place(name)).map_err(|failure| within(file, &failure))?;
        needed = kernel.span.end;
        files.push((name.clone(), Content::Kernel(kernel.elf)));
    }
    if let Some(name) = &config.ramdisk {
        let path = place(name);
        let bytes =
            fs::read(&path).map_err(|e| within(file, &Failure::file("read the RAM disk", &path, &e)))?;
        needed += bytes.len() as u64;
        files.push((name.clone(), Content::Ramdisk(bytes)));
    }
    // Start information, tables, and something to run in.
    needed = (needed >> 20) + 4;
    if needed > config.memory_mib {
        return Err(Failure::usage(format!(
            "{file}: domain \"{}\" has memory = {}, and its kernel and RAM disk alone need {needed} (MiB)",
            config.name, config.memory_mib
        )));
    }
    if config.kind == Kind::Hvm {
        let (name, path) = match &config.hvm.firmware {
            Some(name) => (name.as_str(), place(name)),
            None => (config::BIOS, PathBuf::from(Tool::SeaBios.what())),
        };
        files.push((name.into(), Content::Firmware(path)));
        files.push((config::VGA_BIOS.into(), Content::Firmware(VGA_BIOS.into())));
        if let Some(name) = &config.hvm.floppy {
            let found =
                disks::check(&config.name, &place(name), true).map_err(|failure| within(file, &failure))?;
            files.push((name.clone(), stored(found, machine.is_bochs())));
        }
    }
    for disk in &config.disks {
        let Some(name) = &disk.target else { continue };
        let found = disks::check(&config.name, &place(name), disk.access == Access::ReadWrite)
            .map_err(|failure| within(file, &failure))?;
        files.push((name.clone(), kept(found, disk, machine)));
    }
    Ok(files)
}

/// Reads a disk's specification; it, and the path of its image.
pub(crate) fn disk(specification: &str) -> Result<(config::Disk, String)> {
    let disk = config::disk(specification).map_err(|found| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        Failure::usage(format!("disk \"{specification}\": {}", lines.join("\n")))
    })?;
    let target = disk.target.clone().ok_or_else(|| {
        Failure::usage(format!("disk \"{specification}\" has no image; name one with target=FILE"))
    })?;
    Ok((disk, target))
}

/// What a disk is on a machine, which has virtio devices or not.
pub(crate) fn kept(found: Disk, disk: &config::Disk, machine: Machine) -> Content {
    stored(found, disk.storage == Storage::Memory || machine.is_bochs())
}

/// A disk in dom0's memory, or as a device.
fn stored(disk: Disk, in_memory: bool) -> Content {
    if in_memory { Content::Memory(disk) } else { Content::Device(disk) }
}

fn within(file: &str, failure: &Failure) -> Failure {
    Failure::new(failure.status(), format!("{file}: {failure}"))
}

/// Several domains that are to run on one machine.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In the order of the command line.
    pub domains: Vec<Domain>,
    /// The devices of the machine, each image once.
    pub devices: Vec<Disk>,
}

impl Plan {
    /// Reads all domain files and checks that they go together.
    pub(crate) fn read(paths: &[PathBuf], machine: Machine) -> Result<Self> {
        let mut plan = Self::default();
        for path in paths {
            let domain = read(path, machine)?;
            let taken = plan.domains.iter().find(|other| other.config.name == domain.config.name);
            if let Some(other) = taken {
                return Err(Failure::usage(format!(
                    "{} and {} both have name = \"{}\"; names have to differ",
                    other.file, domain.file, domain.config.name
                )));
            }
            plan.domains.push(domain);
        }
        disks::exclusive(&plan.domains.iter().flat_map(Domain::users).collect::<Vec<_>>())?;
        let devices =
            plan.domains.iter().flat_map(|domain| &domain.files).filter_map(|(_, content)| match content {
                Content::Device(disk) => Some(disk),
                _ => None,
            });
        for disk in devices {
            match plan.devices.iter_mut().find(|known| known.path == disk.path) {
                Some(known) => known.writable |= disk.writable,
                None => plan.devices.push(disk.clone()),
            }
        }
        if plan.devices.len() > machine::MOST_DISKS {
            return Err(Failure::usage(format!(
                "{} disks are too many: a machine holds {}",
                plan.devices.len(),
                machine::MOST_DISKS
            )));
        }
        Ok(plan)
    }

    /// The tools whose files the domains take.
    pub(crate) fn tools(&self) -> &'static [Tool] {
        let firmware = self.domains.iter().flat_map(|domain| &domain.files);
        if firmware.into_iter().any(|(_, content)| matches!(content, Content::Firmware(_))) {
            &[Tool::SeaBios]
        } else {
            &[]
        }
    }

    /// Puts what the domains name into `bundle`, and returns what dom0 has to know of each.
    pub(crate) fn pack(&mut self, bundle: &mut Bundle) -> Result<Vec<Create>> {
        let mut creates = Vec::new();
        for domain in &mut self.domains {
            let mut files = Vec::new();
            for (path, content) in domain.files.drain(..) {
                let source = match content {
                    Content::Kernel(bytes) => Source::Bundle(bundle.add(Member::Kernel, bytes)),
                    Content::Ramdisk(bytes) => Source::Bundle(bundle.add(Member::Ramdisk, bytes)),
                    Content::Firmware(path) => Source::Bundle(bundle.add(Member::Firmware, firmware(&path)?)),
                    Content::Memory(disk) => Source::Bundle(bundle.add(Member::Disk, load(&disk)?)),
                    Content::Device(disk) => Source::Disk(disk.serial),
                };
                files.push(Placed { path, source });
            }
            creates.push(Create {
                file: domain.file.clone(),
                text: std::mem::take(&mut domain.text),
                files,
                kernel: None,
            });
        }
        Ok(creates)
    }

    /// The machine's memory in MiB that all of it needs, `bundle_bytes` included.
    pub(crate) fn memory_mib(&self, bundle_bytes: u64, dom0_mib: Option<u32>, sequence: bool) -> u64 {
        // A domain's tables take a 512th, and a few pages more.
        let each = self
            .domains
            .iter()
            .map(|domain| domain.config.max_memory_mib + domain.config.max_memory_mib.div_ceil(256) + 2);
        let domains = if sequence { each.max().unwrap_or_default() } else { each.sum() };
        // RAM disks are copied out of the bundle, and a kernel is in memory twice while it is loaded.
        let copies = self.ram_disk_bytes();
        let total = PLATFORM_MIB
            + dom0_mib.map_or(0, u64::from)
            + domains
            + (2 * bundle_bytes + copies).div_ceil(1 << 20);
        total.next_multiple_of(16)
    }

    /// dom0's memory in MiB when it has to keep disks, each in one piece, beside what it has otherwise; `None` when the hypervisor's own choice
    /// is right. To be asked before [`Plan::pack`] takes the disks.
    pub(crate) fn dom0_mib(&self) -> Option<u32> {
        let mib = u32::try_from(self.ram_disk_bytes().div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let models = self.domains.iter().filter(|domain| domain.config.kind == Kind::Hvm).count();
        let mib = mib.saturating_add(MODEL_MIB.saturating_mul(models as u32));
        // Memory comes in powers of two, and the first piece holds dom0 itself.
        (mib != 0).then(|| {
            DOM0_MIB.saturating_add(mib.saturating_add(1).checked_next_power_of_two().unwrap_or(mib))
        })
    }

    fn ram_disk_bytes(&self) -> u64 {
        let disks =
            self.domains.iter().flat_map(|domain| &domain.files).filter_map(|(_, content)| match content {
                Content::Memory(disk) => Some(disk.size),
                _ => None,
            });
        disks.sum()
    }
}

impl Domain {
    /// The images that it holds as (domain, disk); one in dom0's memory is only read.
    pub(crate) fn users(&self) -> Vec<(String, Disk)> {
        let used = |content: &Content| match content {
            Content::Device(disk) => Some(disk.clone()),
            Content::Memory(disk) => Some(Disk { writable: false, ..disk.clone() }),
            _ => None,
        };
        self.files
            .iter()
            .filter_map(|(_, content)| Some((self.config.name.clone(), used(content)?)))
            .collect()
    }
}

/// Reads firmware: at most what lies below 4 GiB for it.
pub(crate) fn firmware(path: &Path) -> Result<Vec<u8>> {
    const MOST: usize = 1 << 20;
    let bytes = fs::read(path).map_err(|e| {
        let failure = Failure::file("read the firmware", path, &e);
        if path == Path::new(Tool::SeaBios.what()) || path == Path::new(VGA_BIOS) {
            let package = Tool::SeaBios.package();
            return Failure::usage(format!("{failure}; `apt-get install {package}` brings it"));
        }
        failure
    })?;
    if bytes.len() > MOST {
        return Err(Failure::usage(format!(
            "the firmware {} has {} bytes, and may have {MOST}",
            path.display(),
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The content of an image that dom0 will keep in memory.
pub(crate) fn load(disk: &Disk) -> Result<Vec<u8>> {
    // The archive format, and memory, set the bound.
    const MOST: u64 = 2 << 30;
    if disk.size > MOST {
        return Err(Failure::usage(format!(
            "the disk {} has {} MiB, and a disk in dom0's memory (backendtype=ram, or any on Bochs) at most {} MiB",
            disk.path.display(),
            disk.size >> 20,
            MOST >> 20
        )));
    }
    fs::read(&disk.path).map_err(|e| Failure::file("read the disk", &disk.path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::elf::tests::kernel;
    use std::fs::File;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            place.file("kernel", &kernel(18));
            File::create(place.path("disk")).unwrap().set_len(4096).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str, content: &[u8]) -> PathBuf {
            fs::write(self.path(name), content).unwrap();
            self.path(name)
        }

        fn domain(&self, file: &str, name: &str, more: &str) -> PathBuf {
            self.file(
                file,
                format!("name = \"{name}\"\ntype = \"pvh\"\nmemory = 32\nkernel = \"kernel\"\n{more}\n")
                    .as_bytes(),
            )
        }
    }

    #[test]
    fn files_are_found_beside_the_domain_file_and_stored_once() {
        let place = Place::new();
        let paths = [
            place.domain("a.cfg", "a", "disk = [ \"disk,raw,xvda,r\" ]"),
            place.domain(
                "b.cfg",
                "b",
                "disk = [ \"disk,raw,xvda,r\", \"target=disk,vdev=xvdb,access=ro,backendtype=ram\" ]",
            ),
        ];
        let mut plan = Plan::read(&paths, Machine::QemuSvm).unwrap();
        assert_eq!(plan.devices.len(), 1);
        assert_eq!(plan.memory_mib(0, None, false) % 16, 0);
        assert!(plan.memory_mib(0, None, false) > plan.memory_mib(0, None, true));
        let mut bundle = Bundle::new(b"");
        let creates = plan.pack(&mut bundle).unwrap();
        assert_eq!(creates[0].source("kernel"), Some(&Source::Bundle("kernels/0".into())));
        assert_eq!(creates[1].source("kernel"), Some(&Source::Bundle("kernels/0".into())));
        assert_eq!(creates[0].source("disk"), Some(&Source::Disk(plan.devices[0].serial.clone())));
        assert!(creates[1].text.contains("name = \"b\""));
    }

    #[test]
    fn an_emulated_pc_brings_its_firmware() {
        let place = Place::new();
        place.file("bios", &vec![7; 0x2_0000]);
        let pc = |more: &str| {
            let text = format!("name = 'p'\ntype = 'hvm'\nmemory = 16\n{more}");
            let mut plan = Plan::read(&[place.file("p.cfg", text.as_bytes())], Machine::QemuSvm)?;
            assert_eq!(plan.dom0_mib(), Some(48));
            assert_eq!(plan.tools(), [Tool::SeaBios]);
            // The screen's firmware need not be on the machine that runs this.
            plan.domains[0].files.retain(|(name, _)| name != config::VGA_BIOS);
            plan.pack(&mut Bundle::new(b""))
        };
        let creates = pc("firmware_override = 'bios'\nfloppy = 'disk'").unwrap();
        assert_eq!(creates[0].source("bios"), Some(&Source::Bundle("firmware/0".into())));
        assert!(matches!(creates[0].source("disk"), Some(Source::Disk(_))));
        let why = |more: &str| pc(more).unwrap_err().to_string();
        assert!(why("firmware_override = 'nowhere'").contains("nowhere"));
        place.file("large", &vec![0; 2 << 20]);
        assert!(why("firmware_override = 'large'").contains("may have 1048576"));
        assert!(why("bios = 'ovmf'").contains("not there yet"));
    }

    #[test]
    fn on_bochs_all_disks_are_in_memory() {
        let place = Place::new();
        let path = place.domain("a.cfg", "a", "disk = [ \"disk,raw,xvda,w\" ]");
        let mut plan = Plan::read(&[path], Machine::BochsVmx).unwrap();
        assert!(plan.devices.is_empty());
        assert_eq!(plan.dom0_mib(), Some(34));
        let creates = plan.pack(&mut Bundle::new(b"")).unwrap();
        assert_eq!(creates[0].source("disk"), Some(&Source::Bundle("disks/0".into())));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_file() {
        let place = Place::new();
        let why = |paths: &[PathBuf]| Plan::read(paths, Machine::QemuSvm).unwrap_err().to_string();
        let wrong = place.domain("wrong.cfg", "g", "vcpus = \"many\"");
        assert!(why(&[wrong]).contains("wrong.cfg:5:"));
        let lost = place.domain("lost.cfg", "g", "ramdisk = \"nowhere\"");
        assert!(why(&[lost]).contains("nowhere"));
        place.file("big", &vec![0; 40 << 20]);
        let big = place.domain("big.cfg", "g", "ramdisk = \"big\"");
        assert!(why(&[big]).contains("memory = 32"));
        let two = [
            place.domain("a.cfg", "a", "disk = [ \"disk,raw,xvda,w\" ]"),
            place.domain("b.cfg", "b", "disk = [ \"disk,raw,xvda,r\" ]"),
        ];
        assert!(why(&two).contains("\"a\" and \"b\""));
        let twins = [place.domain("c.cfg", "same", ""), place.domain("d.cfg", "same", "")];
        assert!(why(&twins).contains("names have to differ"));
        place.file("kernel", b"\x7fELF");
        let broken = place.domain("e.cfg", "e", "");
        assert!(why(&[broken]).contains("damaged"));
        assert!(why(&[place.path("none.cfg")]).contains("no such file"));
    }
}
