//! Where the project lies on this machine, and where its by-products go: everything is under `target/`, nothing is written elsewhere in the tree.

use crate::failure::{Failure, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The root of the workspace: where this tool was built, and when that has moved, the current folder or the nearest one above it that is a
/// checkout.
pub fn root() -> Result<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    if let Some(root) = built.filter(|root| is_root(root)) {
        return Ok(root.to_path_buf());
    }
    let here = std::env::current_dir().map_err(|e| Failure::file("use", Path::new("."), &e))?;
    here.ancestors().find(|folder| is_root(folder)).map(Path::to_path_buf).ok_or_else(|| {
        Failure::usage(format!(
            "the source tree that this tool was built from ({}) is gone, and {} is not inside another one; change into a checkout of trunnion and try again",
            built.unwrap_or(Path::new("?")).display(),
            here.display()
        ))
    })
}

fn is_root(folder: &Path) -> bool {
    folder.join("Cargo.toml").is_file()
        && folder.join("hypervisor/Cargo.toml").is_file()
        && folder.join("cli/Cargo.toml").is_file()
}

/// A folder under `target/`, made if missing.
pub fn target(name: &str) -> Result<PathBuf> {
    let folder = root()?.join("target").join(name);
    fs::create_dir_all(&folder).map_err(|e| Failure::file("make the folder", &folder, &e))?;
    Ok(folder)
}

/// A lock between processes, held while the value lives. Test runners may start a process a test, and two of them must neither build nor
/// download the same thing at once.
#[must_use]
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock in the file `target/NAME`, and waits for it. `waiting` is said once when somebody else has it.
pub fn lock(name: &str, waiting: &str) -> Result<Lock> {
    let path = target("")?.join(name);
    let file = File::options().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(|e| Failure::file("open the lock file", &path, &e))?;
    if file.try_lock().is_err() {
        crate::say::progress(waiting);
        file.lock().map_err(|e| Failure::file("lock", &path, &e))?;
    }
    Ok(Lock { _file: file })
}
