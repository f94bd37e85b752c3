//! Events of a simulated kernel: upcalls are taken, ports are heard, and some events are lost, late or doubled.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, Waker};

use trunnion_protocol::errno::Errno;
use trunnion_protocol::event::scan;
use trunnion_protocol::hypercall::{Hypercall, event};
use trunnion_protocol::id::{Port, VcpuId, Virq};
use trunnion_protocol::layout::Width;
use trunnion_protocol::shared_info::{vcpu, vcpu_info};

use super::Kernel;

#[derive(Default)]
pub(super) struct Slot {
    pub(super) waker: Option<Waker>,
    fired: bool,
    life: u32,
}

impl Kernel {
    pub(super) fn slot<R>(&self, port: Port, act: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        let mut slots = self.slots.borrow_mut();
        let index = port.0 as usize;
        if index >= 4096 {
            return None;
        }
        if slots.len() <= index {
            slots.resize_with(index + 1, Slot::default);
        }
        slots.get_mut(index).map(act)
    }

    /// Marks a port as having fired, and wakes who waits.
    pub(super) fn fire(&self, port: Port) {
        let waker = self.slot(port, |slot| {
            slot.fired = true;
            slot.waker.clone()
        });
        if let Some(Some(waker)) = waker {
            waker.wake();
        }
        if self.timers.borrow().contains(&port) {
            self.wake_sleepers();
        }
    }

    /// Hears one port's events.
    pub fn listener(self: &Rc<Self>, port: Port) -> Listener {
        let life = self.slot(port, |slot| slot.life).unwrap_or(0);
        Listener { kernel: Rc::clone(self), port, life }
    }

    /// Closes a port; its listeners end.
    pub fn close(&self, port: Port) -> Result<(), Errno> {
        let waker = self.slot(port, |slot| {
            slot.life = slot.life.wrapping_add(1);
            slot.fired = false;
            slot.waker.take()
        });
        if let Some(Some(waker)) = waker {
            waker.wake();
        }
        let mut argument = event::PortArgument { port };
        self.with(Hypercall::EventChannelOp, event::Op::Close.number().into(), &mut argument).map(drop)
    }

    /// Notifies the other end.
    pub fn send(&self, port: Port) {
        let mut argument = event::PortArgument { port };
        let operation = event::Op::Send.number().into();
        let _ = self.with(Hypercall::EventChannelOp, operation, &mut argument);
        if self.shared.permille(self.shared.faults.get().doubled) {
            self.shared.strike(|struck| struck.doubled += 1);
            let _ = self.with(Hypercall::EventChannelOp, operation, &mut argument);
        }
    }

    /// Kicks that were lost come again. True if there were any.
    pub fn kick_again(&self) -> bool {
        let lost = std::mem::take(&mut *self.lost.borrow_mut());
        for &port in &lost {
            self.fire(port);
        }
        !lost.is_empty() && !self.dead.get()
    }

    /// Whether tasks are ready.
    pub fn is_ready(&self) -> bool {
        self.executor.borrow().is_ready()
    }

    /// The domain's own CPU, to wake it after something outside has woken a task: a kick, as a physical interrupt would.
    pub fn poke(&self) {
        if !self.dead.get() && self.is_ready() && !self.timers.borrow().is_empty() {
            let vcpu = &self.domain.vcpus[0];
            trunnion_hypervisor::events::raise_virq(&self.host, &self.domain, vcpu, Virq::TIMER);
        }
    }

    /// Where the info structure of the vCPU is whose turn it is.
    fn place(&self) -> usize {
        vcpu_info(self.current.get() as u32).unwrap_or_default()
    }

    pub(super) fn upcall_waits(&self) -> bool {
        self.info
            .get()
            .and_then(|info| self.memory.get(info)?.word_at(self.place() + vcpu::UPCALL))
            .is_some_and(|word| word.load(Ordering::Acquire) & vcpu::UPCALL_PENDING_BYTE != 0)
    }

    /// Now and then a port that somebody hears moves to another vCPU, as an interrupt balancer has it.
    fn wander(&self) {
        if self.sides.len() < 2 || !self.shared.permille(50) {
            return;
        }
        let ports = self.slots.borrow().len() as u64;
        let port = Port(self.shared.below(ports.max(1)) as u32);
        if self.slot(port, |slot| slot.waker.is_some()) == Some(true) {
            let vcpu = VcpuId(self.shared.below(self.sides.len() as u64) as u32);
            let mut bind = event::BindVcpu { port, vcpu };
            let _ = self.with(Hypercall::EventChannelOp, event::Op::BindVcpu.number().into(), &mut bind);
        }
    }

    /// The receiver's steps of [`trunnion_protocol::event`], for the vCPU whose turn it is.
    pub(super) fn dispatch(&self) {
        let Some(page) = self.info.get().and_then(|info| self.memory.get(info)) else { return };
        let faults = self.shared.faults.get();
        scan(page, page, self.place(), Width::W64, |port| {
            if self.shared.permille(faults.lost) {
                self.shared.strike(|struck| struck.lost += 1);
                self.shared.note(self.id().0, "lost event, port", [port.0.into(), 0, 0]);
                self.lost.borrow_mut().push(port);
            } else {
                self.shared.note(self.id().0, "event, port", [port.0.into(), 0, 0]);
                self.fire(port);
            }
        });
        self.wander();
        if self.shared.permille(faults.spurious) {
            self.shared.strike(|struck| struck.spurious += 1);
            let count = self.slots.borrow().len() as u64;
            self.fire(Port(self.shared.below(count.max(1)) as u32));
        }
        if !self.lost.borrow().is_empty() && self.shared.permille(200) {
            self.kick_again();
        }
    }
}

/// Hears the events of one port, as long as it is open.
#[derive(Clone)]
pub struct Listener {
    kernel: Rc<Kernel>,
    port: Port,
    life: u32,
}

impl Listener {
    /// The port.
    pub const fn port(&self) -> Port {
        self.port
    }

    /// Ready with `true` when an event came since the last time, with `false` for ever once the port is closed.
    pub fn poll_next(&self, context: &TaskContext<'_>) -> Poll<bool> {
        self.kernel
            .slot(self.port, |slot| {
                if slot.life != self.life {
                    return Poll::Ready(false);
                }
                if std::mem::take(&mut slot.fired) {
                    return Poll::Ready(true);
                }
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            })
            .unwrap_or(Poll::Ready(false))
    }

    /// Waits for an event; false once the port is closed.
    pub async fn next(&self) -> bool {
        poll_fn(|context| self.poll_next(context)).await
    }
}
