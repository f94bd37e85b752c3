//! Random instructions that a process may execute, with registers that make most of their accesses hit.

use iced_x86::{Code, Decoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

/// The page of code, which reads and executes.
pub(crate) const CODE: u64 = 0x1000_0000;
/// Where the instruction begins: it may cross into nothing at the page's end only by jumping.
pub(crate) const START: u64 = CODE + 0x800;
/// The window: two pages that can be written, and one that can be read. Nothing before and behind.
pub(crate) const WINDOW: u64 = 0x2000_0000;
/// Bytes of the window.
pub(crate) const LENGTH: usize = 0x3000;
/// Bytes of it that can be written.
pub(crate) const WRITABLE: usize = 0x2000;
/// An instruction with its registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) bits: u32,
    pub(crate) code: [u8; 16],
    pub(crate) gpr: [u64; 16],
    pub(crate) flags: u64,
}

impl Case {
    pub(crate) const BYTES: usize = 8 + 16 + 8 * 17;

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = u64::from(self.bits).to_le_bytes().to_vec();
        bytes.extend(self.code);
        bytes.extend(self.gpr.iter().chain([&self.flags]).flat_map(|value| value.to_le_bytes()));
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let word = |n: usize| u64::from_le_bytes(bytes[n..n + 8].try_into().unwrap());
        let mut gpr = [0; 16];
        for (n, value) in gpr.iter_mut().enumerate() {
            *value = word(24 + 8 * n);
        }
        Self { bits: word(0) as u32, code: bytes[8..24].try_into().unwrap(), gpr, flags: word(152) }
    }
}

/// Decodes a case's instruction.
pub(crate) fn decode(case: &Case) -> Instruction {
    Decoder::with_ip(case.bits, &case.code, START, 0).decode()
}

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

/// Who executes a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// A process of Linux.
    User,
    /// A guest of its own, which may all.
    #[allow(dead_code, reason = "the machine's comparison is another program")]
    Kernel,
}

/// What a guest that may all cannot do twice, or not come back from.
fn irreversible(name: Mnemonic) -> bool {
    matches!(
        name,
        Mnemonic::Hlt
            | Mnemonic::Cli
            | Mnemonic::Sti
            | Mnemonic::Int
            | Mnemonic::Int1
            | Mnemonic::Int3
            | Mnemonic::Into
            | Mnemonic::Lgdt
            | Mnemonic::Lidt
            | Mnemonic::Lldt
            | Mnemonic::Ltr
            | Mnemonic::Lmsw
            | Mnemonic::Clts
            | Mnemonic::Invd
            | Mnemonic::Wbinvd
            | Mnemonic::Wbnoinvd
            | Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Insb
            | Mnemonic::Insw
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd
            | Mnemonic::Rdmsr
            | Mnemonic::Wrmsr
            | Mnemonic::Rdpmc
            | Mnemonic::Cpuid
            | Mnemonic::Rdtsc
            | Mnemonic::Rdtscp
            | Mnemonic::Iret
            | Mnemonic::Iretd
            | Mnemonic::Iretq
    )
}

/// A random case, unless what came out cannot be compared.
pub(crate) fn case(random: &mut Random, bits: u32, level: Level) -> Option<Case> {
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
    if bits == 16 {
        // The data segments begin at the window.
        case.gpr
            .iter_mut()
            .filter(|value| (WINDOW..WINDOW + 0x4000).contains(value))
            .for_each(|value| *value -= WINDOW);
    }
    if bits != 64 {
        case.gpr.iter_mut().for_each(|value| *value &= 0xffff_ffff);
    }
    let instruction = decode(&case);
    let name = instruction.mnemonic();
    let unfit = match level {
        Level::User => excluded(name),
        Level::Kernel => {
            irreversible(name)
                || (0..instruction.op_count()).any(|operand| {
                    let register = instruction.op_register(operand);
                    register.is_cr() || register.is_dr() || register.is_tr()
                })
        }
    };
    if unfit {
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
    if level == Level::Kernel && differs_in_qemu(&case, &instruction) {
        return None;
    }
    let small = instruction.op0_register().size() == 2 || instruction.memory_size().size() == 2;
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&instruction);
    let segments = info
        .used_registers()
        .iter()
        .any(|used| used.register().is_segment_register() && used.access() != OpAccess::Read);
    // Bases of FS and GS are the child's own; where the manual leaves the result open; and branches with a 16-bit operand and pointers
    // with one of 64 bits, which the vendors read differently in 64-bit code.
    let own = bits == 64 && matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    let open = name == Mnemonic::Bswap && small
        || matches!(name, Mnemonic::Shld | Mnemonic::Shrd) && small && count(&instruction, &case) > 16;
    let vendor = bits == 64
        && case.code[..length].contains(&0x66)
        && (instruction.is_jcc_short_or_near()
            || instruction.is_loop()
            || instruction.is_loopcc()
            || instruction.is_jcx_short()
            || matches!(name, Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Ret))
        || matches!(instruction.code(), Code::Lss_r64_m1664 | Code::Lfs_r64_m1664 | Code::Lgs_r64_m1664);
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
    if level == Level::User && segments || own || open || vendor || far || secret {
        return None;
    }
    Some(case)
}

