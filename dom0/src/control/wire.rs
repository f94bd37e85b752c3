//! Messages and their bytes.

use super::frame::{self, TooLong};
use super::{Channel, Event, Failure, Reply, Request};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A tool's message to dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down {
    /// A request.
    Request {
        /// Chosen by the tool; not in use by an unanswered request.
        id: u32,
        /// What is asked.
        request: Request,
    },
    /// A request that this version does not know, or bytes that are none; to be answered with [`super::Code::UnknownRequest`].
    Unknown {
        /// Its number.
        id: u32,
    },
    /// Bytes typed on a console. No answer.
    Console {
        /// An open channel.
        channel: Channel,
        /// At most [`super::CONSOLE_CHUNK`].
        data: Vec<u8>,
    },
    /// Allows dom0 that many more bytes on a channel. No answer.
    Credit {
        /// An open channel.
        channel: Channel,
        /// Bytes.
        bytes: u32,
    },
    /// A part of the piece that [`super::Event::Want`] asked for. No answer.
    Data {
        /// The wish's number.
        ticket: u32,
        /// How much of the piece came before.
        offset: u32,
        /// At most [`super::DATA_CHUNK`] bytes; none when the tool does not have them.
        data: Vec<u8>,
    },
}

/// dom0's message to a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Up {
    /// The answer to a request.
    Reply {
        /// The request's number.
        id: u32,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// Something happened.
    Event(Event),
    /// An event that this version does not know.
    Unknown,
    /// Bytes of a console.
    Console {
        /// An open channel.
        channel: Channel,
        /// At most [`super::CONSOLE_CHUNK`].
        data: Vec<u8>,
    },
}

/// Kinds of messages; the body follows.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Head {
    Request(u32),
    Console(Channel),
    Credit(Channel),
    Reply(u32),
    Event,
    Data { ticket: u32, offset: u32 },
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the payload of a frame is no message")
    }
}

/// Bytes of a file go as they are: an encoding that looks at each would be most of the work of sending them.
fn raw(head: Head, body: &[u8]) -> Result<Vec<u8>, TooLong> {
    let mut payload = postcard::to_allocvec(&head).map_err(|_| TooLong { bytes: 0 })?;
    payload.extend_from_slice(body);
    frame::encode(&payload)
}

fn framed<T: Serialize>(head: Head, body: &T) -> Result<Vec<u8>, TooLong> {
    // Writing into a vector cannot fail, and no type of this module lacks a length or is otherwise unknown to postcard.
    let payload = postcard::to_allocvec(&(head, body)).map_err(|_| TooLong { bytes: 0 })?;
    frame::encode(&payload)
}

impl Down {
    /// The frame of this message. [`Self::Unknown`] is never sent.
    pub fn to_frame(&self) -> Result<Vec<u8>, TooLong> {
        match self {
            Self::Request { id, request } => framed(Head::Request(*id), request),
            Self::Unknown { id } => framed(Head::Request(*id), &u32::MAX),
            Self::Console { channel, data } => framed(Head::Console(*channel), data),
            Self::Credit { channel, bytes } => framed(Head::Credit(*channel), bytes),
            Self::Data { ticket, offset, data } => raw(Head::Data { ticket: *ticket, offset: *offset }, data),
        }
    }

    /// The message in a frame's payload.
    pub fn from_payload(payload: &[u8]) -> Result<Self, Malformed> {
        let (head, rest) = postcard::take_from_bytes(payload).map_err(|_| Malformed)?;
        match head {
            Head::Request(id) => {
                Ok(whole(rest).map_or(Self::Unknown { id }, |request| Self::Request { id, request }))
            }
            Head::Console(channel) => Ok(Self::Console { channel, data: whole(rest)? }),
            Head::Credit(channel) => Ok(Self::Credit { channel, bytes: whole(rest)? }),
            Head::Data { ticket, offset } => Ok(Self::Data { ticket, offset, data: rest.to_vec() }),
            Head::Reply(_) | Head::Event => Err(Malformed),
        }
    }
}

impl Up {
    /// The frame of this message. [`Self::Unknown`] is never sent.
    pub fn to_frame(&self) -> Result<Vec<u8>, TooLong> {
        match self {
            Self::Reply { id, result } => framed(Head::Reply(*id), result),
            Self::Event(event) => framed(Head::Event, event),
            Self::Unknown => framed(Head::Event, &u32::MAX),
            Self::Console { channel, data } => framed(Head::Console(*channel), data),
        }
    }

    /// The message in a frame's payload. A reply whose body this version does not know comes out as a failure, so that nobody waits for it.
    pub fn from_payload(payload: &[u8]) -> Result<Self, Malformed> {
        let (head, rest) = postcard::take_from_bytes(payload).map_err(|_| Malformed)?;
        match head {
            Head::Reply(id) => Ok(Self::Reply {
                id,
                result: whole(rest).unwrap_or_else(|_| {
                    Err(Failure::new(
                        super::Code::Malformed,
                        "dom0's reply is of a kind that this tool does not know",
                    ))
                }),
            }),
            Head::Event => Ok(whole(rest).map_or(Self::Unknown, Self::Event)),
            Head::Console(channel) => Ok(Self::Console { channel, data: whole(rest)? }),
            Head::Request(_) | Head::Credit(_) | Head::Data { .. } => Err(Malformed),
        }
    }
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Decoder;
    use super::super::request::DomainName;
    use super::super::{Code, Summary};
    use super::*;
    use alloc::vec;

    fn payload(frame: impl AsRef<[u8]>) -> Vec<u8> {
        let mut decoder = Decoder::new();
        decoder.push(frame.as_ref());
        decoder.next_frame().unwrap()
    }

    #[test]
    fn messages_go_both_ways() {
        for down in [
            Down::Request { id: 7, request: Request::Destroy(DomainName::parse("linux")) },
            Down::Request { id: 8, request: Request::Pause(DomainName::parse("3")) },
            Down::Console { channel: 2, data: b"ls\n".to_vec() },
            Down::Credit { channel: 2, bytes: 65536 },
            Down::Data { ticket: 3, offset: 32768, data: vec![7; super::super::DATA_CHUNK] },
            Down::Data { ticket: 4, offset: 0, data: vec![] },
        ] {
            assert_eq!(Down::from_payload(&payload(down.to_frame().unwrap())), Ok(down));
        }
        for up in [
            Up::Reply { id: 7, result: Ok(Reply::Summary(Summary::default())) },
            Up::Reply { id: 7, result: Err(Failure::new(Code::NoSuchDomain, "there is no domain 9")) },
            Up::Event(Event::AllEnded),
            Up::Console { channel: 1, data: vec![0; 1024] },
        ] {
            assert_eq!(Up::from_payload(&payload(up.to_frame().unwrap())), Ok(up));
        }
    }

    #[test]
    fn the_unknown_is_answered_and_not_fatal() {
        let frame = Down::Unknown { id: 9 }.to_frame().unwrap();
        assert_eq!(Down::from_payload(&payload(frame)), Ok(Down::Unknown { id: 9 }));
        assert_eq!(Up::from_payload(&payload(Up::Unknown.to_frame().unwrap())), Ok(Up::Unknown));
        assert_eq!(Down::from_payload(b"\xff\xff"), Err(Malformed));
        assert_eq!(
            Down::from_payload(&payload(Up::Event(Event::AllEnded).to_frame().unwrap())),
            Err(Malformed)
        );
    }
}
