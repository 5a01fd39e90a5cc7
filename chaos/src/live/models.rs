//! The endpoints of a live world, each a process: what they answer, and how they go and come.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use nix::sys::signal::Signal;
use pointsman_config::VersionId;
use tokio::process::Command;

use super::LiveError;
use super::http::Caller;
use super::process::Process;
use super::programs::{Programs, free_address};
use super::strikes::Tally;
use crate::fault::{Counts, Faults, FaultsError, When};
use crate::scenario::{Behaviour, DownBy, Fault, Latency, Models, Scenario};

/// A fake answers at once, also on a machine that others use; who does not is asked again.
const FAKE_PATIENCE: Duration = Duration::from_secs(1);
/// A fake that moves is told within so long how to answer.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// A process stands still within so long.
const STILL_WITHIN: Duration = Duration::from_secs(2);
const AGAIN_AFTER: Duration = Duration::from_millis(5);
/// An endpoint that is cold for so long at least is found cold after its start.
const SURELY_COLD: Duration = Duration::from_secs(1);

/// The number that a wrong answer holds.
const WRONG: f64 = -1.0;

/// The bundles that a real model server serves: of stable, and of every other version.
const BUNDLES: [(&str, &str, &[u8]); 4] = [
    ("stable", "model.json", include_bytes!("../../../model-server/models/delivery-time/v1/model.json")),
    ("stable", "model.safetensors", include_bytes!("../../../model-server/models/delivery-time/v1/model.safetensors")),
    ("other", "model.json", include_bytes!("../../../model-server/models/delivery-time/v2/model.json")),
    ("other", "model.safetensors", include_bytes!("../../../model-server/models/delivery-time/v2/model.safetensors")),
];

/// Inputs of the golden examples of the bundle that stable serves.
pub(super) fn real_bodies() -> Vec<String> {
    let model: serde_json::Value =
        BUNDLES.first().and_then(|(_, _, text)| serde_json::from_slice(text).ok()).unwrap_or_default();
    let examples = model.pointer("/golden/examples").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    examples.iter().filter_map(|example| example.get("input")).map(ToString::to_string).collect()
}

/// Every version's endpoints.
#[derive(Debug)]
pub(super) struct Fleet {
    programs: Programs,
    caller: Caller,
    kind: Models,
    bundles: PathBuf,
    stable: VersionId,
    versions: BTreeMap<VersionId, Vec<Endpoint>>,
    /// What the endpoints of each version did.
    tallies: BTreeMap<VersionId, Tally>,
}

#[derive(Debug)]
struct Endpoint {
    address: SocketAddr,
    /// Of a fake, where it is told how to answer.
    control: Option<SocketAddr>,
    process: Option<Process>,
    is_frozen: bool,
    /// How it should answer.
    faults: Faults,
    /// How it does, as far as it was told.
    in_force: Faults,
    /// Since when it was told in vain.
    untold_since: Option<Instant>,
    /// Whether that was said.
    is_said: bool,
    /// What its process had counted when it was last asked.
    counted: Counts,
}

impl Endpoint {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            control: None,
            process: None,
            is_frozen: false,
            faults: Faults::none(),
            in_force: Faults::none(),
            untold_since: None,
            is_said: false,
            counted: Counts::default(),
        }
    }

    /// Whether it is a fake that answers otherwise than it should, or will when it moves again.
    fn needs_telling(&self) -> bool {
        self.control.is_some() && self.process.is_some() && self.in_force != self.faults
    }

    /// Where a fake is told, if it listens.
    fn ear(&self) -> Option<SocketAddr> {
        self.control.filter(|_| self.process.is_some() && !self.is_frozen)
    }
}

impl Fleet {
    /// Starts every endpoint.
    pub(super) async fn start(scenario: &Scenario, programs: &Programs, folder: &Path) -> Result<Self, LiveError> {
        let bundles = folder.join("models");
        if scenario.live.models == Models::ModelServer {
            unpack(&bundles).map_err(LiveError::Folder)?;
        }
        let mut fleet = Self {
            programs: programs.clone(),
            caller: Caller::with_patience(FAKE_PATIENCE),
            kind: scenario.live.models,
            bundles,
            stable: scenario.route.stable.clone(),
            versions: BTreeMap::new(),
            tallies: BTreeMap::new(),
        };
        for (version, behaviour) in &scenario.versions {
            let mut endpoints = Vec::new();
            for _ in 0..behaviour.endpoints {
                let mut endpoint = Endpoint::new(free_address()?);
                fleet.come(version, &mut endpoint, Duration::ZERO).await?;
                endpoints.push(endpoint);
            }
            fleet.versions.insert(version.clone(), endpoints);
        }
        Ok(fleet)
    }

