//! The shared info page and the structures of a vCPU that guest and hypervisor both watch.
//!
//! Everything here lies in shared memory, so this module gives offsets and the words' bits, not structures to overlay.
//! The [`Width`] is a latch of the domain: 64-bit at first, then the width of the caller at each write of the
//! hypercall-page register and each setting of the callback parameter.

use crate::layout::Width;

/// vCPUs with a place in the page; others register their own ([`RegisterVcpuInfo`]).
///
/// [`RegisterVcpuInfo`]: crate::hypercall::vcpu::RegisterVcpuInfo
#[doc(alias = "XEN_LEGACY_MAX_VCPUS")]
pub const VCPUS: u32 = 32;
/// Bytes of a vCPU's info structure, in both widths.
#[doc(alias = "vcpu_info")]
pub const VCPU_INFO_SIZE: usize = 64;

/// Offset of the info structure of vCPU `index`, which must be below [`VCPUS`].
pub const fn vcpu_info(index: u32) -> Option<usize> {
    if index < VCPUS { Some(index as usize * VCPU_INFO_SIZE) } else { None }
}

/// Offsets inside a vCPU's info structure.
pub mod vcpu {
    use super::Width;

    /// The word whose lowest byte is the pending flag and whose second byte is the mask. The mask is ignored for guests
    /// with nested paging.
    #[doc(alias = "evtchn_upcall_pending")]
    #[doc(alias = "evtchn_upcall_mask")]
    pub const UPCALL: usize = 0;
    /// The pending flag in the word at [`UPCALL`]: some event waits.
    pub const UPCALL_PENDING: u32 = 1;
    /// All bits of the pending byte in the word at [`UPCALL`].
    pub const UPCALL_PENDING_BYTE: u32 = 0xff;
    /// Offset of the time structure ([`TimeInfo`](super::TimeInfo)), in both widths.
    pub const TIME: usize = 32;

    /// Offset of the selector: one bit for each word of the pending bitmap.
    #[doc(alias = "evtchn_pending_sel")]
    pub const fn pending_sel(width: Width) -> usize {
        width.pick(8, 4)
    }

    /// Offset of the page-fault address (guests without nested paging).
    pub const fn cr2(width: Width) -> usize {
        width.pick(16, 8)
    }
}

/// Offset of the pending bitmap.
#[doc(alias = "evtchn_pending")]
pub const PENDING: usize = 2048;

/// Bytes of each of the two bitmaps.
pub const fn bitmap_size(width: Width) -> usize {
    width.pick(512, 128)
}

/// Offset of the mask bitmap.
#[doc(alias = "evtchn_mask")]
pub const fn mask(width: Width) -> usize {
    PENDING + bitmap_size(width)
}

/// Offset of the wall clock's version word; seconds and nanoseconds follow, four bytes each. They are the Unix time at
/// system time 0.
#[doc(alias = "wc_version")]
pub const fn wall_clock(width: Width) -> usize {
    PENDING + 2 * bitmap_size(width)
}

/// Offset of the high half of the wall clock's seconds.
#[doc(alias = "wc_sec_hi")]
pub const fn wall_clock_high(width: Width) -> usize {
    width.pick(3084, 2340)
}

/// Offset of the architecture's part, which guests with nested paging do not use.
#[doc(alias = "arch_shared_info")]
pub const fn arch(width: Width) -> usize {
    width.pick(3088, 2316)
}

crate::layout! {
    /// The clock of a vCPU. The writer makes `version` odd, writes, and makes it even; a reader takes all fields between
    /// two equal, even versions.
    #[doc(alias = "vcpu_time_info")]
    #[doc(alias = "pvclock_vcpu_time_info")]
    pub struct TimeInfo: 32, 32 {
        /// Odd while it is being written.
        pub version: u32 = 0, 0;
        /// The guest's time-stamp counter at `system_time`.
        pub tsc_timestamp: u64 = 8, 8;
        /// Nanoseconds since the host's start: the clock of all deadlines.
        pub system_time: u64 = 16, 16;
        /// Nanoseconds for a tick, as a fraction of 2^32, after the shift. Never 0: guests divide by it.
        pub tsc_to_system_mul: u32 = 24, 24;
        /// Left shift of the ticks; negative is a right shift.
        pub tsc_shift: i8 = 28, 28;
        /// [`TIME_STABLE`] and [`TIME_STOPPED`].
        pub flags: u8 = 29, 29;
    }

    /// What a vCPU did with its time.
    #[doc(alias = "vcpu_runstate_info")]
    pub struct Runstate: 48, 44 {
        /// A [`RunState`].
        pub state: u32 = 0, 0;
        /// System time at which it entered the state, with [`RUNSTATE_UPDATE_FLAG`] while the area is written.
        pub state_entry_time: u64 = 8, 4;
        /// Nanoseconds in each state so far.
        pub time: [u64; 4] = 16, 12;
    }
}

