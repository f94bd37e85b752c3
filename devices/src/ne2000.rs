//! An NE2000 card (National DP8390D data sheet; its PCI form by Realtek: RTL8029AS data sheet): 16 KiB of memory that the
//! guest reads and writes through a port, a word at a time.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Waker;

use serde::{Deserialize, Serialize};
use trunnion_backends::frame::Checksum;

use crate::memory::GuestMemory;
use crate::nic::{Inbox, Outlet, SHORTEST, hash, send};
use crate::pci::{Config, Identity, Space};
use crate::width::Width;

/// Ports of the card.
pub const PORTS: u16 = 32;
/// Offset of the port through which its memory is read and written.
pub const DATA: u16 = 0x10;
/// Its memory begins there, after the PROM, and is this long.
const START: usize = 0x4000;
const MEMORY: usize = 0x4000;

const STOP: u8 = 1;
const TRANSMIT: u8 = 4;

/// Interrupt status: received, sent, receive error, overwrite, remote DMA complete, reset.
const RECEIVED: u8 = 1;
const SENT: u8 = 2;
const SEND_ERROR: u8 = 8;
const OVERWRITE: u8 = 0x10;
const REMOTE: u8 = 0x40;
const RESET: u8 = 0x80;

/// Frames that are put into the ring until the guest has acknowledged them. Linux's driver takes nine at an interrupt and looks for more
/// only at the next one.
const BATCH: usize = 8;

/// Data configuration: the card's memory is read and written in words (WTS).
const WORDS: u8 = 1;

/// The card's registers and memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    command: u8,
    first: u8,
    last: u8,
    boundary: u8,
    current: u8,
    send_page: u8,
    send_bytes: u16,
    status: u8,
    mask: u8,
    remote: u16,
    remote_bytes: u16,
    receive_config: u8,
    send_config: u8,
    data_config: u8,
    receive_status: u8,
    address: [u8; 6],
    multicast: [u8; 8],
    prom: [u8; 32],
    memory: Vec<u8>,
    /// A frame that DCR's loop-back or a missing outlet swallowed still counts as sent.
    pending: bool,
}

/// The card.
pub struct Ne2000 {
    /// Configuration space. BAR 0 is its ports.
    pub config: Config,
    state: State,
    outlet: Option<Outlet>,
    inbox: Rc<Inbox>,
}

impl Ne2000 {
    /// A card with an address, on a wire.
    #[must_use]
    pub fn new(address: [u8; 6], outlet: Option<Outlet>) -> Self {
        let identity = Identity {
            vendor: 0x10ec,
            device: 0x8029,
            class: 0x02_0000,
            revision: 0,
            subsystem: 0x1100_1af4,
        };
        let mut prom = [0; 32];
        // Every byte twice, as a card in a 16-bit slot shows it, and the mark of such a card.
        for (pair, byte) in prom.chunks_mut(2).zip(address.into_iter().chain([0; 8]).chain([0x57; 2])) {
            pair.fill(byte);
        }
        Self {
            config: Config::new(identity).with_pin(1).with_bar(0, Space::Port, u32::from(PORTS)),
            state: State {
                command: STOP,
                first: 0,
                last: 0,
                boundary: 0,
                current: 0,
                send_page: 0,
                send_bytes: 0,
                status: RESET,
                mask: 0,
                remote: 0,
                remote_bytes: 0,
                receive_config: 0,
                send_config: 0,
                data_config: 0,
                receive_status: 0,
                address: [0; 6],
                multicast: [0; 8],
                prom,
                memory: vec![0; MEMORY],
                pending: false,
            },
            outlet,
            inbox: Rc::default(),
        }
    }

    /// Where the bridge delivers this card's frames.
    #[must_use]
    pub fn inbox(&self) -> Rc<Inbox> {
        Rc::clone(&self.inbox)
    }

    /// The state.
    #[must_use]
    pub fn save(&self) -> State {
        self.state.clone()
    }

    /// Takes a saved state over.
    pub fn load(&mut self, state: State) {
        self.state = state;
        self.state.memory.resize(MEMORY, 0);
    }

    /// Whether its interrupt line is high.
    #[must_use]
    pub fn line(&self) -> bool {
        self.state.status & self.state.mask & 0x7f != 0
    }

    fn memory_byte(&self, at: u16) -> u8 {
        let at = usize::from(at);
        if at < 32 {
            return self.state.prom.get(at).copied().unwrap_or(0xff);
        }
        at.checked_sub(START).and_then(|at| self.state.memory.get(at)).copied().unwrap_or(0xff)
    }

    fn set_memory_byte(&mut self, at: u16, value: u8) {
        if let Some(byte) = usize::from(at).checked_sub(START).and_then(|at| self.state.memory.get_mut(at)) {
            *byte = value;
        }
    }

