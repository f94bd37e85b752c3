//! Waiting without an executor.

use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use crate::platform::Platform;

/// Polls a future until it is done, resting in [`Platform::relax`] between. For early boot, and for kernels without an
/// executor.
pub fn block_on<P: Platform, F: Future>(platform: &P, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => platform.relax(),
        }
    }
}
