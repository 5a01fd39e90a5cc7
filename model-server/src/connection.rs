//! The threads that serve, and the life of one connection. Each thread has a runtime of its own and keeps its
//! connections; a request is read, calculated and answered on one thread.
//!
//! So many connections are served at a time. Some on top are let in for one question each and a moment, so that whoever
//! asks how the server is gets an answer, and everybody else a clear one; all others are closed.

use std::convert::Infallible;
use std::io;
use std::net::TcpStream as StdStream;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
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
use crate::watch::{Overdue, Patience, Pulse, Watch};

/// Why nobody can serve.
#[derive(Debug, Error)]
#[error("a serving thread cannot be started; set THREADS to fewer")]
pub struct ServingError(#[from] io::Error);

/// What connections are held to.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// How many are served at a time.
    pub most: usize,
    /// How long they may stand still.
    pub patience: Patience,
}

/// How many connections on top are answered, though not served.
const ON_TOP: usize = 128;

/// How long such a connection may take.
const MOMENT: Duration = Duration::from_secs(2);

/// All serving threads.
#[derive(Debug)]
pub struct Serving {
    threads: Vec<Desk>,
    site: Arc<Site>,
    limits: ConnectionLimits,
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
    service: Service,
    counted: Counted,
}

/// What a connection is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    /// Whatever it asks for, as long as it does not stand still.
    Whole(Patience),
    /// One answer.
    OnTop,
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
struct Counted {
    open: Arc<AtomicUsize>,
    site: Arc<Site>,
    _in_flight: InFlight,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.site.metrics.connection_ended();
    }
}

impl Serving {
    /// Starts the threads. They end with the process; `drain` counts their connections.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime.
    pub fn start(
        count: NonZeroUsize,
        limits: ConnectionLimits,
        site: &Arc<Site>,
        drain: &Drain,
    ) -> Result<Self, ServingError> {
        let threads = (0..count.get())
            .map(|number| Desk::open(number, Arc::clone(site), drain.clone()))
            .collect::<Result<_, _>>()?;
        Ok(Self { threads, site: Arc::clone(site), limits, drain: drain.clone() })
    }

