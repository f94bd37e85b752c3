use proptest::prelude::*;

use trunnion_protocol::address::{Gva, PAGE_SIZE};
use trunnion_protocol::grant::{self, ENTRY_SIZE};
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::grant::{
    COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy, MAP_DEVICE, Op, QuerySize, SetupTable, Version,
};
use trunnion_protocol::layout::{Layout, Width};

use super::*;
use crate::fake::audit::audit;
use crate::tests::world::{Guest, World};

/// Where a caller builds its structures: page 3 of a guest, the first page of dom0.
fn scratch(world: &World, guest: &Guest) -> Gva {
    if guest.id == DomainId::DOM0 { Gva(world.dom0_memory.address().0) } else { Gva(0x3000) }
}

fn write_scratch(world: &World, guest: &Guest, bytes: &[u8]) -> u64 {
    let at = scratch(world, guest);
    world.page(guest, at.0 >> 12).copy_in(0, bytes).unwrap();
    at.0
}

fn operate<T: Layout>(world: &World, guest: &Guest, op: Op, calls: &mut [T]) -> i64 {
    let size = T::size(Width::W64);
    let mut bytes = vec![0; size * calls.len()];
    for (call, bytes) in calls.iter().zip(bytes.chunks_exact_mut(size)) {
        call.encode(Width::W64, bytes).unwrap();
    }
    let at = write_scratch(world, guest, &bytes);
    let result =
        world.call(guest, Hypercall::GrantTableOp, &[u64::from(op.number()), at, calls.len() as u64]);
    world.page(guest, at >> 12).copy_out(0, &mut bytes).unwrap();
    for (call, bytes) in calls.iter_mut().zip(bytes.chunks_exact(size)) {
        *call = T::decode(Width::W64, bytes).unwrap();
    }
    result
}

fn entry_page<'w>(world: &'w World, guest: &Guest) -> &'w trunnion_protocol::shared::SharedPage {
    let (mfn, _) = guest.grants.table.lock().frame(0).unwrap();
    crate::pages::Pages::page(&world.host.machine, mfn).unwrap()
}

fn offer(world: &World, guest: &Guest, reference: u32, to: DomainId, access: Access, gfn: u32) {
    let words = [grant::permit(to, access), gfn];
    entry_page(world, guest).store(reference as usize * ENTRY_SIZE, &words).unwrap();
}

fn word(world: &World, guest: &Guest, reference: u32) -> u32 {
    entry_page(world, guest).load(reference as usize * ENTRY_SIZE).unwrap()
}

fn map_call(from: &Guest, reference: u32, flags: u32, address: u64) -> Map {
    Map { address: Gpa(address), flags, reference: GrantRef(reference), domain: from.id, ..Map::default() }
}

fn map_one(world: &World, by: &Guest, mut call: Map) -> (i16, Map) {
    assert_eq!(operate(world, by, Op::Map, core::slice::from_mut(&mut call)), 0);
    (call.status, call)
}

fn unmap_one(world: &World, by: &Guest, mapped: &Map) -> i16 {
    let mut call = Unmap { address: mapped.address, handle: mapped.handle, ..Unmap::default() };
    assert_eq!(operate(world, by, Op::Unmap, core::slice::from_mut(&mut call)), 0);
    call.status
}

#[test]
fn a_leaf_is_used_again_until_the_map_changes() {
    let world = World::new(512);
    let guest = world.guest(16);
    let mut last = None;
    let mut find =
        |gfn| own_page(&world.host, &guest, &mut last, Gfn(gfn), Access::ReadWrite).map(|held| held.mfn());
    let frame = world.frame(&guest, 5);
    assert_eq!((find(5), find(5)), (frame, frame));
    guest.map(&world.host).remove(Gfn(5), &[Kind::Ram]).unwrap();
    assert_eq!((find(5), find(6)), (None, world.frame(&guest, 6)));
}

