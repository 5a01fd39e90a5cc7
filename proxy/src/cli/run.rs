//! `run`: the edge itself.

use thiserror::Error;

use pointsman_telemetry::logs::{self, LogsError};

use super::args::RunArgs;
use crate::app::{self, AppError, RunOptions};

/// Why the edge did not start, or ended badly.
#[derive(Debug, Error)]
pub enum RunError {
    /// Logs cannot be set up.
    #[error(transparent)]
    Logs(#[from] LogsError),
    /// The edge did not start.
    #[error(transparent)]
    App(#[from] AppError),
}

impl RunError {
    /// The process's exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Logs(_) => super::WRONG_USAGE,
            Self::App(error) if error.is_wrong_usage() => super::WRONG_USAGE,
            Self::App(_) => super::FAILED,
        }
    }
}

/// Runs the edge until it is told to stop.
pub(super) fn run(args: &RunArgs) -> Result<(), RunError> {
    let _logs = logs::init(args.log_format)?;
    app::run(&RunOptions { config: args.config.clone(), drain_delay: args.drain_delay, upgrade: args.upgrade })?;
    Ok(())
}
