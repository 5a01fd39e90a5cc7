//! The load: closed loop to find what a proxy can do, open loop to see how it does at a rate.
//!
//! In the open loop a request has a moment at which it should be sent, whatever became of those before it; its latency
//! counts from there, so that a proxy that stalls is charged with everything that had to wait.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;
use slab::Slab;

use super::{Cpu, Peer, insert, wire};
use crate::process;

/// A request that has no answer after this long is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// After the end, requests under way have this long to be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Connections that are to stay idle are opened so many at a time, as clients come who know nothing of each other: all at
/// once would measure as many connections to the versions.
const HELD_AT_A_TIME: usize = 64;
/// Latencies are told to three digits, up to a minute, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// Each connection sends as soon as it has its answer.
    Saturate,
    /// So many requests a second, sent on time whether or not those before are answered.
    Rate(f64),
    /// Each request on a connection of its own, the next as soon as it is closed.
    Fresh,
    /// Each connection sends one request and then stays open.
    Hold,
}

/// What is posted, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Path and query.
    pub path: String,
    /// JSON, or something as long.
    pub body: Vec<u8>,
}

impl Request {
    /// 200 bytes that mean nothing.
    pub fn plain(path: &str) -> Self {
        Self { path: path.to_owned(), body: vec![b'x'; 200] }
    }
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Job {
    /// Whom to ask.
    pub to: SocketAddr,
    /// What for.
    pub request: Request,
    /// How requests follow each other.
    pub pattern: Pattern,
    /// How many connections are used.
    pub connections: usize,
    /// Load before anything is counted.
    pub warm: Duration,
    /// Load that is counted.
    pub counted: Duration,
    /// Processes whose CPU time is taken for the counted part.
    pub pids: Vec<u32>,
    /// Whether to note when answers begin to come from the other version.
    pub notes_switches: bool,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Requests answered with 200 in the counted time.
    pub answered: u64,
    /// Requests that got no answer, or another than 200, at any time.
    pub lost: u64,
    /// The counted time in seconds.
    pub seconds: f64,
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    /// CPU seconds of the watched processes by name of thread.
    pub cpu: Cpu,
    /// When answers began to come from the other version, and from which (1 or 2).
    pub switches: Vec<(Instant, u8)>,
}

/// One of the load's connections.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: TcpStream,
    stage: Stage,
    /// How much of the request has been written.
    written: usize,
    received: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting {
        began: Instant,
    },
    Idle,
    Busy {
        intended: Instant,
        lost_at: Instant,
    },
    /// Answered for the last time; the proxy closes.
    Closing {
        since: Instant,
    },
}

/// A job under way.
#[derive(Debug)]
pub(super) struct Load {
    job: Job,
    request: Vec<u8>,
    counted_from: Instant,
    until: Instant,
    /// Connections that may be idle.
    idle: VecDeque<usize>,
    /// Moments at which requests should have been sent that wait for a connection.
    waiting: VecDeque<Instant>,
    /// Requests that were due so far.
    due: u32,
    open: usize,
    under_way: usize,
    /// Connections that have had their one request.
    held: usize,
    last_version: Option<u8>,
    cpu_before: Option<Cpu>,
    cpu_after: Option<Cpu>,
    measured: Measured,
}

/// What an event of a connection came to.
enum Came {
    Nothing,
    Connected,
    Answer(wire::Message),
    End,
}

impl Load {
    pub(super) fn begin(job: Job, registry: &Registry, peers: &mut Slab<Peer>) -> io::Result<Self> {
        let now = Instant::now();
        let latency = Histogram::new_with_bounds(1, LONGEST_NS, 3).map_err(io::Error::other)?;
        let measured = Measured {
            answered: 0,
            lost: 0,
            seconds: job.counted.as_secs_f64(),
            latency,
            cpu: Cpu::new(),
            switches: Vec::new(),
        };
        let mut load = Self {
            request: request(&job),
            counted_from: now + job.warm,
            until: now + job.warm + job.counted,
            idle: VecDeque::with_capacity(job.connections),
            waiting: VecDeque::new(),
            due: 0,
            open: 0,
            under_way: 0,
            held: 0,
            last_version: None,
            cpu_before: None,
            cpu_after: None,
            measured,
            job,
        };
        load.sweep(now, registry, peers);
        Ok(load)
    }

    /// Whether requests are due at moments of their own.
    pub(super) fn is_paced(&self) -> bool {
        matches!(self.job.pattern, Pattern::Rate(_))
    }