    /// Gives a connection to the thread that has the fewest, unless there are too many.
    pub fn deal(&self, stream: TcpStream) {
        let Some(service) = self.service(self.drain.in_flight()) else {
            return;
        };
        let fewest = self.threads.iter().min_by_key(|desk| desk.open.load(Ordering::Relaxed));
        let handed_over = match (fewest, stream.into_std()) {
            (Some(desk), Ok(stream)) => desk.take(stream, service, (Arc::clone(&self.site), self.drain.enter())),
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

    /// What a connection is given that comes when so many are open.
    fn service(&self, open: usize) -> Option<Service> {
        if open < self.limits.most {
            return Some(Service::Whole(self.limits.patience));
        }
        self.site.metrics.connection_refused();
        (open < self.limits.most.saturating_add(ON_TOP)).then_some(Service::OnTop)
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

    fn take(&self, stream: StdStream, service: Service, (site, in_flight): (Arc<Site>, InFlight)) -> bool {
        self.open.fetch_add(1, Ordering::Relaxed);
        site.metrics.connection_opened();
        let counted = Counted { open: Arc::clone(&self.open), site, _in_flight: in_flight };
        self.connections.send(Dealt { stream, service, counted }).is_ok()
    }
}

async fn serve(mut dealt: UnboundedReceiver<Dealt>, site: Arc<Site>, drain: Drain) {
    while let Some(Dealt { stream, service, counted }) = dealt.recv().await {
        let site = Arc::clone(&site);
        let drain = drain.clone();
        tokio::spawn(async move {
            let conversing = async {
                match service {
                    Service::Whole(patience) => converse(stream, site, (patience, drain)).await,
                    Service::OnTop => timeout(MOMENT, answer_once(stream, site)).await?,
                }
            };
            if let Err(error) = conversing.await {
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
async fn converse(stream: StdStream, site: Arc<Site>, (patience, drain): (Patience, Drain)) -> Ended {
    stream.set_nodelay(true)?;
    let stream = TcpStream::from_std(stream)?;
    let pulse = Arc::new(Pulse::default());
    let ending = FuturesUnordered::from_iter([ending(Arc::clone(&pulse), Arc::clone(&site), (patience, drain))]);
    let mut ending = pin!(ending);
    let multiplexed = tokio::select! {
        multiplexed = begins_with_preface(&stream) => multiplexed?,
        _ = ending.next() => return Ok(()),
    };
    let beats = Arc::clone(&pulse);
    if multiplexed {
        let service = service_fn(move |request| {
            let (site, pulse) = (Arc::clone(&site), Arc::clone(&beats));
            async move {
                let _under_way = pulse.enter();
                Ok::<_, Infallible>(oip::grpc::answer(site, request).await)
            }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(ASKED)
            .serve_connection(TokioIo::new(stream), service);
        // Whoever is gone does not answer when asked, and a stream that lasts may last.
        return until_ending(connection, ending, Duration::MAX).await;
    }
    let service = service_fn(move |request| {
        let (site, pulse) = (Arc::clone(&site), Arc::clone(&beats));
        async move {
            let _under_way = pulse.enter();
            Ok::<_, Infallible>(http::answer(site, request).await)
        }
    });
    let connection = plain_http().serve_connection(Heard { stream: TokioIo::new(stream), pulse }, service);
    until_ending(connection, ending, MOMENT).await
}

/// One answer to a connection for which there is no room.
async fn answer_once(stream: StdStream, site: Arc<Site>) -> Ended {
    stream.set_nodelay(true)?;
    let stream = TcpStream::from_std(stream)?;
    if begins_with_preface(&stream).await? {
        let service = service_fn(move |request| {
            let site = Arc::clone(&site);
            async move { Ok::<_, Infallible>(oip::grpc::answer_on_top(site, request).await) }
        });
        let builder = http2::Builder::new(TokioExecutor::new());
        return Ok(builder.serve_connection(TokioIo::new(stream), service).await?);
    }
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(http::answer_on_top(site, request).await) }
    });
    Ok(plain_http().keep_alive(false).serve_connection(TokioIo::new(stream), service).await?)
}

/// HTTP/1.1 without timers, since a [`Watch`] looks after all of it. Head and body of an answer go out as one piece: to
/// copy a body behind its head costs less than to have the kernel gather both.
fn plain_http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).writev(false);
    builder
}

/// A stream that tells when something came in.
struct Heard {
    stream: TokioIo<TcpStream>,
    pulse: Arc<Pulse>,
}

impl hyper::rt::Read for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.pulse.heard();
        }
        read
    }
}

impl hyper::rt::Write for Heard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
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

/// Why a connection ends that would go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The server drains.
    Drained,
    /// It stood still.
    Overdue(Overdue),
}

/// Resolves when the connection should end: draining, [`QUIET`] after that began, or when it stands still.
async fn ending(pulse: Arc<Pulse>, site: Arc<Site>, (patience, drain): (Patience, Drain)) -> Ending {
    tokio::select! {
        () = drained_and_quiet(&drain) => Ending::Drained,
        overdue = overdue(&pulse, patience) => {
            site.metrics.connection_closed(overdue);
            Ending::Overdue(overdue)
        }
    }
}

async fn drained_and_quiet(drain: &Drain) {
    drain.begun().await;
    sleep(QUIET).await;
}

async fn overdue(pulse: &Pulse, patience: Patience) -> Overdue {
    let mut watch = Watch::new(patience, Instant::now());
    loop {
        sleep(patience.pause()).await;
        if let Some(overdue) = watch.look(pulse, Instant::now()) {
            return overdue;
        }
    }
}

/// Serves until the client leaves, is silent for too long, or the server drains. Draining, a request that comes is
/// answered with `connection: close`; after [`QUIET`] without one the connection is closed. Closing at once would cut
/// off a client that is just sending, and lose its request.
///
/// One that stood still has `farewell` to read its last answer, since it would stay for ever otherwise.
///
/// What ends it lies in a set, which asks it only when something woke it: a request's path meets no timer.
async fn until_ending<C, E>(connection: C, mut ending: Pin<&mut FuturesUnordered<E>>, farewell: Duration) -> Ended
where
    C: GracefulConnection<Error = hyper::Error>,
    E: Future<Output = Ending>,
{
    let mut connection = pin!(connection);
    let ending = tokio::select! {
        biased;
        ended = connection.as_mut() => return Ok(ended?),
        ending = ending.next() => ending,
    };
    connection.as_mut().graceful_shutdown();
    match ending {
        Some(Ending::Overdue(Overdue::Head)) => Ok(()),
        Some(Ending::Overdue(Overdue::Idle)) => Ok(timeout(farewell, connection).await??),
        Some(Ending::Drained) | None => Ok(connection.await?),
    }
}
