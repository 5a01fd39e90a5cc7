//! The processes of the demo: started, listened to until they are ready, and ended again.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::DemoError;

/// How long a process may take to say where it listens.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long a process may take to end after SIGTERM before it is killed.
const END_WITHIN: Duration = Duration::from_secs(5);

/// One process; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Player {
    what: &'static str,
    child: Child,
    /// Closed with the demo: programs of the chaos crate end when it is.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Player {
    /// Starts `command`, which people know as `what`.
    pub(super) fn start(what: &'static str, mut command: Command) -> Result<Self, DemoError> {
        let start = |source| DemoError::Start { what, source };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(start)?;
        let stdout = child.stdout.take().ok_or(DemoError::Ended { what })?;
        let stdin = child.stdin.take();
        Ok(Self { what, child, stdin, lines: BufReader::new(stdout).lines() })
    }

    /// Waits for a line `PREFIX ADDRESS`; gives the address.
    pub(super) async fn says(&mut self, prefix: &str) -> Result<SocketAddr, DemoError> {
        let what = self.what;
        let told = timeout(START_WITHIN, self.address_after(prefix)).await;
        told.unwrap_or_else(|_elapsed| {
            Err(DemoError::InVain { what: format!("{what} to say `{prefix}`"), seconds: START_WITHIN.as_secs() })
        })
    }

    async fn address_after(&mut self, prefix: &str) -> Result<SocketAddr, DemoError> {
        let what = self.what;
        loop {
            let line = self.lines.next_line().await.map_err(|source| DemoError::Start { what, source })?;
            let line = line.ok_or(DemoError::Ended { what })?;
            let address =
                line.strip_prefix(prefix).and_then(|rest| rest.trim().trim_start_matches("http://").parse().ok());
            if let Some(address) = address {
                return Ok(address);
            }
        }
    }

    /// Hands every further line to `take`.
    fn listen(self, take: impl Fn(&str) + Send + 'static) -> Silent {
        let Self { what: _, child, stdin, mut lines } = self;
        let task = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                take(&line);
            }
        });
        Silent { child, stdin, task }
    }

    /// Reads and drops what the process says from here on, so that it never waits for a reader.
    pub(super) fn quiet(self) -> Silent {
        self.listen(|_line| {})
    }
}

/// A process whose words are read in the background.
#[derive(Debug)]
pub(super) struct Silent {
    child: Child,
    stdin: Option<ChildStdin>,
    task: tokio::task::JoinHandle<()>,
}

impl Silent {
    /// Asks the process to end and waits for it; kills it if that takes too long.
    pub(super) async fn end(mut self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        let asked = pid.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
        if !asked || timeout(END_WITHIN, self.child.wait()).await.is_err() {
            // It may have ended in between; then there is nothing left to kill.
            drop(self.child.kill().await);
        }
        drop(self.stdin);
        self.task.abort();
    }
}

/// Finds `program` beside this one, or on the PATH.
pub(super) fn program(program: &'static str, package: &'static str) -> Result<PathBuf, DemoError> {
    let beside = env::current_exe().ok().and_then(|exe| exe.parent().map(|folder| folder.join(program)));
    let on_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let candidates = beside.into_iter().chain(on_path.map(|folder| folder.join(program)));
    candidates.into_iter().find(|path| path.is_file()).ok_or(DemoError::Missing { program, package })
}

/// A model server on a free port.
pub(super) async fn model_server(program: &Path, bundle: &Path) -> Result<(Silent, SocketAddr), DemoError> {
    let mut command = Command::new(program);
    command
        .env("MODEL_PATH", bundle)
        .env("HOST", "127.0.0.1")
        .env("PORT", "0")
        .env("THREADS", "1")
        .env("RUST_LOG", "warn");
    let mut server = Player::start("a model server", command)?;
    let address = server.says("listening on ").await?;
    Ok((server.quiet(), address))
}

