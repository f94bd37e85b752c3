//! Questions to a device model ([`trunnion_protocol::control::Request`]).
//!
//! A vCPU that [`ask`]s is not entered until [`waits`] has taken the answer, on the CPU that has its registers: whatever else
//! wakes it only makes it look. Who gives the vCPU other registers drops the question ([`Vcpu::forget_question`]).

use crate::events::Channel;
use crate::prelude::*;

/// Where a domain's device model is.
pub struct Model {
    /// The domain that runs it.
    pub of: DomainId,
    /// That domain's port for requests.
    port: Port,
    /// vCPU 0's page; the others' follow. The model has a reference to each.
    pages: Mfn,
    /// Bits of [`model_flags`].
    flags: u16,
}

/// What a vCPU has asked.
#[derive(Default)]
pub struct Question {
    serial: u32,
    asked: Option<RequestKind>,
    /// Bytes of the register that an IN fills.
    reads: u8,
    answered: bool,
}

impl Question {
    /// Whether there is an answer, or nothing to wait for.
    pub const fn is_answered(&self) -> bool {
        self.answered || self.asked.is_none()
    }
}

impl<M: Machine> Vcpu<M> {
    /// The answer is not wanted any more.
    pub fn forget_question(&self) {
        self.question.lock().asked = None;
        self.asks.store(false, Ordering::SeqCst);
    }
}

impl<M: Machine> Domain<M> {
    fn model_page<'h>(&self, host: &'h Host<M>, vcpu: VcpuId) -> Option<(&Model, &'h SharedPage)> {
        let model = self.model.get()?;
        Some((model, host.machine.page(Mfn(model.pages.0 + u64::from(vcpu.0)))?))
    }

    /// Gives the domain a device model in the domain `of`.
    pub fn set_model(&self, host: &Host<M>, of: &Domain<M>, call: &SetModel) -> Result<(), Errno> {
        let port = Port(call.port);
        let unused = !self.is_privileged() && self.life.lock().first_run.is_none();
        if !unused || of.ports.get(port).0 != Channel::Unbound(self.id) {
            return Err(Errno::Inval);
        }
        if self.model.is_completed() {
            return Err(Errno::Exist);
        }
        let mut pages = Vec::new();
        pages.try_reserve_exact(self.vcpus.len()).map_err(|_| Errno::NoMem)?;
        for index in 0..self.vcpus.len() as u64 {
            let page = host.frames.hold(Mfn(call.frame.saturating_add(index)));
            let own = page.filter(|page| page.owner() == of.id && page.kind() == FrameKind::Ram);
            pages.push(own.ok_or(Errno::Inval)?);
        }
        for page in pages {
            let _ = page.into_raw();
        }
        if let Some(first) = self.vcpus.first() {
            first.local.lock().lapic.wire();
        }
        self.model.call_once(|| Model { of: of.id, port, pages: Mfn(call.frame), flags: call.flags });
        Ok(())
    }

    /// Gives the pages back, at the end of the domain: nobody asks or answers any more.
    pub fn forget_model(&self, host: &Host<M>) {
        if let Some(model) = self.model.get() {
            (0..self.vcpus.len() as u64).for_each(|index| host.frames.put(Mfn(model.pages.0 + index)));
        }
    }
}

/// Asks for a vCPU, of a domain with a model; the vCPU then waits.
pub fn ask<M: Machine>(host: &Host<M>, domain: &Domain<M>, vcpu: &Vcpu<M>, request: Request) {
    let Some((model, page)) = domain.model_page(host, vcpu.id) else { return };
    {
        let mut question = vcpu.question.lock();
        let serial = question.serial.wrapping_add(1).max(1);
        let _ = page.store(0, &Request { serial, ..request });
        *question = Question {
            serial,
            asked: RequestKind::from_number(request.kind),
            reads: if request.read == 0 { 0 } else { request.size },
            answered: false,
        };
    }
    vcpu.asks.store(true, Ordering::SeqCst);
    vcpu.attention.store(true, Ordering::SeqCst);
    if let Some(of) = host.domain(model.of)
        && let (Channel::Unbound(id), target) = of.ports.get(model.port)
        && id == domain.id
    {
        events::set_pending(host, &of, model.port, target);
    }
}

