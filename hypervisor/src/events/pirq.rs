//! Physical interrupts as event channels.
//!
//! A PIRQ's number is its slot at the machine ([`Machine::message`], [`Machine::route_line`]). dom0 maps one by a control
//! call, binds it to a port, and unmasks it after each event when it comes by line.

use super::channel::Channel;
use super::deliver::set_pending;
use crate::prelude::*;

/// One slot.
#[derive(Clone, Copy, Default)]
struct Slot {
    owner: Option<DomainId>,
    /// The line that is routed here; `None` for messages.
    line: Option<u32>,
    /// The port that is bound, or 0.
    port: u32,
}

/// All slots.
pub struct Pirqs([Slot; DEVICE_SLOTS as usize]);

impl Pirqs {
    pub(crate) const fn new() -> Self {
        Self([Slot { owner: None, line: None, port: 0 }; DEVICE_SLOTS as usize])
    }

    fn slot(&mut self, pirq: Pirq, owner: DomainId) -> Result<&mut Slot, Errno> {
        self.0.get_mut(pirq.0 as usize).filter(|slot| slot.owner == Some(owner)).ok_or(Errno::Inval)
    }

    /// Where the port of an interrupt of `owner` is kept.
    pub(super) fn port_slot(&mut self, pirq: Pirq, owner: DomainId) -> Result<&mut u32, Errno> {
        self.slot(pirq, owner).map(|slot| &mut slot.port)
    }

    fn free(&mut self) -> Option<(u8, &mut Slot)> {
        (0..).zip(&mut self.0).find(|(_, slot)| slot.owner.is_none())
    }

    /// A slot for messages.
    pub fn map_message<M: Machine>(&mut self, machine: &M, id: DomainId) -> Result<(Pirq, Message), Errno> {
        let (at, slot) = self.free().ok_or(Errno::NoSpc)?;
        *slot = Slot { owner: Some(id), line: None, port: 0 };
        Ok((Pirq(u32::from(at)), machine.message(at)))
    }

    /// A slot for a line; the one it has, when it was mapped before.
    pub fn map_line<M: Machine>(&mut self, machine: &M, owner: DomainId, line: u32) -> Result<Pirq, Errno> {
        if let Some(at) = self.0.iter().position(|slot| slot.owner == Some(owner) && slot.line == Some(line))
        {
            return Ok(Pirq(at as u32));
        }
        let (at, slot) = self.free().ok_or(Errno::NoSpc)?;
        machine.route_line(line, at).map_err(|_| Errno::NoDev)?;
        *slot = Slot { owner: Some(owner), line: Some(line), port: 0 };
        Ok(Pirq(u32::from(at)))
    }

    /// Releases a slot whose port is closed.
    pub fn unmap(&mut self, pirq: Pirq, owner: DomainId) -> Result<(), Errno> {
        let slot = self.slot(pirq, owner)?;
        if slot.port != 0 {
            return Err(Errno::Busy);
        }
        *slot = Slot::default();
        Ok(())
    }

    /// Lets a line's interrupt come again.
    pub fn unmask<M: Machine>(&mut self, machine: &M, pirq: Pirq, owner: DomainId) -> Result<(), Errno> {
        let line = self.slot(pirq, owner)?.line.ok_or(Errno::Inval)?;
        machine.unmask_line(line);
        Ok(())
    }

    fn target(&self, slot: u8) -> Option<(DomainId, Port)> {
        let slot = self.0.get(usize::from(slot))?;
        (slot.port != 0).then_some((slot.owner?, Port(slot.port)))
    }
}

impl<M: Machine> Host<M> {
    /// A device interrupt came.
    pub(crate) fn device_interrupt(&self, slot: u8) {
        let target = self.pirqs.lock().target(slot);
        if let Some((owner, port)) = target
            && let Some(domain) = self.domain(owner)
            && let (Channel::Pirq(_), vcpu) = domain.ports.get(port)
        {
            set_pending(self, &domain, port, vcpu);
        }
    }
}
