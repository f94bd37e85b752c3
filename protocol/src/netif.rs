//! Network ports: what goes through the rings and into the store (`io/netif.h`).
//!
//! # Connecting
//!
//! The back end offers features and waits in state 2. The front end makes two rings a queue (*tx*: packets it sends;
//! *rx*: empty buffers for packets to come), grants their pages, opens one port or one for each ring, writes the keys of
//! [`keys`] and goes to state 4 at once. [`back_step`] is the back end's rule.
//!
//! Feature keys in the front end's directory say what the *guest can receive*; those in the back end's directory say what
//! the guest *may send*.
//!
//! # A packet from the guest (tx)
//!
//! One request a fragment. The first holds the length of the whole packet, the others their own; `more` says that another
//! follows. With `extra` the slots after the first hold [`ExtraInfo`] instead. Each slot gets one response.
//!
//! # A packet to the guest (rx)
//!
//! The response to a request is written to *the same slot*, fragments in a row, each with its own length. Extra information
//! takes a slot after the first, and with it the buffer that was offered there.

mod slot;

pub use slot::{RxSlot, TxSlot};

use crate::id::GrantRef;
use crate::ring::Interface;
use crate::xenbus::{BackStep, State};

/// Slots of one packet that every back end takes (`XEN_NETIF_NR_SLOTS_MIN`).
#[doc(alias = "XEN_NETIF_NR_SLOTS_MIN")]
pub const SLOTS_MIN: usize = 18;
/// Bytes of a packet at most: lengths have 16 bits.
#[doc(alias = "XEN_NETIF_MAX_TX_SIZE")]
pub const MAX_PACKET: usize = 0xffff;

crate::layout! {
    /// A fragment that the guest sends.
    #[doc(alias = "netif_tx_request")]
    pub struct TxRequest: 12, 12 {
        /// Its page.
        #[doc(alias = "gref")]
        pub reference: GrantRef = 0, 0;
        /// First byte in the page.
        pub offset: u16 = 4, 4;
        /// Bits of [`tx`].
        pub flags: u16 = 6, 6;
        /// Echoed in the response.
        pub id: u16 = 8, 8;
        /// Bytes; of the whole packet in the first request of one.
        pub size: u16 = 10, 10;
    }

    /// The answer to a fragment.
    #[doc(alias = "netif_tx_response")]
    pub struct TxResponse: 4, 4 {
        /// The request's.
        pub id: u16 = 0, 0;
        /// A [`Status`].
        pub status: i16 = 2, 2;
    }

    /// An empty buffer: a whole page.
    #[doc(alias = "netif_rx_request")]
    pub struct RxRequest: 8, 8 {
        /// Echoed in the response.
        pub id: u16 = 0, 0;
        /// The page.
        #[doc(alias = "gref")]
        pub reference: GrantRef = 4, 4;
    }

    /// A fragment for the guest.
    #[doc(alias = "netif_rx_response")]
    pub struct RxResponse: 8, 8 {
        /// The request's.
        pub id: u16 = 0, 0;
        /// First byte in the page.
        pub offset: u16 = 2, 2;
        /// Bits of [`rx`].
        pub flags: u16 = 4, 4;
        /// Bytes, or a negative [`Status`].
        pub status: i16 = 6, 6;
    }

    /// A slot of extra information. What the payload means depends on the kind.
    #[doc(alias = "netif_extra_info")]
    pub struct ExtraInfo: 8, 8 {
        /// An [`ExtraKind`].
        #[doc(alias = "type")]
        pub kind: u8 = 0, 0;
        /// [`EXTRA_MORE`] or 0.
        pub flags: u8 = 1, 1;
        /// The payload; see the functions.
        pub payload: [u8; 6] = 2, 2;
    }

    /// A request on the control ring, which Linux guests do not use.
    #[doc(alias = "xen_netif_ctrl_request")]
    pub struct ControlRequest: 16, 16 {
        /// Echoed in the response.
        pub id: u16 = 0, 0;
        /// What to do.
        #[doc(alias = "type")]
        pub kind: u16 = 2, 2;
        /// Arguments.
        pub data: [u32; 3] = 4, 4;
    }

    /// The answer on the control ring.
    #[doc(alias = "xen_netif_ctrl_response")]
    pub struct ControlResponse: 12, 12 {
        /// The request's.
        pub id: u16 = 0, 0;
        /// The request's.
        #[doc(alias = "type")]
        pub kind: u16 = 2, 2;
        /// 0, or why not.
        pub status: u32 = 4, 4;
        /// Result.
        pub data: u32 = 8, 8;
    }
}

