//! The plain MOV forms with which kernels use their local APIC.
//!
//! The core carries out nothing else on memory: a register or an immediate to memory, memory to a register. Where the
//! memory is, the second-level fault has said. Checked against a full decoder by property tests.

use crate::decode::{LONGEST, modrm, prefixes};
use crate::prelude::*;

/// A register, or one of the four second-lowest bytes that old encodings can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// The whole register.
    pub whole: Gpr,
    /// Bits 15:8 of it: AH, CH, DH, BH.
    pub high: bool,
}

/// What is moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// Memory to this register.
    Load(Register),
    /// This register to memory.
    Store(Register),
    /// This value to memory, sign-extended to 64 bits.
    StoreImmediate(u64),
}

/// A MOV between memory and a register, or from an immediate to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mov {
    /// Bytes of the instruction.
    pub length: u8,
    /// Bytes moved: 1, 2, 4 or 8.
    pub size: u8,
    /// What is moved.
    pub operand: Operand,
}

impl Mov {
    /// The value that goes to memory, its size in the low bits; `None` for a load.
    pub fn stored(&self, register: impl FnOnce(Gpr) -> u64) -> Option<u64> {
        let value = match self.operand {
            Operand::Load(_) => return None,
            Operand::Store(Register { whole, high }) => register(whole) >> if high { 8 } else { 0 },
            Operand::StoreImmediate(value) => value,
        };
        Some(value & mask(self.size))
    }

    /// The register that a load changes, and its new contents: four bytes clear the upper half, fewer leave the rest as
    /// it is. `None` for a store.
    pub fn loaded(&self, value: u64, register: impl FnOnce(Gpr) -> u64) -> Option<(Gpr, u64)> {
        let Operand::Load(Register { whole, high }) = self.operand else { return None };
        let shift = if high { 8 } else { 0 };
        let kept = if self.size >= 4 { 0 } else { register(whole) & !(mask(self.size) << shift) };
        Some((whole, kept | (value & mask(self.size)) << shift))
    }
}

