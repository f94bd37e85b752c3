//! Random conversations with the program: domain 0 through the socket, guests through their ring files. Every answer and
//! every event is what the plain model says.
//!
//! `TRUNNION_SEED=N` replays one conversation. A failure prints its number and its last requests.

mod common;
#[path = "model/plain.rs"]
mod plain;
#[path = "model/talk.rs"]
mod talk;

use std::collections::{BTreeSet, VecDeque};
use std::fs;

use common::ring::Guest;
use common::{Client, Daemon, wait};
use plain::{Limits, Plain};
use talk::{Op, Random};
use trunnion_protocol::store::Kind;

const CONVERSATIONS: u64 = 200;
const REQUESTS: usize = 50;

enum Line {
    Socket(Client),
    Ring(Guest),
    Closed,
}

type Told = BTreeSet<(usize, String, String)>;

struct Talk {
    daemon: Daemon,
    lines: Vec<Line>,
    model: Plain,
    told: Told,
    history: VecDeque<String>,
}

impl Talk {
    fn new() -> Self {
        let limits =
            Limits { nodes: 1000, watches: 128, transactions: 10, touched: 1024, perms: 5, size: 2048 };
        let daemon = Daemon::machine();
        let mut talk = Self {
            daemon,
            lines: Vec::new(),
            model: Plain::new(limits),
            told: Told::new(),
            history: VecDeque::new(),
        };
        for _ in 0..2 {
            talk.model.join(0);
            let client = talk.daemon.client();
            talk.lines.push(Line::Socket(client));
        }
        talk
    }

    fn log(&mut self, text: String) {
        if self.history.len() == 60 {
            self.history.pop_front();
        }
        self.history.push_back(text);
    }

    fn note(&mut self, party: usize, payload: &[u8]) {
        let text = std::str::from_utf8(payload).unwrap();
        let mut parts = text.split('\0');
        let mut next = || parts.next().unwrap().to_owned();
        self.told.insert((party, next(), next()));
    }

    /// Asks, and keeps the events that come before the answer.
    fn exchange(&mut self, party: usize, kind: Kind, tx: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        let (answer, events) = match &mut self.lines[party] {
            Line::Closed => unreachable!(),
            Line::Socket(client) => {
                let answer = client.ask(kind, tx, payload);
                (answer, std::mem::take(&mut client.events))
            }
            Line::Ring(guest) => {
                guest.request(kind, tx, payload);
                let mut events = Vec::new();
                loop {
                    match guest.message() {
                        (Kind::WatchEvent, event) => events.push(event),
                        (Kind::Error, name) => {
                            let name = String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned();
                            break (Err(name), events);
                        }
                        (answered, payload) => {
                            assert_eq!(answered, kind);
                            break (Ok(payload), events);
                        }
                    }
                }
            }
        };
        for event in events {
            self.note(party, &event);
        }
        answer
    }

    /// Everything that was sent to anybody: each asks something harmless, and events come before its answer.
    fn settle(&mut self) -> Told {
        for party in 0..self.lines.len() {
            if !matches!(self.lines[party], Line::Closed) {
                self.exchange(party, Kind::GetDomainPath, 0, b"0\0").unwrap();
            }
        }
        std::mem::take(&mut self.told)
    }

    fn introduce(&mut self, domain: u16) {
        self.log(format!("introduce {domain}"));
        let guest = Guest::introduced(&self.daemon, domain.into());
        self.lines.push(Line::Ring(guest));
        self.model.introduce(domain);
        assert_eq!(self.settle(), self.model.events, "events of an introduction");
    }

    fn kill(&mut self, domain: u16, party: usize) {
        use std::io::Write as _;
        self.log(format!("kill {domain}"));
        let dead = self.daemon.directory.path().join(format!("dead.{domain}"));
        fs::write(&dead, "").unwrap();
        let Line::Ring(guest) = std::mem::replace(&mut self.lines[party], Line::Closed) else {
            unreachable!()
        };
        (&guest.events).write_all(&2u32.to_le_bytes()).unwrap();
        let mut client = self.daemon.client();
        let number = format!("{domain}\0");
        wait("the domain's removal", || {
            client.ask(Kind::IsDomainIntroduced, 0, number.as_bytes()).unwrap() == b"F\0"
        });
        self.model.remove(domain);
        assert_eq!(self.settle(), self.model.events, "events of a death");
        fs::remove_file(dead).unwrap();
    }

    fn ask(&mut self, party: usize, tx: u32, op: &Op) {
        self.log(format!("party {party} transaction {tx}: {op:?}"));
        let mut answer = self.exchange(party, op.kind(), tx, &op.payload());
        let expected = self.model.ask(party, tx, op);
        if let (Ok(payload), Op::Directory(_)) = (&mut answer, op) {
            let mut names: Vec<_> = payload.split_inclusive(|&byte| byte == 0).collect();
            names.sort_unstable();
            *payload = names.concat();
        }
        assert_eq!(answer, expected.map_err(str::to_owned), "the answer");
        let expected = if answer.is_ok() { self.model.events.clone() } else { Told::new() };
        assert_eq!(self.settle(), expected, "the events");
    }

    fn run(&mut self, seed: u64) {
        let mut random = Random(seed ^ 0x5eed);
        for domain in 1..=3 {
            self.introduce(domain);
            self.ask(0, 0, &Op::Mkdir(format!("/local/domain/{domain}")));
            self.ask(0, 0, &Op::SetPerms(format!("/local/domain/{domain}"), vec![('n', domain)]));
        }
        if random.below(2) == 0 {
            self.ask(0, 0, &Op::SetPerms("/".into(), vec![('b', 0)]));
        }
        for _ in 0..REQUESTS {
            if random.below(60) == 0 {
                let domain = 1 + random.below(3) as u16;
                let there =
                    |party: &Option<plain::Party>| party.as_ref().is_some_and(|party| party.domain == domain);
                let party = self.model.parties.iter().position(there).unwrap();
                self.kill(domain, party);
                self.introduce(domain);
            }
            let party = random.below(self.lines.len());
            if matches!(self.lines[party], Line::Closed) {
                continue;
            }
            let op = Op::random(&mut random);
            let newest = self.model.parties[party].as_ref().and_then(plain::Party::newest);
            let tx = match random.below(20) {
                0 => 77,
                1..=11 if !matches!(op, Op::Start) => newest.unwrap_or(0),
                _ => 0,
            };
            self.ask(party, tx, &op);
        }
    }
}

fn converse(seed: u64) {
    let mut talk = Talk::new();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| talk.run(seed)));
    if let Err(fault) = result {
        for line in &talk.history {
            eprintln!("  {line}");
        }
        eprintln!("conversation {seed} differs; replay it with TRUNNION_SEED={seed}");
        std::panic::resume_unwind(fault);
    }
}

#[test]
fn conversations_with_the_program_agree_with_the_model() {
    if let Ok(seed) = std::env::var("TRUNNION_SEED") {
        converse(seed.parse().expect("TRUNNION_SEED is a number"));
        return;
    }
    (0..CONVERSATIONS).step_by(2).for_each(converse);
}

/// The other half, beside the first: both sides of a conversation mostly wait for each other.
#[test]
fn odd_conversations_with_the_program_agree_with_the_model() {
    (1..CONVERSATIONS).step_by(2).for_each(converse);
}
