//! The fault layer: each fault as a client sees it, changed while it runs, and counted.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pointsman_chaos::fakes::{Echo, FakeModel};
use pointsman_chaos::fault::{Addresses, Counts, FaultProxy, Faults};
use serde_json::json;

use crate::client::{Seen, ask_on_one_connection, send};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn between(model: &FakeModel) -> FaultProxy {
    FaultProxy::start(Addresses { listen: ANY_PORT, upstream: model.addr(), control: ANY_PORT }).await.unwrap()
}

/// One request through a layer with these faults: what the client saw, what was counted.
async fn check(faults: &str) -> (Seen, Counts) {
    let model = FakeModel::start("v1").await.unwrap();
    let proxy = between(&model).await;
    proxy.faults().set(faults.parse().unwrap());
    let seen = send(proxy.addr(), "POST", "/v1/predict", "12345").await;
    (seen, proxy.faults().counts())
}

#[tokio::test]
async fn without_faults_a_request_passes_as_it_is() {
    let model = FakeModel::start("v1").await.unwrap();
    let proxy = between(&model).await;
    let seen = send(proxy.addr(), "POST", "/echo?q=%20", "abc").await;
    let echo: Echo = serde_json::from_str(&seen.body()).unwrap();
    assert_eq!((echo.method.as_str(), echo.path.as_str(), echo.body_bytes), ("POST", "/echo?q=%20", 3));
    assert_eq!((echo.header("host"), echo.header("connection")), (Some("test"), None));
    assert_eq!(proxy.faults().counts(), Counts { requests: 1, exposed: 1, ..Counts::default() });
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let model = FakeModel::start("v1").await.unwrap();
    let proxy = between(&model).await;
    assert_eq!(ask_on_one_connection(proxy.addr(), "/v1/predict", 20).await, [200; 20]);
    assert_eq!((model.requests(), model.connections()), (20, 1));
}

#[tokio::test]
async fn fail_answers_with_its_status() {
    let (seen, counts) = check(r#"{"fail":{"share":1,"status":503}}"#).await;
    assert_eq!((seen.status(), counts.failed), (503, 1));
}

#[tokio::test]
async fn delay_makes_wait() {
    let start = Instant::now();
    let (seen, counts) = check(r#"{"delay":{"share":1,"ms":[60,80]}}"#).await;
    assert!(start.elapsed() >= Duration::from_millis(60));
    assert_eq!((seen.status(), counts.delayed), (200, 1));
    assert_eq!(seen.json()["prediction"], 5);
}

#[tokio::test]
async fn reset_ends_the_connection() {
    let (seen, counts) = check(r#"{"reset":{"share":1}}"#).await;
    assert_eq!((seen.bytes.len(), seen.error, counts.reset), (0, Some(ErrorKind::ConnectionReset), 1));
    let (seen, counts) = check(r#"{"reset":{"share":1,"when":"mid_body"}}"#).await;
    assert_eq!((seen.status(), seen.error, counts.reset), (200, Some(ErrorKind::ConnectionReset), 1));
    assert!(seen.text().contains("content-length: 31") && seen.body().len() == 15, "{}", seen.text());
}

#[tokio::test]
async fn garbage_is_no_http() {
    let (seen, counts) = check(r#"{"garbage":{"share":1}}"#).await;
    assert!(!seen.bytes.is_empty() && !seen.text().starts_with("HTTP"), "{seen:?}");
    assert_eq!(counts.garbage, 1);
}

#[tokio::test]
async fn wrong_answers_200_with_another_number() {
    let (seen, counts) = check(r#"{"wrong":{"share":1,"prediction":-7.5}}"#).await;
    assert_eq!((seen.status(), seen.json()), (200, json!({ "prediction": -7.5, "version": "v1" })));
    assert_eq!(counts.wrong, 1);
}

#[tokio::test]
async fn hang_never_answers_until_the_client_gives_up() {
    let model = FakeModel::start("v1").await.unwrap();
    let proxy = between(&model).await;
    proxy.faults().set(Faults::none().hanging(1.0).unwrap());
    let asking = send(proxy.addr(), "POST", "/v1/predict", "x");
    assert!(tokio::time::timeout(Duration::from_millis(100), asking).await.is_err());
    let counts = proxy.faults().counts();
    assert_eq!((counts.hung, model.requests()), (1, 0));
}

#[tokio::test]
async fn an_upstream_that_is_gone_looks_like_a_reset() {
    let mut model = FakeModel::start("v1").await.unwrap();
    let proxy = between(&model).await;
    model.stop().await;
    let seen = send(proxy.addr(), "GET", "/v1/predict", "").await;
    assert_eq!((seen.bytes.len(), seen.error), (0, Some(ErrorKind::ConnectionReset)));
    let counts = proxy.faults().counts();
    assert_eq!((counts.upstream_errors, counts.reset, counts.first_fault_unix_us), (1, 0, None));
}

#[tokio::test]
async fn a_share_hits_its_share_of_requests() {
    let model = FakeModel::start("v1").await.unwrap();
    let proxy = between(&model).await;
    proxy.faults().set(Faults::none().failing(0.3, 500).unwrap());
    let statuses = ask_on_one_connection(proxy.addr(), "/v1/predict", 1_000).await;
    let failed = statuses.iter().filter(|status| **status == 500).count();
    // Six standard deviations of 14.5: fails once in 500 million runs.
    assert!((213..=387).contains(&failed), "{failed}");
    assert_eq!(proxy.faults().counts().failed, u64::try_from(failed).unwrap());
}

#[tokio::test]
async fn the_control_port_changes_faults_and_tells_counts() {
    let model = FakeModel::start("v1").await.unwrap();
    let proxy = between(&model).await;
    let control = proxy.control_addr();
    assert_eq!(send(control, "GET", "/faults", "").await.json(), json!({}));
    let wanted = json!({ "fail": { "share": 1.0, "status": 500 }, "delay": { "share": 1.0, "ms": 5 } });
    let put = send(control, "PUT", "/faults", &wanted.to_string()).await;
    assert_eq!((put.status(), put.json()), (200, wanted.clone()));
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    assert_eq!(send(proxy.addr(), "GET", "/v1/predict", "").await.status(), 500);
    assert_eq!(send(control, "GET", "/faults", "").await.json(), wanted);
    let counts: Counts = serde_json::from_value(send(control, "GET", "/counts", "").await.json()).unwrap();
    assert_eq!((counts.requests, counts.failed, counts.delayed), (1, 1, 1));
    assert!(u128::from(counts.first_fault_unix_us.unwrap()) >= before);
    assert_eq!(send(control, "PUT", "/faults", "{}").await.status(), 200);
    assert_eq!(send(proxy.addr(), "GET", "/v1/predict", "").await.status(), 200);
}

#[tokio::test]
async fn the_control_port_refuses_nonsense_and_keeps_what_was() {
    let model = FakeModel::start("v1").await.unwrap();
    let proxy = between(&model).await;
    let control = proxy.control_addr();
    proxy.faults().set(Faults::none().failing(0.5, 500).unwrap());
    let refused = send(control, "PUT", "/faults", r#"{"fail":{"share":2}}"#).await;
    assert_eq!(refused.status(), 400);
    assert!(refused.body().contains("0 to 1"), "{}", refused.body());
    assert_eq!(proxy.faults().faults(), Faults::none().failing(0.5, 500).unwrap());
    assert_eq!(send(control, "DELETE", "/faults", "").await.status(), 405);
    assert_eq!(send(control, "POST", "/counts", "").await.status(), 405);
    assert_eq!(send(control, "GET", "/else", "").await.status(), 404);
}
