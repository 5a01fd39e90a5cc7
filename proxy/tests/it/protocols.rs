//! The same core behaviour whatever a client speaks: HTTP/1.1 or HTTP/2, in the clear or over TLS.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::{Echo, FakeModel};
use pointsman_config::{Replay, Retries, Route};

use crate::harness::{RawServer, eventually, route};
use crate::pki::Pki;
use crate::speak::{Speaks, whole};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_reaches_the_version_and_the_answer_names_it() {
    let (pki, v1) = (Pki::new(), FakeModel::start("v1").await.unwrap());
    for speaks in Speaks::ALL {
        let edge = speaks.edge(&pki, route(), &[v1.addr()], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        let headers =
            [("x-request-id", "mine-1"), ("x-forwarded-proto", "gopher"), ("cookie", "a=1"), ("cookie", "b=2")];
        let told = client.ask("POST", "/echo?a=b", &headers, whole("hello")).await;
        assert_eq!(
            (told.status, told.header("x-pointsman-version"), told.header("x-request-id")),
            (200, Some("v1"), Some("mine-1")),
            "{speaks:?}"
        );
        let echo: Echo = serde_json::from_slice(&told.body).unwrap();
        assert_eq!((echo.method.as_str(), echo.path.as_str(), echo.body_bytes), ("POST", "/echo?a=b", 5), "{speaks:?}");
        let scheme = if speaks.is_secure() { "https" } else { "http" };
        for (name, value) in [
            ("host", "model.test"),
            ("x-forwarded-proto", scheme),
            ("x-forwarded-host", "model.test"),
            ("x-forwarded-for", "127.0.0.1"),
        ] {
            assert_eq!(echo.header(name), Some(value), "{speaks:?}: {name}");
        }
        let cookies: Vec<_> = echo.headers.iter().filter(|(name, _)| name == "cookie").collect();
        assert_eq!(cookies.len(), if speaks.is_http2() { 1 } else { 2 }, "{speaks:?}: {cookies:?}");
        edge.expect_outcomes("v1", &[(Outcome::Success, 1)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_edge_are_the_same_and_the_connection_stays() {
    let (pki, v1) = (Pki::new(), FakeModel::start("v1").await.unwrap());
    for speaks in Speaks::ALL {
        let mut narrow = route();
        narrow.matches.path_prefix = "/v1".to_owned();
        narrow.limits.body_bytes = 10;
        let edge = speaks.edge(&pki, narrow, &[v1.addr()], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        let lost = client.ask("GET", "/other", &[], whole("")).await;
        assert_eq!(
            (lost.status, lost.problem().as_str(), lost.header("x-pointsman-version")),
            (404, "no_route", None),
            "{speaks:?}"
        );
        let head = client.ask("HEAD", "/other", &[], whole("")).await;
        assert_eq!((head.status, head.body.len()), (404, 0), "{speaks:?}");
        let good = client.ask("POST", "/v1/predict", &[], whole("12345")).await;
        assert_eq!((good.status, good.json()["prediction"].as_u64()), (200, Some(5)), "{speaks:?}");
        let large = client.ask("POST", "/v1/predict", &[], whole(vec![b'x'; 11])).await;
        assert_eq!(
            (large.status, large.problem().as_str(), large.header("x-pointsman-version")),
            (413, "body_too_large", Some("v1")),
            "{speaks:?}"
        );
        // One whose length is not announced is found out while it comes.
        let client = speaks.connect(&pki, edge.address).await;
        let pieces = futures_util::stream::iter((0..4).map(|_| Ok(Frame::data(Bytes::from_static(b"12345")))));
        let streamed = client.ask("POST", "/v1/predict", &[], BodyExt::boxed(StreamBody::new(pieces))).await;
        assert_eq!(streamed.problem(), "body_too_large", "{speaks:?}");
        edge.expect_outcomes("v1", &[(Outcome::Success, 1), (Outcome::Rejected, 2)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_cannot_be_reached_is_told() {
    let pki = Pki::new();
    for speaks in Speaks::ALL {
        let edge = speaks.edge(&pki, route(), &[], &[]);
        let told = speaks.connect(&pki, edge.address).await.ask("GET", "/", &[], whole("")).await;
        assert_eq!(
            (told.status, told.problem().as_str(), told.header("retry-after")),
            (503, "no_healthy_endpoint", Some("1")),
            "{speaks:?}"
        );
        let edge = speaks.edge(&pki, route(), &[crate::harness::dead_address().await], &[]);
        let told = speaks.connect(&pki, edge.address).await.ask("GET", "/", &[], whole("")).await;
        assert_eq!((told.status, told.problem().as_str()), (502, "upstream_connect"), "{speaks:?}");
        edge.expect_outcomes("v1", &[(Outcome::Connect, 1)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_does_not_answer_in_time_is_504_and_blamed() {
    let (pki, silent) = (
        Pki::new(),
        RawServer::start(|mut connection| async move { while connection.read().await.is_some() {} }).await,
    );
    for speaks in Speaks::ALL {
        let mut short = route();
        short.timeouts.total = Duration::from_millis(500);
        let edge = speaks.edge(&pki, short, &[silent.address], &[]);
        let told = speaks.connect(&pki, edge.address).await.ask("POST", "/", &[], whole("x")).await;
        assert_eq!((told.status, told.problem().as_str()), (504, "upstream_timeout"), "{speaks:?}");
        edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_send_its_body_is_408_and_not_the_versions_fault() {
    let (pki, v1) = (Pki::new(), FakeModel::start("v1").await.unwrap());
    for speaks in Speaks::ALL {
        let mut short = route();
        short.timeouts.total = Duration::from_millis(500);
        let edge = speaks.edge(&pki, short, &[v1.addr()], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        let never = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
        let told = client.ask("POST", "/", &[], BodyExt::boxed(never)).await;
        assert_eq!((told.status, told.problem().as_str()), (408, "request_timeout"), "{speaks:?}");
        edge.expect_outcomes("v1", &[(Outcome::Rejected, 1)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_is_nobodys_fault_and_frees_the_version() {
    let pki = Pki::new();
    for speaks in Speaks::ALL {
        let v1 = RawServer::start(|mut connection| async move { while connection.read().await.is_some() {} }).await;
        let edge = speaks.edge(&pki, route(), &[v1.address], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        let request = client.request("POST", "/", &[], whole("x"));
        let asking = tokio::spawn(async move { client.begin(request).await.is_err() });
        assert!(eventually(|| v1.received().contains("POST /")).await, "{speaks:?}");
        asking.abort();
        edge.expect_outcomes("v1", &[(Outcome::ClientAbort, 1)]).await;
        assert!(eventually(|| edge.in_flight() == 0).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_unchanged_both_ways() {
    let pki = Pki::new();
    let v1 = RawServer::start(|mut connection| async move {
        while let Some(request) = connection.request().await {
            let body = request.split_once("\r\n\r\n").unwrap().1.to_owned();
            connection.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
    .await;
    let text: String =
        (0..400_000).map(|number: u32| char::from(b'a' + u8::try_from(number * 7 % 26).unwrap())).collect();
    for speaks in Speaks::ALL {
        let edge = speaks.edge(&pki, route(), &[v1.address], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        for _ in 0..3 {
            let told = client.ask("POST", "/", &[], whole(text.clone())).await;
            assert!(told.status == 200 && told.body == text.as_bytes(), "{speaks:?}: {} bytes", told.body.len());
        }
        edge.expect_outcomes("v1", &[(Outcome::Success, 3)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_what_is_in_flight_and_closes_the_connection() {
    let pki = Pki::new();
    for speaks in Speaks::ALL {
        let v1 = FakeModel::start("v1").await.unwrap();
        v1.set_faults(r#"{"delay":{"share":1,"ms":500}}"#.parse().unwrap());
        let mut edge = speaks.edge(&pki, route(), &[v1.addr()], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        let asking = {
            let client = client.clone();
            tokio::spawn(async move { client.ask("POST", "/", &[], whole("x")).await })
        };
        assert!(eventually(|| edge.in_flight() == 1).await, "{speaks:?}");
        let drained = edge.serving.take().unwrap().drain(LONG).await;
        assert_eq!(drained.cut_off, 0, "{speaks:?}");
        assert_eq!(asking.await.unwrap().status, 200, "{speaks:?}");
        let gone = tokio::time::timeout(LONG, async {
            while !client.is_closed().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(gone.await.is_ok(), "{speaks:?}: the connection stays");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_at_the_drain_deadline_is_cut_off_and_not_the_versions_fault() {
    let pki = Pki::new();
    for speaks in Speaks::ALL {
        let silent = RawServer::start(|mut connection| async move { while connection.read().await.is_some() {} }).await;
        let mut edge = speaks.edge(&pki, route(), &[silent.address], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        let request = client.request("GET", "/", &[], whole(""));
        let asking = tokio::spawn(async move { client.begin(request).await });
        assert!(eventually(|| silent.received().contains("GET /")).await, "{speaks:?}");
        let drained = edge.serving.take().unwrap().drain(Duration::from_millis(300)).await;
        assert_eq!(drained.cut_off, 1, "{speaks:?}");
        assert!(asking.await.unwrap().is_err(), "{speaks:?}");
        edge.expect_outcomes("v1", &[(Outcome::Rejected, 1)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_client_speaks_it_does_not_see_the_canary_fail() {
    let (pki, v1, v2) = (Pki::new(), FakeModel::start("v1").await.unwrap(), FakeModel::start("v2").await.unwrap());
    for speaks in Speaks::ALL {
        let retries = Retries {
            replay: Replay::Predictions,
            budget_ppm: 1_000_000,
            per_try: Some(Duration::from_millis(50)),
            ..Retries::default()
        };
        let mut edge = speaks.edge(&pki, Route { retries, ..route() }, &[v1.addr()], &[v2.addr()]);
        edge.set_weight(1_000_000);
        let client = speaks.connect(&pki, edge.address).await;
        let mut charged = Vec::new();
        for (faults, outcome) in [
            (r#"{"fail":{"share":1,"status":503}}"#, Outcome::Error),
            (r#"{"hang":{"share":1}}"#, Outcome::Timeout),
            (r#"{"reset":{"share":1}}"#, Outcome::Reset),
        ] {
            v2.set_faults(faults.parse().unwrap());
            for bytes in [0, 60_000] {
                let told = client.ask("POST", "/v1/predict", &[], whole("x".repeat(bytes))).await;
                assert_eq!((told.status, told.header("x-pointsman-version")), (200, Some("v1")), "{speaks:?} {faults}");
                assert_eq!(told.json()["prediction"].as_u64(), Some(bytes as u64), "{speaks:?} {faults}");
            }
            charged.push((outcome, 2));
            let expected: Vec<_> = Outcome::ALL
                .into_iter()
                .filter(|known| charged.iter().any(|(one, _)| one == known))
                .map(|known| (known, 2))
                .collect();
            edge.expect_outcomes("v2", &expected).await;
        }
        assert_eq!(edge.outcomes("v1"), [], "{speaks:?}");
    }
}
