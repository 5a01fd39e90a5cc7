//! Copies of stable's requests: they arrive whole, what they are answered is compared, and no user ever waits for one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pointsman::mirror::books::{Disagreement, MirrorCounts, MirrorResult};
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::load::{Load, Running};
use pointsman_config::{Compare, Mirror, Override, OverrideSource, Route, Share};
use tokio::sync::mpsc;

use crate::harness::{Client, RawServer, TestEdge, dead_address, eventually, get, id, post, route};
use crate::process::{Edge, Site, weight_of};

/// Copies of every request, all of them for v2.
fn whole() -> Mirror {
    Mirror {
        version: id("v2"),
        share: Share::WHOLE,
        concurrent: 64,
        body_bytes: 256 << 10,
        timeout: Duration::from_secs(30),
        compare: Compare { noise: Share::ZERO, ..Compare::default() },
    }
}

fn mirrored(mirror: Mirror) -> Route {
    Route { mirror: Some(mirror), ..route() }
}

fn edge(mirror: Mirror, v1: &[SocketAddr], v2: &[SocketAddr]) -> TestEdge {
    TestEdge::with(mirrored(mirror), v1, v2)
}

fn counts(edge: &TestEdge) -> MirrorCounts {
    edge.publisher.mirror_counts(&edge.route.name).unwrap()
}

fn samples(edge: &TestEdge) -> Vec<Disagreement> {
    edge.publisher.mirror_view(&edge.route.name).unwrap().samples
}

/// What came of the copies for v2, those that occurred only.
fn results(edge: &TestEdge) -> Vec<(MirrorResult, u64)> {
    let [of_v2, _] = counts(edge).copies;
    MirrorResult::ALL.into_iter().zip(of_v2.results).filter(|(_, count)| *count > 0).collect()
}

async fn expect(edge: &TestEdge, expected: &[(MirrorResult, u64)]) {
    let reached = eventually(|| results(edge) == expected).await;
    assert!(reached, "{:?} instead of {expected:?}", results(edge));
}

async fn model(version: &str) -> FakeModel {
    FakeModel::start(version).await.unwrap()
}

/// Asks so often on one connection; every answer must be stable's and good.
async fn ask(edge: &TestEdge, times: usize) {
    let mut client = edge.connect().await;
    for number in 0..times {
        client.send(post("/v1/predict", "12345").as_bytes()).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.header("x-pointsman-version")), (200, Some("v1")), "request {number}");
    }
}

/// A model that predicts the length of the body, and every request that it gets.
async fn recording() -> (RawServer, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let server = RawServer::start(move |mut connection| {
        let tell = tell.clone();
        async move {
            while let Some(request) = connection.request().await {
                let body = request.split_once("\r\n\r\n").unwrap().1;
                let answer = format!("{{\"prediction\": {}}}", body.len());
                tell.send(request.clone()).unwrap();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
                if !connection.send(&format!("{head}{}\r\n\r\n{answer}", answer.len())).await {
                    return;
                }
            }
        }
    })
    .await;
    (server, told)
}

async fn next(told: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(crate::harness::PATIENCE, told.recv()).await.expect("a copy in time").unwrap()
}

#[tokio::test]
async fn copies_arrive_byte_for_byte_and_say_what_they_are() {
    let v1 = model("v1").await;
    let (v2, mut told) = recording().await;
    let edge = edge(whole(), &[v1.addr()], &[v2.address]);
    let mut client = edge.connect().await;
    for bytes in [0, 10, 4_096, 200_000] {
        let body: String = ('a'..='z').cycle().take(bytes).collect();
        let head = "POST /v1/predict?q=1 HTTP/1.1\r\nhost: model.test\r\nx-own: yes\r\nx-pointsman-mirror: forged\r\n";
        let by_length = format!("{head}content-length: {bytes}\r\n\r\n{body}");
        let pieces = body
            .as_bytes()
            .chunks(7_000)
            .map(|piece| format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)));
        let in_chunks = format!("{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", pieces.collect::<String>());
        for request in [by_length, in_chunks] {
            client.send(request.as_bytes()).await;
            let answer = client.answer().await.unwrap();
            assert_eq!(answer.json()["prediction"].as_u64(), Some(bytes as u64));
            let copy = next(&mut told).await;
            let (copied_head, copied) = copy.split_once("\r\n\r\n").unwrap();
            assert!(copied == body, "{} of {bytes} bytes arrived", copied.len());
            check_head(copied_head, bytes, answer.header("x-request-id").unwrap());
        }
    }
    expect(&edge, &[(MirrorResult::Agreed, 8)]).await;
    assert_eq!(edge.outcomes("v2"), [], "copies are nobody's requests");
    edge.expect_outcomes("v1", &[(Outcome::Success, 8)]).await;
}

