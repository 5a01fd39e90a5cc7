//! More work than the model can do, clients that leave or hurry, and a model that panics: over real sockets, with a
//! model of the test's own.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use model_server::artifact::Folder;
use model_server::batching::Policy;
use model_server::budget::Budget;
use model_server::bundle::Bundle;
use model_server::connection::{ConnectionLimits, Serving};
use model_server::deployment::{Deployment, Terms};
use model_server::health::{Health, Stage};
use model_server::http::{Limits, Site};
use model_server::listener;
use model_server::metrics::Metrics;
use model_server::model::{Model, ModelError};
use model_server::predict::Served;
use model_server::queue::QueueLimits;
use model_server::schema::Rows;
use model_server::watch::Patience;
use pointsman_telemetry::shutdown::Drain;
use serde_json::json;

use crate::server::{PATIENCE, Wire, bundle, predict_request, row};

/// A model that takes a while, can be held up, and panics over an order from 13 km away.
#[derive(Default)]
pub(crate) struct Slow {
    pub(crate) held: AtomicBool,
    pub(crate) passes: AtomicUsize,
}

struct Shared(Arc<Slow>);

impl Model for Shared {
    fn predict(&self, rows: &Rows) -> Result<Vec<f32>, ModelError> {
        let columns = &rows.columns;
        self.0.passes.fetch_add(1, Ordering::Relaxed);
        thread::park_timeout(Duration::from_millis(5));
        while self.0.held.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_millis(1));
        }
        assert!(columns.iter().step_by(24).all(|distance| (distance - 13.0).abs() > 0.1), "thirteen");
        Ok(columns.chunks(columns.len() / rows.count).map(|row| row[0]).collect())
    }
}

/// A server in this process, with one thread for the model.
pub(crate) struct Inside {
    pub(crate) address: SocketAddr,
    site: Arc<Site>,
    pub(crate) model: Arc<Slow>,
}

impl Inside {
    pub(crate) fn start(wait_ms: u64, most_rows: usize) -> Self {
        let model = Arc::new(Slow::default());
        let health = Arc::new(Health::new());
        let limits = Limits { body_bytes: 1 << 20, batch_rows: 100, body_patience: PATIENCE };
        let patience = Patience { idle: PATIENCE, head: PATIENCE };
        let connections = ConnectionLimits { most: 1000, on_top: 10, patience };
        let terms = Terms {
            limits,
            queue: QueueLimits {
                wait: Duration::from_millis(wait_ms),
                policy: Policy { most_rows, most_weight: 1 << 20 },
                panics: NonZeroUsize::new(2).unwrap(),
            },
            workers: NonZeroUsize::MIN,
            health: Arc::clone(&health),
            drift_window: Duration::from_mins(1),
        };
        let path = Folder::new(bundle("v1"));
        let served = Served::of(Bundle::load(&path, None).unwrap(), Arc::new(Shared(Arc::clone(&model))));
        let example = row().to_string();
        let deployment = Deployment::start(served, example.as_bytes(), &terms).unwrap();
        let metrics = Metrics::new().unwrap();
        metrics.serve("delivery-time", "v1");
        let site = Arc::new(Site {
            deployment: OnceLock::from(deployment),
            health,
            metrics,
            limits,
            bodies: Budget::new(1 << 20),
        });
        site.health.advance(Stage::Ready);
        let listener = listener::bind("127.0.0.1", 0).unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = Arc::clone(&site);
        thread::spawn(move || {
            let drain = Drain::new();
            let serving = Serving::start(NonZeroUsize::new(2).unwrap(), connections, &accepting, &drain).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                listener::accept(listener, &serving, &drain, Duration::ZERO).await;
            });
        });
        Self { address, site, model }
    }

    fn wire(&self) -> Wire {
        Wire::to(self.address).unwrap()
    }

    pub(crate) fn ask(&self, request: &str) -> (u16, String, String) {
        let mut wire = self.wire();
        wire.write(request).unwrap();
        wire.read().unwrap()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.site.deployment.get().unwrap().queue_depth()
    }

    pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// A request whose client waits so long.
fn hurried(milliseconds: &str) -> String {
    let header = format!("host: test\r\nx-request-timeout-ms: {milliseconds}\r\n");
    predict_request(&row().to_string()).replacen("host: test\r\n", &header, 1)
}

fn from(distance: f64) -> String {
    let mut row = row();
    row["distance_km"] = json!(distance);
    predict_request(&row.to_string())
}

