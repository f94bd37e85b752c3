//! What this machine lacks, and how it comes here: the Rust target by rustup, programs by apt-get, what guests are made of as unpacked Debian
//! packages under `target/`.
//!
//! As root or with password-less sudo it says what it installs, and installs it. Otherwise, and where there is no apt-get, it prints the
//! command to type and fails with status 2. Nothing is downloaded twice.

pub mod debian;
pub mod tools;

use crate::failure::{Failure, Result, Status};
use crate::{images, say, workspace};
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub use tools::Tool;

/// Whether set-up may install things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It may, and says so.
    Install,
    /// `--no-install`: it names what is missing.
    Never,
}

/// Makes sure that the `tools` and the Rust target are here.
pub fn ensure(tools: &[Tool], permission: Permission) -> Result<()> {
    let missing = |tools: &[Tool]| {
        tools.iter().filter(|tool| !tool.is_here()).map(|tool| tool.package()).collect::<Vec<_>>()
    };
    if missing(tools).is_empty() && has_rust_target() {
        return Ok(());
    }
    let _lock = workspace::lock("setup.lock", "waiting for another set-up to finish")?;
    if !has_rust_target() {
        add_rust_target(permission)?;
    }
    let packages = missing(tools);
    if packages.is_empty() {
        return Ok(());
    }
    let command = install_command(&packages);
    let Some(rights) = rights().filter(|_| permission == Permission::Install) else {
        return Err(missing_packages(&packages, permission, which("apt-get").is_some()));
    };
    say::progress(&format!("installing {} with apt-get", packages.join(", ")));
    let install = |rights: Rights| {
        apt(rights, &[&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat())
    };
    if !install(rights)? {
        say::progress("refreshing the lists of packages first");
        apt(rights, &["update"])?;
        if !install(rights)? {
            return Err(Failure::usage(format!(
                "apt-get could not install {}; its errors stand above. The command:\n{command}",
                packages.join(", ")
            )));
        }
    }
    match tools.iter().find(|tool| !tool.is_here()) {
        None => Ok(()),
        Some(tool) => Err(Failure::usage(format!(
            "the package {} is installed, and yet {} is missing",
            tool.package(),
            tool.what()
        ))),
    }
}

/// What is said when packages are missing and may not be installed. The last line is the command to type.
fn missing_packages(packages: &[&str], permission: Permission, has_apt: bool) -> Failure {
    let why = match permission {
        Permission::Never => "--no-install was given",
        Permission::Install if !has_apt => "there is no apt-get here",
        Permission::Install => "this user is not root and has no password-less sudo",
    };
    Failure::usage(format!(
        "missing: {}; they are not installed because {why}. Install them, and run this again:\n{}",
        packages.join(", "),
        install_command(packages)
    ))
}

/// Whether rustc can compile for bare metal.
pub fn has_rust_target() -> bool {
    let output = Command::new("rustc").args(["--print", "sysroot"]).stderr(Stdio::null()).output();
    let Ok(output) = output else { return false };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    sysroot.join("lib/rustlib").join(images::TARGET).join("lib").is_dir()
}

/// The command that adds the target.
pub fn rust_target_command() -> String {
    format!("rustup target add {}", images::TARGET)
}

fn add_rust_target(permission: Permission) -> Result<()> {
    let command = rust_target_command();
    let refusal = |why: &str| {
        Failure::usage(format!(
            "the Rust target {} is missing; it is not added because {why}. Type:\n{command}",
            images::TARGET
        ))
    };
    if permission == Permission::Never {
        return Err(refusal("--no-install was given"));
    }
    if which("rustup").is_none() {
        return Err(refusal(
            "there is no rustup here (https://rustup.rs; or install the target as your Rust came)",
        ));
    }
    say::progress(&format!("adding the Rust target {} with rustup", images::TARGET));
    let done = Command::new("rustup").args(["target", "add", images::TARGET]).stdout(Stdio::null()).status();
    match done {
        Ok(status) if status.success() && has_rust_target() => Ok(()),
        _ => Err(refusal("rustup failed; its errors stand above")),
    }
}

/// How this process can become root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// It is.
    Root,
    /// `sudo -n` works.
    Sudo,
}

/// The rights to run apt-get, if there is one and this user has them.
pub fn rights() -> Option<Rights> {
    which("apt-get")?;
    if nix::unistd::geteuid().is_root() {
        return Some(Rights::Root);
    }
    which("sudo")?;
    let asked = Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success()).then_some(Rights::Sudo)
}

/// The command that installs `packages`, as a person types it.
pub fn install_command(packages: &[&str]) -> String {
    let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get update && {sudo}apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Runs apt-get with errors shown and the rest kept quiet; says whether it succeeded.
fn apt(rights: Rights, arguments: &[&str]) -> Result<bool> {
    let mut command = match rights {
        Rights::Root => Command::new("apt-get"),
        Rights::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "apt-get"]);
            sudo
        }
    };
    command
        .arg("-qq")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status =
        command.status().map_err(|e| Failure::new(Status::Usage, format!("cannot start apt-get: {e}")))?;
    Ok(status.success())
}

/// Where a program is: on the search path, or in the folders for administrators, which a user's path often lacks.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_emulator_and_without_rights_the_command_is_named() {
        for (permission, has_apt, why) in [
            (Permission::Never, true, "--no-install"),
            (Permission::Install, false, "no apt-get"),
            (Permission::Install, true, "not root"),
        ] {
            let failure = missing_packages(&[Tool::Qemu.package()], permission, has_apt);
            assert_eq!(failure.status(), Status::Usage);
            assert!(failure.message().contains(why), "{failure}");
            let last = failure.message().lines().last().unwrap_or_default();
            assert!(last.ends_with("apt-get install --no-install-recommends qemu-system-x86"), "{last}");
        }
    }
}
