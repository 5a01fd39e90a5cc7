//! A model server of the test's own, and clients for it. It ends with the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The folder of a bundle that ships.
pub(crate) fn bundle(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/delivery-time").join(version)
}

/// A folder of the test's own with the files of a bundle.
pub(crate) fn copy_of(version: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.json", "model.safetensors"] {
        fs::copy(bundle(version).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// A row that every version takes.
pub(crate) fn row() -> Value {
    json!({
        "distance_km": 4.2, "item_count": 3, "prep_minutes": 12.5, "hour": 18.5, "traffic": 0.6, "open_orders": 2,
        "day": "fri", "weather": "rain", "vehicle": "bicycle", "priority": false, "apartment": true,
    })
}

/// The program with a clean environment.
pub(crate) fn program(model: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-server"));
    command.env_clear().env("MODEL_PATH", model).env("HOST", "127.0.0.1").env("PORT", "0");
    command
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    agent: ureq::Agent,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Server {
    /// Started, listening, perhaps not ready.
    pub(crate) fn listening(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ").expect(&line).trim_end();
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        Self { child, out, address: address.parse().unwrap(), agent: config.build().into() }
    }

    /// Started and ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        let server = Self::listening(command);
        server.until("/ready answers 200", || server.get("/ready").status == 200);
        server
    }

    /// One that serves a bundle that ships.
    pub(crate) fn of(version: &str) -> Self {
        Self::start(&mut program(&bundle(version)))
    }

    /// Asks again and again until it is so.
    pub(crate) fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < PATIENCE, "{}: waited in vain until {what}", self.address);
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send(ureq::http::Request::get(self.url(path)).body(String::new()))
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Reply {
        self.send(ureq::http::Request::post(self.url(path)).body(body.to_owned()))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn send(&self, request: ureq::http::Result<ureq::http::Request<String>>) -> Reply {
        let mut response = self.agent.run(request.unwrap()).unwrap();
        Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().read_to_string().unwrap(),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// The most memory that it had so far.
    pub(crate) fn peak_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Waits for the end; fails the test when it does not come in time.
    pub(crate) fn ended(mut self, within: Duration) -> ExitStatus {
        let (done, end) = mpsc::channel();
        let mut out = std::mem::replace(&mut self.out, BufReader::new(closed_pipe()));
        let reader = thread::spawn(move || {
            // The pipe ends with the process.
            let read = out.read_to_end(&mut Vec::new());
            done.send(read).ok();
        });
        end.recv_timeout(within).expect("the server did not end in time").unwrap();
        reader.join().unwrap();
        self.child.wait().unwrap()
    }
}

fn closed_pipe() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    child.wait().unwrap();
    child.stdout.take().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A connection on which every byte is the test's own.
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
}

impl Wire {
    pub(crate) fn to(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(text.as_bytes())
    }

    /// One answer with a `content-length`: status, head, body.
    pub(crate) fn read(&mut self) -> std::io::Result<(u16, String, String)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let status = head[9..12].parse().unwrap();
        Ok((status, head, String::from_utf8(body).unwrap()))
    }

    /// Whether the server closes without a further byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

/// A whole predict request.
pub(crate) fn predict_request(body: &str) -> String {
    let length = body.len();
    format!("POST /v1/predict HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}")
}
