//! The store's wire format: ring page, message header, message numbers and error names.
//!
//! A guest talks to the store through one shared page that holds two byte rings of [`RING_SIZE`] bytes. Indices run
//! freely modulo 2³², byte `i` of a ring is at `i % RING_SIZE`. A message is a [`Header`] of 16 bytes followed by
//! `len` bytes of payload, and may be spread over any number of ring turns. Requests and replies are processed in
//! order; [`Kind::WatchEvent`] messages come between replies at any time. Source: Xen `io/xs_wire.h` and
//! `docs/misc/xenstore-ring.txt`.
//!
//! **Writing, either side**: read the consumer index (acquire), copy bytes into the free part, then store the new
//! producer index (release) and send the event. **Reading**: read the producer index (acquire), check that it is
//! not more than [`RING_SIZE`] ahead, copy the bytes out, store the consumer index (release), send the event.

use crate::errno::Errno;

/// Bytes in each of the two rings (`XENSTORE_RING_SIZE`).
#[doc(alias = "XENSTORE_RING_SIZE")]
pub const RING_SIZE: usize = 1024;

/// Most bytes of payload in one message (`XENSTORE_PAYLOAD_MAX`); a longer one ends the connection.
#[doc(alias = "XENSTORE_PAYLOAD_MAX")]
pub const PAYLOAD_MAX: usize = 4096;

/// Longest absolute path in bytes (`XENSTORE_ABS_PATH_MAX`).
#[doc(alias = "XENSTORE_ABS_PATH_MAX")]
pub const ABSOLUTE_PATH_MAX: usize = 3072;

/// Longest relative path in bytes (`XENSTORE_REL_PATH_MAX`).
#[doc(alias = "XENSTORE_REL_PATH_MAX")]
pub const RELATIVE_PATH_MAX: usize = 2048;

/// Byte offsets in the ring page (`struct xenstore_domain_interface`). All words are little-endian `u32`.
#[doc(alias = "xenstore_domain_interface")]
pub mod page {
    /// Requests, guest to store: [`super::RING_SIZE`] bytes.
    pub const REQUESTS: usize = 0;
    /// Replies and watch events, store to guest: [`super::RING_SIZE`] bytes.
    pub const RESPONSES: usize = 1024;
    /// Request consumer index, written by the store.
    #[doc(alias = "req_cons")]
    pub const REQUEST_CONSUMER: usize = 2048;
    /// Request producer index, written by the guest.
    #[doc(alias = "req_prod")]
    pub const REQUEST_PRODUCER: usize = 2052;
    /// Response consumer index, written by the guest.
    #[doc(alias = "rsp_cons")]
    pub const RESPONSE_CONSUMER: usize = 2056;
    /// Response producer index, written by the store.
    #[doc(alias = "rsp_prod")]
    pub const RESPONSE_PRODUCER: usize = 2060;
    /// What the store supports: bits of [`super::feature`].
    pub const SERVER_FEATURES: usize = 2064;
    /// Connection state: one of [`super::connection`].
    pub const CONNECTION: usize = 2068;
    /// Why the store gave the connection up: one of [`super::RingError`].
    pub const ERROR: usize = 2072;
    /// The store's event channel port of this connection, for a store that is replaced at run time.
    pub const EVENT_PORT: usize = 2076;
}

/// Bits of the page's server feature word.
pub mod feature {
    /// The store honours [`super::connection::RECONNECT`].
    #[doc(alias = "XENSTORE_SERVER_FEATURE_RECONNECTION")]
    pub const RECONNECTION: u32 = 1;
    /// The store says in the error word why it stopped serving a ring.
    #[doc(alias = "XENSTORE_SERVER_FEATURE_ERROR")]
    pub const ERROR: u32 = 2;
    /// WATCH takes a third argument that limits its depth.
    #[doc(alias = "XENSTORE_SERVER_FEATURE_WATCHDEPTH")]
    pub const WATCH_DEPTH: u32 = 4;
}

