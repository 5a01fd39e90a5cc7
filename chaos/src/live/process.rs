//! The processes of a live world: started, listened to until they say where they are, and ended with it.

use std::fs;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::LiveError;

/// How long a process may take to say where it listens, on a machine that others use as well.
const START_WITHIN: Duration = Duration::from_mins(1);

/// One process; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    what: &'static str,
    child: Child,
    /// Programs of this crate end when it is closed, which it is however this process ends.
    _stdin: Option<ChildStdin>,
    reading: JoinHandle<()>,
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Holdings {
    pub(super) resident_bytes: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
}

impl Process {
    /// Starts `command`, and waits until it has said `PREFIX ADDRESS` for each prefix, in this order.
    pub(super) async fn start(
        what: &'static str,
        mut command: Command,
        prefixes: &[&str],
    ) -> Result<(Self, Vec<SocketAddr>), LiveError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| LiveError::Start { what, source })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or(LiveError::Ended { what })?;
        let mut lines = BufReader::new(stdout).lines();
        let mut addresses = Vec::new();
        for prefix in prefixes {
            let said = timeout(START_WITHIN, address_after(&mut lines, prefix)).await;
            addresses.push(said.ok().flatten().ok_or(LiveError::Ended { what })?);
        }
        // Whoever is not read waits for its reader some day.
        let reading = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((Self { what, child, _stdin: stdin, reading }, addresses))
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), LiveError> {
        let Some(pid) = self.pid() else { return Err(LiveError::Ended { what: self.what }) };
        kill(pid, signal).map_err(|source| LiveError::Start { what: self.what, source: source.into() })
    }

    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }

    /// As a power cut would; returns when it is gone.
    pub(super) async fn kill(&mut self) {
        // What has ended already needs no killing.
        self.child.kill().await.ok();
        self.reading.abort();
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has ended by itself; none if it takes longer.
    pub(super) async fn end_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        timeout(patience, self.child.wait()).await.ok()?.ok()
    }

    /// Whether it stands still since it was told to.
    pub(super) fn is_stopped(&self) -> bool {
        let status = self.pid().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        status.is_some_and(|text| text.lines().any(|line| line.starts_with("State:\tT")))
    }

    /// What it holds now; nothing of a process that has ended.
    pub(super) fn holdings(&self) -> Option<Holdings> {
        let folder = format!("/proc/{}", self.pid()?);
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        let number = |key: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Holdings {
            resident_bytes: number("VmRSS:")? * 1024,
            descriptors: u64::try_from(fs::read_dir(format!("{folder}/fd")).ok()?.count()).ok()?,
            threads: number("Threads:")?,
        })
    }
}

async fn address_after(lines: &mut Lines<BufReader<ChildStdout>>, prefix: &str) -> Option<SocketAddr> {
    while let Some(line) = lines.next_line().await.ok()? {
        let address = line.strip_prefix(prefix).map(|rest| rest.trim().trim_start_matches("http://"));
        if let Some(address) = address.and_then(|address| address.parse().ok()) {
            return Some(address);
        }
    }
    None
}
