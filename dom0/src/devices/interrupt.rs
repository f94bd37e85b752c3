//! Device interrupts: message interrupts as PIRQ event channels, lines where there is nothing better, polling where there
//! is nothing at all.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use trunnion_guest::clock;
use trunnion_guest::events::{self, Listener};
use trunnion_guest::executor::Spawner;
use trunnion_guest::hypercall;
use trunnion_protocol::control::{MapPirq, Operation, PirqRef};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{Pirq, Port};

use super::bus::Function;

/// How often a device without interrupt is looked at.
const POLL: Duration = Duration::from_micros(500);

/// A flag with somebody who waits for it. Raising it before somebody waits is not lost.
#[derive(Default)]
pub struct Signal {
    raised: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes `waker` when it is raised the next time. One waiter at a time.
    pub fn wait(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        match &mut *slot {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Raises it.
    pub fn raise(&self) {
        self.raised.set(true);
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready, and lowered, when it was raised.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.raised.take() {
            return Poll::Ready(());
        }
        self.wait(context.waker());
        Poll::Pending
    }

    /// Waits until it is raised, and lowers it.
    pub async fn next(&self) {
        poll_fn(|context| self.poll(context)).await;
    }
}

/// A message interrupt that is bound to a port.
struct Message {
    port: Port,
    address: u64,
    data: u32,
}

fn message() -> Result<Message, Errno> {
    let mut call = MapPirq::default();
    hypercall::control(Operation::MapPirq, &mut call)?;
    let port = bind(call.pirq)?;
    Ok(Message { port, address: call.address, data: call.data })
}

fn bind(pirq: u32) -> Result<Port, Errno> {
    events::bind_pirq(Pirq(pirq)).inspect_err(|_| {
        let _ = hypercall::control(Operation::UnmapPirq, &mut PirqRef { pirq, pad: 0 });
    })
}

/// Connects the interrupts of a function's queues, each with the signal that it raises. To be called between the set-up
/// of the queues and the start of the device.
pub fn connect(function: &mut Function, line: u8, queues: &[(u16, Rc<Signal>)], spawner: &Spawner) {
    if function.has_messages() && messages(function, queues, spawner) {
        return;
    }
    match by_line(function, line, queues, spawner) {
        Ok(()) => log::info!("{}: interrupt by line {line}", function.function),
        Err(error) => {
            log::warn!("{}: no interrupt ({error}); it is polled every {POLL:?}", function.function);
            for (_, signal) in queues {
                spawner.spawn(poll(Rc::clone(signal)));
            }
        }
    }
}

fn messages(function: &mut Function, queues: &[(u16, Rc<Signal>)], spawner: &Spawner) -> bool {
    for (entry, (queue, signal)) in queues.iter().enumerate() {
        let message = match message() {
            Ok(message) => message,
            Err(error) => {
                log::warn!("{}: no message interrupt: {error}", function.function);
                return false;
            }
        };
        if !function.route(*queue, entry as u16, message.address, message.data) {
            log::warn!("{}: the device refuses a message interrupt", function.function);
            return false;
        }
        let signal = Rc::clone(signal);
        spawner.spawn(async move {
            let listener = Listener::new(message.port);
            while listener.next().await {
                signal.raise();
            }
        });
    }
    true
}

fn by_line(
    function: &Function,
    line: u8,
    queues: &[(u16, Rc<Signal>)],
    spawner: &Spawner,
) -> Result<(), Errno> {
    let status = function.status();
    let signals: alloc::vec::Vec<_> = queues.iter().map(|(_, signal)| Rc::clone(signal)).collect();
    listen(line, spawner, move || {
        // Reading it takes the request away from the line.
        let _ = status.read8(0);
        for signal in &signals {
            signal.raise();
        }
    })
}

/// Calls `act` at each interrupt of a line. `act` makes the device take its request away; afterwards the line is unmasked.
pub fn listen(line: u8, spawner: &Spawner, act: impl Fn() + 'static) -> Result<(), Errno> {
    let mut call = MapPirq { kind: 1, line: u32::from(line), ..MapPirq::default() };
    hypercall::control(Operation::MapPirq, &mut call)?;
    let (pirq, port) = (call.pirq, bind(call.pirq)?);
    // A line is routed masked.
    hypercall::control(Operation::UnmaskPirq, &mut PirqRef { pirq, pad: 0 })?;
    spawner.spawn(async move {
        let listener = Listener::new(port);
        while listener.next().await {
            act();
            let _ = hypercall::control(Operation::UnmaskPirq, &mut PirqRef { pirq, pad: 0 });
        }
    });
    Ok(())
}

async fn poll(signal: Rc<Signal>) {
    loop {
        clock::sleep(POLL).await;
        signal.raise();
    }
}
