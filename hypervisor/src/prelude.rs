//! The nouns that every module of the core speaks of, for one `use`: addresses and names of the ABI, atomic words, the seam's types, a domain and
//! its vCPUs, and the modules that work on them.

pub use alloc::boxed::Box;
pub use alloc::sync::Arc;
pub use alloc::vec::Vec;
pub use core::fmt;
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

pub use trunnion_protocol::address::{Gfn, Gpa, Gva, Mfn, PAGE_SHIFT, PAGE_SIZE};
pub use trunnion_protocol::control::*;
pub use trunnion_protocol::errno::{Errno, GrantStatus};
pub use trunnion_protocol::grant::Access;
pub use trunnion_protocol::hypercall::hvm::Param;
pub use trunnion_protocol::hypercall::page::Opcode;
pub use trunnion_protocol::hypercall::sched::ShutdownReason;
pub use trunnion_protocol::id::{DomainId, GrantRef, Pirq, Port, VcpuId, Virq, VirqScope};
pub use trunnion_protocol::layout::{Layout, Width};
pub use trunnion_protocol::planted::{self, Bug};
pub use trunnion_protocol::shared::SharedPage;
pub use trunnion_protocol::shared_info::{RunState, Runstate, TimeInfo};
pub use trunnion_protocol::{closed, event, publish, shared_info};
pub use zerocopy::{FromBytes, Immutable, IntoBytes};

pub use crate::debug::DebugLine;
pub use crate::domain::{Domain, stop};
pub use crate::events::Ports;
pub use crate::frames::{FrameKind, Held};
pub use crate::host::Host;
pub(crate) use crate::hypercall::{Arguments, Reply, Stop, target};
pub use crate::life::Life;
pub use crate::lock::{Guard, Lock, Rank};
pub use crate::pages::{Pages, TablePool};
pub use crate::schedule::Activity;
pub use crate::seam::*;
pub use crate::second_level::{Kind, Rights, Stale};
pub use crate::space::DomainSpace;
pub use crate::vcpu::{Body, POLL_MANY, Running, Vcpu, VcpuRef};
pub use crate::{
    create, events, exit, granting, hypercall, lapic, life, local, memory, model, mov, schedule,
};
pub use crate::{start, time, timers};
