//! One structure, two layouts.
//!
//! The ABI gives most structures a 64-bit and a 32-bit form. In the 32-bit form pointers, `xen_ulong_t` and `xen_pfn_t`
//! shrink to four bytes, and eight-byte integers are aligned to four. Here each structure is written once, in natural
//! Rust types, with both offsets of each field; a [`Width`] chosen at run time selects the form. Handlers and drivers
//! are therefore never duplicated.
//!
//! Decoding takes a private copy of the bytes: a shared page is copied out first, so that a check and a use see the same
//! values.

use core::fmt::Debug;

use crate::address::{Gfn, Gpa, Gva, MachineAddress, Mfn};
use crate::id::{DomainId, GrantRef, Pirq, Port, VcpuId, Virq};

/// Which of the two forms: chosen by the caller's code segment at each hypercall, by the `protocol` key for a ring, and
/// by a latch for a domain's shared info page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Width {
    /// Words of eight bytes.
    W64,
    /// Words of four bytes.
    W32,
}

impl Width {
    /// Bytes of a word (`xen_ulong_t`, a pointer, `xen_pfn_t`).
    pub const fn word(self) -> usize {
        match self {
            Self::W64 => 8,
            Self::W32 => 4,
        }
    }

    /// One of two values by width.
    pub const fn pick(self, w64: usize, w32: usize) -> usize {
        match self {
            Self::W64 => w64,
            Self::W32 => w32,
        }
    }
}

/// A value with a form in each width.
pub trait Layout: Sized + Copy {
    /// Size in bytes of the 64-bit form.
    const SIZE64: usize;
    /// Size in bytes of the 32-bit form.
    const SIZE32: usize;
    /// An array that holds either form.
    type Bytes: AsRef<[u8]> + AsMut<[u8]> + Copy;
    /// That array, full of zeroes.
    const ZEROED: Self::Bytes;

    /// Size in bytes of one form.
    #[inline]
    fn size(width: Width) -> usize {
        width.pick(Self::SIZE64, Self::SIZE32)
    }

    /// Reads the value from the start of `bytes`; `None` when they are too few.
    fn decode(width: Width, bytes: &[u8]) -> Option<Self>;

    /// Writes the value to the start of `bytes`; `None` when they are too few. Padding is left as it is.
    fn encode(&self, width: Width, bytes: &mut [u8]) -> Option<()>;
}

/// Where one field lies in both forms. Tests and documentation read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldSpec {
    /// The field's name in Rust.
    pub name: &'static str,
    /// Offset and size in bytes in the 64-bit form.
    pub w64: (usize, usize),
    /// Offset and size in bytes in the 32-bit form.
    pub w32: (usize, usize),
    /// Alignment in bytes in the 64-bit form; in the 32-bit form it is at most four.
    pub align: usize,
}

/// How a field of natural type `T` is stored. Implemented by `T` itself for its usual form, and by [`Fixed`] and
/// [`Shrinking`] for the others.
pub trait Codec<T> {
    /// Size in bytes in the 64-bit form.
    const SIZE64: usize;
    /// Size in bytes in the 32-bit form.
    const SIZE32: usize;
    /// Alignment in bytes in the 64-bit form.
    const ALIGN: usize;
    /// Reads it from the start of `bytes`.
    fn get(width: Width, bytes: &[u8]) -> Option<T>;
    /// Writes it to the start of `bytes`.
    fn put(width: Width, value: T, bytes: &mut [u8]) -> Option<()>;
}

macro_rules! plain {
    ($($int:ty),*) => {$(
        impl Codec<$int> for $int {
            const SIZE64: usize = size_of::<$int>();
            const SIZE32: usize = size_of::<$int>();
            const ALIGN: usize = size_of::<$int>();
            #[inline]
            fn get(_: Width, bytes: &[u8]) -> Option<$int> {
                bytes.first_chunk().map(|bytes| <$int>::from_le_bytes(*bytes))
            }
            #[inline]
            fn put(_: Width, value: $int, bytes: &mut [u8]) -> Option<()> {
                *bytes.first_chunk_mut()? = value.to_le_bytes();
                Some(())
            }
        }
    )*};
}
plain!(u8, u16, u32, u64, i8, i16, i32, i64);

/// Eight bytes in both forms, for an address or frame that the header writes as `uint64_t`.
#[derive(Debug)]
pub enum Fixed {}

