//! `chaos`: the fault layer and the load generator as processes, and scenarios in virtual time.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pointsman_telemetry::logs::{self, LogFormat};

mod cli;

use cli::CliError;

/// Breaks things on purpose, and sends load, so that Pointsman can be watched at work.
#[derive(Debug, Parser)]
#[command(name = "chaos", version)]
struct Arguments {
    /// How log lines on standard error are written: text or json
    #[arg(long, global = true, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Fault(cli::fault::Arguments),
    Model(cli::model::Arguments),
    Load(cli::load::Arguments),
    Check(cli::scenario::Check),
    Run(cli::scenario::Run),
    Live(cli::live::Arguments),
    Soak(cli::live::Soak),
    Report(cli::scenario::Report),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::complain(&error);
            error.exit_code()
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), CliError> {
    let _logs = logs::init(arguments.log_format).map_err(CliError::Logs)?;
    match arguments.command {
        Command::Fault(arguments) => cli::fault::run(&arguments).await,
        Command::Model(arguments) => cli::model::run(&arguments).await,
        Command::Load(arguments) => cli::load::run(arguments).await,
        Command::Check(arguments) => cli::scenario::check(&arguments),
        Command::Run(arguments) => cli::scenario::run(&arguments).await,
        Command::Live(arguments) => cli::live::run(&arguments).await,
        Command::Soak(arguments) => cli::live::soak(&arguments).await,
        Command::Report(arguments) => cli::scenario::report(&arguments),
    }
}
