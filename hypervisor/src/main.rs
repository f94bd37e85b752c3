//! The hypervisor's image. On the host there is nothing to run: the image is built for bare metal by `trunnion`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use trunnion_hypervisor as _;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("this is the bare-metal image of the hypervisor; `trunnion run` builds and boots it");
}