#[test]
fn dom0_maps_at_the_machine_address_and_shares_the_entry() {
    let world = World::new(512);
    let guest = world.guest(16);
    let frame = world.frame(&guest, 5).unwrap();
    offer(&world, &guest, 9, DomainId::DOM0, Access::ReadWrite, 5);
    let rights = || {
        let leaf = world.dom0.memory.lock().tables.lookup(&world.host.machine, Gfn(frame.0));
        leaf.map(|leaf| (leaf.mfn, leaf.kind, leaf.rights.contains(Rights::WRITE)))
    };
    assert_eq!(rights(), None);
    let (status, read) =
        map_one(&world, &world.dom0, map_call(&guest, 9, MAP_HOST | MAP_READONLY, 0xdead_b000));
    assert_eq!(status, 0);
    assert_eq!((read.address.0, read.bus_address.0), (frame.address().0, frame.address().0));
    assert_eq!(rights(), Some((frame, Kind::Grant, false)));
    assert_eq!(word(&world, &guest, 9), 9);
    let (_, write) = map_one(&world, &world.dom0, map_call(&guest, 9, MAP_HOST, 0));
    assert_eq!((rights(), word(&world, &guest, 9)), (Some((frame, Kind::Grant, true)), 0x19));
    assert_eq!(grant::revoke(word(&world, &guest, 9)), None);
    assert_eq!(unmap_one(&world, &world.dom0, &write), 0);
    assert_eq!((rights(), word(&world, &guest, 9)), (Some((frame, Kind::Grant, false)), 9));
    assert_eq!(unmap_one(&world, &world.dom0, &write), GrantStatus::BadHandle.number());
    assert_eq!(unmap_one(&world, &world.dom0, &read), 0);
    assert_eq!((rights(), word(&world, &guest, 9)), (None, 1));
    assert_eq!((audit(&world.host).grants, audit(&world.host).mismatches), (0, 0));
}

#[test]
fn guests_map_at_holes() {
    let world = World::new(512);
    let (granter, mapper) = (world.guest(16), world.guest(16));
    offer(&world, &granter, 20, mapper.id, Access::ReadOnly, 6);
    let refused = |flags, address| map_one(&world, &mapper, map_call(&granter, 20, flags, address)).0;
    let read = MAP_HOST | MAP_READONLY;
    assert_eq!(refused(MAP_HOST, 0x10_0000), GrantStatus::PermissionDenied.number());
    assert_eq!(refused(read, 0x5000), GrantStatus::BadVirtAddr.number(), "memory is there");
    assert_eq!(refused(read, 0x10_0010), GrantStatus::BadVirtAddr.number());
    assert_eq!(refused(read, u64::MAX - 0xfff), GrantStatus::BadVirtAddr.number());
    assert_eq!(refused(read | MAP_DEVICE, 0x10_0000), GrantStatus::GeneralError.number());
    assert_eq!(refused(0, 0x10_0000), GrantStatus::GeneralError.number());
    assert_eq!(
        word(&world, &granter, 20),
        grant::permit(mapper.id, Access::ReadOnly),
        "nothing is left behind"
    );
    let (status, mapped) = map_one(&world, &mapper, map_call(&granter, 20, read, 0x10_0000));
    assert_eq!((status, world.frame(&mapper, 0x100)), (0, world.frame(&granter, 6)));
    let wrong = Map { address: Gpa(0x10_1000), ..mapped };
    assert_eq!(unmap_one(&world, &mapper, &wrong), GrantStatus::BadVirtAddr.number());
    assert_eq!(unmap_one(&world, &mapper, &mapped), 0);
    assert_eq!(world.frame(&mapper, 0x100), None);
    let nobody = Map { domain: DomainId(77), ..mapped };
    assert_eq!(map_one(&world, &mapper, nobody).0, GrantStatus::BadDomain.number());
    offer(&world, &granter, 21, mapper.id, Access::ReadWrite, 0x5_0000);
    let hole = map_call(&granter, 21, MAP_HOST, 0x10_0000);
    assert_eq!(map_one(&world, &mapper, hole).0, GrantStatus::BadPage.number());
    // What was granted to a domain is not its own to grant.
    let (_, mapped) = map_one(&world, &mapper, map_call(&granter, 20, read, 0x10_0000));
    offer(&world, &mapper, 8, granter.id, Access::ReadOnly, 0x100);
    assert_eq!(
        map_one(&world, &granter, map_call(&mapper, 8, read, 0x20_0000)).0,
        GrantStatus::BadPage.number()
    );
    assert_eq!(unmap_one(&world, &mapper, &mapped), 0);
}

#[test]
fn a_dead_granter_stays_until_its_frame_comes_back() {
    let world = World::new(512);
    let before = world.host.frames.free_frames();
    let guest = world.guest(16);
    let (id, frame) = (guest.id, world.frame(&guest, 5).unwrap());
    world.page(&guest, 5).store(0, &0x1234_5678u32).unwrap();
    offer(&world, &guest, 9, DomainId::DOM0, Access::ReadWrite, 5);
    let (_, mapped) = map_one(&world, &world.dom0, map_call(&guest, 9, MAP_HOST, 0));
    world.destroy(guest);
    assert!(world.host.domain(id).is_some(), "a zombie");
    assert_eq!(world.host.frames.all_owned(id), 1);
    assert_eq!(world.page(&world.dom0, frame.0).load::<u32>(0), Ok(0x1234_5678));
    assert_eq!(unmap_one(&world, &world.dom0, &mapped), 0);
    assert!(world.host.domain(id).is_none());
    assert_eq!(world.host.frames.free_frames(), before);
}