#[test]
fn what_does_not_fit_into_the_queue_is_turned_away_at_once_and_marked() {
    let server = Inside::start(20, 1);
    server.model.held.store(true, Ordering::Relaxed);
    let mut wires: Vec<Wire> = (0..20).map(|_| server.wire()).collect();
    for wire in &mut wires {
        wire.write(&from(4.0)).unwrap();
    }
    // Some 5 ms each: four fit into 20 ms, the one under way included, however busy the machine was at the trial.
    let metrics = || server.ask("GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").2;
    let shed = |metrics: &str| {
        let line = metrics.lines().find(|line| line.contains(r#"code="429",endpoint="predict""#));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    Inside::until("all that do not fit are turned away", || shed(&metrics()) + server.waiting() + 1 == 20);
    assert!(
        metrics().contains(&format!(
            "model_server_queue_depth{{model=\"delivery-time\",version=\"v1\"}} {}",
            server.waiting()
        ))
    );
    server.model.held.store(false, Ordering::Relaxed);
    let answers: Vec<_> = wires.iter_mut().map(|wire| wire.read().unwrap()).collect();
    let good = answers.iter().filter(|(status, ..)| *status == 200).count();
    assert!((1..=5).contains(&good), "{good} were served");
    for (status, head, body) in answers.iter().filter(|(status, ..)| *status != 200) {
        assert_eq!(*status, 429);
        assert!(head.contains("retry-after: 1\r\n") && head.contains("x-pointsman-shed: 1\r\n"), "{head}");
        assert!(body.contains("queue_full"), "{body}");
    }
}

#[test]
fn requests_that_gather_go_together_and_each_gets_its_own_answer() {
    let server = Inside::start(10_000, 64);
    server.model.held.store(true, Ordering::Relaxed);
    let passes = || server.model.passes.load(Ordering::Relaxed);
    let before = passes();
    let mut wires: Vec<Wire> = (0..24).map(|_| server.wire()).collect();
    for (number, wire) in wires.iter_mut().enumerate() {
        wire.write(&from(0.25 + 0.5 * number as f64)).unwrap();
        Inside::until("the first is under way", || passes() > before);
    }
    Inside::until("all others wait", || server.waiting() == 23);
    server.model.held.store(false, Ordering::Relaxed);
    for (number, wire) in wires.iter_mut().enumerate() {
        let (status, _, body) = wire.read().unwrap();
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, answer["prediction"].as_f64()), (200, Some(0.25 + 0.5 * number as f64)), "{body}");
    }
    assert_eq!(passes() - before, 2, "one for the first, one for all others");
}

#[test]
fn a_client_that_hangs_up_leaves_the_queue() {
    let server = Inside::start(10_000, 1);
    server.model.held.store(true, Ordering::Relaxed);
    let passes = server.model.passes.load(Ordering::Relaxed);
    let mut first = server.wire();
    first.write(&from(4.0)).unwrap();
    Inside::until("the first is under way", || server.model.passes.load(Ordering::Relaxed) > passes);
    let mut leaving = server.wire();
    leaving.write(&from(5.0)).unwrap();
    Inside::until("the second waits", || server.waiting() == 1);
    drop(leaving);
    Inside::until("nobody waits", || server.waiting() == 0);
    server.model.held.store(false, Ordering::Relaxed);
    assert_eq!(first.read().unwrap().0, 200);
    let metrics = server.ask("GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").2;
    assert!(metrics.contains(r#"code="499",endpoint="predict",model="delivery-time",version="v1"} 1"#), "{metrics}");
}

#[test]
fn a_deadline_is_kept_or_refused_at_once() {
    let server = Inside::start(10_000, 1);
    assert_eq!(server.ask(&hurried("10000")).0, 200);
    server.model.held.store(true, Ordering::Relaxed);
    let mut first = server.wire();
    first.write(&from(4.0)).unwrap();
    let (status, _, body) = server.ask(&hurried("150"));
    assert!(status == 504 && body.contains("deadline_exceeded"), "{status} {body}");
    for wrong in ["0", "soon", "99999999999"] {
        let (status, _, body) = server.ask(&hurried(wrong));
        assert!(status == 400 && body.contains("x-request-timeout-ms"), "{status} {body}");
    }
    server.model.held.store(false, Ordering::Relaxed);
    assert_eq!(first.read().unwrap().0, 200);
}

#[test]
fn a_panic_costs_one_request_and_too_many_end_the_server() {
    let server = Inside::start(10_000, 8);
    let ready = || server.ask("GET /ready HTTP/1.1\r\nhost: test\r\n\r\n");
    let (status, _, body) = server.ask(&from(13.0));
    assert!(status == 500 && body.contains("model_failed"), "{status} {body}");
    assert_eq!(server.ask(&from(4.0)).0, 200);
    assert_eq!(ready().0, 200);
    assert_eq!(server.ask(&from(13.0)).0, 500);
    let (status, head, body) = ready();
    assert!(status == 503 && body.contains("panicked too often"), "{status} {body}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(server.ask(&from(4.0)).0, 200, "whoever comes until it ends is answered");
}