    /// Where each version is.
    pub(super) fn addresses(&self, version: &VersionId) -> Vec<SocketAddr> {
        self.versions.get(version).into_iter().flatten().map(|endpoint| endpoint.address).collect()
    }

    /// Where each endpoint is, and whether its process is there and moves.
    pub(super) fn presence(&self) -> BTreeMap<&VersionId, Vec<(SocketAddr, bool)>> {
        let of = |endpoint: &Endpoint| (endpoint.address, endpoint.process.is_some() && !endpoint.is_frozen);
        self.versions.iter().map(|(version, endpoints)| (version, endpoints.iter().map(of).collect())).collect()
    }

    /// Every endpoint of a version answers like this from now on, also one that comes back later. One that stands still is told
    /// when it moves again; what keeps another one from it for long is said, once.
    pub(super) async fn answer(&mut self, version: &VersionId, faults: Faults) -> Vec<String> {
        let mut untold = Vec::new();
        for endpoint in self.versions.get_mut(version).into_iter().flatten() {
            endpoint.faults = faults;
            if endpoint.needs_telling() && endpoint.ear().is_some() {
                let tally = self.tallies.entry(version.clone()).or_default();
                let told = count(&self.caller, endpoint, tally).await;
                let told = if told { tell(&self.caller, endpoint).await } else { Told::NotHeard };
                untold.extend(told.complaint(version, endpoint));
            }
        }
        untold
    }

    /// Whether every endpoint answers as it should.
    pub(super) fn is_told(&self) -> bool {
        !self.versions.values().flatten().any(Endpoint::needs_telling)
    }

    /// What the endpoints of a version did until now, those left out that stand still.
    pub(super) async fn tally(&mut self, version: &VersionId) -> Tally {
        let tally = self.tallies.entry(version.clone()).or_default();
        for endpoint in self.versions.get_mut(version).into_iter().flatten() {
            count(&self.caller, endpoint, tally).await;
        }
        tally.clone()
    }

    /// The first `endpoints` of a version go; how many did.
    pub(super) async fn go(&mut self, version: &VersionId, endpoints: usize, by: DownBy) -> Result<u64, LiveError> {
        let mut gone = 0;
        for endpoint in self.versions.get_mut(version).into_iter().flatten().take(endpoints) {
            // What it counted goes with it.
            count(&self.caller, endpoint, self.tallies.entry(version.clone()).or_default()).await;
            match (by, &mut endpoint.process) {
                (DownBy::Killed, Some(process)) => {
                    gone += u64::from(process.ended().is_none());
                    process.kill().await;
                    endpoint.process = None;
                }
                (DownBy::Frozen, Some(process)) => {
                    process.signal(Signal::SIGSTOP)?;
                    endpoint.is_frozen = true;
                    gone += u64::from(is_still(process).await);
                }
                (DownBy::Killed | DownBy::Frozen, None) => {}
            }
        }
        Ok(gone)
    }

    /// And come back; what of it is not as it should be.
    pub(super) async fn come_back(
        &mut self,
        version: &VersionId,
        endpoints: usize,
        cold: Duration,
    ) -> Result<Vec<String>, LiveError> {
        let mut all = self.versions.remove(version).unwrap_or_default();
        let mut result = Ok(Vec::new());
        for endpoint in all.iter_mut().take(endpoints) {
            endpoint.is_frozen = false;
            endpoint.untold_since = None;
            let came = match &endpoint.process {
                Some(process) => process.signal(Signal::SIGCONT).map(|()| None),
                None => self.come_again(version, endpoint, cold).await,
            };
            result = result.and_then(|mut wrong| {
                wrong.extend(came?);
                Ok(wrong)
            });
            if result.is_err() {
                break;
            }
        }
        self.versions.insert(version.clone(), all);
        result
    }

