//! `xen_version`.

use trunnion_protocol::hypercall::version::{
    CAPABILITIES_SIZE, CHANGESET_SIZE, COMMANDLINE_SIZE, CompileInfo, EXTRAVERSION_SIZE, Feature,
    FeatureInfo, Op, PlatformParameters, VarBuf, padded,
};

use crate::policy::VERSION;
use crate::prelude::*;

const EXTRAVERSION: &str = ".0-trunnion";
const CAPABILITIES: &str = "hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ";
const CHANGESET: &str = concat!("trunnion ", env!("CARGO_PKG_VERSION"));

pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let op = Op::from_number(arguments.op()).ok_or(Errno::NoSys)?;
    if op == Op::Version { Ok(u64::from(VERSION)) } else { describe(running, arguments, op) }
}

/// What is more than a number.
#[inline(never)]
fn describe<M: Machine>(running: &mut Running<'_, M>, arguments: &Arguments, op: Op) -> Reply {
    let (width, at) = (arguments.width, arguments.pointer(1));
    match op {
        Op::Version => return Ok(u64::from(VERSION)),
        Op::PageSize if at.is_null() => return Ok(PAGE_SIZE as u64),
        Op::PageSize => return Err(Errno::Inval.into()),
        Op::CompileInfo => {
            let info = CompileInfo::encode("rustc", "trunnion", "trunnion", env!("CARGO_PKG_VERSION"));
            running.write(at, &info)?;
        }
        Op::PlatformParameters => running.put(width, at, &PlatformParameters { virt_start: 0 })?,
        Op::GetFeatures => {
            let mut info: FeatureInfo = running.get(width, at)?;
            if info.index != 0 {
                return Err(Errno::Inval.into());
            }
            info.submap = features(running);
            running.put(width, at, &info)?;
        }
        Op::GuestHandle => running.write(at, &running.domain.uuid)?,
        Op::BuildId => return Err(Errno::NoData.into()),
        Op::Extraversion => running.write(at, &padded::<EXTRAVERSION_SIZE>(EXTRAVERSION))?,
        Op::Capabilities => running.write(at, &padded::<CAPABILITIES_SIZE>(CAPABILITIES))?,
        Op::Changeset => running.write(at, &padded::<CHANGESET_SIZE>(CHANGESET))?,
        Op::Commandline => running.write(at, &padded::<COMMANDLINE_SIZE>(""))?,
        Op::Extraversion2 => return variable(running, arguments, EXTRAVERSION),
        Op::Capabilities2 => return variable(running, arguments, CAPABILITIES),
        Op::Changeset2 => return variable(running, arguments, CHANGESET),
        Op::Commandline2 => return variable(running, arguments, ""),
    }
    Ok(0)
}

fn features<M: Machine>(running: &Running<'_, M>) -> u32 {
    if running.domain.is_privileged() {
        Feature::GUEST & !Feature::NotDirectMapped.bit() | Feature::DirectMapped.bit() | Feature::Dom0.bit()
    } else {
        Feature::GUEST
    }
}

/// A text with its length in front; a null pointer asks how long it is.
fn variable<M: Machine>(running: &mut Running<'_, M>, arguments: &Arguments, text: &str) -> Reply {
    let at = arguments.pointer(1);
    let length = text.len() as u64 + 1;
    if at.is_null() {
        return Ok(length);
    }
    let room: VarBuf = running.get(arguments.width, at)?;
    if u64::from(room.length) < length {
        return Err(Errno::NoBufs.into());
    }
    running.write(Gva(at.0.wrapping_add(4)), text.as_bytes())?;
    running.write(Gva(at.0.wrapping_add(4).wrapping_add(length - 1)), &[0])?;
    Ok(length)
}
