//! A program that is measured: started on its own core, watched, and ended.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::process;

/// The core of what is measured; the load has another.
const CORE: &str = "0";
/// The core of the load.
const RIG_CORE: &str = "1";
/// What does not listen after this long will not.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// What is not gone after this long is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why something cannot be measured.
#[derive(Debug, Error)]
pub enum SubjectError {
    /// It is not there, or not built.
    #[error("{what} cannot be started; the bench's `make` target installs and builds what is measured")]
    Start {
        /// Who.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It does not listen.
    #[error("{what} does not listen on {address} after 20 s; its messages are above")]
    Silent {
        /// Who.
        what: &'static str,
        /// Where it should.
        address: SocketAddr,
    },
    /// Files, sockets or signals.
    #[error("files, sockets or processes of the bench")]
    Io(#[from] io::Error),
}

/// There is only one core, or no way to stay on one.
#[derive(Debug, Error)]
#[error("the bench needs a second core for the load, and taskset (Debian: util-linux) to stay on it")]
pub struct NoCores;

/// Keeps this process, and every thread that it starts from now on, off the core of what is measured.
///
/// # Errors
/// If the machine has only one.
pub fn leave_their_core() -> Result<(), NoCores> {
    let own = std::process::id().to_string();
    let said = std::process::Command::new("taskset").args(["-pc", RIG_CORE, &own]).output();
    if said.is_ok_and(|said| said.status.success()) { Ok(()) } else { Err(NoCores) }
}

/// A program at work; dropped, it is told to end.
#[derive(Debug)]
pub struct Subject {
    child: Child,
}

impl Subject {
    /// The beginning of a command whose program has the core of what is measured for itself.
    pub fn pinned() -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", CORE]);
        command
    }

    /// Starts `what` for people.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(what: &'static str, command: &mut Command) -> Result<Self, SubjectError> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).env("RUST_LOG", "error");
        let started = command.env("PATH", search_path()).spawn();
        Ok(Self { child: started.map_err(|source| SubjectError::Start { what, source })? })
    }

    /// The processes that do its work now.
    ///
    /// # Errors
    /// If it has gone.
    pub fn pids(&self) -> Result<Vec<u32>, SubjectError> {
        match self.child.id() {
            Some(pid) => Ok(process::family(pid)?),
            None => Ok(Vec::new()),
        }
    }

    /// Sends a signal; whoever has gone meanwhile needs none.
    pub fn tell(&self, what: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), what).unwrap_or_default();
        }
    }

    /// Ends it in its own way; kills it if that takes too long.
    ///
    /// # Errors
    /// If its end cannot be waited for.
    pub async fn stop(mut self) -> Result<(), SubjectError> {
        let family = self.pids()?;
        self.tell(Signal::SIGTERM);
        if timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            for pid in family.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
                // Whoever has gone meanwhile needs no signal.
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_default();
            }
            self.child.wait().await?;
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.tell(Signal::SIGTERM);
    }
}

/// Waits until `what` accepts connections.
///
/// # Errors
/// If it does not.
pub async fn listens(what: &'static str, address: SocketAddr) -> Result<(), SubjectError> {
    let until = Instant::now() + START_PATIENCE;
    while Instant::now() < until {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(SubjectError::Silent { what, address })
}

/// Debian keeps servers where only root's path looks.
pub fn search_path() -> String {
    format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default())
}
