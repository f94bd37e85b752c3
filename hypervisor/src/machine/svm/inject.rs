//! Events for the guest's next entry, and the windows in which it can take one (APM 2, 15.20 and 15.21).

use super::context::SvmContext;
use super::control::{self as field};
use crate::prelude::*;

pub(super) fn inject(context: &mut SvmContext, event: Event) {
    let value = match event {
        // QEMU keeps the vector of an injected interrupt and may deliver it again, whatever RFLAGS.IF says, when a thread of
        // its own wants the processor. It is known by what it lacks; Bochs is a few instructions late with virtual interrupts.
        Event::Interrupt(own) if !context.has_next_rip => return set_virtual(context, Some(own), false),
        Event::Interrupt(vector) => field::EVENT_INTERRUPT | vector as u64,
        Event::Nmi => {
            // The IRET that ends the handler is how its end is seen.
            context.nmi_blocked = true;
            context.set(field::INTERCEPT_1, context.get(field::INTERCEPT_1) | field::first::IRET);
            field::EVENT_NMI | 2
        }
        Event::Exception(vector, None) => field::EVENT_EXCEPTION | vector as u64,
        Event::Exception(vector, Some(error)) => {
            field::EVENT_EXCEPTION | field::EVENT_ERROR | vector as u64 | (error as u64) << 32
        }
    };
    context.set(field::INJECT, field::EVENT_VALID | value);
}

/// Sets the event again whose delivery an exit cut off.
pub(super) fn reinject(context: &mut SvmContext) {
    let event: u64 = context.get(field::EXIT_INTERRUPT);
    context.set(field::INJECT, 0u64);
    if event & field::EVENT_VALID != 0 {
        cut_off(context, event);
    }
}

/// Software interrupts and INT3 or INTO are left to the instruction, which the guest executes anew.
#[cold]
fn cut_off(context: &mut SvmContext, event: u64) {
    let kind = event & field::EVENT_TYPE;
    let again =
        kind == field::EVENT_SOFTWARE || kind == field::EVENT_EXCEPTION && matches!(event as u8, 3 | 4);
    // An interrupt becomes virtual again where it was. QEMU leaves it pending when its delivery is cut off; a window is asked for again.
    let own = (kind == field::EVENT_INTERRUPT && !context.has_next_rip).then_some(event as u8);
    if !again && own.is_none() {
        context.set(field::INJECT, event);
    }
    set_virtual(context, own, false);
}

/// Makes a virtual interrupt of the highest priority pending, or none. With `window` the guest leaves instead of taking it.
fn set_virtual(context: &mut SvmContext, vector: Option<u8>, window: bool) {
    let pending = |v| field::V_IRQ | field::V_PRIORITY | field::V_IGNORE_TPR | (v as u64) << 32;
    let rest = context.get(field::VIRTUAL_INTERRUPT) & !pending(u8::MAX);
    context.set(field::VIRTUAL_INTERRUPT, rest | vector.map_or(0, pending));
    let first: u32 = context.get(field::INTERCEPT_1) & !field::first::VINTR;
    context.set(field::INTERCEPT_1, first | if window { field::first::VINTR } else { 0 });
}

/// Whether an event is set that the guest has not taken.
pub(super) fn is_set(context: &SvmContext) -> bool {
    let waits = context.get(field::VIRTUAL_INTERRUPT) & field::V_IRQ != 0
        && context.get(field::INTERCEPT_1) & field::first::VINTR == 0;
    waits || context.get(field::INJECT) & field::EVENT_VALID != 0
}

/// The intercept of a virtual interrupt's delivery is the window. Where interrupts are virtual, one that is still to be taken goes first, and the
/// window is asked for again at the next exit.
pub(super) fn interrupt_window(context: &mut SvmContext, wanted: bool) {
    if (context.get(field::INTERCEPT_1) & field::first::VINTR != 0) == wanted {
        return;
    }
    let old: u64 = context.get(field::VIRTUAL_INTERRUPT);
    if old & field::V_IRQ != 0 && wanted {
        return;
    }
    set_virtual(context, wanted.then_some(0), wanted);
}

/// The NMI handler's IRET: NMIs can come again. The intercept is taken away, so that the IRET executes.
pub(super) fn end_of_nmi(context: &mut SvmContext) {
    context.nmi_blocked = false;
    context.set(field::INTERCEPT_1, context.get(field::INTERCEPT_1) & !field::first::IRET);
}
