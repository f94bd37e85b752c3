//! `event_channel_op` (32): argument 1 is the [`Op`], argument 2 a pointer to its structure.
//!
//! A port is a one-bit mailbox. Its ends are two domains (*interdomain*), one domain twice (*IPI*), a virtual interrupt or a
//! physical one. Ports are numbered for each domain from 1; a new one belongs to vCPU 0 unless the call names another.

use crate::address::Gfn;
use crate::id::{DomainId, Pirq, Port, VcpuId, Virq};
use crate::layout::Fixed;

closed! {
    /// What to do (`event_channel.h`).
    pub enum Op: u32 {
        /// Joins a port that another domain left open: [`BindInterdomain`]. The new port is pending at once.
        #[doc(alias = "EVTCHNOP_bind_interdomain")]
        BindInterdomain = 0,
        /// A virtual interrupt: [`BindVirq`].
        #[doc(alias = "EVTCHNOP_bind_virq")]
        BindVirq = 1,
        /// A physical interrupt: [`BindPirq`].
        #[doc(alias = "EVTCHNOP_bind_pirq")]
        BindPirq = 2,
        /// Frees a port: [`PortArgument`]. The peer of an interdomain port is open again for this domain.
        #[doc(alias = "EVTCHNOP_close")]
        Close = 3,
        /// Notifies the other end: [`PortArgument`]. On an open port it does nothing and succeeds.
        #[doc(alias = "EVTCHNOP_send")]
        Send = 4,
        /// Describes a port: [`Status`].
        #[doc(alias = "EVTCHNOP_status")]
        Status = 5,
        /// Opens a port for another domain to join: [`AllocUnbound`].
        #[doc(alias = "EVTCHNOP_alloc_unbound")]
        AllocUnbound = 6,
        /// A port that a vCPU of the same domain receives: [`BindIpi`].
        #[doc(alias = "EVTCHNOP_bind_ipi")]
        BindIpi = 7,
        /// Moves a port to another vCPU: [`BindVcpu`].
        #[doc(alias = "EVTCHNOP_bind_vcpu")]
        BindVcpu = 8,
        /// Clears a port's mask and delivers what waited: [`PortArgument`].
        #[doc(alias = "EVTCHNOP_unmask")]
        Unmask = 9,
        /// Closes every port: [`Reset`].
        #[doc(alias = "EVTCHNOP_reset")]
        Reset = 10,
        /// Switches to the FIFO ABI: [`InitControl`].
        #[doc(alias = "EVTCHNOP_init_control")]
        InitControl = 11,
        /// Adds a page of FIFO event words: [`ExpandArray`].
        #[doc(alias = "EVTCHNOP_expand_array")]
        ExpandArray = 12,
        /// Priority of a port in the FIFO ABI: [`SetPriority`].
        #[doc(alias = "EVTCHNOP_set_priority")]
        SetPriority = 13,
    }
}

closed! {
    /// What a port is ([`Status::status`]).
    pub enum PortState: u32 {
        /// Free.
        #[doc(alias = "EVTCHNSTAT_closed")]
        Closed = 0,
        /// Open for one domain to join; [`Status::first`] is its id.
        #[doc(alias = "EVTCHNSTAT_unbound")]
        Unbound = 1,
        /// Joined; [`Status::first`] is the peer's id, [`Status::second`] its port.
        #[doc(alias = "EVTCHNSTAT_interdomain")]
        Interdomain = 2,
        /// A physical interrupt; [`Status::first`] is its number.
        #[doc(alias = "EVTCHNSTAT_pirq")]
        Pirq = 3,
        /// A virtual interrupt; [`Status::first`] is its number.
        #[doc(alias = "EVTCHNSTAT_virq")]
        Virq = 4,
        /// Between vCPUs of one domain.
        #[doc(alias = "EVTCHNSTAT_ipi")]
        Ipi = 5,
    }
}

