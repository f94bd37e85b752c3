//! What dom0 tells by itself.

use super::summary::Outcome;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Something happened. Times are nanoseconds since power-on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// dom0's devices and services are up.
    Ready {
        /// When the hypervisor was ready to start dom0.
        hypervisor_ready_ns: u64,
        /// When dom0 was ready to build domains.
        dom0_ready_ns: u64,
    },
    /// A domain was built; it is still paused.
    DomainCreated {
        /// Number.
        domid: u16,
        /// Name.
        name: String,
        /// When building began.
        create_begin_ns: u64,
    },
    /// A domain began to run.
    DomainUnpaused {
        /// Number.
        domid: u16,
        /// Name.
        name: String,
        /// When.
        unpaused_ns: u64,
    },
    /// A domain ended. Its console has been read to the last byte, and all of it has been sent to channels that hold.
    DomainEnded {
        /// Number.
        domid: u16,
        /// Name.
        name: String,
        /// How.
        outcome: Outcome,
        /// More about it, for people; empty when there is nothing to say.
        detail: String,
        /// When.
        ended_ns: u64,
        /// It is being started again, as a new domain.
        restarting: bool,
    },
    /// A domain of the manifest could not be started.
    CreateFailed {
        /// Its name, or its file when the name is not known.
        name: String,
        /// Why.
        failure: super::Failure,
    },
    /// Every domain of the manifest has ended and none is being restarted.
    AllEnded,
    /// A line of dom0's log.
    Log {
        /// When.
        at_ns: u64,
        /// As in the `log` crate: 1 error, 2 warning, 3 information, 4 debug, 5 trace.
        level: u8,
        /// Which part of dom0.
        subsystem: String,
        /// Message and `key=value` pairs.
        message: String,
    },
    /// dom0 needs a piece of a file that a create request left with the tool; answered by [`super::Down::Data`], in order.
    Want {
        /// Number of this wish.
        ticket: u32,
        /// Number of the file.
        file: u32,
        /// Where the piece begins.
        offset: u64,
        /// Its bytes.
        length: u32,
    },
    /// A file that was left with the tool is not needed any more.
    Forget {
        /// Its number.
        file: u32,
    },
    /// Something below a watched path changed; the first one comes at once.
    Store {
        /// Number of the watch.
        watch: u32,
        /// The path that changed.
        path: String,
    },
    /// A console's channel was closed by dom0 because its domain is gone. Sent after the last byte.
    ConsoleClosed {
        /// Which.
        channel: super::Channel,
    },
    /// A channel that does not hold fell behind.
    ConsoleLost {
        /// Which.
        channel: super::Channel,
        /// How many bytes it does not get.
        bytes: u64,
    },
    /// A piece of text that dom0's shell prints on the control connection.
    Text(Vec<u8>),
    /// A domain has another name from now on.
    DomainRenamed {
        /// Number.
        domid: u16,
        /// Name before.
        before: String,
        /// Name now.
        name: String,
    },
}
