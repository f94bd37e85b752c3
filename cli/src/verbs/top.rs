//! `xl top`: what the domains do, as a full-screen view or line by line.

mod rates;
mod view;

use crate::control::ask::Ask;
use crate::control::client::Client;
use crate::failure::Result;
use clap::Args;
use rates::{Rates, Sample};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::Duration;

/// Show what the domains do: processor, exits by kind, disks, networks
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print tables instead of a full-screen view; so it is when stdout is no terminal
    #[arg(short, long)]
    batch: bool,
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0)]
    delay: f64,
    /// Looks, then end [default: until it is left; 1 when stdout is no terminal]
    #[arg(short = 'n', long, value_name = "N")]
    iterations: Option<u64>,
    /// Print one JSON object a look
    #[arg(long)]
    json: bool,
}

/// Shows it until the user leaves or the platform is gone.
pub(crate) fn perform(client: &mut Client, arguments: &Arguments) -> Result<()> {
    let delay = Duration::from_secs_f64(arguments.delay.clamp(0.05, 3600.0));
    let terminal = std::io::stdout().is_terminal();
    if terminal && !arguments.batch && !arguments.json {
        return view::show(delay, arguments.iterations, || look(client));
    }
    let looks = arguments.iterations.unwrap_or(if terminal { u64::MAX } else { 1 });
    let mut before = look(client)?;
    for number in 0..looks {
        std::thread::sleep(delay);
        let now = look(client)?;
        let rates = now.since(&before);
        if arguments.json {
            crate::say::out!("{}", json!({"at_ns": now.at_ns, "domains": rates}));
        } else {
            if number > 0 {
                crate::say::out!("");
            }
            table(&rates);
        }
        before = now;
    }
    Ok(())
}

/// The figures as they are now.
fn look(client: &mut Client) -> Result<Sample> {
    let info: Value = client.ask(&Ask::Info)?;
    Ok(Sample::of(info["uptime_ns"].as_u64().unwrap_or_default(), &client.ask(&Ask::Summary)?))
}

fn table(rates: &[Rates]) {
    crate::say::out!("{}", rates::HEAD);
    for domain in rates {
        crate::say::out!("{}", domain.line());
    }
}
