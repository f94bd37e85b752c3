//! Remembered moves do what the emulator does, and are forgotten when the code or the way to it changes.

use trunnion_devices::emulate::{Known, Machine, Outcome, Pending, Refused, step};
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::VcpuState;

use crate::support::{Page, Ram};

/// A device at this address, whose registers all read so.
const DEVICE: u64 = 0x10_0000;
const VALUE: u64 = 0x8877_6655_4433_2211;
/// Linear: the code, and the device.
const CODE: u64 = 0x40_0040;
const WINDOW: u64 = 0x50_0000;

/// RAM, and the device behind it; what was written to it.
struct World {
    ram: Ram,
    written: Vec<(u64, Vec<u8>)>,
}

impl Machine for World {
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        if at.0 < DEVICE {
            self.ram.read(at, into).expect("RAM");
        } else {
            into.iter_mut().zip(VALUE.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }
    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending> {
        if at.0 < DEVICE {
            self.ram.write(at, from).expect("RAM");
        } else {
            self.written.push((at.0, from.to_vec()));
        }
        Ok(())
    }
    fn port_read(&mut self, _: u16, _: Width) -> Result<u32, Pending> {
        Ok(0)
    }
    fn port_write(&mut self, _: u16, _: Width, _: u32) -> Result<(), Pending> {
        Ok(())
    }
    fn cpuid(&mut self, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }
    fn msr_read(&mut self, _: u32) -> Result<u64, Refused> {
        Err(Refused)
    }
    fn msr_write(&mut self, _: u32, _: u64) -> Result<(), Refused> {
        Err(Refused)
    }
    fn tsc(&mut self) -> u64 {
        0
    }
}

/// Tables at 0x1000 and on: the code is in page 5, the window is the device. The state is in 64-bit code at the code.
fn world(code: &[u8]) -> (World, VcpuState) {
    let world = World { ram: Ram::new(0x10_0000), written: Vec::new() };
    let put = |at: u64, value: u64| world.ram.write(Gpa(at), &value.to_le_bytes()).expect("RAM");
    for (at, entry) in [
        (0x1000, 0x2000 | 0x67),
        (0x2000, 0x3000 | 0x67),
        (0x3000 + 2 * 8, 0x4000 | 0x67),
        (0x4000 + 0x100 * 8, DEVICE | 0x67),
        (0x4000, 0x5000 | 0x67),
    ] {
        put(at, entry);
    }
    world.ram.write(Gpa(0x5000 + CODE % 0x1000), code).expect("RAM");
    let mut state = VcpuState::real_mode(0);
    (state.cr0, state.cr3, state.cr4, state.efer) = (0x8000_0011, 0x1000, 0x20, 0x500);
    state.cs.attributes = 0xa9b;
    state.ss.attributes = 0xc93;
    state.rip = CODE;
    state.interruptibility = 1;
    for (number, register) in (0u64..).zip(&mut state.gpr) {
        *register = number << 40 | (0x1234_5670 + number);
    }
    state.gpr[2] = WINDOW;
    state.gpr[6] = 0x10;
    (world, state)
}

/// Moves by all widths, to and from the device at `rdx + 8` and `rdx + rsi * 4`.
const MOVES: &[(&[u8], u64)] = &[
    (&[0x8b, 0x42, 8], 8),                      // mov eax, [rdx+8]
    (&[0x48, 0x8b, 0x42, 8], 8),                // mov rax, [rdx+8]
    (&[0x66, 0x8b, 0x42, 8], 8),                // mov ax, [rdx+8]
    (&[0x8a, 0x62, 8], 8),                      // mov ah, [rdx+8]
    (&[0x44, 0x8a, 0x42, 8], 8),                // mov r8b, [rdx+8]
    (&[0x89, 0x0c, 0xb2], 0x40),                // mov [rdx+rsi*4], ecx
    (&[0x4c, 0x89, 0x14, 0xb2], 0x40),          // mov [rdx+rsi*4], r10
    (&[0x66, 0x89, 0x0c, 0xb2], 0x40),          // mov [rdx+rsi*4], cx
    (&[0x88, 0x2c, 0xb2], 0x40),                // mov [rdx+rsi*4], ch
    (&[0xc7, 0x42, 8, 1, 2, 3, 0x84], 8),       // mov dword [rdx+8], 0x84030201
    (&[0x48, 0xc7, 0x42, 8, 1, 2, 3, 0x84], 8), // mov qword [rdx+8], 0xffffffff84030201
    (&[0xc6, 0x42, 8, 7], 8),                   // mov byte [rdx+8], 7
];

/// Carries out what is known at the state; the bytes that went to the device.
fn known(known: &mut Known<Page>, world: &World, state: &mut VcpuState, address: u64) -> Option<Vec<u8>> {
    let plain = known.find(state, &world.ram, address)?;
    plain.finish(state, VALUE);
    Some(plain.stored.map_or_else(Vec::new, |value| value.to_le_bytes()[..plain.size].to_vec()))
}

#[test]
fn a_known_move_is_what_the_emulator_does() {
    for (code, offset) in MOVES {
        let mut cache = Known::default();
        let (mut world, before) = world(code);
        for turn in 0..2 {
            let (mut ours, mut right) = (before, before);
            let moved = known(&mut cache, &world, &mut ours, DEVICE + offset).expect("a plain move");
            assert_eq!(step(&mut right, &mut world), Outcome::Done);
            assert!(ours == right, "{code:02x?}, turn {turn}: {ours} and {right}");
            match world.written.pop() {
                Some(written) => assert_eq!(written, (DEVICE + offset, moved), "{code:02x?}"),
                None => assert!(moved.is_empty(), "{code:02x?}"),
            }
        }
    }
}

#[test]
fn what_changed_is_not_known_any_more() {
    let (world, before) = world(MOVES[0].0);
    let mut cache = Known::default();
    let rax = |cache: &mut Known<Page>, at| {
        let mut state = before;
        known(cache, &world, &mut state, at).map(|_| state.gpr[0])
    };
    assert_eq!(rax(&mut cache, DEVICE + 8), Some(VALUE & 0xffff_ffff));
    // Other bytes there: a move of eight.
    world.ram.write(Gpa(0x5040), MOVES[1].0).expect("RAM");
    assert_eq!(rax(&mut cache, DEVICE + 8), Some(VALUE));
    // Another page there, which has an addition.
    world.ram.write(Gpa(0x6040), &[0x03, 0x42, 8]).expect("RAM");
    world.ram.write(Gpa(0x4000), &(0x6000u64 | 0x67).to_le_bytes()).expect("RAM");
    assert_eq!(rax(&mut cache, DEVICE + 8), None);
    world.ram.write(Gpa(0x4000), &(0x5000u64 | 0x67).to_le_bytes()).expect("RAM");
    assert_eq!(rax(&mut cache, DEVICE + 8), Some(VALUE));
    // Not where the operand lies; across a page; tables that are not there, or outside RAM.
    assert_eq!(rax(&mut cache, DEVICE + 9), None);
    assert_eq!(rax(&mut cache, DEVICE + 0xffc), None);
    for entry in [0u64, 0x7fff_f000 | 0x67] {
        world.ram.write(Gpa(0x3010), &entry.to_le_bytes()).expect("RAM");
        assert_eq!(rax(&mut cache, DEVICE + 8), None, "{entry:#x}");
    }
}
