//! The calls that need a line each: `console_io` (18), `vm_assist` (21), `multicall` (13).

use crate::layout::Shrinking;

closed! {
    /// Argument 1 of `console_io`; argument 2 is a count of bytes, argument 3 the buffer.
    pub enum ConsoleOp: u32 {
        /// Prints bytes.
        #[doc(alias = "CONSOLEIO_write")]
        Write = 0,
        /// Reads typed bytes; returns how many.
        #[doc(alias = "CONSOLEIO_read")]
        Read = 1,
    }
}

closed! {
    /// Argument 1 of `vm_assist`; argument 2 is an [`Assist`].
    pub enum AssistOp: u32 {
        /// On.
        #[doc(alias = "VMASST_CMD_enable")]
        Enable = 0,
        /// Off.
        #[doc(alias = "VMASST_CMD_disable")]
        Disable = 1,
    }
}

closed! {
    /// An optional behaviour of the domain.
    pub enum Assist: u32 {
        /// The runstate area says when it is being written:
        /// [`UPDATE_FLAG`](crate::shared_info::RUNSTATE_UPDATE_FLAG).
        #[doc(alias = "VMASST_TYPE_runstate_update_flag")]
        RunstateUpdateFlag = 5,
    }
}

crate::layout! {
    /// One call of several. `multicall` takes an array of these and their count.
    #[doc(alias = "multicall_entry")]
    pub struct MulticallEntry: 64, 32 {
        /// A [`Hypercall`](super::Hypercall) number.
        #[doc(alias = "op")]
        pub number: u64 as Shrinking = 0, 0;
        /// Out: its result register.
        pub result: u64 as Shrinking = 8, 4;
        /// Its arguments.
        #[doc(alias = "args")]
        pub arguments: [u64; 6] as [Shrinking; 6] = 16, 8;
    }
}
