//! The store's client, over the ring page that the toolstack placed.
//!
//! Requests go one at a time; a task that asks while another waits for its reply waits too. A request whose future is
//! dropped is finished in the background and its reply thrown away. Watch events only set a mark on their [`Watch`],
//! so that no number of them takes memory: whoever is told reads what is there now.

mod watch;
mod wire;

use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll};

use trunnion_protocol::address::Gfn;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::id::Port;
use trunnion_protocol::store::{Kind, PAYLOAD_MAX, error_from_name};

pub use watch::Watch;

use crate::error::Error;
use crate::hypercall;
use crate::platform::Platform;
use crate::text::Text;
use crate::wait::{Turn, Waiters};
use wire::{Progress, Wire};

/// Tasks that may wait for the store at once without polling in turns.
const TASKS: usize = 16;

/// A transaction's number, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction(u32);

impl Transaction {
    /// Outside of any transaction.
    pub const NONE: Self = Self(0);
}

/// This guest's connection to the store.
pub struct Store<'p, P: Platform> {
    platform: &'p P,
    port: Port,
    wire: RefCell<Wire<P::Pages>>,
    waiters: Waiters<TASKS>,
}

impl<'p, P: Platform> Store<'p, P> {
    /// Connects by the page and port that the domain's parameters name; [`Error::NotMapped`] if they name none.
    pub fn new(platform: &'p P) -> Result<Self, Error> {
        let frame = hypercall::param(platform, Param::StorePfn)?;
        let port = hypercall::param(platform, Param::StoreEvtchn)?;
        let port = Port(u32::try_from(port).map_err(|_| Error::NotMapped)?);
        if frame == 0 || frame == u64::MAX || port.is_none() {
            return Err(Error::NotMapped);
        }
        let pages = platform.map(Gfn(frame))?;
        if pages.as_ref().is_empty() {
            return Err(Error::NotMapped);
        }
        Ok(Self { platform, port, wire: RefCell::new(Wire::new(pages)), waiters: Waiters::new() })
    }

