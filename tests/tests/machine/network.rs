//! Networks on the machine: Linux's front end and this project's against the back end, each other and the host.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use crate::DRIVER;
use trunnion_tests::linux::PROBE;
use trunnion_tests::system::{Ended, QEMU_SVM, Run, image};

/// dom0's own address; the emulator's network gives the guests theirs, and has the gateway at 10.0.2.2.
const DOM0: &str = "10.0.2.60";
/// dom0's own address of IPv6, which follows from its card's.
const DOM0_SIX: &str = "fe80::216:3eff:feff:ff00";
/// What opens dom0's control server.
const TOKEN: &str = "trunnion-0123456789";
/// The Rust guest's.
const WEB: &str = "10.0.2.50";

/// A web server on this machine that gives everybody the same bytes; returns its port.
fn host_server(content: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let content = content.clone();
            thread::spawn(move || give(stream, &content));
        }
    });
    port
}

fn give(mut stream: TcpStream, content: &[u8]) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request);
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content));
}

/// A page from a port of this machine, once somebody serves it.
fn fetch(port: u16, limit: Duration) -> Option<String> {
    let begin = Instant::now();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    while begin.elapsed() < limit {
        let mut text = String::new();
        let got = TcpStream::connect_timeout(&address, Duration::from_secs(5)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(100)))?;
            stream.write_all(b"GET / HTTP/1.0\r\nHost: guest\r\n\r\n")?;
            stream.read_to_string(&mut text)
        });
        if got.is_ok() && text.starts_with("HTTP/1.0 200 OK") {
            return Some(text);
        }
        thread::sleep(Duration::from_millis(200));
    }
    None
}

/// What the control server answers on a port of this machine, each line with its last one.
fn ask(port: u16, lines: &[&str]) -> Vec<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the emulator forwards the port");
    stream.set_read_timeout(Some(Duration::from_secs(100))).expect("a limit is set");
    let mut reader = BufReader::new(stream);
    let mut answers = Vec::new();
    for line in lines {
        reader.get_mut().write_all(format!("{line}\n").as_bytes()).expect("the line is sent");
        let mut text = String::new();
        while !text.lines().last().is_some_and(|last| last == "ok" || last.starts_with("failed: ")) {
            if reader.read_line(&mut text).expect("an answer comes") == 0 {
                break;
            }
        }
        answers.push(text);
    }
    answers
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.expect("a port is free").port()
}

/// Adds the Rust guest that serves a page, at [`WEB`].
fn web(run: Run, requests: u32) -> Run {
    let image = image("trunnion-web");
    let text = format!(
        "name = \"web\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{}\"\nvif = [ \"mac=00:16:3e:01:02:03\" ]\n\
         cmdline = \"ip={WEB}/24 gateway=10.0.2.2 requests={requests}\"\n",
        image.display()
    );
    run.domain("web", &text)
}

/// Asks for an address again where the start of a busy machine was too slow for it.
const DHCP: &str = "n=0; until ip -4 -o address show dev eth0 | grep -q ' 10.0.2.' || [ $n -ge 3 ]; do
udhcpc -q -n -t 5 -T 1 -i eth0 -s /sbin/lease >/dev/null 2>&1; n=$((n+1)); done
";

/// What both Linux guests' scripts share: addresses of their own beside the one from DHCP, whose script takes all others away, and a wait
/// until the other is there.
fn both(own: u8, other: u8, uplink: bool) -> String {
    let dhcp = if uplink { DHCP } else { "" };
    format!(
        "{PROBE}{dhcp}echo address=$(ip -4 -o address show dev eth0 | grep -c ' 10.0.2.')
ip link set eth0 mtu 9000
ip address add 192.168.77.{own}/24 dev eth0
ip address add fd77::{own}/64 dev eth0
ip address add fe80::77:{own}/64 dev eth0
own=192.168.77.{own}; other=192.168.77.{other}; six=fd77::{other}
n=0; until ping -c 1 -w 1 $other >/dev/null || [ $n -gt 90 ]; do n=$((n+1)); done
n=0; until ping6 -c 1 -w 1 $six >/dev/null 2>&1 || [ $n -gt 30 ]; do n=$((n+1)); done
"
    )
}

/// Known bytes both ways at once, to `$to`.
fn both_ways(port: u16, mib: u32) -> String {
    format!(
        "/run/probe take {port} {mib} {port} & /run/probe give $to:{port} {mib} {port} && wait && echo tcp{port}=good\n"
    )
}

/// What Linux can switch off, one by one.
const OFFLOADS: [&str; 6] = ["tso", "gso", "gro", "sg", "tx", "rx"];

