//! The other end of the console.

use std::sync::atomic::Ordering;

use trunnion_protocol::console::{IN, IN_CONS, IN_PROD, IN_SIZE, OUT, OUT_CONS, OUT_PROD, OUT_SIZE};
use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::id::Port;

use super::{Fake, FakePages, Peer};

pub(crate) struct FakeTerminal {
    page: FakePages,
    port: Port,
    /// What the guest wrote.
    pub(crate) shown: Vec<u8>,
    /// What is still to be typed.
    pub(crate) typed: Vec<u8>,
    /// Bytes that are moved in one step.
    pub(crate) piece: usize,
}

impl FakeTerminal {
    pub(crate) fn new(fake: &Fake) -> Self {
        let (page, port) = fake.place(Param::ConsolePfn, Param::ConsoleEvtchn);
        Self { page, port, shown: Vec::new(), typed: Vec::new(), piece: 100 }
    }

    pub(crate) fn word(&self, offset: usize) -> &std::sync::atomic::AtomicU32 {
        self.page.as_ref()[0].word_at(offset).unwrap()
    }
}

impl Peer for FakeTerminal {
    fn step(&mut self, fake: &Fake) -> bool {
        let mut moved = false;
        for _ in 0..self.piece {
            let at = self.word(OUT_CONS).load(Ordering::SeqCst);
            if at == self.word(OUT_PROD).load(Ordering::SeqCst) {
                break;
            }
            let mut byte = [0];
            self.page.as_ref()[0].copy_out(OUT + (at % OUT_SIZE) as usize, &mut byte).unwrap();
            self.shown.extend(byte);
            self.word(OUT_CONS).store(at.wrapping_add(1), Ordering::SeqCst);
            moved = true;
        }
        for _ in 0..self.piece {
            let at = self.word(IN_PROD).load(Ordering::SeqCst);
            if self.typed.is_empty() || at.wrapping_sub(self.word(IN_CONS).load(Ordering::SeqCst)) == IN_SIZE
            {
                break;
            }
            let byte = [self.typed.remove(0)];
            self.page.as_ref()[0].copy_in(IN + (at % IN_SIZE) as usize, &byte).unwrap();
            self.word(IN_PROD).store(at.wrapping_add(1), Ordering::SeqCst);
            moved = true;
        }
        if moved {
            fake.notify(self.port);
        }
        moved
    }
}
