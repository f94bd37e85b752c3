//! The machine of files: rings, event channels, deaths.

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use common::ring::Guest;
use common::{Daemon, wait};
use trunnion_protocol::store::{Header, Kind, RING_SIZE, page};

#[test]
fn a_domain_talks_through_its_ring() {
    let daemon = Daemon::machine();
    let mut tools = daemon.client();
    let mut guest = Guest::introduced(&daemon, 7);
    assert_eq!(guest.word(page::SERVER_FEATURES) & 3, 3);
    assert_eq!(tools.ask(Kind::IsDomainIntroduced, 0, b"7\0").unwrap(), b"T\0");
    assert_eq!(guest.ask(Kind::Read, b"device\0"), b"EACCES\0");
    tools.ask(Kind::Mkdir, 0, b"/local/domain/7\0").unwrap();
    tools.ask(Kind::SetPerms, 0, b"/local/domain/7\0n7\0").unwrap();
    assert_eq!(guest.ask(Kind::Read, b"device\0"), b"ENOENT\0");
    let value = vec![b'v'; 1900];
    assert_eq!(guest.ask(Kind::Write, &[b"device\0", &value[..]].concat()), b"OK\0");
    assert_eq!(guest.ask(Kind::Read, b"device\0"), value);
    assert_eq!(tools.ask(Kind::Read, 0, b"/local/domain/7/device\0").unwrap(), value);
    assert_eq!(guest.ask(Kind::GetPerms, b"device\0"), b"n7\0");
    assert_eq!(guest.ask(Kind::Introduce, b"8\x001\x001\0"), b"EACCES\0");
}

#[test]
fn the_store_notifies() {
    let daemon = Daemon::machine();
    let mut out = OpenOptions::new();
    out.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let out = out.open(daemon.directory.path().join("evt.out")).unwrap();
    let mut guest = Guest::introduced(&daemon, 3);
    assert_eq!(guest.ask(Kind::GetDomainPath, b"3\0"), b"/local/domain/3\0");
    let mut seen = Vec::new();
    wait("a notification", || {
        let mut bytes = [0; 64];
        if let Ok(count) = std::io::Read::read(&mut (&out), &mut bytes) {
            seen.extend_from_slice(&bytes[..count]);
        }
        seen.len() >= 4
    });
    assert_eq!(seen[..4], 103u32.to_le_bytes());
}

#[test]
fn watches_cross_domains() {
    let daemon = Daemon::machine();
    let mut tools = daemon.client();
    let mut guest = Guest::introduced(&daemon, 4);
    tools.ask(Kind::Write, 0, b"/local/domain/4/x\x001").unwrap();
    tools.ask(Kind::SetPerms, 0, b"/local/domain/4/x\0r4\0").unwrap();
    assert_eq!(guest.ask(Kind::Watch, b"x\0token\0"), b"OK\0");
    assert_eq!(guest.message(), (Kind::WatchEvent, b"x\0token\0".to_vec()));
    tools.ask(Kind::Write, 0, b"/local/domain/4/x\x002").unwrap();
    assert_eq!(guest.message(), (Kind::WatchEvent, b"x\0token\0".to_vec()));
    assert_eq!(guest.ask(Kind::Watch, b"@releaseDomain\0r\0"), b"OK\0");
    assert_eq!(guest.message().1, b"@releaseDomain\0r\0");
    // Not readable for a guest, so that this death is not told.
    tools.ask(Kind::Watch, 0, b"@releaseDomain\0tools\0").unwrap();
    assert_eq!(tools.event(), b"@releaseDomain\0tools\0");
    let other = Guest::introduced(&daemon, 5);
    fs::write(daemon.directory.path().join("dead.5"), "").unwrap();
    (&other.events).write_all(&2u32.to_le_bytes()).unwrap();
    assert_eq!(tools.event(), b"@releaseDomain\0tools\0");
    assert_eq!(guest.ask(Kind::Read, b"x\0"), b"2");
}

