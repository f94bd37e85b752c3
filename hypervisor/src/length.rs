//! How long an intercepted instruction is, where the processor does not say.
//!
//! Processors without next-RIP save (QEMU's SVM among them) leave only the reason of the exit. The bytes at the
//! instruction pointer are compared with the opcodes that have that reason; where they differ, prefixes are skipped and
//! they are compared again. Bytes that do not fit are not what the processor executed: the guest changed its code in the
//! meantime, and gets #UD.

use crate::decode::{LONGEST, Prefixes, modrm, prefixes};
use crate::prelude::*;

impl Exit {
    /// The length of the frequent instructions where they stand without prefixes, which is how kernels write them.
    pub const fn plain(&self, bytes: [u8; 4]) -> Option<u8> {
        let (opcode, length) = match self {
            Self::Hypercall => ([0x0f, 0x01, 0xd9, 0], 3),
            Self::Cpuid => ([0x0f, 0xa2, 0, 0], 2),
            Self::Rdmsr => ([0x0f, 0x32, 0, 0], 2),
            Self::Wrmsr => ([0x0f, 0x30, 0, 0], 2),
            Self::Halt => ([0xf4, 0, 0, 0], 1),
            _ => return None,
        };
        let behind = 32 - 8 * length as u32;
        let is = u32::from_le_bytes(bytes) << behind == u32::from_le_bytes(opcode) << behind;
        if is { Some(length) } else { None }
    }

    /// Bytes of the opcode when `bytes` begin with it.
    fn matches(&self, bytes: &[u8], address_bits: u8) -> Option<usize> {
        match (self, bytes) {
            (Self::Hypercall, [0x0f, 0x01, 0xc1 | 0xd9, ..]) | (Self::Xsetbv, [0x0f, 0x01, 0xd1, ..]) => {
                Some(3)
            }
            (Self::Cpuid, [0x0f, 0xa2, ..])
            | (Self::Rdmsr, [0x0f, 0x32, ..])
            | (Self::Wrmsr, [0x0f, 0x30, ..])
            | (Self::Clts, [0x0f, 0x06, ..])
            | (Self::Cache, [0x0f, 0x08 | 0x09, ..]) => Some(2),
            (Self::Halt, [0xf4, ..]) => Some(1),
            // The mode bits of these ModRM bytes are ignored (SDM, MOV—Move to/from Control Registers).
            (Self::ToControl(..), [0x0f, 0x22, _, ..])
            | (Self::FromControl(..), [0x0f, 0x20, _, ..])
            | (Self::Debug(_), [0x0f, 0x21 | 0x23, _, ..]) => Some(3),
            (Self::Lmsw(_), [0x0f, 0x01, rest @ ..]) => {
                modrm(rest, address_bits).filter(|modrm| modrm.register == 6).map(|modrm| 2 + modrm.length)
            }
            _ => None,
        }
    }
}

/// Length of the instruction at the start of `bytes`, of which up to 15 count; `None` when it is another than that of the
/// exit.
pub fn find(expected: &Exit, mode: CodeMode, bytes: &[u8]) -> Option<u8> {
    let bits = Prefixes::default().address_bits(mode);
    expected.matches(bytes, bits).map(|length| length as u8).or_else(|| after_prefixes(expected, mode, bytes))
}