/// [`TimeInfo::flags`]: the counters of all CPUs agree and are never adjusted, so reads need no further care.
#[doc(alias = "PVCLOCK_TSC_STABLE_BIT")]
pub const TIME_STABLE: u8 = 1;
/// [`TimeInfo::flags`]: the guest was stopped from outside.
#[doc(alias = "PVCLOCK_GUEST_STOPPED")]
pub const TIME_STOPPED: u8 = 2;
/// Bit 63 of [`Runstate::state_entry_time`], for domains that asked for it.
#[doc(alias = "XEN_RUNSTATE_UPDATE")]
pub const RUNSTATE_UPDATE_FLAG: u64 = 1 << 63;

closed! {
    /// What a vCPU does.
    pub enum RunState: u32 {
        /// It runs.
        #[doc(alias = "RUNSTATE_running")]
        Running = 0,
        /// It would run, but waits for a CPU.
        #[doc(alias = "RUNSTATE_runnable")]
        Runnable = 1,
        /// It waits for an event.
        #[doc(alias = "RUNSTATE_blocked")]
        Blocked = 2,
        /// It is stopped.
        #[doc(alias = "RUNSTATE_offline")]
        Offline = 3,
    }
}

impl TimeInfo {
    /// System time in nanoseconds at a value of the guest's time-stamp counter.
    pub const fn at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_timestamp);
        let shift = self.tsc_shift as i32;
        let ticks = if shift >= 0 {
            // A shift of 64 or more leaves nothing; such a structure is a broken hypervisor's.
            match ticks.checked_shl(shift as u32) {
                Some(ticks) => ticks,
                None => 0,
            }
        } else {
            match ticks.checked_shr(shift.unsigned_abs()) {
                Some(ticks) => ticks,
                None => 0,
            }
        };
        let nanoseconds = (ticks as u128 * self.tsc_to_system_mul as u128) >> 32;
        self.system_time.wrapping_add(nanoseconds as u64)
    }

    /// Multiplier and shift for a counter of `hertz`: the multiplier uses as many bits as fit. `None` for 0.
    pub const fn scale(hertz: u64) -> Option<(u32, i8)> {
        if hertz == 0 {
            return None;
        }
        // multiplier = (10^9 << 32) / hertz, brought into [2^31, 2^32) by a shift of the ticks.
        let mut shift = 0i8;
        let mut multiplier = (1_000_000_000u128 << 32) / hertz as u128;
        if multiplier == 0 {
            return None;
        }
        while multiplier >= 1 << 32 {
            multiplier >>= 1;
            shift += 1;
        }
        let mut bits = 0u32;
        while multiplier < 1 << 31 {
            bits += 1;
            shift -= 1;
            multiplier = ((1_000_000_000u128 << 32) << bits) / hertz as u128;
        }
        Some((multiplier as u32, shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets() {
        assert_eq!((PENDING, mask(Width::W64), wall_clock(Width::W64)), (2048, 2560, 3072));
        assert_eq!((mask(Width::W32), wall_clock(Width::W32)), (2176, 2304));
        assert_eq!((vcpu_info(31), vcpu_info(32)), (Some(1984), None));
    }

    #[test]
    fn one_second_of_ticks_is_one_second() {
        for hertz in [1u64, 32_768, 1_000_000, 999_999_999, 1_000_000_000, 2_400_000_123, 5_000_000_000] {
            let (tsc_to_system_mul, tsc_shift) = TimeInfo::scale(hertz).unwrap();
            let time = TimeInfo {
                tsc_to_system_mul,
                tsc_shift,
                tsc_timestamp: 100,
                system_time: 7,
                ..TimeInfo::default()
            };
            let second = time.at(100 + hertz) - 7;
            assert!(second.abs_diff(1_000_000_000) <= 2, "{hertz} Hz: {second} ns");
        }
        assert_eq!(TimeInfo::scale(0), None);
    }
}
