//! `sched_op` (29): argument 1 is the [`Op`], argument 2 a pointer or null.

use crate::address::Gva;
use crate::id::DomainId;

closed! {
    /// What to do (`sched.h`).
    pub enum Op: u32 {
        /// Lets others run.
        #[doc(alias = "SCHEDOP_yield")]
        Yield = 0,
        /// Enables events and sleeps until one comes.
        #[doc(alias = "SCHEDOP_block")]
        Block = 1,
        /// Ends the domain: [`Shutdown`].
        #[doc(alias = "SCHEDOP_shutdown")]
        Shutdown = 2,
        /// Sleeps until one of some ports is pending, masked or not, or a time comes: [`Poll`].
        #[doc(alias = "SCHEDOP_poll")]
        Poll = 3,
        /// Ends another domain: [`RemoteShutdown`].
        #[doc(alias = "SCHEDOP_remote_shutdown")]
        RemoteShutdown = 4,
        /// Notes a reason for a shutdown that comes later: [`Shutdown`].
        #[doc(alias = "SCHEDOP_shutdown_code")]
        ShutdownCode = 5,
        /// A time by which the guest must report again: [`Watchdog`].
        #[doc(alias = "SCHEDOP_watchdog")]
        Watchdog = 6,
        /// Pins a vCPU for a while.
        #[doc(alias = "SCHEDOP_pin_override")]
        PinOverride = 7,
    }
}

closed! {
    /// Why a domain ends.
    pub enum ShutdownReason: u32 {
        /// It is done.
        #[doc(alias = "SHUTDOWN_poweroff")]
        PowerOff = 0,
        /// It wants to start again.
        #[doc(alias = "SHUTDOWN_reboot")]
        Reboot = 1,
        /// It is ready to be saved.
        #[doc(alias = "SHUTDOWN_suspend")]
        Suspend = 2,
        /// It failed.
        #[doc(alias = "SHUTDOWN_crash")]
        Crash = 3,
        /// Its watchdog expired.
        #[doc(alias = "SHUTDOWN_watchdog")]
        Watchdog = 4,
        /// It wants its memory kept while everything else starts again.
        #[doc(alias = "SHUTDOWN_soft_reset")]
        SoftReset = 5,
    }
}

/// Ports in one [`Poll`] at most.
pub const POLL_LIMIT: u32 = 128;

crate::layout! {
    /// A reason to end.
    #[doc(alias = "sched_shutdown")]
    pub struct Shutdown: 4, 4 {
        /// A [`ShutdownReason`].
        pub reason: u32 = 0, 0;
    }

    /// Ports to wait for.
    #[doc(alias = "sched_poll")]
    pub struct Poll: 24, 16 {
        /// Array of ports (`u32`).
        pub ports: Gva = 0, 0;
        /// How many; more than [`POLL_LIMIT`] is invalid.
        #[doc(alias = "nr_ports")]
        pub count: u32 = 8, 4;
        /// System time in nanoseconds at which to give up; 0 is never.
        #[doc(alias = "timeout")]
        pub deadline_ns: u64 = 16, 8;
    }

    /// A domain to end.
    #[doc(alias = "sched_remote_shutdown")]
    pub struct RemoteShutdown: 8, 8 {
        /// Which.
        #[doc(alias = "domain_id")]
        pub domain: DomainId = 0, 0;
        /// A [`ShutdownReason`].
        pub reason: u32 = 4, 4;
    }

    /// A watchdog. Identity 0 asks for a new one, which is the result; the two there are have identities 1 and 2.
    #[doc(alias = "sched_watchdog")]
    pub struct Watchdog: 8, 8 {
        /// Which one.
        pub id: u32 = 0, 0;
        /// Seconds; 0 stops it.
        #[doc(alias = "timeout")]
        pub seconds: u32 = 4, 4;
    }
}
