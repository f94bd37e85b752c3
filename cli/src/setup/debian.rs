//! Debian packages as raw material: fetched with `apt-get download`, which checks their signatures and needs no rights, and unpacked under
//! `target/debian/`. Nothing of them is installed here.

use crate::failure::{Failure, Result};
use crate::setup::{Permission, apt, rights, which};
use crate::{say, workspace};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A Debian kernel package, unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// The folder of its modules (`…/kernel` is in it).
    pub modules: PathBuf,
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub release: String,
}

/// Debian's kernel for virtual machines, the one that the meta-package `linux-image-cloud-amd64` depends on.
pub fn cloud_kernel(permission: Permission) -> Result<Kernel> {
    kernel("linux-image-cloud-amd64", permission)
}

/// The kernel that the meta-package `meta` depends on.
pub fn kernel(meta: &str, permission: Permission) -> Result<Kernel> {
    let known = workspace::target("debian")?.join(format!("{meta}.name"));
    let name = if let Ok(name) = fs::read_to_string(&known) {
        name
    } else {
        let name = resolve(meta, permission)?;
        fs::write(&known, &name).map_err(|e| Failure::file("write", &known, &e))?;
        name
    };
    let folder = unpacked(&name, permission)?;
    let release = name.strip_prefix("linux-image-").unwrap_or(&name).to_string();
    let kernel = Kernel {
        image: folder.join("boot").join(format!("vmlinuz-{release}")),
        modules: [folder.join("lib/modules").join(&release), folder.join("usr/lib/modules").join(&release)]
            .into_iter()
            .find(|modules| modules.is_dir())
            .unwrap_or_default(),
        release,
    };
    if kernel.image.is_file() && kernel.modules.is_dir() {
        return Ok(kernel);
    }
    Err(Failure::usage(format!(
        "the package {name} in {} has no {} or no modules; remove that folder and try again",
        folder.display(),
        kernel.image.display()
    )))
}

/// The folder with the content of the package `name`; fetched and unpacked when it is not there yet.
pub fn unpacked(name: &str, permission: Permission) -> Result<PathBuf> {
    let debian = workspace::target("debian")?;
    let folder = debian.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    let _lock = workspace::lock("debian.lock", "waiting for another download of Debian packages")?;
    if folder.is_dir() {
        return Ok(folder);
    }
    for program in ["apt-get", "dpkg-deb"] {
        if which(program).is_none() {
            return Err(Failure::usage(format!(
                "the demo's Linux is made of Debian packages, and there is no {program} here; unpack the package {name} into {} by other means, or name a DOMAIN.cfg with a kernel of your own",
                folder.display()
            )));
        }
    }
    // Always the same one, so that what an interrupted set-up leaves does not pile up.
    let work = debian.join(".work");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).map_err(|e| Failure::file("make the folder", &work, &e))?;
    let archive = download(name, &work, permission)?;
    let tree = work.join("tree");
    let mut unpack = Command::new("dpkg-deb");
    let status = unpack.arg("-x").arg(&archive).arg(&tree).stdin(Stdio::null()).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err(Failure::usage(format!(
            "dpkg-deb could not unpack {}; its errors stand above",
            archive.display()
        )));
    }
    // Whole or not at all: a set-up that is interrupted leaves nothing half-done behind.
    fs::rename(&tree, &folder).map_err(|e| Failure::file("put into place", &folder, &e))?;
    let _ = fs::remove_dir_all(&work);
    Ok(folder)
}

/// The first package that the meta-package depends on.
fn resolve(meta: &str, permission: Permission) -> Result<String> {
    if which("apt-cache").is_none() {
        return Err(Failure::usage(
            "the demo's Linux is a Debian kernel, and there is no apt-cache here to find it with; name a DOMAIN.cfg with a kernel of your own",
        ));
    }
    let ask = || {
        let output = Command::new("apt-cache")
            .args(["show", "--no-all-versions", meta])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let depends = text.lines().find_map(|line| line.strip_prefix("Depends: "))?;
        let name: String = depends.chars().take_while(|c| !matches!(c, ' ' | ',' | '|' | '(')).collect();
        (!name.is_empty()).then_some(name)
    };
    if let Some(name) = ask() {
        return Ok(name);
    }
    refresh(meta, permission)?;
    ask().ok_or_else(|| {
        Failure::usage(format!(
            "apt knows no package {meta}; is this Debian, and does /etc/apt/sources.list name its archive?"
        ))
    })
}

fn download(name: &str, folder: &Path, permission: Permission) -> Result<PathBuf> {
    let fetch = || {
        say::progress(&format!("downloading the Debian package {name}"));
        let mut command = Command::new("apt-get");
        // As root, apt would fetch as the user _apt, who may not write here, and warn about it.
        command.args(["-qq", "-o", "APT::Sandbox::User=root", "download", name]).current_dir(folder);
        let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output();
        output.map_err(|e| Failure::file("start", Path::new("apt-get"), &e))
    };
    let mut output = fetch()?;
    if !output.status.success() {
        refresh(name, permission)?;
        output = fetch()?;
    }
    let archive =
        fs::read_dir(folder).ok().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let archive =
        archive.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    match archive {
        Some(archive) if output.status.success() => Ok(archive),
        _ => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(Failure::usage(format!(
                "{}\napt-get could not download {name}; its errors stand above",
                text.trim_end()
            )))
        }
    }
}

/// Fetches the lists of packages anew, where that is allowed.
fn refresh(name: &str, permission: Permission) -> Result<()> {
    match rights().filter(|_| permission == Permission::Install) {
        Some(rights) => {
            say::progress("refreshing the lists of packages");
            apt(rights, &["update"]).map(drop)
        }
        None => Err(Failure::usage(format!(
            "apt cannot find the package {name} in its lists, and may not refresh them here. Type:\nsudo apt-get update"
        ))),
    }
}
