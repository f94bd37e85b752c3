//! Device models.

use crate::prelude::*;

impl<M: Machine> Running<'_, M> {
    pub(super) fn set_model(&mut self, call: &SetModel) -> Result<(), Stop> {
        Ok(self.find(call.domain)?.set_model(self.host, self.domain, call)?)
    }

    /// A living domain's vCPU, whose model the caller is.
    fn modelled(&self, domain: u16, vcpu: u32) -> Result<VcpuRef<M>, Errno> {
        let domain = Some(self.find(domain)?).filter(|domain| life::is_alive(domain)).ok_or(Errno::Srch)?;
        let of = domain.model.get().ok_or(Errno::Srch)?.of;
        domain.vcpu(VcpuId(vcpu)).ok_or(Errno::NoEnt)?;
        if of == self.domain.id { Ok(VcpuRef { domain, index: vcpu }) } else { Err(Errno::Perm) }
    }

    pub(super) fn model_answer(&mut self, call: &ModelAnswer) -> Result<(), Stop> {
        model::answered(self.host, &self.modelled(call.domain, call.vcpu)?)?;
        if call.rest == 0 || events::upcall_waits(self.host, self.vcpu) { Ok(()) } else { Err(Stop::Wait(0)) }
    }

    pub(super) fn model_signal(&mut self, call: &ModelSignal) -> Result<(), Stop> {
        let at = self.modelled(call.domain, 0)?;
        match SignalKind::from_number(call.kind).ok_or(Errno::Inval)? {
            SignalKind::Message => {
                let ipi = lapic::message(call.address, call.data).ok_or(Errno::Inval)?;
                local::deliver(self.host, &at.domain, None, ipi, call.data & lapic::LEVEL != 0);
            }
            SignalKind::Line => local::set_line(self.host, &at, call.data & 1 != 0),
            SignalKind::Nmi => local::post_nmi(self.host, &at, &at),
        }
        Ok(())
    }
}
