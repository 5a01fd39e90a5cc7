//! One edge of a live world: its files, its process, and what becomes of both.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use pointsman_config::{VersionId, parse_duration, print_duration};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use super::LiveError;
use super::clock::Clock;
use super::cluster::{NAMESPACE, PORT, live_of, service_of};
use super::disk::SmallDisk;
use super::models::Fleet;
use super::names::Names;
use super::process::{Holdings, Process};
use super::programs::{Programs, free_address};
use crate::count::as_u64;
use crate::scenario::{Scenario, StateFault};

/// A drain takes 30 s at most, and the machine is shared.
const ENDS_WITHIN: Duration = Duration::from_secs(45);

/// Long enough for a leader on a machine that others use as well, short enough that its death is over soon.
const LEASE_DURATION: &str = "3s";

/// The edge.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) clients: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) folder: PathBuf,
    program: PathBuf,
    disk: Option<SmallDisk>,
    names: Option<Names>,
    pub(super) clock: Option<Clock>,
    place: Option<Place>,
    descriptors: Option<u64>,
    process: Option<Process>,
    /// Those that another process took over from.
    former: Vec<Process>,
    pub(super) starts: u32,
    /// Whether it is meant to be down.
    pub(super) is_down: bool,
}

/// Where an edge is among others, and how it reaches them.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) number: usize,
    /// How it finds the API server.
    pub(super) kubeconfig: PathBuf,
    /// Where it hears the others; none if it is alone.
    pub(super) hears_at: Option<SocketAddr>,
    /// Its ways to all edges, itself among them.
    pub(super) ways: Vec<SocketAddr>,
    /// What all of them share.
    pub(super) token: PathBuf,
}

impl Edge {
    /// One that has no config file yet and does not run.
    pub(super) fn new(scenario: &Scenario, programs: &Programs, folder: &Path) -> Result<Self, LiveError> {
        fs::create_dir_all(folder).map_err(LiveError::Folder)?;
        let disk = scenario.live.small_disk.then(|| SmallDisk::mount(&folder.join("disk"))).transpose()?;
        Ok(Self {
            clients: free_address()?,
            admin: free_address()?,
            folder: folder.to_owned(),
            program: programs.pointsman.clone(),
            disk,
            names: None,
            clock: None,
            place: None,
            descriptors: scenario.live.descriptors,
            process: None,
            former: Vec::new(),
            starts: 0,
            is_down: false,
        })
    }

    /// One of those that keep their state on an API server.
    pub(super) fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Its clock can be set.
    pub(super) fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Endpoints are named instead of numbered, by names that can fail.
    pub(super) fn with_names(mut self, names: Names) -> Self {
        self.names = Some(names);
        self
    }

    pub(super) fn names(&self) -> Option<&Names> {
        self.names.as_ref()
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.folder.join("pointsman.yaml")
    }

    fn state_file(&self) -> PathBuf {
        self.disk.as_ref().map_or(self.folder.as_path(), SmallDisk::path).join("state.db")
    }

    /// The config file for a route with these keys.
    pub(super) fn config(&self, scenario: &Scenario, keys: &Map<String, Value>, fleet: &Fleet) -> String {
        let mut route = faster(keys, scenario.live.speed);
        let mut revisions = match route.remove("revisions") {
            Some(Value::Object(revisions)) => revisions,
            Some(_) | None => Map::new(),
        };
        let written = |version: &VersionId| {
            let mut written = self.written(version, fleet);
            if let (Some(revision), Some(keys)) = (revisions.remove(version.as_str()), written.as_object_mut()) {
                keys.insert("revision".to_owned(), revision);
            }
            (version.to_string(), written)
        };
        let versions: Map<String, Value> = scenario.versions.keys().map(written).collect();
        route.entry("name").or_insert_with(|| json!(scenario.name));
        route.insert("versions".to_owned(), Value::Object(versions));
        if self.place.is_some() {
            route.entry("kubernetes").or_insert_with(|| json!({ "service": live_of(scenario) }));
        }
        let mut config = json!({
            "listeners": [{ "address": self.clients }],
            "admin": { "address": self.admin },
            "state": self.state(),
            "routes": [route],
        });
        if let (Some(Place { hears_at: Some(address), ways, token, .. }), Some(keys)) =
            (&self.place, config.as_object_mut())
        {
            let replicas = json!({ "address": address, "endpoints": ways, "token_file": token });
            keys.insert("replicas".to_owned(), replicas);
        }
        format!("{config:#}\n")
    }

