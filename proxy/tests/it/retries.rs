//! A canary whose failures no user sees, and which is charged with every one of them all the same.

use std::net::SocketAddr;
use std::time::Duration;

use pointsman::outcome::Outcome;
use pointsman::retry::books::{RetryCounts, RetryResult};
use pointsman_chaos::fakes::FakeModel;
use pointsman_config::{Concurrency, Override, OverrideSource, Replay, Retries, Route};

use super::harness::{Client, RawServer, TestEdge, dead_address, eventually, get, id, post, route};
use crate::process::{Edge, Site, weight_of};

/// As much budget as there are requests.
fn generous() -> Retries {
    Retries { replay: Replay::Predictions, budget_ppm: 1_000_000, ..Retries::default() }
}

fn with(retries: Retries) -> Route {
    Route { retries, ..route() }
}

/// An edge all of whose requests are the canary's.
fn all_canary(route: Route, v1: &[SocketAddr], v2: &[SocketAddr]) -> TestEdge {
    let mut edge = TestEdge::with(route, v1, v2);
    edge.set_weight(1_000_000);
    edge
}

fn retries(edge: &TestEdge, version: &str) -> RetryCounts {
    edge.publisher.retries(&edge.route.name)[&id(version)]
}

fn results(edge: &TestEdge, version: &str, result: RetryResult) -> u64 {
    retries(edge, version).results[RetryResult::ALL.iter().position(|known| *known == result).unwrap()]
}

async fn model(version: &str) -> FakeModel {
    FakeModel::start(version).await.unwrap()
}

async fn ask(client: &mut Client, request: &str) -> super::harness::Answer {
    client.send(request.as_bytes()).await;
    client.answer().await.expect("an answer")
}

/// Has a canary at half the traffic fail every request; no user may see it, and the books must.
async fn check_invisible(retries: Retries, v2: SocketAddr, outcome: Outcome) {
    const REQUESTS: u64 = 40;
    let v1 = model("v1").await;
    let mut edge = TestEdge::with(with(retries), &[v1.addr()], &[v2]);
    edge.set_weight(500_000);
    let mut client = edge.connect().await;
    for number in 0..REQUESTS {
        let body = "x".repeat(usize::try_from(number).unwrap() * 100);
        let answer = ask(&mut client, &post("/v1/predict", &body)).await;
        assert_eq!((answer.status, answer.header("x-pointsman-version")), (200, Some("v1")), "{outcome:?} {answer:?}");
        assert_eq!(answer.json()["prediction"].as_u64(), Some(number * 100), "the body arrived whole");
    }
    check_charged(&edge, outcome, REQUESTS).await;
    assert_eq!(v1.predictions(), REQUESTS, "stable has answered each request once");
}

/// What the canary was assigned is its failure, and nothing but what stable was assigned is stable's evidence.
async fn check_charged(edge: &TestEdge, outcome: Outcome, requests: u64) {
    assert!(eventually(|| edge.in_flight() == 0).await);
    let failed = edge.counts("v2").outcomes[outcome.index()];
    assert!((5..35).contains(&failed), "{failed}");
    assert_eq!(edge.outcomes("v2"), [(outcome, failed)]);
    assert_eq!(edge.outcomes("v1"), [(Outcome::Success, requests - failed)]);
    assert_eq!(edge.counts("v2").judged.errors, failed);
    assert_eq!(edge.counts("v1").judged.requests, requests - failed);
    assert_eq!(results(edge, "v2", RetryResult::Success), failed);
}

