//! Making a domain: paused, with no memory, its vCPUs down.

pub use trunnion_protocol::hypercall::version::padded as name;

use crate::frames::DOMAINS;
use crate::memory::Memory;
use crate::policy::cpuid::{Cpuid, Shape};
use crate::policy::{apic_id, control};
use crate::prelude::*;
use crate::schedule::DEFAULT_WEIGHT;
use crate::seam::has_room_for;
use crate::second_level::SecondLevel;
use crate::vcpu::Body;

/// Most vCPUs of a domain: those with a place in the shared info page.
pub const VCPUS: u32 = shared_info::VCPUS;

/// Makes a guest and puts it on the list.
pub fn create<M: Machine>(host: &Host<M>, wanted: &CreateDomain) -> Result<Arc<Domain<M>>, Errno> {
    let mut last = host.creation.lock();
    let any = wanted.domain == 0;
    let id = if any { free_id(host, *last).ok_or(Errno::NoSpc)? } else { DomainId(wanted.domain) };
    if !id.is_guest() || usize::from(id.0) >= DOMAINS {
        return Err(Errno::Inval);
    }
    let domain = enlist(host, &CreateDomain { domain: id.0, ..*wanted })?;
    if any {
        *last = DomainId(id.0 + 1);
    }
    Ok(domain)
}

/// Makes dom0, which gets the hardware and the authority: one vCPU, and memory of so many pages at most.
pub fn dom0<M: Machine>(host: &Host<M>, max_pages: u64) -> Result<Arc<Domain<M>>, Errno> {
    let wanted =
        CreateDomain { domain: 0, flags: 0, vcpus: 1, max_pages, uuid: [0; 16], name: name("Domain-0") };
    let _last = host.creation.lock();
    enlist(host, &wanted)
}

/// Makes a domain with a number, under the lock of creation.
fn enlist<M: Machine>(host: &Host<M>, wanted: &CreateDomain) -> Result<Arc<Domain<M>>, Errno> {
    if wanted.vcpus == 0 || wanted.vcpus > VCPUS || wanted.flags != 0 {
        return Err(Errno::Inval);
    }
    if host.domain(DomainId(wanted.domain)).is_some() {
        return Err(Errno::Exist);
    }
    let domain = build(host, wanted)?;
    if host.enlist(domain.clone()) { Ok(domain) } else { Err(Errno::Exist) }
}

/// The next free number at or after `from`, going round; 0 is dom0's. Numbers are not used again at once, so that what
/// still names an old domain finds nothing rather than its successor.
fn free_id<M: Machine>(host: &Host<M>, from: DomainId) -> Option<DomainId> {
    let count = DOMAINS as u16 - 1;
    (0..count)
        .map(|step| DomainId((from.0.wrapping_sub(1).wrapping_add(step)) % count + 1))
        .find(|&id| host.domain(id).is_none())
}

fn build<M: Machine>(host: &Host<M>, wanted: &CreateDomain) -> Result<Arc<Domain<M>>, Errno> {
    let id = DomainId(wanted.domain);
    let privileged = id == DomainId::DOM0;
    // Frames that go back unless the domain is made.
    let mut frames: Vec<Held<'_>> = Vec::new();
    frames.try_reserve(8).map_err(|_| Errno::NoMem)?;
    let pool = host.table_pool(id);
    let tables = SecondLevel::new(host.machine.format(), &pool).ok_or(Errno::NoMem)?;
    let root = tables.root();
    frames.push(host.frames.adopt(root));
    let shared_info = host.allocate_frame(id, FrameKind::Shared).ok_or(Errno::NoMem)?;
    frames.push(host.frames.adopt(shared_info));
    let grants = granting::new_table(host, id)?;
    frames.extend(granting::frames(&grants).map(|mfn| host.frames.adopt(mfn)));
    let mut vcpus = Vec::new();
    vcpus.try_reserve_exact(wanted.vcpus as usize).map_err(|_| Errno::NoMem)?;
    for index in 0..wanted.vcpus {
        let context = host.machine.new_context(privileged)?;
        has_room_for::<Body<M>>()?;
        let info = shared_info::vcpu_info(index).ok_or(Errno::Inval)?;
        let vcpu =
            Vcpu::new(VcpuId(index), apic_id(index) as u8, context, shared_info.address().0 | info as u64);
        vcpu.state.assign(Cpu((u32::from(id.0) + index) % host.machine.cpus().max(1)));
        vcpus.push(vcpu);
    }
    let all = host.vcpus() + vcpus.len();
    for cpu in host.cpus() {
        cpu.queue.reserve(all)?;
        cpu.deadlines.reserve(all)?;
    }
    has_room_for::<Domain<M>>()?;
    let params = core::array::from_fn(|param| {
        let reboots = param as u32 == Param::TripleFaultReason.number();
        AtomicU64::new(if reboots { ShutdownReason::Reboot.number().into() } else { 0 })
    });
    let machine = &host.machine;
    let cpuid = Cpuid::new(
        |leaf, subleaf| machine.cpuid(leaf, subleaf),
        Shape { id, vcpus: wanted.vcpus, tsc_khz: machine.tsc_khz(), tsc_is_stable: machine.tsc_is_stable() },
    );
    let memory = Memory { tables, regions: Vec::new(), highest: Gfn(0) };
    let domain = Arc::new(Domain {
        cr4_allowed: control::cr4_allowed(&cpuid),
        cpuid,
        id,
        name: wanted.name,
        uuid: wanted.uuid,
        control: if privileged { Some(host.mint.control().ok_or(Errno::Exist)?) } else { None },
        vcpus: vcpus.into_boxed_slice(),
        root,
        epoch: AtomicU64::new(1),
        walks: AtomicU64::new(1),
        memory: Lock::new(Rank::Memory, memory),
        direct: privileged,
        max_pages: wanted.max_pages,
        shared_info,
        shared_place: Lock::new(Rank::Life, None),
        narrow: AtomicBool::new(false),
        ports: Ports::new(),
        grants,
        params,
        callback: AtomicU32::new(0),
        life: Lock::new(Rank::Life, Life { pauses: 1, ..Life::default() }),
        stopped: AtomicU32::new(stop::PAUSED),
        tsc_offset: host.machine.tsc().wrapping_neg(),
        runstate_flag: AtomicBool::new(false),
        debug: Lock::new(Rank::Life, DebugLine::new()),
        weight: AtomicU32::new(DEFAULT_WEIGHT),
        cap: AtomicU32::new(0),
        model: spin::Once::new(),
    });
    for frame in frames {
        let _ = frame.into_raw();
    }
    time::new_domain(host, &domain);
    Ok(domain)
}
