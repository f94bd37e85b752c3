//! What each mistake is answered with, and what right files mean.

use super::*;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

fn said(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(accepted) => accepted.warnings,
        Err(found) => found,
    }
    .iter()
    .map(ToString::to_string)
    .collect()
}

/// A good configuration with more lines behind it.
fn with(lines: &str) -> String {
    alloc::format!("name = 'g'\nkernel = 'k'\nmemory = 64\n{lines}\n")
}

const FULL: &str = r#"
# A Linux guest.
name = "linux"; type = "pvh"
uuid = 'c0ffee00-0000-4000-8000-000000000001'
memory = 256
maxmem = 512
vcpus = 2   # two
maxvcpus = 4
cpus = "0-3,^1"
cpu_weight = 512
cap = 0x32
kernel = "/boot/vmlinuz"
ramdisk = "initrd.img"
root = "/dev/xvda ro"
extra = "console=hvc0 quiet"
disk = [
    'file:/p/img,xvda,w',      # the old form
    "/p/two,raw,xvdb,ro",
    '/p/three, , xvdc, rw, discard, backendtype=ram',
    'vdev=hdc,access=ro,devtype=cdrom,target=/p/a,b=c.iso',
    '/dev/vg/lv,,hda1',
    ',empty,hdd:cdrom,r',
]
vif = [ 'mac=00:16:3e:01:02:03,bridge=br0,rate=10Mb/s,ip=10.0.0.2', '' ]
on_poweroff = "preserve"
on_reboot = "destroy"
on_crash = "restart"
"#;

#[test]
fn a_whole_file() {
    let Accepted { config, warnings } = parse(FULL).unwrap();
    assert_eq!(warnings, []);
    assert_eq!((config.name.as_str(), config.kind), ("linux", Kind::Pvh));
    assert_eq!(config.uuid.unwrap()[..3], [0xc0, 0xff, 0xee]);
    assert_eq!((config.memory_mib, config.max_memory_mib), (256, 512));
    assert_eq!((config.vcpus, config.max_vcpus), (2, 4));
    assert_eq!(config.cpus, Some(vec![0, 2, 3]));
    assert_eq!((config.weight, config.cap), (512, 50));
    assert_eq!(config.cmdline, "root=/dev/xvda ro console=hvc0 quiet");
    let disks: Vec<_> = config
        .disks
        .iter()
        .map(|d| (d.target.as_deref(), d.vdev.number, d.access == Access::ReadWrite, d.kind, d.storage))
        .collect();
    assert_eq!(
        disks,
        [
            (Some("/p/img"), 51712, true, DiskKind::Disk, Storage::Device),
            (Some("/p/two"), 51728, false, DiskKind::Disk, Storage::Device),
            (Some("/p/three"), 51744, true, DiskKind::Disk, Storage::Memory),
            (Some("/p/a,b=c.iso"), 5632, false, DiskKind::Cdrom, Storage::Device),
            (Some("/dev/vg/lv"), 769, true, DiskKind::Disk, Storage::Device),
            (None, 5696, false, DiskKind::Cdrom, Storage::Device),
        ]
    );
    assert_eq!(config.nics.len(), 2);
    assert_eq!(config.nics[0].mac.to_string(), "00:16:3e:01:02:03");
    assert_eq!(config.nics[0].rate, Some(1_250_000));
    assert_eq!(config.nics[1].mac, Mac::made("linux", 1));
    assert_eq!(
        (config.on_poweroff, config.on_reboot, config.on_crash),
        (Action::Preserve, Action::Destroy, Action::Restart)
    );
    assert_eq!(
        config.paths(),
        ["/boot/vmlinuz", "initrd.img", "/p/img", "/p/two", "/p/three", "/p/a,b=c.iso", "/dev/vg/lv"]
    );
}

#[test]
fn the_smallest_file_has_defaults() {
    let config = parse(&with("")).unwrap().config;
    assert_eq!((config.vcpus, config.max_vcpus, config.weight, config.cap), (1, 1, 256, 0));
    assert_eq!(
        (config.on_poweroff, config.on_reboot, config.on_crash),
        (Action::Destroy, Action::Restart, Action::Destroy)
    );
    assert_eq!(config.max_memory_mib, 64);
}