#[tokio::test]
async fn no_user_sees_what_the_canary_fails_with_and_the_books_see_all_of_it() {
    for (faults, outcome) in [
        (r#"{"fail":{"share":1,"status":500}}"#, Outcome::Error),
        (r#"{"fail":{"share":1,"status":503}}"#, Outcome::Error),
        (r#"{"reset":{"share":1}}"#, Outcome::Reset),
        (r#"{"garbage":{"share":1}}"#, Outcome::Reset),
    ] {
        let v2 = model("v2").await;
        v2.set_faults(faults.parse().unwrap());
        check_invisible(generous(), v2.addr(), outcome).await;
    }
    check_invisible(generous(), dead_address().await, Outcome::Connect).await;
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another() {
    let v2 = model("v2").await;
    v2.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let per_try = Some(Duration::from_millis(30));
    check_invisible(Retries { per_try, ..generous() }, v2.addr(), Outcome::Timeout).await;
}

#[tokio::test]
async fn a_canary_that_is_silent_for_too_long_is_followed_by_stable_without_a_limit_per_try() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    v2.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let mut route = with(generous());
    route.timeouts.read = Duration::from_millis(100);
    let edge = all_canary(route, &[v1.addr()], &[v2.addr()]);
    let answer = edge.ask(&post("/v1/predict", "12345")).await;
    assert_eq!((answer.status, answer.header("x-pointsman-version")), (200, Some("v1")));
    edge.expect_outcomes("v2", &[(Outcome::Timeout, 1)]).await;
}

#[tokio::test]
async fn a_canary_without_endpoints_is_covered_by_stable() {
    let v1 = model("v1").await;
    let edge = all_canary(route(), &[v1.addr()], &[]);
    assert_eq!(edge.ask(&post("/v1/predict", "12345")).await.status, 200);
    edge.expect_outcomes("v2", &[(Outcome::Connect, 1)]).await;
}

#[tokio::test]
async fn the_total_time_holds_over_all_attempts() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    for model in [&v1, &v2] {
        model.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    }
    let mut route = with(Retries { per_try: Some(Duration::from_millis(50)), ..generous() });
    route.timeouts.total = Duration::from_millis(400);
    let edge = all_canary(route, &[v1.addr()], &[v2.addr()]);
    let answer = edge.ask(&post("/v1/predict", "12345")).await;
    assert_eq!(
        (answer.status, answer.problem().as_str(), answer.header("x-pointsman-version")),
        (504, "upstream_timeout", Some("v1"))
    );
    edge.expect_outcomes("v2", &[(Outcome::Timeout, 1)]).await;
    assert!(eventually(|| edge.in_flight() == 0).await);
    assert_eq!(edge.outcomes("v1"), []);
    assert_eq!(results(&edge, "v2", RetryResult::Failure), 1);
}

#[tokio::test]
async fn a_slow_client_is_not_taken_for_a_slow_version() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let route = with(Retries { per_try: Some(Duration::from_secs(5)), ..generous() });
    let edge = all_canary(route, &[v1.addr()], &[v2.addr()]);
    let mut client = edge.connect().await;
    client.send(b"POST /v1/predict HTTP/1.1\r\nhost: m\r\ncontent-length: 10\r\n\r\n01234").await;
    assert!(eventually(|| edge.in_flight() == 1).await);
    client.send(b"56789").await;
    assert_eq!(client.answer().await.unwrap().header("x-pointsman-version"), Some("v2"));
    edge.expect_outcomes("v2", &[(Outcome::Success, 1)]).await;
}

const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\nx-cause: model\r\n\r\nbroken";

#[tokio::test]
async fn what_is_not_safe_to_repeat_reaches_the_user_as_the_version_said_it() {
    let idempotent = Retries { replay: Replay::Idempotent, ..generous() };
    let never = Retries { replay: Replay::Never, ..generous() };
    let off = Retries { attempts: 1, ..generous() };
    let others = Retries { on: [pointsman_config::ErrorKind::Timeout].into(), ..generous() };
    for (settings, request) in
        [(idempotent, post("/", "{}")), (never, get("/")), (off, post("/", "{}")), (others, post("/", "{}"))]
    {
        let (v1, v2) = (model("v1").await, RawServer::answering(BROKEN).await);
        let edge = all_canary(with(settings), &[v1.addr()], &[v2.address]);
        let answer = edge.ask(&request).await;
        assert_eq!(
            (answer.status, answer.body.as_slice(), answer.header("x-cause")),
            (500, &b"broken"[..], Some("model"))
        );
        assert_eq!(answer.header("x-pointsman-version"), Some("v2"));
        edge.expect_outcomes("v2", &[(Outcome::Error, 1)]).await;
        assert_eq!((v1.requests(), retries(&edge, "v2")), (0, RetryCounts::default()));
    }
}

#[tokio::test]
async fn a_body_is_sent_again_whole_or_not_at_all() {
    for (bytes, limit, status) in [
        (0, 65_536, 200),
        (1, 65_536, 200),
        (65_536, 65_536, 200),
        (65_537, 65_536, 500),
        (200_000, 65_536, 500),
        (11, 10, 500),
        (10, 10, 200),
    ] {
        let (v1, v2) = (model("v1").await, RawServer::answering(BROKEN).await);
        let edge = all_canary(with(Retries { body_bytes: limit, ..generous() }), &[v1.addr()], &[v2.address]);
        let body = "y".repeat(bytes);
        let by_length = edge.ask(&post("/v1/predict", &body)).await;
        let head = "POST /v1/predict HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunks =
            body.as_bytes().chunks(30_000).map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), "y".repeat(chunk.len())));
        let in_chunks = edge.ask(&format!("{head}{}0\r\n\r\n", chunks.collect::<String>())).await;
        for answer in [by_length, in_chunks] {
            assert_eq!(answer.status, status, "{bytes} bytes of {limit}");
            if status == 200 {
                assert_eq!(answer.json()["prediction"].as_u64(), Some(bytes as u64));
            }
        }
        assert_eq!(v1.requests(), if status == 200 { 2 } else { 0 });
    }
}