/// Bits of [`TxRequest::flags`]. Beware: the first two are the other way round in [`rx`].
pub mod tx {
    /// The transport checksum holds only the pseudo header's sum.
    #[doc(alias = "NETTXF_csum_blank")]
    pub const CHECKSUM_BLANK: u16 = 1;
    /// The data is known to be good.
    #[doc(alias = "NETTXF_data_validated")]
    pub const DATA_VALIDATED: u16 = 2;
    /// Another fragment follows.
    #[doc(alias = "NETTXF_more_data")]
    pub const MORE: u16 = 4;
    /// Extra information follows.
    #[doc(alias = "NETTXF_extra_info")]
    pub const EXTRA: u16 = 8;
}

/// Bits of [`RxResponse::flags`]. Beware: the first two are the other way round in [`tx`].
pub mod rx {
    /// The data is known to be good.
    #[doc(alias = "NETRXF_data_validated")]
    pub const DATA_VALIDATED: u16 = 1;
    /// The transport checksum holds only the pseudo header's sum.
    #[doc(alias = "NETRXF_csum_blank")]
    pub const CHECKSUM_BLANK: u16 = 2;
    /// Another fragment follows.
    #[doc(alias = "NETRXF_more_data")]
    pub const MORE: u16 = 4;
    /// Extra information follows.
    #[doc(alias = "NETRXF_extra_info")]
    pub const EXTRA: u16 = 8;
}

closed! {
    /// What became of a fragment.
    pub enum Status: i16 {
        /// Sent.
        #[doc(alias = "NETIF_RSP_OKAY")]
        Okay = 0,
        /// Malformed, or not reachable.
        #[doc(alias = "NETIF_RSP_ERROR")]
        Error = -1,
        /// Thrown away.
        #[doc(alias = "NETIF_RSP_DROPPED")]
        Dropped = -2,
        /// The slot held extra information.
        #[doc(alias = "NETIF_RSP_NULL")]
        Null = 1,
    }
}

closed! {
    /// Kinds of extra information.
    pub enum ExtraKind: u8 {
        /// The packet is to be cut into segments.
        #[doc(alias = "XEN_NETIF_EXTRA_TYPE_GSO")]
        Gso = 1,
        /// A group to be received.
        #[doc(alias = "XEN_NETIF_EXTRA_TYPE_MCAST_ADD")]
        MulticastAdd = 2,
        /// A group no longer to be received.
        #[doc(alias = "XEN_NETIF_EXTRA_TYPE_MCAST_DEL")]
        MulticastDelete = 3,
        /// A hash of the packet.
        #[doc(alias = "XEN_NETIF_EXTRA_TYPE_HASH")]
        Hash = 4,
        /// Room in front of the packet (Linux).
        #[doc(alias = "XEN_NETIF_EXTRA_TYPE_XDP")]
        Xdp = 5,
    }
}

/// [`ExtraInfo::flags`]: another slot of extra information follows.
#[doc(alias = "XEN_NETIF_EXTRA_FLAG_MORE")]
pub const EXTRA_MORE: u8 = 1;

