//! A store of files over HTTP, of the test's own, which breaks off, refuses, or forgets ranges when it is told to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the store does to the next requests for a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// So many bytes of the body, then the connection is closed.
    CutAfter(usize),
    /// An answer with this status.
    Status(u16),
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    faults: HashMap<String, Vec<Fault>>,
    asked: Vec<Asked>,
    knows_no_ranges: bool,
}

/// It serves until the test ends; its thread waits for nobody.
#[derive(Clone)]
pub(crate) struct Store {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Store {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = Self { state: Arc::default(), address: listener.local_addr().unwrap() };
        let serving = store.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let store = serving.clone();
                // A client that goes away ends its own connection only.
                thread::spawn(move || store.converse(&stream).ok());
            }
        });
        store
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn put(&self, path: &str, content: Vec<u8>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), content);
    }

    /// The faults of the next requests for a file, one each.
    pub(crate) fn break_off(&self, path: &str, faults: &[Fault]) {
        self.state.lock().unwrap().faults.insert(path.to_owned(), faults.iter().rev().copied().collect());
    }

    pub(crate) fn forget_ranges(&self) {
        self.state.lock().unwrap().knows_no_ranges = true;
    }

    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        self.state.lock().unwrap().asked.iter().filter(|asked| asked.path == path).cloned().collect()
    }

    /// Answers one request, and closes.
    fn converse(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let line = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let path = decoded(line.split(' ').nth(1).unwrap_or_default());
        let mut range = None;
        let mut if_match = None;
        for line in lines {
            let line = line?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            range = line.strip_prefix("range: ").map(ToOwned::to_owned).or(range);
            if_match = line.strip_prefix("if-match: ").map(ToOwned::to_owned).or(if_match);
        }
        let (content, fault, range) = self.note(Asked { path, range });
        let mut out = stream;
        let refused = |status: u16| format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let Some(content) = content else {
            return out.write_all(refused(404).as_bytes());
        };
        let tag = format!("\"{:x}\"", content.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte)));
        if let Some(Fault::Status(status)) = fault {
            return out.write_all(refused(status).as_bytes());
        }
        if if_match.is_some_and(|wanted| wanted != tag) {
            return out.write_all(refused(412).as_bytes());
        }
        let first = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let (status, place) = match first {
            Some(first) => (206, format!("content-range: bytes {first}-{}/{}\r\n", content.len() - 1, content.len())),
            None => (200, String::new()),
        };
        let body = &content[first.unwrap_or(0)..];
        let length = body.len();
        let date = "last-modified: Sun, 01 Feb 2026 10:00:00 GMT\r\n";
        let head = format!("HTTP/1.1 {status} OK\r\ncontent-length: {length}\r\netag: {tag}\r\n{date}{place}");
        out.write_all(format!("{head}connection: close\r\n\r\n").as_bytes())?;
        match fault {
            Some(Fault::CutAfter(bytes)) => out.write_all(&body[..bytes.min(length)]),
            Some(Fault::Status(_)) | None => out.write_all(body),
        }
    }

    /// What there is to answer with: the content, the fault, and the range unless it is forgotten.
    fn note(&self, asked: Asked) -> (Option<Vec<u8>>, Option<Fault>, Option<String>) {
        let mut state = self.state.lock().unwrap();
        let fault = state.faults.get_mut(&asked.path).and_then(Vec::pop);
        let content = state.files.get(&asked.path).cloned();
        let range = asked.range.clone().filter(|_| !state.knows_no_ranges);
        state.asked.push(asked);
        (content, fault, range)
    }
}

/// Without percent signs, which clients of GCS put before nearly everything.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        plain.push(char::from(u8::from_str_radix(code, 16).unwrap()));
        plain.push_str(rest);
    }
    plain
}