/// Eight bytes in the 64-bit form, four in the other (`xen_ulong_t`). Higher bits are cut off when stored in four.
#[derive(Debug)]
pub enum Shrinking {}

impl Codec<u64> for Shrinking {
    const SIZE64: usize = 8;
    const SIZE32: usize = 4;
    const ALIGN: usize = 8;
    #[inline]
    fn get(width: Width, bytes: &[u8]) -> Option<u64> {
        match width {
            Width::W64 => bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
            Width::W32 => bytes.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
        }
    }
    #[inline]
    fn put(width: Width, value: u64, bytes: &mut [u8]) -> Option<()> {
        match width {
            Width::W64 => *bytes.first_chunk_mut()? = value.to_le_bytes(),
            Width::W32 => *bytes.first_chunk_mut()? = (value as u32).to_le_bytes(),
        }
        Some(())
    }
}

macro_rules! wrapped {
    ($($codec:ty, $name:ident($int:ty) as $inner:ty;)*) => {$(
        impl Codec<$name> for $codec {
            const SIZE64: usize = <$inner as Codec<$int>>::SIZE64;
            const SIZE32: usize = <$inner as Codec<$int>>::SIZE32;
            const ALIGN: usize = <$inner as Codec<$int>>::ALIGN;
            #[inline]
            fn get(width: Width, bytes: &[u8]) -> Option<$name> {
                <$inner as Codec<$int>>::get(width, bytes).map($name)
            }
            #[inline]
            fn put(width: Width, value: $name, bytes: &mut [u8]) -> Option<()> {
                <$inner as Codec<$int>>::put(width, value.0, bytes)
            }
        }
    )*};
}
wrapped! {
    DomainId, DomainId(u16) as u16;
    VcpuId, VcpuId(u32) as u32;
    Port, Port(u32) as u32;
    GrantRef, GrantRef(u32) as u32;
    Pirq, Pirq(u32) as u32;
    Virq, Virq(u32) as u32;
    Gfn, Gfn(u64) as Shrinking;
    Mfn, Mfn(u64) as Shrinking;
    Gva, Gva(u64) as Shrinking;
    Gpa, Gpa(u64) as u64;
    MachineAddress, MachineAddress(u64) as u64;
    Fixed, Gfn(u64) as u64;
    Fixed, Mfn(u64) as u64;
    Fixed, Gva(u64) as u64;
}

impl<T: Copy + Default, C: Codec<T>, const N: usize> Codec<[T; N]> for [C; N] {
    const SIZE64: usize = C::SIZE64 * N;
    const SIZE32: usize = C::SIZE32 * N;
    const ALIGN: usize = C::ALIGN;
    #[inline]
    fn get(width: Width, bytes: &[u8]) -> Option<[T; N]> {
        let mut values = [T::default(); N];
        let stride = width.pick(C::SIZE64, C::SIZE32);
        for (value, bytes) in values.iter_mut().zip(bytes.get(..stride * N)?.chunks_exact(stride)) {
            *value = C::get(width, bytes)?;
        }
        Some(values)
    }
    #[inline]
    fn put(width: Width, values: [T; N], bytes: &mut [u8]) -> Option<()> {
        let stride = width.pick(C::SIZE64, C::SIZE32);
        for (value, bytes) in values.into_iter().zip(bytes.get_mut(..stride * N)?.chunks_exact_mut(stride)) {
            C::put(width, value, bytes)?;
        }
        Some(())
    }
}

