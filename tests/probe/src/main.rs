//! Measures networks and disks, and checks networks, from inside a Linux guest: one static program, so that any guest can run it.
//!
//! | command | does |
//! | --- | --- |
//! | `udp ADDRESS COUNT SIZE` | round trips to an echo service, windows of COUNT |
//! | `write ADDRESS KIB` | sends to a TCP sink, windows of so many KiB |
//! | `read ADDRESS KIB` | reads from a TCP source, windows of so many KiB |
//! | `disk read|write DEVICE SIZE random|sequential COUNT` | requests of SIZE bytes past the page cache, windows of COUNT |
//! | `drain PORT` | takes one TCP connection and throws away what comes |
//! | `give ADDRESS MIB SEED` | sends known bytes over TCP and waits until the other side has checked them |
//! | `take PORT MIB SEED` | takes them, and compares every byte |
//!
//! The first four print `PROBE NAME operations min median max dropped`: nanoseconds per round trip or KiB over [`WINDOWS`] windows,
//! after one that warms up. A window of more than twice the median is dropped: in it the machine had nothing to do, and its clock jumped. An ADDRESS is `10.0.2.1:7` or `[fe80::1%2]:7`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Windows of a measurement.
const WINDOWS: usize = 15;
/// Bytes handed to the kernel at a time.
const PIECE: usize = 64 << 10;
/// `O_DIRECT` on x86-64 (Linux, `asm-generic/fcntl.h`).
const DIRECT: i32 = 0o40000;
/// How a direct request's memory is aligned.
const ALIGNMENT: usize = 4096;
/// How long a peer may take to be there.
const PATIENCE: Duration = Duration::from_mins(2);
/// What the taker says when all bytes were right.
const GOOD: u8 = b'+';

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["udp", to, count, size] => udp(to, number(count), number(size) as usize),
        ["write", to, kib] => write(to, number(kib)),
        ["read", from, kib] => read(from, number(kib)),
        ["disk", way, device, size, order, count] => {
            disk(way == "write", device, number(size) as usize, order == "random", number(count))
        }
        ["drain", port] => drain(number(port) as u16),
        ["give", to, mib, seed] => give(to, number(mib), number(seed)),
        ["take", port, mib, seed] => take(number(port) as u16, number(mib), number(seed)),
        _ => Err(io::Error::other("unknown command; the head of its source lists them")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("PROBE failed: {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(|_| io::Error::other("not an address with a port"))
}

/// Prints the windows of a measurement, each of so many operations.
fn report(name: &str, operations: u64, mut windows: Vec<Duration>) {
    windows.sort_unstable();
    let all = windows.len();
    let median = windows.get(all / 2).copied().unwrap_or_default();
    windows.retain(|window| *window <= median * 2);
    let each = |window: Option<&Duration>| {
        window.map_or(0, |window| window.as_nanos() / u128::from(operations.max(1)))
    };
    println!(
        "PROBE {name} {operations} {} {} {} {}",
        each(windows.first()),
        each(Some(&median)),
        each(windows.last()),
        all - windows.len()
    );
}

fn udp(to: &str, count: u64, size: usize) -> io::Result<()> {
    let to = address(to)?;
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (sent, mut came) = (vec![0x5a; size], vec![0; size.max(1)]);
    let mut windows = Vec::new();
    let mut lost = 0;
    for window in 0..=WINDOWS {
        let begin = Instant::now();
        for _ in 0..count {
            socket.send(&sent)?;
            while socket.recv(&mut came).is_err() {
                lost += 1;
                if lost > 100 {
                    return Err(io::Error::other("nobody answers"));
                }
                socket.send(&sent)?;
            }
        }
        if window > 0 {
            windows.push(begin.elapsed());
        }
    }
    report("udp", count, windows);
    Ok(())
}

/// Requests to a disk past the page cache, one at a time.
fn disk(write: bool, device: &str, size: usize, random: bool, count: u64) -> io::Result<()> {
    let mut file = File::options().read(true).write(write).custom_flags(DIRECT).open(device)?;
    let pieces = (file.seek(SeekFrom::End(0))? / size.max(1) as u64).max(1);
    // The kernel wants whole sectors in memory, too.
    let mut memory = vec![0x5a; size + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + size];
    let mut windows = Vec::new();
    let (mut piece, mut seed) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    for window in 0..=WINDOWS {
        let begin = Instant::now();
        for _ in 0..count {
            let offset = piece % pieces * size as u64;
            if write {
                file.write_all_at(buffer, offset)?;
            } else {
                file.read_exact_at(buffer, offset)?;
            }
            piece = if random { next(&mut seed) } else { piece + 1 };
        }
        if window > 0 {
            windows.push(begin.elapsed());
        }
    }
    report("disk", count, windows);
    Ok(())
}

/// The next number of a sequence that looks random (xorshift).
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Connects, once somebody listens.
fn connect(to: &str) -> io::Result<TcpStream> {
    let to = address(to)?;
    let begin = Instant::now();
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn accept(port: u16) -> io::Result<TcpStream> {
    Ok(TcpListener::bind(("::", port))?.accept()?.0)
}

/// Measures windows of so many KiB, moved a piece at a time.
fn stream(name: &str, kib: u64, mut step: impl FnMut(usize) -> io::Result<usize>) -> io::Result<()> {
    let mut windows = Vec::new();
    for window in 0..=WINDOWS {
        let begin = Instant::now();
        let mut rest = kib as usize * 1024;
        while rest > 0 {
            match step(rest.min(PIECE))? {
                0 => return Err(io::Error::other("the other side ended")),
                count => rest -= count,
            }
        }
        if window > 0 {
            windows.push(begin.elapsed());
        }
    }
    report(name, kib, windows);
    Ok(())
}

fn write(to: &str, kib: u64) -> io::Result<()> {
    let mut socket = connect(to)?;
    let bytes = vec![0x5a; PIECE];
    stream("write", kib, |most| socket.write(bytes.get(..most).unwrap_or_default()))?;
    // Until the other side has it all: a machine that is switched off now would leave it waiting.
    socket.shutdown(std::net::Shutdown::Write)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).map(drop)
}

fn read(from: &str, kib: u64) -> io::Result<()> {
    let mut socket = connect(from)?;
    let mut bytes = vec![0; PIECE];
    stream("read", kib, |most| socket.read(bytes.get_mut(..most).unwrap_or_default()))
}

fn drain(port: u16) -> io::Result<()> {
    let mut socket = accept(port)?;
    let mut bytes = vec![0; PIECE];
    while socket.read(&mut bytes)? > 0 {}
    Ok(())
}

/// Known bytes: a counter, mixed (SplitMix64).
struct Known(u64);

impl Known {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            let length = word.len();
            word.copy_from_slice(&mixed.to_le_bytes()[..length]);
        }
    }
}

fn give(to: &str, mib: u64, seed: u64) -> io::Result<()> {
    let mut socket = connect(to)?;
    let (mut known, mut bytes) = (Known(seed), vec![0; PIECE]);
    for _ in 0..(mib << 20) / PIECE as u64 {
        known.fill(&mut bytes);
        socket.write_all(&bytes)?;
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    if answer != [GOOD] {
        return Err(io::Error::other("the other side did not get the same bytes"));
    }
    println!("PROBE gave {mib}");
    Ok(())
}

fn take(port: u16, mib: u64, seed: u64) -> io::Result<()> {
    let mut socket = accept(port)?;
    let (mut known, mut bytes, mut right) = (Known(seed), vec![0; PIECE], vec![0; PIECE]);
    for piece in 0..(mib << 20) / PIECE as u64 {
        socket.read_exact(&mut bytes)?;
        known.fill(&mut right);
        if bytes != right {
            return Err(io::Error::other(format!("other bytes in piece {piece} of {PIECE} bytes")));
        }
    }
    if socket.read(&mut bytes)? > 0 {
        return Err(io::Error::other("more bytes than were sent"));
    }
    socket.write_all(&[GOOD])?;
    println!("PROBE took {mib}");
    Ok(())
}
