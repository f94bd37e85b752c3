//! The engine against a dom0 made of a script, and an emulator that only sleeps.

use super::*;
use crate::control::ask::Ask;
use crate::control::client::Client;
use crate::instance::Instance;
use crate::machine::Machine;
use crate::run::create::Creator;
use crate::run::serve::Server;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use trunnion_dom0::control::frame::Decoder;
use trunnion_dom0::control::reply::{DomainInfo, DomainState};
use trunnion_dom0::control::{Code, Down, Summary, Up};

/// What the script says once it has been greeted.
type Script = Vec<Event>;

fn created(domid: u16, name: &str) -> Event {
    Event::DomainCreated { domid, name: name.into(), create_begin_ns: 1 }
}

fn ended(domid: u16, name: &str, outcome: Outcome, restarting: bool) -> Event {
    Event::DomainEnded { domid, name: name.into(), outcome, detail: String::new(), ended_ns: 9, restarting }
}

fn ready() -> Event {
    Event::Ready { hypervisor_ready_ns: 1, dom0_ready_ns: 2 }
}

/// dom0's side: answers, and follows the script after the greeting.
fn play(mut line: UnixStream, script: &[Event]) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = line.read(&mut buffer) {
        decoder.push(&buffer[..count]);
        while let Some(payload) = decoder.next_frame() {
            let mut out = Vec::new();
            match Down::from_payload(&payload) {
                Ok(Down::Request { id, request }) => {
                    let greeted = matches!(request, Request::Hello { .. });
                    let result = match request {
                        Request::Hello { version } => Ok(Reply::Hello { version, ready: true }),
                        Request::Summary => Ok(Reply::Summary(Summary::default())),
                        Request::List(_) => Ok(Reply::Domains(vec![DomainInfo {
                            domid: 1,
                            name: "g".into(),
                            uuid: String::new(),
                            memory_bytes: 32 << 20,
                            vcpus: 1,
                            state: DomainState::Blocked,
                            cpu_ns: 5,
                            up_ns: 7,
                        }])),
                        Request::Destroy(_) => {
                            Err(control::Failure::new(Code::NoSuchDomain, "there is no such domain"))
                        }
                        _ => Ok(Reply::Done),
                    };
                    out.push(Up::Reply { id, result });
                    if greeted {
                        out.extend(script.iter().cloned().map(Up::Event));
                    }
                }
                // Consoles begin with credit; what is typed comes back.
                Ok(Down::Credit { channel, bytes }) if bytes > 1000 => {
                    out.push(Up::Console { channel, data: b"hello\n".to_vec() });
                }
                Ok(Down::Console { channel, data }) => {
                    let end = data == b"end";
                    out.push(Up::Console { channel, data });
                    if end {
                        out.push(Up::Event(ended(1, "g", Outcome::Poweroff, false)));
                        out.push(Up::Event(Event::AllEnded));
                    }
                }
                _ => {}
            }
            for message in out {
                if line.write_all(&message.to_frame().unwrap()).is_err() {
                    return;
                }
            }
        }
    }
}

struct World {
    engine: Engine,
    folder: tempfile::TempDir,
    instance: Instance,
    notes: Sender<Note>,
}

