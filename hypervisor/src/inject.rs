//! What can be injected now, and what an exit is wanted for.
//!
//! A pure function of what the processor can take ([`Interruptibility`]) and of what waits. The rules are those of SDM
//! 6.9 (priorities), 26.3.1.5 and 27.2 (what an entry accepts, window exits) and APM 8.5, 15.20 and 15.21.4:
//!
//! 1. An event that is already set for the entry goes first: nothing else is injected, windows are opened instead.
//! 2. An NMI goes before interrupts, unless an NMI handler runs or an instruction holds events off.
//! 3. An upcall goes before what the local APIC has, and is not held by its task priority.
//! 4. What the 8259 pair has comes last, past the task priority.
//! 5. An interrupt needs RFLAGS.IF and no shadow of STI or MOV SS.
//! 6. Whatever waits and was not injected gets a window, also when something else was injected.

use crate::prelude::*;

/// What waits for a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// An NMI.
    pub nmi: bool,
    /// The vector of the upcall, when an event waits and the domain has a callback vector.
    pub upcall: Option<u8>,
    /// The highest vector that the local APIC would deliver, above its processor priority.
    pub lapic: Option<u8>,
    /// The line of the 8259 pair is up, and the local APIC lets it through.
    pub line: bool,
}

/// Where the event that is injected came from; the source is then told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The NMI: it waits no longer.
    Nmi,
    /// The upcall: it goes on waiting until the guest clears its flag.
    Upcall(u8),
    /// The local APIC: the vector goes from requested to in service.
    Lapic(u8),
    /// The 8259 pair: the device model is asked for the vector.
    Line,
}

impl Source {
    /// As the context takes it; `None` while the vector is not known.
    pub const fn event(self) -> Option<Event> {
        match self {
            Self::Nmi => Some(Event::Nmi),
            Self::Upcall(vector) | Self::Lapic(vector) => Some(Event::Interrupt(vector)),
            Self::Line => None,
        }
    }
}

/// What to do before the next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// Inject this.
    pub inject: Option<Source>,
    /// Ask for an exit as soon as an interrupt can be taken.
    pub interrupt_window: bool,
    /// Ask for an exit as soon as an NMI can be taken.
    pub nmi_window: bool,
}

/// Decides.
pub const fn decide(now: Interruptibility, pending: Pending) -> Decision {
    let other = match (pending.upcall, pending.lapic) {
        (Some(vector), _) => Some(Source::Upcall(vector)),
        (None, Some(vector)) => Some(Source::Lapic(vector)),
        (None, None) if pending.line => Some(Source::Line),
        (None, None) => None,
    };
    let free = !now.event_set && !now.shadow;
    if pending.nmi && free && !now.nmi_blocked {
        return Decision { inject: Some(Source::Nmi), interrupt_window: other.is_some(), nmi_window: false };
    }
    let inject = if free && now.interrupts_enabled { other } else { None };
    Decision { inject, interrupt_window: other.is_some() && inject.is_none(), nmi_window: pending.nmi }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Interruptibility =
        Interruptibility { interrupts_enabled: true, shadow: false, nmi_blocked: false, event_set: false };
    const ALL: Pending = Pending { nmi: true, upcall: Some(0xf3), lapic: Some(0x31), line: true };

    #[test]
    fn order_of_priority() {
        let first = decide(READY, ALL);
        assert_eq!(first, Decision { inject: Some(Source::Nmi), interrupt_window: true, nmi_window: false });
        let second = decide(READY, Pending { nmi: false, ..ALL });
        assert_eq!(second, Decision { inject: Some(Source::Upcall(0xf3)), ..Decision::default() });
        let third = decide(READY, Pending { nmi: false, upcall: None, ..ALL });
        assert_eq!(third, Decision { inject: Some(Source::Lapic(0x31)), ..Decision::default() });
        let fourth = decide(READY, Pending { line: true, ..Pending::default() });
        assert_eq!(fourth, Decision { inject: Some(Source::Line), ..Decision::default() });
        assert_eq!(decide(READY, Pending::default()), Decision::default());
        assert_eq!(Source::Upcall(7).event(), Some(Event::Interrupt(7)));
        assert_eq!((Source::Nmi.event(), Source::Line.event()), (Some(Event::Nmi), None));
    }

    #[test]
    fn an_nmi_handler_still_takes_interrupts() {
        let in_nmi = Interruptibility { nmi_blocked: true, ..READY };
        let decision = decide(in_nmi, ALL);
        assert_eq!(
            decision,
            Decision { inject: Some(Source::Upcall(0xf3)), interrupt_window: false, nmi_window: true }
        );
    }

    /// Every state and every set of waiting events, against the rules as sentences.
    #[test]
    fn all_cases() {
        for bits in 0..256u32 {
            let bit = |n: u32| bits >> n & 1 != 0;
            let now = Interruptibility {
                interrupts_enabled: bit(0),
                shadow: bit(1),
                nmi_blocked: bit(2),
                event_set: bit(3),
            };
            let pending = Pending {
                nmi: bit(4),
                upcall: bit(5).then_some(0xf3),
                lapic: bit(6).then_some(0x40),
                line: bit(7),
            };
            let decision = decide(now, pending);
            if now.event_set || now.shadow {
                assert_eq!(decision.inject, None);
            }
            match decision.inject {
                Some(Source::Nmi) => assert!(pending.nmi && !now.nmi_blocked),
                Some(Source::Upcall(_)) => {
                    assert!(now.interrupts_enabled && (!pending.nmi || now.nmi_blocked));
                }
                Some(Source::Lapic(_)) => assert!(now.interrupts_enabled && pending.upcall.is_none()),
                Some(Source::Line) => {
                    assert!(now.interrupts_enabled && pending.upcall.is_none() && pending.lapic.is_none());
                }
                None => {}
            }
            // Nothing that waits is forgotten, and no window is opened for nothing. All but the NMI share one.
            assert_eq!(decision.nmi_window, pending.nmi && decision.inject != Some(Source::Nmi));
            let interrupt = pending.upcall.is_some() || pending.lapic.is_some() || pending.line;
            let taken = matches!(decision.inject, Some(Source::Upcall(_) | Source::Lapic(_) | Source::Line));
            assert_eq!(decision.interrupt_window, interrupt && !taken);
        }
    }
}
