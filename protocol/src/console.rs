//! The console ring page (`io/console.h`).
//!
//! One page, found by [`Param::ConsolePfn`](crate::hypercall::hvm::Param::ConsolePfn), with a ring of bytes in each
//! direction; a port beside it. Indices run freely and are masked on use. Either side notifies after it has produced
//! *or consumed*. A guest busy-waits for the consumer when its ring is full, so a back end must keep draining.

/// Offset of the bytes for the guest.
#[doc(alias = "xencons_interface")]
pub const IN: usize = 0;
/// Bytes in the ring for the guest.
pub const IN_SIZE: u32 = 1024;
/// Offset of the bytes from the guest.
pub const OUT: usize = 1024;
/// Bytes in the ring from the guest.
pub const OUT_SIZE: u32 = 2048;
/// Offset of the guest's read index.
pub const IN_CONS: usize = 3072;
/// Offset of the back end's write index.
pub const IN_PROD: usize = 3076;
/// Offset of the back end's read index.
pub const OUT_CONS: usize = 3080;
/// Offset of the guest's write index.
pub const OUT_PROD: usize = 3084;
/// Offset of the connection byte: 0 connected, 1 not yet.
pub const CONNECTION: usize = 3088;
