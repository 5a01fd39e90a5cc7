//! The real binary: started on a config file in a folder of its own, killed with the test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman_chaos::fakes::FakeModel;
use serde_json::{Value, json};

use crate::harness::{Answer, Client};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two model servers and a folder with the config file and the state.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub v1: FakeModel,
    pub v2: FakeModel,
}

impl Site {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, v1: FakeModel::start("v1").await.unwrap(), v2: FakeModel::start("v2").await.unwrap() }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.at("pointsman.yaml")
    }

    pub fn state(&self) -> PathBuf {
        self.at("state.db")
    }

    /// A config whose route `model` ends with `rest`, which starts in the column of the route's keys.
    pub fn text(&self, rest: &str) -> String {
        self.text_with_revision("r1", rest)
    }

    pub fn text_with_revision(&self, revision: &str, rest: &str) -> String {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
state: {{ file: state.db }}
routes:
  - name: model
    stable: v1
    versions:
      v1: {{ endpoints: [{}] }}
      v2: {{ endpoints: [{}], revision: {revision} }}
    health_check: {{ path: /ready, interval: 50ms, timeout: 1s }}
    {rest}
",
            self.v1.addr(),
            self.v2.addr()
        )
    }

    /// A config with weights by hand.
    pub fn weights(&self, v2_percent: u32) -> String {
        self.text(&format!("weights: {{ v1: {}%, v2: {v2_percent}% }}", 100 - v2_percent))
    }

    pub fn write(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    /// Starts the edge on what the config file says.
    pub async fn start(&self) -> Edge {
        Edge::start(&self.config()).await
    }
}

/// A running edge.
pub struct Edge {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    log: PathBuf,
}

impl Edge {
    pub async fn start(config: &Path) -> Self {
        Self::start_with(config, &["--drain-delay", "0s"]).await
    }

    /// Starts the edge with further arguments.
    pub async fn start_with(config: &Path, arguments: &[&str]) -> Self {
        let mut command = command(config);
        command.args(arguments);
        Self::started_by(command, config).await
    }

    /// An edge started by a command of the test's own; its log lies beside `config`.
    pub async fn started_by(mut command: Command, config: &Path) -> Self {
        // Each start has a log of its own, beside the config file.
        let log = (1..100).map(|n| config.with_extension(format!("{n}.log"))).find(|path| !path.exists()).unwrap();
        command.stderr(fs::File::create(&log).unwrap()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = tokio::task::spawn_blocking(move || {
            let mut said = Vec::new();
            while said.len() < 2 {
                said.push(lines.next()?.ok()?);
            }
            Some(said)
        });
        let said = tokio::time::timeout(PATIENCE, said).await.expect("it says where it listens").unwrap();
        let said = said.unwrap_or_else(|| panic!("it ended: {}", fs::read_to_string(&log).unwrap()));
        let after =
            |line: &str, words: &str| line.strip_prefix(words).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        Self { address: after(&said[0], "listening on "), admin: after(&said[1], "admin on http://"), child, log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As a power cut would.
    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One prediction with these header lines, each ended; gives the whole answer.
    pub async fn predict_with(&self, headers: &str) -> Answer {
        ask_with(self.address, "POST", "/v1/predict", headers, "12345").await.expect("an answer")
    }

    /// One request for `path` with these header lines, each ended.
    pub async fn ask_with(&self, path: &str, headers: &str) -> Answer {
        ask_with(self.address, "POST", path, headers, "12345").await.expect("an answer")
    }

    /// One request for `path`.
    pub async fn ask_path(&self, path: &str) -> Answer {
        self.ask_with(path, "").await
    }

    /// Waits until a metric, named with its labels, has reached a value.
    pub async fn wait_for_metric(&self, name: &str, at_least: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text =
                String::from_utf8(ask(self.admin, "GET", "/metrics", "").await.expect("an answer").body).unwrap();
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            if value.is_some_and(|value| value >= at_least) {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {value:?}, not {at_least}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The version that answers one prediction with these header lines.
    pub async fn version_for(&self, headers: &str) -> String {
        let answer = self.predict_with(headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("x-pointsman-version").unwrap().to_owned()
    }

    /// One prediction; gives the whole answer.
    pub async fn predict(&self) -> Answer {
        ask(self.address, "POST", "/v1/predict", "12345").await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = ask(self.admin, "GET", path, "").await.expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// The body of an answer that is no JSON.
    pub async fn text(&self, path: &str) -> String {
        String::from_utf8(ask(self.admin, "GET", path, "").await.expect("an answer").body).unwrap()
    }

    pub async fn status_of(&self, path: &str) -> u16 {
        ask(self.admin, "GET", path, "").await.expect("an answer").status
    }

    /// Waits until a load balancer would send requests here.
    pub async fn wait_until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.status_of("/readyz").await != 200 {
            assert!(Instant::now() < deadline, "not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn order(&self, verb: &str, body: Value) -> Answer {
        let method = if verb == "weights" { "PUT" } else { "POST" };
        let path = format!("/api/v1/routes/model/{verb}");
        ask(self.admin, method, &path, &body.to_string()).await.expect("an answer")
    }

    /// An order that must be obeyed.
    pub async fn command(&self, verb: &str) {
        let answer = self.order(verb, json!({ "reason": "a test" })).await;
        assert_eq!(answer.status, 200, "{verb}: {}", String::from_utf8_lossy(&answer.body));
    }

    pub async fn route(&self) -> Value {
        self.get("/api/v1/routes/model").await
    }

    pub async fn config(&self) -> Value {
        self.get("/api/v1/config").await
    }

    /// Oldest first, as (id, decision, sentence).
    pub async fn history(&self) -> Vec<(u64, String, String)> {
        let answer = self.get("/api/v1/routes/model/decisions?limit=500").await;
        let rows = answer["decisions"].as_array().unwrap().iter().rev();
        let row = |row: &Value| {
            (
                row["id"].as_u64().unwrap(),
                row["change"]["decision"].as_str().unwrap().to_owned(),
                row["sentence"].as_str().unwrap().to_owned(),
            )
        };
        rows.map(row).collect()
    }

    /// The weight of v2 that is in force, in percent.
    pub async fn weight(&self) -> f64 {
        self.route().await["weights"]["v2"]["effective"].as_f64().unwrap()
    }

    pub async fn wait_for_weight(&self, percent: f64) {
        self.wait_for_route(&format!("v2 at {percent} %"), |route| weight_of(route) == percent).await;
    }

    pub async fn wait_for_phase(&self, phase: &str) -> Value {
        self.wait_for_route(phase, |route| route["phase"] == phase).await
    }

    pub async fn wait_for_route(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let route = self.route().await;
            if condition(&route) {
                return route;
            }
            assert!(Instant::now() < deadline, "not {what}: {route:#}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait_for_log(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            assert!(Instant::now() < deadline, "no {words:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait_for_config(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let config = self.config().await;
            if condition(&config) {
                return config;
            }
            assert!(Instant::now() < deadline, "not {what}: {config:#}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `pointsman run` on this file.
pub fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(["run", "--config"]).arg(config).env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}

pub fn weight_of(route: &Value) -> f64 {
    route["weights"]["v2"]["effective"].as_f64().unwrap()
}

async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<Answer> {
    ask_with(address, method, path, "", body).await
}

async fn ask_with(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Option<Answer> {
    let mut client = Client::connect(address).await;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    );
    client.send(format!("{head}{body}").as_bytes()).await;
    client.answer().await
}