    /// The counted time is over, and whatever was under way has been answered.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let sent_all = now >= self.until && self.cpu_after.is_some();
        sent_all && (self.under_way == 0 && self.waiting.is_empty() || now >= self.until + LAST_ANSWERS)
    }

    /// Closes what is open and gives what was measured.
    pub(super) fn end(mut self, peers: &mut Slab<Peer>) -> Measured {
        if self.is_paced() {
            self.measured.lost += u64::try_from(self.under_way + self.waiting.len()).unwrap_or(u64::MAX);
        }
        peers.retain(|_, peer| matches!(peer, Peer::Served(_)));
        let (before, after) = (self.cpu_before.unwrap_or_default(), self.cpu_after.unwrap_or_default());
        self.measured.cpu = process::cpu_between(&before, &after);
        self.measured
    }

    /// Sends what is due, and reads the books when the counted time begins and ends.
    pub(super) fn pace(&mut self, now: Instant, peers: &mut Slab<Peer>) {
        if self.cpu_before.is_none() && now >= self.counted_from {
            // A process that has gone shows in the requests it loses.
            self.cpu_before = Some(process::cpu(&self.job.pids).unwrap_or_default());
        }
        if self.cpu_after.is_none() && now >= self.until {
            self.cpu_after = Some(process::cpu(&self.job.pids).unwrap_or_default());
        }
        let Pattern::Rate(rate) = self.job.pattern else { return };
        let began = self.counted_from.checked_sub(self.job.warm).unwrap_or(self.counted_from);
        loop {
            let intended = began + Duration::from_secs_f64(f64::from(self.due) / rate);
            if intended > now || intended >= self.until {
                break;
            }
            self.due += 1;
            self.waiting.push_back(intended);
        }
        while let Some(intended) = self.waiting.front().copied() {
            let Some(key) = self.next_idle(peers) else { return };
            self.waiting.pop_front();
            self.send(key, intended, peers);
        }
    }

    fn next_idle(&mut self, peers: &Slab<Peer>) -> Option<usize> {
        while let Some(key) = self.idle.pop_front() {
            if matches!(peers.get(key), Some(Peer::Client(client)) if client.stage == Stage::Idle) {
                return Some(key);
            }
        }
        None
    }

    /// Gives up requests that have waited too long, and opens connections that are missing.
    pub(super) fn sweep(&mut self, now: Instant, registry: &Registry, peers: &mut Slab<Peer>) {
        let late: Vec<usize> = peers.iter().filter(|(_, peer)| is_late(peer, now)).map(|(key, _)| key).collect();
        for key in late {
            self.drop_connection(key, peers);
        }
        self.open_missing(now, registry, peers);
    }

    /// Opens connections that are missing, as long as there is something to send.
    pub(super) fn open_missing(&mut self, now: Instant, registry: &Registry, peers: &mut Slab<Peer>) {
        let most = match self.job.pattern {
            Pattern::Hold => self.job.connections.min(self.held + HELD_AT_A_TIME),
            Pattern::Saturate | Pattern::Rate(_) | Pattern::Fresh => self.job.connections,
        };
        while self.open < most && now < self.until {
            let Ok(stream) = TcpStream::connect(self.job.to) else { return };
            let client =
                Client { stream, stage: Stage::Connecting { began: Instant::now() }, written: 0, received: Vec::new() };
            if insert(registry, peers, Peer::Client(client)).is_none() {
                return;
            }
            self.open += 1;
        }
    }

    /// Something happened on a connection of ours.
    pub(super) fn turn(&mut self, key: usize, event: &Event, peers: &mut Slab<Peer>, scratch: &mut [u8]) {
        let Some(Peer::Client(client)) = peers.get_mut(key) else { return };
        let came = if matches!(client.stage, Stage::Connecting { .. }) {
            client.connected(event)
        } else if client.write(&self.request).is_err() {
            Came::End
        } else {
            client.hear(scratch, event.is_read_closed())
        };
        match came {
            Came::Nothing => {}
            Came::Connected => self.connected(key, peers),
            Came::Answer(answer) => {
                self.answered(key, answer, peers);
                if event.is_read_closed() {
                    self.turn(key, event, peers, scratch);
                }
            }
            Came::End => self.drop_connection(key, peers),
        }
    }

    fn connected(&mut self, key: usize, peers: &mut Slab<Peer>) {
        let Some(Peer::Client(client)) = peers.get_mut(key) else { return };
        let Stage::Connecting { began } = client.stage else { return };
        // Without it a small request may wait for an acknowledgement; a failure costs only that.
        drop(client.stream.set_nodelay(true));
        client.stage = Stage::Idle;
        match self.job.pattern {
            Pattern::Rate(_) => self.idle.push_back(key),
            Pattern::Saturate | Pattern::Hold => self.send(key, Instant::now(), peers),
            Pattern::Fresh => self.send(key, began, peers),
        }
    }

    fn send(&mut self, key: usize, intended: Instant, peers: &mut Slab<Peer>) {
        let Some(Peer::Client(client)) = peers.get_mut(key) else { return };
        client.stage = Stage::Busy { intended, lost_at: Instant::now() + PATIENCE };
        client.written = 0;
        self.under_way += 1;
        if client.write(&self.request).is_err() {
            self.drop_connection(key, peers);
        }
    }

    fn answered(&mut self, key: usize, answer: wire::Message, peers: &mut Slab<Peer>) {
        let Some(Peer::Client(client)) = peers.get_mut(key) else { return };
        let Stage::Busy { intended, .. } = client.stage else { return self.drop_connection(key, peers) };
        let now = Instant::now();
        self.under_way -= 1;
        self.book(intended, now, answer);
        let last = answer.closes || self.job.pattern == Pattern::Fresh;
        client.stage = if last { Stage::Closing { since: now } } else { Stage::Idle };
        match self.job.pattern {
            Pattern::Hold => self.held += 1,
            _ if last => {}
            Pattern::Rate(_) => match self.waiting.pop_front() {
                Some(intended) => self.send(key, intended, peers),
                None => self.idle.push_back(key),
            },
            Pattern::Saturate | Pattern::Fresh if now < self.until => self.send(key, now, peers),
            Pattern::Saturate | Pattern::Fresh => {}
        }
    }

    fn book(&mut self, intended: Instant, now: Instant, answer: wire::Message) {
        if answer.status != 200 {
            self.measured.lost += 1;
            return;
        }
        // An open loop counts what was to be sent in the counted time, a closed one what was answered in it.
        let moment = if self.is_paced() { intended } else { now };
        if moment >= self.counted_from && moment < self.until {
            self.measured.answered += 1;
            let nanoseconds = u64::try_from((now - intended).as_nanos()).unwrap_or(LONGEST_NS);
            self.measured.latency.saturating_record(nanoseconds.clamp(1, LONGEST_NS));
        }
        let version = answer.last.map(|digit| digit.saturating_sub(b'0'));
        if self.job.notes_switches && version != self.last_version {
            self.measured.switches.extend(version.map(|version| (now, version)));
            self.last_version = version;
        }
    }

    /// The connection has ended, with its request if it had one.
    fn drop_connection(&mut self, key: usize, peers: &mut Slab<Peer>) {
        let Some(Peer::Client(client)) = peers.try_remove(key) else { return };
        self.open -= 1;
        match client.stage {
            Stage::Busy { .. } => {
                self.under_way -= 1;
                self.measured.lost += 1;
            }
            // Refused: whoever stands before a new connection each has lost a request.
            Stage::Connecting { .. } if self.job.pattern == Pattern::Fresh => self.measured.lost += 1,
            Stage::Connecting { .. } | Stage::Idle | Stage::Closing { .. } => {}
        }
    }
}

