//! Plans as text, and what is refused.

use super::*;
use crate::config;
use crate::image::{Image, Piece};
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use trunnion_protocol::elfnote::Relocation;
use trunnion_protocol::id::{DomainId, Port};

const HOST: Capacity = Capacity { free_pages: 1 << 20, cpus: 1, seed: 7 };

/// Debian's kernel in outline.
fn linux() -> Image {
    Image {
        pieces: vec![
            Piece { address: 0x100_0000, bytes: 0x20_0000..0x120_0000, size: 0x100_0000 },
            Piece { address: 0x280_0000, bytes: 0x140_0000..0x150_0000, size: 0x160_0000 },
        ],
        entry: 0x100_0850,
        relocation: None,
        features: 0x8801,
        system: Some("linux".into()),
        wide: true,
    }
}

fn parsed(text: &str) -> DomainConfig {
    config::parse(text).unwrap_or_else(|found| panic!("{found:?}")).config
}

fn sample() -> Plan {
    let config = parsed(
        "name = 'linux'\nuuid = 'c0ffee00-0000-4000-8000-000000000001'\nkernel = 'k'\nramdisk = 'r'\nmemory = 96\nvcpus = 1\nmaxvcpus = 2\ncmdline = 'console=hvc0'\ndisk = [ '/p/a,raw,xvda,w', '/p/b,raw,xvdb,ro,backendtype=ram' ]",
    );
    plan(&config, &linux(), Some(5 << 20), &HOST).unwrap()
}

#[test]
fn a_plan_reads_like_this() {
    assert_eq!(
        sample().to_string(),
        "\
domain linux c0ffee00-0000-4000-8000-000000000001
  vcpus 1 of 2, weight 256, cap 0
  memory 24576 pages of at most 24580
  populate 0x0 + 48 x 2^9
  populate 0xfc000 + 2 x 2^0
  populate 0xfeffc + 1 x 2^0
  populate 0xfefff + 1 x 2^0
  map 0x000000000..0x006000000 ram
  map 0x0fc000000..0x0fc002000 nvs
  map 0x0feff8000..0x0ff000000 reserved
  write 0x1000000 kernel 0x200000..0x1200000
  write 0x2800000 kernel 0x1400000..0x1500000
  write 0x3e00000 173 bytes
  write 0x3e01000 ramdisk
  write 0xfc001000 612 bytes
  start 0x1000850 with 0x3e00000
  disk xvda (51712) /p/a
  disk xvdb (51728) /p/b read-only in memory
  on poweroff Destroy, on reboot Restart, on crash Destroy
"
    );
}

#[test]
fn the_start_info_leads_to_all_that_it_names() {
    let plan = sample();
    let block = plan.writes.iter().find(|w| w.address.0 == u64::from(plan.start_info)).unwrap();
    let Content::Bytes(bytes) = &block.content else { panic!() };
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!((word(0), word(4), word(8), word(12)), (0x336e_c578, 1, 0, 1));
    let inside = |address: u64| (address - u64::from(plan.start_info)) as usize;
    let module = inside(long(16));
    assert_eq!((long(module), long(module + 8)), (0x3e0_1000, 5 << 20));
    let command_line = inside(long(24));
    assert_eq!(&bytes[command_line..], b"console=hvc0\0");
    let map = inside(long(40));
    assert_eq!((word(48), long(map), long(map + 8), word(map + 16)), (3, 0, 96 << 20, 1));
    let state = plan.state();
    assert_eq!((state.rip, state.gpr[3], state.cr0), (0x100_0850, 0x3e0_0000, 0x11));
}

#[test]
fn memory_beyond_the_hole_goes_above_4_gib() {
    let config = parsed("name = 'big'\nkernel = 'k'\nmemory = 6144");
    let host = Capacity { free_pages: 1 << 24, ..HOST };
    let plan = plan(&config, &linux(), None, &host).unwrap();
    let text = plan.to_string();
    assert!(text.contains("populate 0x0 + 3 x 2^18"), "{text}");
    assert!(text.contains("map 0x100000000..0x184000000 ram"), "{text}");
    assert_eq!(plan.extents.iter().map(Extent::pages).sum::<u64>(), plan.ram_pages + 4);
}

#[test]
fn the_store_has_these_nodes() {
    let groups = tree(&sample(), DomainId(3), Ports { store: Port(1), console: Port(2) });
    let names: Vec<_> = groups.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(names, ["domain", "disk xvda", "disk xvdb"]);
    let text: Vec<String> = groups
        .iter()
        .flat_map(|group| &group.nodes)
        .map(|node| format!("{} {:?} {}", node.path, node.value, node.rights.entries(DomainId(3)).join(",")))
        .collect();
    assert_eq!(text, include_str!("tree.txt").lines().collect::<Vec<_>>());
}

#[test]
fn kernels_that_may_move_are_moved_when_they_must() {
    let relocation = Some(Relocation { align: 0x20_0000, lowest: 0x20_0000, highest: 0x3fff_ffff });
    let piece = |address| vec![Piece { address, bytes: 0..16, size: 0x10_0000 }];
    let config = parsed("name = 'a'\nkernel = 'k'\nmemory = 16");
    let at_zero = Image { pieces: piece(0), entry: 0x40, relocation, ..linux() };
    assert_eq!(plan(&config, &at_zero, None, &HOST).unwrap().entry, 0x20_0040);
    let too_high = Image { pieces: piece(0x8000_0000), entry: 0x8000_0040, relocation, ..linux() };
    assert_eq!(plan(&config, &too_high, None, &HOST).unwrap().entry, 0x20_0040);
    let fine = Image { pieces: piece(0x40_0000), entry: 0x40_0040, relocation, ..linux() };
    assert_eq!(plan(&config, &fine, None, &HOST).unwrap().entry, 0x40_0040);
    let fixed = Image { relocation: None, ..at_zero };
    assert_eq!(plan(&config, &fixed, None, &HOST).unwrap().entry, 0x40);
}

#[test]
fn what_cannot_be_is_refused_with_numbers() {
    let refused = |lines: &str, image: &Image, ramdisk, host: &Capacity| {
        plan(&parsed(&format!("name = 'a'\nkernel = 'k'\n{lines}")), image, ramdisk, host)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused("memory = 32", &linux(), None, &HOST),
        "the kernel does not fit: it takes at least 62 MiB, and the guest has 32 MiB below 4 GiB"
    );
    assert_eq!(
        refused("memory = 64", &linux(), Some(100 << 20), &HOST),
        "the RAM disk of 100 MiB does not fit behind the kernel: together they take at least 163 MiB, and the guest has 64 MiB below 4 GiB"
    );
    assert_eq!(
        refused("memory = 512", &linux(), None, &Capacity { free_pages: 51_200, ..HOST }),
        "not enough memory: the domain takes 514 MiB in all, and 200 MiB are free"
    );
    assert_eq!(
        refused("memory = 64\ncpus = '0-1'", &linux(), None, &HOST),
        "`cpus` names CPU 1, and the host has 1"
    );
    assert_eq!(
        refused(&format!("memory = 64\nextra = '{}'", "x".repeat(5000)), &linux(), None, &HOST),
        "the kernel's command line has 5000 bytes, and may have 4095"
    );
}

#[test]
fn identities_differ_and_are_well_formed() {
    let (a, b) = (made_uuid("a", 1), made_uuid("a", 2));
    assert_ne!(a, b);
    assert_eq!((a[6] >> 4, a[8] >> 6), (4, 2));
}