/// Known bytes with each offload switched off alone.
fn each_off(mib: u32) -> String {
    let one = |(port, offload): (u16, &&str)| {
        let bytes = both_ways(port, mib);
        format!(
            "ethtool -K eth0 {offload} off 2>/dev/null\n{bytes}for on in tx sg gso tso gro rx; do ethtool -K eth0 $on on 2>/dev/null; done\n"
        )
    };
    let all: String = (5011..).zip(&OFFLOADS).map(one).collect();
    format!("to=$other\n{all}")
}

/// Known bytes over IPv4 and IPv6, then with every offload that Linux can switch off switched off.
fn exchange(mib: u32) -> String {
    format!(
        "to=$other\n{}to=[$six]\n{}ethtool -K eth0 tso off gso off gro off sg off tx off rx off 2>/dev/null\nto=$other\n{}to=[$six]\n{}",
        both_ways(5001, mib),
        both_ways(5002, mib),
        both_ways(5003, mib / 4),
        both_ways(5004, mib / 4)
    )
}

/// Whether the four exchanges of [`exchange`] went well.
fn assert_exchanged(ended: &Ended, name: &str) {
    for port in 5001..5005 {
        assert_eq!(ended.said(name, &format!("tcp{port}")), "good", "{}", ended.console(name));
    }
}

#[test]
fn two_linux_guests_a_rust_guest_dom0_and_the_host() {
    let content: Vec<u8> = (0..3_000_000u32).map(|n| ((n * 31) >> 7) as u8).collect();
    let (server, port, control) = (host_server(content.clone()), free_port(), free_port());
    let mib = 8;
    let first = format!(
        "{}iperf3 -s -1 >/dev/null 2>&1 &
ping -c 2 -w 10 10.0.2.2 >/dev/null && echo gateway=answers
ping -c 2 -w 10 {DOM0} >/dev/null && echo dom0=answers
/run/probe udp {DOM0}:7 20 64 | grep -q 'PROBE udp' && echo echo=answers
wget -q -O - http://{WEB}/ | grep -o 'page number [0-9]*' | head -1 >/run/page; echo page=$(cat /run/page)
wget -q -O /run/file http://10.0.2.2:{server}/file; echo bytes=$(wc -c </run/file) sum=$(md5sum </run/file | cut -d' ' -f1)
{}touch /run/done; httpd -p 80 -h /run
n=0; until wget -q -O /dev/null http://$other/done || [ $n -gt 60 ]; do sleep 1; n=$((n+1)); done
echo errors=$(cat /sys/class/net/eth0/statistics/rx_errors)
sleep 1
",
        both(1, 2, true),
        exchange(mib),
    );
    let second = format!(
        "{}ping -c 3 -w 10 $other >/dev/null && echo ping=answered
pieces() {{ grep ^Ip: /proc/net/snmp | tail -1 | cut -d' ' -f20; }}
before=$(pieces)
ping -c 5 -w 10 -s 8000 $other >/dev/null && echo jumbo=answered
echo jumbos=$(($(pieces) - before))
ip link set eth0 mtu 1500
ping -c 2 -w 10 {DOM0} >/dev/null && echo dom0=answers
ping -c 2 -w 10 -s 20000 $other >/dev/null && echo fragments=answered
echo pieces=$(($(pieces) - before))
ping6 -c 2 -w 10 -s 9000 $six >/dev/null && echo six=answered
ping6 -c 2 -w 10 {DOM0_SIX}%eth0 >/dev/null && echo local=answered
n=0; until iperf3 -c $other -t 1 >/run/iperf 2>&1 || [ $n -gt 10 ]; do sleep 1; n=$((n+1)); done
echo iperf=$(grep -c receiver /run/iperf)
{}touch /run/done; httpd -p 80 -h /run
n=0; until wget -q -O /dev/null http://$other/done || [ $n -gt 60 ]; do sleep 1; n=$((n+1)); done
echo errors=$(cat /sys/class/net/eth0/statistics/rx_errors)
sleep 1
",
        both(2, 1, true),
        exchange(mib),
    );
    let reader = thread::spawn(move || {
        let first = fetch(port, Duration::from_secs(200));
        let stranger = ask(control, &["not the token of this run\nlist"]);
        let owner = ask(control, &[TOKEN, "list", "frobnicate", "xenstore read /local/domain/0/name"]);
        (first, fetch(port, Duration::from_mins(1)), stranger, owner)
    });
    let rules = [format!("tcp:{port}:{WEB}:80"), format!("tcp:{control}:{DOM0}:7070")];
    let address = format!("{DOM0}/24");
    let run = Run::new(DRIVER, QEMU_SVM);
    let token = run.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).expect("the token can be written");
    let run = run
        .option(&["--net", "user", "--forward", &rules[0], "--forward", &rules[1], "--dom0-ip", &address])
        .option(&["--control-token", &token.display().to_string()]);
    let run = web(run, 3).linux("first", 160, &first, "vcpus = 2\nvif = [ \"bridge=xenbr0\" ]").linux(
        "second",
        160,
        &second,
        "vif = [ \"bridge=xenbr0\" ]",
    );
    let ended = run.go(400);
    let (page, again, stranger, owner) = reader.join().expect("the reader ends");
    let report = || format!("{}\n{}", ended.console("web"), ended.report());
    let page = page.unwrap_or_else(|| panic!("no page came\n{}", report()));
    assert!(page.contains("<h1>web</h1>") && page.contains("page number"), "{page}");
    let again = again.unwrap_or_else(|| panic!("no second page came\n{}", report()));
    assert!(again.contains("page number"), "{again}");
    assert_eq!(stranger, ["failed: this is not the token\n"], "{}", ended.report());
    assert!(
        owner[1].contains("web") && owner[1].contains("running") && owner[1].ends_with("\nok\n"),
        "{owner:?}"
    );
    assert_eq!(owner[2], "failed: there is no verb `frobnicate`; `help` lists them\n");
    assert_eq!([&owner[0], &owner[3]], ["ok\n", "Domain-0\nok\n"]);

    for name in ["first", "second"] {
        assert_eq!(ended.said(name, "address"), "1", "DHCP gives an address\n{}", ended.report());
        assert_eq!(ended.said(name, "dom0"), "answers");
        assert_exchanged(&ended, name);
        assert_eq!(ended.said(name, "errors"), "0");
        assert_eq!(ended.outcome(name), "poweroff", "{}", ended.report());
        let nic = &ended.domain(name)["nics"][0];
        let moved = (u64::from(mib) * 5 / 2) << 20;
        assert!(nic["rx_bytes"].as_u64() > Some(moved), "{}", ended.report());
        assert!(nic["tx_bytes"].as_u64() > Some(moved), "{}", ended.report());
    }
    assert_eq!(ended.said("first", "gateway"), "answers");
    assert_eq!(ended.said("first", "echo"), "answers");
    assert!(ended.said("first", "page").starts_with("page number "));
    assert_eq!(ended.said("first", "bytes").split(' ').next(), Some("3000000"));
    // The kernel counts the fragments it makes: none of what fits a jumbo frame, fourteen of a larger message in ordinary ones.
    assert_eq!(ended.said("second", "jumbos"), "0");
    let pieces: u32 = ended.said("second", "pieces").parse().expect("a number");
    assert!(pieces >= 28, "{pieces} fragments");
    for key in ["ping", "jumbo", "fragments", "six", "local"] {
        assert_eq!(ended.said("second", key), "answered");
    }
    assert_ne!(ended.said("second", "iperf"), "0");
    assert_eq!(ended.outcome("web"), "poweroff", "{}", report());
    assert_eq!(ended.domain("web")["nics"][0]["mac"], "00:16:3e:01:02:03");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

