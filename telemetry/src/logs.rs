//! Log lines to stderr, as text or JSON, written by a thread of their own: a reader that stops reading costs
//! log lines, never requests. The level can be changed while the process runs.

use std::env::{self, VarError};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

use thiserror::Error;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_log::AsLog;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

/// What is logged when `RUST_LOG` says nothing: our own changes of state, and of pingora only what someone
/// should look at (at `info` it reports every start of a service). What the client of Kubernetes finds wrong is told by us,
/// in words that name the way out.
pub const DEFAULT_DIRECTIVES: &str = "info,pingora=warn,kube_client=error,kube_runtime=error";

/// Lines that wait for a slow reader before further ones are dropped; at 200 bytes a line some 3 MB.
const QUEUED_LINES: usize = 16_384;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: time, level, target, message, fields.
    #[default]
    Text,
    /// For collectors: one JSON object a line, fields beside `timestamp`, `level`, `target` and `message`.
    Json,
}

/// Why a text is no log format.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no log format; use `text` or `json`")]
pub struct LogFormatError {
    /// What was written.
    pub text: String,
}

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, LogFormatError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogFormatError { text: other.to_owned() }),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logs could not be set up, or their level not be changed.
#[derive(Debug, Error)]
pub enum LogsError {
    /// A filter that cannot be read.
    #[error("`{text}` is no log filter; write a level such as `debug`, or `info,pointsman=debug`")]
    Directives {
        /// What was written.
        text: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// `RUST_LOG` holds bytes that are no UTF-8.
    #[error("RUST_LOG is not UTF-8; write a level such as `debug`, or `info,pointsman=debug`")]
    NotUnicode,
    /// Logs were set up before, by us or by another library.
    #[error("logs are already set up in this process; call `init` once, in `main`")]
    AlreadySetUp(#[source] TryInitError),
    /// The subscriber is gone, so there is nothing whose level could change.
    #[error("the log level cannot be changed")]
    Reload(#[source] reload::Error),
}

/// Keeps logs flowing: dropped at the end of `main`, it writes out what is still queued (for a second at most).
#[derive(Debug)]
pub struct LogsGuard {
    filter: reload::Handle<EnvFilter, Registry>,
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

impl LogsGuard {
    /// Changes what is logged from now on; the same words as `RUST_LOG`, taken as they stand: `debug` alone
    /// lets pingora speak as well, `debug,pingora=warn` does not.
    ///
    /// # Errors
    /// [`LogsError::Directives`] when the text cannot be read; the level then stays as it was.
    pub fn set_level(&self, directives: &str) -> Result<(), LogsError> {
        self.filter.reload(filter(directives)?).map_err(LogsError::Reload)?;
        // The `log` crate asks its own gate first, which was set to what held at the start.
        tracing_log::log::set_max_level(LevelFilter::current().as_log());
        Ok(())
    }

    /// What is logged now, as directives; without those of ours that always hold.
    ///
    /// # Errors
    /// [`LogsError::Reload`] when the subscriber is gone.
    pub fn level(&self) -> Result<String, LogsError> {
        let all = self.filter.with_current(ToString::to_string).map_err(LogsError::Reload)?;
        let is_ours = |directive: &&str| DISCREET.split(',').any(|ours| ours == *directive);
        Ok(all.split(',').filter(|directive| !is_ours(directive)).collect::<Vec<_>>().join(","))
    }

    /// Lines lost so far, because nobody read stderr fast enough.
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Sets up logs for the whole process: to stderr, by `RUST_LOG` or else [`DEFAULT_DIRECTIVES`], records of the
/// `log` crate (pingora's) included, colours only on a terminal and without `NO_COLOR`.
///
/// # Errors
/// When `RUST_LOG` cannot be read, or when logs were set up before.
pub fn init(format: LogFormat) -> Result<LogsGuard, LogsError> {
    let filter = filter(&directives_from_environment()?)?;
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, guard) = non_blocking(io::stderr());
    let dropped = writer.error_counter();
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(filter)
        .with(line_writer(format, writer, colours))
        .try_init()
        .map_err(LogsError::AlreadySetUp)?;
    Ok(LogsGuard { filter: handle, dropped, _writer: guard })
}

fn directives_from_environment() -> Result<String, LogsError> {
    match env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) if !text.trim().is_empty() => Ok(text),
        Ok(_) | Err(VarError::NotPresent) => Ok(DEFAULT_DIRECTIVES.to_owned()),
        Err(VarError::NotUnicode(_)) => Err(LogsError::NotUnicode),
    }
}

/// What no level of the whole makes speak: whoever calls out for us logs whole URLs at `debug`, and some of those are
/// secrets.
const DISCREET: &str = "ureq=info,ureq_proto=info";

fn filter(directives: &str) -> Result<EnvFilter, LogsError> {
    EnvFilter::builder()
        .parse(format!("{directives},{DISCREET}"))
        .map_err(|source| LogsError::Directives { text: directives.to_owned(), source })
}

fn non_blocking(out: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES).thread_name("logs").finish(out)
}

fn line_writer<S>(format: LogFormat, out: NonBlocking, colours: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = lines::layer().with_writer(out).with_ansi(colours);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => {
            layer.with_ansi(false).json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_reads_back_what_it_prints() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let error = "xml".parse::<LogFormat>().unwrap_err();
        assert_eq!(error.to_string(), "`xml` is no log format; use `text` or `json`");
    }

    #[test]
    fn directives_are_checked() {
        assert!(filter(DEFAULT_DIRECTIVES).is_ok());
        assert!(filter("info,pointsman=debug").is_ok());
        let error = filter("info,pointsman=loudly").unwrap_err();
        assert!(error.to_string().contains("info,pointsman=loudly"), "{error}");
    }
}
