//! dom0's own calls: control calls, batches of grant operations, other domains' frames.

use std::rc::Rc;
use std::sync::Arc;

use trunnion_protocol::address::Gfn;
use trunnion_protocol::control::{self, MapForeign, Operation, UnmapForeign};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::{Hypercall, event};
use trunnion_protocol::id::{DomainId, Pirq, Port, VcpuId, Virq};
use trunnion_protocol::shared::SharedPage;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::kernel::Kernel;

/// Where lists lie in the scratch pages, behind the structure that points to them.
pub const LIST: usize = 4096;

impl Kernel {
    /// A control call.
    pub fn control<T: IntoBytes + FromBytes + Immutable>(
        &self,
        operation: Operation,
        value: &mut T,
    ) -> Result<u64, Errno> {
        let address = self.lend(0, value.as_bytes()).ok_or(Errno::Fault)?;
        let result = self.raw(control::CALL, [operation.number(), address.0, 0, 0, 0]);
        self.back(0, value.as_mut_bytes()).ok_or(Errno::Fault)?;
        Errno::from_return(result)
    }

    /// A batch of structures of one kind, changed in place.
    pub fn batch(
        &self,
        number: Hypercall,
        operation: u32,
        bytes: &mut [u8],
        count: usize,
    ) -> Result<u64, Errno> {
        let address = self.lend(0, bytes).ok_or(Errno::Fault)?;
        let result = self.raw(number.number(), [operation.into(), address.0, count as u64, 0, 0]);
        self.back(0, bytes).ok_or(Errno::Fault)?;
        Errno::from_return(result)
    }

    /// Joins a port that a domain has opened.
    pub fn bind_interdomain(&self, remote: DomainId, remote_port: Port) -> Result<Port, Errno> {
        let mut bind = event::BindInterdomain { remote, remote_port, local_port: Port(0) };
        self.with(Hypercall::EventChannelOp, event::Op::BindInterdomain.number().into(), &mut bind)?;
        Ok(bind.local_port)
    }

    /// A port for a virtual interrupt.
    pub fn bind_virq(&self, virq: Virq) -> Result<Port, Errno> {
        let mut bind = event::BindVirq { virq, vcpu: VcpuId(0), port: Port(0) };
        self.with(Hypercall::EventChannelOp, event::Op::BindVirq.number().into(), &mut bind)?;
        Ok(bind.port)
    }

    /// A port for a device's interrupt, and the data of its message.
    pub fn bind_device(&self) -> Result<(Port, u32), Errno> {
        let mut call = control::MapPirq::default();
        self.control(Operation::MapPirq, &mut call)?;
        let mut bind = event::BindPirq { pirq: Pirq(call.pirq), flags: 0, port: Port(0) };
        self.with(Hypercall::EventChannelOp, event::Op::BindPirq.number().into(), &mut bind)?;
        Ok((bind.port, call.data))
    }
}

/// Another domain's frames in dom0, given back when dropped.
pub struct Foreign {
    kernel: Rc<Kernel>,
    frames: Vec<u64>,
}

impl Foreign {
    /// Maps `count` frames from `first` on, for writing.
    pub fn map(kernel: &Rc<Kernel>, domain: DomainId, first: Gfn, count: usize) -> Result<Self, Errno> {
        let mut frames = vec![0u64; count];
        let list = kernel.lend(LIST, frames.as_bytes()).ok_or(Errno::TooBig)?;
        let mut call =
            MapForeign { domain: domain.0, flags: 1, count: count as u32, gfn: first.0, frames: list.0 };
        kernel.control(Operation::MapForeign, &mut call)?;
        kernel.back(LIST, frames.as_mut_bytes()).ok_or(Errno::Fault)?;
        if frames.iter().any(|&frame| kernel.frame(Gfn(frame)).is_none()) {
            kernel.shared.complain(format!("frames of domain {domain} are mapped, and are not there"));
        }
        Ok(Self { kernel: Rc::clone(kernel), frames })
    }

    /// One of the pages.
    pub fn page(&self, index: usize) -> Option<&SharedPage> {
        self.kernel.host_memory().get(*self.frames.get(index)? as usize)
    }

    /// Where one of the pages is in the host's memory.
    pub fn frame(&self, index: usize) -> Option<u64> {
        self.frames.get(index).copied()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let kernel = &self.kernel;
        if self.frames.is_empty() {
            return;
        }
        let Some(list) = kernel.lend(LIST, self.frames.as_bytes()) else { return };
        let mut call = UnmapForeign { count: self.frames.len() as u32, flags: 1, frames: list.0 };
        if let Err(error) = kernel.control(Operation::UnmapForeign, &mut call)
            && !kernel.is_dead()
        {
            kernel.shared.complain(format!("foreign frames cannot be given back: {error}"));
        }
    }
}

thread_local! {
    /// dom0's kernel of the world that runs on this thread, for those whose traits want them to be `Send`.
    static DOM0: std::cell::RefCell<Option<Rc<Kernel>>> = const { std::cell::RefCell::new(None) };
}

/// Names the world's dom0.
pub fn set_dom0(kernel: Option<Rc<Kernel>>) {
    let old = DOM0.with_borrow_mut(|dom0| std::mem::replace(dom0, kernel));
    drop(old);
}

/// The world's dom0.
pub fn dom0() -> Option<Rc<Kernel>> {
    DOM0.with_borrow(Clone::clone)
}

/// One page of another domain that can be handed anywhere. It belongs to the dom0 of its thread.
pub struct ForeignPage {
    memory: Arc<[SharedPage]>,
    frame: u64,
}

impl ForeignPage {
    /// Maps a frame.
    pub fn map(domain: DomainId, gfn: Gfn) -> Result<Self, Errno> {
        let kernel = dom0().ok_or(Errno::NoSys)?;
        let mut foreign = Foreign::map(&kernel, domain, gfn, 1)?;
        let frame = foreign.frames.pop().ok_or(Errno::Fault)?;
        let page = Self { memory: Arc::clone(kernel.host_memory()), frame };
        Ok(page)
    }
}

impl std::borrow::Borrow<SharedPage> for ForeignPage {
    fn borrow(&self) -> &SharedPage {
        &self.memory[self.frame as usize]
    }
}

impl Drop for ForeignPage {
    fn drop(&mut self) {
        if let Some(kernel) = dom0() {
            drop(Foreign { kernel, frames: vec![self.frame] });
        }
    }
}
