//! A network port that lies: answers never asked for and twice, fragments that leave their page, packets without end, extra
//! information of nonsense, indices that jump, states out of order, frames that change while they are looked at. The frames that
//! it hears it sends back.

use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::netif::{
    ExtraInfo, Gso, GsoKind, Rx, RxRequest, RxResponse, RxSlot, Tx, TxResponse, TxSlot, rx, tx,
};
use trunnion_protocol::ring::{BackRing, Claimed, RSP_PROD};
use trunnion_protocol::xenbus::State;

use super::Liar;
use crate::error::Error;
use crate::event::Channel;
use crate::mapping::{Mapping, Window};
use crate::platform::Platform;
use crate::store::Transaction;
use crate::xenbus::BackDevice;

/// One connection.
struct Link<'w, 'p, P: Platform> {
    liar: &'w Liar<'w>,
    device: &'w BackDevice<'w, 'p, P>,
    window: &'w Window<'p, P>,
    channel: &'w Channel<'p, P>,
    tx: BackRing<Tx, Mapping<'w, 'p, P>>,
    rx: BackRing<Rx, Mapping<'w, 'p, P>>,
    buffers: VecDeque<Claimed<RxRequest>>,
    frames: VecDeque<Vec<u8>>,
    /// The packet whose slots come in.
    packet: Packet,
    last: TxResponse,
}

#[derive(Default)]
struct Packet {
    bytes: Vec<u8>,
    total: usize,
    more: bool,
    extra: bool,
}

impl Liar<'_> {
    /// One connection of a network port, from the properties to the end, after which everything is let go.
    pub async fn port<'p, P: Platform>(
        &self,
        platform: &'p P,
        window: &Window<'p, P>,
        device: &mut BackDevice<'_, 'p, P>,
    ) -> Result<(), Error> {
        for key in ["feature-rx-copy", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6"] {
            let value = if self.chance(20) { "-1" } else { "1" };
            device.write(Transaction::NONE, key, value).await?;
        }
        device.set_state(State::InitWait).await?;
        device.next_step(State::InitWait).await?;
        if device.front_state().await? == State::Connected {
            let domain = device.client().domain;
            let (tx, rx) = (device.required("tx-ring-ref").await?, device.required("rx-ring-ref").await?);
            let channel = Channel::join(platform, domain, Port(device.required("event-channel").await?))?;
            let (tx, rx) = (window.map(domain, GrantRef(tx))?, window.map(domain, GrantRef(rx))?);
            if !self.chance(20) {
                device.set_state(State::Connected).await?;
                let link = Link {
                    liar: self,
                    device,
                    window,
                    channel: &channel,
                    tx: BackRing::new(tx, Width::W64).ok_or(Error::Broken)?,
                    rx: BackRing::new(rx, Width::W64).ok_or(Error::Broken)?,
                    buffers: VecDeque::new(),
                    frames: VecDeque::new(),
                    packet: Packet::default(),
                    last: TxResponse { id: 0, status: 0 },
                };
                let turns = if self.honest { self.turns } else { self.below(self.turns) };
                link.turns(turns).await?;
            }
            device.set_state(State::Closing).await?;
        }
        device.set_state(State::Closed).await
    }
}

impl<P: Platform> Link<'_, '_, P> {
    async fn turns(mut self, count: u64) -> Result<(), Error> {
        for _ in 0..count {
            self.hear();
            self.tell();
            self.channel.notify();
            self.liar.rest(self.device, 40).await?;
        }
        if self.liar.chance(3) {
            let page = if self.liar.chance(2) { self.tx.into_pages() } else { self.rx.into_pages() };
            let _ = page.page().store(RSP_PROD, &(self.liar.below(1 << 32) as u32));
            self.channel.notify();
        }
        Ok(())
    }

    /// Answers what the guest has sent, and keeps the frames.
    fn hear(&mut self) {
        while let Ok(Some(claimed)) = self.tx.take() {
            let truth = self.note(&claimed.request);
            let told = match self.liar.below(200) {
                _ if self.liar.honest => truth,
                0 => self.last,
                1 => TxResponse { id: self.liar.below(1 << 16) as u16, ..truth },
                2 => TxResponse { status: self.liar.below(1 << 16) as i16, ..truth },
                _ => truth,
            };
            self.last = truth;
            let _ = self.tx.answer(claimed, &told);
        }
        let _ = self.tx.publish();
    }