closed! {
    /// What a large packet is.
    pub enum GsoKind: u8 {
        /// TCP over IPv4.
        #[doc(alias = "XEN_NETIF_GSO_TYPE_TCPV4")]
        TcpV4 = 1,
        /// TCP over IPv6.
        #[doc(alias = "XEN_NETIF_GSO_TYPE_TCPV6")]
        TcpV6 = 2,
    }
}

/// A packet that is larger than the wire takes: it becomes several, each with so much payload at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    /// What it is.
    pub kind: GsoKind,
    /// Bytes of payload in each.
    pub size: u16,
}

impl ExtraInfo {
    /// As [`ExtraKind::Gso`].
    pub const fn gso(gso: Gso) -> Self {
        let [low, high] = gso.size.to_le_bytes();
        Self { kind: ExtraKind::Gso.number(), flags: 0, payload: [low, high, gso.kind.number(), 0, 0, 0] }
    }

    /// As [`ExtraKind::MulticastAdd`] or [`ExtraKind::MulticastDelete`].
    pub const fn multicast(kind: ExtraKind, group: [u8; 6]) -> Self {
        Self { kind: kind.number(), flags: 0, payload: group }
    }

    /// The payload as a large packet's; `None` for a kind that does not exist and for a size of 0.
    pub const fn as_gso(&self) -> Option<Gso> {
        let [low, high, kind, ..] = self.payload;
        match (GsoKind::from_number(kind), u16::from_le_bytes([low, high])) {
            (None, _) | (_, 0) => None,
            (Some(kind), size) => Some(Gso { kind, size }),
        }
    }
}

/// The interface of a ring on which the guest sends.
#[derive(Debug)]
pub enum Tx {}

impl Interface for Tx {
    type Request = TxSlot;
    type Response = TxResponse;
}

/// The interface of a ring on which the guest receives.
#[derive(Debug)]
pub enum Rx {}

impl Interface for Rx {
    type Request = RxRequest;
    type Response = RxSlot;
    const IN_ORDER: bool = true;
}

/// The interface of the control ring.
#[derive(Debug)]
pub enum Control {}

impl Interface for Control {
    type Request = ControlRequest;
    type Response = ControlResponse;
}

/// The rule of a network back end: its own state, and the state it sees. It connects at state 4 only.
pub const fn back_step(own: State, front: State) -> BackStep {
    match (front, own) {
        (State::Initialising, State::Connected | State::Closing | State::Closed) => BackStep::Offer,
        (State::Connected, State::InitWait | State::Initialising) => BackStep::Connect,
        (State::Closing, State::InitWait | State::Initialised | State::Connected) => BackStep::Close,
        (State::Closed, State::InitWait | State::Initialised | State::Connected | State::Closing) => {
            BackStep::Release
        }
        (State::Unknown, _) => BackStep::Remove,
        _ => BackStep::Stay,
    }
}

