//! What a back end asks of the kernel it runs in. dom0 implements it by hypercalls, the simulation on the core directly.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use trunnion_protocol::address::Gfn;
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::shared::SharedPage;

use crate::device::GuestPage;

/// A page that a guest granted, to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The guest's claim.
    pub reference: GrantRef,
    /// What it is mapped for.
    pub access: Access,
}

/// Maps and unmaps granted pages, a batch at a time.
pub trait GrantMapper {
    /// A mapped page. It stays mapped until it is given to [`Self::unmap`].
    type Page: GuestPage;

    /// Maps pages of `domain`, and appends one result for each to `results`, in order.
    fn map(&self, domain: DomainId, wanted: &[Wanted], results: &mut Vec<Result<Self::Page, GrantStatus>>);

    /// Unmaps all the pages, which leaves `pages` empty. When it returns no translation is left and the guest may take
    /// its grants back; only then may anything tell the guest that they are free.
    fn unmap(&self, pages: &mut Vec<Self::Page>);
}

/// A page that bytes are copied from or to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyPage {
    /// One that a domain has granted to this one.
    Granted(DomainId, GrantRef),
    /// One of this kernel's own.
    Local(Gfn),
}

/// Bytes to be copied by the hypervisor from one page to another, neither crossing a page's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantCopy {
    /// From which page.
    pub from: CopyPage,
    /// First byte there.
    pub from_offset: u16,
    /// To which page.
    pub to: CopyPage,
    /// First byte there.
    pub to_offset: u16,
    /// Bytes.
    pub length: u16,
}

/// Copies between granted pages, and between them and pages of this kernel's own, a batch at a time.
pub trait GrantCopier {
    /// Pages of this kernel's own.
    type Local: AsRef<[SharedPage]>;

    /// `count` zeroed pages in a row, and the frame of the first; `None` when there is not enough memory.
    fn local(&self, count: usize) -> Option<(Self::Local, Gfn)>;

    /// Carries out the copies in order, and appends one result for each. When it returns the grants are free again.
    fn copy(&self, copies: &[GrantCopy], results: &mut Vec<Result<(), GrantStatus>>);
}

/// Time.
pub trait Clock {
    /// Since some fixed moment.
    fn now(&self) -> Duration;
    /// Waits until a moment.
    fn sleep_until(&self, moment: Duration) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// One end of an event channel. Dropping it closes the channel.
pub trait EventPort {
    /// Notifies the other end.
    fn notify(&self);
    /// Ready when the other end notified since this was last ready; otherwise the context's waker is woken then.
    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()>;
}

/// Binds event channels.
pub trait Events {
    /// A bound port.
    type Port: EventPort;
    /// Joins a port that a domain has opened for this one.
    fn bind(&self, domain: DomainId, remote: Port) -> Result<Self::Port, Errno>;
}

/// What a block back end asks for.
pub trait BlockHost: GrantMapper + GrantCopier + Events {}

impl<T: GrantMapper + GrantCopier + Events> BlockHost for T {}

/// What a network back end asks for.
pub trait NetHost: GrantMapper + GrantCopier + Events + Clock {}

impl<T: GrantMapper + GrantCopier + Events + Clock> NetHost for T {}

/// A watch on a store path. Dropping it ends the watch.
pub trait StoreWatch {
    /// Ready once after it was made, and again whenever something at or below the path has changed.
    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()>;
}

/// The store, as a client sees it. Paths are absolute.
#[allow(async_fn_in_trait, reason = "the executor is single-threaded, so no bound on the futures is wanted")]
pub trait StoreClient {
    /// A watch.
    type Watch: StoreWatch;
    /// A value, or `None` when there is no such node.
    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Errno>;
    /// Writes values below a directory, all or none, in one transaction that is retried when it conflicts.
    async fn write_all(&self, directory: &str, values: &[(String, String)]) -> Result<(), Errno>;
    /// Starts to watch a path.
    async fn watch(&self, path: &str) -> Result<Self::Watch, Errno>;
}
