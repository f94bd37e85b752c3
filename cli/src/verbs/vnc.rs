//! `trunnion xl vnc`: the screen, keyboard and mouse of an emulated PC for viewers of the remote framebuffer protocol.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use clap::Args;

use crate::control::ask::{Ask, Size};
use crate::control::client::Client;
use crate::failure::{Failure, Result};
use crate::say;
use crate::vnc::{self, Pc, Picture};

/// The port of display 0.
const FIRST: u16 = 5900;

/// Displays that are tried.
const DISPLAYS: u16 = 100;

/// A domain that restarts is not there for a moment.
const MOMENT: u32 = 10;

/// Show the screen of an emulated PC to VNC viewers, with its keyboard and mouse, until the domain ends; prints the address
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trunnion xl vnc windows                            # the first free display from 127.0.0.1:5900
  trunnion xl vnc windows --listen 127.0.0.1:5910
  vncviewer 127.0.0.1:0                              # in another terminal; display 0 is port 5900")]
pub(crate) struct Arguments {
    /// Name or id
    domain: String,
    /// Where viewers come to; there is no password, so whoever reaches this address can use the PC
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// The PC of a running instance.
struct Remote {
    client: Client,
    domain: String,
}

impl Pc for Remote {
    fn screen(&mut self) -> Result<Picture> {
        let size: Size = self.client.ask_for(&Ask::Screen { domain: self.domain.clone() })?;
        let pixels = self.client.bytes(size.width as usize * size.height as usize * 3)?;
        let side = |pixels: u32| {
            u16::try_from(pixels)
                .map_err(|_| Failure::platform("the screen is larger than a viewer can show"))
        };
        Ok(Picture { width: side(size.width)?, height: side(size.height)?, pixels })
    }

    fn key(&mut self, codes: Vec<u8>) -> Result<()> {
        self.client.ask(&Ask::Keys { domain: self.domain.clone(), keys: vec![codes] }).map(drop)
    }

    fn mouse(&mut self, x: i16, y: i16, buttons: u8) -> Result<()> {
        self.client.ask(&Ask::Mouse { domain: self.domain.clone(), x, y, buttons }).map(drop)
    }
}

/// Serves viewers until the domain ends.
pub(super) fn perform(instance: &str, mut client: Client, arguments: Arguments) -> Result<()> {
    let Arguments { domain, listen } = arguments;
    // A name stays when the domain restarts, an id does not. A PC without a screen is refused here, and not when a viewer comes.
    let name = super::xl::select(&super::xl::rows(&mut client)?, Some(&domain))?
        .first()
        .map_or(domain, |row| row.name.clone());
    Remote { client: Client::connect(instance)?, domain: name.clone() }.screen()?;
    let (listener, address) = bind(listen)?;
    let display = address.port().checked_sub(FIRST).filter(|display| *display < DISPLAYS);
    let display = display.map_or(String::new(), |display| format!(" (display {display})"));
    say::out!("{address}");
    say::progress(&format!("the screen of {name} is there{display}; Ctrl-C ends this, not the domain"));
    if !address.ip().is_loopback() {
        say::warning("there is no password: whoever reaches this address can see and use the PC");
    }
    let (instance, known) = (instance.to_string(), name.clone());
    std::thread::spawn(move || {
        vnc::serve(&listener, &known, || {
            Ok(Remote { client: Client::connect(&instance)?, domain: known.clone() })
        });
    });
    let mut missing = 0;
    while missing < MOMENT {
        std::thread::sleep(Duration::from_millis(500));
        let there = super::xl::rows(&mut client)?.iter().any(|row| row.name == name);
        missing = if there { 0 } else { missing + 1 };
    }
    say::progress(&format!("domain {name} has ended"));
    Ok(())
}

/// Listens where it is wanted, or at the first display that is free.
fn bind(wanted: Option<SocketAddr>) -> Result<(TcpListener, SocketAddr)> {
    let local = |display| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), FIRST + display);
    let tried = match wanted {
        Some(address) => TcpListener::bind(address).map_err(|e| (address, e)),
        None => (0..DISPLAYS)
            .map(|display| TcpListener::bind(local(display)).map_err(|e| (local(display), e)))
            .find(|tried| !matches!(tried, Err((_, e)) if e.kind() == std::io::ErrorKind::AddrInUse))
            .unwrap_or_else(|| Err((local(DISPLAYS - 1), std::io::ErrorKind::AddrInUse.into()))),
    };
    let listener = tried.map_err(|(address, e)| {
        Failure::usage(format!(
            "viewers cannot come to {address}: {e}; choose another with --listen ADDRESS:PORT"
        ))
    })?;
    let address = listener
        .local_addr()
        .map_err(|e| Failure::platform(format!("the address of the listener is not known: {e}")))?;
    Ok((listener, address))
}
