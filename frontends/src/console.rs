//! The primary console: a page with a byte ring in each direction, placed by the toolstack.

use core::future::poll_fn;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use core::task::{Context, Poll};

use trunnion_protocol::address::Gfn;
use trunnion_protocol::console::{IN, IN_CONS, IN_PROD, IN_SIZE, OUT, OUT_CONS, OUT_PROD, OUT_SIZE};
use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::id::Port;
use trunnion_protocol::shared::{SharedPage, WordOffset};

use crate::error::Error;
use crate::hypercall;
use crate::platform::Platform;
use crate::wait::{Turn, Waiters};

/// This guest's console. Several tasks may use it.
pub struct Console<'p, P: Platform> {
    platform: &'p P,
    pages: P::Pages,
    port: Port,
    waiters: Waiters<8>,
}

impl<'p, P: Platform> Console<'p, P> {
    /// The console that the toolstack gave the domain; [`Error::NotMapped`] if it gave none.
    pub fn primary(platform: &'p P) -> Result<Self, Error> {
        let frame = hypercall::param(platform, Param::ConsolePfn)?;
        let port = hypercall::param(platform, Param::ConsoleEvtchn)?;
        let port = Port(u32::try_from(port).map_err(|_| Error::NotMapped)?);
        if frame == 0 || port.is_none() {
            return Err(Error::NotMapped);
        }
        let pages = platform.map(Gfn(frame))?;
        if pages.as_ref().is_empty() {
            return Err(Error::NotMapped);
        }
        Ok(Self { platform, pages, port, waiters: Waiters::new() })
    }

    /// The port that reports new input and room for output.
    pub const fn port(&self) -> Port {
        self.port
    }

    /// The kernel below.
    pub const fn platform(&self) -> &'p P {
        self.platform
    }

    /// Writes as many bytes as there is room for, and returns how many.
    pub fn try_write(&self, bytes: &[u8]) -> usize {
        let Some(page) = self.pages.as_ref().first() else { return 0 };
        let (producer, consumer) =
            (load(page, WordOffset::at::<OUT_PROD>()), load(page, WordOffset::at::<OUT_CONS>()));
        // More than the ring holds is nonsense of the back end's; it then looks full.
        let room = OUT_SIZE.saturating_sub(producer.wrapping_sub(consumer)) as usize;
        let bytes = bytes.get(..room).unwrap_or(bytes);
        let at = (producer % OUT_SIZE) as usize;
        let (first, second) = bytes.split_at(bytes.len().min(OUT_SIZE as usize - at));
        // Both pieces lie in the ring, and the ring in the page.
        let _ = page.copy_in(OUT + at, first);
        let _ = page.copy_in(OUT, second);
        store(page.word(WordOffset::at::<OUT_PROD>()), producer.wrapping_add(bytes.len() as u32));
        if !bytes.is_empty() {
            hypercall::send(self.platform, self.port);
        }
        bytes.len()
    }

    /// Takes the bytes that have come, at most as many as fit, and returns how many.
    pub fn try_read(&self, into: &mut [u8]) -> usize {
        let Some(page) = self.pages.as_ref().first() else { return 0 };
        let (producer, consumer) =
            (load(page, WordOffset::at::<IN_PROD>()), load(page, WordOffset::at::<IN_CONS>()));
        let there = producer.wrapping_sub(consumer);
        if there > IN_SIZE {
            return 0;
        }
        let count = into.len().min(there as usize);
        let into = into.get_mut(..count).unwrap_or_default();
        let at = (consumer % IN_SIZE) as usize;
        let (first, second) = into.split_at_mut(count.min(IN_SIZE as usize - at));
        let _ = page.copy_out(IN + at, first);
        let _ = page.copy_out(IN, second);
        if count > 0 {
            store(page.word(WordOffset::at::<IN_CONS>()), consumer.wrapping_add(count as u32));
            hypercall::send(self.platform, self.port);
        }
        count
    }

    /// True if bytes have come that were not taken yet.
    pub fn has_input(&self) -> bool {
        let page = self.pages.as_ref().first();
        page.is_some_and(|page| {
            load(page, WordOffset::at::<IN_PROD>()) != load(page, WordOffset::at::<IN_CONS>())
        })
    }

    /// Waits for input and takes it: at least one byte, unless `into` is empty.
    pub async fn read(&self, into: &mut [u8]) -> usize {
        if into.is_empty() {
            return 0;
        }
        let turn = Turn::new(&self.waiters);
        let count = poll_fn(|context| self.poll(context, || self.try_read(into))).await;
        drop(turn);
        count
    }

    /// Writes all bytes, waiting for room as long as it takes.
    pub async fn write(&self, bytes: &[u8]) {
        let turn = Turn::new(&self.waiters);
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = poll_fn(|context| self.poll(context, || self.try_write(rest))).await;
            rest = rest.get(count..).unwrap_or_default();
        }
        drop(turn);
    }

    /// Waits until the back end has taken every byte that was written.
    pub async fn flush(&self) {
        let turn = Turn::new(&self.waiters);
        let drained = || {
            let page = self.pages.as_ref().first();
            let rest = page.map_or(0, |page| {
                load(page, WordOffset::at::<OUT_PROD>())
                    .wrapping_sub(load(page, WordOffset::at::<OUT_CONS>()))
            });
            usize::from(rest == 0)
        };
        poll_fn(|context| self.poll(context, drained)).await;
        drop(turn);
    }

    /// Tries, and waits for an event if nothing came of it.
    fn poll(&self, context: &mut Context<'_>, mut attempt: impl FnMut() -> usize) -> Poll<usize> {
        if let Some(page) = self.pages.as_ref().first() {
            let (input, output) =
                (load(page, WordOffset::at::<IN_PROD>()), load(page, WordOffset::at::<OUT_CONS>()));
            self.waiters.notice(u64::from(input) << 32 | u64::from(output));
        }
        let mut count = attempt();
        if count == 0 {
            self.waiters.wait(self.platform, self.port, context);
            count = attempt();
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(count) }
    }
}

impl<P: Platform> core::fmt::Debug for Console<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Console").field("port", &self.port).finish_non_exhaustive()
    }
}

fn load(page: &SharedPage, offset: WordOffset) -> u32 {
    page.word(offset).load(Ordering::Acquire)
}

fn store(word: &AtomicU32, value: u32) {
    // The bytes were copied before the peer may see the index.
    fence(Ordering::SeqCst);
    word.store(value, Ordering::Release);
}