    /// Bytes that an access to the data port moves: in word mode (DCR's WTS) a whole word even where the guest asks for one byte.
    fn transfer(&self, width: Width) -> usize {
        width.bytes().max(if self.state.data_config & WORDS != 0 { 2 } else { 1 })
    }

    /// Moves the remote DMA on by a byte; at the end of the ring it goes on at its begin.
    fn step(&mut self) {
        self.state.remote = self.state.remote.wrapping_add(1);
        if self.state.remote == u16::from(self.state.last) << 8 {
            self.state.remote = u16::from(self.state.first) << 8;
        }
        self.state.remote_bytes = self.state.remote_bytes.saturating_sub(1);
        if self.state.remote_bytes == 0 {
            self.state.status |= REMOTE;
        }
    }

    /// Reads a port by its offset in BAR 0.
    pub fn read(&mut self, offset: u16, width: Width) -> u32 {
        if offset & 0x10 != 0 {
            if offset & 0x18 == 0x18 {
                // Reading the reset port resets.
                self.state.status |= RESET;
                self.state.command = STOP;
                return 0;
            }
            let mut value = [0; 4];
            for byte in value.iter_mut().take(self.transfer(width)) {
                if self.state.remote_bytes > 0 {
                    *byte = self.memory_byte(self.state.remote);
                    self.step();
                }
            }
            return u32::from_le_bytes(value) & width.mask();
        }
        let s = &self.state;
        let page = s.command >> 6;
        u32::from(match (page, offset) {
            (_, 0) => s.command,
            (0, 1) => s.remote as u8,
            (0, 2) => (s.remote >> 8) as u8,
            (0, 3) => s.boundary,
            (0, 4) => 1,
            (0, 7) => s.status,
            (0, 8) => s.remote as u8,
            (0, 9) => (s.remote >> 8) as u8,
            // What the RTL8029 has where the DP8390 has nothing.
            (0, 10) => 0x50,
            (0, 11) => 0x43,
            (0, 12) => s.receive_status,
            (0, _) => 0,
            (1, 1..=6) => s.address.get(usize::from(offset - 1)).copied().unwrap_or(0),
            (1, 7) => s.current,
            (1, 8..=15) => s.multicast.get(usize::from(offset - 8)).copied().unwrap_or(0),
            (2, 1) => s.first,
            (2, 2) => s.last,
            (2, 4) => s.send_page,
            (2, 12) => s.receive_config,
            (2, 13) => s.send_config,
            (2, 14) => s.data_config,
            (2, 15) => s.mask,
            _ => 0,
        })
    }

    /// Writes a port.
    pub fn write<M: GuestMemory>(&mut self, memory: &M, offset: u16, width: Width, value: u32) {
        if offset & 0x10 != 0 {
            if offset & 0x18 == 0x10 {
                for byte in value.to_le_bytes().into_iter().take(self.transfer(width)) {
                    if self.state.remote_bytes > 0 {
                        self.set_memory_byte(self.state.remote, byte);
                        self.step();
                    }
                }
            }
            return;
        }
        let value = value as u8;
        let page = self.state.command >> 6;
        let s = &mut self.state;
        match (page, offset) {
            (_, 0) => self.run(memory, value),
            (0, 1) => s.first = value,
            (0, 2) => s.last = value,
            (0, 3) => s.boundary = value,
            (0, 4) => s.send_page = value,
            (0, 5) => s.send_bytes = s.send_bytes & 0xff00 | u16::from(value),
            (0, 6) => s.send_bytes = s.send_bytes & 0xff | u16::from(value) << 8,
            (0, 7) => s.status &= !(value & 0x7f),
            (0, 8) => s.remote = s.remote & 0xff00 | u16::from(value),
            (0, 9) => s.remote = s.remote & 0xff | u16::from(value) << 8,
            (0, 10) => s.remote_bytes = s.remote_bytes & 0xff00 | u16::from(value),
            (0, 11) => s.remote_bytes = s.remote_bytes & 0xff | u16::from(value) << 8,
            (0, 12) => s.receive_config = value,
            (0, 13) => s.send_config = value,
            (0, 14) => s.data_config = value,
            (0, 15) => s.mask = value,
            (1, 1..=6) => {
                if let Some(place) = s.address.get_mut(usize::from(offset - 1)) {
                    *place = value;
                }
            }
            (1, 7) => s.current = value,
            (1, 8..=15) => {
                if let Some(place) = s.multicast.get_mut(usize::from(offset - 8)) {
                    *place = value;
                }
            }
            _ => {}
        }
    }

