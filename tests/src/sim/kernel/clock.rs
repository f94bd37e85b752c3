//! Time of a simulated kernel.

use std::future::poll_fn;
use std::task::{Context as TaskContext, Poll};

use trunnion_hypervisor::seam::Machine;
use trunnion_protocol::hypercall::{Hypercall, vcpu as vcpu_call};
use trunnion_protocol::layout::{Layout, Width};

use super::Kernel;

impl Kernel {
    /// System time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.host.machine.now().0
    }

    /// Waits for a time.
    pub async fn sleep(&self, ns: u64) {
        let deadline = self.now_ns().saturating_add(ns);
        let key = (deadline, self.shared.bits());
        poll_fn(|context: &mut TaskContext<'_>| {
            if self.now_ns() >= deadline {
                self.sleepers.borrow_mut().remove(&key);
                return Poll::Ready(());
            }
            self.sleepers.borrow_mut().insert(key, context.waker().clone());
            self.arm();
            Poll::Pending
        })
        .await;
    }

    fn arm(&self) {
        let Some((deadline, _)) = self.sleepers.borrow().keys().next().copied() else { return };
        let timer = vcpu_call::SingleshotTimer { deadline_ns: deadline, flags: 0 };
        let mut bytes = vcpu_call::SingleshotTimer::ZEROED;
        if timer.encode(Width::W64, bytes.as_mut()).is_none() {
            return;
        }
        if let Some(address) = self.lend(0, bytes.as_ref()) {
            let operation = vcpu_call::Op::SetSingleshotTimer.number().into();
            self.raw(Hypercall::VcpuOp.number(), [operation, self.current.get() as u64, address.0, 0, 0]);
        }
    }

    pub(super) fn wake_sleepers(&self) {
        let now = self.now_ns();
        loop {
            let due = self.sleepers.borrow().keys().next().copied().filter(|(deadline, _)| *deadline <= now);
            let Some(key) = due else { break };
            let waker = self.sleepers.borrow_mut().remove(&key);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        self.arm();
    }
}