/// A fault layer in front of `upstream`: process, address, address of its controls.
pub(super) async fn fault_layer(
    chaos: &Path,
    upstream: SocketAddr,
) -> Result<(Silent, SocketAddr, SocketAddr), DemoError> {
    let mut command = Command::new(chaos);
    command.args(["fault", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--upstream", &upstream.to_string()]);
    command.env("RUST_LOG", "warn");
    let mut layer = Player::start("the fault layer", command)?;
    let address = layer.says("listening on ").await?;
    let control = layer.says("control on ").await?;
    Ok((layer.quiet(), address, control))
}

/// The edge itself: this program, with the config file.
pub(super) async fn edge(config: &Path) -> Result<(Silent, SocketAddr, SocketAddr), DemoError> {
    let what = "the edge";
    let exe = env::current_exe().map_err(|source| DemoError::Start { what, source })?;
    let mut command = Command::new(exe);
    command.arg("run").arg("--config").arg(config).args(["--drain-delay", "0s"]).env("RUST_LOG", "error");
    let mut edge = Player::start(what, command)?;
    let clients = edge.says("listening on ").await?;
    let admin = edge.says("admin on ").await?;
    Ok((edge.quiet(), clients, admin))
}

/// What the load has counted so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Books {
    /// Finished seconds, oldest first.
    pub(super) seconds: Vec<Second>,
}

/// One second of the load, as far as the demo reads it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Second {
    /// When it ended; microseconds since 1970.
    pub(super) unix_us: u64,
    /// Requests with a whole answer.
    pub(super) answered: u64,
    /// No answer, or a status of 500 and above.
    pub(super) failed: u64,
    /// Requests without an answer.
    pub(super) errors: std::collections::BTreeMap<String, u64>,
    /// By `x-pointsman-version` and class of status.
    pub(super) versions: std::collections::BTreeMap<String, std::collections::BTreeMap<String, u64>>,
}

/// The load: a process, and its books.
#[derive(Debug)]
pub(super) struct Load {
    process: Silent,
    books: Arc<Mutex<Books>>,
}

impl Load {
    /// Sends `bodies` in turn to the edge at `rate` requests per second.
    pub(super) fn start(chaos: &Path, edge: SocketAddr, rate: u32, bodies: &[String]) -> Result<Self, DemoError> {
        let mut command = Command::new(chaos);
        command.args([
            "load",
            "--url",
            &format!("http://{edge}/v1/predict"),
            "--rate",
            &rate.to_string(),
            "--connections",
            "32",
        ]);
        command.args(bodies.iter().flat_map(|body| ["--json", body.as_str()])).env("RUST_LOG", "warn");
        let player = Player::start("the load", command)?;
        let books = Arc::new(Mutex::new(Books::default()));
        let written = Arc::clone(&books);
        let process = player.listen(move |line| {
            if let Ok(second) = serde_json::from_str::<Second>(line) {
                written.lock().unwrap_or_else(PoisonError::into_inner).seconds.push(second);
            }
        });
        Ok(Self { process, books })
    }

    /// What was counted so far.
    pub(super) fn books(&self) -> Books {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the load.
    pub(super) async fn end(self) {
        self.process.end().await;
    }
}

impl Books {
    /// The seconds that began and ended within `from..=until` (microseconds since 1970).
    pub(super) fn between(&self, from: u64, until: u64) -> impl Iterator<Item = &Second> {
        self.seconds
            .iter()
            .filter(move |second| second.unix_us.saturating_sub(1_000_000) >= from && second.unix_us <= until)
    }
}

impl Second {
    /// Requests that were answered, or not.
    pub(super) fn requests(&self) -> u64 {
        self.answered + self.errors.values().sum::<u64>()
    }

    /// Answers of one version.
    pub(super) fn answers_of(&self, version: &str) -> u64 {
        self.versions.get(version).map_or(0, |classes| classes.values().sum())
    }

    /// Answers of one version with a status of 500 and above.
    pub(super) fn errors_of(&self, version: &str) -> u64 {
        self.versions.get(version).and_then(|classes| classes.get("5xx").copied()).unwrap_or(0)
    }
}
