//! Slots whose meaning depends on the slot before: a fragment, or extra information.

use super::{ExtraInfo, RxResponse, TxRequest};
use crate::layout::{Layout, Width};

macro_rules! slot {
    ($(#[$meta:meta])* $name:ident, $size:literal, $plain:ident, $method:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name([u8; $size]);

        impl $name {
            /// The slot as a fragment's.
            pub fn $method(&self) -> $plain {
                // The form is the same in both widths, and there are enough bytes.
                $plain::decode(Width::W64, &self.0).unwrap_or_default()
            }

            /// The slot as extra information.
            pub fn extra(&self) -> ExtraInfo {
                ExtraInfo::decode(Width::W64, &self.0).unwrap_or_default()
            }
        }

        impl From<$plain> for $name {
            fn from(value: $plain) -> Self {
                let mut slot = Self::default();
                let _ = value.encode(Width::W64, &mut slot.0);
                slot
            }
        }

        impl From<ExtraInfo> for $name {
            fn from(value: ExtraInfo) -> Self {
                let mut slot = Self::default();
                let _ = value.encode(Width::W64, &mut slot.0);
                slot
            }
        }

        impl Layout for $name {
            const SIZE64: usize = $size;
            const SIZE32: usize = $size;
            type Bytes = [u8; $size];
            const ZEROED: Self::Bytes = [0; $size];

            fn decode(_: Width, bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|bytes| Self(*bytes))
            }

            fn encode(&self, _: Width, bytes: &mut [u8]) -> Option<()> {
                *bytes.first_chunk_mut()? = self.0;
                Some(())
            }
        }
    };
}

slot! {
    /// What the guest writes when it sends: a [`TxRequest`], or [`ExtraInfo`] after one with [`tx::EXTRA`](super::tx::EXTRA).
    TxSlot, 12, TxRequest, request
}
slot! {
    /// What the back end answers when the guest receives: an [`RxResponse`], or [`ExtraInfo`] after one with
    /// [`rx::EXTRA`](super::rx::EXTRA).
    RxSlot, 8, RxResponse, response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GrantRef;

    #[test]
    fn both_meanings() {
        let request = TxRequest { reference: GrantRef(9), offset: 2, flags: 12, id: 4, size: 1514 };
        let slot = TxSlot::from(request);
        assert_eq!(slot.request(), request);
        let extra = ExtraInfo { kind: 1, flags: 1, payload: [1, 2, 3, 4, 5, 6] };
        assert_eq!(TxSlot::from(extra).extra(), extra);
        assert_eq!(RxSlot::from(extra).extra(), extra);
        let response = RxResponse { id: 3, offset: 0, flags: 7, status: -1 };
        assert_eq!(RxSlot::from(response).response(), response);
    }
}
