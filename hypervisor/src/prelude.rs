//! The nouns of the core, which nearly every module speaks of.

pub use alloc::sync::Arc;
pub use core::sync::atomic::Ordering;

pub use trunnion_protocol::address::{Gfn, Gpa, Gva, Mfn};
pub use trunnion_protocol::errno::Errno;
pub use trunnion_protocol::id::{DomainId, Port, VcpuId};
pub use trunnion_protocol::layout::Width;

pub use crate::domain::Domain;
pub use crate::host::Host;
pub use crate::seam::{HostTime, Machine};
pub use crate::vcpu::{Running, Vcpu, VcpuRef};
