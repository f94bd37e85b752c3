//! A domain's configuration in the words of Xen's own toolstack, with what it names in the shared folder.

use crate::failure::{Failure, Result};
use crate::run::plan::{Content, Domain};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use trunnion_dom0::config::{Access, Action, DiskKind};

/// Lays down `NAME.cfg`, the kernel and the RAM disk of `domain` in `folder`, which dom0 has as `/share`.
pub(super) fn lay_down(folder: &Path, domain: &Domain) -> Result<()> {
    let name = &domain.config.name;
    let mut kernel = None;
    let mut ramdisk = None;
    for (path, content) in &domain.files {
        let (suffix, bytes, place) = match content {
            Content::Kernel(bytes) => ("kernel", bytes, &mut kernel),
            Content::Ramdisk(bytes) => ("ramdisk", bytes, &mut ramdisk),
            Content::Device(_) => continue,
            Content::Firmware(_) => {
                return Err(Failure::usage(format!(
                    "{}: --machine xen runs domains of type pvh only",
                    domain.file
                )));
            }
            Content::Memory(_) => {
                return Err(Failure::usage(format!(
                    "{}: {path}: RAM disks (backendtype=ram) are not there with --machine xen",
                    domain.file
                )));
            }
        };
        let file = folder.join(format!("{name}.{suffix}"));
        fs::write(&file, bytes).map_err(|e| Failure::file("write", &file, &e))?;
        *place = Some(format!("/share/{name}.{suffix}"));
    }
    let text = text(domain, kernel.as_deref(), ramdisk.as_deref())?;
    let file = folder.join(format!("{name}.cfg"));
    fs::write(&file, text).map_err(|e| Failure::file("write", &file, &e))
}

fn text(domain: &Domain, kernel: Option<&str>, ramdisk: Option<&str>) -> Result<String> {
    let config = &domain.config;
    let mut text = String::from("type = \"pvh\"\n");
    let mut line = |key: &str, value: &str| -> Result<()> {
        let quoted = quoted(value).ok_or_else(|| {
            Failure::usage(format!(
                "{}: Xen's toolstack cannot read `{key}` with both kinds of quotes",
                domain.file
            ))
        })?;
        let _ = writeln!(text, "{key} = {quoted}");
        Ok(())
    };
    line("name", &config.name)?;
    line("cmdline", &config.cmdline)?;
    if let Some(kernel) = kernel {
        line("kernel", kernel)?;
    }
    if let Some(ramdisk) = ramdisk {
        line("ramdisk", ramdisk)?;
    }
    for (key, action) in
        [("on_poweroff", config.on_poweroff), ("on_reboot", config.on_reboot), ("on_crash", config.on_crash)]
    {
        // One that is kept would never be over.
        line(key, if action == Action::Restart { "restart" } else { "destroy" })?;
    }
    let numbers = [
        ("memory", config.memory_mib),
        ("maxmem", config.max_memory_mib),
        ("vcpus", u64::from(config.vcpus)),
        ("maxvcpus", u64::from(config.max_vcpus)),
        ("cpu_weight", u64::from(config.weight)),
        ("cap", u64::from(config.cap)),
    ];
    for (key, value) in numbers {
        let _ = writeln!(text, "{key} = {value}");
    }
    let mut disks = Vec::new();
    for disk in &config.disks {
        let device = domain.files.iter().find_map(|(path, content)| match content {
            Content::Device(device) if Some(path) == disk.target.as_ref() => Some(&device.serial),
            _ => None,
        });
        let Some(serial) = device else { continue };
        let access = if disk.access == Access::ReadWrite { "rw" } else { "ro" };
        let kind = if disk.kind == DiskKind::Cdrom { ",devtype=cdrom" } else { "" };
        disks.push(format!(
            "'format=raw,vdev={},access={access},backendtype=phy{kind},target=/dev/disk-{serial}'",
            disk.vdev
        ));
    }
    let nics: Vec<String> = config
        .nics
        .iter()
        .map(|nic| {
            let rate = nic.rate.map_or_else(String::new, |rate| format!(",rate={rate}B/s"));
            format!("'mac={},bridge={}{rate}'", nic.mac, nic.bridge_name())
        })
        .collect();
    let _ = write!(text, "disk = [ {} ]\nvif = [ {} ]\n", disks.join(", "), nics.join(", "));
    Ok(text)
}

/// A string of xl.cfg(5), which has no escapes.
fn quoted(text: &str) -> Option<String> {
    match (text.contains('"'), text.contains('\'')) {
        (false, _) => Some(format!("\"{text}\"")),
        (true, false) => Some(format!("'{text}'")),
        (true, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::elf::tests::kernel;
    use crate::machine::Machine;
    use crate::run::plan::Plan;

    #[test]
    fn the_toolstack_gets_what_the_file_says() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("kernel"), kernel(18)).unwrap();
        fs::File::create(path("disk")).unwrap().set_len(4096).unwrap();
        let file = "name = 'g'\ntype = 'pvh'\nmemory = 32\nvcpus = 2\nkernel = 'kernel'\ncmdline = \"it's\"\n\
             disk = [ 'disk,raw,xvdb,ro' ]\nvif = [ 'mac=00:16:3e:00:00:01,rate=1MB/s' ]\non_crash = 'preserve'\n";
        fs::write(path("g.cfg"), file).unwrap();
        let plan = Plan::read(&[path("g.cfg")], Machine::QemuSvm).unwrap();
        lay_down(place.path(), &plan.domains[0]).unwrap();
        let text = fs::read_to_string(path("g.cfg")).unwrap();
        let serial = &plan.devices[0].serial;
        for line in [
            "name = \"g\"",
            "kernel = \"/share/g.kernel\"",
            "cmdline = \"it's\"",
            "on_crash = \"destroy\"",
            "on_reboot = \"restart\"",
            "memory = 32",
            "vcpus = 2",
            &format!("disk = [ 'format=raw,vdev=xvdb,access=ro,backendtype=phy,target=/dev/disk-{serial}' ]"),
            "vif = [ 'mac=00:16:3e:00:00:01,bridge=xenbr0,rate=1000000B/s' ]",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
        assert!(path("g.kernel").is_file());
        assert_eq!(quoted("a \"b\""), Some("'a \"b\"'".into()));
        assert_eq!(quoted("'\""), None);
    }
}
