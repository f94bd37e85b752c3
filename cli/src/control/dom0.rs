//! The connection to dom0: requests that wait for their reply, from any thread; and everything that dom0 says by itself, for the run.

use crate::failure::{Failure, Result, Status};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use trunnion_dom0::control::frame::Decoder;
use trunnion_dom0::control::{
    self, CONSOLE_CHUNK, Channel, Code, DATA_CHUNK, Down, Event, Reply, Request, Up, WINDOW,
};

/// What dom0 says by itself.
#[derive(Debug)]
pub(crate) enum Said {
    /// An event.
    Event(Event),
    /// Bytes of a console.
    Console(Channel, Vec<u8>),
    /// The connection is gone.
    Closed,
}

/// A handle on the connection; clones are the same one.
#[derive(Clone)]
pub(crate) struct Dom0 {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when dom0 is ready, when a reply makes room in the window, and at the end.
    change: Condvar,
    out: Sender<Vec<u8>>,
}

#[derive(Default)]
struct State {
    next: u32,
    waiting: HashMap<u32, Sender<Answer>>,
    watchers: HashMap<u32, Sender<String>>,
    /// Files that dom0 may ask for pieces of, by number.
    files: HashMap<u32, Arc<Vec<u8>>>,
    file: u32,
    ready: bool,
    closed: bool,
}

type Answer = std::result::Result<Reply, control::Failure>;

impl Dom0 {
    /// Serves the two directions of the connection with a thread each; `said` is called from one of them.
    pub(crate) fn connect(
        from: Box<dyn Read + Send>,
        to: Box<dyn Write + Send>,
        said: impl Fn(Said) + Send + 'static,
    ) -> Self {
        let (out, frames) = mpsc::channel();
        let shared = Arc::new(Shared { state: Mutex::default(), change: Condvar::new(), out });
        let reader = Arc::clone(&shared);
        std::thread::spawn(move || {
            read(from, &reader, &said);
            reader.close();
            said(Said::Closed);
        });
        std::thread::spawn(move || write(to, &frames));
        Self { shared }
    }

    /// Waits until dom0 has said that it is ready: what is sent before may be lost with a receiver that is not set up yet, and would
    /// never be answered. Fails as a usage error after `patience`, and when the platform ends meanwhile.
    pub(crate) fn wait_ready(&self, patience: Duration) -> Result<()> {
        let state = self.shared.lock();
        let waits = |state: &mut State| !state.ready && !state.closed;
        let waited = self.shared.change.wait_timeout_while(state, patience, waits);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        match (state.closed, state.ready) {
            (true, _) => Err(gone()),
            (false, true) => Ok(()),
            (false, false) => Err(Failure::usage(format!(
                "the platform is still starting: dom0 was not ready within {} s; try again in a moment",
                patience.as_secs()
            ))),
        }
    }

