//! `chaos load`: an open-loop load from the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pointsman_chaos::load::{Figures, Load, Running, Second, Total};
use serde::Serialize;

use super::{CliError, asked_to_stop, print};

/// Sends requests at a steady rate, whether or not earlier ones were answered
///
/// Latencies run from the time a request was due. To loopback addresses only. Prints one line of figures each
/// second, and the total at the end: after --seconds, at SIGTERM, at SIGINT, or when a pipe on standard input is
/// closed; requests under way are waited for, twice the timeout at most.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to, such as `http://127.0.0.1:8080/v1/predict`
    #[arg(long)]
    url: String,
    /// Another `host` header than the one of the URL
    #[arg(long)]
    host: Option<String>,
    /// Requests per second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How long; without it until stopped
    #[arg(long)]
    seconds: Option<u64>,
    /// Keep-alive connections at most
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long to wait for an answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    timeout: u64,
    /// Another header, as NAME: VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A file that is sent as the body of a POST; may be repeated, bodies are sent in turn
    #[arg(long = "body", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Text that is sent as the body of a POST; may be repeated
    #[arg(long = "json", value_name = "TEXT")]
    texts: Vec<String>,
    /// How figures are printed
    #[arg(long, value_enum, default_value_t = Report::Json)]
    report: Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Report {
    /// One JSON object a line; the last one is {"total": …}
    Json,
    /// For people
    Text,
}

/// Runs the load to its end; prints as it goes.
pub(crate) async fn run(arguments: Arguments) -> Result<(), CliError> {
    let stop = asked_to_stop()?;
    let report = arguments.report;
    let mut running = load(arguments)?.start().map_err(CliError::Load)?;
    tell_until(stop, &mut running, report).await?;
    running.stop();
    while let Some(second) = running.next_second().await {
        print(report.second(&second)?)?;
    }
    let total = running.finish().await.ok_or(CliError::CutShort)?;
    print(report.total(&total)?)
}

/// Prints second after second, until asked to stop or at the end of the load.
async fn tell_until(stop: impl Future<Output = ()>, running: &mut Running, report: Report) -> Result<(), CliError> {
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            second = running.next_second() => match second {
                Some(second) => print(report.second(&second)?)?,
                None => return Ok(()),
            },
        }
    }
}

fn load(arguments: Arguments) -> Result<Load, CliError> {
    let mut load = Load::new(&arguments.url).map_err(CliError::Load)?;
    if let Some(host) = &arguments.host {
        load.target = load.target.with_host(host);
    }
    load.rate = arguments.rate;
    load.duration = arguments.seconds.map(Duration::from_secs);
    load.connections = arguments.connections;
    load.timeout = Duration::from_millis(arguments.timeout);
    for text in arguments.headers {
        load.headers.push(header(text)?);
    }
    for path in arguments.files {
        let body = std::fs::read(&path).map_err(|source| CliError::Body { path, source })?;
        load.bodies.push(body.into());
    }
    load.bodies.extend(arguments.texts.into_iter().map(Into::into));
    Ok(load)
}

fn header(text: String) -> Result<(String, String), CliError> {
    match text.split_once(':') {
        Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
        None => Err(CliError::Header { text }),
    }
}

/// The last line.
#[derive(Serialize)]
struct Last<'a> {
    total: &'a Total,
}

impl Report {
    fn second(self, second: &Second) -> Result<String, CliError> {
        match self {
            Self::Json => json(second),
            Self::Text => Ok(format!("{:>4} s  {}", second.second, words(&second.figures))),
        }
    }

    fn total(self, total: &Total) -> Result<String, CliError> {
        match self {
            Self::Json => json(&Last { total }),
            Self::Text => Ok(format!("in {:.1} s  {}", total.seconds, words(&total.figures))),
        }
    }
}

fn json(figures: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string(figures).map_err(|error| CliError::Output(error.into()))
}

fn words(figures: &Figures) -> String {
    let latency = figures.latency;
    let versions: Vec<String> =
        figures.versions.iter().map(|(name, answers)| format!("{name} {}", answers.sum())).collect();
    format!(
        "{} requests, {} answered ({}), {} failed, p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        figures.intended,
        figures.answered,
        versions.join(", "),
        figures.failed,
        latency.p50_ms,
        latency.p95_ms,
        latency.p99_ms,
        latency.max_ms
    )
}
