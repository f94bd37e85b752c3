//! The console as blocking [`embedded_io`] streams.

use core::convert::Infallible;

use embedded_io::{ErrorType, Read, ReadReady, Write};

use crate::blocking::block_on;
use crate::console::Console;
use crate::platform::Platform;

impl<P: Platform> ErrorType for Console<'_, P> {
    type Error = Infallible;
}

impl<P: Platform> Read for Console<'_, P> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Infallible> {
        Ok(block_on(self.platform(), Console::read(self, into)))
    }
}

impl<P: Platform> ReadReady for Console<'_, P> {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.has_input())
    }
}

impl<P: Platform> Write for Console<'_, P> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        block_on(self.platform(), Console::write(self, bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        block_on(self.platform(), Console::flush(self));
        Ok(())
    }
}