/// Two Linux guests exchange known bytes as a script says, and each finds those of these ports good.
fn exchange_for_minutes(script: &str, ports: Range<u16>) {
    let run = Run::new(DRIVER, QEMU_SVM).option(&["--net", "none"]);
    let whole = |own, other| format!("{}{script}", both(own, other, false));
    let ended = run
        .linux("first", 160, &whole(1, 2), "vif = [ \"\" ]")
        .linux("second", 160, &whole(2, 1), "vif = [ \"\" ]")
        .go(3600);
    for port in ports {
        for name in ["first", "second"] {
            assert_eq!(ended.said(name, &format!("tcp{port}")), "good", "{}", ended.console(name));
        }
    }
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
#[cfg_attr(not(full_tier), ignore = "ten minutes: a GiB each way; TRUNNION_TIER=full runs it")]
fn a_gibibyte_each_way() {
    exchange_for_minutes(&format!("to=$other\n{}", both_ways(5001, 1024)), 5001..5002);
}

#[test]
#[cfg_attr(not(full_tier), ignore = "ten minutes: a GiB each way over IPv6; TRUNNION_TIER=full runs it")]
fn a_gibibyte_each_way_over_ipv6() {
    exchange_for_minutes(&format!("to=[$six]\n{}", both_ways(5002, 1024)), 5002..5003);
}

#[test]
#[cfg_attr(
    not(full_tier),
    ignore = "minutes: a GiB each way without one offload or another; TRUNNION_TIER=full runs it"
)]
fn a_gibibyte_each_way_without_each_offload() {
    exchange_for_minutes(&each_off(171), 5011..5017);
}

