//! The hypercalls that the front ends make, typed.

use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::Access;
use trunnion_protocol::hypercall::{Hypercall, event, grant, hvm, memory, sched};
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::{Layout, Width};

use crate::error::Error;
use crate::platform::{Argument, Platform, RawCall};

/// Memory with the alignment of the structures in the Xen headers.
#[repr(align(8))]
struct Aligned<B>(B);

/// Makes a call of the usual shape: an operation and a structure, which the hypervisor may fill in.
pub fn call<P: Platform, T: Layout>(
    platform: &P,
    hypercall: Hypercall,
    operation: u64,
    structure: &mut T,
) -> Result<u64, Errno> {
    let mut bytes = Aligned(T::ZEROED);
    // The array holds either form, so that neither conversion can fail.
    structure.encode(Width::W64, bytes.0.as_mut()).ok_or(Errno::Inval)?;
    let mut arguments = [Argument::Value(operation), Argument::Memory(bytes.0.as_mut())];
    let result = platform.hypercall(RawCall { number: hypercall.number(), arguments: &mut arguments });
    *structure = T::decode(Width::W64, bytes.0.as_ref()).ok_or(Errno::Inval)?;
    Errno::from_return(result)
}

/// Notifies the other end of a port. A port that is closed is no fault of the caller's: the peer may be gone.
#[doc(alias = "EVTCHNOP_send")]
pub fn send<P: Platform>(platform: &P, port: Port) {
    let mut argument = event::PortArgument { port };
    let _ = call(platform, Hypercall::EventChannelOp, event::Op::Send.number().into(), &mut argument);
}

/// Opens a port for another domain to join.
#[doc(alias = "EVTCHNOP_alloc_unbound")]
pub fn open_port<P: Platform>(platform: &P, remote: DomainId) -> Result<Port, Error> {
    let mut argument = event::AllocUnbound { domain: DomainId::SELF, remote, port: Port(0) };
    call(platform, Hypercall::EventChannelOp, event::Op::AllocUnbound.number().into(), &mut argument)
        .map_err(Error::Hypercall)?;
    Ok(argument.port)
}

/// Joins a port that another domain opened.
#[doc(alias = "EVTCHNOP_bind_interdomain")]
pub fn join_port<P: Platform>(platform: &P, remote: DomainId, port: Port) -> Result<Port, Error> {
    let mut argument = event::BindInterdomain { remote, remote_port: port, local_port: Port(0) };
    call(platform, Hypercall::EventChannelOp, event::Op::BindInterdomain.number().into(), &mut argument)
        .map_err(Error::Hypercall)?;
    Ok(argument.local_port)
}

/// Frees a port.
#[doc(alias = "EVTCHNOP_close")]
pub fn close_port<P: Platform>(platform: &P, port: Port) -> Result<(), Error> {
    let mut argument = event::PortArgument { port };
    call(platform, Hypercall::EventChannelOp, event::Op::Close.number().into(), &mut argument)
        .map(drop)
        .map_err(Error::Hypercall)
}

/// A parameter of the calling domain; 0 if it is not set.
#[doc(alias = "HVMOP_get_param")]
pub fn param<P: Platform>(platform: &P, param: hvm::Param) -> Result<u64, Error> {
    let mut argument = hvm::ParamArgument { domain: DomainId::SELF, index: param.number(), value: 0 };
    call(platform, Hypercall::HvmOp, hvm::Op::GetParam.number().into(), &mut argument)
        .map_err(Error::Hypercall)?;
    Ok(argument.value)
}

/// The most frames that the caller's grant table may have.
#[doc(alias = "GNTTABOP_query_size")]
pub fn grant_limit<P: Platform>(platform: &P) -> Result<u32, Error> {
    let mut argument = grant::QuerySize { domain: DomainId::SELF, ..Default::default() };
    batch(platform, grant::Op::QuerySize.number(), &mut argument)?;
    Ok(argument.limit)
}

