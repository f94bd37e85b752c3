//! Small numbers that name things: domains, vCPUs, ports, grants, interrupts.
//!
//! Each is a claim until somebody looks it up.

use core::fmt;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident($int:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A domain, or one of the reserved values above [`DomainId::FIRST_RESERVED`].
    #[doc(alias = "domid_t")]
    DomainId(u16)
}
id! {
    /// A virtual CPU of one domain, from 0.
    #[doc(alias = "vcpu_id")]
    VcpuId(u32)
}
id! {
    /// An event channel of one domain. Port 0 is never valid.
    #[doc(alias = "evtchn_port_t")]
    Port(u32)
}
id! {
    /// An index into one domain's grant table.
    #[doc(alias = "grant_ref_t")]
    GrantRef(u32)
}
id! {
    /// A physical interrupt that a privileged domain may bind to a port.
    #[doc(alias = "pirq")]
    Pirq(u32)
}
id! {
    /// A virtual interrupt; see the constants.
    #[doc(alias = "virq")]
    Virq(u32)
}

impl DomainId {
    /// The privileged domain.
    pub const DOM0: Self = Self(0);
    /// First number that no guest can have (`xen.h`).
    #[doc(alias = "DOMID_FIRST_RESERVED")]
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The caller itself.
    #[doc(alias = "DOMID_SELF")]
    pub const SELF: Self = Self(0x7ff0);
    /// Owner of device memory.
    #[doc(alias = "DOMID_IO")]
    pub const IO: Self = Self(0x7ff1);
    /// Owner of pages the hypervisor shares.
    #[doc(alias = "DOMID_XEN")]
    pub const XEN: Self = Self(0x7ff2);
    /// Owner of copy-on-write pages.
    #[doc(alias = "DOMID_COW")]
    pub const COW: Self = Self(0x7ff3);
    /// Never a domain.
    #[doc(alias = "DOMID_INVALID")]
    pub const INVALID: Self = Self(0x7ff4);
    /// Any domain, in calls that filter.
    #[doc(alias = "DOMID_ANY")]
    pub const ANY: Self = Self(0x7ff5);
    /// The idle domain.
    #[doc(alias = "DOMID_IDLE")]
    pub const IDLE: Self = Self(0x7fff);

    /// True for a number that a guest can have (0 to 0x7fef).
    pub const fn is_guest(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

impl Port {
    /// True for 0, which never names a channel.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl GrantRef {
    /// References below this are filled in by the toolstack (`grant_table.h`).
    #[doc(alias = "GNTTAB_NR_RESERVED_ENTRIES")]
    pub const RESERVED: u32 = 8;
    /// The console ring page, granted before the guest starts.
    #[doc(alias = "GNTTAB_RESERVED_CONSOLE")]
    pub const CONSOLE: Self = Self(0);
    /// The xenstore ring page, granted before the guest starts.
    #[doc(alias = "GNTTAB_RESERVED_XENSTORE")]
    pub const STORE: Self = Self(1);
}

/// How far a virtual interrupt reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VirqScope {
    /// Each vCPU binds its own.
    Vcpu,
    /// One for the domain, bound on vCPU 0.
    Domain,
    /// One for the host, bound by one privileged domain on vCPU 0.
    Global,
}

impl Virq {
    /// Timer of the calling vCPU.
    #[doc(alias = "VIRQ_TIMER")]
    pub const TIMER: Self = Self(0);
    /// Request to print debugging state.
    #[doc(alias = "VIRQ_DEBUG")]
    pub const DEBUG: Self = Self(1);
    /// Input for the hypervisor's console.
    #[doc(alias = "VIRQ_CONSOLE")]
    pub const CONSOLE: Self = Self(2);
    /// A domain died, shut down or crashed.
    #[doc(alias = "VIRQ_DOM_EXC")]
    pub const DOM_EXC: Self = Self(3);
    /// Trace buffer filled.
    #[doc(alias = "VIRQ_TBUF")]
    pub const TBUF: Self = Self(4);
    /// A domain paused for its debugger.
    #[doc(alias = "VIRQ_DEBUGGER")]
    pub const DEBUGGER: Self = Self(6);
    /// Profiling sample.
    #[doc(alias = "VIRQ_XENOPROF")]
    pub const XENOPROF: Self = Self(7);
    /// New text in the hypervisor's log.
    #[doc(alias = "VIRQ_CON_RING")]
    pub const CON_RING: Self = Self(8);
    /// A physical CPU changed state.
    #[doc(alias = "VIRQ_PCPU_STATE")]
    pub const PCPU_STATE: Self = Self(9);
    /// Memory event.
    #[doc(alias = "VIRQ_MEM_EVENT")]
    pub const MEM_EVENT: Self = Self(10);
    /// Argo message.
    #[doc(alias = "VIRQ_ARGO")]
    pub const ARGO: Self = Self(11);
    /// The host is low on memory.
    #[doc(alias = "VIRQ_ENOMEM")]
    pub const ENOMEM: Self = Self(12);
    /// Performance counter overflow.
    #[doc(alias = "VIRQ_XENPMU")]
    pub const XENPMU: Self = Self(13);
    /// First of the eight architecture-specific numbers.
    #[doc(alias = "VIRQ_ARCH_0")]
    pub const ARCH_0: Self = Self(16);
    /// Numbers from here on do not exist.
    #[doc(alias = "NR_VIRQS")]
    pub const COUNT: u32 = 24;

    /// How far this interrupt reaches; `None` for a number that is not in use.
    pub const fn scope(self) -> Option<VirqScope> {
        match self {
            Self::TIMER | Self::DEBUG | Self::XENOPROF | Self::XENPMU => Some(VirqScope::Vcpu),
            Self::ARGO => Some(VirqScope::Domain),
            Self::CONSOLE
            | Self::DOM_EXC
            | Self::TBUF
            | Self::DEBUGGER
            | Self::CON_RING
            | Self::PCPU_STATE
            | Self::MEM_EVENT
            | Self::ENOMEM
            | Self(16..=23) => Some(VirqScope::Global),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_domains_are_not_guests() {
        assert!(DomainId(0x7fef).is_guest());
        for reserved in [DomainId::SELF, DomainId::IO, DomainId::XEN, DomainId::INVALID, DomainId::IDLE] {
            assert!(!reserved.is_guest());
        }
    }

    #[test]
    fn virq_scopes() {
        assert_eq!(Virq::TIMER.scope(), Some(VirqScope::Vcpu));
        assert_eq!(Virq::DOM_EXC.scope(), Some(VirqScope::Global));
        assert_eq!(Virq(5).scope(), None);
        assert_eq!(Virq(24).scope(), None);
    }
}
