//! The handshake of a split driver over xenstore (`io/xenbus.h`).
//!
//! Each half has a directory and writes only there; each watches the other's `state`. The usual way up:
//!
//! | step | back end | front end |
//! |---|---|---|
//! | 1 | writes what it offers, state [`InitWait`](State::InitWait) | |
//! | 2 | | reads it, makes rings, writes references and choices, state [`Initialised`](State::Initialised) |
//! | 3 | connects, writes the device's properties, state [`Connected`](State::Connected) | |
//! | 4 | | reads them, state [`Connected`](State::Connected) |
//!
//! Some front ends skip step 2's state and write [`Connected`](State::Connected) at once, so a back end connects on
//! either. Down: the front end writes [`Closing`](State::Closing) (or not), then [`Closed`](State::Closed), and the back
//! end follows. A front end that writes [`Initialising`](State::Initialising) after that gets
//! [`InitWait`](State::InitWait) again: this is how a second kernel takes a device over.

use core::fmt;

closed! {
    /// State of one half.
    #[doc(alias = "xenbus_state")]
    pub enum State: u32 {
        /// Not there.
        #[doc(alias = "XenbusStateUnknown")]
        Unknown = 0,
        /// Starting.
        #[doc(alias = "XenbusStateInitialising")]
        Initialising = 1,
        /// The back end waits for the front end.
        #[doc(alias = "XenbusStateInitWait")]
        InitWait = 2,
        /// The front end has written its part.
        #[doc(alias = "XenbusStateInitialised")]
        Initialised = 3,
        /// In use.
        #[doc(alias = "XenbusStateConnected")]
        Connected = 4,
        /// Finishing what is in flight.
        #[doc(alias = "XenbusStateClosing")]
        Closing = 5,
        /// Nothing is shared any more.
        #[doc(alias = "XenbusStateClosed")]
        Closed = 6,
        /// Changing its properties.
        #[doc(alias = "XenbusStateReconfiguring")]
        Reconfiguring = 7,
        /// Changed them.
        #[doc(alias = "XenbusStateReconfigured")]
        Reconfigured = 8,
    }
}

impl State {
    /// The digit that is written to the store.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }

    /// Reads a value from the store; one final zero is tolerated. A missing or foreign value is [`State::Unknown`].
    pub fn parse(value: &[u8]) -> Self {
        let digits = value.strip_suffix(&[0]).unwrap_or(value);
        match digits {
            [digit @ b'0'..=b'8'] => Self::from_number(u32::from(digit - b'0')).unwrap_or(Self::Unknown),
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self:?})", self.text())
    }
}

/// What a back end does when its front end's state changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackStep {
    /// Nothing to do.
    Stay,
    /// Write [`State::InitWait`]; whatever was connected is released before.
    Offer,
    /// Read the front end's keys, connect, write the properties, then [`State::Connected`].
    Connect,
    /// Stop taking requests and write [`State::Closing`].
    Close,
    /// Release rings and grants and write [`State::Closed`]; if the toolstack no longer wants the device, remove it.
    Release,
    /// Release rings and grants; the device is gone.
    Remove,
}

/// The rule of a block back end: its own state, and the state it sees.
pub const fn back_step(own: State, front: State) -> BackStep {
    match (front, own) {
        (State::Initialising, State::Closed | State::Closing) => BackStep::Offer,
        (State::Initialised | State::Connected, State::InitWait | State::Initialising) => BackStep::Connect,
        (State::Closing, State::InitWait | State::Initialised | State::Connected) => BackStep::Close,
        (State::Closed, State::InitWait | State::Initialised | State::Connected | State::Closing) => {
            BackStep::Release
        }
        (State::Unknown, _) => BackStep::Remove,
        _ => BackStep::Stay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_go_both_ways() {
        for &state in State::ALL {
            assert_eq!(State::parse(state.text().as_bytes()), state);
        }
        assert_eq!(State::parse(b"4\0"), State::Connected);
        assert_eq!(State::parse(b"44"), State::Unknown);
        assert_eq!(State::parse(b""), State::Unknown);
    }

    #[test]
    fn up_down_and_up_again() {
        assert_eq!(back_step(State::InitWait, State::Initialising), BackStep::Stay);
        assert_eq!(back_step(State::InitWait, State::Connected), BackStep::Connect);
        assert_eq!(back_step(State::InitWait, State::Initialised), BackStep::Connect);
        assert_eq!(back_step(State::Connected, State::Connected), BackStep::Stay);
        assert_eq!(back_step(State::Connected, State::Closing), BackStep::Close);
        assert_eq!(back_step(State::Closing, State::Closed), BackStep::Release);
        assert_eq!(back_step(State::Connected, State::Closed), BackStep::Release);
        assert_eq!(back_step(State::Closed, State::Initialising), BackStep::Offer);
        assert_eq!(back_step(State::Connected, State::Unknown), BackStep::Remove);
    }
}