/// Asks for grant tables of version 1. A hypervisor that knows no other may refuse the question.
#[doc(alias = "GNTTABOP_set_version")]
pub fn set_grant_version<P: Platform>(platform: &P) {
    let mut argument = grant::Version { version: 1 };
    let _ = batch(platform, grant::Op::SetVersion.number(), &mut argument);
}

fn batch<P: Platform, T: Layout>(platform: &P, operation: u32, structure: &mut T) -> Result<(), Error> {
    let mut bytes = Aligned(T::ZEROED);
    structure.encode(Width::W64, bytes.0.as_mut()).ok_or(Error::Hypercall(Errno::Inval))?;
    let mut arguments =
        [Argument::Value(operation.into()), Argument::Memory(bytes.0.as_mut()), Argument::Value(1)];
    let number = Hypercall::GrantTableOp.number();
    let result = platform.hypercall(RawCall { number, arguments: &mut arguments });
    *structure = T::decode(Width::W64, bytes.0.as_ref()).ok_or(Error::Hypercall(Errno::Inval))?;
    Errno::from_return(result).map(drop).map_err(Error::Hypercall)
}

/// Maps a page of another domain at an address without memory; returns the mapping's handle.
#[doc(alias = "GNTTABOP_map_grant_ref")]
pub fn map_grant<P: Platform>(
    platform: &P,
    domain: DomainId,
    reference: GrantRef,
    address: Gpa,
    access: Access,
) -> Result<u32, Error> {
    let flags = match access {
        Access::ReadOnly => grant::MAP_HOST | grant::MAP_READONLY,
        Access::ReadWrite => grant::MAP_HOST,
    };
    let mut argument = grant::Map { address, flags, reference, domain, ..Default::default() };
    batch(platform, grant::Op::Map.number(), &mut argument)?;
    granted(argument.status)?;
    Ok(argument.handle)
}

/// Takes a mapping away.
#[doc(alias = "GNTTABOP_unmap_grant_ref")]
pub fn unmap_grant<P: Platform>(platform: &P, address: Gpa, handle: u32) -> Result<(), Error> {
    let mut argument = grant::Unmap { address, handle, ..Default::default() };
    batch(platform, grant::Op::Unmap.number(), &mut argument)?;
    granted(argument.status)
}

fn granted(status: i16) -> Result<(), Error> {
    let status = GrantStatus::from_number(status).unwrap_or(GrantStatus::GeneralError);
    status.result().map_err(Error::Grant)
}

/// Places a frame of the grant table at a frame number without memory.
#[doc(alias = "XENMEM_add_to_physmap")]
pub fn place_grant_frame<P: Platform>(platform: &P, index: u32, gfn: Gfn) -> Result<(), Error> {
    let space = memory::Space::GrantTable.number();
    let mut argument =
        memory::AddToPhysmap { domain: DomainId::SELF, size: 0, space, index: u64::from(index), gfn };
    call(platform, Hypercall::MemoryOp, memory::Op::AddToPhysmap.number().into(), &mut argument)
        .map(drop)
        .map_err(Error::Hypercall)
}

/// Lets other vCPUs run.
#[doc(alias = "SCHEDOP_yield")]
pub fn yield_now<P: Platform>(platform: &P) {
    let mut arguments = [Argument::Value(sched::Op::Yield.number().into()), Argument::Value(0)];
    platform.hypercall(RawCall { number: Hypercall::SchedOp.number(), arguments: &mut arguments });
}

/// Ends the domain. Returns only if the hypervisor refuses, with the reason.
#[doc(alias = "SCHEDOP_shutdown")]
pub fn shut_down<P: Platform>(platform: &P, reason: sched::ShutdownReason) -> Error {
    let mut argument = sched::Shutdown { reason: reason.number() };
    let result = call(platform, Hypercall::SchedOp, sched::Op::Shutdown.number().into(), &mut argument);
    Error::Hypercall(result.err().unwrap_or(Errno::Io))
}
