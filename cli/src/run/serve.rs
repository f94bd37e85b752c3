//! The socket on which a running instance answers the other verbs; each client has a thread.

use crate::console::hub::listen;
use crate::console::registry::Consoles;
use crate::control::ask::{Answer, Ask, Row, Size, Store};
use crate::control::dom0::Dom0;
use crate::failure::{Failure, Result, Status};
use crate::run::create::Creator;
use crate::run::engine::Note;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::Duration;
use trunnion_dom0::control::reply::DomainState;
use trunnion_dom0::control::request::{DeviceRequest, DomainName, Press, ShutdownKind, StoreRequest, View};
use trunnion_dom0::control::{Reply, Request};

/// How long a verb that comes while the platform starts waits for dom0.
const START: Duration = Duration::from_mins(1);

/// What every client's thread works with.
#[derive(Clone)]
pub(crate) struct Server {
    pub dom0: Dom0,
    pub consoles: Consoles,
    pub creator: Arc<Creator>,
    pub notes: Sender<Note>,
    pub watches: Arc<AtomicU32>,
}

impl Server {
    /// Answers on `socket` from now on.
    pub(crate) fn start(self, socket: &Path) -> Result<()> {
        let listener = listen(socket)?;
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                let server = self.clone();
                std::thread::spawn(move || server.serve(client));
            }
        });
        Ok(())
    }

    /// Answers one client until it goes.
    fn serve(&self, client: UnixStream) {
        let Ok(reader) = client.try_clone() else { return };
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
            let ask = match serde_json::from_str::<Ask>(&line) {
                Ok(ask) => ask,
                Err(e) => {
                    answer(
                        &client,
                        Err(Failure::usage(format!(
                            "the running instance does not know this request ({e}); is it of another version?"
                        ))),
                    );
                    return;
                }
            };
            if let Err(failure) = self.dom0.wait_ready(START) {
                answer(&client, Err(failure));
                line.clear();
                continue;
            }
            match ask {
                // Both take the connection over.
                Ask::Console { domain, replay } => return self.console(client, &domain, replay),
                Ask::Watch { paths } => return self.watch(&client, paths),
                Ask::Screen { domain } => match self.screen(&DomainName::parse(&domain)) {
                    Ok((size, pixels)) => {
                        answer(&client, Ok(json!(size)));
                        if (&client).write_all(&pixels).is_err() {
                            return;
                        }
                    }
                    Err(failure) => answer(&client, Err(failure)),
                },
                ask => answer(&client, self.perform(ask)),
            }
            line.clear();
        }
    }

    fn perform(&self, ask: Ask) -> Result<Value> {
        match ask {
            Ask::Create { file, paused } => {
                // Whatever becomes of it, the run goes on until it is known.
                let _ = self.notes.send(Note::Creating(true));
                let created = self.creator.create(&self.dom0, &file, paused);
                let _ = self.notes.send(Note::Creating(false));
                created.map(Value::from)
            }
            Ask::List => self.list().map(|rows| json!(rows)),
            Ask::Destroy { domain } => self.done(Request::Destroy(DomainName::parse(&domain))),
            Ask::Shutdown { domain, reboot } => {
                let kind = if reboot { ShutdownKind::Reboot } else { ShutdownKind::Poweroff };
                self.done(Request::Shutdown { domain: DomainName::parse(&domain), kind })
            }
            Ask::Pause { domain, paused: true } => self.done(Request::Pause(DomainName::parse(&domain))),
            Ask::Pause { domain, paused: false } => self.done(Request::Unpause(DomainName::parse(&domain))),
            Ask::DeviceAttach { front, back, class, id } => {
                let (front, back) = (DomainName::parse(&front), DomainName::parse(&back));
                self.done(Request::Device(DeviceRequest::Attach { front, back, class, id }))
            }
            Ask::DeviceDetach { front, class, id, force } => {
                let front = DomainName::parse(&front);
                self.done(Request::Device(DeviceRequest::Detach { front, class, id, force }))
            }
            Ask::Info => match self.dom0.call(Request::Info)? {
                Reply::Info(info) => Ok(json!(info)),
                _ => Err(strange()),
            },
            Ask::Summary => match self.dom0.call(Request::Summary)? {
                Reply::Summary(summary) => Ok(json!(summary)),
                _ => Err(strange()),
            },
            Ask::Dmesg => self.dmesg().map(Value::from),
            Ask::Nics { domain } => self.nics(Request::NicList(DomainName::parse(&domain))),
            Ask::NicAttach { domain, specification } => {
                self.nics(Request::NicAttach { domain: DomainName::parse(&domain), specification })
            }
            Ask::NicDetach { domain, nic } => {
                self.done(Request::NicDetach { domain: DomainName::parse(&domain), nic })
            }
            Ask::Vcpus { domain } => {
                match self.dom0.call(Request::VcpuList(domain.as_deref().map(DomainName::parse)))? {
                    Reply::Vcpus(vcpus) => Ok(json!(vcpus)),
                    _ => Err(strange()),
                }
            }
            Ask::Rename { domain, name } => {
                self.creator.rename(&self.dom0, &DomainName::parse(&domain), &name).map(|()| Value::Null)
            }
            Ask::Sysrq { domain, key } => {
                self.done(Request::Sysrq { domain: DomainName::parse(&domain), key })
            }
            Ask::Memory { domain, kib } => {
                self.done(Request::SetMemory { domain: DomainName::parse(&domain), kib })
            }
            Ask::VcpuCount { domain, count } => {
                self.done(Request::SetVcpus { domain: DomainName::parse(&domain), count })
            }
            Ask::Schedule { domain, weight, cap } => {
                let domain = domain.as_deref().map(DomainName::parse);
                match self.dom0.call(Request::Schedule { domain, weight, cap })? {
                    Reply::Scheduling(shares) => Ok(json!(shares)),
                    _ => Err(strange()),
                }
            }
            Ask::DebugKeys { keys } => self.done(Request::DebugKeys(keys)),
            Ask::Blocks { domain } => match self.dom0.call(Request::DiskList(DomainName::parse(&domain)))? {
                Reply::Disks(disks) => Ok(json!(disks)),
                _ => Err(strange()),
            },
            Ask::BlockAttach { domain, specification, folder } => self
                .creator
                .attach(&self.dom0, &DomainName::parse(&domain), &specification, &folder)
                .map(|disks| json!(disks)),
            Ask::BlockDetach { domain, disk, force } => self
                .creator
                .detach(&self.dom0, &DomainName::parse(&domain), disk, force)
                .map(|disks| json!(disks)),
            Ask::Trigger { domain, button } => {
                let press = match button.as_str() {
                    "power" => Press::Power,
                    "sleep" => Press::Sleep,
                    "reset" => Press::Reset,
                    _ => Press::Nmi,
                };
                self.done(Request::Press { domain: DomainName::parse(&domain), press })
            }
            Ask::Keys { domain, keys } => {
                self.done(Request::Press { domain: DomainName::parse(&domain), press: Press::Keys(keys) })
            }
            Ask::Disc { domain, drive, file } => {
                let domain = DomainName::parse(&domain);
                self.creator.change_disc(&self.dom0, &domain, drive, file.as_deref()).map(|()| Value::Null)
            }
            Ask::Screenshot { domain, file: Some(file) } => {
                self.screenshot(&DomainName::parse(&domain), &file)
            }
            Ask::Screenshot { domain, file: None } => self.screen_text(DomainName::parse(&domain)),
            Ask::Store(store) => self.store(store),
            Ask::Mouse { domain, x, y, buttons } => {
                let press = Press::Mouse { x, y, buttons };
                self.done(Request::Press { domain: DomainName::parse(&domain), press })
            }
            Ask::Console { .. } | Ask::Watch { .. } | Ask::Screen { .. } => Err(strange()),
        }
    }

    fn nics(&self, request: Request) -> Result<Value> {
        match self.dom0.call(request)? {
            Reply::Nics(nics) => Ok(json!(nics)),
            _ => Err(strange()),
        }
    }

    /// Fetches a screen and writes it as PNG.
    fn screenshot(&self, domain: &DomainName, file: &Path) -> Result<Value> {
        let (size, pixels) = self.screen(domain)?;
        crate::verbs::picture::png(size.width, size.height, &pixels)
            .and_then(|bytes| std::fs::write(file, bytes))
            .map(|()| Value::Null)
            .map_err(|e| Failure::file("write the picture", file, &e))
    }

    /// Fetches a screen: its size, and three bytes a pixel.
    fn screen(&self, domain: &DomainName) -> Result<(Size, Vec<u8>)> {
        let mut pixels = Vec::new();
        let mut known = None;
        loop {
            let line = known.map_or(0, |size: Size| pixels.len() / (size.width as usize * 3).max(1));
            let request = Request::Screen { domain: domain.clone(), view: View::Lines(line as u32) };
            let Reply::Screen { width, height, data } = self.dom0.call(request)? else {
                return Err(strange());
            };
            let size = Size { width, height };
            if known.is_some_and(|known| known != size) {
                // The guest changed the mode meanwhile.
                (known, pixels) = (None, Vec::new());
                continue;
            }
            known = Some(size);
            if data.is_empty() {
                return Ok((size, pixels));
            }
            pixels.extend(data);
        }
    }

    fn screen_text(&self, domain: DomainName) -> Result<Value> {
        match self.dom0.call(Request::Screen { domain, view: View::Text })? {
            Reply::ScreenText { lines } => Ok(lines.into()),
            _ => Err(strange()),
        }
    }

    fn done(&self, request: Request) -> Result<Value> {
        self.dom0.call(request).map(|_| Value::Null)
    }

    fn list(&self) -> Result<Vec<Row>> {
        let Reply::Domains(domains) = self.dom0.call(Request::List(None))? else { return Err(strange()) };
        let row = |domain: trunnion_dom0::control::reply::DomainInfo| Row {
            name: domain.name,
            domid: domain.domid,
            memory_mib: domain.memory_bytes >> 20,
            vcpus: domain.vcpus,
            state: match domain.state {
                DomainState::Running => "running",
                DomainState::Blocked => "blocked",
                DomainState::Paused => "paused",
                DomainState::Shutdown => "shutdown",
                DomainState::Crashed => "crashed",
                DomainState::Dying => "dying",
            }
            .to_string(),
            cpu_ns: domain.cpu_ns,
            up_ns: domain.up_ns,
        };
        Ok(domains.into_iter().map(row).collect())
    }

    fn dmesg(&self) -> Result<String> {
        let mut text = Vec::new();
        let mut from = 0;
        loop {
            let Reply::Dmesg { text: part, next } = self.dom0.call(Request::Dmesg { from })? else {
                return Err(strange());
            };
            text.extend_from_slice(&part);
            if next == from || part.is_empty() {
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            from = next;
        }
    }

    fn store(&self, store: Store) -> Result<Value> {
        let request = match store {
            Store::Read { path } => StoreRequest::Read(path),
            Store::List { path } => StoreRequest::List(path),
            Store::Write { path, value } => StoreRequest::Write { path, value: value.into_bytes() },
            Store::Remove { path } => StoreRequest::Rm(path),
            Store::Exists { path } => StoreRequest::Exists(path),
            Store::Chmod { path, permissions } => StoreRequest::Chmod { path, permissions, recursive: false },
            Store::Tree { path } => return self.tree(&path),
        };
        Ok(match self.dom0.call(Request::Xenstore(request))? {
            Reply::Value(bytes) => Value::from(shown(&bytes)),
            Reply::Names(names) => Value::from(names),
            Reply::Exists(exists) => Value::from(exists),
            _ => Value::Null,
        })
    }

    fn tree(&self, path: &str) -> Result<Value> {
        let mut nodes = Vec::new();
        let mut from = 0;
        loop {
            let request = StoreRequest::Ls { path: path.to_string(), from };
            let Reply::Tree { nodes: part, next } = self.dom0.call(Request::Xenstore(request))? else {
                return Err(strange());
            };
            nodes.extend(part.into_iter().map(|node| json!({"path": node.path, "value": shown(&node.value), "permissions": node.permissions})));
            match next {
                Some(next) if next > from => from = next,
                _ => return Ok(Value::from(nodes)),
            }
        }
    }

    fn console(&self, client: UnixStream, domain: &str, replay: bool) {
        match self.consoles.has(domain) {
            Ok(()) => {
                answer(&client, Ok(Value::Null));
                // It can only fail when the domain has ended in between; the client then sees the end.
                let _ = self.consoles.attach(domain, client, replay);
            }
            Err(failure) => answer(&client, Err(failure)),
        }
    }

    fn watch(&self, client: &UnixStream, paths: Vec<String>) {
        let mut watches = Vec::new();
        let mut news = Vec::new();
        for path in paths {
            let watch = self.watches.fetch_add(1, Ordering::Relaxed);
            news.push(self.dom0.watch(watch));
            if let Err(failure) = self.dom0.call(Request::Xenstore(StoreRequest::Watch { path, watch })) {
                answer(client, Err(failure));
                break;
            }
            watches.push(watch);
        }
        if watches.len() == news.len() {
            answer(client, Ok(Value::Null));
            report(client, &news);
        }
        for watch in watches {
            let _ = self.dom0.call(Request::Xenstore(StoreRequest::Unwatch { watch }));
        }
    }
}

