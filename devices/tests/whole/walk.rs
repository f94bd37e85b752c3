//! What a random walk over every port and every device address leaves alone.

use crate::fuzzing::access;
use crate::fuzzing::device::{self, Device};
use crate::fuzzing::{Source, source};
use crate::support::bench::{Made, World, world};
use trunnion_devices::board::Nic;

#[test]
fn a_board_without_media_and_screen_takes_every_access() {
    let made = Made { media: None, vga: false, ..Device::large() };
    let board = device::named("board");
    let mut world = World::new(made);
    world.place();
    let mut source = Source::seed(source::chosen().unwrap_or(1));
    for _ in 0..100_000 {
        world.apply(&access::action(board, made.ram, &mut source));
    }
    world.settle();
}

/// What storage, networks and lines may change.
fn changing(world: &World) -> impl PartialEq + use<> {
    let board = &world.board;
    let cards: Vec<_> = board
        .nics
        .iter()
        .map(|nic| match nic {
            Nic::E1000(card) => (Some(card.save()), None),
            Nic::Ne2000(card) => (None, Some(card.save())),
        })
        .collect();
    (board.ide.save(), board.floppy.save(), cards, board.wants())
}

#[test]
fn after_an_access_that_touches_nothing_there_is_nothing_to_do() {
    let mut world = world(true);
    world.place();
    let board = device::named("board");
    let mut source = Source::seed(source::chosen().unwrap_or(8));
    let (mut quiet, mut still) = (0, false);
    for count in 0..8_000 {
        if count % 64 == 0 {
            world.now = world.now.after(source.below(3_000_000));
            still = false;
        }
        if !still {
            world.poll();
            let before = changing(&world);
            world.poll();
            world.board.take_touched();
            still = changing(&world) == before;
            world.wire.0.borrow_mut().clear();
        }
        let deadline = world.board.deadline();
        world.apply(&access::access(board, &mut source));
        if world.board.take_touched() {
            still = false;
        } else if still {
            quiet += 1;
            let (before, next) = (changing(&world), world.board.deadline());
            assert!(
                next.is_none_or(|next| deadline.is_some_and(|deadline| deadline <= next)),
                "access {count}"
            );
            world.poll();
            assert!(changing(&world) == before && world.board.deadline() == next, "access {count}");
        }
    }
    assert!(quiet > 1_000, "{quiet}");
}
