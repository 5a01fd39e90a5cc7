//! Looks for a request that the server does not answer, answers with an error of its own, or takes long over, by
//! damaging good ones: `cargo run --release -p model-server --example fuzz_requests -- --seconds 300 --seed 1`, from the
//! repository's root. A finding is printed, and the exit code is 1.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::process::ExitCode;
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
use model_server::metrics::Metrics;
use model_server::model::DeviceName;
use model_server::predict::Served;
use model_server::queue::QueueLimits;
use model_server::watch::Patience;
use model_server::{listener, threads};
use pointsman_telemetry::shutdown::Drain;
use serde_json::{Value, json};

/// A request takes some tens of microseconds; ten thousand times that is no noise.
const SLOWEST: Duration = Duration::from_millis(500);

const WORDS: [&[u8]; 18] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\u",
    b"\\ud800",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"\0",
    b"\xff",
    b"18446744073709551616",
    b"\"binary_data_size\":3,",
];

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let said = threads::fix_products_to_one()
        .map_err(Failure::from)
        .and_then(|()| fuzz(number_after("--seconds", 60), number_after("--seed", 1)));
    let (text, code) = match said {
        Ok(report) => (report, ExitCode::SUCCESS),
        Err(finding) => (finding.to_string(), ExitCode::FAILURE),
    };
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn number_after(flag: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != flag).skip(1);
    arguments.next().and_then(|number| number.parse().ok()).unwrap_or(default)
}

fn fuzz(seconds: u64, seed: u64) -> Result<String, Failure> {
    let (address, examples) = serve()?;
    let corpus = corpus(&examples);
    let mut random = XorShift(seed | 1);
    let mut wire = BufReader::new(TcpStream::connect(address)?);
    let (started, mut sent, mut accepted, mut slowest) = (Instant::now(), 0_u64, 0_u64, Duration::ZERO);
    while started.elapsed() < Duration::from_secs(seconds) {
        let request = mutate(&corpus, &mut random);
        let (status, taken) = ask(&mut wire, &request).map_err(|what| request.found(what.as_ref()))?;
        if taken > SLOWEST || !matches!(status, 200 | 400 | 413 | 422) {
            return Err(request.found(&format!("{status} after {taken:?}")).into());
        }
        slowest = slowest.max(taken);
        sent += 1;
        accepted += u64::from(status == 200);
    }
    Ok(format!("{sent} requests in {seconds} s, {accepted} of them good; slowest {slowest:?}; nothing found"))
}

/// A server in this process, and rows that it takes.
fn serve() -> Result<(SocketAddr, Vec<Value>), Failure> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/delivery-time/v1");
    let mut bundle = Bundle::load(&Folder::new(folder), None)?;
    let examples: Vec<Value> = bundle.take_golden().examples.into_iter().map(|example| example.input).collect();
    let example = examples.first().ok_or("the bundle has no golden example")?.to_string();
    let health = Arc::new(Health::new());
    let limits = Limits { body_bytes: 1 << 20, batch_rows: 64, body_patience: Duration::from_secs(75) };
    let patience = Patience { idle: Duration::from_secs(75), head: Duration::from_secs(20) };
    let connections = ConnectionLimits { most: 1000, on_top: 10, patience };
    let policy = Policy { most_rows: 64, most_weight: 1 << 14 };
    let queue = QueueLimits { wait: Duration::from_secs(1), policy, panics: NonZeroUsize::MIN };
    let window = Duration::from_mins(1);
    let terms = Terms { limits, queue, workers: NonZeroUsize::MIN, health: Arc::clone(&health), drift_window: window };
    let deployment = Deployment::start(Served::new(bundle, DeviceName::Cpu)?, example.as_bytes(), &terms)?;
    health.advance(Stage::Ready);
    let bodies = Budget::new(1 << 26);
    let site =
        Arc::new(Site { deployment: OnceLock::from(deployment), health, metrics: Metrics::new()?, limits, bodies });
    let listener = listener::bind("127.0.0.1", 0)?;
    let address = listener.local_addr()?;
    let drain = Drain::new();
    let serving = Serving::start(NonZeroUsize::MIN, connections, &site, &drain)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            listener::accept(listener, &serving, &drain, Duration::ZERO).await;
            Ok::<_, io::Error>(())
        })
    });
    Ok((address, examples))
}

