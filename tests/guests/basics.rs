//! Discovery, versions, ports, MSRs, unclaimed memory, exceptions.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    #![allow(unsafe_code, reason = "the guest owns its machine: nothing else runs in the domain")]
    use crate::runtime::{
        Trap, check, check_eq, cpuid, from_32_bit, hypercall, parameter, try_run, vmcall, vmmcall,
    };
    use core::arch::asm;

    const XEN_VERSION: u32 = 17;

    fn read_port(port: u16) -> u32 {
        let value: u32;
        // SAFETY: a port of a machine that this guest owns.
        unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack)) };
        value
    }

    fn read_msr(msr: u32) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: reads a register; #GP is caught where it may come.
        unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack)) };
        u64::from(high) << 32 | u64::from(low)
    }

    pub(crate) fn run(_start_info: u32) {
        let leaf = cpuid(0x4000_0000, 0);
        check("signature", leaf[1..] == [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]);
        check("leaves", leaf[0] >= 0x4000_0002);
        check("hypervisor bit", cpuid(1, 0)[2] >> 31 == 1);
        check(
            "no nested virtualisation",
            cpuid(1, 0)[2] >> 5 & 1 == 0 && cpuid(0x8000_0001, 0)[2] >> 2 & 1 == 0,
        );
        let version = hypercall(XEN_VERSION, 0, 0, 0);
        check_eq("version agrees with CPUID", version as u64, u64::from(cpuid(0x4000_0001, 0)[0]));
        check("version is 4 or later", version >> 16 >= 4);
        check_eq("page size", hypercall(XEN_VERSION, 7, 0, 0) as u64, 4096);
        let mut features = [0u32; 2];
        check_eq("features", hypercall(XEN_VERSION, 6, features.as_mut_ptr() as u64, 0) as u64, 0);
        check("feature bits", features[1] & 0x10305 == 0x10305);
        let (version32, result32, features32) = from_32_bit();
        check_eq("version, 32-bit with paging off", u64::from(version32), version as u64);
        check_eq("get_features, 32-bit with paging off", result32 as u64, 0);
        check_eq("features, 32-bit with paging off", u64::from(features32), u64::from(features[1]));
        check_eq("vmcall works", vmcall(XEN_VERSION, 0, 0, 0) as u64, version as u64);
        check_eq("vmmcall works", vmmcall(XEN_VERSION, 0, 0, 0) as u64, version as u64);
        check_eq("unknown hypercall", hypercall(63, 0, 0, 0) as u64, -38i64 as u64);
        check_eq("unknown number, far out", hypercall(0x7fff_ffff, 0, 0, 0) as u64, -38i64 as u64);
        check_eq("bad pointer", hypercall(XEN_VERSION, 6, 0xffff_8000_0000_0000, 0) as u64, -14i64 as u64);
        check_eq(
            "non-canonical pointer",
            hypercall(XEN_VERSION, 6, 0x8000_0000_0000_0000, 0) as u64,
            -14i64 as u64,
        );

        check_eq("a port nobody has", u64::from(read_port(0x5678)), 0xffff_ffff);
        // SAFETY: nobody is at that address; reads give all ones and writes are dropped.
        let hole = unsafe {
            let pointer = 0xf000_0000usize as *mut u32;
            pointer.write_volatile(7);
            pointer.read_volatile()
        };
        check_eq("memory nobody has", u64::from(hole), 0xffff_ffff);

        check("APIC base", read_msr(0x1b) & 0xffff_f000 == 0xfee0_0000);
        let trap = try_run(|| {
            read_msr(0x1234_5678);
        });
        check("unknown MSR faults", trap == Some(Trap { vector: 13, error: 0 }));
        // SAFETY: raises #UD, which is caught.
        check("ud2", try_run(|| unsafe { asm!("ud2") }).map(|trap| trap.vector) == Some(6));
        // SAFETY: raises #DE, which is caught.
        let trap = try_run(|| unsafe {
            asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("eax") _, out("ecx") _, out("edx") _)
        });
        check("division by zero", trap.map(|trap| trap.vector) == Some(0));

        // The hypercall page: its stubs begin with mov eax, n.
        let pages = cpuid(0x4000_0002, 0);
        check_eq("one hypercall page", u64::from(pages[0]), 1);
        // SAFETY: page 0x9000 is RAM that nothing uses; a wrong frame would raise #GP, which ends the guest with a report.
        let result = unsafe {
            asm!("wrmsr", in("ecx") pages[1], in("eax") 0x9000, in("edx") 0, options(nostack));
            let result: u64;
            asm!("call {0}", in(reg) 0x9000u64 + 32 * u64::from(XEN_VERSION), lateout("rax") result,
                inlateout("rdi") 0u64 => _, inlateout("rsi") 0u64 => _, lateout("rdx") _, lateout("r8") _, lateout("r10") _,
                lateout("rcx") _, lateout("r9") _, lateout("r11") _);
            result
        };
        check_eq("a call through the page", result, version as u64);

        check("store page", parameter(1) != 0);
        check("console page", parameter(17) != 0);
        check_eq("no parameter 39", crate::runtime::set_parameter(39, 1) as u64, -22i64 as u64);
    }
}

#[cfg(target_os = "none")]
use guest::run;
