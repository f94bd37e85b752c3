//! A byte line over virtio-console: port 0 of the device, without the multiport protocol.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::task::{Context, Poll};

use bitflags::bitflags;
use trunnion_backends::device::CharDevice;
use trunnion_guest::executor::Spawner;
use trunnion_guest::memory::{self, Pages};
use trunnion_guest::virtqueue::{Piece, Queue};
use trunnion_protocol::address::{MachineAddress, PAGE_SHIFT, PAGE_SIZE};
use virtio_drivers::transport::Transport;

use super::bus::{Doorbell, Function, Unusable};
use super::interrupt::{self, Signal};

/// Buffers in each direction, of one page each.
const BUFFERS: u16 = 16;

bitflags! {
    /// Feature bits (virtio 1.2, 5.3.3 and 6).
    #[derive(Clone, Copy, Debug)]
    struct Feature: u64 {
        const INDIRECT = 1 << 28;
        const VERSION_1 = 1 << 32;
    }
}

/// One direction: a queue and a page for each of its slots.
struct Lane {
    queue: Queue,
    doorbell: Doorbell,
    pages: Pages,
}

impl Lane {
    fn set_up(function: &mut Function, number: u16) -> Result<(Queue, Pages), Unusable> {
        let size = function.transport.max_queue_size(number).min(u32::from(BUFFERS)) as u16;
        let queue = Queue::new(size, 1).ok_or(Unusable::Queue)?;
        let areas = queue.areas();
        let size = size.into();
        function.transport.queue_set(number, size, areas.descriptors.0, areas.driver.0, areas.device.0);
        let pages = memory::pages(size as usize).ok_or(Unusable::Memory)?;
        Ok((queue, pages))
    }

    fn piece(&self, slot: u16, length: usize) -> Piece {
        let address = (self.pages.first().0 + u64::from(slot)) << PAGE_SHIFT;
        Piece { address: MachineAddress(address), length: length as u32 }
    }

    fn notify(&self) {
        if self.queue.wants_notification() {
            self.doorbell.ring();
        }
    }
}

/// The line.
pub struct Line {
    /// Reset before the memory of the queues goes.
    _function: Function,
    receive: Lane,
    send: Lane,
    signal: Rc<Signal>,
    /// Buffers that came, with what of them was read: slot, bytes, bytes read.
    arrived: VecDeque<(u16, usize, usize)>,
    broken: bool,
}

impl Line {
    /// Sets the device up and starts it.
    pub fn open(mut function: Function, line: u8, spawner: &Spawner) -> Result<Self, Unusable> {
        let features = function.transport.begin_init(Feature::all());
        if !features.contains(Feature::VERSION_1) {
            return Err(Unusable::Legacy);
        }
        if !features.contains(Feature::INDIRECT) {
            return Err(Unusable::Feature("indirect descriptors"));
        }
        let (receive, receive_pages) = Lane::set_up(&mut function, 0)?;
        let (send, send_pages) = Lane::set_up(&mut function, 1)?;
        let signal = Rc::new(Signal::default());
        interrupt::connect(&mut function, line, &[(0, Rc::clone(&signal)), (1, Rc::clone(&signal))], spawner);
        function.transport.finish_init();
        let receive = Lane { queue: receive, doorbell: function.doorbell(0), pages: receive_pages };
        let send = Lane { queue: send, doorbell: function.doorbell(1), pages: send_pages };
        let mut line = Self {
            _function: function,
            receive,
            send,
            signal,
            arrived: VecDeque::with_capacity(usize::from(BUFFERS)),
            broken: false,
        };
        line.refill();
        Ok(line)
    }

    fn refill(&mut self) {
        while let Some(slot) = self.receive.queue.next_slot() {
            let piece = self.receive.piece(slot, PAGE_SIZE);
            if self.receive.queue.push([], [piece]).is_err() {
                break;
            }
        }
        self.receive.notify();
    }

    /// Takes what the device has finished. True if there was something.
    fn collect(&mut self) -> bool {
        let mut changed = false;
        while !self.broken {
            match self.receive.queue.pop_keeping() {
                Ok(Some((slot, length))) => {
                    self.arrived.push_back((slot, (length as usize).min(PAGE_SIZE), 0));
                    changed = true;
                }
                Ok(None) => break,
                Err(_) => self.broken = true,
            }
        }
        while !self.broken {
            match self.send.queue.pop() {
                Ok(Some(_)) => changed = true,
                Ok(None) => break,
                Err(_) => self.broken = true,
            }
        }
        changed
    }
}

impl CharDevice for Line {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        self.collect();
        let mut count = 0;
        let mut freed = false;
        while let (Some((slot, length, read)), Some(rest)) = (self.arrived.front_mut(), into.get_mut(count..))
        {
            let piece = rest.len().min(*length - *read);
            let page = self.receive.pages.as_ref().get(usize::from(*slot));
            if let (Some(page), Some(to)) = (page, rest.get_mut(..piece)) {
                let _ = page.copy_out(*read, to);
            }
            count += piece;
            *read += piece;
            if read != length {
                break;
            }
            self.receive.queue.release(*slot);
            self.arrived.pop_front();
            freed = true;
        }
        if freed {
            self.refill();
        }
        count
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.collect();
        let mut count = 0;
        for piece in bytes.chunks(PAGE_SIZE) {
            let Some(slot) = self.send.queue.next_slot().filter(|_| !self.broken) else { break };
            if let Some(page) = self.send.pages.as_ref().get(usize::from(slot)) {
                let _ = page.copy_in(0, piece);
            }
            let described = self.send.piece(slot, piece.len());
            if self.send.queue.push([described], []).is_err() {
                break;
            }
            count += piece.len();
        }
        if count > 0 {
            self.send.notify();
        }
        count
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.signal.wait(context.waker());
        // Sending takes in what has arrived as well: it still has to be read.
        let changed = self.collect();
        if changed || !self.arrived.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}
