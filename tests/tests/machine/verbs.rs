//! The verbs of a platform that is up, on living domains: one boot, many checks.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use trunnion_tests::system::{Live, QEMU_SVM, Run};
use trunnion_tests::talk::{Talk, until};

use crate::DRIVER;

/// Everything takes longer on a machine that does other things as well.
const LIMIT: Duration = Duration::from_mins(3);

/// A verb that has to be refused with a status; the reason.
fn refused(live: &Live, words: &[&str], status: i32) -> String {
    let output = live.try_tool(words);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{words:?}: {output:?}");
    assert!(errors.starts_with("trunnion: "), "{words:?}: {errors}");
    errors
}

fn json(live: &Live, words: &[&str]) -> Value {
    serde_json::from_str(&live.tool(words)).expect("the answer is JSON")
}

/// Free memory of the machine in bytes.
fn free(live: &Live) -> u64 {
    json(live, &["xl", "info", "--json"])["free_bytes"].as_u64().expect("a number")
}

/// The id and the state of a domain, if there is one of that name.
fn domain(live: &Live, name: &str) -> Option<(u64, String)> {
    let rows = json(live, &["xl", "list", "--json"]);
    let row = rows.as_array()?.iter().find(|row| row["name"] == name)?.clone();
    Some((row["domid"].as_u64()?, row["state"].as_str()?.to_string()))
}

/// Writes a file that the run did not start with; its path.
fn file(live: &Live, name: &str, text: &str) -> String {
    let path = live.folder().join(name);
    fs::write(&path, text).expect("the file can be written");
    path.display().to_string()
}

/// A Linux domain with a shell and a root disk of its own.
fn debian(folder: &Path) -> String {
    let parts = trunnion_cli::demo::linux_parts().unwrap_or_else(|failure| panic!("{failure:?}"));
    let root = folder.join("root.ext4");
    fs::copy(&parts.disk, &root).expect("the root disk can be copied");
    format!(
        "name = \"debian\"\ntype = \"pvh\"\nmemory = 160\nkernel = \"{}\"\nramdisk = \"{}\"\n\
         cmdline = \"console=hvc0 root=/dev/xvda rw\"\ndisk = [ \"{},raw,xvda,rw\" ]\n",
        parts.kernel.display(),
        parts.ramdisk.display(),
        root.display(),
    )
}

#[test]
fn verbs_on_living_domains() {
    let mut live = Run::new(DRIVER, QEMU_SVM).option(&["--memory", "512"]).tiny("spin", "").start(600);
    // A verb that comes before dom0 listens waits for it.
    assert!(live.tool_when_ready(&["xl", "list"]).contains("Domain-0"));
    live.wait_running("spin");
    refusals(&live);
    store(&live);

    live.tool(&["xl", "pause", "spin"]);
    assert_eq!(domain(&live, "spin").unwrap().1, "paused");
    live.tool(&["xl", "unpause", "spin"]);
    assert_eq!(domain(&live, "spin").unwrap().1, "running");
    assert_eq!(live.tool(&["xl", "domname", "1"]), "spin\n");
    assert_eq!(live.tool(&["xl", "domid", "spin"]), "1\n");
    shares(&mut live);
    // It never gives the processor away; others get their share, and it can be ended.
    linux(&live);
    live.tool(&["xl", "destroy", "spin"]);
    // With its last domain the run ends.
    let ended = live.end();
    assert_eq!(ended.outcome("spin"), "destroyed", "{}", ended.report());
    assert_eq!(ended.outcome("debian"), "reboot", "{}", ended.report());
    assert_eq!(ended.status, 1, "it did not end by power-off: {}", ended.report());
    ended.assert_no_leaks();
}