    /// Asks, and waits for the reply. A refusal of dom0 becomes a failure with its words.
    pub(crate) fn call(&self, request: Request) -> Result<Reply> {
        let reply = self.begin(request)?;
        match reply.recv() {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(failure)) => Err(refusal(&failure)),
            Err(_) => Err(gone()),
        }
    }

    /// Asks, and returns where the reply will come; waits while too many requests are under way.
    pub(crate) fn begin(&self, request: Request) -> Result<Receiver<Answer>> {
        let (sender, receiver) = mpsc::channel();
        let mut state = self.shared.lock();
        while state.waiting.len() >= WINDOW && !state.closed {
            state = self.shared.change.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(gone());
        }
        let id = state.next;
        state.next = state.next.wrapping_add(1);
        let frame = Down::Request { id, request }.to_frame().map_err(|e| Failure::usage(e.to_string()))?;
        state.waiting.insert(id, sender);
        let _ = self.shared.out.send(frame);
        Ok(receiver)
    }

    /// Types bytes on a console.
    pub(crate) fn type_on(&self, channel: Channel, bytes: &[u8]) {
        for chunk in bytes.chunks(CONSOLE_CHUNK) {
            self.post(&Down::Console { channel, data: chunk.to_vec() });
        }
    }

    /// Allows that many more bytes on a console.
    pub(crate) fn allow(&self, channel: Channel, bytes: usize) {
        self.post(&Down::Credit { channel, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) });
    }

    /// From now on, paths that change under the watch `watch` go to the receiver.
    pub(crate) fn watch(&self, watch: u32) -> Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        self.shared.lock().watchers.insert(watch, sender);
        receiver
    }

    /// Keeps a file for dom0 to fetch until it is done with it; returns its number.
    pub(crate) fn offer(&self, bytes: Arc<Vec<u8>>) -> u32 {
        let mut state = self.shared.lock();
        state.file = state.file.wrapping_add(1);
        let file = state.file;
        state.files.insert(file, bytes);
        file
    }

    /// Takes a file back that dom0 was not told of.
    pub(crate) fn withdraw(&self, file: u32) {
        self.shared.lock().files.remove(&file);
    }

    fn post(&self, message: &Down) {
        self.shared.post(message);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, message: &Down) {
        if let Ok(frame) = message.to_frame() {
            let _ = self.out.send(frame);
        }
    }

    /// Sends dom0 a piece of a file; an empty message when there is no such piece.
    fn send(&self, ticket: u32, file: u32, offset: u64, length: u32) {
        let bytes = self.lock().files.get(&file).cloned();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let piece = bytes.as_deref().and_then(|bytes| bytes.get(start..)?.get(..length as usize));
        for (n, data) in piece.unwrap_or_default().chunks(DATA_CHUNK).enumerate() {
            let offset = u32::try_from(n * DATA_CHUNK).unwrap_or(u32::MAX);
            self.post(&Down::Data { ticket, offset, data: data.to_vec() });
        }
        if piece.is_none_or(<[u8]>::is_empty) {
            self.post(&Down::Data { ticket, offset: 0, data: Vec::new() });
        }
    }

    /// Who waits, waits in vain: dropping the senders tells them.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        state.watchers.clear();
        self.change.notify_all();
    }
}

fn read(mut from: Box<dyn Read + Send>, shared: &Shared, said: &impl Fn(Said)) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => decoder.push(buffer.get(..count).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
        while let Some(payload) = decoder.next_frame() {
            match Up::from_payload(&payload) {
                Ok(Up::Reply { id, result }) => {
                    if let Some(sender) = shared.lock().waiting.remove(&id) {
                        let _ = sender.send(result);
                    }
                    shared.change.notify_all();
                }
                Ok(Up::Event(Event::Store { watch, path })) => {
                    let mut state = shared.lock();
                    if state.watchers.get(&watch).is_some_and(|sender| sender.send(path).is_err()) {
                        state.watchers.remove(&watch);
                    }
                }
                Ok(Up::Event(Event::Want { ticket, file, offset, length })) => {
                    shared.send(ticket, file, offset, length);
                }
                Ok(Up::Event(Event::Forget { file })) => drop(shared.lock().files.remove(&file)),
                Ok(Up::Event(event)) => {
                    if matches!(event, Event::Ready { .. }) {
                        shared.lock().ready = true;
                        shared.change.notify_all();
                    }
                    said(Said::Event(event));
                }
                Ok(Up::Console { channel, data }) => said(Said::Console(channel, data)),
                Ok(Up::Unknown) | Err(_) => {}
            }
        }
    }
}

