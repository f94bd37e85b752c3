//! The server by its library interface: limits at their edges, long directories, the client in the same program.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::shared::SharedPage;
use trunnion_protocol::store::{Header, Kind, error_from_name};
use trunnion_xenstore::connection::ConnectionId;
use trunnion_xenstore::local::{LocalClient, NO_TRANSACTION, WatchEvent};
use trunnion_xenstore::path::Special;
use trunnion_xenstore::ring::MemoryRing;
use trunnion_xenstore::server::{Detached, Store};

fn store() -> Store {
    Store::new(Box::new(Detached))
}

fn ask_in(
    store: &mut Store,
    connection: ConnectionId,
    kind: Kind,
    tx_id: u32,
    payload: &[u8],
) -> Result<Vec<u8>, Errno> {
    let header = Header { kind: kind.number(), req_id: 9, tx_id, len: payload.len() as u32 };
    store.handle(connection, &header, payload);
    while let Some(message) = store.next_output(connection) {
        if !message.is_event() {
            let failed = message.header.kind == Kind::Error.number();
            return if failed { Err(error_from_name(&message.payload)) } else { Ok(message.payload) };
        }
    }
    panic!("no answer");
}

fn ask(store: &mut Store, connection: ConnectionId, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    ask_in(store, connection, kind, 0, payload)
}

/// A store with a guest that owns its home directory.
fn with_guest() -> (Store, ConnectionId, ConnectionId) {
    let mut store = store();
    let (tools, guest) = (store.connect(DomainId::DOM0), store.connect(DomainId(5)));
    ask(&mut store, tools, Kind::Mkdir, b"/local/domain/5\0").unwrap();
    ask(&mut store, tools, Kind::SetPerms, b"/local/domain/5\0n5\0").unwrap();
    (store, tools, guest)
}

#[test]
fn a_guest_owns_a_thousand_nodes_at_most() {
    let (mut store, tools, guest) = with_guest();
    for number in 1..1000 {
        let path = format!("d{}/n{number}\0x", number % 20);
        let result = ask(&mut store, guest, Kind::Write, path.as_bytes());
        let owned = store.tree().usage(DomainId(5)).nodes;
        assert_eq!(result.is_ok(), owned <= 1000 && number <= 979, "{number} {owned} {result:?}");
    }
    assert_eq!(store.tree().usage(DomainId(5)).nodes, 1000);
    assert_eq!(ask(&mut store, guest, Kind::Mkdir, b"more\0"), Err(Errno::NoSpc));
    assert_eq!(ask(&mut store, guest, Kind::Write, b"d1/n1\0other"), Ok(b"OK\0".to_vec()));
    // Others are not held back, and neither is domain 0 in the guest's directory.
    assert!(ask(&mut store, tools, Kind::Mkdir, b"/local/domain/5/tool\0").is_ok());
    assert!(ask(&mut store, guest, Kind::Rm, b"d1\0").is_ok());
    assert!(ask(&mut store, guest, Kind::Mkdir, b"more\0").is_ok());
}

#[test]
fn sizes_at_their_edges() {
    let (mut store, tools, guest) = with_guest();
    let write = |store: &mut Store, who, length: usize| {
        ask(store, who, Kind::Write, &[b"/local/domain/5/x\0", &vec![b'x'; length][..]].concat())
    };
    assert!(write(&mut store, guest, 2048 - 32).is_ok());
    assert_eq!(write(&mut store, guest, 2048 - 31), Err(Errno::NoSpc));
    assert!(write(&mut store, tools, 4096 - 18).is_ok());
    let perms = |count: usize| format!("x\0n5\0{}", "r1\0".repeat(count - 1));
    ask(&mut store, guest, Kind::Write, b"x\0").unwrap();
    assert!(ask(&mut store, guest, Kind::SetPerms, perms(5).as_bytes()).is_ok());
    assert_eq!(ask(&mut store, guest, Kind::SetPerms, perms(6).as_bytes()), Err(Errno::NoSpc));
    for number in 0..128 {
        let payload = format!("x\0{number}\0");
        assert!(ask(&mut store, guest, Kind::Watch, payload.as_bytes()).is_ok(), "{number}");
    }
    assert_eq!(ask(&mut store, guest, Kind::Watch, b"x\0more\0"), Err(Errno::TooBig));
    for _ in 0..10 {
        assert!(ask(&mut store, guest, Kind::TransactionStart, b"\0").is_ok());
    }
    assert_eq!(ask(&mut store, guest, Kind::TransactionStart, b"\0"), Err(Errno::NoSpc));
    assert!(ask(&mut store, guest, Kind::ResetWatches, b"\0").is_ok());
    assert!(ask(&mut store, guest, Kind::TransactionStart, b"\0").is_ok());
}

