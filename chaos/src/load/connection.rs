//! One connection of a load: takes what is due, sends it, reads the answer, books how it ended. Opens itself
//! anew whenever the old connection cannot carry another request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shared;
use super::answer::{Body, Head, Malformed, take_head};
use super::books::{Entry, Failure};
use super::queue::Due;
use super::told::{Ended, Told};

/// Room for a typical answer; grows for larger ones.
const BUFFER_BYTES: usize = 8 * 1024;

/// What is kept of a body that something is expected of.
const SAMPLE_BYTES: usize = 4 * 1024;

/// A connection to another server than the one where it began looks for its own again after so long.
const HOME_AFTER: Duration = Duration::from_millis(500);

/// Works until the queue is closed and empty. Connections of successive numbers begin at successive servers.
pub(super) async fn work(shared: Arc<Shared>, number: usize) {
    let mut wire = None;
    while let Some(due) = shared.queue.next().await {
        let exchanged = exchange(&shared, &mut wire, number, due).await;
        shared.books.enter(&exchanged.entry, due.at.elapsed());
        tell(&shared, due, exchanged);
    }
}

/// How one request ended.
struct Exchanged {
    entry: Entry,
    /// Whether the answer holds what it should.
    is_expected: bool,
    /// Where it was sent, over a connection of which age.
    to: Option<SocketAddr>,
    connected: Option<Instant>,
    /// Who answered, as far as an answer came.
    version: Option<Box<str>>,
}

impl Exchanged {
    const fn unsent(failure: Failure) -> Self {
        Self { entry: Entry::Failed(failure), is_expected: false, to: None, connected: None, version: None }
    }
}

/// Whoever no longer listens needs no more told.
fn tell(shared: &Shared, due: Due, exchanged: Exchanged) {
    let Some(told) = &shared.told else { return };
    let Exchanged { entry, is_expected, to, connected, version } = exchanged;
    let end = Ended::of(&entry, is_expected);
    let user = shared.names_users.then(|| user_of(shared, due));
    told.send(Told { due: due.at, ended: Instant::now(), end, to, connected, user, version }).ok();
}

/// Sends one request and gives how it ended. After anything but a whole answer the connection is gone.
async fn exchange(shared: &Shared, kept: &mut Option<Wire>, number: usize, due: Due) -> Exchanged {
    if due.at.elapsed() >= shared.timeout {
        return Exchanged::unsent(Failure::Unsent);
    }
    let Some(mut wire) = ready_wire(shared, kept.take(), number).await else {
        return Exchanged::unsent(Failure::Connect);
    };
    shared.books.send(due.at.elapsed());
    let (to, connected) = (Some(wire.addr), Some(wire.connected));
    let expected = in_turn(&shared.expected, due.n);
    wire.sample = expected.map(|_| Vec::new());
    wire.version = None;
    let asked = timeout(shared.timeout, wire.ask(request_of(shared, due))).await;
    let version = wire.version.take();
    let (entry, is_expected) = match asked {
        Ok(Ok(head)) => {
            let is_expected = expected.is_none_or(|text| wire.saw(text));
            *kept = head.keep_alive.then_some(wire);
            (Entry::Answered { status: head.status, version: head.version }, is_expected)
        }
        Ok(Err(failure)) => (Entry::Failed(failure), false),
        Err(_elapsed) => (Entry::Failed(Failure::Timeout), false),
    };
    Exchanged { entry, is_expected, to, connected, version }
}

/// What is sent: the bodies in turn, each time of another user.
fn request_of(shared: &Shared, due: Due) -> &[u8] {
    let user = usize::try_from(user_of(shared, due)).unwrap_or_default();
    let bodies = shared.requests.len() / usize::try_from(shared.users).unwrap_or(1).max(1);
    let own = shared.requests.chunks(bodies.max(1)).nth(user);
    own.and_then(|own| in_turn(own, due.n)).unwrap_or_default()
}

/// Whose a request is, as if by chance.
fn user_of(shared: &Shared, due: Due) -> u32 {
    u32::try_from(mixed(due.n) % u64::from(shared.users.max(1))).unwrap_or_default()
}