pub(crate) const fn mask(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

/// Reads the instruction at the start of `bytes`; `None` when it is anything else, or not all there.
pub fn decode(bytes: &[u8], mode: CodeMode) -> Option<Mov> {
    let found = prefixes(bytes, mode)?;
    if found.lock {
        return None;
    }
    let (&opcode, rest) = bytes.get(found.length..)?.split_first()?;
    // The lowest bit of each of these opcodes: 0 is the form for bytes.
    let size = if opcode & 1 == 0 { 1 } else { found.operand_bytes(mode) };
    let register = |encoding: u8| {
        let high = size == 1 && found.rex == 0 && encoding & 7 >= 4;
        Register { whole: Gpr::from_encoding(if high { encoding & 3 } else { encoding }), high }
    };
    let address = found.address_bits(mode);
    let (operand, after) = match opcode {
        0x88..=0x8b => {
            let modrm = modrm(rest, address).filter(|modrm| modrm.mode != 3)?;
            let register = register(modrm.register | found.rex << 1 & 8);
            let operand = if opcode & 2 == 0 { Operand::Store(register) } else { Operand::Load(register) };
            (operand, modrm.length)
        }
        0xc6 | 0xc7 => {
            let modrm = modrm(rest, address).filter(|modrm| modrm.mode != 3 && modrm.register == 0)?;
            let immediate = rest.get(modrm.length..)?;
            let (value, length) = match size {
                1 => (i64::from(*immediate.first()? as i8), 1),
                2 => (i64::from(i16::from_le_bytes(*immediate.first_chunk()?)), 2),
                _ => (i64::from(i32::from_le_bytes(*immediate.first_chunk()?)), 4),
            };
            (Operand::StoreImmediate(value as u64), modrm.length + length)
        }
        0xa0..=0xa3 => {
            let accumulator = Register { whole: Gpr::Rax, high: false };
            let length = usize::from(address / 8);
            rest.get(..length)?;
            (if opcode & 2 == 0 { Operand::Load(accumulator) } else { Operand::Store(accumulator) }, length)
        }
        _ => return None,
    };
    let length = found.length + 1 + after;
    (length <= LONGEST).then_some(Mov { length: length as u8, size, operand })
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Decoder, DecoderOptions, OpKind};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_linux_uses() {
        // mov %esi, -0xa00000(%rdi) and mov -0xa00000(%rdi), %eax
        let store = decode(&[0x89, 0xb7, 0, 0, 0x60, 0xff], CodeMode::Bits64).unwrap();
        assert_eq!((store.length, store.size), (6, 4));
        assert_eq!(
            store.stored(|register| if register == Gpr::Rsi { 0x1_2345_6789 } else { 0 }),
            Some(0x2345_6789)
        );
        let load = decode(&[0x8b, 0x87, 0, 0, 0x60, 0xff], CodeMode::Bits64).unwrap();
        assert_eq!(load.loaded(0xffff_ffff_8000_0000, |_| u64::MAX), Some((Gpr::Rax, 0x8000_0000)));
        // movl $0, 0xffffffffff5fd0b0
        let end = decode(&[0xc7, 0x04, 0x25, 0xb0, 0xd0, 0x5f, 0xff, 0, 0, 0, 0], CodeMode::Bits64).unwrap();
        assert_eq!((end.length, end.stored(|_| 7)), (11, Some(0)));
    }

    #[test]
    fn parts_of_registers() {
        let ah = decode(&[0x8a, 0x20], CodeMode::Bits32).unwrap();
        assert_eq!(ah.loaded(0x1ff, |_| 0x1122_3344), Some((Gpr::Rax, 0x1122_ff44)));
        let store = decode(&[0x88, 0x38], CodeMode::Bits32).unwrap();
        assert_eq!(store.stored(|register| if register == Gpr::Rbx { 0xabcd } else { 0 }), Some(0xab));
        let dil = decode(&[0x40, 0x88, 0x38], CodeMode::Bits64).unwrap();
        assert_eq!(dil.operand, Operand::Store(Register { whole: Gpr::Rdi, high: false }));
        let ax = decode(&[0x66, 0xa1, 1, 2, 3, 4], CodeMode::Bits32).unwrap();
        assert_eq!(
            (ax.length, ax.loaded(0xffff_1234, |_| 0xaaaa_bbbb_cccc_dddd)),
            (6, Some((Gpr::Rax, 0xaaaa_bbbb_cccc_1234)))
        );
        assert_eq!(decode(&[0x66; 15], CodeMode::Bits64), None);
        assert_eq!(decode(&[0xf0, 0x89, 0x30], CodeMode::Bits64), None);
    }

    const MOVES: [Code; 20] = [
        Code::Mov_rm8_r8,
        Code::Mov_rm16_r16,
        Code::Mov_rm32_r32,
        Code::Mov_rm64_r64,
        Code::Mov_r8_rm8,
        Code::Mov_r16_rm16,
        Code::Mov_r32_rm32,
        Code::Mov_r64_rm64,
        Code::Mov_AL_moffs8,
        Code::Mov_AX_moffs16,
        Code::Mov_EAX_moffs32,
        Code::Mov_RAX_moffs64,
        Code::Mov_moffs8_AL,
        Code::Mov_moffs16_AX,
        Code::Mov_moffs32_EAX,
        Code::Mov_moffs64_RAX,
        Code::Mov_rm8_imm8,
        Code::Mov_rm16_imm16,
        Code::Mov_rm32_imm32,
        Code::Mov_rm64_imm32,
    ];

    /// The same instruction by the full decoder.
    fn reference(bytes: &[u8], bits: u32) -> Option<Mov> {
        let instruction = Decoder::new(bits, bytes, DecoderOptions::NONE).decode();
        if !MOVES.contains(&instruction.code()) {
            return None;
        }
        let size = instruction.memory_size().size() as u8;
        let register = |index| {
            let register = instruction.op_register(index);
            let high = register.is_gpr8() && (4..8).contains(&register.number()) && {
                use iced_x86::Register::{AH, BH, CH, DH};
                [AH, CH, DH, BH].contains(&register)
            };
            Register { whole: Gpr::from_encoding(register.full_register().number() as u8), high }
        };
        let operand = if instruction.op0_kind() == OpKind::Memory {
            match instruction.op1_kind() {
                OpKind::Register => Operand::Store(register(1)),
                OpKind::Immediate8 => Operand::StoreImmediate(instruction.immediate8() as i8 as u64),
                OpKind::Immediate16 => Operand::StoreImmediate(instruction.immediate16() as i16 as u64),
                OpKind::Immediate32 => Operand::StoreImmediate(instruction.immediate32() as i32 as u64),
                OpKind::Immediate32to64 => Operand::StoreImmediate(instruction.immediate32to64() as u64),
                _ => return None,
            }
        } else if instruction.op1_kind() == OpKind::Memory {
            Operand::Load(register(0))
        } else {
            return None;
        };
        Some(Mov { length: instruction.len() as u8, size, operand })
    }

    fn prefix() -> impl Strategy<Value = u8> {
        prop::sample::select(&[0x66u8, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x65, 0x40, 0x44, 0x48, 0x41, 0x4f][..])
    }

    fn opcode() -> impl Strategy<Value = u8> {
        prop_oneof![8 => prop::sample::select(&[0x88u8, 0x89, 0x8a, 0x8b, 0xa0, 0xa1, 0xa2, 0xa3, 0xc6, 0xc7][..]), 1 => any::<u8>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        /// Both decoders agree: the same instruction, or none.
        #[test]
        fn agrees_with_a_decoder(
            prefixes in proptest::collection::vec(prefix(), 0..4),
            opcode in opcode(),
            tail in proptest::collection::vec(any::<u8>(), 0..14),
            clear: bool,
            bits in prop::sample::select(&[16u32, 32, 64][..]),
        ) {
            let mut bytes = prefixes;
            bytes.push(opcode);
            let mut tail = tail;
            if clear && matches!(opcode, 0xc6 | 0xc7) && let Some(first) = tail.first_mut() { *first &= 0xc7; }
            bytes.extend(tail);
            let bytes = bytes.get(..15).unwrap_or(&bytes);
            let mode = match bits { 16 => CodeMode::Bits16, 32 => CodeMode::Bits32, _ => CodeMode::Bits64 };
            prop_assert_eq!(decode(bytes, mode), reference(bytes, bits), "{:x?} {}", bytes, bits);
        }

        /// No bytes make it panic.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            for mode in [CodeMode::Real, CodeMode::Bits16, CodeMode::Bits32, CodeMode::Bits64] {
                if let Some(mov) = decode(&bytes, mode) { prop_assert!(usize::from(mov.length) <= bytes.len()); }
            }
        }
    }
}
