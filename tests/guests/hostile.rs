//! Hypercalls with random numbers and arguments, port and memory accesses all over the place. Whatever comes back is right,
//! as long as it comes back. The seed is fixed, so that a run repeats.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    #![allow(unsafe_code, reason = "the guest owns its machine: nothing else runs in the domain")]
    use crate::runtime::{check, hypercall};
    use core::arch::asm;

    struct Random(u64);

    /// Where the guest's own code and data are. Results written there by a call that succeeds would end the guest, rightly.
    const OWN: core::ops::Range<u64> = 0xf_f000..0x20_0000;

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        /// A number that is likely to be near something interesting.
        fn claim(&mut self, buffer: u64) -> u64 {
            let value = self.next();
            let claim = match value >> 60 {
                0..=3 => value & 0xff,
                4..=7 => buffer + (value & 0x7ff),
                8 => u64::MAX - (value & 0xfff),
                9 => 1 << (value & 63),
                10 => 0xfee0_0000 + (value & 0xfff),
                11 => buffer + 4096 - (value & 7),
                12 => (value & 0xffff) << 12,
                _ => value,
            };
            // Most arguments are addresses, some are frame numbers.
            if OWN.contains(&claim) || OWN.contains(&(claim << 12)) { !claim } else { claim }
        }
    }

    /// Numbers whose calls end or stop the domain when they are right: shutdown, block, poll, vCPU down.
    fn ends(number: u32, operation: u64) -> bool {
        (number == 29 && matches!(operation & 0xffff_ffff, 1..=5))
            || (number == 24 && matches!(operation & 0xffff_ffff, 0..=2))
    }

    pub(crate) fn run(_start_info: u32) {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        // The scratch page lies in the image's last page of stack space, where nothing lives.
        let buffer = 0x9000u64;
        for round in 0..20_000u32 {
            if round % 64 == 0 {
                for offset in (0..4096).step_by(8) {
                    let value = random.claim(buffer);
                    // SAFETY: page 9 is RAM that nothing uses.
                    unsafe { ((buffer + offset) as *mut u64).write_volatile(value) };
                }
            }
            let number = [12, 13, 15, 17, 20, 21, 24, 29, 32, 33, 34, 35, 36, 41, 48, 7]
                [(random.next() & 15) as usize];
            let number = if random.next().is_multiple_of(16) { random.next() as u32 & 0xff } else { number };
            let operation =
                if random.next().is_multiple_of(8) { random.claim(buffer) } else { random.next() & 31 };
            // Memory operations would take this guest's own code away; everything else is fair.
            if ends(number, operation)
                || matches!(number, 13 | 18)
                || (number == 12 && matches!(operation & 63, 1 | 7 | 15 | 23))
            {
                continue;
            }
            let (a, b) = (random.claim(buffer), random.claim(buffer));
            // The grant operations' count: a large one would have statuses written over the guest itself.
            let b = if number == 20 { b & 7 } else { b };
            hypercall(number, operation, a, b);
        }
        check("random hypercalls", true);
        for _ in 0..2_000 {
            let port = random.next() as u16;
            // SAFETY: a port of a machine that this guest owns.
            unsafe { asm!("in al, dx", in("dx") port, out("al") _, options(nostack)) };
            // SAFETY: as above. 0xe9 is the debug console, and is left alone.
            if port != 0xe9 {
                unsafe { asm!("out dx, al", in("dx") port, in("al") 0u8, options(nostack)) };
            }
        }
        check("random ports", true);
        check("still here", hypercall(17, 0, 0, 0) > 0);
    }
}

#[cfg(target_os = "none")]
use guest::run;
