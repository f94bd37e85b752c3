//! Addresses and frame numbers, one type for each address space.
//!
//! A *guest* number means something only together with a domain; a *machine* number is what a device's DMA uses. The
//! fields are public because every bit pattern is a legal claim: whoever receives one checks it against a domain.

use core::fmt;

/// log2 of [`PAGE_SIZE`].
#[doc(alias = "XEN_PAGE_SHIFT")]
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page of the ABI.
#[doc(alias = "XEN_PAGE_SIZE")]
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

macro_rules! number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The number `count` further on; `None` past the end of 64 bits.
            pub const fn checked_add(self, count: u64) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Guest frame number: a page of one domain's guest-physical space.
    #[doc(alias = "xen_pfn_t")]
    #[doc(alias = "gfn_t")]
    Gfn
}
number! {
    /// Machine frame number: a page of the host.
    #[doc(alias = "mfn_t")]
    Mfn
}
number! {
    /// Guest-physical address in bytes.
    #[doc(alias = "paddr_t")]
    Gpa
}
number! {
    /// Guest-virtual (linear) address in bytes, as the guest's own page tables see it.
    #[doc(alias = "XEN_GUEST_HANDLE")]
    Gva
}
number! {
    /// Machine address in bytes: what a device without an IOMMU is given.
    #[doc(alias = "maddr")]
    MachineAddress
}

macro_rules! frame_of {
    ($address:ident, $frame:ident) => {
        impl $address {
            /// The frame that holds this address.
            pub const fn frame(self) -> $frame {
                $frame(self.0 >> PAGE_SHIFT)
            }

            /// Bytes from the start of the page, below [`PAGE_SIZE`].
            pub const fn page_offset(self) -> usize {
                self.0 as usize & (PAGE_SIZE - 1)
            }

            /// True at the start of a page.
            pub const fn is_page_aligned(self) -> bool {
                self.page_offset() == 0
            }
        }

        impl $frame {
            /// The address of the frame's first byte; `None` if it does not fit in 64 bits.
            pub const fn checked_address(self) -> Option<$address> {
                if self.0 >> (64 - PAGE_SHIFT) == 0 { Some($address(self.0 << PAGE_SHIFT)) } else { None }
            }

            /// The address of the frame's first byte, cut to 64 bits. For numbers that are known to be real frames;
            /// a claim goes through [`Self::checked_address`].
            pub const fn address(self) -> $address {
                $address(self.0 << PAGE_SHIFT)
            }
        }
    };
}

frame_of!(Gpa, Gfn);
frame_of!(MachineAddress, Mfn);

impl Gva {
    /// Bytes from the start of the page, below [`PAGE_SIZE`].
    pub const fn page_offset(self) -> usize {
        self.0 as usize & (PAGE_SIZE - 1)
    }

    /// A null pointer.
    pub const NULL: Self = Self(0);

    /// True for the null pointer, which many calls take as "nothing".
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}

impl Gfn {
    /// The frame number that never names a frame.
    #[doc(alias = "INVALID_GFN")]
    pub const INVALID: Self = Self(u64::MAX);
}

impl Mfn {
    /// The frame number that never names a frame.
    #[doc(alias = "INVALID_MFN")]
    pub const INVALID: Self = Self(u64::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_addresses_agree() {
        assert_eq!(Gpa(0x1234).frame(), Gfn(1));
        assert_eq!(Gpa(0x1234).page_offset(), 0x234);
        assert_eq!(Gfn(3).address(), Gpa(0x3000));
        assert_eq!(Gfn(1 << 52).checked_address(), None);
        assert_eq!(Gfn((1 << 52) - 1).checked_address(), Some(Gpa(0xffff_ffff_ffff_f000)));
        assert_eq!(Gfn::INVALID.checked_add(1), None);
    }
}
