//! Events for the guest's next entry, and the windows in which it can take one (SDM 3, 26.6 and 26.7.5).

use super::control as field;
use super::instruction::{vmread, vmwrite};
use crate::prelude::*;

pub(super) fn inject(event: Event) {
    let value = match event {
        Event::Interrupt(vector) => field::EVENT_INTERRUPT | vector as u32,
        Event::Nmi => field::EVENT_NMI | 2,
        Event::Exception(vector, None) => field::EVENT_EXCEPTION | vector as u32,
        Event::Exception(vector, Some(error)) => {
            vmwrite(field::ENTRY_ERROR, error.into());
            // In real mode exceptions have no error codes, and an entry with one is refused.
            let flag = if vmread(field::GUEST_CR0) & 1 != 0 { field::EVENT_ERROR } else { 0 };
            field::EVENT_EXCEPTION | flag | vector as u32
        }
    };
    vmwrite(field::ENTRY_EVENT, (field::EVENT_VALID | value).into());
}

/// Sets the event again whose delivery an exit cut off; the current VMCS is the context's.
pub(super) fn reinject() {
    let event = vmread(field::VECTORING_EVENT) as u32;
    if event & field::EVENT_VALID != 0 {
        // Bit 12 is undefined there, and must be 0 here.
        vmwrite(field::ENTRY_EVENT, (event & !(1 << 12)).into());
        if event & field::EVENT_ERROR != 0 {
            vmwrite(field::ENTRY_ERROR, vmread(field::VECTORING_ERROR));
        }
        // Software events return behind their instruction.
        vmwrite(field::ENTRY_LENGTH, vmread(field::EXIT_LENGTH));
        if event & field::EVENT_TYPE == field::EVENT_NMI {
            let held = vmread(field::INTERRUPTIBILITY);
            vmwrite(field::INTERRUPTIBILITY, held & !u64::from(field::NMI_BLOCKED));
        }
    }
}

/// Sets or clears one of the window-exiting controls.
pub(super) fn window(control: u32, wanted: bool) {
    let old = vmread(field::PROCESSOR_CONTROLS) as u32;
    let new = if wanted { old | control } else { old & !control };
    if new != old {
        vmwrite(field::PROCESSOR_CONTROLS, new.into());
    }
}
