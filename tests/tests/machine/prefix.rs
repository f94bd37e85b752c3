//! The emulator against the (virtual) processor, in a guest of its own: each case natively, and behind the forced-emulation prefix.

#[allow(dead_code, reason = "the host's comparison uses more of it")]
#[path = "../../../devices/tests/native/cases.rs"]
mod cases;

use std::fs;

use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;
use iced_x86::{FlowControl, Mnemonic};
use trunnion_devices::emulate::{self, Machine, Outcome, Pending, Refused};
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::VcpuState;
use trunnion_tests::system::{QEMU_SVM, Run};

use crate::DRIVER;
use cases::{Case, Level, Random};

/// Of each width.
const CASES: usize = 150;
/// Of each width in the full tier: what there is room for.
const FULL: usize = 1_350;
/// The firmware's bytes, and where in it the cases are.
const ROM: usize = 1 << 20;
const TABLE: usize = ROM - 0xc_0000;
/// Where the image of a tiny guest begins.
const IMAGE: u64 = 0x10_0000;

/// Memory of zeroes, for the question whether the emulator knows an instruction.
struct Nothing;

impl Machine for Nothing {
    fn read(&mut self, _: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        into.fill(0);
        Ok(())
    }
    fn write(&mut self, _: Gpa, _: &[u8]) -> Result<(), Pending> {
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

/// Serves the instruction bytes where they are asked for, and nothing elsewhere.
struct Code<'a>(&'a [u8; 16], Nothing);

impl Machine for Code<'_> {
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        for (n, byte) in into.iter_mut().enumerate() {
            let place = (at.0 + n as u64).wrapping_sub(cases::START);
            *byte = usize::try_from(place).ok().and_then(|place| self.0.get(place)).copied().unwrap_or(0);
        }
        Ok(())
    }
    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending> {
        self.1.write(at, from)
    }
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Pending> {
        self.1.port_read(port, width)
    }
    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<(), Pending> {
        self.1.port_write(port, width, value)
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.1.cpuid(leaf, subleaf)
    }
    fn msr_read(&mut self, index: u32) -> Result<u64, Refused> {
        self.1.msr_read(index)
    }
    fn msr_write(&mut self, index: u32, value: u64) -> Result<(), Refused> {
        self.1.msr_write(index, value)
    }
    fn tsc(&mut self) -> u64 {
        self.1.tsc()
    }
}

/// Whether a case may come back to itself, or to the prefix before it.
fn returns(case: &Case, rip: u64) -> bool {
    let instruction = cases::decode(case);
    // As the offset in a segment of 16 bits, which the page of code begins.
    let near = |target: u64| (target.wrapping_sub(cases::START) as i16).unsigned_abs() < 16;
    instruction.flow_control() != FlowControl::Next && (near(instruction.near_branch_target()) || near(rip))
}

/// Whether the emulator knows an instruction, and it ends.
fn is_known(case: &Case) -> bool {
    let mut state = VcpuState::pvh(cases::START as u32, 0);
    match case.bits {
        64 => (state.efer, state.cs.attributes) = (0x500, 0xa9b),
        16 => {
            (state.cs.attributes, state.cs.base, state.rip) = (0x9b, cases::CODE, cases::START - cases::CODE);
            for segment in [&mut state.ds, &mut state.es, &mut state.ss] {
                segment.base = cases::WINDOW;
            }
        }
        _ => {}
    }
    state.gpr = case.gpr;
    // Far fewer iterations are as good for the question.
    if !cases::decode(case).is_loop() && !cases::decode(case).is_jcx_short() {
        state.gpr[1] &= 0xff;
    }
    let outcome = emulate::step(&mut state, &mut Code(&case.code, Nothing));
    !matches!(outcome, Outcome::Unknown(_)) && !returns(case, state.rip)
}

/// The table of cases, as the guest reads it.
fn table(seed: u64, each: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = ((3 * each) as u64).to_le_bytes().to_vec();
    bytes.extend([0; 8]);
    for bits in [16, 32, 64] {
        let mut count = 0;
        while count < each {
            let Some(case) = cases::case(&mut random, bits, Level::Kernel) else { continue };
            if !is_known(&case) {
                continue;
            }
            count += 1;
            let instruction = cases::decode(&case);
            let length = if instruction.is_invalid() { 16 } else { instruction.len() };
            // Rotations that fault have changed flags in QEMU.
            let rotates = matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr);
            let open = cases::undefined(&case) | u64::from(cases::many(&case) || rotates) << 32;
            bytes.extend(case.bytes());
            bytes.extend(open.to_le_bytes());
            bytes.extend((length as u64).to_le_bytes());
        }
    }
    bytes
}

