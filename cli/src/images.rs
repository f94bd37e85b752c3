//! The bare-metal images: a nested cargo for `x86_64-unknown-none`, always optimised, with a folder, an environment and a lock of its own.

use crate::failure::{Failure, Result};
use crate::{say, workspace};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The Rust target of everything that runs on bare metal.
pub const TARGET: &str = "x86_64-unknown-none";

/// The Rust target of programs for Linux guests, which are linked statically: a guest has whatever libraries it has.
const LINUX: &str = "x86_64-unknown-linux-gnu";

/// The hypervisor: package and binary.
pub const HYPERVISOR: (&str, &str) = ("trunnion-hypervisor", "trunnion-hypervisor");
/// dom0: package and binary.
pub const DOM0: (&str, &str) = ("trunnion-dom0", "trunnion-dom0");
/// The demo guest written in Rust: package and binary.
pub const DEMO: (&str, &str) = ("trunnion-guest", "trunnion-demo");

/// What measures and checks networks from inside a Linux guest: package and binary.
pub const PROBE: (&str, &str) = ("trunnion-probe", "trunnion-probe");

/// An image: the workspace package and the name of its binary.
pub type Image<'a> = (&'a str, &'a str);

/// What this process has built: cargo is asked once for each binary, because even an answer of "fresh" takes it a quarter of a second.
static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// Builds the binary `bin` of the workspace package `package` for bare metal and returns the ELF's path.
///
/// Fails with status 2: cargo's own errors go to stderr as they come.
pub fn build(package: &str, bin: &str) -> Result<PathBuf> {
    let mut paths = build_all(&[(package, bin)])?;
    paths.pop().ok_or_else(|| Failure::usage(format!("{bin} was not built")))
}

/// Builds several images side by side, and returns their paths in the same order.
///
/// An image is mostly the work of one thread (it is optimised as a whole), so two take hardly longer than one.
pub fn build_all(images: &[Image]) -> Result<Vec<PathBuf>> {
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let missing: Vec<Image> = images.iter().copied().filter(|(_, bin)| !built.contains_key(*bin)).collect();
    if !missing.is_empty() {
        let paths = run_cargo(&missing, TARGET, &[])?;
        built.extend(missing.iter().map(|(_, bin)| (*bin).to_string()).zip(paths));
    }
    Ok(images.iter().filter_map(|(_, bin)| built.get(*bin).cloned()).collect())
}

/// Builds the hypervisor and dom0, and returns their paths in this order.
pub fn platform() -> Result<(PathBuf, PathBuf)> {
    let paths = build_all(&[HYPERVISOR, DOM0])?;
    <[PathBuf; 2]>::try_from(paths).map(Into::into).map_err(|_| Failure::usage("the platform was not built"))
}

/// Builds the binary `bin` of the workspace package `package` as a static program for a Linux guest and returns its path. It needs the C
/// library's static half, which comes with the compiler's own (`build-essential`).
pub fn build_static(package: &str, bin: &str) -> Result<PathBuf> {
    let mut paths = run_cargo(&[(package, bin)], LINUX, &[])?;
    paths.pop().ok_or_else(|| Failure::usage(format!("{bin} was not built")))
}

/// Builds dom0 with known mistakes in it, by their numbers in `trunnion_protocol::planted`, for the tests that leaks and panics show. It
/// lies in a folder of its own and is never what [`platform`] returns.
pub fn planted_dom0(bugs: &[usize]) -> Result<PathBuf> {
    let mut paths = run_cargo(&[DOM0], TARGET, bugs)?;
    paths.pop().ok_or_else(|| Failure::usage("dom0 was not built"))
}

fn run_cargo(images: &[Image], target: &str, planted: &[usize]) -> Result<Vec<PathBuf>> {
    let root = workspace::root()?;
    let profile = if planted.is_empty() { "image" } else { "planted" };
    let folder = workspace::target(profile)?;
    let _lock = workspace::lock("image.lock", "waiting for another build of the images")?;
    let names = images.iter().map(|(_, bin)| *bin).collect::<Vec<_>>().join(", ");
    say::progress(&format!("building {names}"));
    let mut cargo = command(&root, &folder, target, profile);
    for (package, bin) in images {
        cargo.args(["-p", package, "--bin", bin]);
    }
    if !planted.is_empty() {
        let numbers: Vec<String> = planted.iter().map(usize::to_string).collect();
        cargo.args(["--features", "trunnion-protocol/planted"]).env("TRUNNION_PLANTED", numbers.join(","));
    }
    let output = cargo.output().map_err(|e| Failure::file("start", Path::new(cargo.get_program()), &e))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::usage(format!(
            "{}\n{names} did not build; cargo's errors stand above",
            text.trim_end()
        )));
    }
    let path = |(package, bin): &Image| {
        let path = folder.join(target).join(profile).join(bin);
        if path.is_file() {
            return Ok(path);
        }
        Err(Failure::usage(format!(
            "cargo built {bin} of {package}, and yet {} does not exist",
            path.display()
        )))
    };
    images.iter().map(path).collect()
}

fn command(root: &Path, folder: &Path, target: &str, profile: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if is_scrubbed(&name) {
            cargo.env_remove(name);
        }
    }
    // Set and empty: this also overrules flags from the user's configuration files, which are meant for the host.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", if target == LINUX { "-Ctarget-feature=+crt-static" } else { "" });
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--profile", profile, "--target", target, "--target-dir"])
        .arg(folder);
    cargo.stdin(Stdio::null());
    cargo
}

/// Whether a variable of the outer cargo, or one meant for host builds, is kept from the nested one. What says where crates come from stays.
fn is_scrubbed(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    const DROPPED: [&str; 9] = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "MAKEFLAGS",
        "MFLAGS",
        "LD_PRELOAD",
    ];
    DROPPED.contains(&name) || name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_settings_do_not_reach_the_nested_cargo() {
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_PKG_NAME",
            "CARGO",
        ] {
            assert!(is_scrubbed(OsStr::new(name)), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_REGISTRIES_MIRROR_INDEX",
            "CARGO_HTTP_PROXY",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(!is_scrubbed(OsStr::new(name)), "{name}");
        }
    }
}