/// Values of the page's connection word.
pub mod connection {
    /// The ring is in use.
    #[doc(alias = "XENSTORE_CONNECTED")]
    pub const CONNECTED: u32 = 0;
    /// The guest asks for a fresh ring; the store resets the indices and answers with [`CONNECTED`].
    #[doc(alias = "XENSTORE_RECONNECT")]
    pub const RECONNECT: u32 = 1;
}

/// Values of the page's error word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RingError {
    /// No error.
    #[doc(alias = "XENSTORE_ERROR_NONE")]
    None = 0,
    /// Communication problem.
    #[doc(alias = "XENSTORE_ERROR_COMM")]
    Communication = 1,
    /// A ring index is impossible.
    #[doc(alias = "XENSTORE_ERROR_RINGIDX")]
    RingIndex = 2,
    /// A message broke the protocol, for example by its length.
    #[doc(alias = "XENSTORE_ERROR_PROTO")]
    Protocol = 3,
}

/// Message numbers (`enum xsd_sockmsg_type`). Number 20 is not in use.
#[doc(alias = "xsd_sockmsg_type")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// Commands to the daemon itself, for privileged connections.
    Control = 0,
    /// Names of a node's children.
    Directory = 1,
    /// A node's value.
    Read = 2,
    /// A node's permissions.
    GetPerms = 3,
    /// Registers a watch.
    Watch = 4,
    /// Removes a watch.
    Unwatch = 5,
    /// Opens a transaction.
    TransactionStart = 6,
    /// Commits or drops a transaction.
    TransactionEnd = 7,
    /// Connects a domain's ring (toolstack).
    Introduce = 8,
    /// Disconnects a domain's ring (toolstack).
    Release = 9,
    /// The path under which a domain's relative paths lie.
    GetDomainPath = 10,
    /// Sets a value, creating the node and its parents.
    Write = 11,
    /// Creates an empty node and its parents.
    Mkdir = 12,
    /// Removes a node and everything below it.
    Rm = 13,
    /// Sets a node's permissions.
    SetPerms = 14,
    /// Sent by the store: something under a watch changed.
    WatchEvent = 15,
    /// Sent by the store: the request failed, the payload is an error name.
    Error = 16,
    /// Whether a domain has a connection.
    IsDomainIntroduced = 17,
    /// Lets a domain that was shut down be reported once more (toolstack).
    Resume = 18,
    /// Gives one domain the rights of another (toolstack).
    SetTarget = 19,
    /// Drops the caller's watches and transactions.
    ResetWatches = 21,
    /// Part of the names of a node's children.
    DirectoryPart = 22,
    /// A domain's server features.
    GetFeature = 23,
    /// Restricts a domain's server features.
    SetFeature = 24,
    /// A quota value.
    GetQuota = 25,
    /// Changes a quota value.
    SetQuota = 26,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Control,
            1 => Self::Directory,
            2 => Self::Read,
            3 => Self::GetPerms,
            4 => Self::Watch,
            5 => Self::Unwatch,
            6 => Self::TransactionStart,
            7 => Self::TransactionEnd,
            8 => Self::Introduce,
            9 => Self::Release,
            10 => Self::GetDomainPath,
            11 => Self::Write,
            12 => Self::Mkdir,
            13 => Self::Rm,
            14 => Self::SetPerms,
            15 => Self::WatchEvent,
            16 => Self::Error,
            17 => Self::IsDomainIntroduced,
            18 => Self::Resume,
            19 => Self::SetTarget,
            21 => Self::ResetWatches,
            22 => Self::DirectoryPart,
            23 => Self::GetFeature,
            24 => Self::SetFeature,
            25 => Self::GetQuota,
            26 => Self::SetQuota,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// The 16 bytes in front of each message (`struct xsd_sockmsg`), as plain values.
