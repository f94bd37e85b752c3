//! The hypercall page: 128 stubs of 32 bytes that hide which instruction the processor wants.
//!
//! A guest writes the guest-physical address of a page of its RAM to the model-specific register that CPUID leaf
//! [`HYPERCALLS`](crate::cpuid::HYPERCALLS) names, and then calls `page + 32 * number`. Writing the register also tells
//! the hypervisor the width of the domain's shared info page.

use crate::address::PAGE_SIZE;

/// Bytes of one stub.
pub const STUB_SIZE: usize = 32;
/// Stubs in the page.
pub const STUBS: usize = PAGE_SIZE / STUB_SIZE;
/// The number whose stub is an invalid instruction instead of a call (`iret`).
#[doc(alias = "__HYPERVISOR_iret")]
pub const IRET: u32 = 23;

/// The instruction that enters the hypervisor, by vendor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// Intel.
    Vmcall,
    /// AMD.
    Vmmcall,
}

impl Opcode {
    /// The three bytes.
    pub const fn bytes(self) -> [u8; 3] {
        match self {
            Self::Vmcall => [0x0f, 0x01, 0xc1],
            Self::Vmmcall => [0x0f, 0x01, 0xd9],
        }
    }
}

/// The start of stub `number`: `mov eax, number`, the instruction, `ret`; for [`IRET`] an invalid instruction. The rest
/// of the stub is unspecified.
pub const fn stub(number: u32, opcode: Opcode) -> [u8; 9] {
    if number == IRET {
        return [0x0f, 0x0b, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];
    }
    let n = number.to_le_bytes();
    let o = opcode.bytes();
    [0xb8, n[0], n[1], n[2], n[3], o[0], o[1], o[2], 0xc3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs() {
        assert_eq!(stub(12, Opcode::Vmcall), [0xb8, 12, 0, 0, 0, 0x0f, 0x01, 0xc1, 0xc3]);
        assert_eq!(stub(12, Opcode::Vmmcall)[5..8], [0x0f, 0x01, 0xd9]);
        assert_eq!(stub(IRET, Opcode::Vmcall)[..2], [0x0f, 0x0b]);
        assert_eq!(STUBS, 128);
    }
}
