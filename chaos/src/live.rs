//! A scenario on real processes: the edge and its endpoints on loopback, real load, real faults, real time.
//!
//! On the way of one scenario: the endpoints and the edge start ([`models`], [`edge`]), the load begins ([`traffic`]), the stage
//! plays the events ([`stage`]) while the watcher holds what it sees against the invariants of both worlds ([`watch`]), and at
//! the end the books of both sides are compared ([`verdict`]). Everything that was started ends with it, also when it is
//! dropped on the way.

mod clients;
mod clock;
mod cluster;
mod disk;
mod draws;
mod edge;
mod edges;
mod http;
mod kinds;
mod models;
mod names;
mod process;
mod programs;
mod record;
mod selector;
mod shrink;
pub mod soak;
mod stage;
mod strikes;
mod traffic;
mod verdict;
mod watch;

use std::io;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Uid;
use tempfile::TempDir;

pub use programs::Programs;
pub use record::{EdgeFigures, Record, Requests, page, row, table};
pub use shrink::{smallest, takes};

use crate::fault::FaultsError;
use crate::load::LoadError;
use crate::scenario::{Scenario, What};
use stage::Stage;

/// So many requests a second, with the processes that belong to them, take about a core.
const CARRIED: f64 = 9_000.0;
/// Descriptors for everything but clients: processes, ways between them, questions.
const DESCRIPTORS_BESIDE: u64 = 256;
/// So many clients beside the load are nothing.
const FEW: u32 = 1_000;

/// Why a scenario cannot be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A program is not there.
    #[error("{name} is not in {}; build it with cargo build --workspace --bins", folder.display())]
    Missing {
        /// Which.
        name: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A process could not be started, or not be signalled.
    #[error("{what} cannot be started or reached")]
    Start {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A process ended, or never said where it is.
    #[error("{what} ended, or did not say where it listens; its log lies in the scenario's folder")]
    Ended {
        /// Which.
        what: &'static str,
    },
    /// The edge ended, or never said where it is.
    #[error("the edge ended, or did not say where it listens; the last words of its log {}:\n{words}", log.display())]
    EdgeEnded {
        /// Its log.
        log: PathBuf,
        /// How that ends.
        words: String,
    },
    /// This process may not have as many descriptors as the scenario has clients.
    #[error("{wanted} file descriptors are needed, and {allowed} are allowed; raise `ulimit -n`")]
    Descriptors {
        /// For clients, load and the rest.
        wanted: u64,
        /// By the system.
        allowed: u64,
    },
    /// No port is free.
    #[error("no port from 20000 to 31999 is free on loopback; end what listens there")]
    NoPort,
    /// The folder of the scenario.
    #[error(
        "the files of the scenario cannot be changed; look at the room and the rights in the folder of temporary files"
    )]
    Folder(#[source] io::Error),
    /// The state file.
    #[error("the state file cannot be changed")]
    State {
        /// Why.
        source: rusqlite::Error,
    },
    /// The load.
    #[error("the load cannot be started")]
    Load(#[source] LoadError),
    /// Faults that make no sense.
    #[error("the faults of the scenario cannot be played")]
    Faults(#[source] FaultsError),
}

/// Plays a scenario. Where it needs what is not at hand, the record says so.
///
/// # Errors
/// When a process cannot be started, or a file not be changed: the world is broken, not the edge.
pub async fn play(scenario: &Scenario, programs: &Programs) -> Result<Record, LiveError> {
    let record = Record::of(scenario);
    if let Some(why) = not_at_hand(scenario) {
        return Ok(Record { skipped: Some(why.to_owned()), ..record });
    }
    check_descriptors(scenario)?;
    let folder = folder()?;
    let played = async { Stage::set(scenario, programs, folder.path()).await?.play(record).await };
    match played.await {
        Ok(record) if record.broken.is_empty() => Ok(record),
        Ok(mut record) => {
            record.trace.push(format!("the logs lie in {}", folder.keep().display()));
            Ok(record)
        }
        Err(error) => {
            tracing::error!(folder = %folder.keep().display(), scenario = scenario.name, "the logs lie there");
            Err(error)
        }
    }
}

/// Plays a scenario of which only the verdict is asked: no folder is left behind.
async fn try_out(scenario: &Scenario, programs: &Programs) -> Result<Record, LiveError> {
    let folder = folder()?;
    Stage::set(scenario, programs, folder.path()).await?.play(Record::of(scenario)).await
}

/// What a scenario leaves behind goes in here, and goes with it.
fn folder() -> Result<TempDir, LiveError> {
    tempfile::Builder::new().prefix("pointsman-chaos-").tempdir().map_err(LiveError::Folder)
}

/// Each client is a descriptor of this process.
fn check_descriptors(scenario: &Scenario) -> Result<(), LiveError> {
    let clients = scenario.events.iter().filter_map(|event| event.what.clients()).map(u64::from).sum::<u64>();
    let wanted = clients + u64::try_from(scenario.live.connections).unwrap_or(u64::MAX / 2) + DESCRIPTORS_BESIDE;
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|errno| LiveError::Start { what: "the limit of open files", source: errno.into() })?;
    if wanted <= allowed { Ok(()) } else { Err(LiveError::Descriptors { wanted, allowed }) }
}

/// Why a scenario cannot be played here, and the way out.
fn not_at_hand(scenario: &Scenario) -> Option<&'static str> {
    if needs_root(scenario) && !Uid::effective().is_root() {
        return Some("mounting needs root");
    }
    (scenario.events.iter().any(edges::sets_clock) && clock::library().is_none()).then_some(clock::MISSING)
}

/// Whether a scenario needs the machine for itself: it mounts, has thousands of clients, or load for which one core is not enough.
pub fn is_alone(scenario: &Scenario) -> bool {
    let times = scenario
        .events
        .iter()
        .filter_map(|event| event.what.swell())
        .fold(1.0, |most, swell| f64::max(most, swell.times));
    let clients = scenario.events.iter().filter_map(|event| event.what.clients());
    needs_root(scenario)
        || scenario.rate * scenario.live.speed * times > CARRIED
        || clients.max().is_some_and(|clients| clients > FEW)
}

fn needs_root(scenario: &Scenario) -> bool {
    scenario.live.small_disk || scenario.events.iter().any(|event| event.what == What::Names)
}
