//! The fake model server: what it answers, and how it breaks.

use std::io::ErrorKind;

use pointsman_chaos::fakes::{Echo, FakeModel};
use pointsman_chaos::fault::{Faults, When};
use serde_json::json;
use tokio::net::TcpStream;

use crate::client::{SOON, ask_on_one_connection, send};

#[tokio::test]
async fn it_predicts_the_length_of_what_it_was_sent() {
    let model = FakeModel::start("v1").await.unwrap();
    let seen = send(model.addr(), "POST", "/v1/predict", "0123456789").await;
    assert_eq!((seen.status(), seen.json()), (200, json!({ "prediction": 10, "version": "v1" })));
    assert_eq!((model.requests(), model.predictions(), model.connections()), (1, 1, 1));
}

#[tokio::test]
async fn it_echoes_what_arrived() {
    let model = FakeModel::start("v2").await.unwrap();
    let seen = send(model.addr(), "PUT", "/echo?a=1", "abc").await;
    let echo: Echo = serde_json::from_str(&seen.body()).unwrap();
    assert_eq!((echo.version.as_str(), echo.method.as_str(), echo.path.as_str()), ("v2", "PUT", "/echo?a=1"));
    assert_eq!((echo.header("host"), echo.header("absent")), (Some("test"), None));
    assert_eq!(echo.body_bytes, 3);
    // As `printf abc | sha256sum` gives it.
    assert_eq!(echo.body_sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(model.predictions(), 0);
}

#[tokio::test]
async fn its_probes_say_what_they_are_told() {
    let model = FakeModel::start("v1").await.unwrap();
    model.set_faults(Faults::none().failing(1.0, 500).unwrap());
    assert_eq!(send(model.addr(), "GET", "/ready", "").await.status(), 200);
    model.set_ready(false);
    assert_eq!(send(model.addr(), "GET", "/ready", "").await.status(), 503);
    assert_eq!(send(model.addr(), "GET", "/health", "").await.status(), 200);
    model.set_healthy(false);
    assert_eq!(send(model.addr(), "GET", "/health", "").await.status(), 503);
    model.set_faults(Faults::none().failing(1.0, 418).unwrap().with_probes());
    assert_eq!(send(model.addr(), "GET", "/ready", "").await.status(), 418);
}

#[tokio::test]
async fn one_connection_carries_many_requests_and_faults_on_it_change() {
    let model = FakeModel::start("v1").await.unwrap();
    assert_eq!(ask_on_one_connection(model.addr(), "/v1/predict", 3).await, [200, 200, 200]);
    model.set_faults(Faults::none().failing(1.0, 503).unwrap());
    assert_eq!(ask_on_one_connection(model.addr(), "/v1/predict", 2).await, [503, 503]);
    assert_eq!((model.connections(), model.requests(), model.counts().failed), (2, 5, 2));
}

#[tokio::test]
async fn a_reset_is_seen_before_or_in_the_middle_of_an_answer() {
    let model = FakeModel::start("v1").await.unwrap();
    model.set_faults(Faults::none().resetting(1.0, When::BeforeAnswer).unwrap());
    let seen = send(model.addr(), "POST", "/v1/predict", "x").await;
    assert_eq!((seen.bytes.len(), seen.error), (0, Some(ErrorKind::ConnectionReset)));
    model.set_faults(Faults::none().resetting(1.0, When::MidBody).unwrap());
    let seen = send(model.addr(), "POST", "/v1/predict", "x").await;
    assert_eq!((seen.status(), seen.error), (200, Some(ErrorKind::ConnectionReset)));
    assert_eq!(seen.body(), r#"{"prediction":1"#);
    assert_eq!(model.counts().reset, 2);
}

#[tokio::test]
async fn stopped_it_resets_and_refuses_and_comes_back_on_the_same_port() {
    let mut model = FakeModel::start("v1").await.unwrap();
    model.set_faults(Faults::none().hanging(1.0).unwrap());
    let addr = model.addr();
    let waiting = tokio::spawn(async move { send(addr, "GET", "/v1/predict", "").await });
    while model.counts().hung == 0 {
        tokio::task::yield_now().await;
    }
    model.stop().await;
    assert_eq!(waiting.await.unwrap().error, Some(ErrorKind::ConnectionReset));
    assert_eq!(TcpStream::connect(addr).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    model.set_faults(Faults::none());
    model.restart().await.unwrap();
    assert_eq!(send(addr, "GET", "/v1/predict", "").await.status(), 200);
    assert_eq!((model.addr(), model.connections(), model.requests()), (addr, 2, 2));
}

#[tokio::test]
async fn dropped_it_is_gone() {
    let model = FakeModel::start("v1").await.unwrap();
    let addr = model.addr();
    drop(model);
    let gone = async { while TcpStream::connect(addr).await.is_ok() {} };
    tokio::time::timeout(SOON, gone).await.unwrap();
}
