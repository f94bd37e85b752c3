//! A device model for each guest with an emulated PC: a task that waits for the guest's requests, for time, and for storage and
//! networks.

mod board;
mod hands;
mod line;
mod memory;
mod outlet;
mod task;

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use trunnion_guest::events;
use trunnion_guest::executor::Spawner;
use trunnion_guest::hypercall;
use trunnion_guest::memory::{Pages, pages};
use trunnion_protocol::control::{Operation, SetModel, model_flags};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Port};

use super::charge::{Meter, charged};
use super::disks::Device;
use crate::build::ModelParts;
use crate::control::Reply;
use crate::control::request::{Press, View};
use crate::devices::interrupt::Signal;
pub use board::Sources;
use task::{Stop, Task};

/// Bytes that a model takes: the memory of its screen, buffers, tables of the guest's pages.
const ROOM: usize = 6 << 20;
/// A model that runs, and afterwards what the hypervisor keeps of it.
struct Running {
    stop: Rc<Stop>,
    ended: Rc<Signal>,
    done: Rc<Cell<bool>>,
    /// The request pages: the hypervisor writes to them until the domain is destroyed.
    _pages: Rc<Pages>,
    port: Port,
    /// Places of its CD drives.
    cds: Vec<u8>,
}

/// All device models.
pub struct Models {
    running: RefCell<BTreeMap<DomainId, Running>>,
    spawner: Spawner,
}

impl Models {
    /// No models yet.
    pub fn new(spawner: Spawner) -> Self {
        Self { running: RefCell::default(), spawner }
    }

    /// Gives a domain that has never run its device model.
    pub fn attach(
        &self,
        domain: DomainId,
        parts: &ModelParts<'_>,
        mut sources: Sources<'_>,
    ) -> Result<(), Errno> {
        // What the board allocates has no way to fail.
        Vec::<u8>::new().try_reserve_exact(ROOM).map_err(|_| Errno::NoMem)?;
        let pages = Rc::new(pages(parts.vcpus as usize).ok_or(Errno::NoMem)?);
        let port = events::alloc_unbound(DomainId::SELF, domain)?;
        let stop = Rc::<Stop>::default();
        let ended = Rc::<Signal>::default();
        let done = Rc::new(Cell::new(true));
        let running = Running {
            stop: Rc::clone(&stop),
            ended: Rc::clone(&ended),
            done: Rc::clone(&done),
            _pages: Rc::clone(&pages),
            port,
            cds: parts.pc.drives.iter().filter(|drive| drive.cdrom).map(|drive| drive.place).collect(),
        };
        self.running.borrow_mut().insert(domain, running);
        let mut call = SetModel {
            domain: domain.0,
            flags: if parts.pc.forced { model_flags::FORCED } else { 0 },
            port: port.0,
            frame: pages.first().0,
        };
        hypercall::control(Operation::SetModel, &mut call)?;

        let (board, joined) = board::board(domain, parts, &mut sources);
        let task = Task::new(domain, board, &pages, parts.pc.memory(), port);
        done.set(false);
        // The work is the guest's: a guest that only pokes at its devices has dom0 busy, and pays for it.
        self.spawner.spawn(charged(Meter::new(domain), async move {
            task.run(&stop).await;
            for (bridge, id) in joined {
                bridge.leave(id);
            }
            done.set(true);
            ended.raise();
        }));
        Ok(())
    }

    /// Presses buttons or keys: false when too many wait, none when the domain has no model.
    pub fn press(&self, domain: DomainId, press: &Press) -> Option<bool> {
        let running = self.running.borrow();
        let stop = &running.get(&domain)?.stop;
        let taken = stop.hands.press(press);
        stop.signal.raise();
        Some(taken)
    }

    /// Whether a domain has a CD drive at a place.
    pub fn has_cd(&self, domain: DomainId, place: u8) -> bool {
        self.running.borrow().get(&domain).is_some_and(|running| running.cds.contains(&place))
    }

    /// Changes the disc in the CD drive at a place, as soon as nothing is being read.
    pub fn change_disc(&self, domain: DomainId, place: u8, disc: Option<Device>) {
        if let Some(running) = self.running.borrow().get(&domain) {
            running.stop.hands.change(place, disc);
            running.stop.signal.raise();
        }
    }

    /// A look at the screen of a domain; none when the domain has no model, or its PC no screen.
    pub async fn look(&self, domain: DomainId, view: View) -> Option<Reply> {
        let stop = self.running.borrow().get(&domain).map(|running| Rc::clone(&running.stop))?;
        if stop.wanted.get() {
            return None;
        }
        let look = stop.hands.look(view);
        stop.signal.raise();
        look.seen().await
    }

    /// Stops a model. Returns when no request is under way and nothing of the guest is mapped.
    pub async fn detach(&self, domain: DomainId) {
        let found = self.running.borrow().get(&domain).map(|running| {
            running.stop.wanted.set(true);
            running.stop.signal.raise();
            (Rc::clone(&running.ended), Rc::clone(&running.done))
        });
        let Some((ended, done)) = found else { return };
        while !done.get() {
            ended.next().await;
        }
    }

    /// Takes the port and the pages of a domain back that is gone.
    pub fn forget(&self, domain: DomainId) {
        let Some(running) = self.running.borrow_mut().remove(&domain) else { return };
        if let Err(error) = events::close(running.port) {
            log::error!("a model's port cannot be closed: {error} domain={domain}");
        }
    }
}