    fn run<M: GuestMemory>(&mut self, memory: &M, value: u8) {
        self.state.command = value & !TRANSMIT;
        if value & STOP != 0 {
            self.state.status |= RESET;
            return;
        }
        self.state.status &= !RESET;
        // A remote transfer of no bytes is complete at once.
        if value & 0x18 != 0 && self.state.remote_bytes == 0 {
            self.state.status |= REMOTE;
        }
        if value & TRANSMIT == 0 {
            return;
        }
        let start = u16::from(self.state.send_page) << 8;
        let length = self.state.send_bytes.min(1536);
        let frame: Vec<u8> = (0..length).map(|n| self.memory_byte(start.wrapping_add(n))).collect();
        // TCR bits 1 and 2: loop-back.
        let sent = match &self.outlet {
            Some(outlet) if self.state.send_config & 6 == 0 && frame.len() >= 14 => {
                send(memory, outlet, &frame, Checksum::Unknown, None)
            }
            _ => true,
        };
        self.state.status |= if sent { SENT } else { SEND_ERROR };
    }

    /// Takes frames that have arrived, as many as there is room for, and no more than a guest takes at once.
    pub fn poll(&mut self, waker: &Waker) {
        if self.state.command & STOP != 0 {
            // A card that is stopped hears nothing.
            self.inbox.clear();
        }
        let mut room = if self.holds() { 0 } else { BATCH };
        while room > 0 && self.pages() >= 7 {
            let Some(frame) = self.inbox.next(|parts, _| parts.concat()) else { break };
            if self.receive(frame) {
                room -= 1;
            }
        }
        self.inbox.wake(waker);
    }

    /// Whether further frames wait on the wire: the guest has not seen yet that some have come. It looks for the last one and then
    /// acknowledges; what came in between it would hear of only with the next. A guest that looks at the ring without interrupts may
    /// never acknowledge, and holds nothing up once it has taken all.
    fn holds(&self) -> bool {
        let s = &self.state;
        let behind = s.boundary.wrapping_add(1);
        let behind = if behind == s.last { s.first } else { behind };
        let is_empty = s.current == s.boundary || s.current == behind;
        s.status & RECEIVED != 0 && (s.mask & RECEIVED != 0 || !is_empty)
    }

    /// Free pages of the ring.
    fn pages(&self) -> u8 {
        let s = &self.state;
        let size = s.last.saturating_sub(s.first);
        if s.command & STOP != 0 || size == 0 || s.current < s.first {
            return 0;
        }
        // Drivers keep it a page behind what they have read, and the page before the first may stand for the last: Linux's lets it.
        let boundary = if s.boundary < s.first { s.last.wrapping_sub(1) } else { s.boundary };
        if boundary > s.current { boundary - s.current } else { size.saturating_sub(s.current - boundary) }
    }

    fn wants(&self, frame: &[u8]) -> bool {
        let s = &self.state;
        let Some(to) = frame.get(..6) else { return false };
        let [first, ..] = *to else { return false };
        if s.receive_config & 0x10 != 0 || *to == s.address {
            return true;
        }
        if *to == [0xff; 6] {
            return s.receive_config & 4 != 0;
        }
        let index = hash(to);
        let bit = s.multicast.get(usize::from(index >> 3)).copied().unwrap_or(0) >> (index & 7);
        first & 1 != 0 && s.receive_config & 8 != 0 && bit & 1 != 0
    }

    /// Puts a frame into the ring; false when the guest does not want it.
    fn receive(&mut self, mut frame: Vec<u8>) -> bool {
        if !self.wants(&frame) {
            return false;
        }
        frame.truncate(1514);
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        // Four bytes of header, and the check sequence counts.
        let total = frame.len() + 8;
        let pages = total.div_ceil(256) as u8;
        if pages >= self.pages() {
            self.state.status |= OVERWRITE;
            return true;
        }
        let (first, last) = (self.state.first, self.state.last);
        let mut next = self.state.current.wrapping_add(pages);
        if next >= last {
            next = next.wrapping_sub(last).wrapping_add(first);
        }
        let multicast = frame.first().is_some_and(|byte| byte & 1 != 0);
        self.state.receive_status = 1 | u8::from(multicast) << 5;
        let [low, high] = ((frame.len() + 4) as u16).to_le_bytes();
        let header = [self.state.receive_status, next, low, high];
        let mut at = u16::from(self.state.current) << 8;
        for byte in header.into_iter().chain(frame).chain([0; 4]) {
            self.set_memory_byte(at, byte);
            at = at.wrapping_add(1);
            if at == u16::from(last) << 8 {
                at = u16::from(first) << 8;
            }
        }
        self.state.current = next;
        self.state.status |= RECEIVED;
        true
    }
}
