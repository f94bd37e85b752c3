//! Files that a tool sends in parts.

use crate::control::{Code, Failure};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Files under way at once.
const FILES_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Uploads(BTreeMap<u32, Upload>);

struct Upload {
    total: u64,
    bytes: Vec<u8>,
}

impl Uploads {
    /// Takes a part. Parts come in order.
    pub(super) fn part(&mut self, file: u32, total: u64, offset: u64, data: &[u8]) -> Result<(), Failure> {
        if offset == 0 {
            if self.0.len() >= FILES_MAX {
                return Err(Failure::new(
                    Code::Limit,
                    format!("at most {FILES_MAX} files are taken at once"),
                ));
            }
            let mut bytes = Vec::new();
            let room = usize::try_from(total).ok().and_then(|total| bytes.try_reserve_exact(total).ok());
            if room.is_none() {
                let mib = total.div_ceil(1 << 20);
                return Err(Failure::new(
                    Code::NoMemory,
                    format!("dom0 has no {mib} MiB for this file; `--dom0-memory` gives it more"),
                ));
            }
            self.0.insert(file, Upload { total, bytes });
        }
        let malformed = |why: &str| Err(Failure::new(Code::Malformed, format!("upload {file}: {why}")));
        let Some(upload) = self.0.get_mut(&file) else { return malformed("it does not begin at 0") };
        if upload.total != total || upload.bytes.len() as u64 != offset {
            self.0.remove(&file);
            return malformed("a part is missing");
        }
        if (upload.bytes.len() + data.len()) as u64 > total {
            self.0.remove(&file);
            return malformed("there is more than was announced");
        }
        upload.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Forgets a file; false when there is none.
    pub(super) fn drop_file(&mut self, file: u32) -> bool {
        self.0.remove(&file).is_some()
    }

    /// Takes a whole file out.
    pub(super) fn take(&mut self, file: u32) -> Option<Rc<Vec<u8>>> {
        let whole = self.0.get(&file).is_some_and(|upload| upload.bytes.len() as u64 == upload.total);
        if whole { self.0.remove(&file).map(|upload| Rc::new(upload.bytes)) } else { None }
    }

    /// Puts a file back that was not used after all.
    pub(super) fn put_back(&mut self, file: u32, bytes: Rc<Vec<u8>>) {
        let bytes = Rc::try_unwrap(bytes).unwrap_or_else(|shared| shared.to_vec());
        self.0.insert(file, Upload { total: bytes.len() as u64, bytes });
    }
}
