//! Pointsman and a minimal pingora proxy under the same load, in one run, rounds interleaved.
//!
//! Each proxy is pinned to the first core; load and upstreams stay on the second. Figures are medians over the rounds;
//! what counts is the ratio. CPU is the proxy's own, from the kernel's books of its process.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Parser;
use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::load::{Load, Total};
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// Kernel clock ticks in a second, as `/proc` counts CPU time on every common Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// The size of a request body in bytes.
const BODY_BYTES: usize = 200;

/// How long and how hard.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; each measures every contender once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load for each contender in each round
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Requests per second
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
}

/// Why a comparison could not be made.
#[derive(Debug, Error)]
enum BenchError {
    #[error("{what} cannot be started; is it built? cargo build --release -p pointsman -p pointsman-benches")]
    Start { what: &'static str, source: io::Error },
    #[error("{what} did not answer within 10 s")]
    Silent { what: &'static str },
    #[error("the load failed")]
    Load(#[from] pointsman_chaos::load::LoadError),
    #[error("files or sockets of the bench")]
    Io(#[from] io::Error),
    #[error("the load ended without figures")]
    NoFigures,
}

/// One proxy in one round.
struct Figures {
    cpu_seconds_per_million: f64,
    total: Total,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    Minimal,
    Pointsman,
    /// Pointsman while the weights in its file change ten times a second.
    Edited,
}

impl Contender {
    const ALL: [Self; 3] = [Self::Minimal, Self::Pointsman, Self::Edited];

    fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal pingora",
            Self::Pointsman => "pointsman",
            Self::Edited => "pointsman, 10 edits/s",
        }
    }
}

struct Bench {
    arguments: Arguments,
    folder: tempfile::TempDir,
    upstreams: [SocketAddr; 2],
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BenchError> {
    let arguments = Arguments::parse();
    let (first, second) = (FakeModel::start("v1").await?, FakeModel::start("v2").await?);
    let bench = Bench { arguments, folder: tempfile::tempdir()?, upstreams: [first.addr(), second.addr()] };
    let mut rounds: Vec<Vec<Figures>> = Vec::new();
    for round in 0..bench.arguments.rounds {
        let mut figures = Vec::new();
        for contender in Contender::ALL {
            figures.push(bench.measure(contender).await?);
        }
        writeln!(io::stderr(), "round {} of {} done", round + 1, bench.arguments.rounds)?;
        rounds.push(figures);
    }
    report(&bench.arguments, &rounds)?;
    Ok(())
}

impl Bench {
    async fn measure(&self, contender: Contender) -> Result<Figures, BenchError> {
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let proxy = self.start(contender, listen)?;
        wait_for(listen, contender.name()).await?;
        self.load(listen, 1).await?;
        let pid = proxy.id().unwrap_or_default();
        let before = cpu_seconds(pid)?;
        let (total, ()) = tokio::try_join!(self.load(listen, self.arguments.seconds), self.edit(contender, listen))?;
        let used = cpu_seconds(pid)? - before;
        let answered = f64::from(u32::try_from(total.figures.answered.max(1)).unwrap_or(u32::MAX));
        Ok(Figures { cpu_seconds_per_million: used * 1e6 / answered, total })
    }

    fn start(&self, contender: Contender, listen: SocketAddr) -> Result<Child, BenchError> {
        let [first, second] = self.upstreams;
        let what = contender.name();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).stdout(Stdio::null()).kill_on_drop(true).env("RUST_LOG", "error");
        if contender == Contender::Minimal {
            command.arg(beside("minimal_pingora")?);
            command.args([
                "--listen",
                &listen.to_string(),
                "--first",
                &first.to_string(),
                "--second",
                &second.to_string(),
            ]);
        } else {
            fs::write(self.config(), self.config_text(listen, 10))?;
            command.arg(beside("pointsman")?).args(["run", "--drain-delay", "0s", "--config"]).arg(self.config());
        }
        command.spawn().map_err(|source| BenchError::Start { what, source })
    }

    async fn load(&self, to: SocketAddr, seconds: u64) -> Result<Total, BenchError> {
        let mut load = Load::new(&format!("http://{to}/v1/predict"))?;
        load.rate = self.arguments.rate;
        load.connections = self.arguments.connections;
        load.duration = Some(Duration::from_secs(seconds));
        load.bodies.push(vec![b'x'; BODY_BYTES].into());
        load.start()?.finish().await.ok_or(BenchError::NoFigures)
    }

    /// Rewrites the weights ten times a second as long as the load lasts.
    async fn edit(&self, contender: Contender, listen: SocketAddr) -> Result<(), BenchError> {
        let until = Instant::now() + Duration::from_secs(self.arguments.seconds);
        let mut percent = 10;
        while contender == Contender::Edited && Instant::now() < until {
            percent = if percent == 10 { 11 } else { 10 };
            let draft = self.folder.path().join("draft");
            fs::write(&draft, self.config_text(listen, percent))?;
            fs::rename(draft, self.config())?;
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("pointsman.yaml")
    }

    fn config_text(&self, listen: SocketAddr, percent: u32) -> String {
        let [first, second] = self.upstreams;
        let rest = 100 - percent;
        format!(
            "listeners: [ {{ address: {listen} }} ]\nadmin: {{ address: 127.0.0.1:0 }}\nstate: {{ file: state.db }}\nroutes:\n  - name: bench\n    stable: v1\n    versions:\n      v1: {{ endpoints: [\"{first}\"] }}\n      v2: {{ endpoints: [\"{second}\"] }}\n    weights: {{ v1: {rest}%, v2: {percent}% }}\n"
        )
    }
}

/// A program that was built with this one.
fn beside(program: &str) -> Result<PathBuf, BenchError> {
    let exe = std::env::current_exe()?;
    Ok(exe.parent().unwrap_or(Path::new(".")).join(program))
}

async fn wait_for(address: SocketAddr, what: &'static str) -> Result<(), BenchError> {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(BenchError::Silent { what })
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in brackets and may hold blanks; user and system time are the 14th and 15th.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// The medians as a table, the last column as a ratio to the first contender.
fn report(arguments: &Arguments, rounds: &[Vec<Figures>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} requests/s, {} connections, medians of {} rounds of {} s\n\n{:<22} {:>8} {:>8} {:>8} {:>12} {:>8} {:>12}",
        arguments.rate,
        arguments.connections,
        arguments.rounds,
        arguments.seconds,
        "",
        "lost",
        "p50 ms",
        "p99 ms",
        "CPU s/M",
        "ratio",
        "p99 ratio"
    )?;
    let median = |position: usize, of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.get(position)).map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    for (position, contender) in Contender::ALL.iter().enumerate() {
        let lost: u64 = rounds.iter().filter_map(|round| round.get(position)).map(|one| one.total.figures.failed).sum();
        writeln!(
            out,
            "{:<22} {lost:>8} {:>8.2} {:>8.2} {:>12.1} {:>8.2} {:>12.2}",
            contender.name(),
            median(position, |one| one.total.figures.latency.p50_ms),
            median(position, p99_ms),
            median(position, cpu_seconds_per_million),
            median(position, cpu_seconds_per_million) / median(0, cpu_seconds_per_million),
            median(position, p99_ms) / median(0, p99_ms)
        )?;
    }
    Ok(())
}

fn cpu_seconds_per_million(figures: &Figures) -> f64 {
    figures.cpu_seconds_per_million
}

fn p99_ms(figures: &Figures) -> f64 {
    figures.total.figures.latency.p99_ms
}