#[test]
fn each_mistake_has_its_place_and_its_remedy() {
    for (line, message) in [
        ("memroy = 1", "4:1: warning: unknown key `memroy`; did you mean `memory`?"),
        ("frobnicate = 1", "4:1: warning: unknown key `frobnicate`"),
        ("vnc = 1", "4:1: warning: `vnc` has no effect here; `trunnion xl vnc NAME` shows the screen"),
        ("pci = ['01:00.0']", "4:1: error: `pci` cannot be used: passing devices through is not there yet"),
        ("vcpus = 33", "4:9: error: `vcpus` is 1 to 32 vCPUs, not 33"),
        ("vcpus = 'two'", "4:9: error: `vcpus` is a number from 1 to 32 vCPUs"),
        (
            "vcpus = two",
            "4:9: error: expected a text in quotes, a number or a list, found `two`; texts stand in quotes: `\"two\"`",
        ),
        ("vcpus", "4:6: error: expected `=` after `vcpus`, found the end of the line; write `vcpus = VALUE`"),
        ("vcpus = ", "4:9: error: expected a value, found the end of the line"),
        (
            "vcpus = 1 2",
            "4:11: error: expected the end of the line after the value of `vcpus`, found `2`; one value stands on a line; several go into a list: `[ A, B ]`",
        ),
        ("= 3", "4:1: error: expected a key, found `=`"),
        ("maxmem = 2G", "4:10: error: `2G` is no number; sizes are in MiB, without a unit: 1 GiB is 1024"),
        ("maxmem = 32", "4:10: error: `maxmem` is 32, which is less than `memory`, 64"),
        ("extra = \"quiet", "4:9: error: this text has no end on its line; close it with `\"`"),
        ("extra = 'a\\q'", "4:11: error: no such escape in a text; a backslash itself is written `\\\\`"),
        ("extra = 5", "4:9: error: `extra` is a text in quotes; `extra = \"5\"`"),
        ("disk = [ 'a,xvda,w'", "4:8: error: this list has no end; close it with `]`"),
        ("disk = [ 'a,xvda,w' 'b' ]", "4:21: error: expected `,` or `]` in the list, found `'`"),
        ("disk = [ 'a,xvda,x' ]", "4:18: error: access is `r`, `ro`, `w` or `rw`, not `x`"),
        (
            "disk = [ 'a,rwa,xvda,w' ]",
            "4:13: error: expected a format or a virtual device such as `xvda`, found `rwa`; did you mean `raw`?",
        ),
        (
            "disk = [ 'a,qcow2,xvda,w' ]",
            "4:13: error: disks are raw images, not `qcow2`; `qemu-img convert -f qcow2 -O raw IMAGE NEW` makes one",
        ),
        (
            "disk = [ 'a,raw,vda,w' ]",
            "4:17: error: `vda` is no virtual device; expected `xvda`, `hda` or `sda`, with further letters and a partition if need be",
        ),
        (
            "disk = [ '/p/a' ]",
            "4:10: error: this disk has no virtual device; `'/path/image,raw,xvda,rw'` is the shortest form",
        ),
        (
            "disk = [ 'vdev=xvda' ]",
            "4:10: error: this disk has no target; name an image: `target=/path/image`",
        ),
        (
            "disk = [ 'a,raw,xvda,w,acess=ro' ]",
            "4:24: error: a disk has no option `acess`; did you mean `access`?",
        ),
        ("disk = [ 'a,raw,xvda,w', 'b,raw,xvda,w' ]", "4:26: error: `xvda` is given to two disks"),
        (
            "disk = [ 'a,raw,xvda,w', 'a,raw,xvdb,r' ]",
            "4:26: error: `a` is given to two disks, and one of them writes; give both read-only, or copy the image",
        ),
        (
            "disk = [ 'vdev=xvda,devtype=floppy,target=a' ]",
            "4:29: error: `devtype` is `disk` or `cdrom`, not `floppy`",
        ),
        (
            "vif = [ 'mac=00:16' ]",
            "4:14: error: `00:16` is no Ethernet address; expected six bytes: `00:16:3e:12:34:56`",
        ),
        (
            "vif = [ 'mac=01:16:3e:00:00:00' ]",
            "4:14: error: `01:16:3e:00:00:00` is a group address; the first byte is even",
        ),
        ("vif = [ 'bridg=b' ]", "4:10: error: a network has no option `bridg`; did you mean `bridge`?"),
        (
            "vif = [ 'rate=fast' ]",
            "4:15: error: `fast` is no rate; expected `10Mb/s` (bits) or `1MB/s` (bytes)",
        ),
        ("vif = [ 1 ]", "4:9: error: `vif` is a list of texts in quotes"),
        (
            "on_crash = 'restrat'",
            "4:12: error: `on_crash` is `destroy`, `restart` or `preserve`, not `restrat`; did you mean `restart`?",
        ),
        (
            "on_crash = 'coredump-restart'",
            "4:12: warning: no core file is written; the crash report is in the log",
        ),
        ("type = 'pvhh'", "4:8: error: `type` is `pvh` or `hvm`, not `pvhh`; did you mean `pvh`?"),
        (
            "type = 'pv'",
            "4:8: error: domains of type `pv` are not supported: guests run under hardware virtualisation; most kernels that can be `pv` can be `pvh`",
        ),
        (
            "type = 'hvm'",
            "2:1: error: a domain of type `hvm` boots from its media or firmware and takes no `kernel`; remove `kernel`, or say `type = \"pvh\"`",
        ),
        ("memory = 64", "4:1: warning: `memory` is given twice; this one counts"),
        ("cmdline = 'a'\nroot = '/dev/xvda'", "5:1: warning: `root` has no effect beside `cmdline`"),
        (
            "cpus = '3-1'",
            "4:8: error: `cpus` lists physical CPUs; as in `\"all\"`, `\"0-3,^1\"` or `[0, 2]`, with numbers below 64",
        ),
        (
            "uuid = 'x'",
            "4:8: error: `x` is no UUID: expected 32 hexadecimal digits; as in `\"c0ffee00-0000-4000-8000-000000000001\"`",
        ),
        (
            "bios = 'seabois'",
            "4:8: error: `bios` is `seabios` or `ovmf`, not `seabois`; did you mean `seabios`?",
        ),
    ] {
        assert_eq!(said(&with(line)), [message], "{line}");
    }
    assert_eq!(
        said(""),
        [
            "1:1: error: `name` is missing; `name = \"guest\"`",
            "1:1: error: `memory` is missing; give it in MiB: `memory = 256`",
            "1:1: error: a domain of type `pvh` needs a `kernel`; `kernel = \"/path/vmlinuz\"`",
        ]
    );
    for name in ["''", "'a/b'", "'12'", "'Domain-0'", "'.x'"] {
        assert_eq!(said(&alloc::format!("kernel='k'\nmemory=64\nname={name}")).len(), 1, "{name}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let said = said("name = linux\nkernel = 'k'\nvcpus = 99\nmemory = 64\ndisk = [ 'a,raw,vda,w' ]\n");
    assert_eq!(said.len(), 4, "{said:?}");
}

#[test]
fn a_mistake_is_shown_under_its_line() {
    let text = with("\tvcpus = 'ä', 99");
    let found = parse(&text).unwrap_err();
    assert_eq!(
        found[0].render("a.cfg", &text),
        "a.cfg:4:13: error: expected the end of the line after the value of `vcpus`, found `,`; one value stands on a line; several go into a list: `[ A, B ]`\n  | \tvcpus = 'ä', 99\n  | \t           ^"
    );
}

#[test]
fn texts_have_escapes_and_can_be_joined() {
    let config = parse(&with(r#"extra = "a\t\"b\"\x41\101""#)).unwrap().config;
    assert_eq!(config.cmdline, "a\t\"b\"AA");
    let config = parse(&with("disk = [ 'a,xvda,w' ]\ndisk += [ 'b,xvdb,w' ]\nextra = 'a'\nextra += ' b'"))
        .unwrap()
        .config;
    assert_eq!((config.disks.len(), config.cmdline.as_str()), (2, "a b"));
}

#[test]
fn no_text_makes_the_parser_fail() {
    // Every prefix of a file, and every file with one byte less, is answered.
    let text = with(FULL);
    for end in text.char_indices().map(|(at, _)| at) {
        let _ = parse(&text[..end]);
        let mut without = String::from(&text[..end]);
        without.extend(text[end..].chars().skip(1));
        let _ = parse(&without);
    }
}