#[test]
fn death_takes_nodes_and_rights() {
    let daemon = Daemon::machine();
    let mut tools = daemon.client();
    let mut guest = Guest::introduced(&daemon, 6);
    tools.ask(Kind::Watch, 0, b"@introduceDomain\0t\0").unwrap();
    tools.event();
    for path in ["/local/domain/6", "/shared"] {
        tools.ask(Kind::Write, 0, format!("{path}\0x").as_bytes()).unwrap();
    }
    tools.ask(Kind::SetPerms, 0, b"/local/domain/6\0n6\0").unwrap();
    tools.ask(Kind::SetPerms, 0, b"/shared\0n0\0b6\0").unwrap();
    assert_eq!(guest.ask(Kind::Write, b"mine\x001"), b"OK\0");
    assert_eq!(tools.ask(Kind::SetPerms, 0, b"/shared\0n99\0"), Err("ENOENT".into()));
    fs::write(daemon.directory.path().join("dead.6"), "").unwrap();
    guest.events.write_all(&2u32.to_le_bytes()).unwrap();
    wait("the nodes' removal", || tools.ask(Kind::Read, 0, b"/local/domain/6\0").is_err());
    assert_eq!(tools.ask(Kind::IsDomainIntroduced, 0, b"6\0").unwrap(), b"F\0");
    // Another domain of the same number inherits nothing.
    fs::remove_file(daemon.directory.path().join("dead.6")).unwrap();
    let mut guest = Guest::introduced(&daemon, 6);
    assert_eq!(tools.event(), b"@introduceDomain\0t\0");
    assert_eq!(guest.ask(Kind::Read, b"/shared\0"), b"EACCES\0");
    assert_eq!(tools.ask(Kind::Release, 0, b"6\0").unwrap(), b"OK\0");
    assert_eq!(tools.ask(Kind::Release, 0, b"6\0"), Err("ENOENT".into()));
}

#[test]
fn faults_of_the_ring_end_the_connection_alone() {
    let daemon = Daemon::machine();
    let mut tools = daemon.client();
    let mut guest = Guest::introduced(&daemon, 8);
    guest.set_word(page::REQUEST_PRODUCER, 5000);
    guest.kick();
    wait("the error word", || guest.word(page::ERROR) == 2);
    guest.set_word(page::CONNECTION, 1);
    guest.kick();
    wait("the fresh start", || guest.word(page::CONNECTION) == 0);
    assert_eq!((guest.word(page::REQUEST_PRODUCER), guest.word(page::ERROR)), (0, 0));
    assert_eq!(guest.ask(Kind::GetDomainPath, b"8\0"), b"/local/domain/8\0");
    let header = Header { kind: Kind::Write.number(), req_id: 1, tx_id: 0, len: 4097 };
    guest.send(&header.to_bytes());
    wait("the error word", || guest.word(page::ERROR) == 3);
    assert_eq!(tools.ask(Kind::Read, 0, b"/tool\0").unwrap(), b"");
    assert_eq!(tools.ask(Kind::Introduce, 0, b"8\x001\x009\0").unwrap(), b"OK\0");
    assert_eq!(guest.ask(Kind::GetDomainPath, b"8\0"), b"/local/domain/8\0");
}

#[test]
fn a_domain_that_takes_no_replies_is_not_served_further() {
    let daemon = Daemon::machine();
    let mut guest = Guest::introduced(&daemon, 9);
    let header = Header { kind: Kind::GetDomainPath.number(), req_id: 1, tx_id: 0, len: 2 };
    let request = [&header.to_bytes()[..], b"9\0"].concat();
    let end = Instant::now() + Duration::from_secs(2);
    let mut sent = 0u32;
    while Instant::now() < end
        && guest.word(page::REQUEST_PRODUCER) - guest.word(page::REQUEST_CONSUMER) < 1000
    {
        for &byte in &request {
            let at = guest.word(page::REQUEST_PRODUCER);
            guest.file.write_all_at(&[byte], (at as usize % RING_SIZE) as u64).unwrap();
            guest.set_word(page::REQUEST_PRODUCER, at + 1);
        }
        sent += 1;
        guest.kick();
    }
    assert!(sent > 20);
    for _ in 0..sent {
        guest.kick();
        assert_eq!(guest.message(), (Kind::GetDomainPath, b"/local/domain/9\0".to_vec()));
    }
}
