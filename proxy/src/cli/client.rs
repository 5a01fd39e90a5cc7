//! The admin API from the operator's side: what it answers, as types, and what to do when it does not.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use pointsman_config::{Name, RouteName};
use pointsman_rollout::Record;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{Agent, Body};

use super::CliError;
use super::kubectl::{ClusterArgs, Forward};
use crate::admin::{
    ACTOR_HEADER, ConfigAnswer, CountsAnswer, DecisionsAnswer, OrderAnswer, Problem, ReasonBody, RoutesAnswer,
};
use crate::notify::TestAnswer;
use crate::view::{DecisionRow, RouteView};

/// Longest that an answer may take; an order waits until it is in force.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Longest that a connection may take to open.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES: u64 = 64 << 20;
/// Longest name of who gives an order, in characters, as the API takes it.
const ACTOR_CHARS: usize = 64;

/// How the type of a problem begins that a client's request met.
const PROBLEM_OF_A_REQUEST: &str = "urn:pointsman:problem:";

/// Where the edge is if nobody says so.
const HERE: &str = "http://127.0.0.1:9900";

/// Where the edge is.
#[derive(Debug, Clone, Default, Args)]
pub struct Connection {
    /// Admin address of the edge; port 9900 of this machine if not given
    #[arg(long, value_name = "URL", env = "POINTSMAN_ADMIN", global = true)]
    pub admin: Option<String>,
    /// File that holds the admin token
    #[arg(long, value_name = "FILE", env = "POINTSMAN_TOKEN_FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Where in a cluster it is
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Whether it is reached through `kubectl`
    #[arg(skip)]
    pub in_cluster: bool,
}

impl Connection {
    /// As the environment says.
    pub(crate) fn of_environment() -> Self {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            admin: named("POINTSMAN_ADMIN").map(|url| url.to_string_lossy().into_owned()),
            token_file: named("POINTSMAN_TOKEN_FILE").map(PathBuf::from),
            ..Self::default()
        }
    }

    /// Settles which edge is meant. What is written beats what the program is called, and that beats the environment: an
    /// order must not go to the edge that a shell was once set up for when another one is named.
    ///
    /// # Errors
    /// If an address and a cluster are both written.
    pub(super) fn settle(&mut self, matches: &ArgMatches, as_plugin: bool) -> Result<(), clap::Error> {
        let is_written = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let cluster = ClusterArgs::NAMES.into_iter().find(|name| is_written(name));
        let address = if is_written("admin") { Some("admin") } else { written_below(matches) };
        match (address, cluster) {
            (Some(address), Some(cluster)) => return Err(two_edges(address, cluster)),
            (Some(_), None) => {}
            (None, cluster) => self.in_cluster = as_plugin || cluster.is_some(),
        }
        // The token of an environment that names another edge is that edge's.
        if self.in_cluster && self.admin.take().is_some() && !is_written("token_file") {
            self.token_file = None;
        }
        Ok(())
    }
}

/// The argument of a command itself that names an edge, where one is written: `check --from URL`.
fn written_below(matches: &ArgMatches) -> Option<&'static str> {
    let (name, below) = matches.subcommand()?;
    (name == "check" && below.value_source("from") == Some(ValueSource::CommandLine)).then_some("from")
}

fn two_edges(address: &str, cluster: &str) -> clap::Error {
    clap::Error::raw(
        ErrorKind::ArgumentConflict,
        format!("--{address} names one edge and --{cluster} another; leave one of them out"),
    )
}

/// A client of one edge.
#[derive(Debug)]
pub(crate) struct Admin {
    agent: Agent,
    base: String,
    token: Option<String>,
    /// The way there, if `kubectl` makes it.
    forward: Option<(ClusterArgs, Forward)>,
}

