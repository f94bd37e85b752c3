//! The ring on which a guest sends: packets are taken in runs, checked, and described as frames.

use alloc::vec::Vec;
use core::ops::Range;

use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::errno::GrantStatus;
use trunnion_protocol::id::{DomainId, GrantRef};
use trunnion_protocol::netif::{
    EXTRA_MORE, ExtraInfo, ExtraKind, Gso, GsoKind, SLOTS_MIN, Status, Tx, TxResponse, tx,
};
use trunnion_protocol::ring::{BackRing, Owed, Pages};
use trunnion_protocol::shared::SharedPage;

use super::groups::Groups;
use super::offload::{self, ETHERNET, TCP, Version};
use super::vif::Fault;
use super::workshop::scatter;
use crate::frame::{Checksum, Frame, HEAD, Piece, Place, fits};
use crate::host::{CopyPage, GrantCopier, GrantCopy};

/// Packets of one run.
pub(super) const PACKETS: usize = 64;
/// Fragments of a packet: what everybody takes and two more, as Linux's back end does.
const FRAGMENTS: usize = SLOTS_MIN + 2;
/// Slots of one packet, beyond which it is no mistake any more.
const CHAIN: usize = 64;
/// Frames that the large packets of one run become at most, the last packet not counted.
const CUTS: usize = 1024;
/// Bytes of payload in each of them at least; Linux's own limit (`TCP_MIN_GSO_SIZE`). It bounds the last packet's frames.
const LEAST_CUT: u16 = 8;
/// Slots of extra information of one packet.
const EXTRAS: usize = 8;
/// Bytes kept for the first bytes of each packet; a packet that fits is copied whole.
const HEAD_ROOM: usize = 256;
const HEADS_IN_PAGE: usize = PAGE_SIZE / HEAD_ROOM;
/// Pages for packets that are copied whole.
const WHOLE_PAGES: usize = 64;
/// Pages that the largest of them takes: each fragment has one of its own, so that one copy brings it whole.
const LARGEST: usize = FRAGMENTS;

/// Bytes of a page that the guest sends.
#[derive(Clone, Copy)]
struct Fragment {
    reference: GrantRef,
    offset: u16,
    length: u16,
}

struct Packet {
    fragments: Range<usize>,
    copies: Range<usize>,
    answers: Range<usize>,
    length: usize,
    /// Where the local copy is: frame, offset, bytes.
    place: (usize, bool),
    local: usize,
    checksum: Checksum,
    gso: Option<Gso>,
    bad: bool,
    /// Not to be sent: it only changed the list of groups.
    control: bool,
}

struct Answer {
    owed: Owed,
    id: u16,
    status: Status,
}

/// What a run of packets needs. Shared by all ports: a run is over before the next begins.
pub(super) struct Run<L> {
    heads: L,
    heads_at: Gfn,
    whole: L,
    whole_at: Gfn,
    whole_used: usize,
    packets: Vec<Packet>,
    fragments: Vec<Fragment>,
    copies: Vec<GrantCopy>,
    results: Vec<Result<(), GrantStatus>>,
    answers: Vec<Answer>,
}

/// What the guest may do.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) domain: DomainId,
    /// The only address that it sends from, if there is such a rule.
    pub(super) address: Option<[u8; 6]>,
}