#[cold]
fn after_prefixes(expected: &Exit, mode: CodeMode, bytes: &[u8]) -> Option<u8> {
    let found = prefixes(bytes, mode)?;
    let opcode = bytes.get(found.length..)?;
    let length = found.length + expected.matches(opcode, found.address_bits(mode))?;
    (length <= LONGEST).then_some(length as u8)
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};
    use proptest::prelude::*;
    use trunnion_protocol::control::Gpr;

    use super::*;

    #[test]
    fn plain_opcodes() {
        let long = CodeMode::Bits64;
        assert_eq!(find(&Exit::Hypercall, long, &[0x0f, 0x01, 0xc1]), Some(3));
        assert_eq!(find(&Exit::Hypercall, long, &[0x0f, 0x01, 0xd9]), Some(3));
        assert_eq!(find(&Exit::Halt, CodeMode::Real, &[0xf4]), Some(1));
        assert_eq!(find(&Exit::Halt, CodeMode::Real, &[0x90]), None);
        assert_eq!(find(&Exit::Cpuid, CodeMode::Bits32, &[0x0f]), None);
        assert_eq!(find(&Exit::Cpuid, CodeMode::Bits32, &[]), None);
        assert_eq!(find(&Exit::Cpuid, CodeMode::Bits32, &[0x66; 20]), None);
        assert_eq!(find(&Exit::Rdmsr, long, &[0x48, 0x0f, 0x32]), Some(3));
        assert_eq!(find(&Exit::Rdmsr, CodeMode::Bits32, &[0x48, 0x0f, 0x32]), None, "DEC EAX there");
        assert_eq!(find(&Exit::Lmsw(0), long, &[0x0f, 0x01, 0x74, 0x24, 0x08]), Some(5));
        assert_eq!(find(&Exit::Lmsw(0), long, &[0x0f, 0x01, 0x74, 0x24]), None);
        let mut fifteen = [0x3e; 15];
        fifteen[13..].copy_from_slice(&[0x0f, 0xa2]);
        assert_eq!(find(&Exit::Cpuid, long, &fifteen), Some(15));
        let mut sixteen = [0x3e; 16];
        sixteen[14..].copy_from_slice(&[0x0f, 0xa2]);
        assert_eq!(find(&Exit::Cpuid, long, &sixteen), None);
    }

    const ALL: [(Exit, &[Mnemonic]); 12] = [
        (Exit::Hypercall, &[Mnemonic::Vmcall, Mnemonic::Vmmcall]),
        (Exit::Cpuid, &[Mnemonic::Cpuid]),
        (Exit::Rdmsr, &[Mnemonic::Rdmsr]),
        (Exit::Wrmsr, &[Mnemonic::Wrmsr]),
        (Exit::Halt, &[Mnemonic::Hlt]),
        (Exit::Xsetbv, &[Mnemonic::Xsetbv]),
        (Exit::ToControl(0, 0), &[Mnemonic::Mov]),
        (Exit::FromControl(0, Gpr::Rax), &[Mnemonic::Mov]),
        (Exit::Clts, &[Mnemonic::Clts]),
        (Exit::Lmsw(0), &[Mnemonic::Lmsw]),
        (Exit::Debug(7), &[Mnemonic::Mov]),
        (Exit::Cache, &[Mnemonic::Invd, Mnemonic::Wbinvd, Mnemonic::Wbnoinvd]),
    ];

    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![
            4 => prop::sample::select(&[0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x3e, 0x26, 0x64, 0x65, 0x40, 0x41, 0x48, 0x4f][..]),
            3 => prop::sample::select(&[0x0f, 0x01, 0xa2, 0x32, 0x30, 0xf4, 0xc1, 0xd9, 0xd1, 0x22, 0x20, 0x21, 0x23, 0x06, 0x08, 0x09][..]),
            1 => any::<u8>(),
        ]
    }

    const OPCODES: [&[u8]; 14] = [
        &[0x0f, 0x01, 0xc1],
        &[0x0f, 0x01, 0xd9],
        &[0x0f, 0xa2],
        &[0x0f, 0x32],
        &[0x0f, 0x30],
        &[0xf4],
        &[0x0f, 0x01, 0xd1],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x20, 0xe0],
        &[0x0f, 0x06],
        &[0x0f, 0x01],
        &[0x0f, 0x23, 0xf8],
        &[0x0f, 0x09],
        &[],
    ];

    fn opcode() -> impl Strategy<Value = Vec<u8>> {
        prop::sample::select(&OPCODES[..]).prop_map(<[u8]>::to_vec)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        /// A full decoder and the comparison agree on whatever both take.
        #[test]
        fn agrees_with_a_decoder(
            mut bytes in proptest::collection::vec(byte(), 0..6),
            opcode in opcode(),
            tail in proptest::collection::vec(any::<u8>(), 12),
            bits in prop::sample::select(&[16u32, 32, 64][..]),
        ) {
            bytes.extend(opcode);
            bytes.extend(tail);
            let bytes = bytes.get(..15).unwrap_or(&bytes);
            let mode = match bits { 16 => CodeMode::Bits16, 32 => CodeMode::Bits32, _ => CodeMode::Bits64 };
            let instruction = Decoder::new(bits, bytes, DecoderOptions::NONE).decode();
            let code = instruction.code();
            for (expected, mnemonics) in ALL {
                let found = find(&expected, mode, bytes);
                let plain = bytes.first_chunk().and_then(|start| expected.plain(*start));
                prop_assert!(plain.is_none() || plain == found);
                let is = mnemonics.contains(&instruction.mnemonic()) && match expected {
                    Exit::ToControl(..) => matches!(code, Code::Mov_cr_r32 | Code::Mov_cr_r64),
                    Exit::FromControl(..) => matches!(code, Code::Mov_r32_cr | Code::Mov_r64_cr),
                    Exit::Debug(_) => matches!(code,
                        Code::Mov_dr_r32 | Code::Mov_dr_r64 | Code::Mov_r32_dr | Code::Mov_r64_dr),
                    _ => true,
                };
                if is {
                    prop_assert_eq!(found, Some(instruction.len() as u8), "{:?} {:x?}", expected, bytes);
                } else if found.is_some() {
                    // A prefix that makes the instruction invalid: then it was no such exit.
                    prop_assert!(instruction.is_invalid() || instruction.mnemonic() == Mnemonic::INVALID
                        || matches!(bytes.iter().find(|b| !matches!(b, 0x26|0x2e|0x36|0x3e|0x64..=0x67|0x40..=0x4f)),
                            Some(0xf0 | 0xf2 | 0xf3)) || bytes.contains(&0x66),
                        "{:?} {:x?} is {:?}", expected, bytes, instruction.mnemonic());
                }
            }
        }
    }
}
