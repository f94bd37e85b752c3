//! `xl device-attach` and `xl device-detach`: devices of any class between two guests.

use crate::control::ask::Ask;
use crate::control::client::Client;
use crate::failure::{Failure, Result};
use clap::Args;

/// What `device-attach` takes.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// The domain that gets the device: name or id
    front: String,
    /// class=CLASS backend=DOMAIN [id=N]
    #[arg(required = true, value_name = "KEY=VALUE")]
    words: Vec<String>,
}

/// What `device-detach` takes.
#[derive(Debug, Args)]
pub(crate) struct Detach {
    /// The domain that has the device: name or id
    front: String,
    /// class=CLASS [id=N]
    #[arg(required = true, value_name = "KEY=VALUE")]
    words: Vec<String>,
    /// Do not wait for the back end to let go
    #[arg(long)]
    force: bool,
}

#[derive(Default)]
struct Words {
    class: Option<String>,
    backend: Option<String>,
    id: u32,
}

fn words(list: &[String]) -> Result<Words> {
    let mut words = Words::default();
    for word in list.iter().flat_map(|word| word.split(',')) {
        match word.split_once('=') {
            Some(("class", value)) => words.class = Some(value.to_string()),
            Some(("backend", value)) => words.backend = Some(value.to_string()),
            Some(("id", value)) => {
                words.id = value
                    .parse()
                    .map_err(|_| Failure::usage(format!("id={value}: a number from 0 on is expected")))?;
            }
            _ => {
                return Err(Failure::usage(format!(
                    "\"{word}\" is none of class=CLASS, backend=DOMAIN, id=N"
                )));
            }
        }
    }
    Ok(words)
}

fn needed(value: Option<String>, key: &str) -> Result<String> {
    value.ok_or_else(|| Failure::usage(format!("{key}= is missing")))
}

pub(crate) fn attach(client: &mut Client, arguments: Attach) -> Result<()> {
    let Words { class, backend, id } = words(&arguments.words)?;
    let (class, back) = (needed(class, "class")?, needed(backend, "backend")?);
    client.ask(&Ask::DeviceAttach { front: arguments.front, back, class, id }).map(drop)
}

pub(crate) fn detach(client: &mut Client, arguments: Detach) -> Result<()> {
    let Words { class, id, .. } = words(&arguments.words)?;
    let class = needed(class, "class")?;
    client.ask(&Ask::DeviceDetach { front: arguments.front, class, id, force: arguments.force }).map(drop)
}
