//! Against the real thing: Debian's kernel package, fetched by the tool's own set-up.

use trunnion_cli::kernel;
use trunnion_cli::setup::{Permission, debian};

#[test]
fn debians_cloud_kernel_unpacks_to_a_pvh_elf() {
    let package = debian::cloud_kernel(Permission::Install).expect("the package is fetched");
    let kernel = kernel::load(&package.image).expect("the kernel is unpacked");
    assert!(kernel.span.start >= 0x100000, "{:x?}", kernel.span);
    assert!(kernel.span.end < 0x8000000, "{:x?}", kernel.span);
    assert!(package.modules.join("kernel/drivers/block/xen-blkfront.ko").is_file());

    let mut bytes = std::fs::read(&package.image).expect("the kernel is there");
    bytes.truncate(bytes.len() / 2);
    assert!(kernel::parse(&bytes).expect_err("half a kernel").contains("truncated"));
}