/// Whether nothing more is to be expected of a connection.
fn is_late(peer: &Peer, now: Instant) -> bool {
    match peer {
        Peer::Served(_) => false,
        Peer::Client(client) => match client.stage {
            Stage::Busy { lost_at, .. } => now >= lost_at,
            Stage::Connecting { began: since } | Stage::Closing { since } => now.duration_since(since) >= PATIENCE,
            Stage::Idle => false,
        },
    }
}

fn request(job: &Job) -> Vec<u8> {
    let connection = if job.pattern == Pattern::Fresh { "Connection: close\r\n" } else { "" };
    let Request { path, body } = &job.request;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\
         Content-Type: application/json\r\n{connection}Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    request
}

impl Client {
    fn connected(&self, event: &Event) -> Came {
        if event.is_error() || self.stream.take_error().ok().flatten().is_some() {
            return Came::End;
        }
        if event.is_writable() && self.stream.peer_addr().is_ok() { Came::Connected } else { Came::Nothing }
    }

    /// Writes what the connection takes of what is left of its request.
    fn write(&mut self, request: &[u8]) -> io::Result<()> {
        if !matches!(self.stage, Stage::Busy { .. }) {
            return Ok(());
        }
        while let Some(rest) = request.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(taken) => self.written += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there, up to the end of an answer.
    fn hear(&mut self, scratch: &mut [u8], drained: bool) -> Came {
        loop {
            let read = match self.stream.read(scratch) {
                Ok(0) => return Came::End,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Came::Nothing,
                Err(_) => return Came::End,
            };
            self.received.extend_from_slice(scratch.get(..read).unwrap_or_default());
            match wire::answer(&self.received) {
                Ok(Some(answer)) => {
                    self.received.drain(..answer.bytes);
                    return Came::Answer(answer);
                }
                Ok(None) if read < scratch.len() && !drained => return Came::Nothing,
                Ok(None) => {}
                Err(_) => return Came::End,
            }
        }
    }
}
