//! Domains: create, look at, pause, destroy.

use crate::prelude::*;

impl<M: Machine> Running<'_, M> {
    pub(super) fn create_domain(&mut self, wanted: &mut CreateDomain) -> Result<(), Errno> {
        let domain = create::create(self.host, wanted)?;
        wanted.domain = domain.id.0;
        Ok(())
    }

    pub(super) fn destroy_domain(&mut self, call: &DomainRef) -> Result<(), Stop> {
        let domain = self.find(call.domain)?;
        if life::destroy_step(self.host, &domain)? { Ok(()) } else { Err(Stop::Again) }
    }

    pub(super) fn domain_info(&mut self, info: &mut DomainInfo) -> Result<(), Errno> {
        let host = self.host;
        life::reap(host);
        let domain = host.domain_from(DomainId(info.domain)).ok_or(Errno::NoEnt)?;
        let ready = domain
            .vcpus
            .iter()
            .any(|vcpu| matches!(vcpu.state.activity(), Activity::Ready | Activity::Running));
        let life = domain.life.lock();
        let bit = |bit: u16, set: bool| if set { bit } else { 0 };
        let state = bit(domain_state::RUNNABLE, ready)
            | bit(domain_state::PAUSED, life.pauses > 0)
            | bit(domain_state::SHUTDOWN, life.reason.is_some())
            | bit(domain_state::DYING, !life::is_alive(&domain));
        let ns = |time: Option<HostTime>| time.map_or(0, |time| time.0.max(1));
        *info = DomainInfo {
            domain: domain.id.0,
            state,
            shutdown_reason: life.reason.map_or(0, ShutdownReason::number),
            vcpus: domain.vcpus.len() as u32,
            online_vcpus: domain.vcpus.iter().filter(|vcpu| vcpu.state.is_up()).count() as u32,
            pages: u64::from(host.frames.owned(domain.id)),
            max_pages: domain.max_pages,
            cpu_ns: domain.vcpus.iter().map(|vcpu| vcpu.tally.ran.get()).sum(),
            first_run_ns: ns(life.first_run),
            ended_ns: ns(life.ended),
            uuid: domain.uuid,
            name: domain.name,
        };
        Ok(())
    }

    pub(super) fn pause_domain(&mut self, call: &DomainRef) -> Result<(), Stop> {
        let domain = self.find(call.domain)?;
        if domain.is_privileged() {
            return Err(Errno::Inval.into());
        }
        Ok(life::pause(self.host, &domain)?)
    }

    pub(super) fn unpause_domain(&mut self, call: &DomainRef) -> Result<(), Stop> {
        let domain = self.find(call.domain)?;
        Ok(life::unpause(self.host, &domain)?)
    }

    pub(super) fn set_vcpu_state(&mut self, call: &VcpuStateCall) -> Result<(), Stop> {
        let domain = self.find(call.domain)?;
        domain.vcpu(VcpuId(call.vcpu)).ok_or(Errno::NoEnt)?;
        Ok(start::load(self.host, &VcpuRef { domain, index: call.vcpu }, &call.state, true)?)
    }

    pub(super) fn domain_counters(&mut self, call: &mut CountersCall) -> Result<(), Errno> {
        let domain = self.find(call.domain)?;
        call.counters = DomainCounters::default();
        for vcpu in &domain.vcpus {
            vcpu.tally.add_to(&mut call.counters);
        }
        Ok(())
    }

    pub(super) fn crash_report(&mut self, text: &mut ReadText) -> Result<(), Errno> {
        let domain = self.find(u16::try_from(text.position).map_err(|_| Errno::Srch)?)?;
        let mut bytes = [0; crate::report::REPORT_BYTES];
        let mut count = usize::try_from(text.length).unwrap_or(usize::MAX);
        {
            let life = domain.life.lock();
            let report = life.report.bytes();
            for (to, from) in bytes.iter_mut().zip(report) {
                *to = *from;
            }
            count = count.min(report.len());
        }
        self.write(Gva(text.buffer), bytes.get(..count).unwrap_or(&[]))?;
        text.length = count as u64;
        Ok(())
    }

    pub(super) fn set_scheduling(&mut self, wanted: &Scheduling) -> Result<(), Stop> {
        let domain = self.find(wanted.domain)?;
        if wanted.weight == 0 || wanted.weight > 65535 || wanted.cap > 100 {
            return Err(Errno::Inval.into());
        }
        domain.weight.store(wanted.weight, Ordering::Relaxed);
        domain.cap.store(wanted.cap, Ordering::Relaxed);
        Ok(())
    }
}
