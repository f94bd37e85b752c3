//! The sockets of dom0's own address, and what is done with them.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp, udp};

use crate::services::remote::{CONNECTIONS, PATIENCE, PORT, Remote, Session};

/// Bytes of a TCP window.
const WINDOW: usize = 256 << 10;
/// The same where only lines of text pass.
const SMALL_WINDOW: usize = 16 << 10;
/// Connections of each measuring service at a time.
const SERVICES: usize = 2;
/// After so much silence the other side of a control connection is asked if it is still there.
const SILENCE: Duration = Duration::from_secs(20);

const ECHO: u16 = 7;
const SINK: u16 = 9;
const SOURCE: u16 = 19;

/// The sockets of the services.
pub(super) struct Sockets {
    pub(super) set: SocketSet<'static>,
    pub(super) dhcp: Option<SocketHandle>,
    echo: SocketHandle,
    sinks: Vec<SocketHandle>,
    sources: Vec<SocketHandle>,
    controls: Vec<Control>,
}

/// A connection to the control server, or the wait for one.
struct Control {
    handle: SocketHandle,
    session: Rc<RefCell<Session>>,
    /// When it began.
    since: Option<Duration>,
}

fn stream(window: usize) -> tcp::Socket<'static> {
    let mut socket =
        tcp::Socket::new(tcp::SocketBuffer::new(vec![0; window]), tcp::SocketBuffer::new(vec![0; window]));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

impl Sockets {
    pub(super) fn new(dhcp: bool, remote: Option<&Remote>) -> Self {
        let mut set = SocketSet::new(Vec::new());
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 32], vec![0; 32 << 10]);
        Self {
            dhcp: dhcp.then(|| set.add(dhcpv4::Socket::new())),
            echo: set.add(udp::Socket::new(buffer(), buffer())),
            sinks: (0..SERVICES).map(|_| set.add(stream(WINDOW))).collect(),
            sources: (0..SERVICES).map(|_| set.add(stream(WINDOW))).collect(),
            controls: (0..remote.map_or(0, |_| CONNECTIONS)).map(|_| Control::new(&mut set)).collect(),
            set,
        }
    }

    /// Does what the services do; true when something moved.
    pub(super) fn serve(&mut self) -> bool {
        let mut moved = false;
        let socket = self.set.get_mut::<udp::Socket<'_>>(self.echo);
        if !socket.is_open() {
            let _ = socket.bind(ECHO);
        }
        while socket.can_send()
            && let Ok((data, from)) = socket.recv().map(|(data, from)| (Vec::from(data), from))
        {
            moved |= socket.send_slice(&data, from).is_ok();
        }
        for handle in &self.sinks {
            let socket = listening(&mut self.set, *handle, SINK);
            while socket.can_recv() && socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|n| n > 0) {
                moved = true;
            }
            if !socket.may_recv() && socket.may_send() {
                socket.close();
                moved = true;
            }
        }
        for handle in &self.sources {
            let socket = listening(&mut self.set, *handle, SOURCE);
            while socket.can_send() && socket.send(|bytes| (bytes.len(), bytes.len())).is_ok_and(|n| n > 0) {
                moved = true;
            }
            if !socket.may_recv() && socket.may_send() {
                socket.close();
                moved = true;
            }
        }
        moved
    }

    /// Does what the control server does; true when something moved.
    pub(super) fn listen(&mut self, remote: Option<&Remote>, now: Duration) -> bool {
        let Some(remote) = remote else { return false };
        let mut moved = false;
        for control in &mut self.controls {
            moved |= control.serve(listening(&mut self.set, control.handle, PORT), remote, now);
        }
        moved
    }

    /// How long nothing has to be looked at while nothing comes.
    pub(super) fn patience(&self) -> Duration {
        let waits = self.controls.iter().any(Control::waits);
        if waits { PATIENCE } else { Duration::from_mins(1) }
    }
}

impl Control {
    fn new(set: &mut SocketSet<'static>) -> Self {
        let mut socket = stream(SMALL_WINDOW);
        // Whoever goes without a word does not keep the place.
        socket.set_keep_alive(Some(SILENCE.into()));
        socket.set_timeout(Some((SILENCE * 3).into()));
        Self { handle: set.add(socket), session: Rc::default(), since: None }
    }

    /// Whether somebody is there who has not said the token.
    fn waits(&self) -> bool {
        self.since.is_some() && !self.session.borrow().is_known()
    }

    fn serve(&mut self, socket: &mut tcp::Socket<'_>, remote: &Remote, now: Duration) -> bool {
        if !socket.is_active() {
            if self.since.take().is_some() {
                self.session = Rc::default();
            }
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if self.waits() && now > since + PATIENCE {
            socket.abort();
            return true;
        }
        let mut session = self.session.borrow_mut();
        let mut moved = socket.can_send() && session.send(|bytes| socket.send_slice(bytes).unwrap_or(0));
        // The other side has closed its half: the answers that are still to come go first.
        let parted = socket.may_send() && !socket.may_recv() && session.is_idle();
        if parted || session.is_over() && socket.may_send() {
            socket.close();
            return true;
        }
        if session.listens() && socket.can_recv() {
            let was_known = session.is_known();
            let line = socket.recv(|bytes| session.hear(&remote.token, bytes)).ok().flatten();
            if session.is_known() != was_known {
                log::info!("the control server has a client from={:?}", socket.remote_endpoint());
            } else if !was_known && !session.listens() {
                log::warn!("the control server was given no token from={:?}", socket.remote_endpoint());
            }
            drop(session);
            if let Some(line) = line {
                remote.ask(&self.session, line);
            }
            moved = true;
        }
        moved
    }
}

fn listening<'a>(
    set: &'a mut SocketSet<'static>,
    handle: SocketHandle,
    port: u16,
) -> &'a mut tcp::Socket<'static> {
    let socket = set.get_mut::<tcp::Socket<'_>>(handle);
    if !socket.is_open() {
        let _ = socket.listen(port);
    }
    socket
}
