//! The threads that serve, and the life of one connection. Each thread has a runtime of its own and keeps its
//! connections; a request is read, calculated and answered on one thread.

use std::convert::Infallible;
use std::io;
use std::net::TcpStream as StdStream;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use pointsman_telemetry::shutdown::{Drain, InFlight};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::http::{self, Site};
use crate::listener::QUIET;
use crate::oip;

/// Why nobody can serve.
#[derive(Debug, Error)]
#[error("a serving thread cannot be started; set THREADS to fewer")]
pub struct ServingError(#[from] io::Error);

/// All serving threads.
#[derive(Debug)]
pub struct Serving {
    threads: Vec<Desk>,
    drain: Drain,
}

/// One thread, as seen by those who give it connections.
#[derive(Debug)]
struct Desk {
    connections: UnboundedSender<Dealt>,
    open: Arc<AtomicUsize>,
}

/// A connection on its way to its thread.
#[derive(Debug)]
struct Dealt {
    stream: StdStream,
    counted: Counted,
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
struct Counted {
    open: Arc<AtomicUsize>,
    _in_flight: InFlight,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Serving {
    /// Starts the threads. They end with the process; `drain` counts their connections.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime.
    pub fn start(count: NonZeroUsize, site: &Arc<Site>, drain: &Drain) -> Result<Self, ServingError> {
        let threads = (0..count.get())
            .map(|number| Desk::open(number, Arc::clone(site), drain.clone()))
            .collect::<Result<_, _>>()?;
        Ok(Self { threads, drain: drain.clone() })
    }

    /// Gives a connection to the thread that has the fewest.
    pub fn deal(&self, stream: TcpStream) {
        let fewest = self.threads.iter().min_by_key(|desk| desk.open.load(Ordering::Relaxed));
        let handed_over = match (fewest, stream.into_std()) {
            (Some(desk), Ok(stream)) => desk.take(stream, self.drain.enter()),
            (None, Ok(_)) => false,
            (_, Err(error)) => {
                debug!(%error, "connection lost");
                return;
            }
        };
        if !handed_over {
            warn!("no thread to serve a connection");
        }
    }
}

impl Desk {
    fn open(number: usize, site: Arc<Site>, drain: Drain) -> Result<Self, ServingError> {
        let (sender, receiver) = unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name(format!("serve-{number}"))
            .spawn(move || runtime.block_on(serve(receiver, site, drain)))?;
        Ok(Self { connections: sender, open: Arc::default() })
    }

    fn take(&self, stream: StdStream, in_flight: InFlight) -> bool {
        self.open.fetch_add(1, Ordering::Relaxed);
        let counted = Counted { open: Arc::clone(&self.open), _in_flight: in_flight };
        self.connections.send(Dealt { stream, counted }).is_ok()
    }
}

async fn serve(mut dealt: UnboundedReceiver<Dealt>, site: Arc<Site>, drain: Drain) {
    while let Some(Dealt { stream, counted }) = dealt.recv().await {
        let site = Arc::clone(&site);
        let drain = drain.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, site, drain).await {
                debug!(error = %http::chain(error.as_ref()), "connection ended");
            }
            drop(counted);
        });
    }
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// How many requests of one connection are under way at a time over HTTP/2.
const STREAMS: u32 = 256;

/// How often a silent HTTP/2 client is asked whether it is still there.
const ASKED: Duration = Duration::from_secs(20);

/// What every connection of HTTP/2 begins with, and no request of HTTP/1.1 does.
const PREFACE: &[u8] = b"PRI";

/// How long to wait for the rest of the first three bytes, should they come one by one.
const DRIP: Duration = Duration::from_millis(5);

/// One connection: HTTP/1.1, or HTTP/2 when that is what the client begins with, as every client of gRPC does.
async fn converse(stream: StdStream, site: Arc<Site>, drain: Drain) -> Ended {
    stream.set_nodelay(true)?;
    let stream = TcpStream::from_std(stream)?;
    let patience = site.limits.patience;
    let multiplexed = tokio::select! {
        multiplexed = timeout(patience, begins_with_preface(&stream)) => multiplexed??,
        () = drained_and_quiet(&drain) => false,
    };
    let stream = TokioIo::new(stream);
    if multiplexed {
        let service = service_fn(move |request| {
            let site = Arc::clone(&site);
            async move { Ok::<_, Infallible>(oip::grpc::answer(site, request).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(ASKED)
            .serve_connection(stream, service);
        return until_drained(connection, drain).await;
    }
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(http::answer(site, request).await) }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(patience).serve_connection(stream, service);
    until_drained(connection, drain).await
}

/// Looks at the first bytes without taking them.
async fn begins_with_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await?;
        let seen = first.get(..count).unwrap_or_default();
        if count == 0 || !PREFACE.starts_with(seen) {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        sleep(DRIP).await;
    }
}

async fn drained_and_quiet(drain: &Drain) {
    drain.begun().await;
    sleep(QUIET).await;
}

/// Serves until the client leaves, is silent for too long, or the server drains. Draining, a request that comes is
/// answered with `connection: close`; after [`QUIET`] without one the connection is closed. Closing at once would cut
/// off a client that is just sending, and lose its request.
async fn until_drained<C>(connection: C, drain: Drain) -> Ended
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = drained_and_quiet(&drain) => {}
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}