#[test]
fn memory_of_a_guest_is_limited() {
    let (mut store, _, guest) = with_guest();
    // Long names and values: bytes run out before nodes do.
    let mut refused = 0;
    for number in 0..990 {
        let name = format!("{number:04}{}", "n".repeat(1900));
        let path = format!("d{number}/{name}\0");
        if ask(&mut store, guest, Kind::Write, path.as_bytes()).is_err() {
            refused += 1;
        }
    }
    assert!(refused > 0 && store.tree().usage(DomainId(5)).bytes <= 2_621_440);
    // A transaction's own nodes count as well.
    let tx = ask(&mut store, guest, Kind::TransactionStart, b"\0").unwrap();
    let tx: u32 = std::str::from_utf8(&tx[..tx.len() - 1]).unwrap().parse().unwrap();
    let long = format!("t/{}\0", "n".repeat(2000));
    let result = ask_in(&mut store, guest, Kind::Write, tx, long.as_bytes());
    assert!(matches!(result, Ok(_) | Err(Errno::NoMem | Errno::NoSpc)));
}

#[test]
fn a_transaction_touches_a_thousand_nodes_at_most() {
    let (mut store, tools, guest) = with_guest();
    for connection in [guest, tools] {
        let tx = ask(&mut store, connection, Kind::TransactionStart, b"\0").unwrap();
        let tx: u32 = std::str::from_utf8(&tx[..tx.len() - 1]).unwrap().parse().unwrap();
        let mut refused = None;
        for number in 0..1100 {
            let path = format!("/local/domain/5/no{number}\0");
            match ask_in(&mut store, connection, Kind::Read, tx, path.as_bytes()) {
                Err(Errno::NoEnt) => {}
                other => {
                    refused = Some((number, other));
                    break;
                }
            }
        }
        let end = ask_in(&mut store, connection, Kind::TransactionEnd, tx, b"T\0");
        if connection == guest {
            assert_eq!((refused, end), (Some((1023, Err(Errno::NoSpc))), Err(Errno::NoMem)));
        } else {
            assert_eq!((refused, end), (None, Ok(b"OK\0".to_vec())));
        }
    }
}

#[test]
fn transactions_about_different_nodes_do_not_disturb_each_other() {
    let mut store = store();
    let client = &mut LocalClient::new(&mut store, DomainId::DOM0);
    for path in ["/a", "/b", "/c"] {
        client.write(&mut store, NO_TRANSACTION, path, b"0").unwrap();
    }
    let first = client.start(&mut store).unwrap();
    let second = client.start(&mut store).unwrap();
    client.write(&mut store, first, "/a", b"1").unwrap();
    client.write(&mut store, second, "/b", b"2").unwrap();
    // What happens outside is not seen inside.
    client.write(&mut store, NO_TRANSACTION, "/c", b"3").unwrap();
    assert_eq!(client.read(&mut store, NO_TRANSACTION, "/a").unwrap(), b"0");
    client.end(&mut store, first, true).unwrap();
    assert_eq!(client.read(&mut store, second, "/a").unwrap(), b"0");
    // The second one has read what the first has changed.
    assert_eq!(client.end(&mut store, second, true), Err(Errno::Again));
    let third = client.start(&mut store).unwrap();
    client.write(&mut store, third, "/b", b"2").unwrap();
    client.write(&mut store, NO_TRANSACTION, "/c", b"4").unwrap();
    client.end(&mut store, third, true).unwrap();
    let values = ["/a", "/b", "/c"].map(|path| client.read_text(&mut store, NO_TRANSACTION, path).unwrap());
    assert_eq!(values, ["1", "2", "4"]);
    assert_eq!(client.end(&mut store, third, true), Err(Errno::NoEnt));
}

#[test]
fn children_keep_the_order_of_their_creation() {
    let mut store = store();
    let client = &mut LocalClient::new(&mut store, DomainId::DOM0);
    for name in ["z", "m", "a"] {
        client.mkdir(&mut store, NO_TRANSACTION, &format!("/d/{name}")).unwrap();
    }
    let transaction = client.start(&mut store).unwrap();
    client.remove(&mut store, transaction, "/d/z").unwrap();
    client.mkdir(&mut store, transaction, "/d/z").unwrap();
    client.mkdir(&mut store, transaction, "/d/b").unwrap();
    client.write(&mut store, NO_TRANSACTION, "/elsewhere", b"").unwrap();
    client.end(&mut store, transaction, true).unwrap();
    assert_eq!(client.list(&mut store, NO_TRANSACTION, "/d").unwrap(), ["m", "a", "z", "b"]);
}

