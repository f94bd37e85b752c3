//! A disk that lies: answers never asked for, twice, with wrong identities, operations and indices, properties of nonsense, states
//! out of order, pages kept and scribbled on.

use std::vec::Vec;

use trunnion_protocol::blkif::request::Request;
use trunnion_protocol::blkif::{Block, Response};
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::{BackRing, RSP_PROD};
use trunnion_protocol::xenbus::State;

use super::Liar;
use crate::error::Error;
use crate::event::Channel;
use crate::mapping::{Mapping, Window};
use crate::platform::Platform;
use crate::store::Transaction;
use crate::xenbus::BackDevice;

/// How often a front end that has not closed yet is told to look once more at its pages.
const FAREWELLS: u32 = 40;

impl Liar<'_> {
    /// One connection of a disk, from the properties to the end, after which everything is let go.
    pub async fn disk<'p, P: Platform>(
        &self,
        platform: &'p P,
        window: &Window<'p, P>,
        device: &mut BackDevice<'_, 'p, P>,
    ) -> Result<(), Error> {
        let domain = device.client().domain;
        self.properties(device).await?;
        device.set_state(State::InitWait).await?;
        device.next_step(State::InitWait).await?;
        if device.front_state().await? == State::Initialised {
            let page = window.map(domain, GrantRef(device.required("ring-ref").await?))?;
            let channel = Channel::join(platform, domain, Port(device.required("event-channel").await?))?;
            device.set_state(State::Connected).await?;
            let ring = self.answers(device, window, page, &channel).await?;
            device.set_state(State::Closing).await?;
            drop(ring);
            channel.notify();
            // The front end looks once more at pages that were kept before it hears no more of this port.
            for _ in 0..FAREWELLS {
                if matches!(device.front_state().await?, State::Closed | State::Unknown) {
                    break;
                }
                channel.notify();
            }
        }
        device.set_state(State::Closed).await
    }

    /// Most of them honest, now and then one of nonsense.
    async fn properties<P: Platform>(&self, device: &BackDevice<'_, '_, P>) -> Result<(), Error> {
        for (key, value) in [
            ("feature-max-indirect-segments", "32"),
            ("feature-flush-cache", "1"),
            ("sectors", "2048"),
            ("sector-size", "512"),
            ("info", "0"),
        ] {
            if !self.chance(12) {
                device.write(Transaction::NONE, key, value).await?;
            } else if self.below(3) != 0 {
                device.write(Transaction::NONE, key, &self.nonsense()).await?;
            }
        }
        Ok(())
    }

    /// So many turns of mischief on a ring.
    async fn answers<'w, 'p, P: Platform>(
        &self,
        device: &BackDevice<'_, 'p, P>,
        window: &'w Window<'p, P>,
        page: Mapping<'w, 'p, P>,
        channel: &Channel<'p, P>,
    ) -> Result<BackRing<Block, Mapping<'w, 'p, P>>, Error> {
        let domain = device.client().domain;
        let mut ring = BackRing::<Block, _>::new(page, Width::W64).ok_or(Error::Broken)?;
        let mut kept = Vec::new();
        let mut last = Response { id: 0, operation: 0, status: 0 };
        for _ in 0..self.below(self.turns) {
            while let Ok(Some(claimed)) = ring.take() {
                self.touch(&claimed.request, domain, window, &mut kept);
                let (truth, told) = self.answer(&claimed.request, last);
                last = truth;
                let _ = ring.answer(claimed, &told);
            }
            let _ = ring.publish();
            channel.notify();
            self.rest(device, 30).await?;
            if self.chance(4) {
                kept.clear();
                channel.notify();
            }
        }
        kept.clear();
        if self.chance(3) {
            let page = ring.into_pages();
            let _ = page.page().store(RSP_PROD, &(self.below(1 << 32) as u32));
            channel.notify();
            return BackRing::new(page, Width::W64).ok_or(Error::Broken);
        }
        Ok(ring)
    }

    /// What is read is data that changes after the check; what is kept does not come back yet.
    fn touch<'w, 'p, P: Platform>(
        &self,
        request: &Request,
        domain: DomainId,
        window: &'w Window<'p, P>,
        kept: &mut Vec<Mapping<'w, 'p, P>>,
    ) {
        let Request::Transfer(transfer) = request else { return };
        for segment in transfer.segments().unwrap_or_default() {
            if let Ok(mapping) = window.map(domain, segment.reference) {
                let word = self.below(1024) as usize * 4;
                let _ = mapping.page().store(word, &(self.below(1 << 32) as u32));
                if self.chance(8) {
                    kept.push(mapping);
                }
            }
        }
    }

    /// The answer that a request should have, and the one it gets.
    fn answer(&self, request: &Request, last: Response) -> (Response, Response) {
        let operation = match request {
            Request::Indirect(indirect) => indirect.inner,
            other => other.operation(),
        };
        let truth = Response { id: request.id(), operation, status: 0 };
        let told = match self.below(24) {
            _ if self.honest => truth,
            0 => last,
            1 => Response { id: self.below(u64::MAX), ..truth },
            2 => Response { id: truth.id ^ 1 << self.below(64), ..truth },
            3 => Response { operation: self.below(256) as u8, ..truth },
            4 => Response { status: self.below(1 << 16) as i16, ..truth },
            _ => truth,
        };
        (truth, told)
    }
}
