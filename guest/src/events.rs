//! Event channels: making ports, and waking whoever waits for one.
//!
//! Nothing happens in interrupt handlers. The main loop calls [`dispatch`], which follows the receiver's order of
//! [`trunnion_protocol::event`] and wakes a waker for each pending port.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll, Waker};

use spin::{Mutex, Once};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::event::{place, ports, scan};
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::event::{
    AllocUnbound, BindInterdomain, BindPirq, BindVirq, Op, PortArgument,
};
use trunnion_protocol::id::{DomainId, Pirq, Port, VcpuId, Virq};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared::SharedPage;
use trunnion_protocol::shared_info::vcpu;

use crate::hypercall;

static SHARED_INFO: Once<&'static SharedPage> = Once::new();

/// The shared info page, once it is there.
pub fn shared_info() -> Option<&'static SharedPage> {
    SHARED_INFO.get().copied()
}

/// Places the shared info page and asks for upcalls by vector.
#[cfg(target_os = "none")]
pub(crate) fn init() -> Result<(), Errno> {
    use trunnion_protocol::hypercall::hvm::{Callback, Param};
    use trunnion_protocol::hypercall::memory::Space;
    let gfn = crate::memory::holes(1).ok_or(Errno::NoMem)?;
    hypercall::add_to_physmap(Space::SharedInfo, 0, gfn)?;
    let page = crate::memory::placed(gfn, 1).and_then(|pages| pages.first()).ok_or(Errno::Fault)?;
    SHARED_INFO.call_once(|| page);
    let callback = Callback::Vector(crate::traps::UPCALL_VECTOR).encode();
    hypercall::set_param(DomainId::SELF, Param::CallbackIrq, callback)
}

#[derive(Default)]
struct Slot {
    waker: Option<Waker>,
    fired: bool,
    /// Counts the lives of the port, so that a listener of a closed port does not hear the next one.
    life: u32,
}

/// Who waits, by port. One vCPU and no work in handlers: the lock is never contended.
static SLOTS: Mutex<Vec<Slot>> = Mutex::new(Vec::new());

fn slot<R>(port: Port, act: impl FnOnce(&mut Slot) -> R) -> Option<R> {
    if port.0 >= ports(Width::W64) {
        return None;
    }
    let mut slots = SLOTS.lock();
    if slots.len() <= port.0 as usize {
        slots.resize_with(port.0 as usize + 1, Slot::default);
    }
    slots.get_mut(port.0 as usize).map(act)
}

/// Wakes `waker` at each event on `port`, in place of the waker named before.
pub fn on_event(port: Port, waker: &Waker) {
    slot(port, |slot| match &mut slot.waker {
        Some(old) => old.clone_from(waker),
        none => *none = Some(waker.clone()),
    });
}

/// Ends the listeners of a port that is being closed.
pub fn forget(port: Port) {
    let waker = slot(port, |slot| {
        slot.life = slot.life.wrapping_add(1);
        slot.fired = false;
        slot.waker.take()
    });
    if let Some(Some(waker)) = waker {
        waker.wake();
    }
}

/// Hears the events of one port, as long as it is open.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    port: Port,
    life: u32,
}

impl Listener {
    /// A listener of an open port. There should be one at a time.
    pub fn new(port: Port) -> Self {
        Self { port, life: slot(port, |slot| slot.life).unwrap_or(0) }
    }

    /// The port.
    pub const fn port(&self) -> Port {
        self.port
    }

