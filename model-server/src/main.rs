//! The `model-server` binary: settings, threads, logs, run, exit code; nothing else.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use model_server::settings::Settings;
use model_server::{app, http, threads};
use pointsman_telemetry::logs::{self, LogFormat};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let settings = Settings::parse();
    match serve(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(error.as_ref(), settings.log_format);
            ExitCode::FAILURE
        }
    }
}

fn serve(settings: &Settings) -> Result<(), Box<dyn Error>> {
    threads::fix_products_to_one()?;
    let _logs = logs::init(settings.log_format)?;
    Ok(app::run(settings)?)
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
