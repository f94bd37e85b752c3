//! `trunnion doctor`: what this machine has, which outer machine a run would use and why, what is missing and the command that brings it.

use crate::failure::Status;
use crate::machine::{Machine, choice};
use crate::setup::{self, Tool};
use clap::Args;
use serde_json::json;

/// Show what this machine has, which --machine a run would use and why, and what is missing
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trunnion doctor\n  trunnion doctor --json")]
pub(crate) struct Arguments {
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Looks, and tells; nothing is installed. Status 0 when a run could start now, else 2.
pub(crate) fn perform(arguments: &Arguments) -> Status {
    let chosen = choice::choose();
    let target = setup::has_rust_target();
    let missing: Vec<Tool> = Tool::ALL.into_iter().filter(|tool| !tool.is_here()).collect();
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package()).collect();
    let install = (!packages.is_empty()).then(|| setup::install_command(&packages));
    if arguments.json {
        let machines: Vec<_> = Machine::ALL
            .map(|m| json!({"name": m.name(), "works": choice::verdict(m).is_ok(), "why": words(m)}))
            .into();
        let tools: Vec<_> =
            Tool::ALL.map(|t| json!({"package": t.package(), "what": t.what(), "here": t.is_here()})).into();
        let report = json!({
            "machine": chosen.name(), "why": words(chosen), "machines": machines, "rust_target": target, "tools": tools,
            "missing": packages, "install": install,
        });
        crate::say::out!("{report:#}");
    } else {
        crate::say::out!("machine      works  why");
        for machine in Machine::ALL {
            let works = if choice::verdict(machine).is_ok() { "yes" } else { "no" };
            crate::say::out!("{:<11}  {works:<5}  {}", machine.name(), words(machine));
        }
        crate::say::out!("\n`trunnion run` uses {chosen}: it is the first that can work here.");
        crate::say::out!("\nwhat                                   here  package");
        crate::say::out!(
            "{:<37}  {:<4}  (rustup)",
            format!("Rust target {}", crate::images::TARGET),
            yes(target)
        );
        for tool in Tool::ALL {
            crate::say::out!("{:<37}  {:<4}  {}", tool.what(), yes(tool.is_here()), tool.package());
        }
        if missing.is_empty() && target {
            crate::say::out!("\nNothing is missing.");
        } else {
            crate::say::out!("\nThis brings what is missing (`cargo run` does it by itself where it may):");
            if !target {
                crate::say::out!("  {}", setup::rust_target_command());
            }
            if let Some(command) = install {
                crate::say::out!("  {command}");
            }
        }
    }
    let ready = target && Tool::of(chosen).iter().all(|tool| tool.is_here());
    if ready { Status::Done } else { Status::Usage }
}

fn yes(here: bool) -> &'static str {
    if here { "yes" } else { "no" }
}

fn words(machine: Machine) -> String {
    match choice::verdict(machine) {
        Ok(words) | Err(words) => words,
    }
}