#[test]
fn a_dead_mapper_gives_everything_back() {
    let world = World::new(512);
    let granter = world.guest(16);
    let before = world.host.frames.free_frames();
    let mapper = world.guest(16);
    offer(&world, &granter, 20, mapper.id, Access::ReadWrite, 6);
    for page in 0..50 {
        let call = map_call(&granter, 20, MAP_HOST, 0x10_0000 + page * 0x1000);
        assert_eq!(map_one(&world, &mapper, call).0, 0);
    }
    assert_eq!(audit(&world.host).grants, 100);
    world.destroy(mapper);
    assert_eq!((word(&world, &granter, 20) & 0xff, audit(&world.host).grants), (1, 0));
    assert_eq!(world.host.frames.free_frames(), before);
    assert_eq!(audit(&world.host).mismatches, 0);
}

#[test]
fn long_batches_continue_and_flush_once_for_each_part() {
    let world = World::new(512);
    let guest = world.guest(16);
    offer(&world, &guest, 9, DomainId::DOM0, Access::ReadWrite, 5);
    let mut calls = vec![map_call(&guest, 9, MAP_HOST, 0); 100];
    assert_eq!(operate(&world, &world.dom0, Op::Map, &mut calls), 0);
    assert!(calls.iter().all(|call| call.status == 0));
    let epoch = world.dom0.epoch.load(core::sync::atomic::Ordering::Relaxed);
    let mut unmaps: Vec<Unmap> = calls
        .iter()
        .map(|call| Unmap { address: call.address, handle: call.handle, ..Unmap::default() })
        .collect();
    assert_eq!(operate(&world, &world.dom0, Op::Unmap, &mut unmaps), 0);
    assert!(unmaps.iter().all(|call| call.status == 0));
    assert_eq!(
        world.dom0.epoch.load(core::sync::atomic::Ordering::Relaxed),
        epoch + 1,
        "only the last was in use"
    );
    assert_eq!(word(&world, &guest, 9), 1);
}

#[test]
fn copies() {
    let world = World::new(512);
    let (one, other) = (world.guest(16), world.guest(16));
    let pattern: Vec<u8> = (0..PAGE_SIZE).map(|index| (index * 7) as u8).collect();
    world.page(&one, 5).copy_in(0, &pattern).unwrap();
    offer(&world, &one, 8, other.id, Access::ReadOnly, 5);
    let copy = |call: Copy| {
        let mut call = call;
        assert_eq!(operate(&world, &other, Op::Copy, core::slice::from_mut(&mut call)), 0);
        call.status
    };
    let from_grant = Copy {
        source: 0xffff_ffff_0000_0008,
        source_domain: one.id,
        source_offset: 100,
        destination: 7,
        destination_domain: DomainId::SELF,
        destination_offset: 3,
        length: 3996,
        flags: COPY_SOURCE_GRANT,
        ..Copy::default()
    };
    assert_eq!(copy(from_grant), 0);
    let mut out = [0; 3996];
    world.page(&other, 7).copy_out(3, &mut out).unwrap();
    assert_eq!(out[..], pattern[100..4096]);
    assert_eq!(word(&world, &one, 8), grant::permit(other.id, Access::ReadOnly));
    assert_eq!(copy(Copy { length: 3997, ..from_grant }), GrantStatus::BadCopyArg.number());
    assert_eq!(copy(Copy { length: 0, source_offset: 4096, ..from_grant }), 0);
    assert_eq!(copy(Copy { destination: 99, ..from_grant }), GrantStatus::BadPage.number());
    let wrong_way =
        Copy { destination: 8, destination_domain: one.id, flags: COPY_DESTINATION_GRANT, ..from_grant };
    let own = Copy { source: 7, source_domain: DomainId::SELF, ..wrong_way };
    assert_eq!(copy(own), GrantStatus::PermissionDenied.number(), "read-only grant");
    let not_own = Copy { source: 5, source_domain: one.id, ..own };
    assert_eq!(copy(not_own), GrantStatus::PermissionDenied.number(), "frames of others only by grant");
    offer(&world, &one, 10, other.id, Access::ReadWrite, 6);
    assert_eq!(copy(Copy { destination: 10, destination_offset: 0, source_offset: 3, length: 10, ..own }), 0);
    assert_eq!(world.page(&one, 6).load::<[u8; 10]>(0).unwrap(), pattern[100..110]);
    assert_eq!(audit(&world.host).grants, 0);
}