/// Names of the keys in the store. *Front* and *back* say in whose directory; per queue means below `queue-N` when
/// there is more than one.
pub mod keys {
    /// Back: it copies into the guest's buffers. Front ends of today need it.
    pub const FEATURE_RX_COPY: &str = "feature-rx-copy";
    /// Back: it gives pages away. Nobody does.
    pub const FEATURE_RX_FLIP: &str = "feature-rx-flip";
    /// Both: packets of several fragments.
    pub const FEATURE_SG: &str = "feature-sg";
    /// Both: large TCP packets over IPv4.
    pub const FEATURE_GSO_TCPV4: &str = "feature-gso-tcpv4";
    /// Both: large TCP packets over IPv6.
    pub const FEATURE_GSO_TCPV6: &str = "feature-gso-tcpv6";
    /// Both: no blank checksums over IPv4, please.
    pub const FEATURE_NO_CSUM_OFFLOAD: &str = "feature-no-csum-offload";
    /// Both: blank checksums over IPv6.
    pub const FEATURE_IPV6_CSUM_OFFLOAD: &str = "feature-ipv6-csum-offload";
    /// Back: it filters groups.
    pub const FEATURE_MULTICAST_CONTROL: &str = "feature-multicast-control";
    /// Back: it may be asked to filter while connected.
    pub const FEATURE_DYNAMIC_MULTICAST_CONTROL: &str = "feature-dynamic-multicast-control";
    /// Front: filter groups.
    pub const REQUEST_MULTICAST_CONTROL: &str = "request-multicast-control";
    /// Back: a port for each ring.
    pub const FEATURE_SPLIT_EVENT_CHANNELS: &str = "feature-split-event-channels";
    /// Back: there is a control ring.
    pub const FEATURE_CTRL_RING: &str = "feature-ctrl-ring";
    /// Back: most queues.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Front: queues, when more than one was offered.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
    /// Front, per queue: the grant of the ring on which it sends.
    pub const TX_RING_REF: &str = "tx-ring-ref";
    /// Front, per queue: the grant of the ring on which it receives.
    pub const RX_RING_REF: &str = "rx-ring-ref";
    /// Front, per queue: the port of both rings.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front, per queue: the port of the first ring.
    pub const EVENT_CHANNEL_TX: &str = "event-channel-tx";
    /// Front, per queue: the port of the second ring.
    pub const EVENT_CHANNEL_RX: &str = "event-channel-rx";
    /// Front: copy into my buffers.
    pub const REQUEST_RX_COPY: &str = "request-rx-copy";
    /// Front: it tells when it has offered buffers.
    pub const FEATURE_RX_NOTIFY: &str = "feature-rx-notify";
    /// Both, by the toolstack: the address.
    pub const MAC: &str = "mac";
    /// Back: 1 while frames can pass.
    pub const CARRIER: &str = "carrier";
    /// Back, by the toolstack: 0 when the device is to go away.
    pub const ONLINE: &str = "online";
    /// Both: the state.
    pub const STATE: &str = "state";
}

/// The directory of a queue below the front end's, when there is more than one: `queue-` and this number.
pub const QUEUE: &str = "queue-";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Layout, Width};

    #[test]
    fn rings_of_one_page() {
        for width in [Width::W64, Width::W32] {
            assert_eq!((Tx::slots(width, 1), Rx::slots(width, 1), Control::slots(width, 1)), (256, 256, 128));
            assert_eq!((Tx::stride(width), Rx::stride(width), Control::stride(width)), (12, 8, 16));
        }
    }

    #[test]
    fn extra_information() {
        let gso = Gso { kind: GsoKind::TcpV6, size: 1448 };
        let extra = ExtraInfo::gso(gso);
        let mut bytes = [0; 8];
        extra.encode(Width::W64, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 0, 0xa8, 0x05, 2, 0, 0, 0]);
        assert_eq!(extra.as_gso(), Some(gso));
        assert_eq!(ExtraInfo { payload: [0; 6], ..extra }.as_gso(), None);
        assert_eq!(ExtraInfo { payload: [1, 0, 3, 0, 0, 0], ..extra }.as_gso(), None);
    }

    #[test]
    fn up_down_and_up_again() {
        assert_eq!(back_step(State::InitWait, State::Initialising), BackStep::Stay);
        assert_eq!(back_step(State::InitWait, State::Initialised), BackStep::Stay);
        assert_eq!(back_step(State::InitWait, State::Connected), BackStep::Connect);
        assert_eq!(back_step(State::Connected, State::Initialising), BackStep::Offer);
        assert_eq!(back_step(State::Connected, State::Closing), BackStep::Close);
        assert_eq!(back_step(State::Closing, State::Closed), BackStep::Release);
        assert_eq!(back_step(State::InitWait, State::Closed), BackStep::Release);
        assert_eq!(back_step(State::Closed, State::Closed), BackStep::Stay);
        assert_eq!(back_step(State::Closed, State::Initialising), BackStep::Offer);
        assert_eq!(back_step(State::Closed, State::Unknown), BackStep::Remove);
    }
}
