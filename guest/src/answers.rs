//! Answers of device models. Most often a kernel rests after one: the call then says both, which saves the processor a way into the
//! hypervisor and back.

use spin::Mutex;
use trunnion_protocol::control::{ModelAnswer, Operation};
use trunnion_protocol::errno::Errno;

use crate::hypercall;

/// The answer that was not told yet.
static LAST: Mutex<Option<ModelAnswer>> = Mutex::new(None);

/// Tells the hypervisor of an answer, at the latest when the kernel has nothing else to do.
pub fn answer(call: ModelAnswer) {
    let earlier = LAST.lock().replace(call);
    if let Some(earlier) = earlier {
        tell(earlier);
    }
}

/// Tells of the last answer now.
pub fn flush() {
    let last = LAST.lock().take();
    if let Some(last) = last {
        tell(last);
    }
}

/// Tells of the last answer and waits for an event. False when there was none to tell.
#[cfg(target_os = "none")]
pub(crate) fn rest() -> bool {
    let last = LAST.lock().take();
    last.map(|last| tell(ModelAnswer { rest: 1, ..last })).is_some()
}

fn tell(mut call: ModelAnswer) {
    // A vCPU that was stopped meanwhile (INIT), or its domain, wants no answer any more.
    if let Err(error) = hypercall::control(Operation::ModelAnswer, &mut call)
        && error != Errno::Srch
    {
        log::error!("an answer is refused: {error} domain={} vcpu={}", call.domain, call.vcpu);
    }
}
