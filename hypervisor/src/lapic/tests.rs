use proptest::prelude::*;

use super::*;

const NOW: HostTime = HostTime(1_000_000);

fn enabled(id: u8) -> Lapic {
    let mut lapic = Lapic::new(id);
    assert_eq!(lapic.write(0xf0, 0x1ff, NOW), Action::Enabled);
    assert_eq!(lapic.write(0xf0, 0x1ff, NOW), Action::None);
    lapic
}

#[test]
fn identity() {
    let mut lapic = Lapic::new(6);
    assert_eq!(lapic.read(0x20, NOW), 6 << 24);
    assert_eq!(lapic.read(0x30, NOW), 0x0005_0014);
    assert_eq!(lapic.read(0xf0, NOW), 0xff);
    assert_eq!(lapic.read(0xe0, NOW), u32::MAX);
    for lvt in (0x320..=0x370).step_by(16) {
        assert_eq!(lapic.read(lvt, NOW), MASKED);
    }
    let _ = lapic.write(0x20, 0, NOW);
    assert_eq!(lapic.read(0x20, NOW), 6 << 24);
}

#[test]
fn priorities() {
    let mut lapic = Lapic::new(0);
    assert!(!lapic.post(0x40, false), "disabled");
    let mut lapic = {
        lapic.reset();
        enabled(0)
    };
    assert!(lapic.post(0x41, false) && lapic.post(0x43, false) && lapic.post(0x55, false));
    assert_eq!(lapic.pending(), Some(0x55));
    lapic.accept(0x55);
    assert_eq!((lapic.pending(), lapic.read(0xa0, NOW)), (None, 0x50));
    assert_eq!(lapic.read(0x120, NOW), 1 << (0x55 - 0x40));
    assert_eq!(lapic.read(0x220, NOW), 1 << 1 | 1 << 3);
    assert!(lapic.post(0x60, false));
    assert_eq!(lapic.pending(), Some(0x60), "a higher class interrupts the handler");
    lapic.accept(0x60);
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.pending(), None, "0x55 is still in service");
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.pending(), Some(0x43));
    let _ = lapic.write(0x80, 0x40, NOW);
    assert_eq!((lapic.pending(), lapic.cr8()), (None, 4));
    assert_eq!((lapic.set_cr8(3), lapic.pending()), (Some(()), Some(0x43)));
    assert_eq!(lapic.set_cr8(16), None);
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.pending(), Some(0x43), "an end of nothing");
}

#[test]
fn commands() {
    let mut lapic = enabled(2);
    let _ = lapic.write(0x310, 0x0400_0000, NOW);
    let send = |lapic: &mut Lapic, low| match lapic.write(0x300, low, NOW) {
        Action::Send(ipi) => Some((ipi.delivery, ipi.destination)),
        _ => None,
    };
    assert_eq!(send(&mut lapic, 0x0000_4500), Some((Delivery::Init, Destination::Physical(4))));
    assert_eq!(send(&mut lapic, 0x0000_c500), Some((Delivery::Init, Destination::Physical(4))));
    assert_eq!(send(&mut lapic, 0x0000_8500), None, "end of INIT");
    assert_eq!(send(&mut lapic, 0x0000_0699), Some((Delivery::Startup(0x99), Destination::Physical(4))));
    assert_eq!(send(&mut lapic, 0x0004_00f6), Some((Delivery::Fixed(0xf6), Destination::Own)));
    assert_eq!(send(&mut lapic, 0x000c_0400), Some((Delivery::Nmi, Destination::Others)));
    assert_eq!(send(&mut lapic, 0x0004_0400), None);
    assert_eq!(send(&mut lapic, 0x0000_0931), Some((Delivery::Lowest(0x31), Destination::Logical(4))));
    assert_eq!(lapic.read(0x300, NOW), 0x931);
    assert_eq!(send(&mut lapic, 0x0000_0005), None);
    assert_eq!(lapic.read(0x280, NOW), 0);
    let _ = lapic.write(0x280, 0, NOW);
    assert_eq!(lapic.read(0x280, NOW), SEND_ILLEGAL);
    let _ = lapic.write(0x280, 0, NOW);
    assert_eq!(lapic.read(0x280, NOW), 0);
}

