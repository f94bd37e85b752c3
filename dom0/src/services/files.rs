//! Where file contents come from: members of the boot bundle, and what a tool sent.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::control::manifest::{Create, Source};
use crate::control::{Code, Failure};
use crate::cpio::Archive;

/// Bytes that a tool may have sent and not used, all files together.
const UPLOADS: u64 = 1 << 30;

struct Upload {
    total: u64,
    data: Vec<u8>,
}

/// The files that dom0 has.
pub struct Files {
    bundle: Archive<'static>,
    uploads: RefCell<BTreeMap<u32, Upload>>,
}

impl Files {
    /// The members of a bundle, and no uploads.
    pub fn new(bundle: &'static [u8]) -> Self {
        Self { bundle: Archive::new(bundle), uploads: RefCell::default() }
    }

    /// A member of the bundle.
    pub fn member(&self, name: &str) -> Result<Option<&'static [u8]>, Failure> {
        self.bundle.get(name).map_err(|damaged| Failure::new(Code::MissingFile, format!("{damaged}")))
    }

    /// Uses the content of a path that a configuration names.
    pub fn content<R>(
        &self,
        create: &Create,
        path: &str,
        act: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Failure> {
        let missing = || Failure::new(Code::MissingFile, format!("the file `{path}` was not brought"));
        match create.source(path).ok_or_else(missing)? {
            Source::Bundle(name) => Ok(act(self.member(name)?.ok_or_else(missing)?)),
            Source::Upload(number) => {
                let uploads = self.uploads.borrow();
                let upload = uploads.get(number).filter(|upload| upload.data.len() as u64 == upload.total);
                Ok(act(&upload.ok_or_else(missing)?.data))
            }
            Source::Disk(_) => Err(missing()),
        }
    }

    /// The content of a path that lasts as long as dom0: a member of the bundle.
    pub fn lasting(&self, create: &Create, path: &str) -> Option<&'static [u8]> {
        match create.source(path)? {
            Source::Bundle(name) => self.member(name).ok()?,
            _ => None,
        }
    }

    /// Whether the content of a path was sent by a tool, and may go at any time.
    pub fn is_upload(&self, create: &Create, path: &str) -> bool {
        matches!(create.source(path), Some(Source::Upload(_)))
    }

    /// The uploads that a request names.
    pub fn uploads_of(&self, create: &Create) -> Vec<u32> {
        let numbers = create.files.iter().filter_map(|placed| match placed.source {
            Source::Upload(number) => Some(number),
            _ => None,
        });
        numbers.collect()
    }

    /// A copy of a source's content, for a RAM disk. `None`: there is no such file; an error: no memory for so many bytes.
    pub fn copy(&self, source: &Source) -> Option<Result<Vec<u8>, u64>> {
        let copy = |bytes: &[u8]| {
            let mut data = Vec::new();
            data.try_reserve_exact(bytes.len()).map_err(|_| bytes.len() as u64)?;
            data.extend_from_slice(bytes);
            Ok(data)
        };
        match source {
            Source::Bundle(name) => self.member(name).ok().flatten().map(copy),
            Source::Upload(number) => self.uploads.borrow().get(number).map(|upload| copy(&upload.data)),
            Source::Disk(_) => None,
        }
    }

    /// Takes a part of a file.
    pub fn upload(&self, file: u32, total: u64, offset: u64, data: &[u8]) -> Result<(), Failure> {
        let mut uploads = self.uploads.borrow_mut();
        let held: u64 = uploads.iter().filter(|(id, _)| **id != file).map(|(_, u)| u.total).sum();
        if total > UPLOADS.saturating_sub(held) {
            return Err(Failure::new(Code::Limit, "too many bytes are uploaded and not used"));
        }
        if offset == 0 {
            let mut place = Vec::new();
            if place.try_reserve_exact(total as usize).is_err() {
                let message = format!("dom0 has no memory for an upload of {total} bytes");
                return Err(Failure::new(Code::NoMemory, message));
            }
            uploads.insert(file, Upload { total, data: place });
        }
        let upload = uploads.get_mut(&file).filter(|upload| {
            upload.data.len() as u64 == offset && offset.saturating_add(data.len() as u64) <= upload.total
        });
        let upload = upload.ok_or_else(|| Failure::new(Code::Malformed, "parts of a file come in order"))?;
        upload.data.extend_from_slice(data);
        Ok(())
    }

    /// Forgets an uploaded file.
    pub fn drop_upload(&self, file: u32) -> bool {
        self.uploads.borrow_mut().remove(&file).is_some()
    }
}
