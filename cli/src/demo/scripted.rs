//! Linux domains that run a script and power off: what measures and tests from inside a guest.

use super::linux_parts;
use crate::failure::{Failure, Result};
use crate::images;
use std::fs;
use std::path::Path;

/// What a script begins with to have the network's measuring program (`tests/probe`) as `/run/probe`.
pub const PROBE: &str = "dd if=/dev/xvdc of=/run/probe bs=64k 2>/dev/null; chmod +x /run/probe\n";

/// The domain file of a Linux domain `name` that runs `script`; `more` are further lines of it. Its root is a fresh copy; this and its other
/// disks are made in `folder`. When the script begins with [`PROBE`] there is a disk with that program. `disks` are specifications of others.
pub fn scripted(
    folder: &Path,
    name: &str,
    memory_mib: u32,
    script: &str,
    disks: &[&str],
    more: &str,
) -> Result<String> {
    let parts = linux_parts()?;
    let root = folder.join(format!("{name}.ext4"));
    fs::copy(&parts.disk, &root).map_err(|e| Failure::file("copy the root disk to", &root, &e))?;
    let disk = |suffix: &str, mut bytes: Vec<u8>| {
        let path = folder.join(format!("{name}.{suffix}"));
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        fs::write(&path, bytes).map_err(|e| Failure::file("write the disk", &path, &e))?;
        Ok(path.display().to_string())
    };
    let others = disks.iter().map(|disk| format!("\"{disk}\""));
    let mut disks = vec![
        format!("\"{},raw,xvda,rw\"", root.display()),
        format!("\"{},raw,xvdb,ro\"", disk("script", script.as_bytes().to_vec())?),
    ];
    if script.starts_with(PROBE) {
        let probe = images::build_static(images::PROBE.0, images::PROBE.1)?;
        let bytes = fs::read(&probe).map_err(|e| Failure::file("read", &probe, &e))?;
        disks.push(format!("\"{},raw,xvdc,ro\"", disk("probe", bytes)?));
    }
    disks.extend(others);
    Ok(format!(
        "name = \"{name}\"\ntype = \"pvh\"\nmemory = {memory_mib}\nkernel = \"{}\"\nramdisk = \"{}\"\n\
         cmdline = \"console=hvc0 root=/dev/xvda rw trunnion.script=/dev/xvdb\"\ndisk = [ {} ]\n{more}\n",
        parts.kernel.display(),
        parts.ramdisk.display(),
        disks.join(", ")
    ))
}
