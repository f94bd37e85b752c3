//! The two families of error numbers of the ABI.
//!
//! [`Errno`] comes back from a hypercall as a negative register, and from xenstore as a name. [`GrantStatus`] comes back
//! inside each grant operation, so that one bad element does not spoil a batch.

use core::fmt;

macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident: $int:ty; $($variant:ident = $number:literal, $c:literal, $text:literal;)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $(#[doc = concat!($text, " (`", $c, "`, ", $number, ").")] #[doc(alias = $c)] $variant,)*
        }

        impl $name {
            /// Every value, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number in the ABI.
            pub const fn number(self) -> $int {
                match self { $(Self::$variant => $number,)* }
            }

            /// The value of a number; `None` when the ABI does not have it.
            pub const fn from_number(number: $int) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The C name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $c,)* }
            }

            /// The value with this C name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($c => Some(Self::$variant),)* _ => None }
            }

            const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} ({})", self.text(), self.name())
            }
        }

        impl core::error::Error for $name {}
    };
}

numbers! {
    /// Why a hypercall failed (`errno.h`).
    Errno: u16;
    Perm = 1, "EPERM", "operation not permitted";
    NoEnt = 2, "ENOENT", "no such entry";
    Srch = 3, "ESRCH", "no such domain";
    Intr = 4, "EINTR", "interrupted";
    Io = 5, "EIO", "input or output error";
    Nxio = 6, "ENXIO", "no such device or address";
    TooBig = 7, "E2BIG", "too long";
    BadF = 9, "EBADF", "bad descriptor";
    Again = 11, "EAGAIN", "try again";
    NoMem = 12, "ENOMEM", "out of memory";
    Acces = 13, "EACCES", "permission denied";
    Fault = 14, "EFAULT", "bad address";
    Busy = 16, "EBUSY", "busy";
    Exist = 17, "EEXIST", "exists already";
    Xdev = 18, "EXDEV", "cross-device link";
    NoDev = 19, "ENODEV", "no such device";
    IsDir = 21, "EISDIR", "is a directory";
    Inval = 22, "EINVAL", "invalid argument";
    NoSpc = 28, "ENOSPC", "no space left";
    RoFs = 30, "EROFS", "read-only";
    Range = 34, "ERANGE", "out of range";
    NoSys = 38, "ENOSYS", "not implemented";
    NotEmpty = 39, "ENOTEMPTY", "not empty";
    NoData = 61, "ENODATA", "no data";
    Time = 62, "ETIME", "timer expired";
    Overflow = 75, "EOVERFLOW", "value too large";
    IlSeq = 84, "EILSEQ", "illegal sequence";
    Restart = 85, "ERESTART", "to be restarted";
    OpNotSupp = 95, "EOPNOTSUPP", "operation not supported";
    NoBufs = 105, "ENOBUFS", "no buffer space";
    IsConn = 106, "EISCONN", "connected already";
    NotConn = 107, "ENOTCONN", "not connected";
    TimedOut = 110, "ETIMEDOUT", "timed out";
}

impl Errno {
    /// Reads a hypercall's result register: the value, or the error that a small negative number stands for. A negative
    /// number outside the list reads as [`Errno::Io`].
    pub const fn from_return(register: i64) -> Result<u64, Self> {
        if register < -4095 || register >= 0 {
            return Ok(register as u64);
        }
        match Self::from_number(register.wrapping_neg() as u16) {
            Some(errno) => Err(errno),
            None => Err(Self::Io),
        }
    }
}

impl From<Errno> for i64 {
    /// The negated number, as a hypercall returns it.
    fn from(errno: Errno) -> Self {
        -Self::from(errno.number())
    }
}

numbers! {
    /// What became of one grant operation (`grant_table.h`).
    GrantStatus: i16;
    Okay = 0, "GNTST_okay", "done";
    GeneralError = -1, "GNTST_general_error", "general error";
    BadDomain = -2, "GNTST_bad_domain", "no such domain";
    BadGntref = -3, "GNTST_bad_gntref", "no such grant, or not granted";
    BadHandle = -4, "GNTST_bad_handle", "no such mapping";
    BadVirtAddr = -5, "GNTST_bad_virt_addr", "bad address for the mapping";
    BadDevAddr = -6, "GNTST_bad_dev_addr", "bad device address";
    NoDeviceSpace = -7, "GNTST_no_device_space", "out of device space";
    PermissionDenied = -8, "GNTST_permission_denied", "permission denied";
    BadPage = -9, "GNTST_bad_page", "the page cannot be shared";
    BadCopyArg = -10, "GNTST_bad_copy_arg", "copy crosses a page";
    AddressTooBig = -11, "GNTST_address_too_big", "address too big";
    Eagain = -12, "GNTST_eagain", "try again";
    NoSpace = -13, "GNTST_no_space", "out of mapping records";
}

impl GrantStatus {
    /// `Ok` for [`GrantStatus::Okay`], otherwise the status as the error.
    pub const fn result(self) -> Result<(), Self> {
        match self {
            Self::Okay => Ok(()),
            bad => Err(bad),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_go_both_ways() {
        for &errno in Errno::ALL {
            assert_eq!(Errno::from_number(errno.number()), Some(errno));
            assert_eq!(Errno::from_name(errno.name()), Some(errno));
            assert_eq!(Errno::from_return(errno.into()), Err(errno));
        }
        for &status in GrantStatus::ALL {
            assert_eq!(GrantStatus::from_number(status.number()), Some(status));
        }
    }

    #[test]
    fn returns() {
        assert_eq!(Errno::from_return(0), Ok(0));
        assert_eq!(Errno::from_return(-38), Err(Errno::NoSys));
        assert_eq!(Errno::from_return(-4000), Err(Errno::Io));
        assert_eq!(Errno::from_return(i64::MIN), Ok(1 << 63));
    }
}