    /// Takes a slot of a packet; the answer that it should have.
    fn note(&mut self, slot: &TxSlot) -> TxResponse {
        let (request, packet) = (slot.request(), &mut self.packet);
        let truth = if core::mem::take(&mut packet.extra) {
            TxResponse { id: 0, status: 1 }
        } else {
            if !packet.more {
                packet.bytes.clear();
                packet.total = usize::from(request.size);
            }
            let length = if packet.more { usize::from(request.size) } else { packet.total.min(PAGE_SIZE) };
            let mut part = vec![0; length];
            if let Ok(page) = self.window.map_to_read(self.device.client().domain, request.reference) {
                let _ = page.copy_out(usize::from(request.offset), &mut part);
            }
            packet.bytes.extend(part);
            packet.extra = !packet.more && request.flags & tx::EXTRA != 0;
            packet.more = request.flags & tx::MORE != 0;
            TxResponse { id: request.id, status: 0 }
        };
        if !packet.more && !packet.extra {
            self.frames.push_back(core::mem::take(&mut packet.bytes));
        }
        truth
    }

    /// Sends frames back, or something else.
    fn tell(&mut self) {
        while let Ok(Some(claimed)) = self.rx.take() {
            self.buffers.push_back(claimed);
        }
        while let Some(frame) = self.frames.pop_front() {
            if self.buffers.len() < frame.len().div_ceil(PAGE_SIZE) + 1 {
                self.frames.push_front(frame);
                break;
            }
            self.give(&frame);
            if self.liar.chance(30)
                && let Some(buffer) = self.buffers.pop_front()
            {
                // A packet that did not come, which the front end passes over.
                let (id, status) = (buffer.request.id, -1);
                let _ = self.rx.answer(buffer, &RxResponse { id, offset: 0, flags: 0, status }.into());
            }
        }
        if self.liar.chance(60) {
            // A packet without end.
            for buffer in self.buffers.drain(..) {
                let response = RxResponse { id: buffer.request.id, offset: 0, flags: rx::MORE, status: 1 };
                let _ = self.rx.answer(buffer, &response.into());
            }
        }
        let _ = self.rx.publish();
    }

    fn give(&mut self, frame: &[u8]) {
        let large = frame.len().is_multiple_of(5);
        let pieces = frame.chunks(PAGE_SIZE).count();
        for (index, piece) in frame.chunks(PAGE_SIZE).enumerate() {
            let Some(buffer) = self.buffers.pop_front() else { break };
            if let Ok(page) = self.window.map(self.device.client().domain, buffer.request.reference) {
                let _ = page.page().copy_in(0, piece);
                if self.liar.chance(8) {
                    // The frame changes after it was told of, as far as its pages are still mapped.
                    let _ = page.page().store(self.liar.below(1024) as usize * 4, &0xffff_ffffu32);
                }
            }
            let more = if index + 1 < pieces { rx::MORE } else { 0 };
            let extra = if index == 0 && large { rx::EXTRA } else { 0 };
            let id = buffer.request.id;
            let mut slot: RxSlot =
                RxResponse { id, offset: 0, flags: more | extra, status: piece.len() as i16 }.into();
            if self.liar.chance(40) {
                slot = self.nonsense(id);
            }
            let _ = self.rx.answer(buffer, &slot);
            if extra != 0
                && let Some(buffer) = self.buffers.pop_front()
            {
                let gso = ExtraInfo::gso(Gso { kind: GsoKind::TcpV4, size: 1448 });
                let _ = self.rx.answer(buffer, &gso.into());
            }
        }
    }

    fn nonsense(&self, id: u16) -> RxSlot {
        let bits = |end: u64| self.liar.below(end);
        match bits(4) {
            0 => RxResponse { id: bits(1 << 16) as u16, offset: 0, flags: 0, status: 64 }.into(),
            1 => {
                let (offset, status) = (bits(1 << 13) as u16, bits(1 << 16) as i16);
                RxResponse { id, offset, flags: bits(16) as u16, status }.into()
            }
            2 => ExtraInfo { kind: bits(6) as u8, flags: bits(2) as u8, payload: [bits(4) as u8; 6] }.into(),
            _ => RxResponse { id, offset: 0, flags: rx::MORE, status: 1 }.into(),
        }
    }
}
