//! The hypervisor's heap runs out, at every point: a call then fails with an error and leaves nothing behind, and what was promised
//! to a domain when it was made needs no heap.
//!
//! The allocator of this program stands for the hypervisor's heap. An allocation that nobody is prepared to see fail ends the
//! program, so all of this is one test, which has the allocator to itself.

use std::alloc::System;
use std::sync::Arc;

use cap::Cap;
use trunnion_hypervisor::create;
use trunnion_hypervisor::domain::Domain;
use trunnion_hypervisor::fake::FakeMachine;
use trunnion_hypervisor::granting::{self, Batch};
use trunnion_hypervisor::host::Host;
use trunnion_hypervisor::seam::HostTime;
use trunnion_hypervisor::vcpu::VcpuRef;
use trunnion_hypervisor::{life, start, timers};
use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::control::{CreateDomain, VcpuState};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::grant::{MAP_HOST, Map};
use trunnion_protocol::id::{DomainId, GrantRef, VcpuId};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

type Guest = Arc<Domain<FakeMachine>>;

/// Ports and mappings of a guest: more than one chunk of either.
const MANY: u64 = 300;
const VCPUS: u32 = 4;

/// Does something with at most so many bytes of heap left.
fn with_heap<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    HEAP.set_limit(HEAP.allocated() + bytes).expect("more than is in use");
    let result = work();
    HEAP.set_limit(usize::MAX).expect("no limit");
    result
}

fn create(host: &Host<FakeMachine>, vcpus: u32) -> Result<Guest, Errno> {
    let name = create::name("guest");
    create::create(host, &CreateDomain { domain: 0, flags: 0, vcpus, max_pages: 1024, uuid: [0; 16], name })
}

fn start(host: &Host<FakeMachine>, domain: &Guest) -> Result<(), Errno> {
    for index in 0..domain.vcpus.len() as u32 {
        let at = VcpuRef { domain: domain.clone(), index };
        start::load(host, &at, &VcpuState::pvh(0x10_0000, 0), true)?;
        timers::change(host, &at, |timers| timers.singleshot = Some(HostTime(1 << 40)));
    }
    life::unpause(host, domain)
}

/// All that a guest can make the hypervisor remember.
fn live(host: &Host<FakeMachine>, domain: &Guest, granter: DomainId) -> Result<(), Errno> {
    start(host, domain)?;
    for _ in 0..MANY {
        domain.bind_ipi(host, VcpuId(0))?;
    }
    for (index, gfn) in (0..granting::frames(&domain.grants).count() as u32 + 4).zip(1000..) {
        domain.place_grant_frame(host, index, Gfn(gfn))?;
    }
    for number in 0..MANY {
        let address = Gpa((2000 + number) << 12);
        let mut call =
            Map { address, flags: MAP_HOST, reference: GrantRef(0), domain: granter, ..Map::default() };
        Batch::new(host, domain).map(&mut call).map_err(|_| Errno::NoMem)?;
    }
    Ok(())
}

fn destroy(host: &Host<FakeMachine>, domain: Guest) {
    while !life::destroy_step(host, &domain).expect("it is no dom0") {}
    drop(domain);
    life::reap(host);
}

fn host() -> Host<FakeMachine> {
    let machine = FakeMachine::new(8192);
    let ranges = machine.boot_ranges();
    Host::new(machine, &FakeMachine::boot(&ranges)).expect("a host")
}

#[test]
fn the_heap_may_run_out_at_any_point() {
    let host = host();
    let granter = create(&host, 1).expect("a granter");
    while granter.map(&host).populate(Gfn(0), 9) == Err(Errno::Restart) {}
    granter.seed_grant(&host, GrantRef(0), DomainId(2), 7).expect("a grant");
    let free = host.frames.free_frames();
    let mut failures = 0;
    for room in (0..).step_by(64) {
        let wanted = CreateDomain {
            domain: 2,
            flags: 0,
            vcpus: VCPUS,
            max_pages: 1024,
            uuid: [0; 16],
            name: create::name("guest"),
        };
        let (domain, lived) = with_heap(room, || {
            let domain = create::create(&host, &wanted);
            let lived = domain.as_ref().map_or(Err(Errno::NoMem), |domain| live(&host, domain, granter.id));
            (domain, lived)
        });
        if let Ok(domain) = domain {
            destroy(&host, domain);
        }
        assert_eq!(host.frames.free_frames(), free, "with {room} bytes of heap");
        if lived.is_ok() {
            break;
        }
        assert!(matches!(lived, Err(Errno::NoMem | Errno::NoSpc)), "with {room} bytes of heap: {lived:?}");
        failures += 1;
    }
    println!("{failures} sizes of heap were too small");
    assert!(failures > 100, "{failures}");

    what_was_promised_needs_no_heap();
}

/// Guests wait, and all wake up when there is no heap: their places in the queues are their own.
fn what_was_promised_needs_no_heap() {
    let host = host();
    let guests: Vec<_> = (0..40).map(|_| create(&host, 1).expect("a guest")).collect();
    with_heap(0, || {
        for guest in &guests {
            start(&host, guest).expect("it starts");
        }
    });
    for guest in guests {
        destroy(&host, guest);
    }
}
