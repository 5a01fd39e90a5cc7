//! A drain loses nothing: what is in flight is answered, what is idle is closed, and then it is over.

use std::time::{Duration, Instant};

use pointsman::listen::Drained;
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::FakeModel;

use super::harness::{Client, TestEdge, eventually, get, post};

const LONG: Duration = Duration::from_secs(20);

async fn slow_model(ms: u64) -> FakeModel {
    let model = FakeModel::start("v1").await.unwrap();
    model.set_faults(format!(r#"{{"delay":{{"share":1,"ms":{ms}}}}}"#).parse().unwrap());
    model
}

async fn refuses(address: std::net::SocketAddr) -> bool {
    tokio::net::TcpStream::connect(address).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_answered_and_told_to_close() {
    let v1 = slow_model(400).await;
    let mut edge = TestEdge::start(&[v1.addr()]);
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = edge.connect().await;
        client.send(post("/", "{}").as_bytes()).await;
        clients.push(client);
    }
    assert!(eventually(|| v1.requests() == 6).await);
    let serving = edge.serving.take().unwrap();
    let drain = tokio::spawn(serving.drain(LONG));
    for client in &mut clients {
        let answer = client.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(drain.await.unwrap(), Drained { cut_off: 0 });
    assert!(refuses(edge.address).await);
    assert_eq!(edge.outcomes("v1"), [(Outcome::Success, 6)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_on_a_kept_connection_that_comes_with_the_drain_is_answered() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut edge = TestEdge::start(&[v1.addr()]);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = edge.connect().await;
        client.send(get("/").as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().header("connection"), Some("keep-alive"));
        clients.push(client);
    }
    let address = edge.address;
    let drain = tokio::spawn(edge.serving.take().unwrap().drain(LONG));
    // Until all workers have stopped to listen, which is when they drain.
    while !refuses(address).await {}
    tokio::time::sleep(Duration::from_millis(50)).await;
    for client in &mut clients {
        client.send(get("/").as_bytes()).await;
    }
    for client in &mut clients {
        let answer = client.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(drain.await.unwrap(), Drained { cut_off: 0 });
    edge.expect_outcomes("v1", &[(Outcome::Success, 8)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_too_late_for_the_drain_is_met_by_an_end_and_no_reset() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    let drain = tokio::spawn(edge.serving.take().unwrap().drain(LONG));
    // The edge has closed its side; what was sent before the client saw that must not turn the end into a reset.
    client.tcp.readable().await.unwrap();
    for _ in 0..3 {
        // After a reset, the next one could not be sent.
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.send(get("/").as_bytes()).await;
    }
    let mut rest = Vec::new();
    assert_eq!(tokio::io::AsyncReadExt::read_to_end(&mut client.tcp, &mut rest).await.unwrap(), 0);
    assert_eq!(drain.await.unwrap(), Drained { cut_off: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_soon_and_new_ones_refused() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut edge = TestEdge::start(&[v1.addr()]);
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut client = edge.connect().await;
        client.send(get("/").as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().header("connection"), Some("keep-alive"));
        idle.push(client);
    }
    let began = Instant::now();
    assert_eq!(edge.serving.take().unwrap().drain(LONG).await, Drained { cut_off: 0 });
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for client in &mut idle {
        assert!(client.rest().await.is_empty());
    }
    assert!(refuses(edge.address).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_kernel_had_accepted_is_served() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut edge = TestEdge::start(&[v1.addr()]);
    // Connected but silent, some of them perhaps still in the queue; their first request comes during the drain.
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(edge.connect().await);
    }
    let serving = edge.serving.take().unwrap();
    let drain = tokio::spawn(serving.drain(LONG));
    // All at once: each connection has the same short while for its first request.
    for client in &mut clients {
        client.send(get("/").as_bytes()).await;
    }
    for client in &mut clients {
        let answer = client.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    assert_eq!(drain.await.unwrap(), Drained { cut_off: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_done_at_the_deadline_is_cut_off_and_counted() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let mut edge = TestEdge::start(&[v1.addr()]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = edge.connect().await;
        client.send(get("/").as_bytes()).await;
        clients.push(client);
    }
    assert!(eventually(|| v1.requests() == 3).await);
    let began = Instant::now();
    assert_eq!(edge.serving.take().unwrap().drain(Duration::from_millis(300)).await, Drained { cut_off: 3 });
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(clients[0].rest().await.is_empty());
    edge.expect_outcomes("v1", &[(Outcome::Rejected, 3)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_answers_every_request_that_was_sent_on_a_new_connection() {
    let v1 = slow_model(5).await;
    let mut edge = TestEdge::start(&[v1.addr()]);
    let address = edge.address;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(tokio::spawn(async move {
            let mut answered = 0;
            // One request per connection, until the edge refuses new ones.
            while let Ok(tcp) = tokio::net::TcpStream::connect(address).await {
                drop(tcp);
                let Ok(tcp) = tokio::net::TcpStream::connect(address).await else { break };
                let mut client = Client::over(tcp);
                client.send(get("/").as_bytes()).await;
                assert_eq!(client.answer().await.expect("a request that was taken is answered").status, 200);
                answered += 1;
            }
            answered
        }));
    }
    assert!(eventually(|| v1.requests() > 100).await);
    assert_eq!(edge.serving.take().unwrap().drain(LONG).await, Drained { cut_off: 0 });
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    assert!(answered > 100);
    assert_eq!(edge.outcomes("v1"), [(Outcome::Success, answered)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_edge_cuts_everything_off() {
    let v1 = slow_model(60_000).await;
    let mut edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    assert!(eventually(|| v1.requests() == 1).await);
    drop(edge.serving.take());
    assert!(client.rest().await.is_empty());
    edge.expect_outcomes("v1", &[(Outcome::Rejected, 1)]).await;
}
