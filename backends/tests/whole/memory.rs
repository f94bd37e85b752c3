//! The block back end on a disk that lies in its own memory.

use std::rc::Rc;

use super::block::{SECTORS, config, disk, numbered, run};
use crate::support::front::{Front, content};
use crate::support::{Host, LocalPages, Mapped, Woken, World};
use trunnion_backends::block::Backend;
use trunnion_backends::host::GrantCopier;
use trunnion_backends::ram::RamDisk;
use trunnion_protocol::layout::Width;

/// The same in pages of the back end's own, where it need not be asked. What it holds itself stays as it was.
pub(super) fn placed(world: &Rc<World>) -> (RamDisk<Vec<u8>, Mapped>, LocalPages) {
    let (pages, first) = Host(world.clone()).local(SECTORS / 8).unwrap();
    for (page, bytes) in pages.as_ref().iter().zip(numbered().chunks_exact(4096)) {
        page.copy_in(0, bytes).unwrap();
    }
    (disk().placed(first), pages)
}

/// On a disk in memory nothing but the ring is mapped: a run of requests is one batch of copies, even where the front end says that
/// its pages may stay mapped.
#[test]
fn a_disk_in_memory_is_copied_to_and_from() {
    let world = World::new();
    let mut front = Front::new(&world, Width::W64, 0, 3);
    front.plan.persistent = true;
    let (disk, pages) = placed(&world);
    let mut backend = Backend::new(Host(world.clone()), disk, config());
    let woken = Woken::new();
    backend.connect(&front.plan).unwrap();
    let ring = world.mapped.get();
    let calls = world.copy_calls.get();
    front.transfer(true, 8, &[[0x55; 4096]; 2], 0, 7);
    front.transfer(true, 31, &[[0x66; 4096]], 0, 1);
    front.transfer(false, 8, &[[0; 4096]; 2], 0, 7);
    // Of a request whose second page is not granted the first may have been moved; the request has failed.
    front.half_granted(0);
    front.flush();
    front.kick();
    assert_eq!(run(&woken, &mut backend), None);
    let answers = front.responses();
    let failed: Vec<_> = answers.iter().filter(|(answer, _)| answer.status != 0).collect();
    assert_eq!((answers.len(), failed.len(), failed[0].0.operation), (5, 1, 0));
    let read = answers.iter().find(|(answer, _)| answer.operation == 0 && answer.status == 0).unwrap();
    assert_eq!(content(&read.1, 1), [0x55; 4096]);
    assert_eq!((world.mapped.get(), world.map_calls.get(), world.copy_calls.get() - calls), (ring, 1, 1));
    let byte = |sector: usize| pages.as_ref()[sector / 8].load::<u8>(sector % 8 * 512).unwrap();
    assert_eq!([7, 8, 23, 24, 30, 31, 32, 33].map(byte), [7, 0x55, 0x55, 24, 30, 0x66, 0x66, 33]);
    let counted = backend.statistics().snapshot();
    assert_eq!((counted.reads, counted.writes, counted.flushes, counted.errors), (1, 2, 1, 1));
    // Beyond the end, and writing to what may not be written, nothing is copied at all.
    let calls = world.copy_calls.get();
    front.transfer(false, SECTORS as u64 - 8, &[[0; 4096]; 2], 0, 7);
    front.kick();
    assert_eq!(run(&woken, &mut backend), None);
    assert_eq!((front.responses()[0].0.status, world.copy_calls.get()), (-1, calls));
    backend.disconnect();
    assert_eq!(world.mapped.get(), 0);
}
