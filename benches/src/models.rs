//! Servers of one and the same model under the same load: `model-server` beside what Python teams use.

pub mod tables;
pub mod texts;

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
use crate::rig::{Job, Measured, Pattern, Request, Rig, RigError, loopback};
use crate::subject::{Subject, SubjectError};

/// Load before anything is counted.
const WARM: Duration = Duration::from_millis(500);
/// A Python server imports for seconds.
const READY_PATIENCE: Duration = Duration::from_mins(1);

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

/// The load, and how servers are started.
#[derive(Debug)]
pub struct Bench {
    rig: Rig,
    python: PathBuf,
    span: Duration,
}

/// A server at work, and how long it took until it was ready.
struct Ready {
    subject: Subject,
    address: SocketAddr,
    after: Duration,
}

impl Bench {
    /// Servers in Python run with the interpreter `python`. Each measurement takes `span`.
    ///
    /// # Errors
    /// If the load cannot be started.
    pub fn new(python: &Path, span: Duration) -> Result<Self, ModelsError> {
        Ok(Self { rig: Rig::start()?, python: python.to_owned(), span })
    }

    /// Starts a server and waits until it says that it is ready.
    async fn start(
        &self,
        name: &'static str,
        command: impl FnOnce(u16) -> io::Result<Command>,
    ) -> Result<Ready, ModelsError> {
        let address = loopback(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let began = Instant::now();
        let subject = Subject::start(name, &mut command(address.port())?)?;
        while began.elapsed() < READY_PATIENCE {
            if is_ready(address).await.unwrap_or(false) {
                return Ok(Ready { subject, address, after: began.elapsed() });
            }
            sleep(Duration::from_millis(1)).await;
        }
        Err(ModelsError::NotReady(name))
    }

    async fn measure(&self, ready: &Ready, how: (Pattern, usize), request: &Request) -> Result<Measured, ModelsError> {
        self.measure_for(self.span, ready, how, request).await
    }

    async fn measure_for(
        &self,
        counted: Duration,
        ready: &Ready,
        (pattern, connections): (Pattern, usize),
        request: &Request,
    ) -> Result<Measured, ModelsError> {
        let (to, pids, request) = (ready.address, ready.subject.pids()?, request.clone());
        let warm = WARM;
        let job = Job { to, request, pattern, connections, warm, counted, pids, notes_switches: false };
        Ok(self.rig.measure(job).await?)
    }

    /// The beginning of a command for one of the peers in Python.
    fn python(&self, program: &str, bundle: &Path, port: u16) -> Command {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/models").join(program);
        let mut command = Subject::pinned();
        command.arg(&self.python).arg(program).env("PORT", port.to_string()).env("BUNDLE", bundle);
        command
    }
}

/// `model-server` as it comes.
fn ours(bundle: &Path, port: u16) -> io::Result<Command> {
    let mut command = Subject::pinned();
    command.arg(beside("model-server")?).env("MODEL_PATH", bundle).env("PORT", port.to_string());
    Ok(command)
}

/// The inputs of a bundle's golden examples, as JSON.
fn golden_inputs(bundle: &Path) -> Result<Vec<String>, ModelsError> {
    #[derive(Deserialize)]
    struct Description {
        golden: Golden,
    }
    #[derive(Deserialize)]
    struct Golden {
        examples: Vec<Example>,
    }
    #[derive(Deserialize)]
    struct Example {
        input: Value,
    }
    let unread = |source| ModelsError::Bundle { path: bundle.to_owned(), source };
    let text = fs::read(bundle.join("model.json")).map_err(unread)?;
    let description: Description = serde_json::from_slice(&text).map_err(|source| unread(io::Error::other(source)))?;
    Ok(description.golden.examples.iter().map(|example| example.input.to_string()).collect())
}

/// What is posted for so many rows: one alone, or a batch.
fn posted<'a>(rows: impl Iterator<Item = &'a String>, number: usize) -> Request {
    let rows: Vec<&str> = rows.map(String::as_str).collect();
    let (path, body) = match number {
        1 => ("/v1/predict", rows.concat()),
        _ => ("/v1/predict/batch", format!("{{\"instances\":[{}]}}", rows.join(","))),
    };
    Request { path: path.to_owned(), body: body.into_bytes() }
}

/// Whether `/ready` is answered with 200.
async fn is_ready(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: bench.example.com\r\nconnection: close\r\n\r\n").await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(head == *b"HTTP/1.1 200")
}