    /// Ready with `true` when an event came since the last time, with `false` for ever once the port is closed.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<bool> {
        slot(self.port, |slot| {
            if slot.life != self.life {
                return Poll::Ready(false);
            }
            if core::mem::take(&mut slot.fired) {
                return Poll::Ready(true);
            }
            match &mut slot.waker {
                Some(old) => old.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .unwrap_or(Poll::Ready(false))
    }

    /// Waits for an event; false once the port is closed. One that came since the last wait ends it at once.
    pub async fn next(&self) -> bool {
        poll_fn(|context| self.poll_next(context)).await
    }
}

/// Whether some event waits to be dispatched.
pub fn is_pending() -> bool {
    shared_info()
        .and_then(|page| page.word_at(vcpu::UPCALL))
        .is_some_and(|word| word.load(Ordering::Acquire) & vcpu::UPCALL_PENDING_BYTE != 0)
}

/// Handles what is pending. Returns whether there was anything.
pub fn dispatch() -> bool {
    match shared_info() {
        Some(page) if is_pending() => {
            scan(page, page, 0, Width::W64, |port| {
                let waker = slot(port, |slot| {
                    slot.fired = true;
                    slot.waker.clone()
                });
                if let Some(Some(waker)) = waker {
                    waker.wake();
                }
            });
            true
        }
        _ => false,
    }
}

fn operate<T: Layout>(op: Op, argument: &mut T) -> Result<(), Errno> {
    hypercall::with(Hypercall::EventChannelOp, u64::from(op.number()), argument).map(drop)
}

/// Opens a port of `domain` for `remote` to join. Another domain than [`DomainId::SELF`] needs dom0's rights.
pub fn alloc_unbound(domain: DomainId, remote: DomainId) -> Result<Port, Errno> {
    let mut argument = AllocUnbound { domain, remote, port: Port(0) };
    operate(Op::AllocUnbound, &mut argument)?;
    Ok(argument.port)
}

/// Joins a port that `remote` left open.
pub fn bind_interdomain(remote: DomainId, remote_port: Port) -> Result<Port, Errno> {
    let mut argument = BindInterdomain { remote, remote_port, local_port: Port(0) };
    operate(Op::BindInterdomain, &mut argument)?;
    Ok(argument.local_port)
}

/// A port for a virtual interrupt.
pub fn bind_virq(virq: Virq) -> Result<Port, Errno> {
    let mut argument = BindVirq { virq, vcpu: VcpuId(0), port: Port(0) };
    operate(Op::BindVirq, &mut argument)?;
    Ok(argument.port)
}

/// A port for a physical interrupt.
pub fn bind_pirq(pirq: Pirq) -> Result<Port, Errno> {
    let mut argument = BindPirq { pirq, flags: 0, port: Port(0) };
    operate(Op::BindPirq, &mut argument)?;
    Ok(argument.port)
}

/// Notifies the other end.
pub fn send(port: Port) -> Result<(), Errno> {
    operate(Op::Send, &mut PortArgument { port })
}

/// Frees a port.
pub fn close(port: Port) -> Result<(), Errno> {
    forget(port);
    operate(Op::Close, &mut PortArgument { port })
}

/// Sets or clears a port's mask bit; clearing delivers what waited.
pub fn set_mask(port: Port, masked: bool) -> Result<(), Errno> {
    if !masked {
        return operate(Op::Unmask, &mut PortArgument { port });
    }
    let place = place(port, Width::W64).ok_or(Errno::Inval)?;
    let word = shared_info().and_then(|page| page.word_at(place.mask)).ok_or(Errno::Inval)?;
    word.fetch_or(place.bit, Ordering::AcqRel);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_end_with_their_port() {
        let mut context = Context::from_waker(Waker::noop());
        let listener = Listener::new(Port(77));
        assert!(listener.poll_next(&mut context).is_pending());
        slot(Port(77), |slot| slot.fired = true);
        assert_eq!(listener.poll_next(&mut context), Poll::Ready(true));
        assert!(listener.poll_next(&mut context).is_pending());
        forget(Port(77));
        assert_eq!(listener.poll_next(&mut context), Poll::Ready(false));
        assert!(Listener::new(Port(77)).poll_next(&mut context).is_pending());
        assert_eq!(Listener::new(Port(1 << 20)).poll_next(&mut context), Poll::Ready(false));
    }

    #[test]
    fn ports_out_of_range_are_no_wait() {
        assert_eq!(slot(Port(4096), |_| ()), None);
        assert_eq!(slot(Port(4095), |_| ()), Some(()));
    }
}
