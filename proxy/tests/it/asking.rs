//! Others are asked about a canary: a real Prometheus, gates, the calendar. What is unclear holds, a real breach takes back,
//! and nothing of it ever keeps a canary from going back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::process::{Edge, Site, weight_of};

const PATIENCE: Duration = Duration::from_secs(40);

// ---- Prometheus ----

/// What there is to scrape.
struct Exporter {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Exporter {
    async fn start(text: &str) -> Self {
        let text = Arc::new(Mutex::new(text.to_owned()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scraped = |State(text): State<Arc<Mutex<String>>>| async move { text.lock().unwrap().clone() };
        let app = Router::new().route("/metrics", get(scraped)).with_state(Arc::clone(&text));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, text, task }
    }

    fn says(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap());
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A Prometheus server that scrapes an exporter ten times a second.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// None where it is not installed and nobody insists.
    async fn start(exporter: &Exporter) -> Option<Self> {
        // Whoever takes this port in between makes the start fail, and another one is tried.
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let config = json!({
                "global": { "scrape_interval": "100ms", "scrape_timeout": "100ms" },
                "scrape_configs": [{ "job_name": "shop", "static_configs": [{ "targets": [exporter.address.to_string()] }] }],
            });
            std::fs::write(folder.path().join("prometheus.yml"), config.to_string()).unwrap();
            let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut command = Command::new("prometheus");
            command.arg("--config.file=prometheus.yml").arg(format!("--web.listen-address={address}"));
            command.args(["--storage.tsdb.path=data", "--log.level=error"]).current_dir(folder.path());
            let child = match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
                Ok(child) => child,
                Err(error) if std::env::var_os("REQUIRE_PROMETHEUS").is_none() => {
                    eprintln!(
                        "skipped: prometheus cannot be started ({error}); REQUIRE_PROMETHEUS=1 makes this a failure"
                    );
                    return None;
                }
                Err(error) => panic!("prometheus cannot be started: {error}"),
            };
            let mut server = Self { child, address, _folder: folder };
            if server.is_ready().await {
                return Some(server);
            }
        }
        panic!("prometheus does not start");
    }