#[test]
fn sizes_and_versions() {
    let world = World::new(512);
    let guest = world.guest(16);
    let mut size = QuerySize { domain: DomainId::SELF, ..QuerySize::default() };
    assert_eq!(operate(&world, &guest, Op::QuerySize, core::slice::from_mut(&mut size)), 0);
    assert_eq!((size.frames, size.limit, size.status), (1, 64, 0));
    size.domain = DomainId::DOM0;
    operate(&world, &guest, Op::QuerySize, core::slice::from_mut(&mut size));
    assert_eq!(size.status, GrantStatus::PermissionDenied.number());
    let place = guest.place_grant_frame(&world.host, 2, Gfn(0x200));
    assert_eq!((place, guest.grants.table.lock().frames()), (Ok(()), 3));
    assert_eq!(guest.place_grant_frame(&world.host, 64, Gfn(0x201)), Err(Errno::Inval));
    let mut setup =
        SetupTable { domain: DomainId::SELF, frames: 4, list: Gva(0x4000), ..SetupTable::default() };
    assert_eq!(operate(&world, &guest, Op::SetupTable, core::slice::from_mut(&mut setup)), 0);
    assert_eq!(setup.status, 0);
    assert_eq!(world.page(&guest, 4).load::<[u64; 4]>(0), Ok([!0, !0, 0x200, !0]));
    setup.frames = 65;
    operate(&world, &guest, Op::SetupTable, core::slice::from_mut(&mut setup));
    assert_eq!(setup.status, GrantStatus::GeneralError.number());
    for (version, result) in [(1, 0), (2, -38), (3, -22)] {
        let mut call = Version { version };
        assert_eq!(operate(&world, &guest, Op::SetVersion, core::slice::from_mut(&mut call)), result);
        assert_eq!(call.version, 1);
    }
    assert_eq!(operate(&world, &guest, Op::Map, &mut [] as &mut [Map]), 0);
    let outside = world.call(&guest, Hypercall::GrantTableOp, &[0, 0x80_0000, 1]);
    assert_eq!(outside, -14);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Two guests and dom0 map, unmap and copy each other's grants by references, addresses and handles of all kinds,
    /// and scribble in their tables. Nothing is left when the guests are gone.
    #[test]
    fn whatever_guests_do(
        steps in proptest::collection::vec((0..3usize, 0..6u8, any::<u32>(), any::<u32>(), any::<u16>()), 1..80),
    ) {
        let world = World::new(700);
        let before = world.host.frames.free_frames();
        let guests = [world.dom0.clone(), world.guest(16), world.guest(16)];
        let mut mapped: Vec<(usize, Map)> = Vec::new();
        for (who, kind, a, b, c) in steps {
            let guest = &guests[who];
            let other = &guests[(who + 1 + usize::from(c & 1)) % 3];
            match kind {
                0 => {
                    let access = if a & 1 == 0 { Access::ReadOnly } else { Access::ReadWrite };
                    let base = if who == 0 { world.dom0_memory.0 as u32 } else { 0 };
                    offer(&world, guest, b % 16, other.id, access, base + a % 20);
                }
                1 => entry_page(&world, guest).store((b % 16) as usize * ENTRY_SIZE, &a).unwrap(),
                2 | 3 => {
                    let flags = if a & 7 == 7 { b } else { MAP_HOST | a & MAP_READONLY };
                    let address = if c & 0xf0 == 0 { u64::from(b) << (c & 15) } else { u64::from(0x100 + b % 8) << 12 };
                    let (status, call) = map_one(&world, guest, map_call(other, a % 16, flags, address));
                    if status == 0 { mapped.push((who, call)); }
                }
                4 if !mapped.is_empty() && c & 3 != 0 => {
                    let (who, call) = mapped.swap_remove(a as usize % mapped.len());
                    prop_assert_eq!(unmap_one(&world, &guests[who], &call), 0);
                }
                4 => {
                    let claim = Map { handle: a >> (b & 31), address: Gpa(u64::from(b) << 12), ..Map::default() };
                    if unmap_one(&world, guest, &claim) == 0 {
                        mapped.retain(|(other, call)| *other != who || call.handle != claim.handle);
                    }
                }
                _ => {
                    let mut call = Copy {
                        source: u64::from(a % 24), source_domain: other.id, source_offset: c,
                        destination: u64::from(b % 24), destination_domain: if c & 2 == 0 { DomainId::SELF } else { other.id },
                        destination_offset: c >> 3, length: (a >> 16) as u16, flags: (b >> 16) as u16 & 3,
                        ..Copy::default()
                    };
                    operate(&world, guest, Op::Copy, core::slice::from_mut(&mut call));
                }
            }
            let now = audit(&world.host);
            prop_assert_eq!((now.mismatches, now.grants), (0, 2 * mapped.len() as u64));
        }
        for (who, call) in mapped.iter().filter(|(who, _)| *who == 0) {
            prop_assert_eq!(unmap_one(&world, &guests[*who], call), 0);
        }
        let [_, one, other] = guests;
        world.destroy(one);
        world.destroy(other);
        prop_assert_eq!(world.host.frames.free_frames(), before);
        prop_assert_eq!(audit(&world.host).grants, 0);
    }
}
