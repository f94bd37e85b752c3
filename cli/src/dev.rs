//! Hidden verbs for work on the platform itself: build one image, boot any ELF.

use crate::failure::{Failure, Result, Status};
use crate::machine::{self, Boot, End, Machine};
use crate::{images, say};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build a bare-metal binary and print where it is.
    Build {
        /// The workspace package.
        package: String,
        /// Its binary.
        bin: String,
    },
    /// Boot an ELF with COM1 on stdout; ends with the image's own exit code.
    Boot {
        /// The machine.
        #[arg(long, default_value = "qemu-svm")]
        machine: Machine,
        /// A processor model in the emulator's words.
        #[arg(long)]
        cpu: Option<String>,
        /// The image.
        #[arg(long)]
        elf: PathBuf,
        /// One file that is loaded beside it.
        #[arg(long)]
        module: Option<PathBuf>,
        /// The image's command line.
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        cmdline: String,
        /// Memory in MiB.
        #[arg(long, default_value_t = 512)]
        memory: u32,
        /// Processors.
        #[arg(long, default_value_t = 1)]
        smp: u32,
        /// Count instructions.
        #[arg(long)]
        icount: bool,
        /// Most processor seconds of the emulator (four times as many by the clock).
        #[arg(long, default_value_t = 60)]
        timeout: u64,
        /// More arguments for QEMU.
        #[arg(long = "emulator-arg", allow_hyphen_values = true)]
        extra: Vec<String>,
    },
}

pub(crate) fn perform(arguments: Arguments) -> Result<Status> {
    match arguments.verb {
        Verb::Build { package, bin } => {
            println!("{}", images::build(&package, &bin)?.display());
            Ok(Status::Done)
        }
        Verb::Boot { machine, cpu, elf, module, cmdline, memory, smp, icount, timeout, extra } => {
            let limit = Duration::from_secs(timeout);
            let boot = Boot {
                machine,
                cpu,
                elf,
                module,
                cmdline,
                memory_mib: memory,
                smp,
                icount,
                limit,
                extra,
                echo: true,
            };
            let outcome = machine::boot(&boot)?;
            match outcome.status {
                End::Exit(code) => {
                    say::progress(&format!(
                        "the image ended with code {code} after {:?} of processor time",
                        outcome.cpu_time
                    ));
                    Ok(Status::Raw(code))
                }
                End::PowerOff => Err(Failure::new(
                    Status::Platform,
                    "the machine was powered off, or a triple fault ended it",
                )),
                End::TimeLimit => {
                    Err(Failure::new(Status::TimeLimit, format!("no end within {timeout} s; stopped")))
                }
                End::Emulator(words) => Err(Failure::platform(words)),
            }
        }
    }
}
