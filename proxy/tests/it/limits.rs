//! What a route lets in: so often by whom, so many at a time, and no more than its versions can take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::FakeModel;
use pointsman_config::{Concurrency, RateKey, RateLimit, Route};
use tokio::sync::{Mutex, Semaphore};

use crate::harness::{Answer, Client, RawServer, TestEdge, eventually, get, route};

fn rate(requests: u32, per: Duration, burst: u32, key: RateKey) -> RateLimit {
    RateLimit { requests, per, burst, key }
}

fn limited(rates: &[RateLimit]) -> Route {
    let mut route = route();
    route.limits.rate = rates.to_vec();
    route
}

const HOUR: Duration = Duration::from_hours(1);

fn with_key(key: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: m\r\nx-api-key: {key}\r\n\r\n")
}

#[track_caller]
fn check_refused(answer: &Answer, status: u16, code: &str) -> u64 {
    assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{answer:?}");
    answer.header("retry-after").expect("retry-after").parse().unwrap()
}

#[tokio::test]
async fn one_request_too_many_is_429_and_says_when_the_next_one_passes() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut edge = TestEdge::with(limited(&[rate(6, HOUR, 2, RateKey::Route)]), &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    for expected in [200, 200, 429, 429] {
        client.send(get("/").as_bytes()).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, expected, "{answer:?}");
        if expected == 429 {
            let wait = check_refused(&answer, 429, "rate_limited");
            assert!((500..=600).contains(&wait), "{wait} s to the next of six an hour");
            assert_eq!(answer.header("x-pointsman-version"), Some("v1"));
        }
    }
    assert_eq!(v1.requests(), 2);
    edge.expect_outcomes("v1", &[(Outcome::Success, 2), (Outcome::Rejected, 2)]).await;
    let name = edge.route.name.clone();
    let rows = edge.publisher.ledger_mut(&name).unwrap().take(Instant::now());
    assert_eq!(rows.iter().map(|taken| taken.row.stable.requests).sum::<u64>(), 2, "what is refused is no evidence");
    let refusals = edge.publisher.refusals();
    assert_eq!(refusals[&Some(name)], [("rate_limited", 2)].into());
}

#[tokio::test]
async fn what_is_used_up_stays_so_through_a_reload_that_does_not_change_the_limit() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let one = rate(1, HOUR, 1, RateKey::Route);
    let mut edge = TestEdge::with(limited(std::slice::from_ref(&one)), &[v1.addr()], &[]);
    assert_eq!(edge.ask(&get("/")).await.status, 200);
    edge.route.limits.body_bytes = 1;
    edge.route.limits.rate = vec![rate(1_000, HOUR, 1_000, RateKey::ClientIp), one];
    edge.set_weight(0);
    check_refused(&edge.ask(&get("/")).await, 429, "rate_limited");
    edge.route.limits.rate = vec![rate(2, HOUR, 1, RateKey::Route)];
    edge.set_weight(0);
    assert_eq!(edge.ask(&get("/")).await.status, 200, "a new limit begins anew");
}

#[tokio::test]
async fn each_key_is_counted_apart_and_one_that_is_refused_takes_nothing_from_the_others() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let rates = [rate(4, HOUR, 4, RateKey::Route), rate(2, HOUR, 2, RateKey::Header("x-api-key".to_owned()))];
    let edge = TestEdge::with(limited(&rates), &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    let mut statuses = Vec::new();
    for request in [with_key("a"), with_key("a"), with_key("a"), with_key("a"), with_key("b"), get("/"), with_key("b")]
    {
        client.send(request.as_bytes()).await;
        statuses.push(client.answer().await.unwrap().status);
    }
    assert_eq!(statuses, [200, 200, 429, 429, 200, 200, 429], "the last one by the route's own limit");
}

#[tokio::test]
async fn workers_share_one_count() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let edge = TestEdge::with(limited(&[rate(10, HOUR, 10, RateKey::ClientIp)]), &[v1.addr()], &[]);
    let mut passed = 0;
    // A connection each, so that the kernel gives them to both workers.
    for _ in 0..40 {
        passed += usize::from(edge.ask(&get("/")).await.status == 200);
    }
    assert_eq!(passed, 10);
}

/// A version that works on `slots` requests at a time, and lets the others wait.
struct Version {
    server: RawServer,
    most_at_once: Arc<AtomicUsize>,
}

