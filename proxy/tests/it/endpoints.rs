//! Endpoints that leave, fail, start, and are too few: the real binary on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use hyper_util::rt::{TokioExecutor, TokioIo};
use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::fault::Faults;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Client, RawServer, eventually, post};
use crate::pki::Pki;
use crate::process::{Edge, Site, weight_of};
use crate::speak::{Wire, whole};

/// A config with these endpoints; `rest` is what the route says besides.
pub fn config(v1: &[SocketAddr], v2: &[SocketAddr], rest: &str) -> String {
    let list = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
state: {{ file: state.db }}
routes:
  - name: model
    stable: v1
    versions: {{ v1: {{ endpoints: [{}] }}, v2: {{ endpoints: [{}] }} }}
    {rest}
",
        list(v1),
        list(v2)
    )
}

/// An endpoint of a version as `status` shows it; null if it is not there.
pub fn endpoint(route: &Value, version: &str, address: SocketAddr) -> Value {
    let endpoints = route["versions"][version]["endpoints"].as_array().unwrap();
    endpoints.iter().find(|endpoint| endpoint["address"] == address.to_string()).cloned().unwrap_or_default()
}

async fn metric(edge: &Edge, line: &str) -> bool {
    let mut client = Client::connect(edge.admin).await;
    client.send(b"GET /metrics HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n").await;
    String::from_utf8(client.answer().await.unwrap().body).unwrap().lines().any(|found| found == line)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_leaves_finishes_what_it_has_and_gets_nothing_new() {
    let (release, released) = watch::channel(false);
    let closed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&closed);
    let leaving = RawServer::start(move |mut connection| {
        let (mut released, closed) = (released.clone(), Arc::clone(&seen));
        async move {
            // Health checks connect and say nothing.
            if connection.request().await.is_none() {
                return;
            }
            released.wait_for(|released| *released).await.unwrap();
            connection.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
            assert!(connection.request().await.is_none(), "nothing new comes over a connection that was kept");
            closed.store(true, SeqCst);
        }
    })
    .await;
    let site = Site::new().await;
    let rest = "health_check: { interval: 50ms, timeout: 1s }";
    site.write(&config(&[leaving.address, site.v1.addr()], &[site.v2.addr()], rest));
    let edge = site.start().await;
    // One of them goes to each of the two.
    let mut under_way = Vec::new();
    while !leaving.received().contains("POST") {
        let mut client = Client::connect(edge.address).await;
        client.send(post("/v1/predict", "12345").as_bytes()).await;
        under_way.push(client);
        tokio::task::yield_now().await;
    }
    site.write(&config(&[site.v1.addr()], &[site.v2.addr()], rest));
    edge.wait_for_config("reloaded", |config| config["generation"] == 2).await;
    let is_draining = |route: &Value| endpoint(route, "v1", leaving.address)["state"] == "draining";
    let route = edge.wait_for_route("draining", is_draining).await;
    assert!(endpoint(&route, "v1", leaving.address)["in_flight"].as_u64().unwrap() > 0, "{route:#}");
    let before = leaving.received().matches("POST").count();
    for _ in 0..30 {
        assert_eq!(edge.predict().await.status, 200);
    }
    assert_eq!(leaving.received().matches("POST").count(), before, "it gets no new request");
    release.send(true).unwrap();
    let mut late = 0;
    for client in &mut under_way {
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        late += usize::from(answer.body == b"late");
    }
    assert_eq!(late, before, "what was under way is answered by who had it");
    edge.wait_for_route("drained", |route| endpoint(route, "v1", leaving.address).is_null()).await;
    assert!(eventually(|| edge.log().contains("endpoint has drained")).await, "{}", edge.log());
    assert!(eventually(|| closed.load(SeqCst)).await, "its connection is closed, not kept for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_sits_out_visibly_and_comes_back_by_itself() {
    let (site, good) = (Site::new().await, FakeModel::start("v1").await.unwrap());
    let rest = "health_check: { path: /ready, interval: 50ms, timeout: 1s }
    slow_start: 0s
    ejection: { consecutive_failures: 1, base_time: 1s, max_time: 1s }";
    let failing = &site.v1;
    site.write(&config(&[failing.addr(), good.addr()], &[site.v2.addr()], rest));
    failing.set_faults(Faults::none().failing(1.0, 500).unwrap());
    let edge = site.start().await;
    let out = async {
        while endpoint(&edge.route().await, "v1", failing.addr())["state"] != "ejected" {
            edge.predict().await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, out).await.expect("it sits out");
    edge.wait_for_log("endpoint sits out").await;
    let route = edge.route().await;
    let seen = endpoint(&route, "v1", failing.addr());
    if seen["state"] == "ejected" {
        assert!(seen["problem"].as_str().unwrap().contains("failures in a row"), "{seen}");
    }
    assert!(route["versions"]["v1"]["ejections"].as_u64().unwrap() >= 1);
    failing.set_faults(Faults::none());
    edge.wait_for_route("back", |route| endpoint(route, "v1", failing.addr())["state"] == "up").await;
    edge.wait_for_log("endpoint gets requests again").await;
    let ejections = edge.route().await["versions"]["v1"]["ejections"].clone();
    let counted = format!("pointsman_endpoint_ejections_total{{route=\"model\",version=\"v1\"}} {ejections}");
    assert!(metric(&edge, &counted).await, "{counted}");
    let up = format!("pointsman_endpoint_up{{route=\"model\",version=\"v1\",endpoint=\"{}\"}} 1", failing.addr());
    assert!(metric(&edge, &up).await, "{up}");
    // What it failed was counted before it sat out.
    assert!(edge.route().await["versions"]["v1"]["errors"].as_u64().unwrap() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_restarts_starts_slowly() {
    let (site, mut other) = (Site::new().await, FakeModel::start("v1").await.unwrap());
    let rest = "health_check: { path: /ready, interval: 50ms, timeout: 1s }
    slow_start: 1h";
    site.write(&config(&[site.v1.addr(), other.addr()], &[site.v2.addr()], rest));
    let edge = site.start().await;
    let address = other.addr();
    let is = |wanted: &'static str| move |route: &Value| endpoint(route, "v1", address)["state"] == wanted;
    edge.wait_for_route("up", is("up")).await;
    other.stop().await;
    edge.wait_for_route("down", is("down")).await;
    other.restart().await.unwrap();
    edge.wait_for_route("up again", is("up")).await;
    let before = other.predictions();
    for _ in 0..400 {
        assert_eq!(edge.predict().await.status, 200);
    }
    // A tenth of its half is 20; with all of its half it would have 200.
    let got = other.predictions() - before;
    assert!((1..80).contains(&got), "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_no_more_than_its_ready_endpoints_carry_and_a_flapping_one_moves_nothing() {
    let site = Site::new().await;
    let mut canaries = Vec::new();
    for _ in 0..4 {
        let canary = FakeModel::start("v2").await.unwrap();
        canary.set_ready(canaries.is_empty());
        canaries.push(canary);
    }
    let v2: Vec<_> = canaries.iter().map(FakeModel::addr).collect();
    let rest = "health_check: { path: /ready, interval: 50ms, timeout: 1s, unhealthy_after: 1 }
    weights: { v1: 50%, v2: 50% }";
    site.write(&config(&[site.v1.addr()], &v2, rest));
    let edge = site.start().await;
    edge.wait_for_weight(17.5).await;
    for _ in 0..400 {
        edge.predict().await;
    }
    let observed = |route: &Value| route["weights"]["v2"]["observed"].as_f64().unwrap_or_default();
    let route = edge.wait_for_route("observed", |route| observed(route) > 0.0).await;
    assert_eq!(route["weights"]["v2"]["desired"], 50.0);
    assert!((5.0..35.0).contains(&observed(&route)), "{route:#}");
    let why = "v2 gets 17.5% instead of 50%: cut by ready capacity, 1 of 4 endpoints";
    assert_eq!(route["why"], why);
    // What comes up for the first time counts at once.
    canaries[1].set_ready(true);
    edge.wait_for_weight(35.0).await;
    // What comes and goes is counted out once, and then moves no weight until it stays.
    let is = |up: usize| {
        move |route: &Value| {
            let endpoints = route["versions"]["v2"]["endpoints"].as_array().unwrap();
            endpoints.iter().filter(|endpoint| endpoint["state"] == "up").count() == up
        }
    };
    for _ in 0..3 {
        canaries[1].set_ready(false);
        edge.wait_for_route("one up", is(1)).await;
        edge.wait_for_weight(17.5).await;
        canaries[1].set_ready(true);
        let route = edge.wait_for_route("two up", is(2)).await;
        assert_eq!(weight_of(&route), 17.5);
    }
    edge.wait_for_weight(35.0).await;
    canaries[2].set_ready(true);
    canaries[3].set_ready(true);
    let route = edge.wait_for_route("all of it", |route| weight_of(route) == 50.0).await;
    assert_eq!(route["why"].as_str().unwrap().find("cut by"), None, "{route:#}");
}

/// A model server that speaks what its clients begin with, over TLS if it has a config, and predicts 31.5.
async fn version_that_speaks(tls: Option<Arc<rustls::ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            match tls.clone() {
                None => drop(tokio::spawn(answer_predictions(tcp))),
                Some(config) => drop(tokio::spawn(async move {
                    if let Ok(stream) = TlsAcceptor::from(config).accept(tcp).await {
                        answer_predictions(stream).await;
                    }
                })),
            }
        }
    });
    address
}

async fn answer_predictions(stream: impl Wire + 'static) {
    let service = hyper::service::service_fn(|_request: hyper::Request<hyper::body::Incoming>| async {
        Ok::<_, std::io::Error>(hyper::Response::new(whole(r#"{"prediction":31.5}"#)))
    });
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // Health checks break off.
    drop(server.serve_connection(TokioIo::new(stream), service).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_and_golden_calls_speak_what_their_endpoints_speak() {
    let (site, pki) = (Site::new().await, Pki::new());
    let (server, edge) = (pki.issue("version", &["version.test"]), pki.issue("edge", &["edge"]));
    let (ca, certificate, key) = (pki.ca(), edge.certificate, edge.private_key);
    let trusted = format!("ca: {}, server_name: version.test", ca.display());
    let mutual = format!("{trusted}, certificate: {}, private_key: {}", certificate.display(), key.display());
    let (any, asks) = (pki.server(&["h2", "http/1.1"], &server, false), pki.server(&["h2"], &server, true));
    for (tls, speaks) in [
        (None, "protocol: h2c".to_owned()),
        (Some(any), format!("upstream_tls: {{ {trusted} }}")),
        (Some(asks), format!("protocol: h2\n    upstream_tls: {{ {mutual} }}")),
    ] {
        let address = version_that_speaks(tls).await;
        let rest = format!(
            "health_check: {{ path: /ready, interval: 50ms, timeout: 2s }}
    warm_up: {{ examples: [{{ body: '{{}}', expect: 31.5, tolerance: 0.1 }}], calls: 2 }}
    {speaks}
    weights: {{ v1: 50%, v2: 50% }}"
        );
        site.write(&config(&[address], &[address], &rest));
        let edge = site.start().await;
        edge.wait_for_route(&speaks, |route| endpoint(route, "v2", address)["state"] == "up").await;
        edge.wait_for_weight(50.0).await;
        assert_eq!(edge.predict().await.body, br#"{"prediction":31.5}"#);
    }
}
