//! `grant_table_op`.

use trunnion_protocol::errno::Errno;

use super::{Arguments, Reply};
use crate::seam::Machine;
use crate::vcpu::Running;

pub(super) fn call<M: Machine>(_running: &mut Running<'_, M>, _arguments: &mut Arguments) -> Reply {
    Err(Errno::NoSys.into())
}
