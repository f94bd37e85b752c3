//! The emulator against plain models of arithmetic, and faults that leave nothing behind.

use proptest::prelude::*;
use trunnion_devices::emulate::{self, Fault, Machine, Outcome, Pending, Recorded, Refused};
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::{Gpr, Segment, VcpuState};

/// Memory from zero; beyond it nothing. Devices answer when they are told to.
struct Flat {
    bytes: Vec<u8>,
    ports: Vec<(u16, u32)>,
    /// Accesses that have to wait once.
    later: u32,
    /// Each access of a port waits once; whether the present one has.
    each: bool,
    waited: bool,
    writes: u32,
}

impl Flat {
    fn new() -> Self {
        Self { bytes: vec![0; 0x8000], ports: Vec::new(), later: 0, each: false, waited: false, writes: 0 }
    }
}

impl Flat {
    fn wait(&mut self) -> Result<(), Pending> {
        self.waited = self.each && !self.waited;
        if self.waited || self.later > 0 {
            self.later = self.later.saturating_sub(1);
            return Err(Pending);
        }
        Ok(())
    }
}

impl Machine for Flat {
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        for (n, byte) in into.iter_mut().enumerate() {
            *byte = self.bytes.get(at.0 as usize + n).copied().unwrap_or(0xff);
        }
        Ok(())
    }
    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending> {
        self.writes += 1;
        for (n, byte) in from.iter().enumerate() {
            if let Some(place) = self.bytes.get_mut(at.0 as usize + n) {
                *place = *byte;
            }
        }
        Ok(())
    }
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Pending> {
        self.wait()?;
        self.ports.push((port, 0));
        Ok(0x1234_5678 & width.mask())
    }
    fn port_write(&mut self, port: u16, _: Width, value: u32) -> Result<(), Pending> {
        self.wait()?;
        self.ports.push((port, value));
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

/// Code at 0x1000, a stack below 0x8000; 16, 32 or 64 bits.
fn cpu(bits: u32) -> VcpuState {
    let mut cpu = match bits {
        16 => VcpuState::real_mode(0),
        _ => VcpuState::pvh(0x1000, 0),
    };
    if bits == 64 {
        cpu.cs.attributes = 0xa9b;
        cpu.efer = 0x500;
    }
    cpu.rip = 0x1000;
    cpu.gpr[Gpr::Rsp as usize] = 0x7000;
    cpu
}

fn run(cpu: &mut VcpuState, machine: &mut Flat, code: &[u8]) -> Outcome {
    machine.bytes[0x1000..0x1000 + code.len()].copy_from_slice(code);
    emulate::step(cpu, machine)
}

const STATUS: u64 = 0x8d5;

/// CF, PF, ZF, SF and OF by wide arithmetic; AF by the low digits.
fn model(op: u8, a: u64, b: u64, carry: bool, bits: u32) -> (u64, u64) {
    let mask = if bits == 64 { u64::MAX } else { (1u64 << bits) - 1 };
    let (a, b) = (a & mask, b & mask);
    let signed = |value: u64| i128::from((value << (64 - bits)) as i64 >> (64 - bits));
    let c = u64::from(carry && matches!(op, 2 | 3));
    let (wide, signed_wide, low) = match op {
        0 | 2 => (
            i128::from(a) + i128::from(b) + i128::from(c),
            signed(a) + signed(b) + i128::from(c),
            Some((a & 15) + (b & 15) + c > 15),
        ),
        3 | 5 | 7 => (
            i128::from(a) - i128::from(b) - i128::from(c),
            signed(a) - signed(b) - i128::from(c),
            Some((a & 15) < (b & 15) + c),
        ),
        _ => {
            let value = match op {
                1 => a | b,
                4 => a & b,
                _ => a ^ b,
            };
            (i128::from(value), signed(value), None)
        }
    };
    let value = wide as u64 & mask;
    let mut flags = 0;
    let arithmetic = low.is_some();
    flags |= u64::from(arithmetic && (wide < 0 || wide > i128::from(mask)));
    flags |= u64::from((value as u8).count_ones().is_multiple_of(2)) << 2;
    flags |= u64::from(low == Some(true)) << 4;
    flags |= u64::from(value == 0) << 6;
    flags |= u64::from(signed(value) < 0) << 7;
    flags |= u64::from(arithmetic && signed_wide != signed(value)) << 11;
    (value, flags)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arithmetic_is_what_wide_numbers_say(op in 0u8..8, width in 0usize..4, a: u64, b: u64, near in 0u64..3, carry: bool) {
        // Half of the cases are close to a carry or an overflow.
        let b = match near { 0 => b, 1 => a.wrapping_neg(), _ => (b & 1) | 1 << (8 * (1 << width) - 1) };
        let bits = 8u32 << width;
        let mut cpu = cpu(64);
        cpu.gpr[0] = a;
        cpu.gpr[3] = b;
        cpu.rflags = 2 | u64::from(carry);
        let opcode = op * 8 + u8::from(width > 0);
        let code: Vec<u8> = match width {
            1 => vec![0x66, opcode, 0xd8],
            3 => vec![0x48, opcode, 0xd8],
            _ => vec![opcode, 0xd8],
        };
        prop_assert_eq!(run(&mut cpu, &mut Flat::new(), &code), Outcome::Done);
        let (value, flags) = model(op, a, b, carry, bits);
        let kept = match bits { 64 | 32 => 0, bits => u64::MAX << bits };
        let wanted = if op == 7 { a } else { a & kept | value };
        prop_assert_eq!(cpu.gpr[0], if bits == 32 && op != 7 { value } else { wanted });
        prop_assert_eq!(cpu.rflags & STATUS, flags, "op {} {:#x} {:#x}", op, a, b);
        prop_assert_eq!(cpu.rip, 0x1000 + code.len() as u64);
    }

    #[test]
    fn shifts_and_rotations_move_bit_by_bit(op in 0u8..8, a: u32, count in 0u8..64, carry: bool) {
        let mut cpu = cpu(32);
        cpu.gpr[0] = u64::from(a);
        cpu.gpr[1] = u64::from(count);
        cpu.rflags = 2 | u64::from(carry);
        prop_assert_eq!(run(&mut cpu, &mut Flat::new(), &[0xd3, 0xc0 | op << 3]), Outcome::Done);
        let mut value = a;
        let mut c = carry;
        for _ in 0..count & 31 {
            let (top, bottom) = (value >> 31 != 0, value & 1 != 0);
            (value, c) = match op {
                0 => (value.rotate_left(1), top),
                1 => (value.rotate_right(1), bottom),
                2 => (value << 1 | u32::from(c), top),
                3 => (value >> 1 | u32::from(c) << 31, bottom),
                4 | 6 => (value << 1, top),
                5 => (value >> 1, bottom),
                _ => ((value as i32 >> 1) as u32, bottom),
            };
        }
        prop_assert_eq!(cpu.gpr[0], u64::from(value));
        prop_assert_eq!(cpu.rflags & 1 != 0, c);
        if count & 31 != 0 && op >= 4 {
            prop_assert_eq!(cpu.rflags >> 6 & 1 != 0, value == 0);
        }
    }

    #[test]
    fn multiplication_and_division_are_inverse(a: u32, b in 1u32.., rest: u32) {
        let rest = rest % b;
        let mut cpu = cpu(32);
        cpu.gpr[0] = u64::from(a);
        cpu.gpr[3] = u64::from(b);
        let mut machine = Flat::new();
        prop_assert_eq!(run(&mut cpu, &mut machine, &[0xf7, 0xe3]), Outcome::Done);
        let product = cpu.gpr[0] | cpu.gpr[2] << 32;
        prop_assert_eq!(product, u64::from(a) * u64::from(b));
        prop_assert_eq!(cpu.rflags & 0x801 != 0, product >> 32 != 0);
        let sum = product.wrapping_add(u64::from(rest));
        cpu.gpr[0] = sum & 0xffff_ffff;
        cpu.gpr[2] = sum >> 32;
        cpu.rip = 0x1000;
        prop_assert_eq!(run(&mut cpu, &mut machine, &[0xf7, 0xf3]), Outcome::Done);
        prop_assert_eq!((cpu.gpr[0], cpu.gpr[2]), (u64::from(a), u64::from(rest)));
    }

    /// Any bytes, in any mode: no panic, and an instruction that stops has changed nothing.
    #[test]
    fn any_bytes_are_an_instruction_or_refused(code: [u8; 15], mode in 0usize..3, registers: [u16; 16], flags: u16) {
        let bits = [16, 32, 64][mode];
        let mut cpu = cpu(bits);
        for (place, value) in cpu.gpr.iter_mut().zip(registers) {
            *place = u64::from(value & 0x7fff);
        }
        cpu.rflags = u64::from(flags) & 0xcd5 | 2;
        let mut machine = Flat::new();
        machine.bytes[0x1000..0x100f].copy_from_slice(&code);
        let (before, memory) = (cpu, machine.bytes.clone());
        let outcome = emulate::step(&mut cpu, &mut machine);
        let repeats = code.iter().any(|byte| matches!(byte, 0xf2 | 0xf3));
        if !matches!(outcome, Outcome::Done | Outcome::Halted) && !repeats {
            prop_assert_eq!(cpu, before);
            prop_assert_eq!(machine.bytes == memory, true, "memory changed");
        }
        for _ in 0..20 {
            emulate::step(&mut cpu, &mut machine);
        }
    }
}

#[test]
fn a_write_that_crosses_into_nothing_writes_nothing() {
    // 32-bit paging: page 2 is there, page 3 is not.
    let mut machine = Flat::new();
    machine.bytes[0x4000..0x4004].copy_from_slice(&0x5003u32.to_le_bytes());
    for page in [1u32, 2, 4, 5, 6] {
        let at = 0x5000 + page as usize * 4;
        machine.bytes[at..at + 4].copy_from_slice(&(page << 12 | 3).to_le_bytes());
    }
    let mut cpu = cpu(32);
    cpu.cr3 = 0x4000;
    cpu.cr0 |= 1 << 31;
    cpu.gpr[0] = 0x1122_3344;
    // mov [0x2ffe], eax
    let outcome = run(&mut cpu, &mut machine, &[0xa3, 0xfe, 0x2f, 0, 0]);
    assert_eq!(outcome, Outcome::Fault(Fault { vector: 14, error: Some(2), address: 0x3000 }));
    assert_eq!((cpu.rip, &machine.bytes[0x2ffe..0x3000]), (0x1000, &[0, 0][..]));
    // pusha with the stack's end at 0x3008: seven values would fit.
    cpu.gpr[Gpr::Rsp as usize] = 0x4000 + 12;
    machine.bytes[0x500c..0x5010].copy_from_slice(&[0; 4]);
    let before = machine.bytes[0x4000..0x4010].to_vec();
    assert!(matches!(run(&mut cpu, &mut machine, &[0x60]), Outcome::Fault(Fault { vector: 14, .. })));
    assert_eq!(machine.bytes[0x4000..0x4010], before, "nothing is pushed");
    // The page comes, and both work.
    machine.bytes[0x500c..0x5010].copy_from_slice(&0x3003u32.to_le_bytes());
    assert_eq!(run(&mut cpu, &mut machine, &[0xa3, 0xfe, 0x2f, 0, 0]), Outcome::Done);
    assert_eq!(machine.bytes[0x2ffe..0x3002], [0x44, 0x33, 0x22, 0x11]);
}

#[test]
fn a_device_that_answers_later_is_asked_once() {
    let mut cpu = cpu(32);
    cpu.gpr[Gpr::Rdx as usize] = 0x60;
    cpu.gpr[Gpr::Rcx as usize] = 3;
    cpu.gpr[Gpr::Rdi as usize] = 0x2000;
    let mut machine = Recorded::new(Flat::new());
    machine.machine().bytes[0x1000..0x1002].copy_from_slice(&[0xf3, 0x6d]); // rep insd
    machine.machine().later = 2;
    assert_eq!(emulate::step(&mut cpu, &mut machine), Outcome::Pending);
    assert_eq!(emulate::step(&mut cpu, &mut machine), Outcome::Pending);
    assert_eq!(emulate::step(&mut cpu, &mut machine), Outcome::Done);
    assert_eq!(machine.machine().ports.len(), 3);
    assert_eq!((cpu.rip, cpu.gpr[1], cpu.gpr[7]), (0x1002, 0, 0x200c));
    assert_eq!(machine.machine().bytes[0x2008..0x200c], 0x1234_5678u32.to_le_bytes());
}

#[test]
fn a_repetition_that_waits_in_each_iteration_is_the_same_instruction() {
    let mut cpu = cpu(32);
    cpu.rflags |= 1 << 10;
    cpu.gpr[Gpr::Rdx as usize] = 0x60;
    cpu.gpr[Gpr::Rcx as usize] = 4;
    cpu.gpr[Gpr::Rsi as usize] = 0x2003;
    let mut machine = Recorded::new(Flat::new());
    machine.machine().bytes[0x1000..0x1002].copy_from_slice(&[0xf3, 0x6e]); // rep outsb
    // As code this would be something else.
    machine.machine().bytes[0x2000..0x2004].copy_from_slice(&[0x90, 0x40, 0x41, 0xf4]);
    machine.machine().each = true;
    let outcomes: Vec<Outcome> = (0..5).map(|_| emulate::step(&mut cpu, &mut machine)).collect();
    assert_eq!(outcomes[..4], [Outcome::Pending; 4]);
    assert_eq!((outcomes[4], cpu.rip, cpu.gpr[Gpr::Rcx as usize]), (Outcome::Done, 0x1002, 0));
    let written: Vec<u32> = machine.machine().ports.iter().map(|(_, value)| *value).collect();
    assert_eq!(written, [0xf4, 0x41, 0x40, 0x90]);
}

#[test]
fn a_repetition_that_faults_keeps_what_it_did() {
    let mut cpu = cpu(16);
    cpu.es = Segment { limit: 0x2003, ..cpu.es };
    cpu.gpr[Gpr::Rdi as usize] = 0x2000;
    cpu.gpr[Gpr::Rcx as usize] = 9;
    cpu.gpr[0] = 0xaa;
    let mut machine = Flat::new();
    assert!(matches!(run(&mut cpu, &mut machine, &[0xf3, 0xaa]), Outcome::Fault(Fault { vector: 13, .. })));
    assert_eq!((cpu.rip, cpu.gpr[1], cpu.gpr[7]), (0x1000, 5, 0x2004));
    assert_eq!(machine.bytes[0x2000..0x2005], [0xaa, 0xaa, 0xaa, 0xaa, 0]);
}

#[test]
fn real_mode_reaches_protected_and_long_mode_and_comes_back_from_interrupts() {
    // int 0x21 in real mode, and iret.
    let mut cpu = cpu(16);
    let mut machine = Flat::new();
    machine.bytes[0x84..0x88].copy_from_slice(&[0x00, 0x20, 0, 0]);
    machine.bytes[0x2000] = 0xcf;
    cpu.rflags = 0x202;
    assert_eq!(run(&mut cpu, &mut machine, &[0xcd, 0x21]), Outcome::Done);
    assert_eq!((cpu.rip, cpu.rflags & 0x200), (0x2000, 0));
    assert_eq!(emulate::step(&mut cpu, &mut machine), Outcome::Done);
    assert_eq!((cpu.rip, cpu.rflags & 0x200, cpu.gpr[4]), (0x1002, 0x200, 0x7000));

    // A flat table at 0x3000; lgdt, CR0.PE, a far jump to 32-bit code.
    for (n, descriptor) in [0u64, 0x00cf_9a00_0000_ffff, 0x00cf_9200_0000_ffff].into_iter().enumerate() {
        machine.bytes[0x3000 + n * 8..0x3008 + n * 8].copy_from_slice(&descriptor.to_le_bytes());
    }
    machine.bytes[0x3100..0x3106].copy_from_slice(&[0x17, 0, 0x00, 0x30, 0, 0]);
    cpu.rip = 0x1000;
    cpu.gpr[0] = 0x11;
    let code = [0x0f, 0x01, 0x16, 0x00, 0x31, 0x0f, 0x22, 0xc0, 0xea, 0x00, 0x11, 0x08, 0x00];
    assert_eq!(run(&mut cpu, &mut machine, &code), Outcome::Done);
    assert_eq!(emulate::step(&mut cpu, &mut machine), Outcome::Done);
    assert_eq!(emulate::step(&mut cpu, &mut machine), Outcome::Done);
    assert_eq!((cpu.rip, cpu.cs.selector, cpu.cs.attributes & 0x400), (0x1100, 8, 0x400));
    // mov eax, 16; mov ss, eax
    cpu.rip = 0x1000;
    assert_eq!(run(&mut cpu, &mut machine, &[0xb8, 16, 0, 0, 0, 0x8e, 0xd0]), Outcome::Done);
    assert_eq!(emulate::step(&mut cpu, &mut machine), Outcome::Done);
    assert_eq!((cpu.ss.limit, cpu.ss.attributes & 0x400), (u32::MAX, 0x400));
    // A selector beyond the table names itself.
    cpu.rip = 0x1000;
    cpu.gpr[0] = 0x1b;
    assert_eq!(
        run(&mut cpu, &mut machine, &[0x8e, 0xd8]),
        Outcome::Fault(Fault { vector: 13, error: Some(0x18), address: 0 })
    );
}

#[test]
fn what_is_not_known_says_so() {
    let mut cpu = cpu(32);
    let outcome = run(&mut cpu, &mut Flat::new(), &[0x0f, 0x28, 0xc1]); // movaps
    assert!(matches!(outcome, Outcome::Unknown([0x0f, 0x28, 0xc1, ..])), "{outcome:?}");
    assert_eq!(
        run(&mut cpu, &mut Flat::new(), &[0x0f, 0x0b]),
        Outcome::Fault(Fault { vector: 6, error: None, address: 0 })
    );
}