/// Sends each change as a line, until the client or the platform goes.
fn report(mut client: &UnixStream, news: &[std::sync::mpsc::Receiver<String>]) {
    let _ = client.set_nonblocking(true);
    loop {
        for receiver in news {
            match receiver.recv_timeout(Duration::from_millis(20)) {
                Ok(path) => {
                    if writeln!(client, "{}", json!(path)).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let mut byte = [0];
        match std::io::Read::read(&mut client, &mut byte) {
            Ok(0) => return,
            Err(e) if e.kind() != ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

fn answer(mut client: &UnixStream, result: Result<Value>) {
    let answer = result.map_or_else(Answer::from, Answer::Done);
    if let Ok(line) = serde_json::to_string(&answer) {
        let _ = writeln!(client, "{line}");
    }
}

/// Bytes of the store as text; what is not printable is written as `\xNN`.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => text.to_string(),
        _ => bytes
            .iter()
            .map(|byte| {
                if (b' '..=b'~').contains(byte) {
                    char::from(*byte).to_string()
                } else {
                    format!("\\x{byte:02x}")
                }
            })
            .collect(),
    }
}

fn strange() -> Failure {
    Failure::new(
        Status::Platform,
        "dom0 answered with something else than was asked for; are its version and this tool's the same?",
    )
}