#[tokio::test]
async fn a_canary_that_refuses_in_the_middle_of_an_upload_costs_the_user_nothing() {
    let v2 = RawServer::start(|mut connection| async move {
        connection.read().await;
        connection.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    })
    .await;
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let edge = all_canary(with(generous()), &[v1.address], &[v2.address]);
    let mut client = edge.connect().await;
    let request = post("/", &"0123456789".repeat(3_000));
    let (first, rest) = request.split_at(10_000);
    client.send(first.as_bytes()).await;
    assert!(eventually(|| v1.received().len() >= 9_900).await, "stable is sent what had come until then");
    client.send(rest.as_bytes()).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert!(v1.received().ends_with(&"0123456789".repeat(3_000)));
    edge.expect_outcomes("v2", &[(Outcome::Error, 1)]).await;
}

#[tokio::test]
async fn when_the_budget_is_spent_the_user_gets_the_failure() {
    let (v1, v2) = (model("v1").await, RawServer::answering(BROKEN).await);
    let budget = Retries { budget_ppm: 0, budget_floor: 1, ..generous() };
    let edge = all_canary(with(budget), &[v1.addr()], &[v2.address]);
    let mut client = edge.connect().await;
    let mut told = Vec::new();
    for _ in 0..30 {
        let answer = ask(&mut client, &post("/v1/predict", "12345")).await;
        assert!(answer.status == 200 || answer.body == b"broken", "{answer:?}");
        told.push(answer.status);
    }
    edge.expect_outcomes("v2", &[(Outcome::Error, 30)]).await;
    let good = told.iter().filter(|status| **status == 200).count();
    // One a second over ten seconds, and a little more if the test takes that long.
    assert!((10..20).contains(&good), "{told:?}");
    assert_eq!(results(&edge, "v2", RetryResult::Success), good as u64);
    assert_eq!(results(&edge, "v2", RetryResult::BudgetExhausted), 30 - good as u64);
}

#[tokio::test]
async fn an_attempt_is_not_given_up_for_one_that_the_budget_does_not_allow() {
    let late = r#"{"delay":{"share":1,"ms":400}}"#;
    for fast_lane in [true, false] {
        let (v1, v2) = (model("v1").await, model("v2").await);
        v2.set_faults(late.parse().unwrap());
        let spent = Retries { per_try: Some(Duration::from_millis(30)), budget_ppm: 0, budget_floor: 0, ..generous() };
        let edge = all_canary(with(spent), &[v1.addr()], &[v2.addr()]);
        edge.publisher.set_fast_lane(fast_lane);
        let answer = edge.ask(&post("/v1/predict", "12345")).await;
        assert_eq!((answer.status, answer.header("x-pointsman-version")), (200, Some("v2")), "{answer:?}");
        edge.expect_outcomes("v2", &[(Outcome::Success, 1)]).await;
        assert_eq!((v1.requests(), results(&edge, "v2", RetryResult::BudgetExhausted)), (0, 1));
    }
}

