//! A running platform's place among the user's processes: a folder with the sockets that other verbs connect to, and a lock that makes a
//! second run of the same name impossible.

use crate::failure::{Failure, Result};
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The name when none is given.
pub const DEFAULT: &str = "default";

/// A claimed instance; the folder goes when it is dropped.
#[derive(Debug)]
pub struct Instance {
    name: String,
    folder: PathBuf,
    _lock: File,
}

impl Instance {
    /// Claims `name`. Refused while another process has it; what a killed one left behind is cleaned up.
    pub fn claim(name: &str) -> Result<Self> {
        let folder = folder(name)?;
        let path = folder.with_extension("lock");
        let fail = |doing, e| Failure::file(doing, &path, &e);
        let open = || File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let mut lock = open().map_err(|e| fail("open", e))?;
        let mut is_mine = lock.try_lock().is_ok();
        // Who ends a run removes the file: a lock on one that is not there any more is worth nothing.
        while is_mine && !is_same(&lock, &path) {
            lock = open().map_err(|e| fail("open", e))?;
            is_mine = lock.try_lock().is_ok();
        }
        if !is_mine {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(Failure::usage(format!(
                "instance \"{name}\" is running already (process {}); use it with `trunnion --instance {name} xl list`, stop it with `kill {0}`, or start another one with --instance NAME",
                pid.trim()
            )));
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|e| fail("write", e))?;
        let _ = fs::remove_dir_all(&folder);
        private(&folder)?;
        Ok(Self { name: name.to_string(), folder, _lock: lock })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(self.folder.with_extension("lock"));
    }
}

/// Whether the open file is the one that is at `path` now.
fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(found)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (found.dev(), found.ino())
}

/// The socket on which the instance `name` answers the other verbs.
pub fn control_socket(name: &str) -> Result<PathBuf> {
    Ok(folder(name)?.join("control.sock"))
}

/// The file that marks an instance which answers no verbs: it runs real Xen.
pub(crate) const FOREIGN: &str = "foreign";

/// Whether the instance `name` runs, and answers no verbs.
pub(crate) fn is_foreign(name: &str) -> bool {
    running().iter().any(|other| other == name)
        && folder(name).is_ok_and(|folder| folder.join(FOREIGN).exists())
}

/// The names of the instances that run now.
pub fn running() -> Vec<String> {
    let Ok(base) = base() else { return Vec::new() };
    let entries = fs::read_dir(base).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let locks = entries.filter(|path| path.extension().is_some_and(|e| e == "lock"));
    let held = locks.filter(|path| File::open(path).is_ok_and(|file| file.try_lock().is_err()));
    let mut names: Vec<String> =
        held.filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect();
    names.sort();
    names
}

fn folder(name: &str) -> Result<PathBuf> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > 32 || !name.chars().all(fits) {
        return Err(Failure::usage(format!(
            "\"{name}\" is no name for an instance: 1 to 32 letters, digits, '-' and '_' are"
        )));
    }
    Ok(base()?.join(name))
}

/// The folder of all instances: in the session's runtime folder, or in /tmp under a name of this user's, and for nobody else to read.
fn base() -> Result<PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
    let uid = nix::unistd::geteuid();
    let base = match session {
        Some(session) => session.join("trunnion"),
        None => PathBuf::from(format!("/tmp/trunnion-{uid}")),
    };
    private(&base)?;
    Ok(base)
}

fn private(folder: &Path) -> Result<()> {
    if let Err(e) = DirBuilder::new().mode(0o700).create(folder)
        && e.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(Failure::file("make the folder", folder, &e));
    }
    let found = fs::symlink_metadata(folder).map_err(|e| Failure::file("use the folder", folder, &e))?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(Failure::usage(format!(
            "{} has to be a folder of this user's that nobody else may enter; it is not, so its sockets could be somebody else's. Remove it",
            folder.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_is_refused_and_a_stale_one_is_cleaned() {
        let name = format!("test-{}", std::process::id());
        let first = Instance::claim(&name).unwrap();
        fs::write(first.file("rest"), b"").unwrap();
        let refused = Instance::claim(&name).unwrap_err();
        assert_eq!(refused.status(), crate::Status::Usage);
        assert!(refused.message().contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(running().contains(&name));
        let folder = first.folder.clone();
        drop(first);
        assert!(!folder.exists());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("stale"), b"").unwrap();
        let second = Instance::claim(&name).unwrap();
        assert!(!second.file("stale").exists());
        drop(second);
        assert!(!folder.with_extension("lock").exists());
    }

    #[test]
    fn names_are_checked() {
        for name in ["", "a/b", "..", "x y", "0123456789012345678901234567890123"] {
            assert!(folder(name).is_err(), "{name}");
        }
    }
}
