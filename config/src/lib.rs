//! What an operator can say: the config file, parsed once at the border, checked, and right by its types.
//!
//! On the line of an edit this is `file → config`: text becomes a tree with places (`tree`), the tree becomes the
//! structs of the file (`read`, `scalar`, `file`), and these become a [`Config`] (`check`). Every stop reports what
//! is wrong (`error`) and goes on. No I/O happens here: whoever calls reads the file, and resolves the relative paths
//! in it against the file's folder.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

mod assign;
mod check;
mod endpoints;
mod error;
mod file;
mod freeze;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod kubernetes;
mod limits;
mod listener;
mod mirror;
mod notify;
mod observe;
mod outside;
mod paths;
mod plan;
mod print;
mod read;
mod reference;
mod retries;
mod route;
mod scalar;
mod split;
mod tree;
mod units;

pub use assign::{Ask, Override, OverrideSource, Sticky, StickyCookie};
pub use endpoints::{
    CertificateFiles, Ejection, Example, Golden, HealthCheck, Protocol, Signature, UpstreamTls, WarmUp,
};
pub use error::{ConfigErrors, Place, Problem, Severity};
pub use freeze::{Freeze, Standing, Windows};
pub use kubernetes::{KubernetesState, LiveService, Peers, Replicas, Retire, ServicePort, VersionService};
pub use limits::{Concurrency, Limits, RateKey, RateLimit};
pub use listener::{Listener, ListenerTls};
pub use mirror::{Compare, Mirror};
pub use notify::{NewsKind, SecretSource, Webhook, WebhookFormat, WebhookUrl};
pub use observe::{AccessLog, Traces};
pub use outside::{Before, Compared, Names, Otherwise, OutsideGate, Query, Template};
pub use plan::{
    Against, DriftGuard, ErrorKind, Guard, OnDrift, OnRegression, Plan, Promotion, PromotionGuard, Rollout, Step,
    Strategy, Tolerance,
};
pub use reference::{json_schema, reference_markdown};
pub use retries::{Replay, Retries};
pub use route::{Backends, DEFAULT_SLOW_START, Endpoint, Host, Match, Route, Timeouts, Version};
pub use split::{Name, NameError, RouteName, Share, ShareError, Split, VersionId};
pub use units::{UnitError, parse_duration, parse_percent, parse_size, print_duration, print_percent, print_size};

use error::Findings;

/// The whole config file, checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// Where operators connect.
    pub admin: Admin,
    /// Where rollout state is kept.
    pub state: State,
    /// How this edge and others decide together; none: it is alone.
    pub replicas: Option<Replicas>,
    /// What is written about single requests; none: nothing.
    pub access_log: Option<AccessLog>,
    /// Where spans go; none: there are none.
    pub traces: Option<Traces>,
    /// Who outside is told of changes; names are unique.
    pub notifications: Vec<Webhook>,
    /// When nothing goes forward; names are unique.
    pub freeze: Vec<Freeze>,
    /// Whether plain requests take the short way. Default yes.
    pub fast_lane: bool,
    /// What is served; names are unique, and so are matches. At least one.
    pub routes: Vec<Route>,
}

/// A config that can be used, and what someone should look at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parsed {
    /// The config.
    pub config: Config,
    /// Problems that do not stop it from being used, in the file's order.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads a config file's text; `origin` names the file in messages. Relative paths in it (`state.file`,
    /// `admin.token_file`, certificates) stay relative: they start at the folder of the config file, which the caller knows.
    ///
    /// # Errors
    /// If one thing or more is wrong: every problem of the file, each with its place and the way out. Text that is
    /// not YAML gives one problem, since nothing behind it can be read.
    pub fn parse(text: &str, origin: &str) -> Result<Parsed, ConfigErrors> {
        let findings = Findings::default();
        let config =
            tree::read(text, &findings).ok().and_then(|root| check::config(&read::read(&root, &findings), &findings));
        let problems = findings.into_problems(origin);
        match config {
            Some(config) if problems.iter().all(|problem| problem.severity == Severity::Warning) => {
                Ok(Parsed { config, warnings: problems })
            }
            Some(_) | None => Err(ConfigErrors::new(problems)),
        }
    }
}

/// Where the value at `path`, such as `routes[0].rollout.steps[1]`, stands in `text`, for whoever finds something to say
/// about a file that can be used; of a path that is not written, where the last part of it that is stands.
pub fn place_of(text: &str, origin: &str, path: &str) -> Place {
    let root = tree::read(text, &Findings::default());
    let (line, column) = root.map_or((1, 1), |root| tree::locate(&root, path));
    Place { origin: origin.into(), line, column }
}

/// Where operators connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// Default 127.0.0.1:9900; port 0 takes a free one.
    pub address: SocketAddr,
    /// File with the bearer token; always there unless the address is loopback.
    pub token_file: Option<PathBuf>,
}

/// Where rollout state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In an SQLite file. Default `/var/lib/pointsman/state.db`.
    File(PathBuf),
    /// In a cluster: that of each route on its live Service.
    Kubernetes(KubernetesState),
}

impl Config {
    /// Whether an API server is needed: for state, or to find endpoints.
    pub fn needs_cluster(&self) -> bool {
        let discovers = |route: &Route| route.versions.values().any(|version| version.service().is_some());
        matches!(self.state, State::Kubernetes(_)) || self.routes.iter().any(discovers)
    }
}