    fn state(&self) -> Value {
        match &self.place {
            Some(_) => json!({ "kubernetes": { "namespace": NAMESPACE, "lease_duration": LEASE_DURATION } }),
            None => json!({ "file": self.state_file() }),
        }
    }

    /// Where a version is, for the config file.
    fn written(&self, version: &VersionId, fleet: &Fleet) -> Value {
        if self.place.is_some() {
            return json!({ "service": service_of(version), "port": PORT });
        }
        let of = |address: &SocketAddr| self.names.as_ref().map_or(address.to_string(), |_| Names::of(*address));
        json!({ "endpoints": fleet.addresses(version).iter().map(of).collect::<Vec<_>>() })
    }

    /// Puts a text in place of the config file, as editors do.
    pub(super) fn write_config(&self, text: &str) -> Result<(), LiveError> {
        let (file, draft) = (self.config_file(), self.folder.join("draft"));
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &file)).map_err(LiveError::Folder)
    }

    /// Starts it on what its files hold.
    pub(super) async fn come(&mut self) -> Result<(), LiveError> {
        self.process = Some(self.run(&[]).await?);
        self.is_down = false;
        Ok(())
    }

    /// Another process takes over from it.
    pub(super) async fn upgrade(&mut self) -> Result<(), LiveError> {
        let successor = self.run(&["--upgrade"]).await?;
        self.former.extend(self.process.replace(successor));
        Ok(())
    }

    async fn run(&mut self, more: &[&str]) -> Result<Process, LiveError> {
        self.starts += 1;
        let log = File::create(self.folder.join(format!("edge.{}.log", self.starts))).map_err(LiveError::Folder)?;
        let mut words: Vec<String> = Vec::new();
        words.extend(self.names.iter().flat_map(Names::wrapper));
        words.extend(self.descriptors.iter().flat_map(|limit| {
            let script = format!("ulimit -n {limit} && exec \"$@\"");
            ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
        }));
        words.extend([self.program.display().to_string(), "run".to_owned(), "--config".to_owned()]);
        words.push(self.config_file().display().to_string());
        words.extend(["--drain-delay", "0s"].iter().chain(more).map(|&word| word.to_owned()));
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stderr(log).env("RUST_LOG", "warn");
        if let Some(Place { number, kubeconfig, .. }) = &self.place {
            command.env("KUBECONFIG", kubeconfig).env("HOSTNAME", format!("edge-{number}"));
        }
        if let Some(clock) = &self.clock {
            clock.give(&mut command);
        }
        let started = Process::start("the edge", command, &["listening on", "admin on"]).await;
        started.map(|(process, _)| process).map_err(|error| self.not_there(error))
    }

    /// What its own last words say of why it is not there.
    fn not_there(&self, error: LiveError) -> LiveError {
        let log = self.folder.join(format!("edge.{}.log", self.starts));
        if matches!(error, LiveError::Ended { .. }) {
            return LiveError::EdgeEnded { log, words: self.last_words() };
        }
        error
    }

    /// As a power cut would; whether it was there until then.
    pub(super) async fn kill(&mut self) -> bool {
        self.is_down = true;
        let Some(mut process) = self.process.take() else { return false };
        let was_there = process.ended().is_none();
        process.kill().await;
        was_there
    }

    /// Stands still, or goes on from where it stood; to who waits for it, it is down meanwhile.
    pub(super) fn freeze(&mut self, is_frozen: bool) -> Result<(), LiveError> {
        let Some(process) = &self.process else { return Ok(()) };
        process.signal(if is_frozen { Signal::SIGSTOP } else { Signal::SIGCONT })?;
        self.is_down = is_frozen;
        Ok(())
    }

    /// Whether its process stands still.
    pub(super) fn stands_still(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_stopped)
    }

    /// Whether it has ended though nobody ended it.
    pub(super) fn died(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.ended()
    }

    pub(super) fn holdings(&self) -> Option<Holdings> {
        self.process.as_ref()?.holdings()
    }

    /// Asks it to end; what is wrong with that, in words.
    pub(super) fn ask_to_end(&self) -> Option<String> {
        let error = self.process.as_ref()?.signal(Signal::SIGTERM).err()?;
        Some(format!("the edge could not be asked to end: {error}"))
    }

    /// Waits until it has ended, and those before it: what did not end well, in words.
    pub(super) async fn end(&mut self) -> Vec<String> {
        let mut broken = Vec::new();
        for mut process in self.former.drain(..).chain(self.process.take()) {
            match process.end_within(ENDS_WITHIN).await {
                Some(status) if status.success() => {}
                Some(status) => broken.push(format!("an edge that was to end in order ended with {status}")),
                None => broken.push(format!("an edge did not end within {ENDS_WITHIN:?}")),
            }
        }
        broken
    }

    /// In how many lines of its logs these words stand.
    pub(super) fn lines_with(&self, words: &str) -> u64 {
        let logs = (1..=self.starts).filter_map(|start| self.log(start));
        let lines: usize = logs.map(|text| text.lines().filter(|line| line.contains(words)).count()).sum();
        as_u64(lines)
    }

    /// What its logs say of panics.
    pub(super) fn panics(&self) -> Vec<String> {
        let logs = (1..=self.starts).filter_map(|start| self.log(start));
        logs.flat_map(|text| {
            text.lines().filter(|line| line.contains("panicked")).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
    }

    fn log(&self, start: u32) -> Option<String> {
        fs::read_to_string(self.folder.join(format!("edge.{start}.log"))).ok()
    }

    /// The end of its newest log.
    pub(super) fn last_words(&self) -> String {
        let text = self.log(self.starts).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
    }

    /// Something happens to the state file of an edge that is down, or to its disk; false where there was nothing to spoil.
    pub(super) fn spoil_state(&self, fault: StateFault) -> Result<bool, LiveError> {
        let file = self.state_file();
        let was_there = file.exists();
        match fault {
            StateFault::Full => self.disk.as_ref().map_or(Ok(()), SmallDisk::fill),
            StateFault::ReadOnly => self.disk.as_ref().map_or(Ok(()), |disk| disk.allow_writes(false)),
            StateFault::CorruptByte => page_of_decisions(&file)
                .map_err(|source| LiveError::State { source })
                .and_then(|place| change_byte(&file, place).map_err(LiveError::Folder)),
            StateFault::CutOff => checkpointed(&file)
                .map_err(|source| LiveError::State { source })
                .and_then(|_closed| cut_off(&file).map_err(LiveError::Folder)),
            StateFault::Deleted => remove_all(&file).map_err(LiveError::Folder),
            StateFault::Newer => make_newer(&file).map_err(|source| LiveError::State { source }),
        }?;
        Ok(was_there)
    }

    /// The disk works again.
    pub(super) fn mend_state(&self) -> Result<(), LiveError> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.allow_writes(true).and_then(|()| disk.empty()))
    }
}