/// Firmware that has the guest and the cases. At the reset vector it goes to protected mode, copies the guest to where
/// it belongs, and starts it as a PVH loader would.
fn firmware(cases: &[u8]) -> Vec<u8> {
    let image = fs::read(Run::tiny_image("prefix")).expect("the image");
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&image).expect("an ELF");
    let mut flat = Vec::new();
    for segment in elf.segments().expect("segments").iter().filter(|segment| segment.p_type == PT_LOAD) {
        let data = elf.segment_data(&segment).expect("its bytes");
        let at = usize::try_from(segment.p_paddr - IMAGE).expect("above the image's begin");
        flat.resize(flat.len().max(at + data.len()), 0);
        flat[at..at + data.len()].copy_from_slice(data);
    }
    flat.resize(flat.len().next_multiple_of(4), 0);
    assert!(flat.len() <= TABLE && cases.len() <= ROM - TABLE - 0x1_0000, "{} {}", flat.len(), cases.len());
    let mut rom = vec![0xf4; ROM];
    rom[..flat.len()].copy_from_slice(&flat);
    rom[TABLE..TABLE + cases.len()].copy_from_slice(cases);
    let words = (flat.len() as u32 / 4).to_le_bytes();
    let entry = (elf.ehdr.e_entry as u32).to_le_bytes();
    #[rustfmt::skip]
    let mut stub = vec![
        0xfa, 0xfc,                                     // ff00: cli; cld
        0x2e, 0x66, 0x0f, 0x01, 0x16, 0x60, 0xff,       // lgdt [cs:0xff60]
        0xb8, 0x01, 0x00, 0x0f, 0x22, 0xc0,             // mov ax, 1; mov cr0, eax
        0x66, 0xea, 0x17, 0xff, 0xff, 0xff, 0x08, 0x00, // jmp 8:0xffffff17
        0x66, 0xb8, 0x10, 0x00,                         // ff17: mov ax, 0x10
        0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0,             // mov ds, eax; mov es, eax; mov ss, eax
        0xbe, 0x00, 0x00, 0xf0, 0xff,                   // mov esi, 0xfff00000
        0xbf, 0x00, 0x00, 0x10, 0x00,                   // mov edi, 0x100000
        0xb9,                                           // mov ecx, the image's words
    ];
    stub.extend(words);
    stub.extend([0xf3, 0xa5, 0x31, 0xdb, 0xb8]); // rep movsd; xor ebx, ebx; mov eax, the entry
    stub.extend(entry);
    stub.extend([0xff, 0xe0]); // jmp eax
    rom[ROM - 0x100..][..stub.len()].copy_from_slice(&stub);
    let table = [0x17u8, 0, 0x70, 0xff, 0xff, 0xff];
    rom[ROM - 0xa0..][..6].copy_from_slice(&table);
    for (n, descriptor) in [0u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
        rom[ROM - 0x90 + n * 8..][..8].copy_from_slice(&descriptor.to_le_bytes());
    }
    rom[ROM - 0x10..][..3].copy_from_slice(&[0xe9, 0x0d, 0xff]); // jmp 0xff00
    rom
}

#[test]
fn the_emulator_does_what_the_processor_does() {
    let full = std::env::var("TRUNNION_TIER").is_ok_and(|tier| tier == "full");
    let seed = std::env::var("TRUNNION_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed);
    let run = Run::new(DRIVER, QEMU_SVM);
    let cases = table(seed, if full { FULL } else { CASES });
    fs::write(run.path().join("prefix.rom"), firmware(&cases)).expect("the firmware can be written");
    let text = "name = \"prefix\"\ntype = \"hvm\"\nmemory = 16\nhvm_fep = 1\n\
                firmware_override = \"prefix.rom\"\non_reboot = \"destroy\"\n";
    let ended = run.domain("prefix", text).go(120);
    let console = ended.console("prefix");
    assert!(!console.contains("DIFFER"), "seed {seed}\n{console}");
    ended.assert_passed("prefix");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}
