//! What can happen in a scenario.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Route, VersionId};
use pointsman_rollout::{OrderKind, PhaseName};
use serde::Deserialize;
use serde_json::{Map, Value};

/// One thing that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, from the start.
    pub at: Duration,
    /// Until when; none: it stays, or has no duration. With a phase it runs from the moment in which that is reached.
    pub until: Option<Duration>,
    /// Not before the route is in this phase.
    pub phase: Option<PhaseName>,
    /// What.
    pub what: What,
    /// As the file has it, on one line.
    pub text: String,
}

impl Event {
    /// Whether it is in force at `now`.
    pub fn is_in_force(&self, now: Duration) -> bool {
        self.at <= now && self.until.is_none_or(|until| now < until)
    }

    /// How long it lasts; none: to the end, or it has no duration.
    pub fn lasts(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_sub(self.at))
    }
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A version answers worse.
    Fault(Fault),
    /// Endpoints of a version are gone.
    Down(Down),
    /// The load is multiplied.
    Traffic(Swell),
    /// Something happens to an edge.
    Edge {
        /// What.
        fault: EdgeFault,
        /// To which.
        who: Who,
        /// What becomes of its state file while it is down.
        state: Option<StateFault>,
    },
    /// The state file of a running edge.
    State(StateFault),
    /// The config file, beside edits; what it held comes back when the event is over.
    Config(ConfigFault),
    /// Clients other than the load.
    Clients(Clients),
    /// Names of endpoints are looked up in vain.
    Names,
    /// The API server.
    Api(ApiFault),
    /// An operator gives an order, to this edge first.
    Order(OrderKind, Who),
    /// The route's part of the config file is edited.
    Edit(Edit),
}

impl What {
    /// How it multiplies the load, if it does.
    pub fn swell(&self) -> Option<&Swell> {
        if let Self::Traffic(swell) = self { Some(swell) } else { None }
    }

    /// How `version` answers worse, if that is what happens.
    pub fn fault_of(&self, version: &VersionId) -> Option<&Fault> {
        if let Self::Fault(fault) = self { Some(fault).filter(|fault| fault.version == *version) } else { None }
    }

    /// Which endpoints of `version` are gone, if that is what happens.
    pub fn down_of(&self, version: &VersionId) -> Option<&Down> {
        if let Self::Down(down) = self { Some(down).filter(|down| down.version == *version) } else { None }
    }

    /// How many clients come beside the load, if that is what happens.
    pub fn clients(&self) -> Option<u32> {
        let Self::Clients(Clients::Idle(count) | Clients::SlowLoris(count) | Clients::Garbage(count)) = self else {
            return None;
        };
        Some(*count)
    }
}

/// How the load is multiplied as time goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Swell {
    /// By how much in full; 0 is no load.
    pub times: f64,
    /// How it comes to that.
    pub shape: Shape,
}

/// The shape of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// In full at once.
    Step,
    /// In full after so long, in a straight line.
    Ramp(Duration),
    /// From nothing special to full and back again in each such period, as a sine goes.
    Wave(Duration),
}

impl Swell {
    /// By how much the load is multiplied after this has lasted so long.
    pub fn after(&self, lasted: Duration) -> f64 {
        let part = match self.shape {
            Shape::Ramp(ramp) if lasted < ramp => lasted.as_secs_f64() / ramp.as_secs_f64(),
            Shape::Wave(period) => (1.0 - (TAU * lasted.as_secs_f64() / period.as_secs_f64()).cos()) / 2.0,
            Shape::Step | Shape::Ramp(_) => return self.times,
        };
        1.0 + (self.times - 1.0) * part
    }
}

