//! Servers of one and the same model: `model-server`, what Python teams use, and a server without any model.
//!
//! All have one core and do the same work: they take an order, check it, and answer with its minutes.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::sleep;

use crate::contender::beside;
use crate::course::{per_second, quantile_ms};
use crate::figures::{Better, Figures, Row, Sheet, row};
use crate::process;
use crate::rig::{Job, Measured, Pattern, Request, Rig, RigError, loopback};
use crate::subject::{Subject, SubjectError};

/// Load before anything is counted.
const WARM: Duration = Duration::from_millis(500);
/// A Python server imports for seconds.
const READY_PATIENCE: Duration = Duration::from_mins(1);

const ROWS: &[Row] = &[
    row("rps_one", "single predictions a second, 32 connections", "1/s", Better::Higher, 0),
    row("one_sklearn", "… as a ratio to FastAPI + scikit-learn", "×", Better::Higher, 1).figure(200.0),
    row("one_onnx", "… as a ratio to FastAPI + ONNX Runtime", "×", Better::Higher, 1).figure(10.0),
    row("one_none", "… as a ratio to a server without a model", "×", Better::Higher, 2).figure(0.8),
    row("p50_load", "p50 meanwhile", "ms", Better::Lower, 3),
    row("p99_load", "p99 meanwhile", "ms", Better::Lower, 3),
    row("rps_32", "batches of 32 a second, 8 connections", "1/s", Better::Higher, 0),
    row("rps_256", "batches of 256 a second, 8 connections", "1/s", Better::Higher, 0),
    row("batch_onnx", "… as a ratio to FastAPI + ONNX Runtime", "×", Better::Higher, 1).figure(6.0),
    row("p50_alone", "p50 at one connection", "ms", Better::Lower, 3).figure(0.1),
    row("p99_alone", "p99 at one connection", "ms", Better::Lower, 3).figure(1.5),
    row("rss", "memory after the load", "MB", Better::Lower, 1).figure(20.0),
    row("ready", "from start to ready", "s", Better::Lower, 3).figure(0.1),
    row("binary", "size of the program", "MB", Better::Lower, 1).figure(25.0),
    row("lost", "requests not answered with 200", "", Better::Lower, 0).figure(0.0),
];

/// The table.
pub const SHEET: Sheet = Sheet {
    title: "model-server beside FastAPI with scikit-learn and ONNX Runtime",
    ratio: "",
    picture: "predictions a second, latency, memory and time to ready as bars",
    columns: &NAMES,
    peers: &[],
    ours: "model-server",
    rows: ROWS,
    panels: &["rps_one", "rps_256", "p50_alone", "p99_load", "rss", "ready"],
    unseen: "no model",
};

/// The columns, in the order of [`Server::ALL`].
const NAMES: [&str; 5] =
    ["no model", "FastAPI + scikit-learn GBR", "FastAPI + scikit-learn MLP", "FastAPI + ONNX Runtime", "model-server"];

/// Who serves the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// hyper alone: the limit.
    NoModel,
    /// Gradient-boosted trees, trained on the same orders.
    SklearnGbr,
    /// The weights of the bundle in scikit-learn.
    SklearnMlp,
    /// The same in ONNX Runtime.
    Onnx,
    /// Ours.
    ModelServer,
}

impl Server {
    /// Everybody, in the order of the report.
    pub const ALL: [Self; 5] = [Self::NoModel, Self::SklearnGbr, Self::SklearnMlp, Self::Onnx, Self::ModelServer];

    /// For people.
    pub fn name(self) -> &'static str {
        let [none, gbr, mlp, onnx, ours] = NAMES;
        match self {
            Self::NoModel => none,
            Self::SklearnGbr => gbr,
            Self::SklearnMlp => mlp,
            Self::Onnx => onnx,
            Self::ModelServer => ours,
        }
    }
}

