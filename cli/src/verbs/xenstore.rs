//! `trunnion xenstore`: the store of a running platform, as with the `xenstore-*` tools.

use crate::control::ask::{Ask, Node, Store};
use crate::control::client::Client;
use crate::failure::{Failure, Result, Status};
use clap::{Args, Subcommand};

/// Look into the store of a running platform, and change it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trunnion xenstore ls
  trunnion xenstore ls /local/domain/1
  trunnion xenstore read /local/domain/1/name
  trunnion xenstore write /tool/note hello
  trunnion xenstore watch /local/domain")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the tree under a path
    Ls {
        /// The path
        #[arg(default_value = "/")]
        path: String,
        /// Show whole paths
        #[arg(short, long)]
        full: bool,
        /// Show permissions
        #[arg(short, long)]
        permissions: bool,
    },
    /// Show values
    Read {
        /// The paths
        #[arg(required = true)]
        paths: Vec<String>,
        /// Show the paths too
        #[arg(short)]
        path_names: bool,
    },
    /// Set values; missing nodes are made
    Write {
        /// PATH VALUE [PATH VALUE]…
        #[arg(required = true, value_name = "PATH VALUE", num_args = 2.., allow_hyphen_values = true)]
        pairs: Vec<String>,
    },
    /// Remove nodes and all under them
    Rm {
        /// The paths
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Show the names directly under a path
    List {
        /// The paths
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Status 0 when all the paths exist, else 1
    Exists {
        /// The paths
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Set permissions: the owner (such as n1), then who else may (r2, w3, b4)
    Chmod {
        /// The path
        path: String,
        /// The permissions
        #[arg(required = true)]
        permissions: Vec<String>,
    },
    /// Show the path of each change under the paths, until Ctrl-C
    Watch {
        /// The paths
        #[arg(required = true)]
        paths: Vec<String>,
        /// End after this many
        #[arg(short, value_name = "COUNT")]
        number: Option<u64>,
    },
}

/// Does it on the instance `instance`.
pub(crate) fn perform(instance: &str, arguments: Arguments) -> Result<Status> {
    if let Verb::Write { pairs, .. } = &arguments.verb
        && pairs.len() % 2 != 0
    {
        return Err(Failure::usage(
            "xenstore write takes paths and values in turn; the last path has no value",
        ));
    }
    let mut client = Client::connect(instance)?;
    match arguments.verb {
        Verb::Ls { path, full, permissions } => tree(&mut client, &path, full, permissions)?,
        Verb::Read { paths, path_names } => {
            for path in paths {
                let value: String = client.ask_for(&Ask::Store(Store::Read { path: path.clone() }))?;
                if path_names {
                    crate::say::out!("{path}: {value}");
                } else {
                    crate::say::out!("{value}");
                }
            }
        }
        Verb::Write { pairs } => {
            for pair in pairs.chunks_exact(2) {
                if let [path, value] = pair {
                    client.ask(&Ask::Store(Store::Write { path: path.clone(), value: value.clone() }))?;
                }
            }
        }
        Verb::Rm { paths } => {
            for path in paths {
                client.ask(&Ask::Store(Store::Remove { path }))?;
            }
        }
        Verb::List { paths } => {
            for path in paths {
                for name in client.ask_for::<Vec<String>>(&Ask::Store(Store::List { path }))? {
                    crate::say::out!("{name}");
                }
            }
        }
        Verb::Exists { paths } => {
            for path in paths {
                if !client.ask_for::<bool>(&Ask::Store(Store::Exists { path }))? {
                    return Ok(Status::Domain);
                }
            }
        }
        Verb::Chmod { path, permissions } => {
            drop(client.ask(&Ask::Store(Store::Chmod { path, permissions }))?);
        }
        Verb::Watch { paths, number } => {
            client.ask(&Ask::Watch { paths })?;
            let mut seen = 0;
            while number.is_none_or(|number| seen < number) {
                let Some(line) = client.line()? else { break };
                crate::say::out!("{}", serde_json::from_str::<String>(&line).unwrap_or(line));
                seen += 1;
            }
        }
    }
    Ok(Status::Done)
}

/// The node `path` with all under it, in the form of xenstore-ls.
fn tree(client: &mut Client, path: &str, full: bool, permissions: bool) -> Result<()> {
    let top = path.trim_end_matches('/');
    for node in client.ask_for::<Vec<Node>>(&Ask::Store(Store::Tree { path: path.to_string() }))? {
        // The top itself is not shown, as xenstore-ls does not.
        let Some(below) = node
            .path
            .strip_prefix(top)
            .and_then(|below| below.strip_prefix('/'))
            .filter(|below| !below.is_empty())
        else {
            continue;
        };
        let name = below.rsplit('/').next().unwrap_or(below);
        let shown = if full {
            node.path.clone()
        } else {
            format!("{}{name}", " ".repeat(below.matches('/').count()))
        };
        let rights = if permissions { format!("   ({})", node.permissions.join(",")) } else { String::new() };
        crate::say::out!("{shown} = \"{}\"{rights}", node.value);
    }
    Ok(())
}