/// How a version answers worse; shares are ratios of its requests and add to its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Which version.
    pub version: VersionId,
    /// Fail at once, with `status`.
    pub errors: f64,
    /// The status of those.
    pub status: u16,
    /// Are answered later than the latency threshold.
    pub slow: f64,
    /// Get no answer until the route's timeout.
    pub hang: f64,
    /// Lose their connection before the answer.
    pub reset: f64,
    /// Lose their connection in the middle of the answer's body.
    pub torn: f64,
    /// Get the answer's body drop by drop.
    pub trickle: f64,
    /// Are answered with what is no HTTP.
    pub garbage: f64,
    /// Are answered 200 with a wrong number.
    pub wrong: f64,
    /// How long good answers take; as fast as can be, if none.
    pub latency: Option<Latency>,
    /// How long it takes from nothing to the full shares, in a straight line.
    pub ramp: Duration,
    /// How many requests in a row fail together; 1: each by itself.
    pub together: u32,
}

impl Fault {
    /// How much of it has come after it has lasted so long, as a ratio.
    pub fn part_after(&self, lasted: Duration) -> f64 {
        if lasted >= self.ramp { 1.0 } else { lasted.as_secs_f64() / self.ramp.as_secs_f64() }
    }

    /// The share that fails as far as the edge can see.
    pub fn failing(&self) -> f64 {
        self.errors + self.reset + self.torn + self.garbage
    }

    /// All shares, each an end of its own.
    pub fn all(&self) -> f64 {
        self.failing() + self.slow + self.hang + self.trickle + self.wrong
    }
}

/// A log-normal distribution, as latencies have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Half are shorter.
    pub median: Duration,
    /// 99 of 100 are shorter.
    pub p99: Duration,
}

/// Endpoints that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// Of which version.
    pub version: VersionId,
    /// How many.
    pub endpoints: usize,
    /// How they go.
    pub by: DownBy,
    /// How long they are not ready after they came back.
    pub cold: Duration,
    /// They come and go: so long here, so long gone.
    pub every: Option<Duration>,
}

/// How an endpoint goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownBy {
    /// Its process is killed, and started again.
    #[default]
    Killed,
    /// Its process stands still: connections are made, and nothing is answered.
    Frozen,
}

/// What happens to an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeFault {
    /// It is killed, and starts again when the event is over.
    Killed,
    /// Its process stands still, and goes on when the event is over: connections are made, and nothing is answered or looked at.
    Frozen,
    /// Another process takes over from it.
    Upgraded,
    /// Other edges and the API server do not reach it, nor it them.
    CutOff,
    /// Its clock is off.
    Clock {
        /// Behind, and not ahead.
        is_behind: bool,
        /// By how much.
        by: Duration,
    },
}

/// Which edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Each.
    #[default]
    All,
    /// The one that decides at that moment.
    Leader,
    /// One that does not.
    Follower,
}

/// What happens to the state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateFault {
    /// Its disk is full.
    Full,
    /// It cannot be written.
    ReadOnly,
    /// A byte in its middle is another one.
    CorruptByte,
    /// It is cut off in its middle.
    CutOff,
    /// It is gone.
    Deleted,
    /// It was written by a version that is newer than this.
    Newer,
}

/// What happens to the config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigFault {
    /// The first half of it is there.
    HalfWritten,
    /// It holds bytes of no meaning.
    Garbage,
    /// It changes a hundred times a second, between good and half written.
    Flapping,
    /// It is gone.
    Deleted,
    /// It is there and cannot be read.
    Unreadable,
}

/// Clients other than the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clients {
    /// So many connect and say nothing.
    Idle(u32),
    /// So many send a header byte by byte.
    SlowLoris(u32),
    /// So many send what is no HTTP, one after the other.
    Garbage(u32),
}

/// What happens to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiFault {
    /// Every answer takes a second.
    Slow,
    /// Writes meet somebody else's: 409.
    Conflict,
    /// 429.
    TooMany,
    /// 503.
    Failing,
    /// Nothing is answered.
    Hanging,
    /// Watches are cut off, again and again.
    WatchCut,
    /// Writes are done when nobody waits for them any more.
    Late,
    /// Somebody else changes the live Service.
    ForeignEdit,
}

/// The route's part of the config file, edited.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// As it is read.
    pub route: Arc<Route>,
    /// As it is written, all of it, without `versions` and `name`.
    pub keys: Map<String, Value>,
    /// Which edge sees it later than the others, and by how much.
    pub late: Option<(Who, Duration)>,
}
