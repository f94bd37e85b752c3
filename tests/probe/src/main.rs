//! Measures networks and disks, and checks networks, from inside a Linux guest: one static program, so that any guest can run it.
//!
//! | command | does |
//! | --- | --- |
//! | `udp ADDRESS COUNT SIZE` | round trips to an echo service, windows of COUNT |
//! | `write ADDRESS KIB` | sends to a TCP sink, windows of so many KiB |
//! | `read ADDRESS KIB` | reads from a TCP source, windows of so many KiB |
//! | `disk read|write DEVICE SIZE random|sequential COUNT [DEPTH]` | requests of SIZE bytes past the page cache, DEPTH at a time, windows of COUNT |
//! | `mixed DEVICE SIZE COUNT` | the same, random reads, and work on the bytes of each |
//! | `nothing` | prints a line as the others do: what that costs |
//! | `drain PORT` | takes one TCP connection and throws away what comes |
//! | `give ADDRESS MIB SEED` | sends known bytes over TCP and waits until the other side has checked them |
//! | `take PORT MIB SEED` | takes them, and compares every byte |
//!
//! The first five print `PROBE NAME operations min median max dropped`: nanoseconds per round trip or KiB over [`WINDOWS`] windows,
//! after one that warms up. A window of more than twice the shortest is dropped: in it the machine had nothing to do, and its clock jumped.
//! What has single operations has one more window, in which each is timed by itself, and the line goes on with the [`QUANTILES`] of these times. An
//! ADDRESS is `10.0.2.1:7` or `[fe80::1%2]:7`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Windows of a measurement.
const WINDOWS: usize = 15;
/// Which of the times of single operations are told, in percent of all from the shortest on.
const QUANTILES: [usize; 10] = [0, 5, 10, 25, 50, 75, 90, 95, 99, 100];
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
            disk(device, number(count), 1, &Load::new(way == "write", size, order == "random"))
        }
        ["disk", way, device, size, order, count, depth] => {
            let depth = number(depth).clamp(1, 64);
            disk(device, number(count), depth, &Load::new(way == "write", size, order == "random"))
        }
        ["mixed", device, size, count] => {
            let load = Load { work: true, ..Load::new(false, size, true) };
            disk(device, number(count), 1, &load)
        }
        ["nothing"] => {
            report("nothing", 1, vec![Duration::from_micros(30)], vec![Duration::from_micros(30)]);
            Ok(())
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

/// Prints the windows of a measurement, each of so many operations, and the times of single ones.
fn report(name: &str, operations: u64, mut windows: Vec<Duration>, mut single: Vec<Duration>) {
    windows.sort_unstable();
    let all = windows.len();
    let most = windows.first().copied().unwrap_or_default() * 2;
    windows.retain(|window| *window <= most);
    let each = |window: Option<&Duration>| {
        window.map_or(0, |window| window.as_nanos() / u128::from(operations.max(1)))
    };
    single.sort_unstable();
    let last = single.len().saturating_sub(1);
    let quantiles = QUANTILES.iter().filter_map(|percent| single.get(last * percent / 100));
    let quantiles: Vec<String> = quantiles.map(|time| time.as_nanos().to_string()).collect();
    println!(
        "PROBE {name} {operations} {} {} {} {} {}",
        each(windows.first()),
        each(windows.get(windows.len() / 2)),
        each(windows.last()),
        all - windows.len(),
        quantiles.join(" ")
    );
}

fn udp(to: &str, count: u64, size: usize) -> io::Result<()> {
    let to = address(to)?;
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (sent, mut came) = (vec![0x5a; size], vec![0; size.max(1)]);
    let (mut windows, mut single) = (Vec::new(), Vec::new());
    let mut lost = 0;
    let mut round = || {
        socket.send(&sent)?;
        while socket.recv(&mut came).is_err() {
            lost += 1;
            if lost > 10 {
                return Err(io::Error::other("nobody answers"));
            }
            socket.send(&sent)?;
        }
        Ok(())
    };
    for window in 0..=WINDOWS {
        let begin = Instant::now();
        for _ in 0..count {
            round()?;
        }
        if window > 0 {
            windows.push(begin.elapsed());
        }
    }
    for _ in 0..count {
        let begin = Instant::now();
        round()?;
        single.push(begin.elapsed());
    }
    report("udp", count, windows, single);
    Ok(())
}

/// What is asked of a disk.
struct Load {
    write: bool,
    size: usize,
    random: bool,
    /// The bytes of each request are worked on.
    work: bool,
}

impl Load {
    fn new(write: bool, size: &str, random: bool) -> Self {
        Self { write, size: number(size) as usize, random, work: false }
    }

    /// Makes a request.
    fn make(&self, file: &File, buffer: &mut [u8], place: &mut Place) -> io::Result<()> {
        let offset = place.piece % place.pieces * self.size as u64;
        if self.write {
            file.write_all_at(buffer, offset)?;
        } else {
            file.read_exact_at(buffer, offset)?;
        }
        if self.work {
            let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            std::hint::black_box(buffer.iter().fold(0xcbf2_9ce4_8422_2325, hash));
        }
        place.piece = if self.random { next(&mut place.seed) } else { place.piece + 1 };
        Ok(())
    }
}

/// Where a stream of requests is.
struct Place {
    piece: u64,
    pieces: u64,
    seed: u64,
}

/// Requests to a disk past the page cache, `depth` at a time: each from a thread of its own. A window is from the first request to the end of
/// the last.
fn disk(device: &str, count: u64, depth: u64, load: &Load) -> io::Result<()> {
    let each = (count / depth).max(1);
    let together = Barrier::new(depth as usize);
    let stream = |number: u64| {
        let opened = File::options().read(true).write(load.write).custom_flags(DIRECT).open(device);
        let mut opened = opened.and_then(|mut file| {
            let pieces = (file.seek(SeekFrom::End(0))? / load.size.max(1) as u64).max(1);
            Ok((file, Place { piece: 0, pieces, seed: 0x9e37_79b9_7f4a_7c15 + number }))
        });
        // The kernel wants whole sectors in memory, too.
        let mut memory = vec![0x5a; load.size + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let buffer = &mut memory[start..start + load.size];
        let mut request = || match &mut opened {
            Ok((file, place)) => load.make(file, buffer, place),
            // It is told once, at the end.
            Err(_) => Ok(()),
        };
        let (mut windows, mut single) = (Vec::new(), Vec::new());
        // Whatever happens, every window is taken part in, so that nobody waits for ever.
        let mut outcome = Ok(());
        for _ in 0..=WINDOWS {
            together.wait();
            let begin = Instant::now();
            outcome = outcome.and_then(|()| (0..each).try_for_each(|_| request()));
            windows.push((begin, Instant::now()));
        }
        for _ in 0..each {
            let begin = Instant::now();
            outcome = outcome.and_then(|()| request());
            single.push(begin.elapsed());
        }
        opened.and(outcome).map(|()| (windows, single))
    };
    let (mut windows, mut single) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let streams: Vec<_> = (0..depth).map(|number| scope.spawn(move || stream(number))).collect();
        streams.into_iter().try_for_each(|stream| {
            let ended = stream.join().unwrap_or_else(|_| Err(io::Error::other("a stream of requests ended")));
            ended.map(|(times, more)| {
                windows.push(times);
                single.extend(more);
            })
        })
    })?;
    let window = |n: usize| {
        let begin = windows.iter().filter_map(|times| times.get(n)).map(|(begin, _)| *begin).min()?;
        let end = windows.iter().filter_map(|times| times.get(n)).map(|(_, end)| *end).max()?;
        Some(end - begin)
    };
    report("disk", each * depth, (1..=WINDOWS).filter_map(window).collect(), single);
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
    report(name, kib, windows, Vec::new());
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