/// Why there are no figures.
#[derive(Debug, Error)]
pub enum ModelsError {
    /// A server.
    #[error("a server failed")]
    Subject(#[from] SubjectError),
    /// The load.
    #[error("the load failed")]
    Rig(#[from] RigError),
    /// Sockets or the kernel's books.
    #[error("sockets, or the books of a process; it may have ended")]
    Io(#[from] io::Error),
    /// The bundle.
    #[error("the bundle at {} cannot be read", path.display())]
    Bundle {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// It never said that it was ready.
    #[error("{0} was not ready within 60 s; its messages are above")]
    NotReady(&'static str),
}

/// Everything that stays the same over the rounds.
#[derive(Debug)]
pub struct Trial {
    rig: Rig,
    bundle: PathBuf,
    python: PathBuf,
    orders: Vec<String>,
    span: Duration,
}

#[derive(Debug, Deserialize)]
struct Description {
    golden: Golden,
}

#[derive(Debug, Deserialize)]
struct Golden {
    examples: Vec<Example>,
}

#[derive(Debug, Deserialize)]
struct Example {
    input: Value,
}

/// A server at work, and how long it took until it was ready.
struct Ready {
    subject: Subject,
    address: SocketAddr,
    after: Duration,
}

impl Trial {
    /// Servers of `bundle`; those in Python run with the interpreter `python`. Each measurement takes `span`.
    ///
    /// # Errors
    /// If the bundle cannot be read, or the load not be started.
    pub fn new(bundle: &Path, python: &Path, span: Duration) -> Result<Self, ModelsError> {
        let unread = |source| ModelsError::Bundle { path: bundle.to_owned(), source };
        let text = fs::read(bundle.join("model.json")).map_err(unread)?;
        let description: Description =
            serde_json::from_slice(&text).map_err(|source| unread(io::Error::other(source)))?;
        let orders = description.golden.examples.iter().map(|example| example.input.to_string()).collect();
        Ok(Self { rig: Rig::start()?, bundle: bundle.to_owned(), python: python.to_owned(), orders, span })
    }

    /// Measures everybody once.
    ///
    /// # Errors
    /// If a server or the load fails.
    pub async fn round(&self, round: usize, figures: &mut Figures) -> Result<(), ModelsError> {
        // Who comes first changes, so that nobody always has the machine as another left it.
        let mut order = Server::ALL;
        order.rotate_left(round % Server::ALL.len());
        for server in order {
            self.one(server, round, figures).await?;
        }
        let ours = Server::ModelServer.name();
        let ratios = [
            ("one_sklearn", "rps_one", Server::SklearnMlp),
            ("one_onnx", "rps_one", Server::Onnx),
            ("one_none", "rps_one", Server::NoModel),
            ("batch_onnx", "rps_256", Server::Onnx),
        ];
        for (id, of, peer) in ratios {
            let both = figures.value(round, ours, of).zip(figures.value(round, peer.name(), of));
            if let Some((own, theirs)) = both {
                figures.note(round, ours, id, own / theirs);
            }
        }
        Ok(())
    }

    async fn one(&self, server: Server, round: usize, figures: &mut Figures) -> Result<(), ModelsError> {
        let ready = self.start(server).await?;
        let mut lost = 0;
        let mut note = |id, value| figures.note(round, server.name(), id, value);
        note("ready", ready.after.as_secs_f64());
        let alone = self.measure(&ready, Pattern::Saturate, 1, &self.single()).await?;
        note("p50_alone", quantile_ms(&alone, 0.5));
        note("p99_alone", quantile_ms(&alone, 0.99));
        let many = self.measure(&ready, Pattern::Saturate, 32, &self.single()).await?;
        note("rps_one", per_second(&many));
        note("p50_load", quantile_ms(&many, 0.5));
        note("p99_load", quantile_ms(&many, 0.99));
        lost += alone.lost + many.lost;
        for (rows, id) in [(32, "rps_32"), (256, "rps_256")] {
            let batches = self.measure(&ready, Pattern::Saturate, 8, &self.batch(rows)).await?;
            note(id, per_second(&batches));
            lost += batches.lost;
        }
        note("lost", crate::course::count(lost));
        note("rss", process::resident_megabytes(&ready.subject.pids()?)?);
        if server == Server::ModelServer {
            note("binary", crate::course::count(fs::metadata(beside("model-server")?)?.len()) / 1e6);
        }
        Ok(ready.subject.stop().await?)
    }

    async fn measure(
        &self,
        ready: &Ready,
        pattern: Pattern,
        connections: usize,
        request: &Request,
    ) -> Result<Measured, ModelsError> {
        let (to, pids, request) = (ready.address, ready.subject.pids()?, request.clone());
        let job =
            Job { to, request, pattern, connections, warm: WARM, counted: self.span, pids, notes_switches: false };
        Ok(self.rig.measure(job).await?)
    }

    fn single(&self) -> Request {
        let body = self.orders.first().cloned().unwrap_or_default();
        Request { path: "/v1/predict".to_owned(), body: body.into_bytes() }
    }

    fn batch(&self, rows: usize) -> Request {
        let orders: Vec<&str> = self.orders.iter().cycle().take(rows).map(String::as_str).collect();
        let body = format!("{{\"instances\":[{}]}}", orders.join(","));
        Request { path: "/v1/predict/batch".to_owned(), body: body.into_bytes() }
    }

    /// Starts a server and waits until it says that it is ready.
    async fn start(&self, server: Server) -> Result<Ready, ModelsError> {
        let address = loopback(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let began = Instant::now();
        let subject = Subject::start(server.name(), &mut self.command(server, address.port())?)?;
        while began.elapsed() < READY_PATIENCE {
            if is_ready(address).await.unwrap_or(false) {
                return Ok(Ready { subject, address, after: began.elapsed() });
            }
            sleep(Duration::from_millis(1)).await;
        }
        Err(ModelsError::NotReady(server.name()))
    }

    fn command(&self, server: Server, port: u16) -> io::Result<Command> {
        let mut command = Subject::pinned();
        let engine = match server {
            Server::NoModel => {
                command.arg(beside("no_model")?).arg("--port").arg(port.to_string());
                return Ok(command);
            }
            Server::ModelServer => {
                command.arg(beside("model-server")?).env("MODEL_PATH", &self.bundle).env("PORT", port.to_string());
                return Ok(command);
            }
            Server::SklearnGbr => "sklearn-gbr",
            Server::SklearnMlp => "sklearn-mlp",
            Server::Onnx => "onnx",
        };
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/models/serve.py");
        command.arg(&self.python).arg(program).env("PORT", port.to_string());
        command.env("BUNDLE", &self.bundle).env("ENGINE", engine);
        Ok(command)
    }
}

/// Whether `/ready` is answered with 200.
async fn is_ready(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: bench.example.com\r\nconnection: close\r\n\r\n").await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(head == *b"HTTP/1.1 200")
}
