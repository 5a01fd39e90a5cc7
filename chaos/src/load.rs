//! An open-loop load: requests are due at their times, whether or not earlier ones were answered, and a latency
//! runs from the time a request was due. A server that stalls is thus charged for everybody who would have
//! waited ("coordinated omission": G. Tene, "How NOT to Measure Latency"). Loopback only.
//!
//! On the way of one request: the schedule says when it is due, the pacer puts it in the queue, a
//! connection takes it, an answer is read, the books get one entry.

use std::io;
use std::iter::once;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

mod answer;
mod books;
mod connection;
mod pacer;
mod queue;
mod schedule;
mod target;
mod told;

pub use books::{Errors, Figures, Latency, Second, StatusClasses, Total};
pub use target::Target;
pub use told::{Ended, Told};

use books::Books;
use queue::Queue;
use schedule::Schedule;

/// Connections that one load opens at most.
pub const MAX_CONNECTIONS: usize = 4_096;

/// Requests per second that one load sends at most.
pub const MAX_RATE: u32 = 200_000;

/// Users that one load has at most; each has its requests ready.
pub const MAX_USERS: u32 = 10_000;

const RATE: &str = "the rate";

/// Why a load cannot be started.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Text that is no address of an HTTP server.
    #[error("`{url}` is no target; write http://127.0.0.1:PORT/PATH")]
    Url {
        /// What was written.
        url: String,
    },
    /// A target that is somebody else's.
    #[error(
        "`{host}` is not this machine; load goes to loopback addresses only, such as 127.0.0.1, [::1] or localhost"
    )]
    NotLoopback {
        /// The host that was named.
        host: String,
    },
    /// A name, path or header that would break the request apart.
    #[error("{what} `{text}` holds a blank or control character; it cannot be sent as written")]
    NotPlain {
        /// Which part of the request.
        what: &'static str,
        /// What was written.
        text: String,
    },
    /// A number out of bounds.
    #[error("{what} is {value}; choose one from 1 to {max}")]
    OutOfBounds {
        /// Which number.
        what: &'static str,
        /// What was asked.
        value: u128,
        /// The most that is possible.
        max: u128,
    },
    /// The clock that paces requests is not there.
    #[error("no timer to pace requests with")]
    Timer(#[source] io::Error),
}

/// What to send, where, how fast and for how long. Made by [`Load::new`]; set the fields that should differ.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where requests go.
    pub target: Target,
    /// Servers that take the same requests: connections begin at each of them and of `target` in turn, and where one
    /// refuses them go on to the next. Default none.
    pub others: Vec<SocketAddr>,
    /// Requests per second, evenly spaced; 1 to [`MAX_RATE`]. Default 100.
    pub rate: u32,
    /// How long requests fall due; `None` (the default) until stopped.
    pub duration: Option<Duration>,
    /// Keep-alive connections at most, opened when first needed; 1 to [`MAX_CONNECTIONS`]. Default 64.
    pub connections: usize,
    /// Bodies of POST requests, sent in turn; none (the default) sends GET.
    pub bodies: Vec<Bytes>,
    /// More headers of every request.
    pub headers: Vec<(String, String)>,
    /// Who sends them; nobody in particular by default.
    pub users: Option<Users>,
    /// How long to wait for a connection, and from the sending for an answer. A request that found no free
    /// connection for so long is given up unsent. Default 5 s.
    pub timeout: Duration,
    /// What good answers hold, of each body in turn: text that stands in the first 4 KiB. Empty (the default): anything.
    pub expected: Vec<Bytes>,
    /// Who is told of each request as it ends; nobody by default.
    pub told: Option<mpsc::UnboundedSender<Told>>,
}

/// Users, each of whom sends its part of the requests: which of them a request is of seems to be chance, and is the same
/// in each run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    /// The header that says whose a request is: `user-0`, `user-1` and so on.
    pub header: String,
    /// How many they are.
    pub count: u32,
}

impl Load {
    /// A load of 100 GET requests per second to `http://LOOPBACK:PORT/PATH`, until stopped.
    ///
    /// # Errors
    /// When the URL is none, or its host is not this machine.
    pub fn new(url: &str) -> Result<Self, LoadError> {
        Ok(Self {
            target: url.parse()?,
            others: Vec::new(),
            rate: 100,
            duration: None,
            connections: 64,
            bodies: Vec::new(),
            headers: Vec::new(),
            users: None,
            timeout: Duration::from_secs(5),
            expected: Vec::new(),
            told: None,
        })
    }