#[tokio::test]
async fn an_attempt_is_not_given_up_for_a_version_that_has_all_it_can_take() {
    for fast_lane in [true, false] {
        let (v1, v2) = (model("v1").await, model("v2").await);
        v1.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
        v2.set_faults(r#"{"delay":{"share":1,"ms":400}}"#.parse().unwrap());
        let mut route = with(Retries { per_try: Some(Duration::from_millis(30)), ..generous() });
        route.limits.concurrent_requests = Concurrency::Fixed(1);
        let edge = all_canary(route, &[v1.addr()], &[v2.addr()]);
        edge.publisher.set_fast_lane(fast_lane);
        // The first is sent on to stable, which keeps its only place for it.
        let mut first = edge.connect().await;
        first.send(post("/v1/predict", "12345").as_bytes()).await;
        assert!(eventually(|| v1.requests() == 1).await);
        let answer = edge.ask(&post("/v1/predict", "12345")).await;
        assert_eq!((answer.status, answer.header("x-pointsman-version")), (200, Some("v2")), "{answer:?}");
        assert_eq!(v1.requests(), 1);
    }
}

#[tokio::test]
async fn a_hint_before_a_failure_does_not_keep_it_from_being_repeated() {
    let hinted = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";
    for fast_lane in [true, false] {
        let (v1, v2) = (model("v1").await, RawServer::answering(hinted).await);
        let edge = all_canary(with(generous()), &[v1.addr()], &[v2.address]);
        edge.publisher.set_fast_lane(fast_lane);
        let answer = edge.ask(&post("/v1/predict", "12345")).await;
        assert_eq!((answer.status, answer.header("x-pointsman-version")), (200, Some("v1")));
        edge.expect_outcomes("v2", &[(Outcome::Error, 1)]).await;
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_is_never_followed_by_another() {
    let v2 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;
    let v1 = model("v1").await;
    let edge = all_canary(with(generous()), &[v1.addr()], &[v2.address]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    let all = String::from_utf8(client.rest().await).unwrap();
    assert_eq!(all.matches("HTTP/1.1").count(), 1, "{all}");
    assert!(!all.contains("prediction"), "{all}");
    edge.expect_outcomes("v2", &[(Outcome::Reset, 1)]).await;
    assert_eq!(v1.requests(), 0);
}

#[tokio::test]
async fn stable_is_asked_again_on_another_endpoint_where_that_may_help() {
    let answer = |status: &str, more: &str| format!("HTTP/1.1 {status} X\r\n{more}content-length: 0\r\n\r\n");
    for (bad, helped, outcome) in [
        (answer("503", ""), true, Outcome::Error),
        (answer("502", ""), true, Outcome::Error),
        (String::new(), true, Outcome::Reset),
        (answer("500", ""), false, Outcome::Error),
        (answer("503", "retry-after: 3\r\n"), false, Outcome::Error),
        (answer("503", "x-pointsman-shed: 1\r\n"), false, Outcome::Rejected),
    ] {
        let bad: &'static str = bad.leak();
        let failing = RawServer::start(move |mut connection| async move {
            while connection.request().await.is_some() && !bad.is_empty() && connection.send(bad).await {}
        })
        .await;
        let good = model("v1").await;
        let edge = TestEdge::with(with(generous()), &[failing.address, good.addr()], &[]);
        let mut met = 0;
        for _ in 0..30 {
            let answer = edge.ask(&post("/v1/predict", "12345")).await;
            met += u64::from(answer.status != 200);
        }
        assert!(eventually(|| edge.in_flight() == 0).await);
        let failed = edge.counts("v1").outcomes[outcome.index()];
        assert!(failed > 0, "{bad} was never met");
        assert_eq!(met, if helped { 0 } else { failed }, "{bad}");
        assert_eq!(results(&edge, "v1", RetryResult::Success), if helped { failed } else { 0 });
    }
}

#[tokio::test]
async fn what_the_canary_sheds_stable_answers_and_nobody_is_blamed() {
    let shed = "HTTP/1.1 429 Too Many Requests\r\nx-pointsman-shed: 1\r\ncontent-length: 0\r\n\r\n";
    let (v1, v2) = (model("v1").await, RawServer::answering(shed).await);
    let edge = all_canary(with(generous()), &[v1.addr()], &[v2.address]);
    assert_eq!(edge.ask(&post("/v1/predict", "12345")).await.status, 200);
    edge.expect_outcomes("v2", &[(Outcome::Rejected, 1)]).await;
    assert_eq!(edge.counts("v2").judged.requests, 0);
}

#[tokio::test]
async fn who_asks_for_the_canary_hears_from_it() {
    let (v1, v2) = (model("v1").await, RawServer::answering(BROKEN).await);
    let asks = Override { source: OverrideSource::Header("x-version".to_owned()), ask: None };
    let edge = all_canary(Route { overrides: vec![asks], ..with(generous()) }, &[v1.addr()], &[v2.address]);
    let answer = edge.ask("GET / HTTP/1.1\r\nhost: m\r\nx-version: v2\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("x-pointsman-version")), (500, Some("v2")));
    assert_eq!(v1.requests(), 0);
}

#[tokio::test]
async fn a_failed_retry_is_a_failure_of_the_canary_only() {
    let (v1, v2) = (RawServer::answering(BROKEN).await, RawServer::start(|_| async {}).await);
    let edge = all_canary(with(generous()), &[v1.address], &[v2.address]);
    let answer = edge.ask(&post("/", "{}")).await;
    assert_eq!((answer.status, answer.body.as_slice()), (500, &b"broken"[..]));
    assert_eq!(answer.header("x-pointsman-version"), Some("v1"), "who answered is named");
    edge.expect_outcomes("v2", &[(Outcome::Reset, 1)]).await;
    assert!(eventually(|| edge.in_flight() == 0).await);
    assert_eq!((edge.outcomes("v1"), results(&edge, "v2", RetryResult::Failure)), (Vec::new(), 1));
}

#[tokio::test]
async fn a_client_that_goes_during_a_retry_abandons_it() {
    let (v1, v2) = (model("v1").await, RawServer::answering(BROKEN).await);
    v1.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let edge = all_canary(with(generous()), &[v1.addr()], &[v2.address]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    assert!(eventually(|| v1.requests() == 1).await);
    drop(client);
    assert!(eventually(|| edge.in_flight() == 0).await);
    edge.expect_outcomes("v2", &[(Outcome::Error, 1)]).await;
    assert_eq!(results(&edge, "v2", RetryResult::Abandoned), 1);
}

#[tokio::test]
async fn a_version_that_closes_every_connection_it_keeps_is_charged_beyond_what_idle_closing_explains() {
    let forgetful = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        connection.read().await;
    })
    .await;
    let edge = TestEdge::with(with(generous()), &[forgetful.address], &[]);
    let mut client = edge.connect().await;
    for _ in 0..60 {
        assert_eq!(ask(&mut client, &post("/", "{}")).await.status, 200);
    }
    assert!(eventually(|| edge.in_flight() == 0).await);
    let counts = retries(&edge, "v1");
    assert!(counts.stale_charged > 0 && counts.stale_excused >= 10, "{counts:?}");
    assert_eq!(counts.stale_charged + counts.stale_excused, 30, "a connection that was asked for afresh is not kept");
    let resets = edge.counts("v1").outcomes[Outcome::Reset.index()];
    assert_eq!(resets, counts.stale_charged);
    assert_eq!(edge.counts("v1").judged.errors, resets);
}

#[tokio::test]
async fn a_grpc_call_without_an_answer_but_its_status_is_judged_by_it() {
    for (status, outcome) in [("14", Outcome::Error), ("5", Outcome::Success)] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: {status}\r\ncontent-length: 0\r\n\r\n"
        );
        let (v1, v2) = (model("v1").await, RawServer::answering(head.leak()).await);
        let edge = all_canary(with(generous()), &[v1.addr()], &[v2.address]);
        let answer = edge.ask(&post("/v1/predict", "12345")).await;
        let by = if outcome == Outcome::Error { "v1" } else { "v2" };
        assert_eq!((answer.status, answer.header("x-pointsman-version")), (200, Some(by)));
        edge.expect_outcomes("v2", &[(outcome, 1)]).await;
    }
}

/// Asks until `done`; gives how many answers were not good.
async fn ask_until(edge: &Edge, done: tokio::sync::watch::Receiver<bool>) -> usize {
    let (mut client, mut bad) = (Client::connect(edge.address).await, 0);
    while !*done.borrow() {
        bad += usize::from(ask(&mut client, &get("/v1/predict")).await.status != 200);
    }
    bad
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_whose_failures_no_user_sees_is_taken_back_all_the_same() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    let (done, watch) = tokio::sync::watch::channel(false);
    let watching = async {
        edge.wait_for_route("compared", |route| route["versions"]["v2"]["requests"].as_u64().unwrap() > 50).await;
        site.v2.set_faults(r#"{"fail":{"share":0.5,"status":500}}"#.parse().unwrap());
        let route = edge.wait_for_route("rolled back", |route| weight_of(route) == 0.0).await;
        done.send_replace(true);
        route
    };
    let (route, one, other) = tokio::join!(watching, ask_until(&edge, watch.clone()), ask_until(&edge, watch));
    assert_eq!(one + other, 0, "no user has seen a failure");
    assert_eq!(route["quarantined"][0]["version"], "v2", "{route:#}");
    assert!(route["versions"]["v2"]["errors"].as_u64().unwrap() > 0, "{route:#}");
    assert_eq!(route["versions"]["v1"]["errors"], 0, "{route:#}");
    let metrics = edge.text("/metrics").await;
    let retried = metrics
        .lines()
        .find(|line| line.starts_with(r#"pointsman_retries_total{route="model",version="v2",result="success"}"#));
    assert!(retried.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
}
