//! The command line's grammar.

use std::io::Write as _;

use crate::failure::{Failure, Result, Status};
use crate::verbs::{bench, console, image, xenstore, xl};
use crate::{instance, run};
use clap::{Parser, Subcommand};

/// Boots the Trunnion platform under an emulator, and manages the domains that run on it.
#[derive(Debug, Parser)]
#[command(
    name = "trunnion",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:
  trunnion                         the demo domains (the same as `trunnion run`)
  trunnion run linux.cfg           one domain from an xl.cfg(5) file
  trunnion xl list                 in a second terminal
  trunnion console debian          attach to a console; Ctrl-] leaves
  trunnion doctor                  what this machine has, and what is missing

Each verb has its own --help with examples."
)]
pub(crate) struct Arguments {
    /// The run that the verb is about, or starts
    #[arg(long, value_name = "NAME", default_value = instance::DEFAULT)]
    instance: String,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<RunArguments>),
    Xl(xl::Arguments),
    Console(console::Arguments),
    Xenstore(xenstore::Arguments),
    Bench(bench::Arguments),
    Image(image::Arguments),
    Doctor(crate::doctor::Arguments),
    /// For work on the platform itself.
    #[command(hide = true)]
    Dev(crate::dev::Arguments),
}

/// Boot the platform and run domains on it (with no DOMAIN.cfg: the demo domains)
#[derive(Debug, clap::Args)]
struct RunArguments {
    /// The name of this run, for the other verbs [default: default]
    #[arg(long = "instance", id = "run_instance", value_name = "NAME")]
    instance: Option<String>,
    #[command(flatten)]
    options: run::Options,
}

/// Reads the process's arguments; what clap has to say (help, usage errors) is printed and becomes a status.
pub(crate) fn read() -> Result<Arguments, Status> {
    Arguments::try_parse().map_err(|error| {
        if !error.use_stderr() {
            let _ = error.print();
            return Status::Done;
        }
        let (what, rest) = parts(&error);
        let _ = writeln!(std::io::stderr(), "{}", rest.trim_matches('\n'));
        crate::say::failure(&Failure::usage(what));
        Status::Usage
    })
}

/// What is wrong, and what clap has to say beside it. The contract's last line is the message, where clap puts it first.
fn parts(error: &clap::Error) -> (String, String) {
    let text = error.to_string();
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return ("a verb is missing; those that there are stand above".into(), text);
    }
    // What is missing is listed below the first line, one a line.
    let (what, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let lines: Vec<&str> = what.lines().map(str::trim).collect();
    (lines.join(" ").trim_start_matches("error: ").to_string(), rest.into())
}

/// Does what was asked.
pub(crate) fn perform(arguments: Arguments) -> Result<Status> {
    let instance = arguments.instance;
    match arguments.verb {
        None => run::perform(&instance, &run_options([])?),
        Some(Verb::Run(run)) => run::perform(run.instance.as_deref().unwrap_or(&instance), &run.options),
        Some(Verb::Xl(arguments)) => xl::perform(&instance, arguments),
        Some(Verb::Console(arguments)) => console::attach(
            crate::control::client::Client::connect(&instance)?,
            &arguments.domain,
            arguments.replay,
        ),
        Some(Verb::Xenstore(arguments)) => xenstore::perform(&instance, arguments),
        Some(Verb::Bench(arguments)) => bench::perform(&instance, &arguments),
        Some(Verb::Image(arguments)) => image::perform(&arguments),
        Some(Verb::Doctor(arguments)) => Ok(crate::doctor::perform(&arguments)),
        Some(Verb::Dev(arguments)) => crate::dev::perform(arguments),
    }
}

/// The options of a `run` with these arguments.
pub(crate) fn run_options<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<run::Options> {
    match Arguments::try_parse_from(["trunnion", "run"].into_iter().chain(words)) {
        Ok(Arguments { verb: Some(Verb::Run(run)), .. }) => Ok(run.options),
        Ok(_) => Err(Failure::usage("these are no options of `run`")),
        Err(error) => Err(Failure::usage(error.to_string().lines().next().unwrap_or_default())),
    }
}