/// The file and what `SQLite` keeps beside it.
fn with_companions(file: &Path) -> impl Iterator<Item = PathBuf> {
    ["", "-wal", "-shm"].into_iter().map(|ending| PathBuf::from(format!("{}{ending}", file.display())))
}

/// Brings what was written ahead into the file itself, which is read then and not what stands beside it.
fn checkpointed(file: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open(file)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(()))?;
    Ok(connection)
}

/// Where the page begins that every start reads the decisions from.
fn page_of_decisions(file: &Path) -> rusqlite::Result<u64> {
    let connection = checkpointed(file)?;
    let bytes: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let page: u32 =
        connection.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'decision'", [], |row| row.get(0))?;
    Ok(u64::from(page.saturating_sub(1)) * u64::from(bytes))
}

fn change_byte(file: &Path, place: u64) -> std::io::Result<()> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place)?;
    file.write_all_at(&byte.map(|byte| byte ^ 0x55), place)
}

fn cut_off(file: &Path) -> std::io::Result<()> {
    let whole = fs::metadata(file)?.len();
    File::options().write(true).open(file)?.set_len(whole / 2)
}

fn remove_all(file: &Path) -> std::io::Result<()> {
    with_companions(file).filter(|file| file.exists()).try_for_each(fs::remove_file)
}

