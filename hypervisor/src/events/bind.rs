//! Binding, moving and closing ports.

use trunnion_protocol::hypercall::event::{PortState, Status};

use super::channel::Channel;
use super::deliver::{clear_pending, set_pending};
use crate::prelude::*;

impl<M: Machine> Domain<M> {
    /// Gives `channel` the lowest free port, for one of its vCPUs.
    fn allocate_port(&self, host: &Host<M>, channel: Channel, vcpu: VcpuId) -> Result<Port, Errno> {
        let mut used = self.ports.allocation.lock();
        let port = self.ports.find_free(&mut used, event::ports(self.width())).ok_or(Errno::NoSpc)?;
        clear_pending(host, self, port);
        self.ports.set(port, channel, vcpu);
        Ok(port)
    }

    /// `EVTCHNOP_alloc_unbound`: a port that `remote` may join.
    pub fn alloc_unbound(&self, host: &Host<M>, remote: DomainId) -> Result<Port, Errno> {
        self.allocate_port(host, Channel::Unbound(remote), VcpuId(0))
    }

    /// `EVTCHNOP_bind_interdomain`: joins `to`'s open port. The new port is pending at once.
    pub fn bind_interdomain(self: &Arc<Self>, host: &Host<M>, to: &Self, open: Port) -> Result<Port, Errno> {
        let port = self.allocate_port(host, Channel::Interdomain(to.id, open), VcpuId(0))?;
        let joined = Channel::Interdomain(self.id, port);
        if !to.ports.replace(open, Channel::Unbound(self.id), joined) {
            self.ports.take(port);
            return Err(Errno::Inval);
        }
        set_pending(host, self, port, VcpuId(0));
        Ok(port)
    }

    /// `EVTCHNOP_bind_virq`.
    pub fn bind_virq(&self, host: &Host<M>, virq: Virq, vcpu: VcpuId) -> Result<Port, Errno> {
        let scope = virq.scope().ok_or(Errno::Inval)?;
        if scope != VirqScope::Vcpu && vcpu.0 != 0 {
            return Err(Errno::Inval);
        }
        if scope == VirqScope::Global && !self.is_privileged() {
            return Err(Errno::Perm);
        }
        let target = self.vcpu(vcpu).ok_or(Errno::NoEnt)?;
        let slot = target.virqs.get(virq.0 as usize).ok_or(Errno::Inval)?;
        if slot.load(Ordering::Acquire) != 0 {
            return Err(Errno::Exist);
        }
        if scope == VirqScope::Global {
            host.claim_virq(virq, self.id)?;
        }
        let port = self.allocate_port(host, Channel::Virq(virq), vcpu);
        let port = port.inspect_err(|_| host.release_virq(virq, self.id))?;
        if slot.compare_exchange(0, port.0, Ordering::AcqRel, Ordering::Acquire).is_err() {
            self.ports.take(port);
            return Err(Errno::Exist);
        }
        Ok(port)
    }

    /// `EVTCHNOP_bind_ipi`.
    pub fn bind_ipi(&self, host: &Host<M>, vcpu: VcpuId) -> Result<Port, Errno> {
        self.vcpu(vcpu).ok_or(Errno::NoEnt)?;
        self.allocate_port(host, Channel::Ipi, vcpu)
    }

    /// `EVTCHNOP_bind_pirq`, for the domain that mapped it.
    pub fn bind_pirq(&self, host: &Host<M>, pirq: Pirq) -> Result<Port, Errno> {
        let port = self.allocate_port(host, Channel::Pirq(pirq), VcpuId(0))?;
        let mut pirqs = host.pirqs.lock();
        let bound = pirqs.port_slot(pirq, self.id).and_then(|slot| {
            if *slot != 0 {
                return Err(Errno::Exist);
            }
            *slot = port.0;
            Ok(port)
        });
        if bound.is_err() {
            self.ports.take(port);
        }
        bound
    }

