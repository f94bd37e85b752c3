//! Messages of the protocol as bytes (RFC 6143 sections 7.1 to 7.7). All numbers are big-endian.

use std::io::{Error, ErrorKind, Read, Write};

use super::Picture;
use super::pixels::Format;

/// Bytes of a viewer's clipboard that are read, to be dropped; more ends its connection.
const CLIPBOARD: u32 = 1 << 20;

/// The encoding of pixels as they are.
pub(super) const RAW: i32 = 0;
/// Tells the viewer a new size of the screen.
pub(super) const DESKTOP_SIZE: i32 = -223;

/// What a viewer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Pixels are wanted so from now on.
    Format(Format),
    /// Encodings that it understands.
    Encodings(Vec<i32>),
    /// It wants to see the screen; all of it, or what changed.
    Update { incremental: bool },
    /// A key went down or up.
    Key { down: bool, symbol: u32 },
    /// Where the pointer is, and its buttons: bit 0 left, 1 middle, 2 right.
    Pointer { buttons: u8, x: u16, y: u16 },
    /// Its clipboard changed, which a PC has no place for.
    Clipboard,
}

pub(super) fn bytes<const N: usize>(from: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn short(from: &mut impl Read) -> std::io::Result<u16> {
    bytes(from).map(u16::from_be_bytes)
}

fn long(from: &mut impl Read) -> std::io::Result<u32> {
    bytes(from).map(u32::from_be_bytes)
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

impl Message {
    /// The next one. An unknown message has no known end, so the connection cannot go on after it.
    pub(super) fn read(from: &mut impl Read) -> std::io::Result<Self> {
        let [kind] = bytes(from)?;
        match kind {
            0 => {
                bytes::<3>(from)?;
                Format::read(&bytes(from)?)
                    .map(Self::Format)
                    .ok_or_else(|| wrong("a format of pixels without true colour"))
            }
            2 => {
                bytes::<1>(from)?;
                let count = short(from)?;
                (0..count)
                    .map(|_| bytes(from).map(i32::from_be_bytes))
                    .collect::<Result<_, _>>()
                    .map(Self::Encodings)
            }
            3 => {
                let [incremental] = bytes(from)?;
                // The part that is wanted; more may be sent.
                bytes::<8>(from)?;
                Ok(Self::Update { incremental: incremental != 0 })
            }
            4 => {
                let [down, _, _] = bytes(from)?;
                Ok(Self::Key { down: down != 0, symbol: long(from)? })
            }
            5 => {
                let [buttons] = bytes(from)?;
                Ok(Self::Pointer { buttons, x: short(from)?, y: short(from)? })
            }
            6 => {
                bytes::<3>(from)?;
                let length = long(from)?;
                if length > CLIPBOARD {
                    return Err(wrong("a clipboard that is too long"));
                }
                std::io::copy(&mut from.take(length.into()), &mut std::io::sink())?;
                Ok(Self::Clipboard)
            }
            _ => Err(wrong("an unknown message")),
        }
    }
}

/// Agrees on a version and on no security.
pub(super) fn shake_hands(stream: &mut (impl Read + Write)) -> std::io::Result<()> {
    stream.write_all(b"RFB 003.008\n")?;
    let version: [u8; 12] = bytes(stream)?;
    match &version {
        b"RFB 003.008\n" | b"RFB 003.007\n" => {
            // One type: None.
            stream.write_all(&[1, 1])?;
            if bytes(stream)? != [1] {
                return Err(wrong("a security type that was not offered"));
            }
            if version[10] == b'8' {
                stream.write_all(&0_u32.to_be_bytes())?;
            }
        }
        // Other versions are to be taken as 3.3, in which the server decides (section 7.1.1).
        version if version.starts_with(b"RFB 003.") => stream.write_all(&1_u32.to_be_bytes())?,
        _ => return Err(wrong("no version of the protocol")),
    }
    // Whether others may stay: they always may.
    bytes::<1>(stream).map(drop)
}

/// Tells the first size, the format and the name of the screen.
pub(super) fn begin(to: &mut impl Write, picture: &Picture, name: &str) -> std::io::Result<()> {
    let mut message = Vec::new();
    message.extend(picture.width.to_be_bytes());
    message.extend(picture.height.to_be_bytes());
    message.extend(Format::default().bytes());
    message.extend((name.len() as u32).to_be_bytes());
    message.extend(name.as_bytes());
    to.write_all(&message)
}

/// The head of an update of so many rectangles.
pub(super) fn update(count: u16) -> Vec<u8> {
    let mut message = vec![0, 0];
    message.extend(count.to_be_bytes());
    message
}

/// The head of a rectangle as wide as the screen.
pub(super) fn rectangle(message: &mut Vec<u8>, top: u16, width: u16, height: u16, encoding: i32) {
    for number in [0, top, width, height] {
        message.extend(number.to_be_bytes());
    }
    message.extend(encoding.to_be_bytes());
}
