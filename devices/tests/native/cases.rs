//! Random instructions that a process may execute, with registers that make most of their accesses hit.

use iced_x86::{InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::child::{CODE, Case, START, WINDOW};
use super::decode;

/// A small generator (splitmix64): the same cases for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, one_of: u64) -> bool {
        self.below(one_of) == 0
    }

    /// An address in the window, often at a page's end.
    fn place(&mut self) -> u64 {
        match self.below(8) {
            0 => WINDOW + 0x1000 - self.below(20),
            1 => WINDOW + 0x2000 - self.below(20),
            2 => WINDOW + 0x3000 - self.below(20),
            3 => WINDOW + self.below(8),
            _ => WINDOW + 0x100 + self.below(0x2e00),
        }
    }

    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(40),
            1 => [0, 1, u64::MAX, 1 << 63, i64::MAX as u64, 0x8000_0000, 0x7fff_ffff, 0x8000, 0x80]
                [self.below(9) as usize],
            2 => 1 << self.below(64),
            3..=5 => self.place(),
            _ => self.next(),
        }
    }
}

/// What differs by the machine that the process runs on, or would end the child: not compared.
fn excluded(name: Mnemonic) -> bool {
    matches!(
        name,
        // Gates, descriptor tables and segments are Linux's.
        Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Into | Mnemonic::Int1
            | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq | Mnemonic::Retf
            | Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss
            | Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw
            // Linux answers these for the process.
            | Mnemonic::Sidt | Mnemonic::Sgdt | Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw
            // The answers are the processor's own.
            | Mnemonic::Cpuid | Mnemonic::Rdtsc | Mnemonic::Rdtscp
    )
}

/// A random case, unless what came out cannot be compared.
pub(crate) fn case(random: &mut Random, bits: u32) -> Option<Case> {
    let mut code = Vec::new();
    for (prefix, one_of) in [
        (0x66, 4),
        (0x67, 12),
        (0xf2, 12),
        (0xf3, 8),
        (0xf0, 16),
        (0x2e, 40),
        (0x36, 40),
        (0x3e, 40),
        (0x26, 40),
    ] {
        if random.chance(one_of) {
            code.push(prefix);
        }
    }
    if bits == 64 && random.chance(2) {
        code.push(0x40 | random.below(16) as u8);
    }
    match random.below(8) {
        0..=1 => code.extend([0x0f, random.next() as u8]),
        2 if random.chance(6) => code.extend([0x0f, 0x38, 0xf0 | random.below(2) as u8]),
        _ => code.push(random.next() as u8),
    }
    let opcode_end = code.len();
    if let [.., last] = code.as_slice()
        && opcode_end < 15
        && matches!(last, 0xc4 | 0xc5 | 0x62 | 0x8f)
        && !code.contains(&0x0f)
    {
        // Vector extensions in their own encodings, which the decoder is built without, share these.
        return None;
    }
    // Displacements and immediates: small, or an address of the window.
    code.push(random.next() as u8);
    if random.chance(2) {
        code.push(random.next() as u8);
    }
    if random.chance(2) {
        code.extend((random.place() as u32).to_le_bytes());
    }
    while code.len() < 16 {
        code.push(random.next() as u8);
    }
    let mut case = Case {
        bits,
        code: code[..16].try_into().ok()?,
        gpr: std::array::from_fn(|_| random.value()),
        flags: 0x202 | random.next() & 0x8d5 | u64::from(random.chance(3)) << 10,
    };
    if bits == 32 {
        case.gpr.iter_mut().for_each(|value| *value &= 0xffff_ffff);
    }
    let instruction = decode(&case);
    if excluded(instruction.mnemonic()) {
        return None;
    }
    if instruction.is_invalid()
        && case.code.iter().take(12).any(|byte| matches!(byte, 0xc4 | 0xc5 | 0x62 | 0x8f))
    {
        return None;
    }
    // Too long by one byte because of a LOCK: #GP to the processor, #UD to the decoder.
    let unlocked: Vec<u8> = case.code.iter().copied().filter(|&byte| byte != 0xf0).chain([0; 16]).collect();
    let unlocked = Case { code: unlocked[..16].try_into().unwrap_or(case.code), ..case };
    if instruction.is_invalid() && case.code.contains(&0xf0) && decode(&unlocked).len() >= 15 {
        return None;
    }
    // Behind the instruction only what ends a case.
    let length = if instruction.is_invalid() { 16 } else { instruction.len() };
    case.code[length..].fill(0xf4);
    aim(random, &mut case, &instruction);
    let name = instruction.mnemonic();
    let small = instruction.op0_register().size() == 2 || instruction.memory_size().size() == 2;
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&instruction);
    let segments = info
        .used_registers()
        .iter()
        .any(|used| used.register().is_segment_register() && used.access() != OpAccess::Read);
    // Bases of FS and GS are the child's own; where the manual leaves the result open; and branches with a 16-bit operand, which
    // the vendors read differently in 64-bit code.
    let own = bits == 64 && matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    let open = name == Mnemonic::Bswap && small
        || matches!(name, Mnemonic::Shld | Mnemonic::Shrd) && small && count(&instruction, &case) > 16;
    let vendor = bits == 64
        && case.code[..length].contains(&0x66)
        && (instruction.is_jcc_short_or_near()
            || instruction.is_loop()
            || instruction.is_loopcc()
            || instruction.is_jcx_short()
            || matches!(name, Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Ret));
    let far = instruction.is_call_far()
        || instruction.is_jmp_far()
        || instruction.is_call_far_indirect()
        || instruction.is_jmp_far_indirect();
    // Repeat prefixes mean something before LOOPE and LOOPNE that no manual says; REX.B makes an XCHG of a PAUSE, which the
    // decoder does not see; LOCK makes CR8 of CR0 on one vendor's; VMCALL, VERW and their neighbours are answered by whoever runs this machine.
    let secret = matches!(name, Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Pause)
        && case.code[..length].iter().any(|byte| matches!(byte, 0xf2 | 0xf3))
        || instruction.is_invalid()
            && case.code.windows(2).any(|pair| matches!(pair, [0x0f, 0x00 | 0x01 | 0x20 | 0x22]));
    if segments || own || open || vendor || far || secret {
        return None;
    }
    Some(case)
}