    async fn come_again(
        &self,
        version: &VersionId,
        endpoint: &mut Endpoint,
        cold: Duration,
    ) -> Result<Option<String>, LiveError> {
        let since = Instant::now();
        self.come(version, endpoint, cold).await?;
        if cold < SURELY_COLD || self.kind == Models::ModelServer {
            return Ok(None);
        }
        // On a machine that was busy for so long it may well be ready.
        let is_ready = self.caller.text(endpoint.address, "/ready").await.is_some() && since.elapsed() < cold;
        Ok(is_ready.then(|| format!("an endpoint of {version} was ready at once, and was to be cold for {cold:?}")))
    }

    async fn come(&self, version: &VersionId, endpoint: &mut Endpoint, cold: Duration) -> Result<(), LiveError> {
        let (what, command, says): (_, _, &[&str]) = match self.kind {
            Models::Fake => ("a fake model", self.fake(version, endpoint, cold), &["listening on", "control on"]),
            Models::ModelServer => ("a model server", self.real(version, endpoint), &["listening on"]),
        };
        let (process, addresses) = Process::start(what, command, says).await?;
        endpoint.process = Some(process);
        endpoint.control = addresses.get(1).copied();
        (endpoint.in_force, endpoint.counted, endpoint.untold_since) = (Faults::none(), Counts::default(), None);
        // In vain it is told again with the next look.
        if endpoint.needs_telling() {
            tell(&self.caller, endpoint).await;
        }
        Ok(())
    }

    fn fake(&self, version: &VersionId, endpoint: &Endpoint, cold: Duration) -> Command {
        let mut command = Command::new(&self.programs.chaos);
        command.args(["model", "--version", version.as_str(), "--listen", &endpoint.address.to_string()]);
        command.args(["--cold", &cold.as_millis().to_string()]).env("RUST_LOG", "error");
        command
    }

    fn real(&self, version: &VersionId, endpoint: &Endpoint) -> Command {
        let bundle = if *version == self.stable { "stable" } else { "other" };
        let mut command = Command::new(&self.programs.model_server);
        command.env("MODEL_PATH", self.bundles.join(bundle)).env("HOST", Ipv4Addr::LOCALHOST.to_string());
        command.env("PORT", endpoint.address.port().to_string()).env("THREADS", "1").env("RUST_LOG", "error");
        command
    }
}

/// What became of telling a fake how to answer.
enum Told {
    Done,
    NotHeard,
    Refused(StatusCode),
}

impl Told {
    /// What is to be said of it, once.
    fn complaint(self, version: &VersionId, endpoint: &mut Endpoint) -> Option<String> {
        let said = |why: String| Some(format!("an endpoint of {version} was not told how to answer: {why}"));
        match self {
            Self::Done => {
                endpoint.untold_since = None;
                None
            }
            Self::Refused(status) => {
                // It will not be taken another time either.
                endpoint.in_force = endpoint.faults;
                said(format!("it refused with {status}"))
            }
            Self::NotHeard => {
                let since = *endpoint.untold_since.get_or_insert_with(Instant::now);
                let is_news = since.elapsed() >= TOLD_WITHIN && !endpoint.is_said;
                endpoint.is_said |= is_news;
                is_news.then(|| said(format!("it did not hear it for {TOLD_WITHIN:?}"))).flatten()
            }
        }
    }
}

/// Tells a fake how to answer.
async fn tell(caller: &Caller, endpoint: &mut Endpoint) -> Told {
    let (Some(control), Ok(faults)) = (endpoint.ear(), serde_json::to_string(&endpoint.faults)) else {
        return Told::NotHeard;
    };
    match caller.ask(Method::PUT, control, "/faults", faults).await {
        Some((status, _)) if status.is_success() => {
            endpoint.in_force = endpoint.faults;
            Told::Done
        }
        Some((status, _)) => Told::Refused(status),
        None => Told::NotHeard,
    }
}

/// Takes in what an endpoint counted since it was last asked; false if it did not say.
async fn count(caller: &Caller, endpoint: &mut Endpoint, tally: &mut Tally) -> bool {
    let Some(control) = endpoint.ear() else { return false };
    let Some(counts) = caller.get::<Counts>(control, "/counts").await else { return false };
    tally.add(&endpoint.counted, &counts, &endpoint.in_force);
    endpoint.counted = counts;
    true
}