/// The larger of two sizes, in constants.
#[doc(hidden)]
pub const fn larger(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __codec {
    ($ty:ty) => {
        $ty
    };
    ($ty:ty, $codec:ty) => {
        $codec
    };
}

/// Defines a structure with its two layouts.
///
/// ```
/// trunnion_protocol::layout! {
///     /// Which frame goes where.
///     pub struct Example: 16, 8 {
///         /// The domain.
///         pub domain: trunnion_protocol::id::DomainId = 0, 0;
///         /// Eight bytes in one form, four in the other.
///         pub length: u64 as trunnion_protocol::layout::Shrinking = 8, 4;
///     }
/// }
/// ```
/// Sizes and offsets are those of the 64-bit form, then those of the 32-bit form.
#[macro_export]
macro_rules! layout {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident: $size64:literal, $size32:literal {
            $($(#[$field_meta:meta])* pub $field:ident: $ty:ty $(as $codec:ty)? = $off64:literal, $off32:literal;)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        impl $name {
            /// Where each field lies.
            pub const FIELDS: &'static [$crate::layout::FieldSpec] = &[$($crate::layout::FieldSpec {
                name: stringify!($field),
                w64: ($off64, <$crate::__codec!($ty $(, $codec)?) as $crate::layout::Codec<$ty>>::SIZE64),
                w32: ($off32, <$crate::__codec!($ty $(, $codec)?) as $crate::layout::Codec<$ty>>::SIZE32),
                align: <$crate::__codec!($ty $(, $codec)?) as $crate::layout::Codec<$ty>>::ALIGN,
            }),*];
        }

        impl $crate::layout::Layout for $name {
            const SIZE64: usize = $size64;
            const SIZE32: usize = $size32;
            type Bytes = [u8; $crate::layout::larger($size64, $size32)];
            const ZEROED: Self::Bytes = [0; $crate::layout::larger($size64, $size32)];

            #[inline]
            fn decode(width: $crate::layout::Width, bytes: &[u8]) -> Option<Self> {
                use $crate::layout::{Codec, Width};
                match width {
                    Width::W64 => {
                        let bytes: &[u8; $size64] = bytes.first_chunk()?;
                        Some(Self { $($field: <$crate::__codec!($ty $(, $codec)?) as Codec<$ty>>::get(
                            Width::W64, bytes.get($off64..)?)?,)* })
                    }
                    Width::W32 => {
                        let bytes: &[u8; $size32] = bytes.first_chunk()?;
                        Some(Self { $($field: <$crate::__codec!($ty $(, $codec)?) as Codec<$ty>>::get(
                            Width::W32, bytes.get($off32..)?)?,)* })
                    }
                }
            }

            #[inline]
            fn encode(&self, width: $crate::layout::Width, bytes: &mut [u8]) -> Option<()> {
                use $crate::layout::{Codec, Width};
                match width {
                    Width::W64 => {
                        let bytes: &mut [u8; $size64] = bytes.first_chunk_mut()?;
                        $(<$crate::__codec!($ty $(, $codec)?) as Codec<$ty>>::put(
                            Width::W64, self.$field, bytes.get_mut($off64..)?)?;)*
                    }
                    Width::W32 => {
                        let bytes: &mut [u8; $size32] = bytes.first_chunk_mut()?;
                        $(<$crate::__codec!($ty $(, $codec)?) as Codec<$ty>>::put(
                            Width::W32, self.$field, bytes.get_mut($off32..)?)?;)*
                    }
                }
                Some(())
            }
        }
    )*};
}

#[cfg(test)]
#[allow(unreachable_pub, reason = "the macro makes public structures")]
mod tests {
    use super::*;

    layout! {
        /// A bit of everything.
        pub struct Mixed: 32, 24 {
            /// Fixed 16 bits.
            pub domain: DomainId = 0, 0;
            /// Fixed 64 bits.
            pub count: u64 = 8, 4;
            /// Shrinks.
            pub frame: Gfn = 16, 12;
            /// Array.
            pub ports: [u16; 3] = 24, 16;
        }
    }

    #[test]
    fn fields_are_listed() {
        assert_eq!(Mixed::FIELDS[2], FieldSpec { name: "frame", w64: (16, 8), w32: (12, 4), align: 8 });
    }

    #[test]
    fn both_widths_round_trip() {
        let value = Mixed { domain: DomainId(7), count: 1 << 40, frame: Gfn(0x1234_5678), ports: [1, 2, 3] };
        for width in [Width::W64, Width::W32] {
            let mut bytes = Mixed::ZEROED;
            value.encode(width, &mut bytes).unwrap();
            assert_eq!(Mixed::decode(width, &bytes), Some(value));
            assert_eq!(Mixed::decode(width, &bytes[..Mixed::size(width) - 1]), None);
        }
        let mut bytes = [0xff; 32];
        value.encode(Width::W32, &mut bytes).unwrap();
        assert_eq!(bytes[..8], [7, 0, 0xff, 0xff, 0, 0, 0, 0]);
        assert_eq!(bytes[12..18], [0x78, 0x56, 0x34, 0x12, 1, 0]);
    }
}