/// What QEMU's processor does otherwise than the manuals say, and the host's does.
fn differs_in_qemu(case: &Case, instruction: &Instruction) -> bool {
    let name = instruction.mnemonic();
    // It lets LOCK pass before everything, and knows TEST by one number only.
    let decoded = instruction.is_invalid() && case.code.contains(&0xf0)
        || matches!(
            instruction.code(),
            Code::Test_rm8_imm8_F6r1
                | Code::Test_rm16_imm16_F7r1
                | Code::Test_rm32_imm32_F7r1
                | Code::Test_rm64_imm32_F7r1
        );
    // Operands of 32 bits without a prefix, and of 16 with one although REX.W goes before it; what RET takes off the stack is a signed number.
    let wide = case.code[..instruction.len()].contains(&0x66) && instruction.op0_register().size() != 2;
    let counted = (case.bits == 16 || case.bits == 64 && wide)
        && matches!(name, Mnemonic::Movbe | Mnemonic::Crc32)
        || name == Mnemonic::Ret && instruction.op_count() > 0 && instruction.immediate16() > 0x7fff;
    // Where the next instruction is, it counts without the immediate byte of these.
    let relative = instruction.is_ip_rel_memory_operand() && matches!(name, Mnemonic::Shld | Mnemonic::Shrd);
    // A REX that is not the last prefix still counts.
    let legacy =
        |byte: u8| matches!(byte, 0x66 | 0x67 | 0xf2 | 0xf3 | 0xf0 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65);
    let rex = |byte: u8| case.bits == 64 && matches!(byte, 0x40..=0x4f);
    let mut prefixes = case.code.iter().copied().take_while(|&byte| legacy(byte) || rex(byte));
    let early = prefixes.any(rex) && prefixes.next().is_some();
    // Code can be written to.
    let written = case.bits != 64
        && instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_segment() == Register::CS;
    decoded
        || counted
        || relative
        || early
        || written
        || name == Mnemonic::Enter
            && (instruction.immediate16() > 0x100 || ends_unwritable(case, instruction))
}

/// Whether the stack can be written where ENTER pushes first, and not at its new end: there the processor faults (SDM 2, ENTER, Operation), and
/// QEMU does not look. A frame of more than 256 bytes mostly ends so.
fn ends_unwritable(case: &Case, instruction: &Instruction) -> bool {
    let size = match instruction.code() {
        Code::Enterq_imm16_imm8 => 8,
        Code::Enterd_imm16_imm8 => 4,
        _ => 2,
    };
    let pushed = size * (u64::from(instruction.immediate8_2nd() & 31) + 1);
    let below = |bytes: u64| case.gpr[4].wrapping_sub(bytes);
    let writable = |at: u64| {
        let linear = match case.bits {
            16 => (at & 0xffff).wrapping_add(WINDOW),
            32 => at & 0xffff_ffff,
            _ => at,
        };
        (WINDOW..WINDOW + WRITABLE as u64).contains(&linear)
    };
    writable(below(size)) && !writable(below(pushed + u64::from(instruction.immediate16())))
}

fn count(instruction: &Instruction, case: &Case) -> u64 {
    let count = match instruction.op_kind(instruction.op_count() - 1) {
        OpKind::Immediate8 => instruction.immediate8().into(),
        _ => case.gpr[1],
    };
    count & 31
}

/// Moves the registers of an address so that most accesses are in the window.
fn aim(random: &mut Random, case: &mut Case, instruction: &Instruction) {
    if random.chance(6) {
        return;
    }
    let mask = if case.bits == 64 { u64::MAX } else { 0xffff_ffff };
    let start = if case.bits == 16 { WINDOW } else { 0 };
    for register in [4, 6, 7] {
        case.gpr[register] = random.place() - start;
    }
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        case.gpr[1] = random.below(40);
    }
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if base.is_gpr() && (base.size() >= 4 || case.bits == 16) && base != index {
        let address = instruction.virtual_address(0, 0, |register, _, _| {
            Some(if register.is_gpr() { case.gpr[register.full_register().number()] } else { 0 })
        });
        if let Some(address) = address {
            let number = base.full_register().number();
            case.gpr[number] =
                case.gpr[number].wrapping_add((random.place() - start).wrapping_sub(address)) & mask;
        }
    }
    // A quarter of the branches through a register or memory has somewhere to go.
    if matches!(instruction.op0_kind(), OpKind::Register)
        && matches!(instruction.mnemonic(), Mnemonic::Jmp | Mnemonic::Call)
        && instruction.op0_register().is_gpr()
    {
        let page = if case.bits == 16 { 0 } else { CODE };
        case.gpr[instruction.op0_register().full_register().number()] = page + random.below(0x700);
    }
}

/// Flags that the manual leaves undefined after an instruction.
pub(crate) fn undefined(case: &Case) -> u64 {
    let mut bits = decode(case).rflags_undefined();
    // The decoder takes a rotation by a multiple of the width for none.
    if matches!(decode(case).mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr) && count(&decode(case), case) != 1 {
        bits |= iced_x86::RflagsBits::OF;
    }
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

/// Whether the instruction touches several places, whose order is the processor's own. Tables' registers are stored as a limit and then a base
/// (SDM 2, *SGDT* and *SIDT*, Operation): where the base's page cannot be written, the limit may be there or not.
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
            | Mnemonic::Sgdt
            | Mnemonic::Sidt
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