crate::layout! {
    /// Joins a remote port.
    #[doc(alias = "evtchn_bind_interdomain")]
    pub struct BindInterdomain: 12, 12 {
        /// Who opened it.
        #[doc(alias = "remote_dom")]
        pub remote: DomainId = 0, 0;
        /// Its port there.
        pub remote_port: Port = 4, 4;
        /// Out: the port here.
        pub local_port: Port = 8, 8;
    }

    /// A port for a virtual interrupt.
    #[doc(alias = "evtchn_bind_virq")]
    pub struct BindVirq: 12, 12 {
        /// Which interrupt.
        pub virq: Virq = 0, 0;
        /// For which vCPU; 0 for interrupts of the domain or the host.
        pub vcpu: VcpuId = 4, 4;
        /// Out: the port.
        pub port: Port = 8, 8;
    }

    /// A port for a physical interrupt.
    #[doc(alias = "evtchn_bind_pirq")]
    pub struct BindPirq: 12, 12 {
        /// Which interrupt.
        pub pirq: Pirq = 0, 0;
        /// Bit 0: will share it.
        pub flags: u32 = 4, 4;
        /// Out: the port.
        pub port: Port = 8, 8;
    }

    /// A port alone: for close, send and unmask.
    #[doc(alias = "evtchn_close")]
    #[doc(alias = "evtchn_send")]
    #[doc(alias = "evtchn_unmask")]
    pub struct PortArgument: 4, 4 {
        /// The port.
        pub port: Port = 0, 0;
    }

    /// A question about a port, and the answer.
    #[doc(alias = "evtchn_status")]
    pub struct Status: 24, 24 {
        /// Whose port.
        #[doc(alias = "dom")]
        pub domain: DomainId = 0, 0;
        /// Which port.
        pub port: Port = 4, 4;
        /// Out: a [`PortState`].
        pub status: u32 = 8, 8;
        /// Out: the vCPU that receives it.
        pub vcpu: VcpuId = 12, 12;
        /// Out: a domain id (16 bits) or an interrupt number, by state.
        pub first: u32 = 16, 16;
        /// Out: the peer's port when joined.
        pub second: u32 = 20, 20;
    }

    /// A new port for another domain.
    #[doc(alias = "evtchn_alloc_unbound")]
    pub struct AllocUnbound: 8, 8 {
        /// Whose port: [`DomainId::SELF`] unless the caller is privileged.
        #[doc(alias = "dom")]
        pub domain: DomainId = 0, 0;
        /// Who may join.
        #[doc(alias = "remote_dom")]
        pub remote: DomainId = 2, 2;
        /// Out: the port.
        pub port: Port = 4, 4;
    }

    /// A port between vCPUs.
    #[doc(alias = "evtchn_bind_ipi")]
    pub struct BindIpi: 8, 8 {
        /// Who receives.
        pub vcpu: VcpuId = 0, 0;
        /// Out: the port.
        pub port: Port = 4, 4;
    }

    /// A new receiver for a port.
    #[doc(alias = "evtchn_bind_vcpu")]
    pub struct BindVcpu: 8, 8 {
        /// The port.
        pub port: Port = 0, 0;
        /// Who receives.
        pub vcpu: VcpuId = 4, 4;
    }

    /// Whose ports to close.
    #[doc(alias = "evtchn_reset")]
    pub struct Reset: 2, 2 {
        /// The domain.
        #[doc(alias = "dom")]
        pub domain: DomainId = 0, 0;
    }

    /// The FIFO control block of a vCPU.
    #[doc(alias = "evtchn_init_control")]
    pub struct InitControl: 24, 24 {
        /// Its page.
        #[doc(alias = "control_gfn")]
        pub gfn: Gfn as Fixed = 0, 0;
        /// Its offset in the page: a multiple of 8, at most 4024.
        pub offset: u32 = 8, 8;
        /// The vCPU.
        pub vcpu: VcpuId = 12, 12;
        /// Out: bits of a link.
        pub link_bits: u8 = 16, 16;
    }

    /// A page of event words.
    #[doc(alias = "evtchn_expand_array")]
    pub struct ExpandArray: 8, 8 {
        /// The page.
        #[doc(alias = "array_gfn")]
        pub gfn: Gfn as Fixed = 0, 0;
    }

    /// Priority of a port.
    #[doc(alias = "evtchn_set_priority")]
    pub struct SetPriority: 8, 8 {
        /// The port.
        pub port: Port = 0, 0;
        /// 0 (first) to 15 (last).
        pub priority: u32 = 4, 4;
    }
}
