//! Another domain's frames in dom0: mapped by control calls at the guest-physical addresses equal to their machine
//! addresses, and given back when the value is dropped.

use alloc::vec;
use alloc::vec::Vec;
use core::borrow::Borrow;

use trunnion_guest::hypercall;
use trunnion_guest::memory;
use trunnion_protocol::address::Gfn;
use trunnion_protocol::control::{FOREIGN_MAX, MapForeign, Operation, UnmapForeign};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::shared::SharedPage;

/// A run of another domain's frames, mapped for writing.
pub struct Foreign {
    frames: Vec<u64>,
    pages: Vec<&'static SharedPage>,
}

impl Foreign {
    /// Maps `count` frames, at most [`FOREIGN_MAX`], from `first` on.
    pub fn map(domain: DomainId, first: Gfn, count: u32) -> Result<Self, Errno> {
        if count == 0 || count > FOREIGN_MAX {
            return Err(Errno::Inval);
        }
        let mut frames = vec![0u64; count as usize];
        let mut call = MapForeign {
            domain: domain.0,
            flags: 1,
            count,
            gfn: first.0,
            frames: frames.as_mut_ptr() as u64,
        };
        hypercall::control(Operation::MapForeign, &mut call)?;
        let mut foreign = Self { frames, pages: Vec::new() };
        let pages: Option<Vec<_>> =
            foreign.frames.iter().map(|&frame| memory::placed(Gfn(frame), 1)?.first()).collect();
        foreign.pages = pages.ok_or(Errno::Fault)?;
        Ok(foreign)
    }

    /// The pages, in the order of the domain's frames.
    pub fn pages(&self) -> &[&'static SharedPage] {
        &self.pages
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let count = self.frames.len() as u32;
        let mut call = UnmapForeign { count, flags: 1, frames: self.frames.as_ptr() as u64 };
        if let Err(error) = hypercall::control(Operation::UnmapForeign, &mut call) {
            log::error!("foreign frames cannot be given back: {error} frames={count}");
        }
    }
}

/// One page of another domain.
pub struct ForeignPage(Foreign);

impl ForeignPage {
    /// Maps a frame.
    pub fn map(domain: DomainId, gfn: Gfn) -> Result<Self, Errno> {
        let foreign = Foreign::map(domain, gfn, 1)?;
        if foreign.pages.is_empty() { Err(Errno::Fault) } else { Ok(Self(foreign)) }
    }
}

/// What a page without frames would be; [`ForeignPage::map`] makes none.
static NOTHING: SharedPage = SharedPage::zeroed();

impl AsRef<SharedPage> for ForeignPage {
    fn as_ref(&self) -> &SharedPage {
        self.0.pages.first().copied().unwrap_or(&NOTHING)
    }
}

impl Borrow<SharedPage> for ForeignPage {
    fn borrow(&self) -> &SharedPage {
        self.as_ref()
    }
}