    /// Starts sending, on the runtime of the caller.
    ///
    /// # Errors
    /// When a number is out of bounds, a header cannot be sent, or no timer can be had.
    pub fn start(self) -> Result<Running, LoadError> {
        self.check()?;
        let requests = target::requests(&self)?;
        let users = self.users.as_ref().map_or(1, |users| users.count.max(1));
        let alarm = pacer::Alarm::new().map_err(LoadError::Timer)?;
        let schedule = Schedule::new(Instant::now(), self.rate, self.duration);
        let shared = Arc::new(Shared {
            addresses: once(self.target.addr).chain(self.others).collect(),
            timeout: self.timeout,
            requests,
            users,
            names_users: self.users.is_some(),
            expected: self.expected,
            told: self.told,
            queue: Queue::default(),
            books: Books::new(),
        });
        let (wish, wanted) = watch::channel(Some(self.rate));
        let (reported, seconds) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for number in 0..self.connections {
            tasks.spawn(connection::work(Arc::clone(&shared), number));
        }
        tasks.spawn(pacer::pace(alarm, schedule, wanted, Arc::clone(&shared)));
        let run = tokio::spawn(report(shared, tasks, reported));
        Ok(Running { wish, seconds, run })
    }

    fn check(&self) -> Result<(), LoadError> {
        bounded(RATE, self.rate.into(), MAX_RATE.into())?;
        if let Some(users) = &self.users {
            bounded("the number of users", users.count.into(), MAX_USERS.into())?;
        }
        bounded("the number of connections", wide(self.connections), wide(MAX_CONNECTIONS))?;
        bounded("the timeout in milliseconds", self.timeout.as_millis(), 600_000)
    }
}

fn bounded(what: &'static str, value: u128, max: u128) -> Result<(), LoadError> {
    if (1..=max).contains(&value) { Ok(()) } else { Err(LoadError::OutOfBounds { what, value, max }) }
}

fn wide(count: usize) -> u128 {
    u128::try_from(count).unwrap_or(u128::MAX)
}

/// What pacer, connections and report share.
struct Shared {
    /// At least one.
    addresses: Vec<SocketAddr>,
    timeout: Duration,
    /// Ready to be written; at least one. Those of a user stand together, in the order of the bodies.
    requests: Vec<Bytes>,
    users: u32,
    names_users: bool,
    expected: Vec<Bytes>,
    told: Option<mpsc::UnboundedSender<Told>>,
    queue: Queue,
    books: Books,
}

/// A load under way. Dropped, it stops like [`Running::stop`], unobserved.
#[derive(Debug)]
pub struct Running {
    /// The rate; none to stop.
    wish: watch::Sender<Option<u32>>,
    seconds: mpsc::UnboundedReceiver<Second>,
    run: JoinHandle<Total>,
}

impl Running {
    /// Lets no further request fall due. Those that are due are still sent and waited for: for two timeouts at
    /// most.
    pub fn stop(&self) {
        self.wish.send_replace(None);
    }

    /// Lets so many requests fall due per second from now on, over the same connections; 0: none until the next call. What is
    /// due already is sent. Nothing comes of it once the load was stopped.
    ///
    /// # Errors
    /// When that is more than [`MAX_RATE`]; the rate stays as it was.
    pub fn set_rate(&self, rate: u32) -> Result<(), LoadError> {
        if rate > 0 {
            bounded(RATE, rate.into(), MAX_RATE.into())?;
        }
        self.wish.send_if_modified(|wish| wish.as_mut().is_some_and(|wish| std::mem::replace(wish, rate) != rate));
        Ok(())
    }

    /// The figures of the next second, once it is over; `None` when all requests have ended.
    pub async fn next_second(&mut self) -> Option<Second> {
        self.seconds.recv().await
    }

    /// Waits until all requests have ended (without a duration, [`Running::stop`] it first) and gives the sum.
    /// `None` only when the runtime shut down under it.
    pub async fn finish(self) -> Option<Total> {
        // A dropped sender would stop the load: hold it to the end.
        let Self { wish, seconds, run } = self;
        let total = run.await.ok();
        drop((wish, seconds));
        total
    }
}

/// Closes the books each second, until pacer and connections have ended.
async fn report(shared: Arc<Shared>, mut tasks: JoinSet<()>, reported: mpsc::UnboundedSender<Second>) -> Total {
    let mut each_second = tokio::time::interval(Duration::from_secs(1));
    each_second.tick().await;
    loop {
        tokio::select! {
            ended = tasks.join_next() => if ended.is_none() { break },
            _ = each_second.tick() => tell(&reported, shared.books.close_second()),
        }
    }
    if shared.books.has_open_entries() {
        tell(&reported, shared.books.close_second());
    }
    shared.books.total()
}

/// Whoever no longer listens has dropped the load, which is stopping already.
fn tell(reported: &mpsc::UnboundedSender<Second>, second: Second) {
    if reported.send(second).is_err() {
        tracing::debug!("nobody reads the seconds of this load");
    }
}
