//! The physical map.

use trunnion_protocol::address::{Gfn, Gpa, Gva};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall::MemoryOp;
use trunnion_protocol::hypercall::memory::{
    AddToPhysmap, MemoryMap, Op, Region, RemoveFromPhysmap, Reservation, SetMemoryMap, Space,
};
use trunnion_protocol::id::DomainId;

use super::kit::{Guest, OTHER, PAGES, World, page};

fn reserve(world: &World, domain: &Guest, op: Op, gfns: &[u64], order: u32) -> u64 {
    for (index, gfn) in gfns.iter().enumerate() {
        world.write(domain, OTHER + index as u64 * 8, &gfn.to_le_bytes());
    }
    let reservation = Reservation {
        extents: Gva(OTHER),
        count: gfns.len() as u64,
        order,
        flags: 0,
        domain: DomainId::SELF,
    };
    world.put(domain, 0x1000, &reservation);
    world.call(domain, MemoryOp, &[u64::from(op.number()), 0x1000]).unwrap()
}

#[test]
fn populate_and_give_back() {
    let world = World::new();
    let a = world.guest(1);
    let free = world.host.frames.free_frames();
    assert_eq!(reserve(&world, &a, Op::PopulatePhysmap, &[1000, 1001, 2000], 0), 3);
    // What is there already ends the list.
    assert_eq!(reserve(&world, &a, Op::PopulatePhysmap, &[3000, 1001, 3001], 0), 1);
    assert_eq!(world.host.frames.owned(a.id), PAGES as u32 + 4);
    assert_eq!(reserve(&world, &a, Op::DecreaseReservation, &[1000, 1001, 2000, 3000], 0), 4);
    assert_eq!(reserve(&world, &a, Op::DecreaseReservation, &[1000], 0), 0);
    assert_eq!(world.host.frames.free_frames(), free, "tables go back as well");
    // The limit is 1024 pages.
    assert_eq!(reserve(&world, &a, Op::PopulatePhysmap, &[4096, 4608], 9), 1);
    for order in [10, 18, 63, 200] {
        assert_eq!(reserve(&world, &a, Op::PopulatePhysmap, &[8192], order), 0);
    }
    world.destroy(a);
}

#[test]
fn long_lists_are_continued() {
    let world = World::new();
    let a = world.guest_of(1, 10_000);
    for index in 0..1500u64 {
        world.write(&a, page(16) + index * 8, &(10_000 + index * 2).to_le_bytes());
    }
    let list =
        Reservation { extents: Gva(page(16)), count: 1500, order: 0, flags: 0, domain: DomainId::SELF };
    world.put(&a, 0x1000, &list);
    let exits = |op: Op| {
        let done = world.call(&a, MemoryOp, &[u64::from(op.number()), 0x1000]);
        assert_eq!(done, Ok(1500));
    };
    exits(Op::PopulatePhysmap);
    assert_eq!(world.host.frames.owned(a.id), 512 + 1500);
    exits(Op::DecreaseReservation);
    assert_eq!(world.host.frames.owned(a.id), 512);
    world.destroy(a);
}

#[test]
fn shared_info_takes_the_place_of_memory_and_moves() {
    let world = World::new();
    let a = world.guest(1);
    let add = |gfn: u64| {
        let add = AddToPhysmap {
            domain: DomainId::SELF,
            size: 0,
            space: Space::SharedInfo.number(),
            index: 0,
            gfn: Gfn(gfn),
        };
        world.with(&a, MemoryOp, Op::AddToPhysmap.number(), add)
    };
    add(9).unwrap();
    assert_eq!(world.mfn(&a, Gfn(9)), Some(a.shared_info));
    assert_eq!(world.host.frames.owned(a.id), PAGES as u32 - 1, "the memory that was there is freed");
    add(9).unwrap();
    add(5000).unwrap();
    assert_eq!((world.mfn(&a, Gfn(9)), world.mfn(&a, Gfn(5000))), (None, Some(a.shared_info)));
    assert_eq!(add(u64::MAX), Err(Errno::Inval));
    let remove = RemoveFromPhysmap { domain: DomainId::SELF, gfn: Gfn(5000) };
    world.with(&a, MemoryOp, Op::RemoveFromPhysmap.number(), remove).unwrap();
    add(9).unwrap();
    world.destroy(a);
}

#[test]
fn grant_frames_have_places() {
    let world = World::new();
    let a = world.guest(1);
    let add = |index: u64, gfn: u64| {
        let add = AddToPhysmap {
            domain: DomainId::SELF,
            size: 0,
            space: Space::GrantTable.number(),
            index,
            gfn: Gfn(gfn),
        };
        world.with(&a, MemoryOp, Op::AddToPhysmap.number(), add)
    };
    add(3, 5003).unwrap();
    add(0, 5000).unwrap();
    assert!(world.mfn(&a, Gfn(5003)).is_some() && world.mfn(&a, Gfn(5000)).is_some());
    assert_eq!(add(64, 6000), Err(Errno::Inval));
    assert_eq!(add(1 << 31, 6000), Err(Errno::Inval));
    world.destroy(a);
}

#[test]
fn memory_maps() {
    let world = World::new();
    let a = world.guest(1);
    let ask = |room| {
        let map = MemoryMap { count: room, buffer: Gva(OTHER) };
        world.with(&a, MemoryOp, Op::MemoryMap.number(), map).map(|map| map.count)
    };
    assert_eq!(ask(10), Err(Errno::NoSys));
    let region = Region { address: Gpa(0), length: 2 << 20, kind: 1 };
    world.write(&world.dom0, world.base + OTHER, &region.to_bytes());
    let set = SetMemoryMap { domain: a.id, count: 1, buffer: Gva(world.base + OTHER) };
    world.with(&world.dom0, MemoryOp, Op::SetMemoryMap.number(), set).unwrap();
    assert_eq!(ask(10), Ok(1));
    let mut bytes = [0; 20];
    world.read(&a, OTHER, &mut bytes);
    assert_eq!(Region::from_bytes(&bytes), region);
    assert_eq!(ask(0), Ok(0));
    let own = SetMemoryMap { domain: DomainId::SELF, count: 0, buffer: Gva(0) };
    assert_eq!(world.with(&a, MemoryOp, Op::SetMemoryMap.number(), own), Err(Errno::Perm));
}