fn count(instruction: &iced_x86::Instruction, case: &Case) -> u64 {
    let count = match instruction.op2_kind() {
        OpKind::Immediate8 => instruction.immediate8().into(),
        _ => case.gpr[1],
    };
    count & 31
}

/// Moves the registers of an address so that most accesses are in the window.
fn aim(random: &mut Random, case: &mut Case, instruction: &iced_x86::Instruction) {
    if random.chance(6) {
        return;
    }
    let mask = if case.bits == 32 { 0xffff_ffff } else { u64::MAX };
    for register in [4, 6, 7] {
        case.gpr[register] = random.place();
    }
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        case.gpr[1] = random.below(40);
    }
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if base.is_gpr() && base.size() >= 4 && base != index {
        let address = instruction.virtual_address(0, 0, |register, _, _| {
            Some(if register.is_gpr() { case.gpr[register.full_register().number()] } else { 0 })
        });
        if let Some(address) = address {
            let number = base.full_register().number();
            case.gpr[number] = case.gpr[number].wrapping_add(random.place().wrapping_sub(address)) & mask;
        }
    }
    // A quarter of the branches through a register or memory has somewhere to go.
    if matches!(instruction.op0_kind(), OpKind::Register)
        && matches!(instruction.mnemonic(), Mnemonic::Jmp | Mnemonic::Call)
        && instruction.op0_register().is_gpr()
    {
        case.gpr[instruction.op0_register().full_register().number()] = CODE + random.below(0x700);
    }
}

/// Flags that the manual leaves undefined after an instruction.
pub(crate) fn undefined(case: &Case) -> u64 {
    let bits = decode(case).rflags_undefined();
    [
        (iced_x86::RflagsBits::OF, 11),
        (iced_x86::RflagsBits::SF, 7),
        (iced_x86::RflagsBits::ZF, 6),
        (iced_x86::RflagsBits::AF, 4),
        (iced_x86::RflagsBits::CF, 0),
        (iced_x86::RflagsBits::PF, 2),
    ]
    .iter()
    .filter(|(flag, _)| bits & flag != 0)
    .map(|(_, bit)| 1 << bit)
    .sum()
}

/// Whether the instruction touches several places, whose order is the processor's own.
pub(crate) fn many(case: &Case) -> bool {
    matches!(
        decode(case).mnemonic(),
        Mnemonic::Pusha
            | Mnemonic::Pushad
            | Mnemonic::Popa
            | Mnemonic::Popad
            | Mnemonic::Enter
            | Mnemonic::Call
            | Mnemonic::Cmpxchg16b
    )
}

/// The instruction's name.
pub(crate) fn name(case: &Case) -> String {
    format!("{:?}", decode(case).mnemonic())
}

/// A case for people.
pub(crate) fn describe(case: &Case) -> String {
    let instruction = decode(case);
    format!(
        "{} bits, {:?} {:02x?} at {START:#x}, flags {:x}, registers {:x?}",
        case.bits,
        instruction.code(),
        &case.code[..instruction.len().clamp(1, 15)],
        case.flags,
        case.gpr
    )
}