/// Ports are attached and detached, and a domain is destroyed and made again, while two others move so many MiB.
fn while_others_come_and_go(mib: u32) {
    let run = Run::new(DRIVER, QEMU_SVM).option(&["--net", "none", "--memory", "640"]);
    let script = |own: u8, other: u8| {
        format!(
            "{}echo begins
/run/probe take 5001 {mib} 1 & /run/probe give $other:5001 {mib} 1 && wait && echo tcp=good
n=0; until [ \"$(xenstore-read data/go 2>/dev/null)\" = yes ] || [ $n -gt 300 ]; do sleep 1; n=$((n+1)); done
",
            both(own, other, false)
        )
    };
    let mut live = run
        .linux("first", 160, &script(1, 2), "vif = [ \"\" ]")
        .linux("second", 160, &script(2, 1), "vif = [ \"\" ]")
        .start(3000);
    let image = image("trunnion-web");
    let third = live.folder().join("third.cfg");
    let text = format!(
        "name = \"third\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{}\"\nvif = [ \"\" ]\n",
        image.display()
    );
    std::fs::write(&third, text).expect("the domain file can be written");
    live.wait_for("first", "begins");
    live.wait_for("second", "begins");
    for round in 1..4 {
        live.tool(&["xl", "create", &third.display().to_string()]);
        live.tool(&["xl", "network-attach", "first", "bridge=xenbr0"]);
        // The guest's driver takes a moment, and a port that it never took goes as well.
        thread::sleep(Duration::from_millis(300 * round));
        let list = live.tool(&["xl", "network-list", "first", "--json"]);
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
        live.tool(&["xl", "network-detach", "first", "1"]);
        live.tool(&["xl", "destroy", "third"]);
    }
    live.wait_for("first", "tcp=");
    live.wait_for("second", "tcp=");
    for id in ["1", "2"] {
        live.tool(&["xenstore", "write", &format!("/local/domain/{id}/data/go"), "yes"]);
    }
    let ended = live.end();
    for name in ["first", "second"] {
        assert_eq!(ended.said(name, "tcp"), "good", "{}", ended.console(name));
        assert_eq!(ended.outcome(name), "poweroff", "{}", ended.report());
    }
    assert_eq!(ended.outcome("third"), "destroyed", "{}", ended.report());
    assert_eq!(ended.status, 1, "one was destroyed: {}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn ports_and_domains_come_and_go_beside_a_connection() {
    while_others_come_and_go(24);
}

#[test]
#[cfg_attr(not(full_tier), ignore = "minutes: 256 MiB each way; TRUNNION_TIER=full runs it")]
fn ports_and_domains_come_and_go_beside_a_long_connection() {
    while_others_come_and_go(256);
}

/// Adds one of the book's example guests.
fn example(run: Run, name: &str, bin: &str, more: &str) -> Run {
    let image = image(bin).display().to_string();
    let text = format!("name = \"{name}\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{image}\"\n{more}\n");
    run.domain(name, &text)
}

#[test]
fn a_hostile_front_end_beside_honest_ones_that_are_recorded() {
    let run = Run::new(DRIVER, QEMU_SVM);
    let record = run.path().join("echo.pcap");
    let run = run.option(&["--net", "none", "--pcap", &format!("echo={}", record.display())]);
    let run = example(run, "bad", "hostile-net", "vif = [ \"\" ]\ncmdline = \"rounds=60\"");
    let run =
        example(run, "echo", "packet-echo", "vif = [ \"mac=00:16:3e:00:00:42\" ]\ncmdline = \"frames=300\"");
    let run =
        example(run, "ask", "packet-echo", "vif = [ \"\" ]\ncmdline = \"frames=300 ask=00:16:3e:00:00:42\"");
    let ended = run.go(240);
    let said = |name: &str, words: &str| {
        let console = ended.console(name);
        assert!(console.contains(words), "{name} did not say {words}:\n{console}\n{}", ended.report());
    };
    said("bad", "60 attacks");
    said("bad", "0 grants not back; the honest port works");
    said("echo", "300 frames sent back");
    said("ask", "300 answers, all right");
    let frames = recorded(&std::fs::read(&record).expect("there is a record"));
    let experiments = frames.iter().filter(|frame| frame.get(12..14) == Some(&[0x88, 0xb5]));
    assert!(experiments.count() >= 600, "each question and each answer is in the record");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

/// The frames of a record, in the format of libpcap with nanoseconds.
fn recorded(file: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(file[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0], "the format's header");
    let (mut frames, mut rest, mut last) = (Vec::new(), &file[24..], (0, 0));
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four bytes"));
        assert!((word(0), word(4)) >= last && word(4) < 1_000_000_000, "time goes on");
        last = (word(0), word(4));
        let length = word(8) as usize;
        assert_eq!(word(8), word(12), "frames are whole");
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
}