impl Admin {
    /// A client of the edge that `connection` names; connects with the first request.
    ///
    /// # Errors
    /// If the address is none that can be asked, or the token file cannot be read.
    pub(crate) fn new(connection: &Connection) -> Result<Self, CliError> {
        let token = connection.token_file.as_ref().map(|file| {
            let read = fs::read_to_string(file).map_err(|source| CliError::TokenFile { file: file.clone(), source });
            read.and_then(|token| sendable(token.trim(), file))
        });
        let token = token.transpose()?;
        if connection.in_cluster {
            let cluster = &connection.cluster;
            let token = token.map_or_else(|| cluster.token(), |token| Ok(Some(token)))?;
            let forward = cluster.forward()?;
            let base = forward.url.clone();
            return Ok(Self { agent: agent(ANSWER_WITHIN), base, token, forward: Some((cluster.clone(), forward)) });
        }
        let base = base(connection.admin.as_deref().unwrap_or(HERE))?;
        Ok(Self { agent: agent(ANSWER_WITHIN), base, token, forward: None })
    }

    /// The same for who cannot wait longer than this.
    #[must_use]
    pub(crate) fn within(self, patience: Duration) -> Self {
        Self { agent: agent(patience), ..self }
    }

    /// Where the edge is.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    /// Makes the way to the edge anew if `kubectl` made it and it has ended.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn renew(&mut self) -> Result<(), CliError> {
        if let Some((cluster, forward)) = &mut self.forward
            && forward.has_ended()
        {
            *forward = cluster.forward()?;
            self.base.clone_from(&forward.url);
        }
        Ok(())
    }

    /// Every route.
    pub(crate) fn routes(&self) -> Result<Vec<RouteView>, CliError> {
        self.read::<RoutesAnswer>("/api/v1/routes").map(|answer| answer.routes)
    }

    /// One route.
    pub(crate) fn route(&self, route: &RouteName) -> Result<RouteView, CliError> {
        self.read(&format!("/api/v1/routes/{route}"))
    }

    /// The config in force and where state is kept.
    pub(crate) fn config(&self) -> Result<ConfigAnswer, CliError> {
        self.read("/api/v1/config")
    }

    /// The newest `limit` decisions of a route, newest first.
    pub(crate) fn decisions(&self, route: &RouteName, limit: usize) -> Result<Vec<DecisionRow>, CliError> {
        self.read::<DecisionsAnswer>(&format!("/api/v1/routes/{route}/decisions?limit={limit}"))
            .map(|answer| answer.decisions)
    }

    /// What the present or the last trial of a route was decided on.
    pub(crate) fn counts(&self, route: &RouteName) -> Result<Option<Record>, CliError> {
        self.read::<CountsAnswer>(&format!("/api/v1/routes/{route}/counts")).map(|answer| answer.counts)
    }

    /// One decision with its evidence.
    pub(crate) fn decision(&self, id: u64) -> Result<DecisionRow, CliError> {
        self.read(&format!("/api/v1/decisions/{id}"))
    }

    /// Posts an order such as `promote`.
    pub(crate) fn order(&self, route: &RouteName, verb: &str, body: &impl Serialize) -> Result<OrderAnswer, CliError> {
        let request = self.agent.post(format!("{}/api/v1/routes/{route}/{verb}", self.base));
        self.send(request, body)
    }

    /// Posts a test row to a webhook.
    pub(crate) fn test_webhook(&self, name: &Name) -> Result<TestAnswer, CliError> {
        let request = self.agent.post(format!("{}/api/v1/notifications/{name}/test", self.base));
        self.send(request, &ReasonBody::default())
    }

    /// Sets the weights of a route.
    pub(crate) fn weights(&self, route: &RouteName, body: &impl Serialize) -> Result<OrderAnswer, CliError> {
        let request = self.agent.put(format!("{}/api/v1/routes/{route}/weights", self.base));
        self.send(request, body)
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.understood(request.call())
    }

    fn send<T: DeserializeOwned>(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let mut request = request.header(ACTOR_HEADER, actor());
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.understood(request.send_json(body))
    }

    fn understood<T: DeserializeOwned>(
        &self,
        answer: Result<http::Response<Body>, ureq::Error>,
    ) -> Result<T, CliError> {
        let unreachable = |source| CliError::Unreachable { url: self.base.clone(), source: Box::new(source) };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let bytes = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec().map_err(unreachable)?;
        let strange = |source| CliError::Strange { url: self.base.clone(), status: status.as_u16(), source };
        let mut value: Value = serde_json::from_slice(&bytes).map_err(strange)?;
        make_printable(&mut value);
        if status.is_success() {
            return serde_json::from_value(value).map_err(strange);
        }
        if value.get("type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with(PROBLEM_OF_A_REQUEST)) {
            return Err(CliError::DataPort { url: self.base.clone() });
        }
        let problem: Problem = serde_json::from_value(value).map_err(strange)?;
        Err(self.without_a_token(&problem).unwrap_or_else(|| CliError::Refused { problem: Box::new(problem) }))
    }

    /// That no token was found in the cluster, if that is why the edge refuses.
    fn without_a_token(&self, problem: &Problem) -> Option<CliError> {
        let (cluster, _) = self.forward.as_ref().filter(|_| self.token.is_none())?;
        let is_asked_for = problem.status == http::StatusCode::UNAUTHORIZED.as_u16();
        is_asked_for.then(|| CliError::NoToken { secret: cluster.secret() })
    }
}