    /// The kernel below.
    pub const fn platform(&self) -> &'p P {
        self.platform
    }

    /// The port on which the store answers.
    pub const fn port(&self) -> Port {
        self.port
    }

    /// Sends any request made of pieces, and copies the reply's payload to `into`. Returns its length;
    /// [`Error::TooLong`] if it does not fit.
    pub async fn request(
        &self,
        kind: Kind,
        transaction: Transaction,
        pieces: &[&[u8]],
        into: &mut [u8],
    ) -> Result<usize, Error> {
        let turn = Turn::new(&self.waiters);
        poll_fn(|context| self.poll(context, |wire| wire.begin(kind, transaction.0, pieces))).await?;
        let exchange = Exchange { wire: &self.wire };
        let result = poll_fn(|context| {
            self.poll(context, |wire| {
                wire.take_reply(|failed, payload| {
                    if failed {
                        return Err(Error::Store(error_from_name(payload)));
                    }
                    into.get_mut(..payload.len()).ok_or(Error::TooLong)?.copy_from_slice(payload);
                    Ok(payload.len())
                })
            })
        })
        .await;
        drop(exchange);
        drop(turn);
        result
    }

    /// Moves bytes, tries, and waits for an event if nothing came of it.
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut attempt: impl FnMut(&mut Wire<P::Pages>) -> Option<Result<T, Error>>,
    ) -> Poll<Result<T, Error>> {
        for again in [true, false] {
            self.pump()?;
            let done = attempt(&mut self.wire.borrow_mut());
            if let Some(result) = done {
                // What was put into the wire leaves at once.
                self.pump()?;
                return Poll::Ready(result);
            }
            if again {
                if planted!(SingleLook) {
                    self.waiters.wait(self.platform, self.port, context);
                    break;
                }
                self.waiters.wait(self.platform, self.port, context);
            }
        }
        Poll::Pending
    }

    /// Moves bytes in both directions as far as they go.
    fn pump(&self) -> Result<(), Error> {
        let Progress { moved, news } = self.wire.borrow_mut().pump();
        if moved {
            hypercall::send(self.platform, self.port);
        }
        if news {
            self.waiters.wake();
        }
        if self.wire.borrow().is_broken() { Err(Error::Broken) } else { Ok(()) }
    }

    /// A node's value, copied to `into`.
    pub async fn read<'b>(
        &self,
        transaction: Transaction,
        path: &str,
        into: &'b mut [u8],
    ) -> Result<&'b [u8], Error> {
        let length = self.request(Kind::Read, transaction, &[path.as_bytes(), b"\0"], into).await?;
        Ok(into.get(..length).unwrap_or_default())
    }

    /// A node's value as text; a final NUL is dropped.
    pub async fn read_text<const N: usize>(
        &self,
        transaction: Transaction,
        path: &str,
    ) -> Result<Text<N>, Error> {
        let mut bytes = [0; N];
        let value = self.read(transaction, path, &mut bytes).await?;
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        Text::copy(core::str::from_utf8(value).map_err(|_| Error::Malformed("text"))?)
    }

    /// A node's value as a decimal number; `None` if there is no such node.
    pub async fn read_number(&self, transaction: Transaction, path: &str) -> Result<Option<u64>, Error> {
        match self.read_text::<24>(transaction, path).await {
            Ok(text) => text.as_str().trim().parse().map(Some).map_err(|_| Error::Malformed("number")),
            Err(Error::Store(Errno::NoEnt)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a node's value, creating it if it is missing.
    pub async fn write(&self, transaction: Transaction, path: &str, value: &[u8]) -> Result<(), Error> {
        let pieces = [path.as_bytes(), b"\0", value];
        self.request(Kind::Write, transaction, &pieces, &mut [0; 8]).await.map(drop)
    }

    /// Creates a node without a value, if it is missing.
    pub async fn mkdir(&self, transaction: Transaction, path: &str) -> Result<(), Error> {
        self.request(Kind::Mkdir, transaction, &[path.as_bytes(), b"\0"], &mut [0; 8]).await.map(drop)
    }

    /// Removes a node and all below it.
    pub async fn remove(&self, transaction: Transaction, path: &str) -> Result<(), Error> {
        self.request(Kind::Rm, transaction, &[path.as_bytes(), b"\0"], &mut [0; 8]).await.map(drop)
    }

    /// Names of a node's children, copied to `into`. Names that are not UTF-8 are left out; no store has such.
    pub async fn list<'b>(
        &self,
        transaction: Transaction,
        path: &str,
        into: &'b mut [u8],
    ) -> Result<impl Iterator<Item = &'b str> + use<'b, P>, Error> {
        let length = self.request(Kind::Directory, transaction, &[path.as_bytes(), b"\0"], into).await?;
        let bytes: &'b [u8] = into;
        let names = bytes.get(..length).unwrap_or_default().split(|&byte| byte == 0);
        Ok(names.filter_map(|name| core::str::from_utf8(name).ok()).filter(|name| !name.is_empty()))
    }

    /// Opens a transaction.
    pub async fn start(&self) -> Result<Transaction, Error> {
        let mut bytes = [0; 16];
        let length = self.request(Kind::TransactionStart, Transaction::NONE, &[b"\0"], &mut bytes).await?;
        let digits = bytes.get(..length).and_then(|digits| digits.strip_suffix(&[0]));
        let number = digits.and_then(|digits| core::str::from_utf8(digits).ok()?.parse().ok());
        number.map(Transaction).ok_or(Error::Malformed("transaction"))
    }

    /// Commits a transaction, or drops it. `Error::Store(Errno::Again)`: somebody changed what it was about; nothing has
    /// happened.
    pub async fn end(&self, transaction: Transaction, commit: bool) -> Result<(), Error> {
        let word: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.request(Kind::TransactionEnd, transaction, &[word], &mut [0; 8]).await.map(drop)
    }

    /// Does `work` in a transaction, and again from the start as long as it conflicts with others' changes.
    pub async fn transact<T>(&self, work: impl AsyncFn(Transaction) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let transaction = self.start().await?;
            match work(transaction).await {
                Ok(value) => match self.end(transaction, true).await {
                    Ok(()) => return Ok(value),
                    Err(Error::Store(Errno::Again)) => {}
                    Err(error) => return Err(error),
                },
                Err(error) => {
                    // The transaction is dropped; the error that matters is the first.
                    let _ = self.end(transaction, false).await;
                    return Err(error);
                }
            }
        }
    }

    /// Drops the watches and transactions that an earlier kernel of this domain left behind.
    pub async fn reset_watches(&self) -> Result<(), Error> {
        self.request(Kind::ResetWatches, Transaction::NONE, &[b"\0"], &mut [0; 8]).await.map(drop)
    }
}

/// Most bytes of one value or list of names.
pub const VALUE_MAX: usize = PAYLOAD_MAX;

/// A request under way. Dropped before its reply was taken, it lets the wire throw the reply away.
struct Exchange<'w, T> {
    wire: &'w RefCell<Wire<T>>,
}

impl<T> Drop for Exchange<'_, T> {
    fn drop(&mut self) {
        self.wire.borrow_mut().abandon();
    }
}

impl<P: Platform> core::fmt::Debug for Store<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Store").field("port", &self.port).finish_non_exhaustive()
    }
}