    /// `EVTCHNOP_bind_vcpu`.
    pub fn bind_vcpu(&self, port: Port, vcpu: VcpuId) -> Result<(), Errno> {
        self.vcpu(vcpu).ok_or(Errno::NoEnt)?;
        match self.ports.get(port).0 {
            Channel::Unbound(_) | Channel::Interdomain(..) | Channel::Pirq(_) => {}
            Channel::Virq(virq) if virq.scope() != Some(VirqScope::Vcpu) => {}
            Channel::Free | Channel::Virq(_) | Channel::Ipi => return Err(Errno::Inval),
        }
        self.ports.set_vcpu(port, vcpu);
        Ok(())
    }

    /// `EVTCHNOP_close`. The peer of an interdomain port is open again for this domain.
    pub fn close_port(&self, host: &Host<M>, port: Port) -> Result<(), Errno> {
        let _allocation = self.ports.allocation.lock();
        let (_, vcpu) = self.ports.get(port);
        let was = self.ports.take(port);
        match was {
            Channel::Free => return Err(Errno::Inval),
            Channel::Interdomain(remote, remote_port) => {
                let ours = Channel::Interdomain(self.id, port);
                let open = Channel::Unbound(self.id);
                if remote == self.id {
                    self.ports.replace(remote_port, ours, open);
                } else if let Some(remote) = host.domain(remote).filter(|_| !planted::is(Bug::OneSidedClose))
                {
                    remote.ports.replace(remote_port, ours, open);
                }
            }
            Channel::Virq(virq) => {
                if let Some(slot) =
                    self.vcpu(vcpu_of(virq, vcpu)).and_then(|vcpu| vcpu.virqs.get(virq.0 as usize))
                {
                    let _ = slot.compare_exchange(port.0, 0, Ordering::AcqRel, Ordering::Acquire);
                }
                if virq.scope() == Some(VirqScope::Global) {
                    host.release_virq(virq, self.id);
                }
            }
            Channel::Pirq(pirq) => {
                if let Ok(slot) = host.pirqs.lock().port_slot(pirq, self.id)
                    && *slot == port.0
                {
                    *slot = 0;
                }
            }
            Channel::Unbound(_) | Channel::Ipi => {}
        }
        clear_pending(host, self, port);
        Ok(())
    }

    /// `EVTCHNOP_status`.
    pub fn port_status(&self, mut status: Status) -> Result<Status, Errno> {
        if event::place(status.port, self.width()).is_none() {
            return Err(Errno::Inval);
        }
        let (channel, vcpu) = self.ports.get(status.port);
        let (state, first, second) = match channel {
            Channel::Free => (PortState::Closed, 0, 0),
            Channel::Unbound(remote) => (PortState::Unbound, u32::from(remote.0), 0),
            Channel::Interdomain(remote, port) => (PortState::Interdomain, u32::from(remote.0), port.0),
            Channel::Pirq(pirq) => (PortState::Pirq, pirq.0, 0),
            Channel::Virq(virq) => (PortState::Virq, virq.0, 0),
            Channel::Ipi => (PortState::Ipi, 0, 0),
        };
        status.status = state.number();
        status.vcpu = vcpu;
        status.first = first;
        status.second = second;
        Ok(status)
    }

    /// `EVTCHNOP_reset`, and the end of the domain: closes up to `budget` ports that are in use. True when none is left.
    pub fn reset_ports(&self, host: &Host<M>, budget: usize) -> bool {
        let in_use = |port: &Port| self.ports.get(*port).0 != Channel::Free;
        let mut ports = (1..self.ports.end()).map(Port).filter(in_use);
        for port in ports.by_ref().take(budget) {
            let _ = self.close_port(host, port);
        }
        ports.next().is_none()
    }
}

/// The vCPU that has a virtual interrupt's slot: its own, or vCPU 0 wherever the port was moved.
const fn vcpu_of(virq: Virq, vcpu: VcpuId) -> VcpuId {
    if matches!(virq.scope(), Some(VirqScope::Vcpu)) { vcpu } else { VcpuId(0) }
}
