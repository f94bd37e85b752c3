//! Typed bytes of the hypervisor's console.

use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall::ConsoleIo;
use trunnion_protocol::hypercall::misc::ConsoleOp;

use super::kit::World;

#[test]
fn typed_bytes_are_dom0s_and_none_is_lost() {
    let world = World::new();
    let guest = world.guest(1);
    let read = u64::from(ConsoleOp::Read.number());
    world.host.machine.press(b"list\r");
    assert_eq!(world.call(&guest, ConsoleIo, &[read, 16, 0x1000]), Ok(0), "they are no guest's");
    let (dom0, at) = (&world.dom0, world.at(&world.dom0));
    assert_eq!(world.call(dom0, ConsoleIo, &[read, 3, 0xffff_ffff_0000]), Err(Errno::Fault));
    assert_eq!(world.call(dom0, ConsoleIo, &[read, 0, at]), Ok(0));
    assert_eq!(world.call(dom0, ConsoleIo, &[read, 3, at]), Ok(3));
    assert_eq!(world.call(dom0, ConsoleIo, &[read, 0xffff_ffff, at + 3]), Ok(2));
    let mut bytes = [0; 5];
    world.read(dom0, at, &mut bytes);
    assert_eq!(&bytes, b"list\r");
    assert_eq!(world.call(dom0, ConsoleIo, &[read, 16, at]), Ok(0));
}