#[test]
fn long_directories_come_in_parts() {
    let mut store = store();
    let tools = store.connect(DomainId::DOM0);
    let client = &mut LocalClient::new(&mut store, DomainId::DOM0);
    let names: Vec<_> = (0..500).map(|number| format!("name-{number:020}")).collect();
    for name in &names {
        client.mkdir(&mut store, NO_TRANSACTION, &format!("/many/{name}")).unwrap();
    }
    assert_eq!(ask(&mut store, tools, Kind::Directory, b"/many\0"), Err(Errno::TooBig));
    assert_eq!(client.list(&mut store, NO_TRANSACTION, "/many").unwrap(), names);
    let part = ask(&mut store, tools, Kind::DirectoryPart, b"/many\x0099999\0").unwrap();
    assert!(part.ends_with(b"\0\0") && part.split(|&byte| byte == 0).count() == 3);
    let generation = |part: &[u8]| part.split(|&byte| byte == 0).next().unwrap().to_vec();
    client.mkdir(&mut store, NO_TRANSACTION, "/many/more").unwrap();
    let later = ask(&mut store, tools, Kind::DirectoryPart, b"/many\x000\0").unwrap();
    assert_ne!(generation(&part), generation(&later));
    assert!(later.len() <= 4096);
    assert_eq!(ask(&mut store, tools, Kind::DirectoryPart, b"/many\0"), Err(Errno::Inval));
}

struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_client_in_the_program_is_woken() {
    let mut store = store();
    let mut client = LocalClient::new(&mut store, DomainId::DOM0);
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    let waker = Waker::from(counter.clone());
    let mut context = Context::from_waker(&waker);
    client.watch(&mut store, "/w", "token").unwrap();
    let event = |path: &str| Some(WatchEvent { path: path.into(), token: "token".into() });
    assert_eq!(client.poll_event(&mut store, &mut context), Poll::Ready(event("/w")));
    assert_eq!(client.poll_event(&mut store, &mut context), Poll::Pending);
    let mut other = LocalClient::new(&mut store, DomainId::DOM0);
    other.write(&mut store, NO_TRANSACTION, "/w/x", b"1").unwrap();
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
    // Requests pass events that wait.
    assert_eq!(client.read(&mut store, NO_TRANSACTION, "/w/x").unwrap(), b"1");
    assert_eq!(client.poll_event(&mut store, &mut context), Poll::Ready(event("/w/x")));
    client.unwatch(&mut store, "/w", "token").unwrap();
    assert_eq!(client.unwatch(&mut store, "/w", "token"), Err(Errno::NoEnt));
    assert_eq!(client.request(&mut store, Kind::Read, 0, &[b'x'; 5000]), Err(Errno::Io));
}

#[test]
fn shutdown_is_told_once_until_resume() {
    let mut store = store();
    let mut client = LocalClient::new(&mut store, DomainId::DOM0);
    let ring = Box::new(MemoryRing(Arc::new(SharedPage::zeroed())));
    store.introduce(DomainId(4), ring, Port(7));
    assert_eq!(store.domain_of(Port(7)), Some(DomainId(4)));
    client.watch(&mut store, "@releaseDomain", "r").unwrap();
    let mut events = |store: &mut Store| {
        let mut context = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match client.poll_event(store, &mut context) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        })
        .count()
    };
    assert_eq!(events(&mut store), 1);
    store.shut_down(DomainId(4));
    store.shut_down(DomainId(4));
    assert_eq!(events(&mut store), 1);
    let tools = store.connect(DomainId::DOM0);
    ask(&mut store, tools, Kind::Resume, b"4\0").unwrap();
    store.shut_down(DomainId(4));
    assert_eq!(events(&mut store), 1);
    store.remove_domain(DomainId(4));
    assert_eq!(events(&mut store), 1);
    assert_eq!(ask(&mut store, tools, Kind::Resume, b"4\0"), Err(Errno::NoEnt));
    for bad in [&b"0\x001\x001\0"[..], b"4\0", b"4\x001\x000\0", b"40000\x001\x001\0"] {
        assert!(ask(&mut store, tools, Kind::Introduce, bad).is_err());
    }
}

#[test]
fn paths_parse_as_the_protocol_says() {
    use trunnion_xenstore::path::Path;
    let parsed = Path::parse(b"x", DomainId(3), Special::Refused, None).unwrap();
    assert_eq!((parsed.path.as_str(), parsed.prefix), ("/local/domain/3/x", 16));
}
