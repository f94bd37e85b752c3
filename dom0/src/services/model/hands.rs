//! What people do to a running PC: press its buttons, type, look at its screen.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use trunnion_devices::board::Board;
use trunnion_devices::i8042::Motion;
use trunnion_devices::time::Time;
use trunnion_devices::vga::Vga;

use super::memory::Ram;
use crate::control::Reply;
use crate::control::reply::SCREEN_CHUNK;
use crate::control::request::{Press, View};
use crate::devices::interrupt::Signal;
use crate::services::disks::Device;

/// Presses that wait; more are refused.
const PRESSES: usize = 4096;

/// From one key to the next, in nanoseconds: a BIOS reads faster than its guest, and drops what its 15 places do not hold.
const PACE: u64 = 40_000_000;

/// A look at the screen.
pub(super) struct Look {
    view: View,
    seen: RefCell<Option<Reply>>,
    /// Raised when it was seen, or never will be.
    done: Signal,
}

impl Look {
    /// What was seen; none when there is no screen, or no PC any more.
    pub(super) async fn seen(&self) -> Option<Reply> {
        self.done.next().await;
        self.seen.take()
    }

    fn at(&self, vga: &Vga) {
        let reply = match self.view {
            View::Text => Reply::ScreenText { lines: vga.text().unwrap_or_default() },
            View::Lines(first) => {
                let (width, height) = vga.size();
                let count = SCREEN_CHUNK / (width * 3).max(1);
                let data = vga.part(first as usize, count).pixels;
                Reply::Screen { width: width as u32, height: height as u32, data }
            }
        };
        *self.seen.borrow_mut() = Some(reply);
    }
}

/// What waits to be done.
#[derive(Default)]
pub(super) struct Hands {
    /// Something waits.
    pub(super) busy: Cell<bool>,
    buttons: RefCell<VecDeque<Press>>,
    keys: RefCell<VecDeque<Vec<u8>>>,
    /// Movements of the mouse, and its buttons after each.
    moves: RefCell<VecDeque<Motion>>,
    /// When the next key may be pressed.
    next: Cell<Time>,
    looks: RefCell<Vec<Rc<Look>>>,
    /// Discs for CD drives by their place; none is an empty tray.
    discs: RefCell<BTreeMap<u8, Option<Device>>>,
}

impl Hands {
    /// Remembers a press; false when too many wait.
    pub(super) fn press(&self, press: &Press) -> bool {
        self.busy.set(true);
        if let Press::Keys(keys) = press {
            let mut waiting = self.keys.borrow_mut();
            let room = waiting.len().saturating_add(keys.len()) <= PRESSES;
            if room {
                waiting.extend(keys.iter().cloned());
            }
            return room;
        }
        if let Press::Mouse { x, y, buttons } = *press {
            return self.slide(Motion { x, y, buttons });
        }
        let mut buttons = self.buttons.borrow_mut();
        let room = buttons.len() < PRESSES;
        if room {
            buttons.push_back(press.clone());
        }
        room
    }

    /// Remembers a movement: with the last one, when that has the same buttons.
    fn slide(&self, motion: Motion) -> bool {
        let mut moves = self.moves.borrow_mut();
        if let Some(last) = moves.back_mut()
            && last.buttons == motion.buttons
        {
            last.x = last.x.saturating_add(motion.x);
            last.y = last.y.saturating_add(motion.y);
            return true;
        }
        let room = moves.len() < PRESSES;
        if room {
            moves.push_back(motion);
        }
        room
    }

    /// Wants to look at the screen.
    pub(super) fn look(&self, view: View) -> Rc<Look> {
        let look = Rc::new(Look { view, seen: RefCell::default(), done: Signal::default() });
        self.looks.borrow_mut().push(Rc::clone(&look));
        self.busy.set(true);
        look
    }

    /// Changes a disc; the last one counts.
    pub(super) fn change(&self, place: u8, disc: Option<Device>) {
        self.discs.borrow_mut().insert(place, disc);
        self.busy.set(true);
    }

    /// Nothing will be seen any more.
    pub(super) fn close(&self) {
        self.looks.take().iter().for_each(|look| look.done.raise());
    }

    /// When there is a key to press or a mouse to move, which nothing else may wake the model for.
    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        (self.busy.get() && self.next.get() > now && !self.keys.borrow().is_empty()).then(|| self.next.get())
    }

    /// Types, changes discs, shows the screen, and returns the next press of a button.
    pub(super) fn work(&self, board: &mut Board<Ram>, now: Time) -> Option<Press> {
        // A request under way reads into the guest's pages from the old disc.
        if !board.ide.is_busy() {
            while let Some((place, disc)) = self.discs.borrow_mut().pop_first() {
                board.ide.change(usize::from(place >> 1), usize::from(place & 1), disc);
            }
        }
        if now >= self.next.get()
            && board.keyboard.keyboard.is_idle()
            && let Some(codes) = self.keys.borrow_mut().pop_front()
        {
            board.keyboard.keyboard.press(&codes);
            self.next.set(Time(now.0.saturating_add(PACE)));
        }
        // One at a time, so that no press of a button is lost between two reports.
        if board.keyboard.mouse.is_idle()
            && let Some(motion) = self.moves.borrow_mut().pop_front()
        {
            board.keyboard.mouse.move_by(motion);
        }
        for look in self.looks.take() {
            if let Some(vga) = &board.vga {
                look.at(vga);
            }
            look.done.raise();
        }
        let button = self.buttons.borrow_mut().pop_front();
        let waits = !self.keys.borrow().is_empty()
            || !self.moves.borrow().is_empty()
            || !self.discs.borrow().is_empty();
        self.busy.set(button.is_some() || waits);
        button
    }
}
