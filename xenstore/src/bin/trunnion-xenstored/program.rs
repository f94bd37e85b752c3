//! The program: one loop over the socket, its clients, the machine's events and the signals.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use trunnion_protocol::id::DomainId;
use trunnion_xenstore::server::{Detached, Store};

use crate::clients::{Client, Listener};
use crate::machine::{Event, Events, Files};
use crate::options::{Command, HELP, Options, from_process};

/// Clients that may be connected at once; more wait to be accepted.
const CLIENTS: usize = 512;

/// The program; the result is its exit code: 1 for a failure, 2 for wrong usage.
pub(crate) fn run() -> ExitCode {
    match from_process() {
        Ok(Command::Help) => print!("{HELP}"),
        Ok(Command::Version) => println!("trunnion-xenstored {}", env!("CARGO_PKG_VERSION")),
        Ok(Command::Serve(options)) => {
            if let Err(fault) = serve(&options) {
                eprintln!("trunnion-xenstored: {fault}");
                return ExitCode::FAILURE;
            }
        }
        Err(fault) => {
            eprintln!("trunnion-xenstored: {fault}\nTry `trunnion-xenstored --help`.");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

struct Daemon {
    store: Store,
    clients: Vec<Client>,
    events: Option<Events>,
    /// Domains that have left requests to be carried out in the next turn.
    busy: BTreeSet<DomainId>,
    verbose: bool,
}

fn serve(options: &Options) -> Result<(), String> {
    let signals = signals().map_err(|error| format!("cannot handle signals: {error}"))?;
    let (store, events) = match &options.machine {
        None => (Store::new(Box::new(Detached)), None),
        Some(directory) => (Store::new(Box::new(Files(directory.clone()))), Some(Events::open(directory)?)),
    };
    let listener = Listener::bind(&options.socket)?;
    let mut daemon =
        Daemon { store, clients: Vec::new(), events, busy: BTreeSet::new(), verbose: options.verbose };
    daemon.log(format_args!("listening on {}", options.socket.display()));
    while !has_come(&signals) {
        daemon.turn(&listener, &signals)?;
    }
    daemon.log(format_args!("stopping"));
    Ok(())
}

/// A stream that becomes readable at SIGINT and SIGTERM.
fn signals() -> std::io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    pipe::register(SIGINT, write.try_clone()?)?;
    pipe::register(SIGTERM, write)?;
    Ok(read)
}

fn has_come(mut signals: &UnixStream) -> bool {
    matches!(signals.read(&mut [0]), Ok(1..))
}

impl Daemon {
    /// Waits until something can be done, and does it.
    fn turn(&mut self, listener: &Listener, signals: &UnixStream) -> Result<(), String> {
        let count = self.clients.len();
        let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, client.wants_input());
            flags.set(PollFlags::POLLOUT, client.wants_output());
            polled.push(PollFd::new(client.descriptor(), flags));
        }
        if let Some(events) = &self.events {
            polled.push(PollFd::new(events.incoming(), PollFlags::POLLIN));
            polled.extend(events.outgoing().map(|descriptor| PollFd::new(descriptor, PollFlags::POLLOUT)));
        }
        if count < CLIENTS {
            polled.push(PollFd::new(listener.descriptor(), PollFlags::POLLIN));
        }
        let timeout = if self.busy.is_empty() { PollTimeout::NONE } else { PollTimeout::ZERO };
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(format!("cannot poll: {error}")),
        }
        let ready: Vec<bool> =
            polled.iter().skip(1).take(count).map(|polled| polled.any().unwrap_or(true)).collect();
        drop(polled);
        for (client, _) in self.clients.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            if client.wants_input() {
                client.read(&mut self.store);
            }
        }
        self.machine();
        while self.clients.len() < CLIENTS
            && let Some(stream) = listener.accept()
        {
            match Client::new(stream, &mut self.store) {
                Ok(client) => self.clients.push(client),
                Err(error) => eprintln!("trunnion-xenstored: cannot serve a client: {error}"),
            }
        }
        let store = &mut self.store;
        for client in &mut self.clients {
            client.write(store);
        }
        self.clients.retain(|client| !client.is_closed(store));
        Ok(())
    }

    /// Handles the machine's events, and the rings of domains that are concerned.
    fn machine(&mut self) {
        let events = self.events.as_mut().map(Events::read).unwrap_or_default();
        if events.contains(&Event::Death) && self.store.sweep() {
            self.log(format_args!("a domain is gone"));
        }
        if !events.is_empty() {
            // Whichever domain an event names, all rings are looked at: a lost event does no harm then.
            self.busy.extend(self.store.introduced());
        }
        for domain in std::mem::take(&mut self.busy) {
            self.service(domain);
        }
        while let Some(domain) = self.store.next_ready() {
            self.service(domain);
        }
        if let Some(events) = &mut self.events {
            events.flush();
        }
    }

    /// Serves a domain once; what it leaves waits for its next turn, so that nobody is kept waiting for one domain.
    fn service(&mut self, domain: DomainId) {
        let service = self.store.service(domain);
        if service.notify
            && let (Some(events), Some(port)) = (&mut self.events, self.store.port(domain))
        {
            events.notify(port);
        }
        if service.more {
            self.busy.insert(domain);
        }
    }

    fn log(&self, text: std::fmt::Arguments<'_>) {
        if self.verbose {
            eprintln!("trunnion-xenstored: {text}");
        }
    }
}