/// Asks for the instruction that made the running vCPU leave its guest, for the sake of `address`.
pub fn ask_instruction<M: Machine>(running: &Running<'_, M>, address: u64) -> Verdict {
    if let Some((_, page)) = running.domain.model_page(running.host, running.vcpu.id) {
        let _ = page.store(REQUEST_STATE, &running.context.save());
    }
    let request = Request { kind: RequestKind::Instruction.number(), value: address, ..Request::default() };
    ask(running.host, running.domain, running.vcpu, request);
    Verdict::Resume
}

/// Asks for the instruction behind the forced-emulation prefix, where the domain may use it and the bytes that raised #UD are one.
pub fn ask_forced<M: Machine>(running: &mut Running<'_, M>) -> Option<Verdict> {
    running.domain.model.get().filter(|model| model.flags & model_flags::FORCED != 0)?;
    let at = exit::code_address(running);
    let mut bytes = [0; FORCED.len()];
    if running.with_memory(|memory| memory.fetch(at, &mut bytes).len()) < FORCED.len() || bytes != FORCED {
        return None;
    }
    exit::advance(running, FORCED.len() as u8);
    Some(ask_instruction(running, 0))
}

/// The model has answered a vCPU; `ESRCH` when this is not what the vCPU waits for.
pub fn answered<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) -> Result<(), Errno> {
    let (_, page) = at.domain.model_page(host, at.id).ok_or(Errno::Srch)?;
    let serial: u32 = page.load(ANSWER_OFFSET).map_err(|_| Errno::Srch)?;
    {
        let mut question = at.question.lock();
        if question.is_answered() || question.serial != serial {
            return Err(Errno::Srch);
        }
        question.answered = true;
    }
    schedule::wake(host, at);
    Ok(())
}

/// Takes the answer, if the vCPU asks and there is one. False when it can go on.
pub fn waits<M: Machine>(running: &mut Running<'_, M>) -> bool {
    let vcpu = running.vcpu;
    let mut question = vcpu.question.lock();
    if !question.is_answered() {
        return true;
    }
    vcpu.asks.store(false, Ordering::SeqCst);
    let (Some(asked), reads, serial) = (question.asked.take(), question.reads, question.serial) else {
        return false;
    };
    drop(question);
    let page = running.domain.model_page(running.host, vcpu.id);
    let answer: Option<Answer> = page.and_then(|(_, page)| page.load(ANSWER_OFFSET).ok());
    if let (Some((_, page)), Some(answer)) = (page, answer.filter(|answer| answer.serial == serial)) {
        take(running.context, asked, reads, &answer, page);
    }
    false
}

fn take(context: &mut impl Context, asked: RequestKind, reads: u8, answer: &Answer, page: &SharedPage) {
    match asked {
        RequestKind::Port if reads != 0 => exit::fill(context, reads, answer.value),
        RequestKind::Instruction => {
            if answer.flags & answer_flags::STATE != 0
                && let Ok(state) = page.load(ANSWER_STATE)
            {
                context.update(&state);
            }
            // An event whose delivery led here goes first; the instruction raises its exception again.
            if answer.flags & answer_flags::EXCEPTION != 0 && !context.interruptibility().event_set {
                let error = (answer.flags & answer_flags::ERROR != 0).then_some(answer.error);
                context.inject(Event::Exception(answer.vector as u8, error));
            }
        }
        RequestKind::Acknowledge if answer.value != NO_VECTOR => {
            context.inject(Event::Interrupt(answer.value as u8));
        }
        RequestKind::Port | RequestKind::Acknowledge | RequestKind::End => {}
    }
}