impl Version {
    async fn start(slots: usize, service: Duration) -> Self {
        let (free, present) = (Arc::new(Semaphore::new(slots)), Arc::new(AtomicUsize::new(0)));
        let most_at_once = Arc::new(AtomicUsize::new(0));
        let most = Arc::clone(&most_at_once);
        let server = RawServer::start(move |mut connection| {
            let (free, present, most) = (Arc::clone(&free), Arc::clone(&present), Arc::clone(&most));
            async move {
                while connection.request().await.is_some() {
                    most.fetch_max(present.fetch_add(1, SeqCst) + 1, SeqCst);
                    let slot = free.acquire().await.unwrap();
                    tokio::time::sleep(service).await;
                    drop(slot);
                    present.fetch_sub(1, SeqCst);
                    if !connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await {
                        return;
                    }
                }
            }
        })
        .await;
        Self { server, most_at_once }
    }

    /// The most requests that were at the version at once since the last call.
    fn most_at_once(&self) -> usize {
        self.most_at_once.swap(0, SeqCst)
    }
}

#[tokio::test]
async fn what_is_above_the_number_is_refused_at_once_and_every_end_makes_room() {
    let v1 = RawServer::start(|mut connection| async move {
        // Holds what it gets until the client goes.
        connection.request().await;
        while connection.read().await.is_some() {}
    })
    .await;
    let mut route = route();
    route.limits.concurrent_requests = Concurrency::Fixed(2);
    // Long enough that the first is still there when the other has gone.
    route.timeouts.total = Duration::from_secs(4);
    let edge = TestEdge::with(route, &[v1.address], &[]);
    let hold = async || {
        let before = v1.connections();
        let mut client = edge.connect().await;
        client.send(get("/").as_bytes()).await;
        assert!(eventually(|| v1.connections() > before).await);
        client
    };
    let (gone, mut expires) = (hold().await, hold().await);
    assert_eq!(check_refused(&edge.ask(&get("/")).await, 503, "overloaded"), 1);
    drop(gone);
    assert!(eventually(|| edge.in_flight() == 1).await, "a client that goes makes room");
    let another = hold().await;
    assert_eq!(expires.answer().await.unwrap().status, 504);
    assert!(eventually(|| edge.in_flight() <= 1).await, "and so does a timeout");
    let _last = hold().await;
    drop(another);
    let name = edge.route.name.clone();
    assert_eq!(edge.publisher.refusals()[&Some(name)]["overloaded"], 1);
}

/// Asks again and again on one connection, with a short rest after a refusal.
async fn user(edge: std::net::SocketAddr, until: Instant, seen: Arc<Mutex<Vec<(u16, Instant, Duration)>>>) {
    let mut client = Client::connect(edge).await;
    while Instant::now() < until {
        let began = Instant::now();
        client.send(get("/").as_bytes()).await;
        let answer = client.answer().await.unwrap();
        if answer.status != 200 {
            assert_eq!(check_refused(&answer, 503, "overloaded"), 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen.lock().await.push((answer.status, began, began.elapsed()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_more_than_it_can_take_a_version_gets_what_it_can_and_no_queue() {
    const SLOTS: usize = 4;
    const SERVICE: Duration = Duration::from_millis(25);
    let v1 = Version::start(SLOTS, SERVICE).await;
    let mut route = route();
    route.limits.concurrent_requests = Concurrency::Adaptive;
    let mut edge = TestEdge::with(route, &[v1.server.address], &[]);
    let (began, seen) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let settled = began + Duration::from_secs(5);
    let until = settled + Duration::from_secs(5);
    let users: Vec<_> = (0..SLOTS * 12).map(|_| tokio::spawn(user(edge.address, until, Arc::clone(&seen)))).collect();
    tokio::time::sleep_until(settled.into()).await;
    v1.most_at_once();
    for user in users {
        user.await.unwrap();
    }
    let queue = v1.most_at_once();
    let seen = seen.lock().await;
    let late: Vec<_> = seen.iter().filter(|(_, began, _)| *began > settled).collect();
    let good = late.iter().filter(|(status, ..)| *status == 200).count();
    let shed = late.len() - good;
    // Without a limit, all 48 would be there at once.
    assert!(queue <= SLOTS * 6, "{queue} at once at a version that takes {SLOTS}");
    assert!(good > 0 && shed > good, "{good} answered, {shed} shed");
    let total: Vec<_> = [200, 503].map(|wanted| seen.iter().filter(|(status, ..)| *status == wanted).count()).into();
    let name = edge.route.name.clone();
    edge.expect_outcomes("v1", &[(Outcome::Success, total[0] as u64), (Outcome::Rejected, total[1] as u64)]).await;
    let rows = edge.publisher.ledger_mut(&name).unwrap().take(Instant::now());
    let judged =
        rows.iter().fold((0, 0), |sum, taken| (sum.0 + taken.row.stable.requests, sum.1 + taken.row.stable.errors));
    assert_eq!(judged, (total[0] as u64, 0), "what is shed blames nobody");
}
