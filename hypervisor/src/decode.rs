//! What every instruction begins with: prefixes, and how long a ModRM operand is (SDM volume 2, chapter 2).

use crate::prelude::*;

/// No instruction is longer (SDM 2.3.11).
pub const LONGEST: usize = 15;

/// The prefixes of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prefixes {
    /// Bytes they take.
    pub length: usize,
    /// 66: the other operand size.
    pub operand: bool,
    /// 67: the other address size.
    pub address: bool,
    /// F0.
    pub lock: bool,
    /// F2 or F3.
    pub repeat: bool,
    /// REX, or 0. Only a REX directly before the opcode counts.
    pub rex: u8,
}

impl Prefixes {
    /// REX.W: operands of 64 bits.
    pub const fn wide(self) -> bool {
        self.rex & 8 != 0
    }

    /// Bits of an address.
    pub const fn address_bits(self, mode: CodeMode) -> u8 {
        match (mode, self.address) {
            (CodeMode::Bits64, false) => 64,
            (CodeMode::Bits64 | CodeMode::Bits16 | CodeMode::Real, true) | (CodeMode::Bits32, false) => 32,
            (CodeMode::Bits32, true) | (CodeMode::Bits16 | CodeMode::Real, false) => 16,
        }
    }

    /// Bytes of an operand that is not a byte.
    pub const fn operand_bytes(self, mode: CodeMode) -> u8 {
        let long = match mode {
            CodeMode::Bits64 | CodeMode::Bits32 => !self.operand,
            CodeMode::Bits16 | CodeMode::Real => self.operand,
        };
        if self.wide() {
            8
        } else if long {
            4
        } else {
            2
        }
    }
}

/// Reads the prefixes; `None` when nothing but prefixes is there.
pub fn prefixes(bytes: &[u8], mode: CodeMode) -> Option<Prefixes> {
    let mut found = Prefixes::default();
    for &byte in bytes.iter().take(LONGEST) {
        let rex = core::mem::take(&mut found.rex);
        match byte {
            0x66 => found.operand = true,
            0x67 => found.address = true,
            0xf0 => found.lock = true,
            0xf2 | 0xf3 => found.repeat = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
            0x40..=0x4f if matches!(mode, CodeMode::Bits64) => found.rex = byte,
            _ => {
                found.rex = rex;
                return Some(found);
            }
        }
        found.length += 1;
    }
    None
}

/// A ModRM byte with what belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModRm {
    /// Bits 7:6; 3 is a register operand.
    pub mode: u8,
    /// Bits 5:3: a register or a part of the opcode, without REX.R.
    pub register: u8,
    /// Bits 2:0, without REX.B.
    pub operand: u8,
    /// Bytes of ModRM, SIB and displacement.
    pub length: usize,
}

/// Reads the ModRM byte that `bytes` begins with; `None` when there are too few bytes.
pub fn modrm(bytes: &[u8], address_bits: u8) -> Option<ModRm> {
    let byte = *bytes.first()?;
    let (mode, register, operand) = (byte >> 6, byte >> 3 & 7, byte & 7);
    let sib = address_bits != 16 && mode != 3 && operand == 4;
    let base = if sib { *bytes.get(1)? & 7 } else { operand };
    let displacement = match (address_bits, mode) {
        (_, 3) => 0,
        (_, 1) => 1,
        (16, 0) if operand != 6 => 0,
        (16, _) => 2,
        (_, 0) if base != 5 => 0,
        _ => 4,
    };
    let length = 1 + usize::from(sib) + displacement;
    (bytes.len() >= length).then_some(ModRm { mode, register, operand, length })
}