/// Says in the file that a later version wrote it.
fn make_newer(file: &Path) -> rusqlite::Result<()> {
    let connection = rusqlite::Connection::open(file)?;
    connection.execute("UPDATE meta SET value = '999' WHERE key = 'format'", []).map(drop)
}

/// The same keys, with the plan and its proof so many times faster. What is real stays: latencies, timeouts, checks.
fn faster(keys: &Map<String, Value>, speed: f64) -> Map<String, Value> {
    let mut keys = keys.clone();
    if let Some(plan) = keys.get_mut("rollout") {
        hurry(plan, speed);
    }
    if let Some(proof) = keys.get_mut("guard").and_then(|guard| guard.get_mut("promotion")) {
        hurry(proof, speed);
    }
    keys
}

fn hurry(value: &mut Value, speed: f64) {
    match value {
        Value::String(text) => {
            if let Ok(span) = parse_duration(text) {
                let millis = (span.as_secs_f64() * 1e3 / speed).ceil().max(1.0);
                *text = print_duration(Duration::from_secs_f64(millis / 1e3));
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| hurry(value, speed)),
        Value::Object(values) => values.values_mut().for_each(|value| hurry(value, speed)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_and_half_a_file_are_damage_that_a_start_reads() {
        let folder = tempfile::tempdir().unwrap();
        for spoil in [StateFault::CorruptByte, StateFault::CutOff] {
            let file = folder.path().join(format!("{spoil:?}.db"));
            let mut kept = Vec::new();
            for connection in [rusqlite::Connection::open(&file).unwrap()] {
                connection.pragma_update(None, "journal_mode", "WAL").unwrap();
                let schema = "CREATE TABLE meta (key TEXT); CREATE TABLE decision (id INTEGER PRIMARY KEY, json TEXT);";
                connection.execute_batch(schema).unwrap();
                connection.execute("INSERT INTO decision (json) VALUES ('first')", []).unwrap();
                // As an edge that is killed leaves it: what was written stands beside the file.
                for ending in ["", "-wal"] {
                    kept.push((ending, fs::read(format!("{}{ending}", file.display())).unwrap()));
                }
            }
            for (ending, bytes) in kept {
                fs::write(format!("{}{ending}", file.display()), bytes).unwrap();
            }
            if spoil == StateFault::CorruptByte {
                change_byte(&file, page_of_decisions(&file).unwrap()).unwrap();
            } else {
                drop(checkpointed(&file).unwrap());
                cut_off(&file).unwrap();
            }
            let connection = rusqlite::Connection::open(&file).unwrap();
            let read = connection.query_row("SELECT json FROM decision", [], |row| row.get::<_, String>(0));
            let code = read.unwrap_err().sqlite_error_code();
            assert_eq!(code, Some(rusqlite::ErrorCode::DatabaseCorrupt), "{spoil:?}");
        }
    }

    #[test]
    fn only_the_plan_and_its_proof_go_faster() {
        let keys = json!({
            "rollout": { "canary": "v2", "steps": [{ "weight": "5%", "hold": "1m" }], "bake": "10s" },
            "guard": { "promotion": { "min_soak": "5m", "difference": "1%" }, "latency": { "threshold": "500ms" } },
            "timeouts": { "read": "2s" },
        });
        let Value::Object(keys) = keys else { panic!("no keys") };
        let fast = Value::Object(faster(&keys, 20.0));
        assert_eq!(fast["rollout"]["steps"][0], json!({ "weight": "5%", "hold": "3s" }));
        assert_eq!(fast["rollout"]["bake"], "500ms");
        assert_eq!(fast["guard"]["promotion"], json!({ "min_soak": "15s", "difference": "1%" }));
        assert_eq!(
            (&fast["guard"]["latency"]["threshold"], &fast["timeouts"]["read"]),
            (&json!("500ms"), &json!("2s"))
        );
    }
}