#[doc(alias = "xsd_sockmsg")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Message number; see [`Kind`]. Not checked, since it comes from the peer.
    #[doc(alias = "type")]
    pub kind: u32,
    /// Chosen by the requester, echoed in the reply; 0 in watch events.
    pub req_id: u32,
    /// Transaction the request belongs to, 0 for none; echoed in the reply.
    pub tx_id: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl Header {
    /// Size on the wire in bytes.
    pub const SIZE: usize = 16;

    /// The header as it goes over the wire.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let words = [self.kind, self.req_id, self.tx_id, self.len];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a header as it came over the wire; nothing in it is checked.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let mut words = [0u32; 4];
        for (word, place) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = place.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        }
        let [kind, req_id, tx_id, len] = words;
        Self { kind, req_id, tx_id, len }
    }
}

/// The errors that clients know by name (`xsd_errors` in the Xen header); any other name reads as [`Errno::Inval`].
#[doc(alias = "xsd_errors")]
const ERRORS: [Errno; 16] = [
    Errno::Inval,
    Errno::Acces,
    Errno::Exist,
    Errno::IsDir,
    Errno::NoEnt,
    Errno::NoMem,
    Errno::NoSpc,
    Errno::Io,
    Errno::NotEmpty,
    Errno::NoSys,
    Errno::RoFs,
    Errno::Busy,
    Errno::Again,
    Errno::IsConn,
    Errno::TooBig,
    Errno::Perm,
];

/// The wire name of an error, without the terminating NUL; an error that has none is sent as `EINVAL`.
pub fn error_name(error: Errno) -> &'static str {
    if ERRORS.contains(&error) { error.name() } else { Errno::Inval.name() }
}

/// The error that a payload of [`Kind::Error`] names; a terminating NUL is allowed.
pub fn error_from_name(payload: &[u8]) -> Errno {
    let name = payload.split(|&byte| byte == 0).next().unwrap_or(payload);
    ERRORS.into_iter().find(|error| error.name().as_bytes() == name).unwrap_or(Errno::Inval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_sixteen_little_endian_bytes() {
        let header = Header { kind: 11, req_id: 0x01020304, tx_id: 5, len: 4096 };
        let bytes = header.to_bytes();
        assert_eq!(bytes, [11, 0, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0, 0, 16, 0, 0]);
        assert_eq!(Header::from_bytes(&bytes), header);
    }

    #[test]
    fn numbers_and_kinds_agree() {
        for number in 0..64 {
            match Kind::from_number(number) {
                Some(kind) => assert_eq!(kind.number(), number),
                None => assert!(number == 20 || number > 26),
            }
        }
    }

    #[test]
    fn page_layout_is_that_of_the_header() {
        assert_eq!(page::RESPONSES, page::REQUESTS + RING_SIZE);
        assert_eq!(page::REQUEST_CONSUMER, 2 * RING_SIZE);
        let words = [
            page::REQUEST_CONSUMER,
            page::REQUEST_PRODUCER,
            page::RESPONSE_CONSUMER,
            page::RESPONSE_PRODUCER,
            page::SERVER_FEATURES,
            page::CONNECTION,
            page::ERROR,
            page::EVENT_PORT,
        ];
        assert!(words.windows(2).all(|pair| pair[1] == pair[0] + 4));
        assert_eq!(page::EVENT_PORT, 2076);
    }

    #[test]
    fn error_names_go_both_ways() {
        for error in ERRORS {
            assert_eq!(error_name(error), error.name());
            assert_eq!(error_from_name(error.name().as_bytes()), error);
        }
        assert_eq!(error_name(Errno::Srch), "EINVAL");
        assert_eq!(error_from_name(b"ENOENT\0"), Errno::NoEnt);
        assert_eq!(error_from_name(b"EWHAT\0"), Errno::Inval);
        assert_eq!(error_from_name(b""), Errno::Inval);
    }
}