/// Wrong requests: each says what is wrong, and changes nothing.
fn refusals(live: &Live) {
    let before = free(live);
    let kernel = file(live, "kernel", "no kernel");
    let wrong = |text: &str| refused(live, &["xl", "create", &file(live, "wrong.cfg", text)], 2);
    assert!(refused(live, &["xl", "create", "/nowhere.cfg"], 2).contains("/nowhere.cfg"));
    assert!(wrong("name = 'a'\nmemory = 'much'\n").contains("wrong.cfg:2:"));
    assert!(wrong("name = 'a'\nmemory = 16\nkernel = 'kernel'\n").contains(kernel.as_str()));
    let spin = fs::read_to_string(live.folder().join("spin.cfg")).expect("the domain file is there");
    assert!(wrong(&spin).contains("running already"));
    let large = file(live, "large.cfg", &spin.replace("\"spin\"", "\"large\"").replace("= 16", "= 4096"));
    let words = refused(live, &["xl", "create", &large], 1);
    assert!(words.contains("not enough memory") && words.contains("MiB are free"), "{words}");
    assert!(refused(live, &["xl", "pause", "nobody"], 1).contains("nobody"));
    assert!(refused(live, &["xl", "destroy", "0"], 1).contains("dom0"));
    assert!(refused(live, &["xl", "frobnicate"], 2).contains("frobnicate"));
    assert!(refused(live, &["xl", "migrate", "spin"], 2).contains("not there yet"));
    assert!(refused(live, &["console", "nobody"], 1).contains("nobody"));
    assert_eq!(free(live), before);
}

fn store(live: &Live) {
    assert_eq!(live.tool(&["xenstore", "read", "/local/domain/1/name"]), "spin\n");
    let watch = live.talk(&["xenstore", "watch", "/test"]);
    watch.wait_for("/test\n", LIMIT);
    live.tool(&["xenstore", "write", "/test/a", "one"]);
    watch.wait_for("/test/a\n", LIMIT);
    assert_eq!(live.tool(&["xenstore", "read", "/test/a"]), "one\n");
    assert_eq!(live.tool(&["xenstore", "list", "/test"]), "a\n");
    assert!(live.tool(&["xenstore", "ls", "/test"]).contains("a = \"one\""));
    assert_eq!(live.try_tool(&["xenstore", "exists", "/test/a"]).status.code(), Some(0));
    live.tool(&["xenstore", "rm", "/test"]);
    assert!(refused(live, &["xenstore", "read", "/test/a"], 1).contains("ENOENT"));
    assert_ne!(live.try_tool(&["xenstore", "exists", "/test/a"]).status.code(), Some(0));
}

/// What is seen of a domain's vCPUs and set of its share, the hypervisor's own state, and a new name and back.
fn shares(live: &mut Live) {
    let vcpus = json(live, &["xl", "vcpu-list", "spin", "--json"]);
    assert_eq!(
        (vcpus.as_array().map(Vec::len), &vcpus[0]["name"]),
        (Some(1), &Value::from("spin")),
        "{vcpus}"
    );
    assert!(vcpus[0]["state"] == "running" || vcpus[0]["state"] == "runnable", "{vcpus}");
    let up = json(live, &["xl", "uptime", "spin", "--json"]);
    assert!(up[0]["up_ns"].as_u64().is_some_and(|ns| ns > 0), "{up}");
    assert_eq!(live.tool(&["xl", "sched-credit", "spin", "--weight", "512", "--cap", "50"]), "");
    let share = json(live, &["xl", "sched-credit", "-d", "spin", "--json"]);
    assert_eq!((&share[0]["weight"], &share[0]["cap"]), (&Value::from(512), &Value::from(50)), "{share}");
    assert!(refused(live, &["xl", "sched-credit", "spin", "-c", "101"], 2).contains("100 per cent"));
    live.tool(&["xl", "sched-credit", "spin", "-w", "256", "-c", "0"]);
    live.tool(&["xl", "debug-keys", "qegm"]);
    assert!(live.tool(&["xl", "dmesg"]).contains("name=spin weight=256 cap=0"));
    assert!(refused(live, &["xl", "debug-keys", "x"], 2).contains("`x`"));
    assert!(refused(live, &["xl", "rename", "spin", "Domain-0"], 2).contains("name of dom0"));
    for (before, name) in [("spin", "top"), ("top", "spin")] {
        live.tool(&["xl", "rename", before, name]);
        assert_eq!(live.tool(&["xl", "domname", "1"]), format!("{name}\n"));
        let console = live.folder().join(format!("log/{name}.console.log"));
        live.wait("the console has the name too", || console.exists());
    }
    assert!(refused(live, &["xl", "mem-set", "spin", "17"], 2).contains("16 MiB"));
    assert!(refused(live, &["xl", "vcpu-set", "spin", "2"], 2).contains("1 to 1 vCPUs"));
}