/// Scatters successive numbers: the finalizer of `SplitMix64` (G. Steele, D. Lea, C. Flood: "Fast splittable pseudorandom
/// number generators", 2014).
const fn mixed(n: u64) -> u64 {
    let mut mixed = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Of things that are taken in turn the one whose turn it is.
fn in_turn(all: &[Bytes], n: u64) -> Option<&[u8]> {
    let turn = n % u64::try_from(all.len().max(1)).unwrap_or(1);
    usize::try_from(turn).ok().and_then(|turn| all.get(turn)).map(|bytes| &**bytes)
}

/// The kept connection if the server has not ended it meanwhile, or else a new one: to the server where this connection
/// began, or to the next one that takes it.
async fn ready_wire(shared: &Shared, kept: Option<Wire>, number: usize) -> Option<Wire> {
    let home = number % shared.addresses.len().max(1);
    let in_turn = shared.addresses.iter().cycle().skip(home).take(shared.addresses.len());
    match kept.filter(Wire::is_open) {
        Some(wire) if wire.is_home || wire.sought.elapsed() < HOME_AFTER => return Some(wire),
        Some(wire) => {
            let own = open(shared, *shared.addresses.get(home)?, true).await;
            return Some(own.unwrap_or(Wire { sought: Instant::now(), ..wire }));
        }
        None => {}
    }
    for (place, addr) in in_turn.enumerate() {
        if let Some(wire) = open(shared, *addr, place == 0).await {
            return Some(wire);
        }
    }
    None
}

async fn open(shared: &Shared, addr: SocketAddr, is_home: bool) -> Option<Wire> {
    timeout(shared.timeout, Wire::open(addr, is_home)).await.ok()?.ok()
}

/// A connection between two requests.
struct Wire {
    stream: TcpStream,
    addr: SocketAddr,
    /// Whether this is where it begins whenever it can.
    is_home: bool,
    connected: Instant,
    /// When it last looked in vain for its own server, or was connected.
    sought: Instant,
    received: BytesMut,
    /// Who gives the answer, once its head is there.
    version: Option<Box<str>>,
    /// The beginning of the last body as it came, if somebody expects something of it.
    sample: Option<Vec<u8>>,
}

impl Wire {
    async fn open(addr: SocketAddr, is_home: bool) -> std::io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let received = BytesMut::with_capacity(BUFFER_BYTES);
        let connected = Instant::now();
        Ok(Self { stream, addr, is_home, connected, sought: connected, received, version: None, sample: None })
    }

    /// Nothing may come between two requests: neither an end nor bytes that nobody asked for.
    fn is_open(&self) -> bool {
        let nothing_came =
            self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        nothing_came && self.received.is_empty()
    }

    async fn ask(&mut self, request: &[u8]) -> Result<Head, Failure> {
        self.stream.write_all(request).await.map_err(|_broken| Failure::Reset)?;
        let head = self.read_head().await?;
        self.version.clone_from(&head.version);
        self.read_body(head.body).await?;
        Ok(head)
    }

    async fn read_head(&mut self) -> Result<Head, Failure> {
        loop {
            if !self.receive().await? {
                return Err(Failure::Reset);
            }
            if let Some(head) = take_head(&mut self.received).map_err(malformed)? {
                return Ok(head);
            }
        }
    }

    async fn read_body(&mut self, mut body: Body) -> Result<(), Failure> {
        loop {
            self.keep_sample();
            body = body.consume(&mut self.received).map_err(malformed)?;
            if body == Body::Done {
                return Ok(());
            }
            if !self.receive().await? {
                return if body == Body::UntilClose { Ok(()) } else { Err(Failure::Reset) };
            }
        }
    }

    fn keep_sample(&mut self) {
        if let Some(sample) = &mut self.sample {
            let room = SAMPLE_BYTES.saturating_sub(sample.len());
            sample.extend(self.received.iter().take(room));
        }
    }

    fn saw(&self, text: &[u8]) -> bool {
        self.sample.as_ref().is_some_and(|sample| sample.windows(text.len().max(1)).any(|part| part == text))
    }

    /// Reads what there is; `false` at the end of the connection.
    async fn receive(&mut self) -> Result<bool, Failure> {
        self.received.reserve(BUFFER_BYTES / 2);
        let bytes = self.stream.read_buf(&mut self.received).await.map_err(|_broken| Failure::Reset)?;
        Ok(bytes > 0)
    }
}

fn malformed(_: Malformed) -> Failure {
    Failure::Malformed
}
