//! Requests to a device model: how the core asks for what an emulated device or instruction does.
//!
//! A domain that has a device model ([`SetModel`]) has one page for each of its vCPUs, in the memory of the domain that runs the
//! model: a [`Request`] at offset 0, an [`Answer`] at [`ANSWER_OFFSET`], and the registers that some come with behind them. A vCPU that leaves its guest for something that the core does not carry
//! out waits:
//!
//! 1. the core writes the vCPU's request, and sends the event [`SetModel::port`];
//! 2. the model looks at the request of every vCPU: one whose serial number it has not answered is new;
//! 3. it writes the answer with that serial number, and makes [`Operation::ModelAnswer`](super::Operation::ModelAnswer);
//! 4. the vCPU takes the answer when it goes on.
//!
//! Both pages are written by one side at a time: the request until the event, the answer until the call. A vCPU that is stopped
//! while it waits (INIT) forgets its request; the answer is then refused with `ESRCH`, and the model drops it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::VcpuState;

/// Offset of the registers of a request in a vCPU's page, a [`VcpuState`].
pub const REQUEST_STATE: usize = 1024;
/// Offset of the [`Answer`].
pub const ANSWER_OFFSET: usize = 2048;
/// Offset of the registers of an answer.
pub const ANSWER_STATE: usize = 3072;

closed! {
    /// What a vCPU waits for.
    pub enum RequestKind: u32 {
        /// An IN or OUT of a register, decoded by the processor: [`Request::port`], [`Request::size`], [`Request::read`],
        /// [`Request::value`]. The core goes on behind it, with [`Answer::value`] in the register.
        Port = 0,
        /// The instruction at the instruction pointer, which touches address [`Request::value`] or moves strings through a port:
        /// the vCPU's registers are at [`REQUEST_STATE`], the answer's replace them.
        Instruction = 1,
        /// The vCPU takes an interrupt of the 8259 pair: the answer's value is the vector (the INTA cycle), or [`NO_VECTOR`].
        Acknowledge = 2,
        /// A level-triggered interrupt, vector [`Request::value`], has ended at a local APIC.
        End = 3,
    }
}

/// Answer to [`RequestKind::Acknowledge`] when no interrupt waits any more.
pub const NO_VECTOR: u64 = u64::MAX;

/// A vCPU's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// Counts up with each request of the vCPU, from 1; 0 before the first.
    pub serial: u32,
    /// [`RequestKind`].
    pub kind: u32,
    /// Port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// 1 for IN.
    pub read: u8,
    /// Zero.
    pub pad: u32,
    /// What is written, or the address, or the vector.
    pub value: u64,
}

/// The model's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Answer {
    /// That of the request.
    pub serial: u32,
    /// Bits of [`answer_flags`].
    pub flags: u32,
    /// What was read, or the vector of an acknowledgement.
    pub value: u64,
    /// The exception.
    pub vector: u32,
    /// Its error code.
    pub error: u32,
}

/// Bits of [`Answer::flags`].
pub mod answer_flags {
    /// The registers at [`super::ANSWER_STATE`] replace the vCPU's.
    pub const STATE: u32 = 1;
    /// The exception [`super::Answer::vector`] is to be injected.
    pub const EXCEPTION: u32 = 2;
    /// It has the error code [`super::Answer::error`].
    pub const ERROR: u32 = 4;
}

const _: () = assert!(size_of::<VcpuState>() <= ANSWER_OFFSET - REQUEST_STATE);

/// Input of [`Operation::SetModel`](super::Operation::SetModel): gives a domain that has never run a device model in the calling domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetModel {
    /// The domain.
    pub domain: u16,
    /// Bits of [`model_flags`].
    pub flags: u16,
    /// Port of the calling domain that is sent to when a request waits: one of its unbound ports, for the domain.
    pub port: u32,
    /// Machine frame of vCPU 0's page; the other vCPUs' follow. They are the calling domain's own, and stay what they are until
    /// the domain is destroyed.
    pub frame: u64,
}

/// Bits of [`SetModel::flags`].
pub mod model_flags {
    /// The model carries out each instruction that has [`super::FORCED`] before it, whatever it touches. For debugging.
    pub const FORCED: u16 = 1;
}

/// The forced-emulation prefix: UD2, and `xen` (Xen's `hvm_fep`).
pub const FORCED: [u8; 5] = *b"\x0f\x0bxen";

/// Input of [`Operation::ModelAnswer`](super::Operation::ModelAnswer).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModelAnswer {
    /// The domain.
    pub domain: u16,
    /// 1: the calling vCPU then waits for an event, as by `SCHEDOP_block`, unless one is there; whether it takes interrupts does not
    /// matter. Else zero.
    pub rest: u16,
    /// The vCPU whose page has the answer.
    pub vcpu: u32,
}

closed! {
    /// What a device model sends to its guest.
    pub enum SignalKind: u32 {
        /// A message-signalled interrupt: [`ModelSignal::address`] and [`ModelSignal::data`] as on the bus (SDM 11.11). The trigger mode
        /// says whether the end is told ([`RequestKind::End`]).
        Message = 0,
        /// The output of the 8259 pair, wired to LINT0 of vCPU 0: [`ModelSignal::data`] is its level.
        Line = 1,
        /// A non-maskable interrupt for vCPU 0.
        Nmi = 2,
    }
}

/// Input of [`Operation::ModelSignal`](super::Operation::ModelSignal).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModelSignal {
    /// The domain.
    pub domain: u16,
    /// Zero.
    pub pad: u16,
    /// [`SignalKind`].
    pub kind: u32,
    /// Address of the message.
    pub address: u64,
    /// Data of the message, or level.
    pub data: u32,
    /// Zero.
    pub pad2: u32,
}