/// Whether a process that was stopped stands still.
async fn is_still(process: &Process) -> bool {
    let deadline = Instant::now() + STILL_WITHIN;
    while !process.is_stopped() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    true
}

fn unpack(bundles: &Path) -> std::io::Result<()> {
    for (bundle, file, bytes) in BUNDLES {
        std::fs::create_dir_all(bundles.join(bundle))?;
        std::fs::write(bundles.join(bundle).join(file), bytes)?;
    }
    Ok(())
}

/// How a version answers that behaves like this and is hit by these faults, each with the part of it that is in force.
/// What is slow takes a little longer than `threshold`.
pub(super) fn answers(own: &Behaviour, faults: &[(&Fault, f64)], threshold: Duration) -> Result<Faults, FaultsError> {
    let sum = |base: f64, share: fn(&Fault) -> f64| {
        faults.iter().map(|(fault, part)| part * share(fault)).sum::<f64>() + base
    };
    let status = faults.iter().map(|(fault, _)| fault.status).next_back().unwrap_or(500);
    let together = faults.iter().map(|(fault, _)| fault.together).max().unwrap_or(1);
    let slow = u64::try_from(threshold.as_millis()).unwrap_or(u64::MAX / 4);
    // Several faults at a time may ask for more than there is; then the first kinds take it.
    let mut left = 1.0_f64;
    let mut take = |share: f64| {
        let taken = share.clamp(0.0, left);
        left -= taken;
        taken
    };
    let all = Faults::none()
        .failing(take(sum(own.errors, |fault| fault.errors)), status)?
        .together(together)?
        .hanging(take(sum(0.0, |fault| fault.hang)))?
        .resetting(take(sum(0.0, |fault| fault.reset)), When::BeforeAnswer)?
        .tearing(take(sum(0.0, |fault| fault.torn)))?
        .trickling(take(sum(0.0, |fault| fault.trickle)))?
        .garbling(take(sum(0.0, |fault| fault.garbage)))?
        .predicting_wrong(take(sum(0.0, |fault| fault.wrong)), WRONG)?
        .delaying(sum(own.slow, |fault| fault.slow).min(1.0), slow + slow / 5..=slow + slow / 2)?;
    let latency = faults.iter().filter_map(|(fault, _)| fault.latency).next_back();
    let millis = |span: Duration| span.as_secs_f64() * 1e3;
    latency.map_or(Ok(all), |Latency { median, p99 }| all.taking(millis(median), millis(p99)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault {
            version: "v1".parse().unwrap(),
            errors: 0.5,
            status: 503,
            slow: 0.1,
            hang: 0.0,
            reset: 0.4,
            torn: 0.0,
            trickle: 0.0,
            garbage: 0.0,
            wrong: 0.0,
            latency: None,
            ramp: Duration::ZERO,
            together: 3,
        }
    }

    #[test]
    fn what_several_faults_ask_for_together_never_is_more_than_there_is() {
        let own = Behaviour { endpoints: 1, errors: 0.1, slow: 0.0 };
        let (one, other) = (fault(), fault());
        let none = serde_json::to_value(answers(&own, &[], Duration::from_millis(500)).unwrap()).unwrap();
        assert_eq!(
            (&none["fail"]["share"], &none["hang"]["share"]),
            (&serde_json::json!(0.1), &serde_json::json!(0.0))
        );
        let half = serde_json::to_value(answers(&own, &[(&one, 0.5)], Duration::from_millis(500)).unwrap()).unwrap();
        assert_eq!(half["fail"], serde_json::json!({ "share": 0.35, "status": 503, "together": 3 }));
        assert_eq!(
            (&half["reset"]["share"], &half["delay"]["ms"]),
            (&serde_json::json!(0.2), &serde_json::json!([600, 750]))
        );
        let both = answers(&own, &[(&one, 1.0), (&other, 1.0)], Duration::from_millis(500)).unwrap();
        let both = serde_json::to_value(both).unwrap();
        assert_eq!(
            (&both["fail"]["share"], &both["reset"]["share"]),
            (&serde_json::json!(1.0), &serde_json::json!(0.0))
        );
    }
}