/// What is sent.
#[derive(Clone)]
struct Request {
    path: &'static str,
    body: Vec<u8>,
    /// How much of it is said to be JSON, where tensors stand behind it.
    json: Option<usize>,
}

impl Request {
    fn found(&self, what: &dyn std::fmt::Display) -> String {
        format!("{what}: {} {:?}\n{}", self.path, self.json, String::from_utf8_lossy(&self.body))
    }
}

fn corpus(examples: &[Value]) -> Vec<Request> {
    let plain = |path, body: Value| Request { path, body: body.to_string().into_bytes(), json: None };
    let mut corpus: Vec<Request> = examples.iter().take(4).map(|row| plain("/v1/predict", row.clone())).collect();
    let rows: Vec<&Value> = examples.iter().take(3).collect();
    corpus.push(plain("/v1/predict/batch", json!({"instances": rows})));
    for binary in [false, true] {
        corpus.extend(examples.first().and_then(|row| infer(row, binary)));
    }
    corpus
}

/// A row as tensors; its numbers behind the JSON, where that is asked for.
fn infer(row: &Value, binary: bool) -> Option<Request> {
    let mut behind = Vec::new();
    let mut inputs = Vec::new();
    for (name, value) in row.as_object()? {
        let datatype = if value.is_boolean() {
            "BOOL"
        } else if value.is_string() {
            "BYTES"
        } else {
            "FP64"
        };
        let tensor = match value.as_f64().filter(|_| binary) {
            Some(number) => {
                behind.extend(number.to_le_bytes());
                json!({"name": name, "shape": [1, 1], "datatype": datatype, "parameters": {"binary_data_size": 8}})
            }
            None => json!({"name": name, "shape": [1, 1], "datatype": datatype, "data": [value]}),
        };
        inputs.push(tensor);
    }
    let mut body =
        json!({"id": "a", "inputs": inputs, "outputs": [{"name": "delivery_minutes"}]}).to_string().into_bytes();
    let json = binary.then_some(body.len());
    body.extend(behind);
    Some(Request { path: "/v2/models/delivery-time/infer", body, json })
}

/// Status and time of an answer; the connection is kept.
fn ask(wire: &mut BufReader<TcpStream>, request: &Request) -> Result<(u16, Duration), Failure> {
    let started = Instant::now();
    let json = request.json.map(|length| format!("inference-header-content-length: {length}\r\n")).unwrap_or_default();
    let (path, length) = (request.path, request.body.len());
    let head = format!("POST {path} HTTP/1.1\r\nhost: fuzz\r\ncontent-length: {length}\r\n{json}\r\n");
    wire.get_mut().write_all(&[head.as_bytes(), &request.body].concat())?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if wire.read_line(&mut head)? == 0 {
            return Err("no answer".into());
        }
    }
    let status = head.get(9..12).unwrap_or_default().parse()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0").parse()?;
    let mut body = vec![0; length];
    wire.read_exact(&mut body)?;
    let is_binary = head.contains("application/octet-stream");
    if !is_binary && serde_json::from_slice::<Value>(&body).is_err() {
        return Err(format!("no JSON: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok((status, started.elapsed()))
}

/// One to eight small changes to a good request.
fn mutate(corpus: &[Request], random: &mut XorShift) -> Request {
    let Some(mut request) = random.one_of(corpus).cloned() else {
        return Request { path: "/v1/predict", body: Vec::new(), json: None };
    };
    for _ in 0..=random.below(7) {
        let body = &mut request.body;
        let from = random.below(body.len() + 1);
        let end = (from + random.below(16)).min(body.len());
        match random.below(6) {
            0 => drop(body.drain(from..end)),
            1 => drop(body.splice(from..from, random.one_of(&WORDS).copied().unwrap_or_default().iter().copied())),
            2 => {
                let copy = body.get(from..end).unwrap_or_default().to_vec();
                let to = random.below(body.len() + 1);
                drop(body.splice(to..to, copy));
            }
            3 => body.iter_mut().skip(from).take(1).for_each(|byte| *byte ^= 1 << (end % 8)),
            4 => request.json = request.json.map(|length| (length + random.below(5)).saturating_sub(2)),
            _ => body.extend(std::iter::repeat_n(*random.one_of(b"[{\"a:\0").unwrap_or(&b'['), random.below(200))),
        }
    }
    request
}

/// Marsaglia's xorshift64: small, seeded, and good enough to choose places.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// 0 to `bound` - 1; 0 where there is no choice.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn one_of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }
}
