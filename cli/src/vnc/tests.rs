//! A viewer made by hand against the server, on a loopback address.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::message::bytes;
use super::{Pc, Picture, serve};
use crate::failure::Result;

/// What the PC shows, and what was done to it.
#[derive(Default)]
struct State {
    picture: Picture,
    keys: Vec<Vec<u8>>,
    moves: Vec<(i16, i16, u8)>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Pc for Fake {
    fn screen(&mut self) -> Result<Picture> {
        Ok(self.0.lock().unwrap().picture.clone())
    }

    fn key(&mut self, codes: Vec<u8>) -> Result<()> {
        self.0.lock().unwrap().keys.push(codes);
        Ok(())
    }

    fn mouse(&mut self, x: i16, y: i16, buttons: u8) -> Result<()> {
        self.0.lock().unwrap().moves.push((x, y, buttons));
        Ok(())
    }
}

/// A PC with a screen of one colour, and a connection to its server.
fn start(width: u16, height: u16) -> (Fake, TcpStream) {
    let pc = Fake::default();
    pc.0.lock().unwrap().picture = plain(width, height, 7);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = pc.clone();
    std::thread::spawn(move || serve(&listener, "a pc", || Ok(served.clone())));
    (pc, TcpStream::connect(address).unwrap())
}

fn plain(width: u16, height: u16, color: u8) -> Picture {
    Picture { width, height, pixels: vec![color; usize::from(width) * usize::from(height) * 3] }
}

/// Introduces a viewer of version 3.8, and checks what the server says of its screen.
fn greet(stream: &mut TcpStream, width: u16, height: u16) {
    assert_eq!(&bytes::<12>(stream).unwrap(), b"RFB 003.008\n");
    stream.write_all(b"RFB 003.008\n").unwrap();
    assert_eq!(bytes(stream).unwrap(), [1, 1]);
    stream.write_all(&[1]).unwrap();
    assert_eq!(bytes(stream).unwrap(), [0; 4]);
    stream.write_all(&[1]).unwrap();
    first(stream, width, height);
}

fn first(stream: &mut TcpStream, width: u16, height: u16) {
    assert_eq!(short(stream), width);
    assert_eq!(short(stream), height);
    assert_eq!(bytes::<16>(stream).unwrap(), [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    assert_eq!(bytes(stream).unwrap(), [0, 0, 0, 4]);
    assert_eq!(&bytes::<4>(stream).unwrap(), b"a pc");
}

fn short(stream: &mut TcpStream) -> u16 {
    u16::from_be_bytes(bytes(stream).unwrap())
}

fn ask(stream: &mut TcpStream, incremental: u8) {
    stream.write_all(&[3, incremental, 0, 0, 0, 0, 255, 255, 255, 255]).unwrap();
}

/// The one rectangle of an update: where it begins, its size, its encoding.
fn rectangle(stream: &mut TcpStream) -> ([u16; 4], i32) {
    assert_eq!(bytes(stream).unwrap(), [0, 0, 0, 1]);
    let place = [0; 4].map(|_: u16| short(stream));
    (place, i32::from_be_bytes(bytes(stream).unwrap()))
}

fn pixels(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut pixels = vec![0; count * 4];
    stream.read_exact(&mut pixels).unwrap();
    pixels
}

#[test]
fn a_viewer_sees_the_screen_and_then_what_changes() {
    let (pc, mut viewer) = start(8, 4);
    greet(&mut viewer, 8, 4);
    ask(&mut viewer, 0);
    assert_eq!(rectangle(&mut viewer), ([0, 0, 8, 4], 0));
    assert_eq!(pixels(&mut viewer, 32), [7, 7, 7, 0].repeat(32));
    ask(&mut viewer, 1);
    pc.0.lock().unwrap().picture.pixels[8 * 3 * 2 + 1] = 200;
    // Only the third line differs.
    assert_eq!(rectangle(&mut viewer), ([0, 2, 8, 1], 0));
    let line = pixels(&mut viewer, 8);
    assert_eq!(line[..4], [7, 200, 7, 0]);
    assert_eq!(line[4..], [7, 7, 7, 0].repeat(7));
}

#[test]
fn a_viewer_is_told_a_new_size_or_sees_what_fits() {
    for understands in [true, false] {
        let (pc, mut viewer) = start(8, 4);
        greet(&mut viewer, 8, 4);
        if understands {
            viewer.write_all(&[2, 0, 0, 2, 0, 0, 0, 0]).unwrap();
            viewer.write_all(&(-223_i32).to_be_bytes()).unwrap();
        }
        pc.0.lock().unwrap().picture = plain(4, 6, 9);
        ask(&mut viewer, 1);
        if understands {
            assert_eq!(rectangle(&mut viewer), ([0, 0, 4, 6], -223));
            ask(&mut viewer, 1);
            assert_eq!(rectangle(&mut viewer), ([0, 0, 4, 6], 0));
            assert_eq!(pixels(&mut viewer, 24), [9, 9, 9, 0].repeat(24));
        } else {
            assert_eq!(rectangle(&mut viewer), ([0, 0, 8, 4], 0));
            let line = [[9, 9, 9, 0].repeat(4), vec![0; 16]].concat();
            assert_eq!(pixels(&mut viewer, 32), line.repeat(4));
        }
    }
}

#[test]
fn keys_and_the_pointer_reach_the_pc() {
    let (pc, mut viewer) = start(8, 4);
    greet(&mut viewer, 8, 4);
    viewer.write_all(&[4, 1, 0, 0, 0, 0, 0, b'a', 4, 0, 0, 0, 0, 0, 0, b'a']).unwrap();
    // A symbol without a key is passed over.
    viewer.write_all(&[4, 1, 0, 0, 0, 0, 0x20, 0xac]).unwrap();
    // The left button goes down at (3, 3); the middle and the right are down at (7, 1).
    viewer.write_all(&[5, 1, 0, 3, 0, 3, 5, 6, 0, 7, 0, 1]).unwrap();
    // A clipboard is read and dropped.
    viewer.write_all(&[6, 0, 0, 0, 0, 0, 0, 2, b'h', b'i']).unwrap();
    ask(&mut viewer, 0);
    rectangle(&mut viewer);
    let state = pc.0.lock().unwrap();
    assert_eq!(state.keys, [vec![0x1c], vec![0xf0, 0x1c]]);
    assert_eq!(state.moves, [(0, 0, 1), (4, 2, 6)]);
}

#[test]
fn an_older_viewer_is_served_too() {
    let (_pc, mut viewer) = start(8, 4);
    bytes::<12>(&mut viewer).unwrap();
    viewer.write_all(b"RFB 003.003\n").unwrap();
    assert_eq!(bytes(&mut viewer).unwrap(), [0, 0, 0, 1]);
    viewer.write_all(&[0]).unwrap();
    first(&mut viewer, 8, 4);
}

#[test]
fn a_viewer_that_speaks_wrongly_loses_its_connection_alone() {
    let wrong: [&[u8]; 4] = [&[99], &[6, 0, 0, 0, 255, 255, 255, 255], &[0; 20], &[4, 1]];
    let (_pc, mut good) = start(8, 4);
    greet(&mut good, 8, 4);
    let address = good.peer_addr().unwrap();
    for message in wrong {
        let mut viewer = TcpStream::connect(address).unwrap();
        greet(&mut viewer, 8, 4);
        viewer.write_all(message).unwrap();
        viewer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(viewer.read_to_end(&mut Vec::new()).unwrap(), 0, "{message:?}");
    }
    let mut stranger = TcpStream::connect(address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = stranger.read_to_end(&mut said);
    assert_eq!(said, b"RFB 003.008\n");
    ask(&mut good, 0);
    assert_eq!(rectangle(&mut good), ([0, 0, 8, 4], 0));
}
