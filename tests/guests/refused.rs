//! A second vCPU with a state that no processor takes. Needs `vcpus = 2`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
fn run(_start_info: u32) {
    use trunnion_protocol::hypercall::vcpu::{HvmContext64, MODE_64, Op};
    use trunnion_protocol::layout::{Layout, Width};

    // Long mode without PAE.
    let state = HvmContext64 {
        mode: MODE_64,
        registers: [0; 8],
        rip: 0x1000,
        rflags: 2,
        cr0: 0x8000_0011,
        cr3: 0,
        cr4: 0,
        efer: 1 << 8,
    };
    let mut bytes = HvmContext64::ZEROED;
    state.encode(Width::W64, bytes.as_mut());
    let at = core::ptr::from_ref(&bytes) as u64;
    runtime::check_eq("initialise", runtime::hypercall(24, Op::Initialise.number().into(), 1, at) as u64, 0);
    say!("STARTING");
    runtime::hypercall(24, Op::Up.number().into(), 1, 0);
    loop {
        runtime::halt();
    }
}
