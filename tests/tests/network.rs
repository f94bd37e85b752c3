//! Networks on the machine: Linux's front end and this project's against the back end, each other and the host.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use trunnion_tests::system::{Ended, QEMU_SVM, Run};

const DRIVER: &str = env!("CARGO_BIN_EXE_trunnion-driver");
/// Bytes that go through TCP in each direction.
const MEBIBYTES: u32 = 16;

/// A Linux domain with a port on the first bridge, which runs a script and powers off.
fn linux(run: Run, name: &str, vcpus: u32, script: &str) -> Run {
    let parts = trunnion_cli::demo::linux_parts().unwrap_or_else(|failure| panic!("{failure:?}"));
    let root = run.path().join(format!("{name}.ext4"));
    fs::copy(&parts.disk, &root).expect("the root disk can be copied");
    let path = run.path().join(format!("{name}.script"));
    let mut bytes = script.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    fs::write(&path, bytes).expect("the script disk can be written");
    let text = format!(
        "name = \"{name}\"\ntype = \"pvh\"\nmemory = 224\nvcpus = {vcpus}\nkernel = \"{}\"\nramdisk = \"{}\"\n\
         cmdline = \"console=hvc0 root=/dev/xvda rw trunnion.script=/dev/xvdb\"\nvif = [ \"bridge=xenbr0\" ]\n\
         disk = [ \"{},raw,xvda,rw\", \"{},raw,xvdb,ro\" ]\n",
        parts.kernel.display(),
        parts.ramdisk.display(),
        root.display(),
        path.display(),
    );
    run.domain(name, &text)
}

/// The value that a script printed after `key=`.
fn said(ended: &Ended, name: &str, key: &str) -> String {
    let console = ended.console(name);
    console
        .lines()
        .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("{name} did not say {key}; its console:\n{console}\n{}", ended.report()))
        .to_string()
}

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

#[test]
fn linux_guests_reach_each_other_and_the_host() {
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n * 31 >> 7) as u8).collect();
    let port = host_server(content.clone());
    let common = format!(
        "dd if=/dev/urandom of=/run/data bs=1M count={MEBIBYTES} 2>/dev/null
echo mine=$(md5sum </run/data | cut -d' ' -f1)
httpd -p 80 -h /run
n=0; while ! wget -q -O /run/other http://$other/data && [ $n -lt 60 ]; do sleep 1; n=$((n+1)); done
echo other=$(md5sum </run/other | cut -d' ' -f1)
echo errors=$(cat /sys/class/net/eth0/statistics/rx_errors)
touch /run/done
n=0; while ! wget -q -O /dev/null http://$other/done && [ $n -lt 60 ]; do sleep 1; n=$((n+1)); done
sleep 2
"
    );
    let first = format!(
        "ip address add 192.168.77.1/24 dev eth0
other=192.168.77.2
echo address=$(ip -4 -o address show dev eth0 | grep -c ' 10.0.2.')
ping -c 2 -w 10 10.0.2.2 >/dev/null && echo gateway=answers
wget -q -O /run/file http://10.0.2.2:{port}/file; echo bytes=$(wc -c </run/file)
{common}"
    );
    let second = format!(
        "ip address add 192.168.77.2/24 dev eth0
other=192.168.77.1
n=0; while ! ping -c 1 -w 1 $other >/dev/null && [ $n -lt 60 ]; do n=$((n+1)); done
ping -c 3 -w 10 $other >/dev/null && echo ping=answered
ping -c 2 -w 10 -s 20000 $other >/dev/null && echo fragments=answered
echo six=$(ping6 -c 2 -w 5 -I eth0 ff02::1 2>/dev/null | grep -c 'bytes from')
{common}"
    );
    let run = Run::new(DRIVER, QEMU_SVM).option(&["--net", "user"]);
    let ended = linux(linux(run, "first", 2, &first), "second", 1, &second).go(300);
    assert_eq!(said(&ended, "first", "address"), "1", "DHCP gives an address\n{}", ended.report());
    assert_eq!(said(&ended, "first", "gateway"), "answers");
    assert_eq!(said(&ended, "first", "bytes"), content.len().to_string());
    assert_eq!(said(&ended, "second", "ping"), "answered");
    assert_eq!(said(&ended, "second", "fragments"), "answered");
    assert_ne!(said(&ended, "second", "six"), "0", "nobody answers over IPv6");
    assert_eq!(said(&ended, "second", "mine"), said(&ended, "first", "other"), "{}", ended.report());
    assert_eq!(said(&ended, "first", "mine"), said(&ended, "second", "other"), "{}", ended.report());
    for name in ["first", "second"] {
        assert_eq!(said(&ended, name, "errors"), "0");
        assert_eq!(ended.outcome(name), "poweroff", "{}", ended.report());
        let nic = &ended.domain(name)["nics"][0];
        assert!(nic["rx_bytes"].as_u64() > Some(u64::from(MEBIBYTES) << 20), "{}", ended.report());
        assert!(nic["tx_bytes"].as_u64() > Some(u64::from(MEBIBYTES) << 20), "{}", ended.report());
    }
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

/// A page from a port of this machine, once somebody serves it.
fn fetch(port: u16, limit: Duration) -> Option<String> {
    let begin = Instant::now();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    while begin.elapsed() < limit {
        let mut text = String::new();
        let got = TcpStream::connect_timeout(&address, Duration::from_secs(5)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
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

#[test]
fn the_host_reads_a_rust_guests_page() {
    let image =
        trunnion_cli::images::build("trunnion-guest", "trunnion-web").unwrap_or_else(|f| panic!("{f:?}"));
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.expect("a port is free").port();
    let text = format!(
        "name = \"web\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{}\"\nvif = [ \"mac=00:16:3e:01:02:03\" ]\n\
         cmdline = \"ip=10.0.2.50/24 gateway=10.0.2.2 requests=2\"\n",
        image.display()
    );
    let reader = thread::spawn(move || {
        let first = fetch(port, Duration::from_secs(150));
        (first, fetch(port, Duration::from_secs(30)))
    });
    let rule = format!("tcp:{port}:10.0.2.50:80");
    let run = Run::new(DRIVER, QEMU_SVM).option(&["--net", "user", "--forward", &rule]);
    let ended = run.domain("web", &text).go(200);
    let (first, second) = reader.join().expect("the reader ends");
    let report = || format!("{}\n{}", ended.console("web"), ended.report());
    let first = first.unwrap_or_else(|| panic!("no page came\n{}", report()));
    assert!(first.contains("<h1>web</h1>") && first.contains("page number 1"), "{first}");
    let second = second.unwrap_or_else(|| panic!("no second page came\n{}", report()));
    assert!(second.contains("page number 2"), "{second}");
    assert_eq!(ended.outcome("web"), "poweroff", "{}", report());
    assert_eq!(ended.domain("web")["nics"][0]["mac"], "00:16:3e:01:02:03");
    ended.assert_no_leaks();
}
