//! The bench's own load against one proxy that somebody else started: to profile it, or to try a change.
//!
//! It says the ports of its two versions, waits until `--to` accepts connections, and then prints a line for each
//! measurement.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use pointsman_benches::contender::PATH;
use pointsman_benches::rig::{Job, Measured, Pattern, Request, Rig, RigError};
use thiserror::Error;

/// Loads one proxy and says how it does.
#[derive(Debug, Parser)]
struct Arguments {
    /// The proxy
    #[arg(long)]
    to: SocketAddr,
    /// What is asked for
    #[arg(long, default_value = PATH)]
    path: String,
    /// Requests per second; without it, as many as it takes
    #[arg(long)]
    rate: Option<f64>,
    /// Each request on a connection of its own
    #[arg(long, conflicts_with = "rate")]
    fresh: bool,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How many
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Process whose CPU time is taken, by thread
    #[arg(long)]
    pid: Vec<u32>,
}

/// Why there are no figures.
#[derive(Debug, Error)]
enum ProbeError {
    #[error("the load failed")]
    Rig(#[from] RigError),
    #[error("what was measured cannot be written")]
    Io(#[from] io::Error),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ProbeError> {
    let arguments = Arguments::parse();
    let rig = Rig::start()?;
    let [first, second] = rig.ports();
    writeln!(io::stdout(), "versions on ports {first} and {second}")?;
    while tokio::net::TcpStream::connect(arguments.to).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..arguments.rounds {
        say(&rig.measure(job(&arguments)).await?)?;
    }
    Ok(())
}

fn job(arguments: &Arguments) -> Job {
    let pattern = match arguments.rate {
        Some(rate) => Pattern::Rate(rate),
        None if arguments.fresh => Pattern::Fresh,
        None => Pattern::Saturate,
    };
    Job {
        to: arguments.to,
        request: Request::plain(&arguments.path),
        pattern,
        connections: arguments.connections,
        warm: Duration::from_millis(300),
        counted: Duration::from_secs_f64(arguments.seconds),
        pids: arguments.pid.clone(),
        notes_switches: false,
    }
}

fn say(measured: &Measured) -> io::Result<()> {
    let ms = |quantile| Duration::from_nanos(measured.latency.value_at_quantile(quantile)).as_secs_f64() * 1e3;
    let mut out = io::stdout().lock();
    write!(
        out,
        "{} answered, {} lost, p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms",
        measured.answered,
        measured.lost,
        ms(0.5),
        ms(0.99),
        ms(0.999)
    )?;
    for (thread, seconds) in measured.cpu.iter().filter(|(_, seconds)| **seconds > 0.001) {
        write!(out, ", {thread} {:.1} %", 100.0 * seconds / measured.seconds)?;
    }
    writeln!(out)
}