    async fn is_ready(&mut self) -> bool {
        let url = format!("http://{}/-/ready", self.address);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            let asked = url.clone();
            let answer = tokio::task::spawn_blocking(move || ureq::get(&asked).call().is_ok()).await.unwrap();
            if answer {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const ORDERS: &str = "orders{version=\\\"{{version}}\\\"}";

/// A rollout at 50 % whose first step needs four answers.
fn with_guard(site: &Site, guard: &str) -> String {
    site.text(&format!(
        "rollout: {{ canary: v2, steps: [{{ weight: 50%, hold: 1s }}, {{ weight: 60%, hold: 1h }}], promotion: manual }}
    guard: {{ max_error_rate: 50%, {guard} }}"
    ))
}

fn query(url: &str, rest: &str) -> String {
    format!("queries: [{{ name: orders, prometheus: '{url}', query: \"{ORDERS}\", every: 1s, timeout: 1s, {rest} }}]")
}

/// Enough answers for a step.
async fn answers(edge: &Edge) {
    for _ in 0..40 {
        assert_eq!(edge.predict().await.status, 200);
    }
}

fn why(route: &Value) -> String {
    route["why"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the first step is held with these words, although everything else would let it go on.
async fn held(edge: &Edge, words: &str) {
    let route = edge.wait_for_route(words, |route| why(route).contains(words)).await;
    assert_eq!((&route["phase"], weight_of(&route)), (&json!("shifting"), 50.0), "{route:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_unclear_holds_and_one_that_breaches_takes_back() {
    let exporter = Exporter::start("orders{version=\"v1\"} 100\n").await;
    let Some(mut prometheus) = Prometheus::start(&exporter).await else { return };
    let site = Site::new().await;
    let guard = query(&prometheus.url(), "compare: ratio, min: 0.9, breaches: 2");
    site.write(&with_guard(&site, &guard));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    answers(&edge).await;
    held(&edge, "`orders` gives no clear number: it has no data").await;
    exporter.says("orders{version=\"v1\"} 100\norders{version=\"v2\"} NaN\n");
    held(&edge, "its answer is NaN").await;
    exporter
        .says("orders{version=\"v1\"} 100\norders{version=\"v2\",shop=\"a\"} 1\norders{version=\"v2\",shop=\"b\"} 1\n");
    held(&edge, "it has 2 series").await;
    exporter.says("orders{version=\"v1\"} 0\norders{version=\"v2\"} 5\n");
    held(&edge, "nothing can be divided by that").await;
    // Within its limits, and the step is over.
    exporter.says("orders{version=\"v1\"} 100\norders{version=\"v2\"} 95\n");
    edge.wait_for_weight(60.0).await;
    exporter.says("orders{version=\"v1\"} 100\norders{version=\"v2\"} 80\n");
    let route = edge.wait_for_phase("rolled_back").await;
    let told = why(&route);
    assert!(
        told.contains("the canary has 80, 0.8 times stable's 100, below its limit of 0.9, 2 of 2 times in a row"),
        "{told}"
    );
    assert_eq!(weight_of(&route), 0.0);
    let (_, decision, sentence) =
        edge.history().await.into_iter().rev().find(|(_, decision, _)| decision == "rollback").unwrap();
    assert!(decision == "rollback" && sentence.contains("0.8 times stable's 100"), "{sentence}");

    // A server that has died passes nothing and fails nothing.
    drop(prometheus.child.kill());
    prometheus.child.wait().unwrap();
    edge.order("retry", json!({ "version": "v2" })).await;
    edge.wait_for_weight(50.0).await;
    answers(&edge).await;
    held(&edge, "`orders` gives no clear number: no connection").await;
    edge.command("rollback").await;
    edge.wait_for_phase("rolled_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_holds_a_rollout_and_nobody_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(listener.accept().await);
        }
    });
    let site = Site::new().await;
    site.write(&with_guard(&site, &query(&url, "max: 5")));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    answers(&edge).await;
    held(&edge, "it did not answer in time").await;
    edge.command("rollback").await;
    edge.wait_for_phase("rolled_back").await;
    silent.abort();
}

// ---- gates ----

#[derive(Default)]
struct Board {
    questions: Vec<(HeaderMap, Value)>,
    /// What is answered from now on.
    answer: VecDeque<(u16, String)>,
}

/// Somebody who is asked; says the last answer again and again.
struct Gatekeeper {
    url: String,
    board: Arc<Mutex<Board>>,
    task: tokio::task::JoinHandle<()>,
}

impl Gatekeeper {
    async fn start() -> Self {
        let board = Arc::new(Mutex::new(Board::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ask", listener.local_addr().unwrap());
        let app = Router::new().route("/ask", post(answer)).with_state(Arc::clone(&board));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, board, task }
    }

    fn says(&self, status: u16, body: &str) {
        self.board.lock().unwrap().answer = [(status, body.to_owned())].into();
    }

    fn last_question(&self) -> (HeaderMap, Value) {
        self.board.lock().unwrap().questions.last().cloned().unwrap()
    }
}

impl Drop for Gatekeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(board): State<Arc<Mutex<Board>>>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let mut board = board.lock().unwrap();
    board.questions.push((headers, serde_json::from_slice(&body).unwrap()));
    let (status, body) = board.answer.front().cloned().unwrap_or((503, String::new()));
    (StatusCode::from_u16(status).unwrap(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_is_asked_before_steps_and_holds_until_it_says_yes_but_holds_no_rollback() {
    let (site, board) = (Site::new().await, Gatekeeper::start().await);
    std::fs::write(site.at("token"), "Bearer of-this-test\n").unwrap();
    std::fs::write(site.at("secret"), "the secret of this test\n").unwrap();
    let guard = format!(
        "gates: [{{ name: board, url: '{}', before: [step], every: 1s, timeout: 1s, authorization_file: token, secret_file: secret }}]",
        board.url
    );
    board.says(200, "{\"allow\": false, \"reason\": \"not before nine\"}");
    site.write(&with_guard(&site, &guard));
    let edge = site.start().await;
    edge.wait_for_route("held", |route| why(route).contains("it does not allow the step: not before nine")).await;
    assert_eq!(edge.weight().await, 0.0, "not even the first step");
    let (headers, question) = board.last_question();
    assert_eq!(headers["authorization"], "Bearer of-this-test");
    assert!(headers["x-pointsman-signature"].to_str().unwrap().starts_with("v1="));
    assert_eq!(
        (&question["gate"], &question["route"], &question["canary"]),
        (&json!("board"), &json!("model"), &json!("v2"))
    );
    assert_eq!(
        (&question["next"], &question["step"], &question["weight_ppm"]),
        (&json!("step"), &json!(1), &json!(500_000))
    );
    for (status, body) in [(503, "{\"allow\": true}"), (200, "yes"), (200, "[true]")] {
        board.says(status, body);
        edge.wait_for_route(body, |route| why(route).contains("it gives no clear answer")).await;
    }
    board.says(200, "{\"allow\": true}");
    edge.wait_for_weight(50.0).await;
    board.says(200, "{\"allow\": false}");
    // What was answered when the step began is a yes; without requests nothing comes of that.
    edge.wait_for_route("a no", |route| route["gates"][0]["outcome"] == "holds").await;
    answers(&edge).await;
    held(&edge, "it does not allow the step").await;
    assert_eq!(board.last_question().1["step"], 2);
    edge.command("rollback").await;
    let route = edge.wait_for_phase("rolled_back").await;
    assert_eq!(weight_of(&route), 0.0);
    let seen = format!("{}{}", edge.log(), edge.config().await);
    assert!(!seen.contains("of-this-test") && !seen.contains("the secret of this test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_does_not_answer_counts_as_the_file_says() {
    let (site, board) = (Site::new().await, Gatekeeper::start().await);
    let guard = format!("gates: [{{ name: board, url: '{}', default: allow, every: 1s, timeout: 1s }}]", board.url);
    site.write(&with_guard(&site, &guard));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
}

// ---- the calendar ----

fn promote(edge: &Edge, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let admin = format!("http://{}", edge.admin);
    command.args(["promote", "model"]).args(arguments).args(["--admin", &admin]).env("USER", "anna");
    let output = command.output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), said.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_freeze_nothing_goes_forward_unless_it_is_forced_and_everything_goes_back() {
    let site = Site::new().await;
    let frozen = |text: String| {
        format!("freeze: [{{ name: audit, cron: '* * * * *', duration: 2h, time_zone: Europe/Berlin }}]\n{text}")
    };
    site.write(&frozen(with_guard(&site, "on_regression: rollback")));
    let edge = site.start().await;
    let route = edge.wait_for_route("frozen", |route| why(route).contains("nothing goes forward until")).await;
    assert!(why(&route).contains("freeze/audit") && why(&route).contains("(Europe/Berlin)"), "{route:#}");
    assert_eq!((&route["phase"], weight_of(&route)), (&json!("warming"), 0.0));

    let (code, said) = promote(&edge, &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("`model` is frozen by `audit` until") && said.contains("--force"), "{said}");
    let (code, said) = promote(&edge, &["--force"]);
    assert_eq!(code, 2, "a reason is needed: {said}");
    let refused = edge.order("promote", json!({ "force": true })).await;
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("bad_reason")));
    let (code, said) = promote(&edge, &["--force", "--reason", "the old model is wrong"]);
    assert_eq!(code, 0, "{said}");
    edge.wait_for_weight(100.0).await;
    let rows = edge.history().await;
    assert!(
        rows.iter().any(|(_, decision, sentence)| decision == "promote" && sentence.contains("the old model is wrong"))
    );
    edge.command("rollback").await;
    edge.wait_for_phase("rolled_back").await;

    // It is over: the canary gets its first weight.
    edge.order("retry", json!({ "version": "v2" })).await;
    edge.wait_for_route("frozen", |route| why(route).contains("nothing goes forward until")).await;
    site.write(&with_guard(&site, "on_regression: rollback"));
    edge.wait_for_weight(50.0).await;
}
