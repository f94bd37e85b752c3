//! The same guest images, byte for byte, on this platform and on Debian's real Xen 4.17 with a Linux dom0: that is what speaking its
//! ABI means.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use trunnion_tests::system::{Outer, QEMU_SVM, REAL_XEN, Run, image};

use crate::DRIVER;

/// A port of this host that nobody uses.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// What the web server in a guest answers through the published port.
fn page(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is published");
    stream.set_read_timeout(Some(Duration::from_mins(1))).expect("a limit can be set");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("the guest listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the guest answers");
    text
}

/// A disk and a network port, each with the front end of this project in a guest of its own.
fn disk_and_network(outer: Outer) {
    let port = free_port();
    let rule = format!("tcp:{port}:10.0.2.50:80");
    let run = Run::new(DRIVER, outer).option(&["--net", "user", "--forward", &rule]);
    let run = run.rust("disk", 16, "headless trunnion.demo=1");
    let web = image("trunnion-web");
    let text = format!(
        "name = \"web\"\ntype = \"pvh\"\nmemory = 32\nkernel = \"{}\"\n\
         cmdline = \"ip=10.0.2.50/24 gateway=10.0.2.2 requests=1\"\nvif = [ \"mac=00:16:3e:00:00:50\" ]\n",
        web.display()
    );
    let mut live = run.domain("web", &text).start(400);
    live.wait_for("web", "http://10.0.2.50/");
    let page = page(port);
    assert!(page.contains("<h1>web</h1>") && page.contains("page number 1"), "{page}");
    let ended = live.end();
    for (name, last) in [("disk", "demo: all is well"), ("web", "1 pages served")] {
        let console = ended.console(name);
        assert!(console.contains(last), "{name}:\n{console}\n{}", ended.report());
        assert_eq!(ended.outcome(name), "poweroff", "{}", ended.report());
    }
    let disk = fs::read(ended.path().join("disk.img")).expect("the disk can be read");
    assert!(disk.iter().any(|byte| *byte != 0), "nothing was written to the disk");
    assert_eq!(ended.status, 0, "{}", ended.report());
    assert_eq!(ended.summary["platform"]["machine"], outer.machine);
}

#[test]
fn disk_and_network_here() {
    disk_and_network(QEMU_SVM);
}

#[test]
#[cfg_attr(
    not(full_tier),
    ignore = "fetches 100 MB of packages and boots a Linux dom0; TRUNNION_TIER=full runs it"
)]
fn disk_and_network_on_real_xen() {
    disk_and_network(REAL_XEN);
}