impl<L: AsRef<[SharedPage]>> Run<L> {
    pub(super) fn new<H: GrantCopier<Local = L>>(host: &H) -> Option<Self> {
        let (heads, heads_at) = host.local(PACKETS.div_ceil(HEADS_IN_PAGE))?;
        let (whole, whole_at) = host.local(WHOLE_PAGES)?;
        Some(Self {
            heads,
            heads_at,
            whole,
            whole_at,
            whole_used: 0,
            packets: Vec::with_capacity(PACKETS),
            fragments: Vec::new(),
            copies: Vec::new(),
            results: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Takes packets until there are no more, or the run is full, or `more` says no after it has heard of a packet's bytes.
    pub(super) fn take<P: Pages>(
        &mut self,
        ring: &mut BackRing<Tx, P>,
        rules: Rules,
        groups: &mut Groups,
        whole: bool,
        mut more: impl FnMut(usize) -> bool,
    ) -> Result<(), Fault> {
        self.packets.clear();
        self.fragments.clear();
        self.copies.clear();
        self.answers.clear();
        self.whole_used = 0;
        let (mut open, mut cuts) = (true, 0);
        while open
            && cuts < CUTS
            && self.packets.len() < PACKETS
            && (!whole || self.whole_used + LARGEST <= WHOLE_PAGES)
            && self.take_one(ring, rules, groups, whole)?
        {
            let Some(packet) = self.packets.last() else { break };
            open = more(packet.length);
            cuts += packet.gso.map_or(0, |gso| packet.length.div_ceil(usize::from(gso.size.max(LEAST_CUT))));
        }
        Ok(())
    }

    /// Takes one packet; false when there is none.
    fn take_one<P: Pages>(
        &mut self,
        ring: &mut BackRing<Tx, P>,
        rules: Rules,
        groups: &mut Groups,
        whole: bool,
    ) -> Result<bool, Fault> {
        let Some(first) = ring.take().map_err(Fault::Ring)? else { return Ok(false) };
        let request = first.request.request();
        let (fragments, answers) = (self.fragments.len(), self.answers.len());
        self.answers.push(Answer { owed: first.owed, id: request.id, status: Status::Okay });
        let mut next = |answers: &mut Vec<Answer>, extra: bool| {
            let claimed = ring.take().map_err(Fault::Ring)?.ok_or(Fault::Cut)?;
            let id = if extra { 0 } else { claimed.request.request().id };
            let status = if extra { Status::Null } else { Status::Okay };
            answers.push(Answer { owed: claimed.owed, id, status });
            Ok(claimed.request)
        };

        let (mut bad, mut control, mut gso) = (false, false, None);
        let (mut extra, mut extras) = (request.flags & tx::EXTRA != 0, 0);
        while extra {
            extras += 1;
            if extras > EXTRAS {
                return Err(Fault::Chain);
            }
            let info: ExtraInfo = next(&mut self.answers, true)?.extra();
            match ExtraKind::from_number(info.kind) {
                Some(ExtraKind::Gso) => {
                    gso = info.as_gso();
                    bad |= gso.is_none();
                }
                Some(ExtraKind::MulticastAdd) => {
                    control = true;
                    bad |= !groups.add(info.payload);
                }
                Some(ExtraKind::MulticastDelete) => {
                    control = true;
                    groups.remove(info.payload);
                }
                Some(ExtraKind::Hash | ExtraKind::Xdp) => {}
                None => bad = true,
            }
            extra = info.flags & EXTRA_MORE != 0;
        }

        let length = usize::from(request.size);
        // The first fragment has what the others leave of the whole.
        self.fragments.push(Fragment { reference: request.reference, offset: request.offset, length: 0 });
        let (mut rest, mut slots, mut more) = (0usize, 1, request.flags & tx::MORE != 0);
        while more {
            slots += 1;
            if slots > CHAIN {
                return Err(Fault::Chain);
            }
            let part = next(&mut self.answers, false)?.request();
            rest += usize::from(part.size);
            bad |= !fits(part.offset, part.size);
            self.fragments.push(Fragment {
                reference: part.reference,
                offset: part.offset,
                length: part.size,
            });
            more = part.flags & tx::MORE != 0;
        }
        bad |= slots > FRAGMENTS || length < ETHERNET;
        match length.checked_sub(rest) {
            Some(own) if fits(request.offset, own as u16) => {
                if let Some(fragment) = self.fragments.get_mut(fragments) {
                    fragment.length = own as u16;
                }
            }
            _ => bad = true,
        }
        let blank = request.flags & tx::CHECKSUM_BLANK != 0;
        // A large packet has no checksum that could be right.
        bad |= gso.is_some_and(|gso| !blank || gso.size < LEAST_CUT);
        let checksum = match (blank, request.flags & tx::DATA_VALIDATED != 0) {
            (true, _) => Checksum::Blank,
            (false, true) => Checksum::Good,
            (false, false) => Checksum::Unknown,
        };
        let copies = self.copies.len();
        let mut packet = Packet {
            fragments: fragments..self.fragments.len(),
            copies: copies..copies,
            answers: answers..self.answers.len(),
            length,
            place: (0, false),
            local: 0,
            checksum,
            gso,
            bad,
            control,
        };
        if !bad && !control {
            self.copy_in(&mut packet, rules.domain, whole);
        }
        self.packets.push(packet);
        Ok(true)
    }

    /// Notes the copies that bring a packet's first bytes, or all of it, into local pages.
    fn copy_in(&mut self, packet: &mut Packet, domain: DomainId, whole: bool) {
        let fragments = self.fragments.get(packet.fragments.clone()).unwrap_or_default();
        if whole && packet.length > HEAD_ROOM {
            packet.local = packet.length;
            packet.place = (self.whole_used * PAGE_SIZE, true);
            for fragment in fragments.iter().filter(|fragment| fragment.length > 0) {
                let place = self.whole_used * PAGE_SIZE;
                let from = CopyPage::Granted(domain, fragment.reference);
                scatter(from, fragment.offset, fragment.length, self.whole_at, place, &mut self.copies);
                self.whole_used += 1;
            }
            packet.copies.end = self.copies.len();
            return;
        }
        packet.local = if packet.length <= HEAD_ROOM { packet.length } else { HEAD };
        let mut at = self.packets.len() * HEAD_ROOM;
        packet.place = (at, false);
        let mut rest = packet.local;
        for fragment in fragments {
            let count = rest.min(usize::from(fragment.length));
            let from = CopyPage::Granted(domain, fragment.reference);
            at = scatter(from, fragment.offset, count as u16, self.heads_at, at, &mut self.copies);
            rest -= count;
            if rest == 0 {
                break;
            }
        }
        packet.copies.end = self.copies.len();
    }

    /// Makes those copies.
    pub(super) fn fetch<H: GrantCopier>(&mut self, host: &H) {
        self.results.clear();
        if !self.copies.is_empty() {
            host.copy(&self.copies, &mut self.results);
        }
    }

    /// Checks each packet and hands the good ones on; returns how many packets and bytes were good, and how many packets
    /// were not.
    pub(super) fn forward(&mut self, rules: Rules, mut to: impl FnMut(&Frame<'_>)) -> (u64, u64, u64) {
        let (mut good, mut bytes, mut refused) = (0, 0, 0u64);
        let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(FRAGMENTS + LARGEST);
        for (index, packet) in self.packets.iter().enumerate() {
            let mut head = [0; HEAD];
            if packet.control && !packet.bad {
                continue;
            }
            let frame = if packet.bad { None } else { self.describe(packet, rules, &mut head, &mut pieces) };
            match frame {
                Some(frame) => {
                    to(&frame);
                    good += 1;
                    bytes += packet.length as u64;
                }
                // A run has no more packets than the word has bits.
                None => refused |= 1 << (index % PACKETS),
            }
        }
        drop(pieces);
        for (index, packet) in self.packets.iter().enumerate() {
            if refused & 1 << (index % PACKETS) != 0 {
                let answers = self.answers.get_mut(packet.answers.clone()).unwrap_or_default();
                for answer in answers.iter_mut().filter(|answer| answer.status == Status::Okay) {
                    answer.status = Status::Error;
                }
            }
        }
        (good, bytes, u64::from(refused.count_ones()))
    }

    fn describe<'f, 's: 'f>(
        &'s self,
        packet: &Packet,
        rules: Rules,
        head: &'f mut [u8; HEAD],
        pieces: &'f mut Vec<Piece<'s>>,
    ) -> Option<Frame<'f>> {
        let results = self.results.get(packet.copies.clone())?;
        if results.iter().any(Result::is_err) {
            return None;
        }
        let (place, whole) = packet.place;
        let (pages, first) = if whole { (&self.whole, self.whole_at) } else { (&self.heads, self.heads_at) };
        let (mut index, offset) = (place / PAGE_SIZE, place % PAGE_SIZE);
        let mut local = |offset: usize, length: usize| {
            let page = pages.as_ref().get(index)?;
            let gfn = Gfn(first.0.wrapping_add(index as u64));
            index += 1;
            let place = Place::Local { page, gfn, offset: offset as u16 };
            Some((page, Piece { place, length: length as u16 }))
        };
        let fragments = self.fragments.get(packet.fragments.clone())?;
        let head = head.get_mut(..packet.length.min(HEAD))?;
        pieces.clear();
        if whole {
            let mut at = 0;
            for fragment in fragments.iter().filter(|fragment| fragment.length > 0) {
                let length = usize::from(fragment.length);
                let (page, piece) = local(0, length)?;
                pieces.push(piece);
                if at < head.len() {
                    let end = head.len().min(at + length);
                    page.copy_out(0, head.get_mut(at..end)?).ok()?;
                    at = end;
                }
            }
        } else {
            let (page, piece) = local(offset, packet.local)?;
            page.copy_out(offset, head).ok()?;
            pieces.push(piece);
        }
        let head = &*head;
        check(head, packet, rules)?;
        let mut skip = packet.local;
        for fragment in fragments {
            let length = usize::from(fragment.length);
            let skipped = skip.min(length);
            skip -= skipped;
            if length > skipped {
                let offset = fragment.offset.wrapping_add(skipped as u16);
                let place = Place::Granted { domain: rules.domain, reference: fragment.reference, offset };
                pieces.push(Piece { place, length: (length - skipped) as u16 });
            }
        }
        Some(Frame { head, pieces, length: packet.length, checksum: packet.checksum, gso: packet.gso })
    }

    /// Answers every slot of the run.
    pub(super) fn answer<P: Pages>(&mut self, ring: &mut BackRing<Tx, P>, domain: DomainId) {
        for Answer { owed, id, status } in self.answers.drain(..) {
            if let Err(refused) = ring.answer(owed, &TxResponse { id, status: status.number() }) {
                log::error!("net: domain {domain}: {refused}");
            }
        }
    }

    /// Whether the last run took nothing.
    pub(super) const fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

/// Checks what the first bytes of a packet say.
fn check(head: &[u8], packet: &Packet, rules: Rules) -> Option<()> {
    let source: [u8; 6] = *head.get(6..)?.first_chunk()?;
    if super::is_group(source) || rules.address.is_some_and(|own| own != source) {
        return None;
    }
    if packet.checksum != Checksum::Blank {
        return Some(());
    }
    // Whoever leaves a checksum blank says by the headers where it belongs.
    let headers = offload::headers(head)?;
    let at = headers.checksum_at()?;
    if headers.fragment || at + 2 > packet.length {
        return None;
    }
    let Some(gso) = packet.gso else { return Some(()) };
    let version = match gso.kind {
        GsoKind::TcpV4 => Version::V4,
        GsoKind::TcpV6 => Version::V6,
    };
    (headers.version == version && headers.protocol == TCP).then_some(())
}