fn world(script: Script) -> World {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = tempfile::tempdir().unwrap();
    let instance =
        Instance::claim(&format!("engine-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
            .unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    std::thread::spawn(move || play(far, &script));
    let (notes, heard) = mpsc::channel();
    let news = notes.clone();
    let dom0 = Dom0::connect(Box::new(near.try_clone().unwrap()), Box::new(near), move |said| {
        drop(news.send(Note::Said(said)));
    });
    let consoles = Consoles::new(dom0.clone(), folder.path().to_path_buf());
    let creator = Creator::new(Machine::QemuSvm, instance.file("monitor.sock"), Vec::new(), Vec::new());
    let server = Server {
        dom0: dom0.clone(),
        consoles: consoles.clone(),
        creator: Arc::new(creator),
        notes: notes.clone(),
        watches: Arc::new(AtomicU32::new(1)),
    };
    server.start(&instance.file("control.sock")).unwrap();
    let (greeter, reply) = (dom0.clone(), notes.clone());
    std::thread::spawn(move || {
        drop(reply.send(Note::Greeted(greeter.call(Request::Hello { version: VERSION }))));
    });
    let emulator = Emulator::start("sleep", |command| {
        command.arg("100");
    })
    .unwrap();
    let record = Record::open(folder.path(), "qemu-svm", 1 << 20).unwrap();
    let course = Course {
        // The emulator of these tests does not power off.
        patience: Duration::from_millis(300),
        limit: Some(Duration::from_secs(20)),
        keep: false,
        foreground: None,
        needle: None,
        serial: folder.path().join("hypervisor.log"),
        errors: folder.path().join("emulator.log"),
    };
    let captures = Captures::new(dom0.clone(), &[]).unwrap();
    let engine =
        Engine { emulator, dom0, consoles, captures, record, course, notes: heard, begin: Instant::now() };
    World { engine, folder, instance, notes }
}

fn follow(world: World) -> (Result<Status>, tempfile::TempDir) {
    (world.engine.follow(), world.folder)
}

#[test]
fn power_off_of_all_is_success_with_files() {
    let script = vec![ready(), created(1, "g"), ended(1, "g", Outcome::Poweroff, false), Event::AllEnded];
    let (result, folder) = follow(world(script));
    assert_eq!(result.unwrap(), Status::Done);
    let summary = std::fs::read_to_string(folder.path().join("summary.json")).unwrap();
    assert!(summary.contains("\"outcome\": \"ok\""), "{summary}");
    assert!(folder.path().join("g.console.log").is_file());
    assert!(!folder.path().join("g.console.sock").exists());
}

#[test]
fn a_crash_is_status_1_and_a_restart_is_none() {
    let script = vec![
        ready(),
        created(1, "a"),
        created(2, "b"),
        ended(1, "a", Outcome::Reboot, true),
        created(3, "a"),
        ended(2, "b", Outcome::Crash, false),
        ended(3, "a", Outcome::Poweroff, false),
        Event::AllEnded,
    ];
    let failure = follow(world(script)).0.unwrap_err();
    assert_eq!(failure.status(), Status::Domain);
    assert_eq!(failure.message(), "domain b ended by crash, not by power-off");
}

#[test]
fn a_domain_that_cannot_be_started_is_status_2_when_nothing_was() {
    let failure = control::Failure::new(Code::NoMemory, "64 MiB are needed and 10 are free");
    let refused = Event::CreateFailed { name: "g".into(), failure };
    let why = follow(world(vec![ready(), refused.clone(), Event::AllEnded])).0.unwrap_err();
    assert_eq!(why.status(), Status::Usage);
    assert!(why.message().contains("64 MiB"), "{why}");
    let script =
        vec![ready(), created(1, "a"), refused, ended(1, "a", Outcome::Poweroff, false), Event::AllEnded];
    assert_eq!(follow(world(script)).0.unwrap_err().status(), Status::Domain);
}

#[test]
fn the_time_limit_names_who_still_runs() {
    let mut world = world(vec![ready(), created(1, "g")]);
    world.engine.course.limit = Some(Duration::from_millis(300));
    let (result, folder) = follow(world);
    let failure = result.unwrap_err();
    assert_eq!(failure.status(), Status::TimeLimit);
    assert!(failure.message().contains("still running: g"), "{failure}");
    assert!(std::fs::read_to_string(folder.path().join("summary.json")).unwrap().contains("\"timeout\""));
}

#[test]
fn a_dead_emulator_is_status_4_with_the_last_words() {
    let mut world = world(vec![ready(), created(1, "g")]);
    std::fs::write(&world.engine.course.serial, "all is well\nPANIC at frames.rs\n").unwrap();
    world.engine.emulator.kill();
    let (result, folder) = follow(world);
    let failure = result.unwrap_err();
    assert_eq!(failure.status(), Status::Platform);
    assert!(failure.message().contains("PANIC at frames.rs"), "{failure}");
    assert!(std::fs::read_to_string(folder.path().join("summary.json")).unwrap().contains("\"failed\""));
}

#[test]
fn a_signal_ends_the_run_with_130() {
    let world = world(vec![ready(), created(1, "g")]);
    world.notes.send(Note::Signal).unwrap();
    assert_eq!(follow(world).0.unwrap_err().status(), Status::Interrupted);
}

#[test]
fn other_verbs_are_answered_while_it_runs() {
    let world = world(vec![ready(), created(1, "g")]);
    let name = world.instance.name().to_string();
    let log = world.folder.path().join("g.console.log");
    let clients = std::thread::spawn(move || {
        let mut client = Client::connect(&name).unwrap();
        while !std::fs::read(&log).is_ok_and(|bytes| bytes == b"hello\n") {
            std::thread::sleep(Duration::from_millis(10));
        }
        let list = client.ask(&Ask::List).unwrap();
        let refused = client.ask(&Ask::Destroy { domain: "x".into() }).unwrap_err();
        let none = client.ask(&Ask::Create { file: "/nowhere.cfg".into(), paused: false }).unwrap_err();
        client.ask(&Ask::Console { domain: "1".into(), replay: true }).unwrap();
        let (mut reader, mut writer) = client.into_parts();
        let mut replayed = [0; 6];
        reader.read_exact(&mut replayed).unwrap();
        writer.write_all(b"end").unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        (list, refused, none, replayed, rest)
    });
    assert_eq!(follow(world).0.unwrap(), Status::Done);
    let (list, refused, none, replayed, rest) = clients.join().unwrap();
    assert_eq!(list[0]["name"], "g");
    assert_eq!((refused.status(), refused.message()), (Status::Domain, "there is no such domain"));
    assert_eq!(none.status(), Status::Usage);
    assert_eq!((&replayed, &rest[..]), (b"hello\n", &b"end"[..]));
}