fn write(mut to: Box<dyn Write + Send>, frames: &Receiver<Vec<u8>>) {
    while let Ok(frame) = frames.recv() {
        if to.write_all(&frame).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

fn gone() -> Failure {
    Failure::platform("the platform ended before dom0 answered")
}

/// A refusal in dom0's words. What the user wrote wrongly is a usage error; all else is the domain's or the platform's.
pub(crate) fn refusal(failure: &control::Failure) -> Failure {
    let status = match failure.code {
        Code::UnknownVerb
        | Code::Configuration
        | Code::Image
        | Code::MissingFile
        | Code::Disk
        | Code::Unsupported
        | Code::UnknownRequest => Status::Usage,
        Code::Version | Code::Malformed => Status::Platform,
        _ => Status::Domain,
    };
    let next = match failure.code {
        Code::NoMemory => {
            "; `trunnion run` takes --memory MIB for the machine, and --dom0-memory MIB for dom0 with its RAM disks"
        }
        _ => "",
    };
    Failure::new(status, format!("{}{next}", failure.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use trunnion_dom0::control::wire::Down;

    /// A dom0 that answers each `List` with no domains and refuses all else.
    fn answering() -> (Dom0, Receiver<Said>) {
        let (near, mut far) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut decoder = Decoder::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = far.read(&mut buffer) {
                decoder.push(&buffer[..count]);
                while let Some(payload) = decoder.next_frame() {
                    let Ok(Down::Request { id, request }) = Down::from_payload(&payload) else { continue };
                    let result = match request {
                        Request::List(None) => Ok(Reply::Domains(Vec::new())),
                        _ => Err(control::Failure::new(Code::NoSuchDomain, "there is no domain 9")),
                    };
                    let noise = b"noise \x54\x7e";
                    far.write_all(noise).unwrap();
                    far.write_all(&Up::Reply { id, result }.to_frame().unwrap()).unwrap();
                    far.write_all(&Up::Event(Event::AllEnded).to_frame().unwrap()).unwrap();
                }
            }
        });
        let (sender, said) = mpsc::channel();
        let reader = Box::new(near.try_clone().unwrap());
        (Dom0::connect(reader, Box::new(near), move |words| drop(sender.send(words))), said)
    }

    #[test]
    fn requests_from_many_threads_get_their_own_replies() {
        let (dom0, said) = answering();
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let dom0 = dom0.clone();
                std::thread::spawn(move || {
                    for _ in 0..5 {
                        if n % 2 == 0 {
                            assert_eq!(dom0.call(Request::List(None)).unwrap(), Reply::Domains(Vec::new()));
                        } else {
                            let refused = dom0.call(Request::Info).unwrap_err();
                            assert_eq!(
                                (refused.status(), refused.message()),
                                (Status::Domain, "there is no domain 9")
                            );
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(matches!(said.recv().unwrap(), Said::Event(Event::AllEnded)));
    }

    #[test]
    fn who_comes_early_waits_for_dom0_and_not_for_ever() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let dom0 = Dom0::connect(Box::new(near.try_clone().unwrap()), Box::new(near), |_| ());
        let early = dom0.wait_ready(Duration::from_millis(20)).unwrap_err();
        assert_eq!(early.status(), Status::Usage);
        assert!(early.message().contains("still starting"), "{early}");
        let waiter = || {
            let dom0 = dom0.clone();
            std::thread::spawn(move || dom0.wait_ready(Duration::from_mins(10)))
        };
        let waits = waiter();
        let ready = Up::Event(Event::Ready { hypervisor_ready_ns: 1, dom0_ready_ns: 2 });
        far.write_all(&ready.to_frame().unwrap()).unwrap();
        waits.join().unwrap().unwrap();
        dom0.wait_ready(Duration::ZERO).unwrap();
    }

    #[test]
    fn who_waits_for_a_platform_that_dies_is_told() {
        let (near, far) = UnixStream::pair().unwrap();
        let dom0 = Dom0::connect(Box::new(near.try_clone().unwrap()), Box::new(near), |_| ());
        let waits = std::thread::spawn(move || dom0.wait_ready(Duration::from_mins(10)));
        std::thread::sleep(Duration::from_millis(20));
        drop(far);
        assert_eq!(waits.join().unwrap().unwrap_err().status(), Status::Platform);
    }

    #[test]
    fn who_waits_is_told_when_the_platform_dies() {
        let (near, far) = UnixStream::pair().unwrap();
        let (sender, said) = mpsc::channel();
        let dom0 = Dom0::connect(Box::new(near.try_clone().unwrap()), Box::new(near), move |words| {
            drop(sender.send(words));
        });
        let caller = {
            let dom0 = dom0.clone();
            std::thread::spawn(move || dom0.call(Request::Info))
        };
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(far);
        assert_eq!(caller.join().unwrap().unwrap_err().status(), Status::Platform);
        assert!(matches!(said.recv().unwrap(), Said::Closed));
        assert!(dom0.call(Request::Info).is_err());
    }
}
