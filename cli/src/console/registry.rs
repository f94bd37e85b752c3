//! The consoles of all domains of a run, by name: a domain that is started again goes on with the console it had.

use crate::console::hub::Hub;
use crate::control::dom0::Dom0;
use crate::failure::{Failure, Result, Status};
use crate::say;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use trunnion_dom0::control::Channel;
use trunnion_dom0::control::Request;
use trunnion_dom0::control::request::DomainName;

/// How much dom0 may send on a console before it hears that the host has taken it.
const CREDIT: usize = 64 * 1024;

/// All consoles; clones are the same.
#[derive(Clone)]
pub(crate) struct Consoles {
    dom0: Dom0,
    folder: PathBuf,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: Channel,
    /// Number of the next console.
    number: u32,
    consoles: BTreeMap<String, Console>,
}

impl Open {
    fn find(&self, domain: &str) -> Option<(&String, &Console)> {
        let fits = |console: &Console| console.channel.is_some_and(|(_, id)| id.to_string() == domain);
        self.consoles.iter().find(|(name, console)| *name == domain || fits(console))
    }
}

struct Console {
    /// By which those who type find it: names change.
    number: u32,
    hub: Hub,
    /// dom0's channel while the domain lives.
    channel: Option<(Channel, u16)>,
}

impl Consoles {
    /// No consoles yet; their files will be in `folder`.
    pub(crate) fn new(dom0: Dom0, folder: PathBuf) -> Self {
        Self { dom0, folder, open: Arc::default() }
    }

    /// Opens the console of a domain that was just created.
    pub(crate) fn open(&self, name: &str, domid: u16) -> Result<()> {
        let channel = {
            let mut open = self.lock();
            open.next += 1;
            let channel = open.next;
            if let Some(console) = open.consoles.get_mut(name) {
                console.channel = Some((channel, domid));
            } else {
                open.number += 1;
                let (consoles, number) = (self.clone(), open.number);
                let hub = Hub::open(&self.folder, name, move |bytes| consoles.typed_on(number, &bytes))?;
                let console = Console { number, hub, channel: Some((channel, domid)) };
                open.consoles.insert(name.to_string(), console);
            }
            channel
        };
        let domain = DomainName::Id(domid);
        let reply = self.dom0.begin(Request::ConsoleAttach { domain, channel, replay: true, hold: true })?;
        // Not waited for here, where the news are handled.
        let name = name.to_string();
        std::thread::spawn(move || {
            if let Ok(Err(refusal)) = reply.recv() {
                say::warning(&format!("the console of domain {name} cannot be shown: {refusal}"));
            }
        });
        self.dom0.allow(channel, CREDIT);
        Ok(())
    }

    /// Bytes that a domain said; returns its name.
    pub(crate) fn output(&self, channel: Channel, bytes: &[u8]) -> Option<String> {
        let mut open = self.lock();
        let found = open
            .consoles
            .iter_mut()
            .find(|(_, console)| console.channel.is_some_and(|(open, _)| open == channel));
        let (name, console) = found?;
        console.hub.output(bytes);
        self.dom0.allow(channel, bytes.len());
        Some(name.clone())
    }

    /// Bytes that somebody types to the domain `name`.
    pub(crate) fn typed(&self, name: &str, bytes: &[u8]) {
        let channel = self.lock().consoles.get(name).and_then(|console| console.channel);
        if let Some((channel, _)) = channel {
            self.dom0.type_on(channel, bytes);
        }
    }

    fn typed_on(&self, number: u32, bytes: &[u8]) {
        let channel = {
            let open = self.lock();
            open.consoles
                .values()
                .find(|console| console.number == number)
                .and_then(|console| console.channel)
        };
        if let Some((channel, _)) = channel {
            self.dom0.type_on(channel, bytes);
        }
    }

    /// A domain has another name, and so have its files.
    pub(crate) fn rename(&self, before: &str, name: &str) {
        let mut open = self.lock();
        if let Some(mut console) = open.consoles.remove(before) {
            console.hub.rename(&self.folder, name);
            open.consoles.insert(name.to_string(), console);
        }
    }

    /// The domain has ended and is not started again: its socket goes, and who listens is let go.
    pub(crate) fn close(&self, name: &str, restarting: bool) {
        let mut open = self.lock();
        if restarting {
            if let Some(console) = open.consoles.get_mut(name) {
                console.channel = None;
            }
        } else {
            open.consoles.remove(name);
        }
    }

    /// Fails, with words, when no domain of that name or id has a console.
    pub(crate) fn has(&self, domain: &str) -> Result<()> {
        let open = self.lock();
        if open.find(domain).is_some() {
            return Ok(());
        }
        let names: Vec<&str> = open.consoles.keys().map(String::as_str).collect();
        Err(Failure::new(
            Status::Domain,
            format!("no domain \"{domain}\" with a console is running; there are: {}", names.join(", ")),
        ))
    }

    /// Adds a reader to the console of a domain, named by name or id.
    pub(crate) fn attach(&self, domain: &str, client: UnixStream, replay: bool) -> Result<()> {
        use std::io::Write;
        let open = self.lock();
        let Some((name, console)) = open.find(domain) else { return Ok(()) };
        if replay {
            let log = self.folder.join(format!("{name}.console.log"));
            let bytes = std::fs::read(&log).map_err(|e| Failure::file("read", &log, &e))?;
            let mut out = &client;
            let _ = out.write_all(&bytes);
        }
        let (consoles, number) = (self.clone(), console.number);
        console.hub.attach(client, move |bytes| consoles.typed_on(number, &bytes));
        Ok(())
    }

    /// The names of the domains whose consoles are open.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().consoles.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
