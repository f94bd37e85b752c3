//! Guests' disks: checked before anything starts, and named for dom0.

use crate::failure::{Failure, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A sector, in bytes: what disks are addressed in, whatever their own block size.
pub const SECTOR: u64 = 512;

/// A raw image that a domain asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file, absolute and without links.
    pub path: PathBuf,
    /// Whether the domain may write.
    pub writable: bool,
    /// Bytes; a multiple of [`SECTOR`].
    pub size: u64,
    /// The serial number that the virtio-blk device carries, by which dom0 knows it.
    pub serial: String,
}

/// Looks at the image `path` that `domain` wants.
pub fn check(domain: &str, path: &Path, writable: bool) -> Result<Disk> {
    let refuse = |why: String| {
        Err(Failure::usage(format!(
            "the disk {} of domain \"{domain}\" cannot be used: {why}",
            path.display()
        )))
    };
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(e) => return refuse(crate::failure::reason(&e)),
    };
    let found = match fs::metadata(&real) {
        Ok(found) => found,
        Err(e) => return refuse(crate::failure::reason(&e)),
    };
    if found.is_dir() {
        return refuse("it is a folder".into());
    }
    if !found.is_file() {
        return refuse("it is no regular file; raw images are".into());
    }
    if found.len() == 0 {
        return refuse("it is empty; make it with `truncate -s 1G FILE`, say".into());
    }
    if !found.len().is_multiple_of(SECTOR) {
        let whole = found.len().next_multiple_of(SECTOR);
        return refuse(format!(
            "its {} bytes are not a multiple of {SECTOR}; `truncate -s {whole} FILE` rounds it up",
            found.len()
        ));
    }
    if let Err(e) = File::open(&real) {
        return refuse(format!("it cannot be read: {}", crate::failure::reason(&e)));
    }
    if writable {
        if found.permissions().readonly() {
            return refuse(
                "it is read-only, and the domain asks to write; use access `r`, or chmod u+w".into(),
            );
        }
        if let Err(e) = File::options().append(true).open(&real) {
            return refuse(format!(
                "the domain asks to write, which fails: {}; use access `r`",
                crate::failure::reason(&e)
            ));
        }
    }
    Ok(Disk { serial: serial(&real), path: real, writable, size: found.len() })
}

/// Refuses an image that is used twice when one of the users writes. `users` are (domain, disk).
pub fn exclusive(users: &[(String, Disk)]) -> Result<()> {
    for (n, (first, disk)) in users.iter().enumerate() {
        let others = users.iter().skip(n + 1).filter(|(_, other)| other.path == disk.path);
        for (second, other) in others {
            if disk.writable || other.writable {
                let twice = if first == second {
                    format!("domain \"{first}\" twice")
                } else {
                    format!("domains \"{first}\" and \"{second}\"")
                };
                return Err(Failure::usage(format!(
                    "the disk {} is given to {twice}, and not to all for reading only; two file systems on one disk destroy each other. Copy it, or use access `r`",
                    disk.path.display()
                )));
            }
        }
    }
    Ok(())
}

/// The serial number of the image `path`: "t", then the path's 64-bit FNV-1a hash in hexadecimal. virtio-blk holds 20 bytes.
pub fn serial(path: &Path) -> String {
    let hash =
        path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("t{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_disks_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, size: u64| {
            let path = folder.path().join(name);
            File::create(&path).unwrap().set_len(size).unwrap();
            path
        };
        let why = |path: &Path| check("g", path, true).unwrap_err().to_string();
        assert!(why(&folder.path().join("none")).contains("no such file"));
        assert!(why(&file("empty", 0)).contains("empty"));
        assert!(why(&file("odd", 1000)).contains("truncate -s 1024"));
        assert!(why(folder.path()).contains("folder"));
        let fixed = file("fixed", 4096);
        fs::set_permissions(&fixed, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
        assert!(why(&fixed).contains("read-only"));
        assert!(check("g", &fixed, false).is_ok());
        assert_eq!(check("g", &file("good", 4096), true).unwrap().size, 4096);
    }

    #[test]
    fn a_disk_is_shared_for_reading_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        File::create(&path).unwrap().set_len(4096).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let user =
            |name: &str, path: &Path, writable| (name.to_string(), check(name, path, writable).unwrap());
        assert!(exclusive(&[user("a", &path, false), user("b", &link, false)]).is_ok());
        let refused = exclusive(&[user("a", &path, true), user("b", &link, false)]).unwrap_err();
        assert!(refused.message().contains("\"a\" and \"b\""), "{refused}");
        assert!(
            exclusive(&[user("a", &path, true), user("a", &path, true)])
                .unwrap_err()
                .message()
                .contains("twice")
        );
    }

    #[test]
    fn serial_numbers_fit_the_device() {
        assert!(serial(Path::new("/some/disk.img")).len() <= 20);
        assert_ne!(serial(Path::new("/a")), serial(Path::new("/b")));
    }
}
