//! The `model-server` binary: command line, threads, logs, run, exit code; nothing else.

use std::error::Error;
use std::io::stdout;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use model_server::cli::{Cli, Order};
use model_server::settings::Settings;
use model_server::{app, cli, http, threads};
use pointsman_telemetry::logs::{self, LogFormat};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (done, format) = match (&cli.order, &cli.serve) {
        (Some(order), _) => (examine(order), LogFormat::Text),
        (None, Some(settings)) => (serve(settings), settings.log_format),
        // clap has refused an empty command line.
        (None, None) => (Ok(()), LogFormat::Text),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(error.as_ref(), format);
            ExitCode::FAILURE
        }
    }
}

fn serve(settings: &Settings) -> Result<(), Box<dyn Error>> {
    threads::fix_products_to_one()?;
    let _logs = logs::init(settings.log_format)?;
    Ok(app::run(settings)?)
}

fn examine(order: &Order) -> Result<(), Box<dyn Error>> {
    threads::fix_products_to_one()?;
    let _logs = logs::init(LogFormat::Text)?;
    Ok(cli::examine(order, &mut stdout().lock())?)
}

/// The one line that says why the server ended; a line of the log where a machine reads stderr.
fn report(error: &dyn Error, format: LogFormat) {
    let chain = http::chain(error);
    match format {
        LogFormat::Text => eprintln!("error: {chain}"),
        LogFormat::Json => {
            let line = serde_json::json!({"level": "ERROR", "message": "server ended", "error": chain});
            eprintln!("{line}");
        }
    }
}