fn check_head(head: &str, bytes: usize, request_id: &str) {
    let lines: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
    assert_eq!(lines[0], "post /v1/predict?q=1 http/1.1");
    let expected = [
        "host: model.test".to_owned(),
        "x-own: yes".to_owned(),
        "x-pointsman-mirror: 1".to_owned(),
        format!("content-length: {bytes}"),
        format!("x-request-id: {request_id}"),
    ];
    for line in expected {
        assert_eq!(lines.iter().filter(|known| **known == line).count(), 1, "{line} in {head}");
    }
    assert!(!head.contains("forged") && !head.contains("transfer-encoding"), "{head}");
}

#[tokio::test]
async fn a_mirror_that_hangs_costs_samples_and_the_user_nothing() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    v2.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let edge = edge(Mirror { concurrent: 4, ..whole() }, &[v1.addr()], &[v2.addr()]);
    ask(&edge, 200).await;
    expect(&edge, &[(MirrorResult::Dropped, 196)]).await;
    edge.expect_outcomes("v1", &[(Outcome::Success, 200)]).await;
    assert!(eventually(|| v2.requests() == 4).await, "what may be under way is");
    assert_eq!(v1.predictions(), 200);
}

#[tokio::test]
async fn a_mirror_that_refuses_breaks_or_is_late_costs_the_user_nothing() {
    let v1 = model("v1").await;
    let dead = dead_address().await;
    let refusing = edge(whole(), &[v1.addr()], &[dead]);
    ask(&refusing, 50).await;
    expect(&refusing, &[(MirrorResult::Failed, 50)]).await;
    let without_endpoints = edge(whole(), &[v1.addr()], &[]);
    ask(&without_endpoints, 5).await;
    expect(&without_endpoints, &[(MirrorResult::Dropped, 5)]).await;
    for (faults, timeout) in [
        (r#"{"reset":{"share":1}}"#, 30_000),
        (r#"{"reset":{"share":1,"when":"mid_body"}}"#, 30_000),
        (r#"{"garbage":{"share":1}}"#, 30_000),
        (r#"{"hang":{"share":1}}"#, 100),
    ] {
        let v2 = model("v2").await;
        v2.set_faults(faults.parse().unwrap());
        let mirror = Mirror { timeout: Duration::from_millis(timeout), ..whole() };
        let edge = edge(mirror, &[v1.addr()], &[v2.addr()]);
        ask(&edge, 20).await;
        expect(&edge, &[(MirrorResult::Failed, 20)]).await;
        edge.expect_outcomes("v1", &[(Outcome::Success, 20)]).await;
    }
}

#[tokio::test]
async fn a_copy_that_is_shed_says_nothing_of_the_model() {
    let v1 = model("v1").await;
    let v2 = RawServer::start(|mut connection| async move {
        while connection.request().await.is_some() {
            connection.send("HTTP/1.1 503 Busy\r\nx-pointsman-shed: 1\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let edge = edge(whole(), &[v1.addr()], &[v2.address]);
    ask(&edge, 5).await;
    expect(&edge, &[(MirrorResult::Failed, 5)]).await;
}

#[tokio::test]
async fn connections_for_copies_are_kept() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let edge = edge(whole(), &[v1.addr()], &[v2.addr()]);
    for number in 1..=20 {
        ask(&edge, 1).await;
        expect(&edge, &[(MirrorResult::Agreed, number)]).await;
    }
    // One per worker, and no more than that.
    assert!(v2.connections() <= 2, "{}", v2.connections());
}

#[tokio::test]
async fn a_wrong_number_with_a_good_status_is_a_disagreement_and_is_remembered() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let edge = edge(whole(), &[v1.addr()], &[v2.addr()]);
    ask(&edge, 5).await;
    expect(&edge, &[(MirrorResult::Agreed, 5)]).await;
    v2.set_faults(r#"{"wrong":{"share":1,"prediction":5.2}}"#.parse().unwrap());
    let mut client = edge.connect().await;
    client.send(b"POST / HTTP/1.1\r\nhost: m\r\nx-request-id: who\r\ncontent-length: 5\r\n\r\n12345").await;
    client.answer().await.unwrap();
    expect(&edge, &[(MirrorResult::Agreed, 5), (MirrorResult::Disagreed, 1)]).await;
    let sample = Disagreement {
        request_id: "who".to_owned(),
        field: "/prediction".to_owned(),
        stable: "5".to_owned(),
        copy: "5.2".to_owned(),
    };
    assert_eq!(samples(&edge), [sample]);
    v2.set_faults(r#"{"fail":{"share":1,"status":503}}"#.parse().unwrap());
    ask(&edge, 1).await;
    expect(&edge, &[(MirrorResult::Agreed, 5), (MirrorResult::Disagreed, 2)]).await;
    assert_eq!(samples(&edge)[1].field, "status");
    let [of_v2, _] = counts(&edge).copies;
    let answered = |histogram: [u64; pointsman::recorder::BUCKETS]| histogram.iter().sum::<u64>();
    assert_eq!((answered(of_v2.stable.histogram), answered(of_v2.copy.histogram)), (7, 7), "both were timed");
}

#[tokio::test]
async fn how_often_stable_disagrees_with_itself_is_learnt_by_asking_it_twice() {
    // Never twice the same, and far apart: each answer is twice the one before.
    let answers = Arc::new(AtomicU32::new(0));
    let v1 = RawServer::start(move |mut connection| {
        let answers = Arc::clone(&answers);
        async move {
            while connection.request().await.is_some() {
                let body = format!("{{\"prediction\": {}}}", 1_u64 << answers.fetch_add(1, SeqCst));
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
                connection.send(&format!("{head}{}\r\n\r\n{body}", body.len())).await;
            }
        }
    })
    .await;
    let v2 = model("v2").await;
    let noise = Mirror { compare: Compare { noise: Share::WHOLE, ..Compare::default() }, ..whole() };
    let edge = edge(noise, &[v1.address], &[v2.addr()]);
    ask(&edge, 10).await;
    let of_stable = || counts(&edge).copies[1].clone();
    assert!(eventually(|| of_stable().results == [0, 10, 0, 0, 0]).await, "{:?}", of_stable());
    assert_eq!((of_stable().version, results(&edge), v2.requests()), (id("v1"), Vec::new(), 0));
    assert_eq!(v1.received().matches("x-pointsman-mirror: 1").count(), 10);
    assert_eq!(samples(&edge), [], "stable's own are no news");
    assert_eq!(edge.outcomes("v1"), [(Outcome::Success, 10)]);
}

#[tokio::test]
async fn a_share_is_copied_and_only_of_what_chance_gave_to_stable() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let half = edge(Mirror { share: Share::from_ppm(500_000).unwrap(), ..whole() }, &[v1.addr()], &[v2.addr()]);
    ask(&half, 200).await;
    assert!(eventually(|| half.in_flight() == 0).await);
    let copied: u64 = results(&half).iter().map(|(_, count)| count).sum();
    assert!((60..140).contains(&copied), "{copied}");

    let asks = Override { source: OverrideSource::Header("x-version".to_owned()), ask: None };
    let route = Route { overrides: vec![asks], ..mirrored(whole()) };
    let mut edge = TestEdge::with(route, &[v1.addr()], &[v2.addr()]);
    let answer = edge.ask("GET / HTTP/1.1\r\nhost: m\r\nx-version: v1\r\n\r\n").await;
    assert_eq!(answer.header("x-pointsman-version"), Some("v1"));
    edge.set_weight(1_000_000);
    assert_eq!(edge.ask(&get("/")).await.header("x-pointsman-version"), Some("v2"));
    assert!(eventually(|| edge.in_flight() == 0).await);
    assert_eq!(results(&edge), [], "neither what a tester asks for nor what the canary gets");
}

#[tokio::test]
async fn what_is_too_large_is_not_copied_or_not_compared() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let small = edge(Mirror { body_bytes: 100, ..whole() }, &[v1.addr()], &[v2.addr()]);
    small.ask(&post("/v1/predict", &"x".repeat(101))).await;
    expect(&small, &[(MirrorResult::Dropped, 1)]).await;
    small.ask(&post("/v1/predict", &"x".repeat(100))).await;
    expect(&small, &[(MirrorResult::Agreed, 1), (MirrorResult::Dropped, 1)]).await;
    // What is echoed is longer than that.
    small.ask(&get("/echo")).await;
    expect(&small, &[(MirrorResult::Agreed, 1), (MirrorResult::Uncompared, 1), (MirrorResult::Dropped, 1)]).await;
    assert_eq!(v2.requests(), 2);
}

#[tokio::test]
async fn a_request_that_is_never_whole_has_no_copy_and_one_without_an_answer_is_not_compared() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let edge = edge(whole(), &[v1.addr()], &[v2.addr()]);
    let mut client = edge.connect().await;
    client.send(b"POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 10\r\n\r\n01234").await;
    assert!(eventually(|| v1.connections() == 1).await);
    drop(client);
    assert!(eventually(|| edge.in_flight() == 0).await);
    assert_eq!((results(&edge), v2.requests()), (Vec::new(), 0));
    v1.set_faults(r#"{"reset":{"share":1}}"#.parse().unwrap());
    assert_eq!(edge.ask(&post("/", "12345")).await.status, 502);
    expect(&edge, &[(MirrorResult::Uncompared, 1)]).await;
}

#[tokio::test]
async fn a_request_that_is_repeated_is_copied_once() {
    let bad = RawServer::answering("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n").await;
    let (v1, (v2, mut told)) = (model("v1").await, recording().await);
    let edge = edge(whole(), &[bad.address, v1.addr()], &[v2.address]);
    let mut client = edge.connect().await;
    while bad.connections() == 0 {
        client.send(get("/v1/predict").as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
        next(&mut told).await;
    }
    assert!(told.try_recv().is_err(), "one copy for each request");
    assert!(eventually(|| results(&edge).iter().all(|(result, _)| *result == MirrorResult::Agreed)).await);
}

#[tokio::test]
async fn the_copies_of_many_clients_share_one_limit() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    v2.set_faults(r#"{"delay":{"share":1,"ms":20}}"#.parse().unwrap());
    let edge = edge(Mirror { concurrent: 2, ..whole() }, &[v1.addr()], &[v2.addr()]);
    let clients = (0..8).map(|_| {
        let address = edge.address;
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            for _ in 0..50 {
                client.send(post("/v1/predict", "12345").as_bytes()).await;
                assert_eq!(client.answer().await.unwrap().status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let all = || results(&edge).iter().map(|(_, count)| count).sum::<u64>() == 400;
    assert!(eventually(all).await, "{:?}", results(&edge));
    assert!(results(&edge).iter().any(|(result, count)| *result == MirrorResult::Dropped && *count > 0));
    edge.expect_outcomes("v1", &[(Outcome::Success, 400)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_weight_gets_copies_and_everybody_can_see_what_it_says() {
    let site = Site::new().await;
    site.v2.set_faults(r#"{"wrong":{"share":1,"prediction":7.0}}"#.parse().unwrap());
    site.write(&site.text("weights: { v1: 100% }\n    mirror: { version: v2, share: 100%, compare: { noise: 20% } }"));
    let edge = site.start().await;
    for _ in 0..60 {
        let answer = edge.predict().await;
        assert_eq!((answer.status, answer.header("x-pointsman-version")), (200, Some("v1")));
    }
    let compared = |route: &serde_json::Value| {
        let number = |name: &str| route["mirror"][name].as_u64().unwrap_or_default();
        number("compared") + number("noise_compared")
    };
    let mirror = edge.wait_for_route("60 copies", |route| compared(route) == 60).await["mirror"].clone();
    assert_eq!(mirror["version"], "v2");
    assert_eq!(mirror["disagreed"], mirror["compared"], "{mirror:#}");
    assert!(mirror["noise_compared"].as_u64() > Some(0) && mirror["noise_disagreed"] == 0, "{mirror:#}");
    let sample = &mirror["samples"][0];
    assert_eq!(
        (&sample["field"], &sample["stable"], &sample["copy"]),
        (&"/prediction".into(), &"5".into(), &"7.0".into())
    );
    let route = edge.route().await;
    assert_eq!((&route["versions"]["v1"]["requests"], &route["versions"]["v2"]["requests"]), (&60.into(), &0.into()));
    let metrics = edge.text("/metrics").await;
    assert!(metrics.contains(r#"pointsman_mirror_total{route="model",version="v2",result="agreed"} 0"#), "{metrics}");
}

fn load(edge: &Edge) -> Running {
    let mut load = Load::new(&format!("http://{}/v1/predict", edge.address)).unwrap();
    load.rate = 500;
    load.bodies = vec![bytes::Bytes::from_static(b"12345")];
    load.start().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_goes_on_when_its_copies_agree_and_not_when_they_do_not() {
    let plan = "rollout: { canary: v2, steps: [ { weight: 10%, hold: 1s }, { weight: 50%, hold: 1h } ] }\n    \
                mirror: { version: v2, share: 100% }";
    let (agrees, differs) = (Site::new().await, Site::new().await);
    differs.v2.set_faults(r#"{"wrong":{"share":0.2,"prediction":7.0}}"#.parse().unwrap());
    agrees.write(&agrees.text(plan));
    differs.write(&differs.text(plan));
    let (good, bad) = (agrees.start().await, differs.start().await);
    let loads = [load(&good), load(&bad)];
    let told = bad.wait_for_route("told", |route| route["last_decision"]["decision"] == "alert").await;
    assert!(told["mirror"]["disagreed"].as_u64() > Some(0), "{told:#}");
    good.wait_for_weight(50.0).await;
    let held = bad.route().await;
    assert_eq!((weight_of(&held), &held["phase"]), (0.0, &"warming".into()), "{held:#}");
    assert!(held["why"].as_str().unwrap().contains("answers copied requests otherwise"), "{held:#}");
    for load in loads {
        load.stop();
        assert_eq!(load.finish().await.unwrap().figures.errors.sum(), 0, "no user has waited for a copy, or failed");
    }
}

#[tokio::test]
async fn a_stream_of_stable_does_not_keep_the_place_of_its_copy() {
    for kind in ["text/event-stream", "application/x-ndjson"] {
        let v1 = RawServer::start(move |mut connection| async move {
            connection.request().await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
            connection.send(&format!("{head}2\r\n{{}}\r\n")).await;
            // The stream stays open until its client goes.
            while connection.read().await.is_some() {}
        })
        .await;
        let v2 = model("v2").await;
        let one = Mirror { concurrent: 1, timeout: Duration::from_millis(500), ..whole() };
        let edge = edge(one, &[v1.address], &[v2.addr()]);
        let mut streams = Vec::new();
        for number in 1..=3 {
            let mut client = edge.connect().await;
            client.send(post("/v1/predict", "12345").as_bytes()).await;
            assert!(client.head().await.unwrap().contains(kind));
            streams.push(client);
            let copied = eventually(|| results(&edge).iter().map(|(_, count)| count).sum::<u64>() == number).await;
            assert!(copied, "{kind}: {:?}", results(&edge));
        }
        assert!(results(&edge).iter().all(|(result, _)| *result != MirrorResult::Dropped), "{:?}", results(&edge));
    }
}
