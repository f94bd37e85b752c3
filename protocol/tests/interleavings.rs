//! Every interleaving of two sides: the shipped sources of the rings and of the event words, on loom's atomics.
//!
//! A wrong order shows as a deadlock, a request that is lost, or one that comes twice.
#![allow(
    unreachable_pub,
    dead_code,
    unused_imports,
    missing_docs,
    reason = "modules of the library, of which this test uses a part"
)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use trunnion_protocol::hypercall::event::PortArgument;
pub use trunnion_protocol::{address, id, layout, planted, shared_info};

#[path = "../src/event.rs"]
mod event;
#[path = "../src/ring/mod.rs"]
mod ring;

/// A page of which only the words exist that the test uses.
mod shared {
    use std::sync::atomic::Ordering;

    pub use loom::sync::atomic::{AtomicU32 as Word, fence};

    /// The words, by their offsets.
    pub struct SharedPage(Vec<(usize, Word)>);

    #[derive(Debug)]
    pub struct OutOfPage;

    impl SharedPage {
        pub fn new(offsets: &[usize]) -> Self {
            Self(offsets.iter().map(|offset| (*offset, Word::new(0))).collect())
        }

        pub fn word_at(&self, offset: usize) -> Option<&Word> {
            self.0.iter().find(|(at, _)| *at == offset).map(|(_, word)| word)
        }

        pub fn fill_zero(&self) {
            self.0.iter().for_each(|(_, word)| word.store(0, Ordering::Relaxed));
        }

        pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfPage> {
            for (index, bytes) in into.chunks_exact_mut(4).enumerate() {
                let word = self.word_at(offset + index * 4).ok_or(OutOfPage)?;
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
            Ok(())
        }

        pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<(), OutOfPage> {
            for (index, bytes) in from.chunks_exact(4).enumerate() {
                let word = self.word_at(offset + index * 4).ok_or(OutOfPage)?;
                word.store(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), Ordering::Relaxed);
            }
            Ok(())
        }
    }
}

use shared::SharedPage;

/// What an event channel is to its receiver: something to sleep on, that keeps one event.
#[derive(Default)]
struct Channel {
    pending: Mutex<bool>,
    sent: Condvar,
}

impl Channel {
    fn send(&self) {
        *self.pending.lock().unwrap() = true;
        self.sent.notify_one();
    }

    fn wait(&self) {
        let mut pending = self.pending.lock().unwrap();
        while !*pending {
            pending = self.sent.wait(pending).unwrap();
        }
        *pending = false;
    }
}

/// A ring of single words.
struct Words;

impl ring::Interface for Words {
    type Request = PortArgument;
    type Response = PortArgument;
}

fn explore(name: &str, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
    println!("{name}: every interleaving is right");
}

/// A front end and a back end exchange `COUNT` requests; each sleeps when it has nothing to do.
fn exchange() {
    const COUNT: u32 = 2;
    let slots = [0, 4, 8, 12, ring::HEADER_SIZE, ring::HEADER_SIZE + 4];
    let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new(&slots)));
    let mut front = ring::FrontRing::<Words, _>::new(page, layout::Width::W64).unwrap();
    let (to_back, to_front) = (Arc::new(Channel::default()), Arc::new(Channel::default()));
    let back = {
        let (to_back, to_front) = (Arc::clone(&to_back), Arc::clone(&to_front));
        thread::spawn(move || {
            let mut ring = ring::BackRing::<Words, _>::new(page, layout::Width::W64).unwrap();
            let mut answered = 0;
            loop {
                while let Some(claimed) = ring.take().unwrap() {
                    answered += 1;
                    let request = claimed.request;
                    assert_eq!(request.port.0, 100 + answered, "a torn, lost or doubled request");
                    ring.answer(claimed, &request).unwrap();
                    if ring.publish().is_due() {
                        to_front.send();
                    }
                }
                if answered == COUNT {
                    return;
                }
                if !ring.arm().unwrap() {
                    to_back.wait();
                }
            }
        })
    };
    for number in 1..=COUNT {
        front.put(&PortArgument { port: id::Port(100 + number) }).unwrap();
        if front.publish().is_due() {
            to_back.send();
        }
    }
    let mut got = 0;
    while got < COUNT {
        while let Some(response) = front.take().unwrap() {
            got += 1;
            assert_eq!(response.port.0, 100 + got, "a torn, lost or doubled answer");
        }
        if got < COUNT && !front.arm().unwrap() {
            to_front.wait();
        }
    }
    back.join().unwrap();
}

/// Two senders make two ports pending; the receiver sleeps until its upcall, and hears both.
fn upcalls() {
    const WIDTH: layout::Width = layout::Width::W64;
    let ports = [id::Port(1), id::Port(2)];
    let place = |port| event::place(port, WIDTH).unwrap();
    let first = place(ports[0]);
    let selectors = [shared_info::vcpu::pending_sel(WIDTH), shared_info::vcpu::UPCALL];
    let page = Arc::new(SharedPage::new(&[first.pending, first.mask, selectors[0], selectors[1]]));
    let upcall = Arc::new(Channel::default());
    let senders = ports.map(|port| {
        let (page, upcall) = (Arc::clone(&page), Arc::clone(&upcall));
        thread::spawn(move || {
            if event::post(&page, &place(port), || Some((&page, 0))) == event::Posted::Upcall {
                upcall.send();
            }
        })
    });
    let mut heard = Vec::new();
    while heard.len() < ports.len() {
        upcall.wait();
        event::scan(&page, &page, 0, WIDTH, |port| {
            assert!(!heard.contains(&port), "port {port} comes twice");
            heard.push(port);
        });
    }
    for sender in senders {
        sender.join().unwrap();
    }
}

/// A port becomes pending while its receiver has the mask taken away: whichever comes first, the receiver hears it once.
fn unmasking() {
    const WIDTH: layout::Width = layout::Width::W64;
    let port = id::Port(1);
    let place = event::place(port, WIDTH).unwrap();
    let selector = shared_info::vcpu::pending_sel(WIDTH);
    let page = Arc::new(SharedPage::new(&[place.pending, place.mask, selector, shared_info::vcpu::UPCALL]));
    page.word_at(place.mask).unwrap().fetch_or(place.bit, std::sync::atomic::Ordering::Relaxed);
    let upcall = Arc::new(Channel::default());
    let sender = {
        let (page, upcall) = (Arc::clone(&page), Arc::clone(&upcall));
        thread::spawn(move || {
            let place = event::place(port, WIDTH).unwrap();
            if event::post(&page, &place, || Some((&page, 0))) == event::Posted::Upcall {
                upcall.send();
            }
        })
    };
    if event::unmask(&page, &place, || Some((&page, 0))) {
        upcall.send();
    }
    let mut heard = 0;
    while heard == 0 {
        upcall.wait();
        event::scan(&page, &page, 0, WIDTH, |_| heard += 1);
    }
    sender.join().unwrap();
    event::scan(&page, &page, 0, WIDTH, |_| heard += 1);
    assert_eq!(heard, 1, "it comes twice");
}

fn main() {
    explore("a ring", exchange);
    explore("two senders", upcalls);
    explore("unmasking", unmasking);
}
