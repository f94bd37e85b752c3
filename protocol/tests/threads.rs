//! Both halves of a ring on threads of their own: nothing is lost, nothing comes twice, and nobody sleeps for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use trunnion_protocol::blkif::{Block, Request, Response};
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::{BackRing, FrontRing, Outstanding};
use trunnion_protocol::shared::SharedPage;

/// A one-bit mailbox, as an event channel is.
#[derive(Default)]
struct Event(AtomicBool);

impl Event {
    fn send(&self, to: &Thread) {
        self.0.store(true, Ordering::SeqCst);
        to.unpark();
    }
    fn wait(&self) {
        while !self.0.swap(false, Ordering::SeqCst) {
            thread::park();
        }
    }
}

#[test]
fn two_threads_exchange_a_hundred_thousand_requests() {
    const COUNT: u64 = 100_000;
    let page = SharedPage::zeroed();
    let mut front = FrontRing::<Block, _>::new(&page, Width::W64).unwrap();
    let (to_back, to_front) = (Event::default(), Event::default());
    let front_thread = thread::current();
    thread::scope(|scope| {
        let back = scope.spawn(|| {
            let mut ring = BackRing::<Block, _>::new(&page, Width::W64).unwrap();
            let mut answered = 0;
            while answered < COUNT {
                while let Some(claimed) = ring.take().unwrap() {
                    let Request::Discard { id, sector, sectors, .. } = claimed.request else { panic!() };
                    assert_eq!((sector, sectors), (!id, id.wrapping_mul(3)), "a torn request");
                    ring.answer(claimed, &Response { id, operation: 5, status: 0 }).unwrap();
                    answered += 1;
                    if answered % 3 == 0 && ring.publish().is_due() {
                        to_front.send(&front_thread);
                    }
                }
                if ring.publish().is_due() {
                    to_front.send(&front_thread);
                }
                if answered < COUNT && !ring.arm().unwrap() {
                    to_back.wait();
                }
            }
        });
        let mut table = Outstanding::<u64, 32>::new();
        let (mut put, mut got) = (0, 0);
        while got < COUNT {
            while put < COUNT && front.free() > 0 {
                let id = table.insert(put).unwrap();
                let (sector, sectors) = (!id, id.wrapping_mul(3));
                front.put(&Request::Discard { handle: 0, id, sector, sectors, secure: false }).unwrap();
                put += 1;
            }
            if front.publish().is_due() {
                to_back.send(back.thread());
            }
            while let Some(response) = front.take().unwrap() {
                table.remove(response.id).expect("answered once");
                got += 1;
            }
            if got < COUNT && (put == COUNT || front.free() == 0) && !front.arm().unwrap() {
                to_front.wait();
            }
        }
        assert!(table.is_empty());
    });
}
