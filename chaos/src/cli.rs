//! What the subcommands share: when to stop, how to print, how to fail.

use std::error::Error;
use std::fmt::Display;
use std::future::{Future, pending};
use std::io::{self, Write};
use std::iter::{once, successors};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use pointsman_chaos::live::LiveError;
use pointsman_chaos::load::LoadError;
use pointsman_chaos::scenario::ScenarioError;
use pointsman_telemetry::logs::LogsError;
use pointsman_telemetry::shutdown;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

pub(crate) mod fault;
pub(crate) mod live;
pub(crate) mod load;
pub(crate) mod model;
pub(crate) mod scenario;

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("logs cannot be set up")]
    Logs(#[source] LogsError),
    #[error("no signal handler can be set up")]
    Signals(#[source] io::Error),
    #[error("the fault layer cannot listen; choose free ports, 0 takes any")]
    Listen(#[source] io::Error),
    #[error("the body {path} cannot be read; name a file, or write the body with --json")]
    Body { path: PathBuf, source: io::Error },
    #[error("`{text}` is no header; write NAME: VALUE")]
    Header { text: String },
    #[error("the load cannot be started")]
    Load(#[source] LoadError),
    #[error("it was ended before it was done")]
    CutShort,
    #[error("the scenario cannot be played")]
    Scenario(#[source] ScenarioError),
    #[error("{scenario} does not hold with {broke} of {seeds} seeds")]
    Broken { scenario: String, broke: u64, seeds: u64 },
    #[error("the live world broke down")]
    Live(#[source] LiveError),
    #[error("{scenario} cannot be played here: {why}")]
    NotAtHand { scenario: String, why: String },
    #[error("{broke} of {of} scenarios did not hold")]
    LiveBroken { broke: usize, of: usize },
    #[error("the report {} cannot be written; name a folder that can be written with --out", path.display())]
    Report { path: PathBuf, source: io::Error },
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

impl CliError {
    /// 2 for what the caller should write differently, 1 for the rest.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Logs(_)
            | Self::Body { .. }
            | Self::Header { .. }
            | Self::Scenario(_)
            | Self::NotAtHand { .. }
            | Self::Report { .. } => ExitCode::from(2),
            Self::Load(error) if !matches!(error, LoadError::Timer(_)) => ExitCode::from(2),
            Self::Signals(_)
            | Self::Listen(_)
            | Self::Load(_)
            | Self::CutShort
            | Self::Broken { .. }
            | Self::Live(_)
            | Self::LiveBroken { .. }
            | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

/// Prints an error and its causes to standard error, one line each.
pub(crate) fn complain(error: &CliError) {
    let causes = successors(error.source(), |cause: &&dyn Error| (*cause).source());
    let lines = once(format!("chaos: {error}")).chain(causes.map(|cause| format!("  because {cause}")));
    let words: Vec<String> = lines.collect();
    // Without standard error there is nobody left to tell; the exit code says it too.
    writeln!(io::stderr(), "{}", words.join("\n")).ok();
}

/// Prints one line to standard output, at once.
pub(crate) fn print(line: impl Display) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Resolves at SIGTERM, at SIGINT, and when the pipe on standard input is closed: whoever started us and holds
/// its other end has ended. A standard input that is no pipe (terminal, file, /dev/null) is left alone.
pub(crate) fn asked_to_stop() -> Result<impl Future<Output = ()>, CliError> {
    let terminate = shutdown::terminate().map_err(CliError::Signals)?;
    let interrupt = shutdown::interrupt().map_err(CliError::Signals)?;
    Ok(async move {
        tokio::select! {
            () = terminate => tracing::info!("stopping at SIGTERM"),
            () = interrupt => tracing::info!("stopping at SIGINT"),
            () = input_closed() => tracing::info!("stopping, standard input was closed"),
        }
    })
}

async fn input_closed() {
    let input = io::stdin().as_fd().try_clone_to_owned().and_then(Receiver::from_owned_fd);
    let Ok(mut input) = input else {
        return pending().await;
    };
    let mut unread = [0; 256];
    while input.read(&mut unread).await.is_ok_and(|bytes| bytes > 0) {}
}
