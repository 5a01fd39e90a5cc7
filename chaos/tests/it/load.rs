//! The load generator: its books against the server's own counts, and latencies that hide nothing.

use std::time::Duration;

use bytes::Bytes;
use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::fault::{Faults, When};
use pointsman_chaos::load::{Ended, Errors, Figures, Load, LoadError, StatusClasses, Total};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn against(model: &FakeModel, rate: u32, millis: u64) -> Load {
    let mut load = Load::new(&format!("http://{}/v1/predict", model.addr())).unwrap();
    load.rate = rate;
    load.duration = Some(Duration::from_millis(millis));
    load.connections = 16;
    load.bodies = vec![Bytes::from_static(br#"{"distance_km":4.2}"#)];
    load.timeout = Duration::from_secs(2);
    load
}

async fn total(load: Load) -> Total {
    load.start().unwrap().finish().await.unwrap()
}

fn adds_up(figures: &Figures) {
    assert_eq!(figures.intended, figures.answered + figures.errors.sum(), "{figures:?}");
    assert_eq!(figures.answered, figures.status.sum());
    assert_eq!(figures.answered, figures.versions.values().map(StatusClasses::sum).sum::<u64>());
    assert_eq!(figures.failed, figures.status.server_error + figures.errors.sum());
    assert_eq!(figures.sent, figures.intended - figures.errors.connect - figures.errors.unsent);
}

#[tokio::test]
async fn a_good_server_answers_everything_and_both_books_agree() {
    let model = FakeModel::start("v1").await.unwrap();
    let total = total(against(&model, 1_000, 500)).await;
    let figures = &total.figures;
    adds_up(figures);
    assert_eq!((figures.intended, figures.status.success, figures.failed), (500, 500, 0));
    assert_eq!((model.predictions(), figures.first_failed_unix_us), (500, None));
    assert!(model.connections() <= 16, "{}", model.connections());
    assert!(total.seconds >= 0.499 && total.seconds < 2.0, "{}", total.seconds);
    assert!(figures.latency.p50_ms > 0.0 && figures.latency.p50_ms <= figures.latency.max_ms);
}

#[tokio::test]
async fn each_kind_of_failure_is_booked_as_what_it_was() {
    let model = FakeModel::start("v1").await.unwrap();
    let faults = Faults::none().failing(0.2, 503).unwrap().resetting(0.2, When::MidBody).unwrap();
    model.set_faults(faults.garbling(0.2).unwrap().hanging(0.05).unwrap());
    let mut load = against(&model, 400, 500);
    load.timeout = Duration::from_secs(1);
    load.connections = 64;
    load.timeout = Duration::from_secs(20);
    let figures = total(load).await.figures;
    adds_up(&figures);
    let counts = model.counts();
    let wanted = Errors { reset: counts.reset, timeout: counts.hung, malformed: counts.garbage, ..Errors::default() };
    assert_eq!((figures.errors, figures.status.server_error), (wanted, counts.failed));
    assert!(counts.failed > 0 && counts.reset > 0 && counts.garbage > 0 && counts.hung > 0, "{counts:?}");
    assert!(figures.first_failed_unix_us < figures.last_failed_unix_us);
    assert!(figures.first_failed_unix_us >= counts.first_fault_unix_us);
}

#[tokio::test]
async fn answers_are_booked_by_version() {
    let model = FakeModel::start("v1").await.unwrap();
    let figures = total(against(&model, 1_000, 50)).await.figures;
    assert_eq!(figures.versions.keys().collect::<Vec<_>>(), ["none"]);
    let (addr, server) = one_answer(b"HTTP/1.1 200 OK\r\nx-pointsman-version: v2\r\ncontent-length: 0\r\n\r\n").await;
    let mut load = Load::new(&format!("http://{addr}/")).unwrap();
    (load.connections, load.duration) = (1, Some(Duration::from_millis(30)));
    let figures = total(load).await.figures;
    adds_up(&figures);
    assert_eq!((figures.versions["v2"].success, figures.answered), (3, 3));
    assert_eq!(server.await.unwrap(), 3);
}

/// A server of one connection that always answers the same; gives how many requests it read.
async fn one_answer(answer: &'static [u8]) -> (std::net::SocketAddr, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut requests = 0;
        while stream.read(&mut [0; 4096]).await.is_ok_and(|bytes| bytes > 0) {
            requests += 1;
            stream.write_all(answer).await.unwrap();
        }
        requests
    });
    (addr, server)
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_opened_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        for connection in 0..20 {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            // Every other time the server says so first, as HTTP wants it; else it closes while idle.
            let close = if connection % 2 == 0 { "connection: close\r\n" } else { "" };
            let answer = format!("HTTP/1.1 200 OK\r\n{close}content-length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let mut load = Load::new(&format!("http://{addr}/")).unwrap();
    (load.connections, load.rate, load.duration) = (1, 50, Some(Duration::from_millis(400)));
    let figures = total(load).await.figures;
    server.await.unwrap();
    assert_eq!((figures.status.success, figures.failed), (20, 0), "{figures:?}");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error_for_each() {
    let mut model = FakeModel::start("v1").await.unwrap();
    model.stop().await;
    let figures = total(against(&model, 500, 100)).await.figures;
    adds_up(&figures);
    assert_eq!((figures.intended, figures.sent), (50, 0));
    assert_eq!(figures.errors, Errors { connect: 50, ..Errors::default() });
}

#[tokio::test]
async fn latency_counts_the_wait_that_a_slow_server_causes() {
    let model = FakeModel::start("v1").await.unwrap();
    model.set_faults(Faults::none().delaying(1.0, 20..=20).unwrap());
    // One connection at 20 ms an answer serves 50 a second; asked for 100, the last of 40 is due after 390 ms
    // and answered after 800: it waited 410, though the server took 20.
    let mut load = against(&model, 100, 400);
    load.connections = 1;
    let figures = total(load).await.figures;
    adds_up(&figures);
    assert_eq!(figures.status.success, 40);
    assert!(figures.latency.max_ms >= 400.0, "{:?}", figures.latency);
    assert!(figures.latency.p50_ms >= 195.0, "{:?}", figures.latency);
    assert!(figures.send_lag_p99_ms >= 380.0, "{}", figures.send_lag_p99_ms);
}

#[tokio::test]
async fn a_stall_is_charged_to_all_who_would_have_waited() {
    let model = FakeModel::start("v1").await.unwrap();
    model.set_faults(Faults::none().delaying(1.0, 300..=300).unwrap());
    let mut load = against(&model, 200, 600);
    load.connections = 1;
    let mut running = load.start().unwrap();
    while model.counts().delayed == 0 {
        tokio::task::yield_now().await;
    }
    model.set_faults(Faults::none());
    while running.next_second().await.is_some() {}
    let figures = running.finish().await.unwrap().figures;
    // Half of the requests fell due while the one connection stood still. A closed loop would have booked one.
    assert!(figures.latency.p50_ms >= 1.0 && figures.latency.max_ms >= 300.0, "{:?}", figures.latency);
    assert!(figures.latency.p95_ms >= 200.0, "{:?}", figures.latency);
    assert_eq!((model.counts().delayed, figures.status.success), (1, 120));
}

#[tokio::test]
async fn what_finds_no_connection_in_time_is_given_up_unsent() {
    let model = FakeModel::start("v1").await.unwrap();
    model.set_faults(Faults::none().hanging(1.0).unwrap());
    let mut load = against(&model, 100, 200);
    (load.connections, load.timeout) = (2, Duration::from_millis(150));
    let figures = total(load).await.figures;
    adds_up(&figures);
    assert_eq!(figures.intended, 20);
    assert_eq!((figures.errors.timeout, figures.sent), (model.counts().hung, model.counts().hung));
    assert!(figures.errors.unsent > 0, "{figures:?}");
}

#[tokio::test]
async fn stopped_it_sends_no_more_and_its_seconds_add_up_to_the_total() {
    let model = FakeModel::start("v1").await.unwrap();
    let mut load = against(&model, 300, 0);
    load.duration = None;
    let mut running = load.start().unwrap();
    let first = running.next_second().await.unwrap();
    running.stop();
    let mut seconds = vec![first];
    while let Some(second) = running.next_second().await {
        seconds.push(second);
    }
    let total = running.finish().await.unwrap().figures;
    adds_up(&total);
    assert!((150..=600).contains(&seconds[0].figures.answered), "{:?}", seconds[0]);
    assert_eq!(seconds.iter().map(|second| second.figures.intended).sum::<u64>(), total.intended);
    assert_eq!(seconds.iter().map(|second| second.figures.answered).sum::<u64>(), total.answered);
    assert_eq!((total.answered, total.failed), (model.predictions(), 0));
}

#[tokio::test]
async fn dropped_it_ends() {
    let model = FakeModel::start("v1").await.unwrap();
    let mut load = against(&model, 1_000, 0);
    load.duration = None;
    let running = load.start().unwrap();
    while model.requests() == 0 {
        tokio::task::yield_now().await;
    }
    drop(running);
    let quiet = async {
        loop {
            let before = model.requests();
            tokio::time::sleep(Duration::from_millis(50)).await;
            if model.requests() == before {
                return;
            }
        }
    };
    tokio::time::timeout(crate::client::SOON, quiet).await.unwrap();
}

#[tokio::test]
async fn numbers_out_of_bounds_are_refused() {
    let refused = |change: fn(&mut Load)| {
        let mut load = Load::new("http://127.0.0.1:1/").unwrap();
        change(&mut load);
        assert!(matches!(load.start(), Err(LoadError::OutOfBounds { .. })));
    };
    refused(|load| load.rate = 0);
    refused(|load| load.rate = 1_000_000);
    refused(|load| load.connections = 0);
    refused(|load| load.connections = 100_000);
    refused(|load| load.timeout = Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_told_and_a_wrong_number_is_no_good_answer() {
    let model = FakeModel::start("v1").await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut load = against(&model, 100, 400);
    load.bodies = vec!["12345".into(), "1234567".into()];
    load.expected = vec!["\"prediction\":5,".into(), "\"prediction\":7,".into()];
    load.told = Some(tell);
    load.connections = 64;
    load.timeout = Duration::from_secs(20);
    model.set_faults(Faults::none().predicting_wrong(1.0, -1.0).unwrap());
    load.clone().start().unwrap().finish().await.unwrap();
    model.set_faults(Faults::none().trickling(1.0).unwrap());
    load.start().unwrap().finish().await.unwrap();
    let mut ends = Vec::new();
    while let Some(one) = told.recv().await {
        ends.push(one.end);
    }
    let of = |end| ends.iter().filter(|one| **one == end).count();
    assert_eq!((of(Ended::Wrong), of(Ended::Good), ends.len()), (40, 40, 80));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_leaves_its_requests_to_the_others_and_gets_them_again_when_it_is_back() {
    let mut one = FakeModel::start("one").await.unwrap();
    let other = FakeModel::start("other").await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut load = against(&one, 200, 60_000);
    load.others = vec![other.addr()];
    load.told = Some(tell);
    let running = load.start().unwrap();
    let mut next_from = async |addr| {
        loop {
            let told = told.recv().await.unwrap();
            // The one request that a server is about when it stops.
            assert_ne!(told.end, Ended::Unsent, "somebody is always there");
            if told.to == Some(addr) && told.end == Ended::Good {
                return;
            }
        }
    };
    next_from(one.addr()).await;
    next_from(other.addr()).await;
    one.stop().await;
    let before = other.predictions();
    for _ in 0..50 {
        next_from(other.addr()).await;
    }
    assert!(other.predictions() >= before + 50);
    one.restart().await.unwrap();
    next_from(one.addr()).await;
    running.stop();
    let figures = running.finish().await.unwrap().figures;
    adds_up(&figures);
    assert_eq!(figures.errors.connect + figures.errors.unsent, 0, "{figures:?}");
}
