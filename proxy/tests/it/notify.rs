//! Webhooks are told of what changes: signed, once, tried again, and never at anybody else's cost.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::process::{Edge, Site};
use crate::trio::{Trio, Ways};

const PATIENCE: Duration = Duration::from_secs(40);
const SECRET: &str = "the secret of this test";
const BY_HAND: &str = "weights: { v1: 90%, v2: 10% }";

/// One post.
#[derive(Debug, Clone)]
struct Posted {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Posted {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn event(&self) -> &str {
        self.header("x-pointsman-event")
    }

    /// As docs/notifications.md says that a receiver does it.
    fn is_signed_with(&self, secret: &str) -> bool {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(self.header("x-pointsman-timestamp").as_bytes());
        mac.update(b".");
        mac.update(&self.body);
        let signature: Vec<_> = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        self.header("x-pointsman-signature") == format!("v1={}", signature.concat())
    }
}

#[derive(Default)]
struct Taken {
    posts: Vec<Posted>,
    /// What is answered next, before everything is taken.
    answers: VecDeque<(u16, Option<String>)>,
}

/// A receiver on loopback.
struct Receiver {
    url: String,
    taken: Arc<Mutex<Taken>>,
    task: tokio::task::JoinHandle<()>,
}

impl Receiver {
    async fn start() -> Self {
        let taken = Arc::new(Mutex::new(Taken::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(take).with_state(Arc::clone(&taken));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, taken, task }
    }

    /// What is answered next; with a `location` where there is one.
    fn answer(&self, answers: impl IntoIterator<Item = (u16, Option<String>)>) {
        self.taken.lock().unwrap().answers.extend(answers);
    }

    fn posts(&self) -> Vec<Posted> {
        self.taken.lock().unwrap().posts.clone()
    }

    fn events(&self) -> Vec<String> {
        self.posts().iter().map(|post| post.event().to_owned()).collect()
    }

    async fn wait_for(&self, event: &str, count: usize) -> Posted {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found: Vec<_> = self.posts().into_iter().filter(|post| post.event() == event).collect();
            if found.len() >= count {
                return found.into_iter().next_back().unwrap();
            }
            assert!(Instant::now() < deadline, "no {count} of {event}: {:?}", self.events());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(taken): State<Arc<Mutex<Taken>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut taken = taken.lock().unwrap();
    taken.posts.push(Posted { path: uri.to_string(), headers, body });
    match taken.answers.pop_front() {
        Some((status, Some(location))) => {
            (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, location)]).into_response()
        }
        Some((status, None)) => StatusCode::from_u16(status).unwrap().into_response(),
        None => StatusCode::OK.into_response(),
    }
}

/// A site whose config begins with these webhooks.
fn told(site: &Site, notifications: &str, rest: &str) -> String {
    std::fs::write(site.at("secret"), format!("{SECRET}\n")).unwrap();
    format!("notifications:\n{notifications}\n{}", site.text(rest))
}

fn audit(receiver: &Receiver) -> String {
    format!("  - {{ name: audit, url: '{}/hook', secret_file: secret }}", receiver.url)
}

/// What stands of a webhook in the config answer.
async fn hook(edge: &Edge, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    edge.wait_for_config(what, |config| condition(&config["notifications"][0])).await["notifications"][0].clone()
}

fn command(edge: &Edge, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let admin = format!("http://{}", edge.admin);
    let output = command.args(arguments).args(["--admin", &admin]).env("USER", "anna").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_signed_row_with_an_id_of_its_own() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    site.write(&told(&site, &audit(&receiver), BY_HAND));
    let mut edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    edge.command("rollback").await;
    let row = receiver.wait_for("rollback", 1).await;
    assert_eq!(row.path, "/hook");
    let json = row.json();
    assert_eq!(
        (&json["event"], &json["route"], &json["severity"]),
        (&json!("rollback"), &json!("model"), &json!("info"))
    );
    let (id, _, sentence) = edge.history().await.into_iter().find(|(_, decision, _)| decision == "rollback").unwrap();
    assert_eq!((&json["text"], &json["decision"]["id"]), (&json!(sentence), &json!(id)));
    assert_eq!(json["next"], format!("pointsman explain model {id}"));
    assert_eq!((&json["missed"], &json["id"]), (&json!(0), &json!(row.header("x-pointsman-id"))));

    // The file: refused, and then taken in.
    site.write("routes: nonsense\n");
    let refused = receiver.wait_for("config_refused", 1).await.json();
    assert!(!refused["problems"].as_array().unwrap().is_empty(), "{refused:#}");
    site.write(&told(&site, &audit(&receiver), "weights: { v1: 100%, v2: 0% }"));
    let accepted = receiver.wait_for("config_accepted", 1).await.json();
    assert!(accepted["text"].as_str().unwrap().contains("generation 2"), "{accepted:#}");

    for post in receiver.posts() {
        assert!(post.is_signed_with(SECRET) && !post.is_signed_with("another secret"), "{post:?}");
    }
    let ids: std::collections::BTreeSet<_> =
        receiver.posts().iter().map(|post| post.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), receiver.posts().len());
    let all = |hook: &Value| hook["waiting"] == 0 && hook["delivered"] == receiver.posts().len();
    let delivered = hook(&edge, "all delivered", all).await["delivered"].as_f64().unwrap();
    assert!(delivered >= 3.0, "{delivered}");
    edge.wait_for_metric("pointsman_notifications_total{webhook=\"audit\",result=\"delivered\"}", delivered).await;
    // Nothing of the secret is anywhere.
    let seen = format!("{}{}{}", edge.log(), edge.config().await, edge.text("/metrics").await);
    assert!(!seen.contains(SECRET));
    edge.signal(Signal::SIGTERM);
    assert!(edge.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_not_taken_is_tried_again_under_its_id() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    site.write(&told(&site, &audit(&receiver).replace(" }", ", events: [rollback, retry] }"), BY_HAND));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    receiver.answer([(503, None), (429, None)]);
    edge.command("rollback").await;
    let last = receiver.wait_for("rollback", 3).await;
    let posts = receiver.posts();
    assert!(posts.iter().all(|post| post.json()["id"] == last.json()["id"] && post.is_signed_with(SECRET)));
    let stands = hook(&edge, "it is delivered", |hook| hook["waiting"] == 0).await;
    assert_eq!((&stands["delivered"], &stands["retries"], &stands["failing"]), (&json!(1), &json!(2), &json!(false)));
    assert_eq!(stands["last_failure"]["problem"], "it answered 429");

    // What will be refused again is given up, and the next row says that one is missing.
    receiver.answer([(404, None)]);
    edge.order("retry", json!({ "version": "v2" })).await;
    hook(&edge, "it is given up", |hook| hook["given_up"] == 1).await;
    let (_, status) = command(&edge, &["status"]);
    assert!(status.contains("Webhook audit does not take") && status.contains("it answered 404"), "{status}");
    edge.wait_for_weight(10.0).await;
    edge.command("rollback").await;
    assert_eq!(receiver.wait_for("rollback", 4).await.json()["missed"], 1);
}

/// A receiver that takes connections, reads, and answers like this; nothing: it says nothing at all.
async fn odd_receiver(answer: Option<&'static [u8]>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            // It may have gone already.
            _ = stream.read(&mut [0; 1024]).await;
            match answer {
                Some(answer) => drop(stream.write_all(answer).await),
                None => kept.push(stream),
            }
        }
    });
    (format!("http://{address}"), task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_or_talks_nonsense_holds_up_nobody() {
    let (silent, one) = odd_receiver(None).await;
    let (garbage, two) = odd_receiver(Some(b"\x00\xffSMTP ready\r\n\r\n")).await;
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let hooks = format!(
        "  - {{ name: silent, url: '{silent}', secret_file: secret, timeout: 10s }}\n  - {{ name: garbage, url: '{garbage}', secret_file: secret }}\n  - {{ name: away, url: 'http://127.0.0.1:1', secret_file: secret }}\n{}",
        audit(&receiver)
    );
    site.write(&told(&site, &hooks, BY_HAND));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    for weight in 1..=5 {
        let body = json!({ "weights": { "v1": format!("{}%", 100 - weight), "v2": format!("{weight}%") } });
        assert_eq!(edge.order("weights", body).await.status, 200);
        assert_eq!(edge.predict().await.status, 200);
    }
    edge.command("rollback").await;
    receiver.wait_for("rollback", 1).await;
    let said = edge
        .wait_for_config("both failures are told", |config| {
            config["notifications"].as_array().unwrap()[1..3].iter().all(|hook| hook["failing"] == true)
        })
        .await;
    assert_eq!(said["notifications"][1]["last_failure"]["problem"], "it does not speak HTTP");
    assert!(said["notifications"][2]["last_failure"]["problem"].as_str().unwrap().contains("no connection"));
    assert!(said["notifications"][0]["waiting"].as_u64().unwrap() >= 6, "{said:#}");
    one.abort();
    two.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed_and_a_url_can_be_put_right_while_rows_wait() {
    let (site, receiver, elsewhere) = (Site::new().await, Receiver::start().await, Receiver::start().await);
    site.write(&told(&site, &audit(&receiver), BY_HAND));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    hook(&edge, "nothing waits", |hook| hook["waiting"] == 0).await;
    for status in [301, 307] {
        receiver.answer([(status, Some(format!("{}/stolen", elsewhere.url)))]);
        let (code, said) = command(&edge, &["notify", "test", "audit"]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("it answered {status}")) && said.contains("not followed"), "{said}");
    }
    assert!(elsewhere.posts().is_empty());

    receiver.answer((0..50).map(|_| (503, None)));
    edge.command("rollback").await;
    hook(&edge, "it fails", |hook| hook["failing"] == true).await;
    site.write(&told(&site, &audit(&elsewhere), BY_HAND));
    let row = elsewhere.wait_for("rollback", 1).await;
    assert_eq!(row.json()["id"], receiver.wait_for("rollback", 1).await.json()["id"], "the same row, at its new place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_gets_messages_as_slack_takes_them_at_an_address_that_nobody_is_shown() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    std::fs::write(site.at("chat-url"), format!("{}/services/T0/B0/hidden-token\n", receiver.url)).unwrap();
    site.write(&told(&site, "  - { name: chat, url_file: chat-url, format: slack, events: [rollback] }", BY_HAND));
    let mut command_line = crate::process::command(&site.config());
    command_line.args(["--drain-delay", "0s"]).env("RUST_LOG", "trace");
    let edge = Edge::started_by(command_line, &site.config()).await;
    edge.wait_for_weight(10.0).await;
    edge.order("rollback", json!({ "reason": "<!channel> looks & feels wrong" })).await;
    let post = receiver.wait_for("rollback", 1).await;
    assert_eq!(post.path, "/services/T0/B0/hidden-token");
    assert!(!post.headers.contains_key("x-pointsman-signature"), "nothing to sign with");
    check_slack(&post.json());
    let text = post.json()["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with("model: v2 taken back to 0%: by "), "{text}");
    assert!(text.ends_with("&lt;!channel&gt; looks &amp; feels wrong"), "{text}");
    let (code, said) = command(&edge, &["notify", "test", "chat"]);
    assert_eq!(code, 0, "{said}");
    check_slack(&receiver.wait_for("test", 1).await.json());
    let (code, said) = command(&edge, &["notify", "test", "nobody"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("webhooks: chat"), "{said}");
    std::fs::write(site.at("chat-url"), "nothing://hidden-token").unwrap();
    let (code, said) = command(&edge, &["notify", "test", "chat"]);
    assert_eq!(code, 1, "{said}");
    let (_, status) = command(&edge, &["status", "--json"]);
    let seen = format!("{}{}{said}{status}", edge.log(), edge.config().await);
    assert!(!seen.contains("hidden-token"), "{:?}", seen.lines().find(|line| line.contains("hidden-token")));
}

/// What Slack answers `invalid_blocks` or `no_text` to.
fn check_slack(message: &Value) {
    let keys: Vec<_> = message.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["blocks", "text"]);
    assert!((1..=40_000).contains(&message["text"].as_str().unwrap().len()));
    let blocks = message["blocks"].as_array().unwrap();
    assert!((1..=50).contains(&blocks.len()));
    for block in blocks {
        let texts = match block["type"].as_str().unwrap() {
            "section" => std::slice::from_ref(&block["text"]),
            "context" => block["elements"].as_array().unwrap(),
            other => panic!("{other}"),
        };
        for text in texts {
            let length = text["text"].as_str().unwrap().chars().count();
            assert!(text["type"] == "mrkdwn" && (1..=3_000).contains(&length), "{message:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_held_is_told_once() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let plan = "rollout: { canary: v2, steps: [{ weight: 10%, hold: 1h }], promotion: manual }";
    site.write(&told(&site, &audit(&receiver), plan));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    // Nobody asks anything, so nothing can be learnt.
    let row = receiver.wait_for("hold", 1).await.json();
    assert_eq!((&row["route"], &row["severity"]), (&json!("model"), &json!("warning")));
    assert!(row["text"].as_str().unwrap().contains("the canary has had no request yet"), "{row:#}");
    edge.command("pause").await;
    receiver.wait_for("pause", 1).await;
    assert_eq!(receiver.events().iter().filter(|event| *event == "hold").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_edges_the_one_that_decides_tells() {
    let receiver = Receiver::start().await;
    let rest = format!(
        "rollout: {{ canary: v2, strategy: canary, steps: [{{ weight: 20%, hold: 1h }}], promotion: manual, bake: 1h }}
    kubernetes: {{ service: model }}
notifications:
  - {{ name: audit, url: '{}/hook' }}",
        receiver.url
    );
    let mut trio = Trio::start(Ways::Straight, &rest).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    let lead = receiver.wait_for("leader", 1).await.json();
    let step = receiver.wait_for("step", 1).await.json();
    assert_eq!(lead["edge"], step["edge"]);
    let follower = trio.followers_of(leader)[0];
    trio.edge(follower).command("pause").await;
    let pause = receiver.wait_for("pause", 1).await.json();
    assert_eq!(pause["edge"], lead["edge"], "an order that was given elsewhere");
    trio.kill(leader);
    trio.led_by_another_than(&[leader]).await;
    let next = receiver.wait_for("leader", 2).await.json();
    assert_ne!(next["edge"], lead["edge"]);
    let after = trio.leader().await;
    trio.edge(after).command("rollback").await;
    receiver.wait_for("rollback_done", 1).await;
    let events = receiver.events();
    for event in ["step", "pause", "rollback", "rollback_done"] {
        assert_eq!(events.iter().filter(|told| *told == event).count(), 1, "{events:?}");
    }
    assert_eq!(events.iter().filter(|told| *told == "leader").count(), 2, "{events:?}");
}

/// The receiver of docs/notifications.md, run as it stands there.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_receiver_tells_our_rows_from_forged_ones() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/notifications.md");
    let page = std::fs::read_to_string(page).unwrap();
    let code = page.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    site.write(&told(&site, &audit(&receiver), BY_HAND));
    let edge = site.start().await;
    let (code_of_test, said) = command(&edge, &["notify", "test", "audit"]);
    assert_eq!(code_of_test, 0, "{said}");
    let post = receiver.wait_for("test", 1).await;
    std::fs::write(site.at("body"), &post.body).unwrap();
    let headers = json!({
        "x-pointsman-timestamp": post.header("x-pointsman-timestamp"),
        "x-pointsman-signature": post.header("x-pointsman-signature"),
    });
    let judge = |secret: &str| {
        let script = format!(
            "{code}\nimport json, sys\nsys.exit(0 if is_ours(json.loads(sys.argv[1]), open(sys.argv[2], 'rb').read(), sys.argv[3].encode()) else 3)\n"
        );
        Command::new("python3").args(["-c", &script, &headers.to_string()]).arg(site.at("body")).arg(secret).output()
    };
    match judge(SECRET) {
        Ok(output) => {
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(judge("forged secret of nobody").unwrap().status.code(), Some(3));
        }
        Err(error) if std::env::var_os("REQUIRE_PYTHON").is_none() => {
            eprintln!("skipped: python3 cannot be started ({error}); REQUIRE_PYTHON=1 makes this a failure");
        }
        Err(error) => panic!("python3 cannot be started: {error}"),
    }
}