#[test]
fn destinations() {
    let mut lapic = enabled(4);
    let _ = lapic.write(0xd0, 0x0400_0000, NOW);
    assert!(lapic.is_addressed(Destination::Physical(4), false));
    assert!(lapic.is_addressed(Destination::Physical(0xff), false));
    assert!(!lapic.is_addressed(Destination::Physical(2), true));
    assert!(lapic.is_addressed(Destination::Logical(0x06), false));
    assert!(!lapic.is_addressed(Destination::Logical(0x03), false));
    assert!(lapic.is_addressed(Destination::Own, true) && !lapic.is_addressed(Destination::Own, false));
    assert!(!lapic.is_addressed(Destination::Others, true) && lapic.is_addressed(Destination::Others, false));
    let _ = lapic.write(0xe0, 0, NOW);
    let _ = lapic.write(0xd0, 0x2100_0000, NOW);
    assert!(lapic.is_addressed(Destination::Logical(0x23), false));
    assert!(!lapic.is_addressed(Destination::Logical(0x11), false));
    assert!(lapic.is_addressed(Destination::Logical(0xff), false));
}

#[test]
fn timer_once_and_periodic() {
    let mut lapic = enabled(0);
    let _ = lapic.write(0x3e0, 0xb, NOW);
    let _ = lapic.write(0x320, 0xec, NOW);
    let end = HostTime(NOW.0 + 1000 * TICK_NS);
    assert_eq!(lapic.write(0x380, 1000, NOW), Action::Timer(Some(end)));
    assert_eq!(lapic.read(0x390, HostTime(NOW.0 + 400 * TICK_NS)), 600);
    assert_eq!(lapic.expire(HostTime(end.0 - 1)), Some(end));
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.expire(end), None);
    assert_eq!((lapic.pending(), lapic.read(0x390, end)), (Some(0xec), 0));
    // Divided by 16, periodic, seen three periods late.
    let _ = lapic.write(0x3e0, 0x3, NOW);
    let _ = lapic.write(0x320, PERIODIC | 0xed, NOW);
    let period = 16 * TICK_NS * 10_000;
    assert_eq!(lapic.write(0x380, 10_000, NOW), Action::Timer(Some(HostTime(NOW.0 + period))));
    assert_eq!(lapic.expire(HostTime(NOW.0 + 3 * period + 5)), Some(HostTime(NOW.0 + 4 * period)));
    assert_eq!(lapic.write(0x380, 0, NOW), Action::Timer(None));
    // A period of nothing does not spin.
    let _ = lapic.write(0x3e0, 0xb, NOW);
    let _ = lapic.write(0x380, 1, NOW);
    let next = lapic.expire(HostTime(NOW.0 + 10)).unwrap();
    assert!(next.0 >= NOW.0 + 100_000);
}

#[test]
fn disabling_masks_the_local_vectors() {
    let mut lapic = enabled(0);
    let _ = lapic.write(0x350, 0x700, NOW);
    assert_eq!(lapic.read(0x350, NOW), 0x700);
    let _ = lapic.write(0xf0, 0xff, NOW);
    assert_eq!(lapic.read(0x350, NOW), MASKED | 0x700);
    let _ = lapic.write(0x350, 0x700, NOW);
    assert_eq!(lapic.read(0x350, NOW), MASKED | 0x700);
}

proptest! {
    /// No sequence of accesses panics, and what is pending always goes before what is in service.
    #[test]
    fn any_accesses(steps in proptest::collection::vec((0..5u8, 0..0x100u16, any::<u32>(), any::<u32>()), 1..200)) {
        let mut lapic = Lapic::new(8);
        let mut now = 0;
        for (kind, register, value, time) in steps {
            now += u64::from(time) << (value & 15);
            let now = HostTime(now);
            let offset = if value & 64 == 0 { register << 4 } else { register * 7 };
            match kind {
                0 => { let _ = lapic.read(offset & 0xfff, now); }
                1 | 2 => { let _ = lapic.write(offset & 0xfff, value, now); }
                3 => { lapic.post(value as u8, value & 256 != 0); }
                _ => { lapic.expire(now); }
            }
            if let Some(vector) = lapic.pending() {
                prop_assert!(vector >= 16);
                prop_assert!(lapic.in_service.highest().is_none_or(|other| vector & 0xf0 > other & 0xf0));
                prop_assert!(vector & 0xf0 > lapic.task_priority & 0xf0);
                if value & 128 != 0 { lapic.accept(vector); }
            }
        }
    }
}