/// Disks that come to a Linux and go.
fn disks(live: &Live, console: &mut Talk) {
    let image = live.folder().join("data.img");
    let mut content = vec![0; 1 << 20];
    content[..8].copy_from_slice(b"a-word-\n");
    fs::write(&image, content).expect("the image can be written");
    let target = format!("target={}", image.display());
    live.tool(&["xl", "block-attach", "debian", &target, "vdev=xvdb", "access=rw"]);
    let again = refused(live, &["xl", "block-attach", "debian", &target, "vdev=xvdc"], 2);
    assert!(again.contains("\"debian\" twice"), "{again}");
    console.say("until [ -b /dev/xvdb ]; do sleep 1; done; head -c 8 /dev/xvdb\n");
    console.wait_for("a-word-\r\n", LIMIT);
    console.say("echo changed | dd of=/dev/xvdb conv=fsync,notrunc 2>/dev/null; echo wro''te\n");
    console.wait_for("wrote", LIMIT);
    let list = json(live, &["xl", "block-list", "debian", "--json"]);
    let xvdb = &list[1];
    assert_eq!((&xvdb["vdev"], &xvdb["connected"]), (&Value::from("xvdb"), &Value::from(true)), "{list}");
    assert!(xvdb["write_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{list}");
    live.tool(&["xl", "block-detach", "debian", "xvdb"]);
    assert!(fs::read(&image).expect("the image").starts_with(b"changed\n"));
    assert!(refused(live, &["xl", "block-detach", "debian", "xvdb"], 1).contains("no disk `xvdb`"));
    // One in dom0's memory, which is there when the domain ends.
    live.tool(&["xl", "block-attach", "debian", &target, "vdev=xvdc", "access=ro", "backendtype=ram"]);
    console.say("until [ -b /dev/xvdc ]; do sleep 1; done; head -c 8 /dev/xvdc\n");
    console.wait_for("changed\r\n", LIMIT);
    let list = json(live, &["xl", "block-list", "debian", "--json"]);
    assert_eq!((&list[1]["vdev"], &list[1]["device"]), (&Value::from("xvdc"), &Value::Null), "{list}");
}

/// A Debian that is created at run time: its kernel goes from the host into its memory, its disk is plugged in.
fn linux(live: &Live) {
    let before = free(live);
    let config = file(live, "debian.cfg", &debian(live.folder()));
    live.tool(&["xl", "create", &config]);
    let (first, _) = domain(live, "debian").expect("it was created");
    let mut console = live.talk(&["console", "debian", "--replay"]);
    console.wait_for("/ # ", LIMIT);
    console.say("echo answer $((6 * 7)); touch /root/was-here; sync\n");
    console.wait_for("answer 42", LIMIT);
    assert!(live.tool(&["xl", "dmesg"]).contains("debian"));
    disks(live, &mut console);

    live.tool(&["xl", "reboot", "--wait", "debian"]);
    // It is listed, paused, while it is being built.
    until("the domain is started again", LIMIT, || {
        domain(live, "debian").is_some_and(|(id, state)| id > first && state != "paused")
    });
    let mut console = live.talk(&["console", "debian", "--replay"]);
    // What is replayed begins with the domain's first life.
    until("the shell of its second life", LIMIT, || {
        console.heard().split_once("boot number 2").is_some_and(|(_, now)| now.contains("/ # "))
    });
    console.say("echo $((6 * 8)) /root/was-*\n");
    console.wait_for("48 /root/was-here", LIMIT);
    live.tool(&["xl", "shutdown", "--wait", "debian"]);
    assert_eq!(domain(live, "debian"), None);
    until("its memory is free again", LIMIT, || free(live) == before);

    // A second time, paused and then ended before it ran.
    live.tool(&["xl", "create", "--paused", &config]);
    assert_eq!(domain(live, "debian").unwrap().1, "paused");
    live.tool(&["xl", "destroy", "debian"]);
    assert_eq!(domain(live, "debian"), None);
    until("its memory is free again", LIMIT, || free(live) == before);
}
