//! Building against a host that counts.

use super::fake::{FakeHost, run};
use super::*;
use crate::image::Image;
use crate::plan::{Capacity, plan};
use crate::{config, image};
use alloc::string::ToString;
use alloc::vec;

const FREE: u64 = 100_000;

fn sample() -> (Plan, Vec<u8>) {
    let kernel = image::tests::simple();
    let config = config::parse(
        "name = 'g'\nkernel = 'k'\nramdisk = 'r'\nmemory = 64\nvcpus = 2\ndisk = [ '/a,raw,xvda,w', '/b,raw,xvdb,ro' ]",
    )
    .unwrap()
    .config;
    let image = Image::parse(&kernel).unwrap();
    let host = Capacity { free_pages: FREE, cpus: 1, seed: 1 };
    (plan(&config, &image, Some(3 << 20), &host).unwrap(), kernel)
}

fn files<'a>(kernel: &'a [u8], ramdisk: &'a [u8]) -> Files<'a> {
    Files {
        kernel: File::Here(kernel),
        ramdisk: File::Here(ramdisk),
        disks: vec![Some(DiskSource::Device("a")), Some(DiskSource::Memory(File::Here(b"b")))],
        ..Files::default()
    }
}

#[test]
fn a_build_does_what_the_plan_says_and_its_end_undoes_it() {
    let (plan, kernel) = sample();
    let ramdisk = vec![5; 3 << 20];
    let host = FakeHost::new(FREE);
    let domain = run(build(plan.clone(), &files(&kernel, &ramdisk), &host)).unwrap();
    {
        let guests = host.guests.borrow();
        let guest = &guests[&domain.id().0];
        assert_eq!(guest.params, [(1, 0xfeffc), (2, 1), (17, 0xfefff), (18, 2)].into());
        assert_eq!(guest.grants, [(0, 0xfefff), (1, 0xfeffc)].into());
        assert_eq!(guest.memory[&0x100_0000], b"text");
        assert_eq!(guest.state.unwrap(), plan.state());
        assert_eq!(guest.pauses, 1);
        let ramdisk: usize = guest.memory.values().filter(|bytes| bytes[0] == 5).map(Vec::len).sum();
        assert_eq!(ramdisk, 3 << 20);
    }
    assert_eq!(host.nodes.borrow()["/local/domain/1/device/vbd/51712/state"], "1");
    assert_eq!(host.disks.borrow().len(), 2);
    run(domain.end(&host));
    assert!(host.is_empty());
    assert_eq!(host.free_pages.get(), FREE);
}

#[test]
fn a_failure_at_any_step_gives_everything_back() {
    let (plan, kernel) = sample();
    let ramdisk = vec![5; 3 << 20];
    let mut steps = Vec::new();
    for call in 0.. {
        let host = FakeHost::new(FREE);
        host.fail.set(Some(call));
        match run(build(plan.clone(), &files(&kernel, &ramdisk), &host)) {
            Ok(_) => break,
            Err(error) => {
                if !steps.contains(&error.step) {
                    steps.push(error.step);
                }
            }
        }
        assert!(host.is_empty(), "call {call} {host:?}");
        assert_eq!(host.free_pages.get(), FREE, "call {call}");
    }
    let store = |name: &str| Step::Store(name.into());
    assert_eq!(
        steps,
        [
            Step::Create,
            Step::Schedule,
            Step::Populate,
            Step::MemoryMap,
            Step::Load,
            Step::Ports,
            Step::Params,
            Step::Grants,
            Step::State,
            Step::Console,
            store("domain"),
            store("disk xvda"),
            store("disk xvdb"),
            Step::Introduce,
            Step::Disk("xvda".into()),
            Step::Disk("xvdb".into()),
        ]
    );
}

#[test]
fn smaller_pieces_are_taken_when_large_ones_are_out() {
    let (plan, kernel) = sample();
    for largest in [0, 8, 9] {
        let host = FakeHost::new(FREE);
        host.largest_order.set(largest);
        let domain = run(build(plan.clone(), &files(&kernel, &[1]), &host)).unwrap();
        assert_eq!(host.free_pages.get(), FREE - 64 * 256 - 4);
        run(domain.end(&host));
        assert_eq!(host.free_pages.get(), FREE);
    }
    let host = FakeHost::new(1000);
    let error = run(build(plan, &files(&kernel, &[1]), &host)).unwrap_err();
    assert_eq!(error.to_string(), "giving it memory failed: ENOMEM");
    assert_eq!(host.free_pages.get(), 1000);
}

#[test]
fn what_is_missing_is_named() {
    let (plan, kernel) = sample();
    let host = FakeHost::new(FREE);
    let mut files = files(&kernel, &[1]);
    files.disks[1] = None;
    let error = run(build(plan.clone(), &files, &host)).unwrap_err();
    assert_eq!(error.to_string(), "attaching disk xvdb failed: dom0 has no disk for `/b`");
    files.kernel = File::Here(&kernel[..80]);
    let error = run(build(plan, &files, &host)).unwrap_err();
    assert_eq!(error.to_string(), "loading it failed: the files are not those that were planned with");
    assert!(host.is_empty());
}
