//! Events for the guest's next entry, and the windows in which it can take one (APM 2, 15.20 and 15.21).

use super::context::SvmContext;
use super::control::{self as field};
use crate::prelude::*;

pub(super) fn inject(context: &mut SvmContext, event: Event) {
    let value = match event {
        Event::Interrupt(vector) => field::EVENT_INTERRUPT | vector as u64,
        Event::Nmi => {
            // The IRET that ends the handler is how its end is seen.
            context.nmi_blocked = true;
            let first: u32 = context.get(field::INTERCEPT_1);
            context.set(field::INTERCEPT_1, first | field::first::IRET);
            field::EVENT_NMI | 2
        }
        Event::Exception(vector, None) => field::EVENT_EXCEPTION | vector as u64,
        Event::Exception(vector, Some(error)) => {
            field::EVENT_EXCEPTION | field::EVENT_ERROR | vector as u64 | (error as u64) << 32
        }
    };
    context.set(field::INJECT, field::EVENT_VALID | value);
}

/// Sets the event again whose delivery an exit cut off. Software interrupts and INT3 or INTO are left to the instruction,
/// which the guest executes anew.
pub(super) fn reinject(context: &mut SvmContext) {
    let event: u64 = context.get(field::EXIT_INTERRUPT);
    if event & field::EVENT_VALID != 0 {
        let kind = event & field::EVENT_TYPE;
        let again =
            kind == field::EVENT_SOFTWARE || kind == field::EVENT_EXCEPTION && matches!(event as u8, 3 | 4);
        context.set(field::INJECT, if again { 0 } else { event });
    } else {
        context.set(field::INJECT, 0);
    }
}

/// A virtual interrupt of the highest priority is pending while a window is wanted: the intercept of its delivery is the
/// window, and it is never delivered.
pub(super) fn interrupt_window(context: &mut SvmContext, wanted: bool) {
    const PENDING: u64 = field::V_IRQ | field::V_PRIORITY | field::V_IGNORE_TPR;
    let old: u64 = context.get(field::VIRTUAL_INTERRUPT);
    if (old & field::V_IRQ != 0) == wanted {
        return;
    }
    let first: u32 = context.get(field::INTERCEPT_1);
    if wanted {
        context.set(field::VIRTUAL_INTERRUPT, old | PENDING);
        context.set(field::INTERCEPT_1, first | field::first::VINTR);
    } else {
        context.set(field::VIRTUAL_INTERRUPT, old & !PENDING);
        context.set(field::INTERCEPT_1, first & !field::first::VINTR);
    }
}

/// The NMI handler's IRET: NMIs can come again. The intercept is taken away, so that the IRET executes.
pub(super) fn end_of_nmi(context: &mut SvmContext) {
    context.nmi_blocked = false;
    let first: u32 = context.get(field::INTERCEPT_1);
    context.set(field::INTERCEPT_1, first & !field::first::IRET);
}
