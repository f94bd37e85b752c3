//! Instructions whose length the processor does not say, in guests that change what was remembered about their code.

use trunnion_protocol::address::{Gfn, Gva};
use trunnion_protocol::control::Gpr;
use trunnion_protocol::hypercall::Hypercall::MemoryOp;
use trunnion_protocol::hypercall::memory::{Op, Reservation};
use trunnion_protocol::id::DomainId;

use super::kit::{Guest, OTHER, World, page};
use crate::seam::{Event, Exit};

const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
const CODE: u64 = 100;

/// How far the guest gets by a `xen_version` call at an address; `None` is #UD.
fn length(world: &World, domain: &Guest, at: u64) -> Option<u64> {
    world.exit(domain, 0, |context| {
        context.event = None;
        context.length = None;
        context.state.rip = at;
        context.state.gpr[Gpr::Rax as usize] = 17;
        context.state.gpr[Gpr::Rdi as usize] = 0;
        Exit::Hypercall
    });
    let mut body = domain.vcpus[0].body.lock();
    let context = &mut body.as_mut().unwrap().context;
    context.length = Some(3);
    match context.event {
        None => Some(context.state.rip.wrapping_sub(at)),
        Some(event) => {
            assert_eq!((event, context.state.rip), (Event::Exception(6, None), at));
            None
        }
    }
}

#[test]
fn rewritten_code_is_compared_again() {
    let world = World::new();
    let a = world.guest(1);
    let at = page(CODE) + 0x20;
    world.write(&a, at, &VMMCALL);
    for _ in 0..3 {
        assert_eq!(length(&world, &a, at), Some(3));
    }
    world.write(&a, at, &[0x3e, 0x0f, 0x01, 0xd9]);
    assert_eq!(length(&world, &a, at), Some(4));
    world.write(&a, at, &[0x90; 4]);
    assert_eq!(length(&world, &a, at), None);
    // The last instruction of a page.
    world.write(&a, page(CODE + 1) - 3, &VMMCALL);
    assert_eq!(length(&world, &a, page(CODE + 1) - 3), Some(3));
    // As many pages as want the same place in the memory.
    for other in [CODE + 16, CODE + 32, CODE + 16] {
        world.write(&a, page(other), &VMMCALL);
        assert_eq!(length(&world, &a, page(other)), Some(3));
    }
    world.destroy(a);
}

/// The frame of code that was executed goes to another domain, whose bytes must not tell the first anything.
#[test]
fn a_frame_that_was_given_back_is_not_read() {
    let world = World::new();
    let (a, b) = (world.guest(1), world.guest(1));
    world.write(&a, page(CODE), &VMMCALL);
    assert_eq!(length(&world, &a, page(CODE)), Some(3));
    let mfn = world.mfn(&a, Gfn(CODE)).unwrap();
    let list = Reservation { extents: Gva(OTHER), count: 1, order: 0, flags: 0, domain: DomainId::SELF };
    world.write(&a, OTHER, &CODE.to_le_bytes());
    world.put(&a, 0x1000, &list);
    assert_eq!(world.call(&a, MemoryOp, &[u64::from(Op::DecreaseReservation.number()), 0x1000]), Ok(1));
    let mut places = 600..1100;
    let place = places.find(|&gfn| {
        b.map(&world.host).populate(Gfn(gfn), 0).unwrap();
        world.mfn(&b, Gfn(gfn)) == Some(mfn)
    });
    world.write(&b, page(place.expect("the frame is given out again")), &VMMCALL);
    assert_eq!(length(&world, &a, page(CODE)), None);
    // Its own memory again, with other code.
    a.map(&world.host).populate(Gfn(CODE), 0).unwrap();
    world.write(&a, page(CODE), &[0x2e, 0x0f, 0x01, 0xd9]);
    assert_eq!(length(&world, &a, page(CODE)), Some(4));
    world.destroy(a);
    world.destroy(b);
}

/// The same address under other tables, in other modes and on other pages.
#[test]
fn an_address_that_leads_elsewhere_is_walked_again() {
    let world = World::new();
    let a = world.guest(1);
    let entry = |frame: u64, index: u64, value: u64| {
        world.write(&a, page(frame) + index * 8, &(value | 7).to_le_bytes());
    };
    // Two sets of tables for address 0, the second behind a prefix.
    for (root, code) in [(10, CODE), (20, CODE + 1)] {
        for level in 0..3 {
            entry(root + level, 0, page(root + level + 1));
        }
        entry(root + 3, 0, page(code));
    }
    world.write(&a, page(CODE), &VMMCALL);
    world.write(&a, page(CODE + 1), &[0x36, 0x0f, 0x01, 0xd9]);
    let under = |root: u64| {
        world.register(&a, 0, |state| {
            (state.cr0, state.cr3, state.cr4, state.efer) = (1 << 31 | 0x11, page(root), 0x20, 0x500);
        });
        length(&world, &a, 0)
    };
    assert_eq!((under(10), under(20), under(10)), (Some(3), Some(4), Some(3)));
    // Its tables lead to the other page now, and what the remembered one holds is no such instruction.
    world.write(&a, page(CODE), &[0x90; 4]);
    entry(13, 0, page(CODE + 1));
    assert_eq!(under(10), Some(4));
    world.write(&a, page(13), &0u64.to_le_bytes());
    world.write(&a, page(CODE + 1), &[0x90; 4]);
    assert_eq!(under(10), None);
    // 32-bit code with a segment base is at the sum of both.
    world.write(&a, page(CODE) + 0x30, &VMMCALL);
    world.register(&a, 0, |state| {
        (state.cr0, state.efer, state.cs.attributes, state.cs.base) = (0x11, 0, 0xc9b, page(CODE));
    });
    assert_eq!((length(&world, &a, 0x30), length(&world, &a, 0x31)), (Some(3), None));
    world.register(&a, 0, |state| state.cs.base = page(CODE) + 0xffff_f000);
    assert_eq!(length(&world, &a, 0x30), None, "it wraps at 4 GiB");
    world.register(&a, 0, |state| state.cs.base = page(CODE) + 0x0100_0000_0000);
    assert_eq!(length(&world, &a, 0x30), Some(3));
    world.destroy(a);
}