fn agent(patience: Duration) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT_WITHIN.min(patience)))
        .timeout_global(Some(patience))
        .user_agent(concat!("pointsman/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}

/// A token that a header can carry.
fn sendable(token: &str, file: &Path) -> Result<String, CliError> {
    if !token.is_empty() && token.chars().all(|character| character.is_ascii_graphic()) {
        return Ok(token.to_owned());
    }
    let source = io::Error::new(io::ErrorKind::InvalidData, "it must hold one line of visible ASCII characters");
    Err(CliError::TokenFile { file: file.to_owned(), source })
}

/// `http://host:port` without a slash at the end; a missing scheme is http.
fn base(written: &str) -> Result<String, CliError> {
    let trimmed = written.trim();
    let url = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
    let parsed: Option<http::Uri> = url.parse().ok();
    match parsed {
        Some(uri) if uri.scheme_str() == Some("http") && uri.authority().is_some_and(names_a_host) => {
            Ok(url.trim_end_matches('/').to_owned())
        }
        Some(_) | None => Err(CliError::Address { url: written.to_owned() }),
    }
}

/// `http:` and `:9900` are an authority too, as far as syntax goes.
fn names_a_host(authority: &http::uri::Authority) -> bool {
    !authority.host().is_empty() && !authority.as_str().ends_with(':')
}

/// Who gives an order, for the decision log: the user's name as far as a header can carry it.
fn actor() -> String {
    let named = std::env::var("USER").unwrap_or_default();
    let visible: String = named.chars().filter(char::is_ascii_graphic).take(ACTOR_CHARS).collect();
    if visible.is_empty() { "cli".to_owned() } else { visible }
}

/// Takes out of every text what a terminal would obey: request ids and reasons were written by others.
fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(is_harmful) => *text = text.replace(is_harmful, "\u{fffd}"),
        Value::Array(items) => items.iter_mut().for_each(make_printable),
        Value::Object(fields) => fields.values_mut().for_each(make_printable),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Control characters, and those that turn the direction of writing.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme_and_https_is_refused() {
        assert_eq!(base("127.0.0.1:9900/").unwrap(), "http://127.0.0.1:9900");
        assert_eq!(base("http://edge:9900").unwrap(), "http://edge:9900");
        assert!(base("https://edge:9900").is_err());
        for nowhere in ["", "http://", "http:///", "http:", "http://:9900", ":9900", "/", "://"] {
            let refused = base(nowhere).unwrap_err();
            assert!(matches!(&refused, CliError::Address { url } if url == nowhere), "{nowhere}: {refused}");
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_taken_out() {
        let mut value = serde_json::json!({"a": ["ok", "red\u{1b}[31m"], "b": {"c": "\u{202e}evil"}});
        make_printable(&mut value);
        assert_eq!(value, serde_json::json!({"a": ["ok", "red\u{fffd}[31m"], "b": {"c": "\u{fffd}evil"}}));
    }
}
