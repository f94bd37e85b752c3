//! Watches: a mark for each, set when something changed.

use core::future::poll_fn;

use trunnion_protocol::store::Kind;

use super::{Store, Transaction};
use crate::error::Error;
use crate::platform::Platform;
use crate::text::{Path, Text};

/// Watches that may exist at once.
const WATCHES: usize = 32;

#[derive(Clone, Copy)]
struct Place {
    /// Tells the watches apart that used this place one after the other.
    uses: u16,
    state: State,
    marked: bool,
    path: Path,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Used,
    /// Its owner is gone, and the store does not know yet.
    Orphaned,
}

/// The watches of a connection.
pub(super) struct Registry([Option<Place>; WATCHES]);

impl Registry {
    pub(super) const fn new() -> Self {
        Self([None; WATCHES])
    }

    /// Notes the event with this payload: a path and a token. Events of watches that are gone mean nothing.
    pub(super) fn mark(&mut self, payload: &[u8]) {
        let mut parts = payload.split(|&byte| byte == 0);
        let token = parts.nth(1).and_then(|token| core::str::from_utf8(token).ok()?.parse::<u32>().ok());
        let Some(token) = token else { return };
        if let Some(place) = self.place(token)
            && place.state == State::Used
        {
            place.marked = true;
        }
    }

    fn place(&mut self, token: u32) -> Option<&mut Place> {
        let place = self.0.get_mut((token & 0xffff) as usize)?.as_mut()?;
        (u32::from(place.uses) == token >> 16).then_some(place)
    }

    fn reserve(&mut self, path: &Path) -> Option<u32> {
        let free = |place: &Option<Place>| place.is_none_or(|place| place.state == State::Free);
        let index = self.0.iter().position(free)?;
        let place = self.0.get_mut(index)?;
        let uses = place.map_or(0, |place| place.uses).wrapping_add(1);
        *place = Some(Place { uses, state: State::Used, marked: false, path: *path });
        Some(u32::from(uses) << 16 | index as u32)
    }

    fn orphan(&self) -> Option<(u32, Path)> {
        let orphaned = |(index, place): (usize, &Option<Place>)| {
            let place = place.as_ref().filter(|place| place.state == State::Orphaned)?;
            Some((u32::from(place.uses) << 16 | index as u32, place.path))
        };
        self.0.iter().enumerate().find_map(orphaned)
    }

    fn set(&mut self, token: u32, state: State) {
        if let Some(place) = self.place(token) {
            place.state = state;
        }
    }
}

/// A watch. After it is dropped the store is told with the next watch that is made, or by [`end`](Self::end).
pub struct Watch<'s, 'p, P: Platform> {
    store: &'s Store<'p, P>,
    token: u32,
}

impl<'p, P: Platform> Store<'p, P> {
    /// Watches a path and all below it. It is marked as changed from the start.
    pub async fn watch(&self, path: &str) -> Result<Watch<'_, 'p, P>, Error> {
        self.forget_orphans().await?;
        let token = self.wire.borrow_mut().watches.reserve(&Text::copy(path)?).ok_or(Error::OutOfMemory)?;
        let watch = Watch { store: self, token };
        let text = Text::<12>::format(format_args!("{token}"))?;
        let pieces = [path.as_bytes(), b"\0", text.as_str().as_bytes(), b"\0"];
        match self.request(Kind::Watch, Transaction::NONE, &pieces, &mut [0; 8]).await {
            Ok(_) => Ok(watch),
            Err(error) => {
                watch.store.wire.borrow_mut().watches.set(token, State::Free);
                core::mem::forget(watch);
                Err(error)
            }
        }
    }

    async fn forget_orphans(&self) -> Result<(), Error> {
        loop {
            let Some((token, path)) = self.wire.borrow().watches.orphan() else { return Ok(()) };
            let text = Text::<12>::format(format_args!("{token}"))?;
            let pieces = [path.as_str().as_bytes(), b"\0", text.as_str().as_bytes(), b"\0"];
            match self.request(Kind::Unwatch, Transaction::NONE, &pieces, &mut [0; 8]).await {
                // Where the store does not know the watch there is none to end.
                Ok(_) | Err(Error::Store(_)) => self.wire.borrow_mut().watches.set(token, State::Free),
                Err(error) => return Err(error),
            }
        }
    }
}

impl<P: Platform> Watch<'_, '_, P> {
    /// Waits until something has changed since the last call. Several changes may be told as one.
    pub async fn changed(&mut self) -> Result<(), Error> {
        self.wait().await
    }

    /// As [`changed`](Self::changed); of several tasks that wait one is told.
    pub(crate) async fn wait(&self) -> Result<(), Error> {
        let store = self.store;
        let turn = crate::wait::Turn::new(&store.waiters);
        let result = poll_fn(|context| {
            store.poll(context, |wire| {
                let place = wire.watches.place(self.token)?;
                core::mem::take(&mut place.marked).then_some(Ok(()))
            })
        })
        .await;
        drop(turn);
        result
    }

    /// Ends the watch in the store.
    pub async fn end(self) -> Result<(), Error> {
        let store = self.store;
        drop(self);
        store.forget_orphans().await
    }
}

impl<P: Platform> Drop for Watch<'_, '_, P> {
    fn drop(&mut self) {
        self.store.wire.borrow_mut().watches.set(self.token, State::Orphaned);
    }
}

impl<P: Platform> core::fmt::Debug for Watch<'_, '_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Watch").field("token", &self.token).finish_non_exhaustive()
    }
}
