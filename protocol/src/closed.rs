//! Closed lists of numbers: an enumeration with its numbers, both ways.

/// Defines an enumeration whose values are numbers of the ABI, with conversions that cannot invent a value.
#[macro_export]
macro_rules! closed {
    ($(#[$meta:meta])* pub enum $name:ident: $int:ty {
        $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $name {
            /// Every value, in the order of the definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number in the ABI.
            pub const fn number(self) -> $int {
                match self { $(Self::$variant => $number,)* }
            }

            /// The value of a number; `None` when the list does not have it.
            pub const fn from_number(number: $int) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}
