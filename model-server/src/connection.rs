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

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use pointsman_telemetry::shutdown::{Drain, InFlight};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tracing::{debug, warn};

use crate::http::{self, Site};
use crate::listener::QUIET;
use crate::oip;
use crate::watch::{Overdue, Patience, Pulse, UnderWay, Watch};
use crate::wire::Wire;

/// Why nobody can serve.
#[derive(Debug, Error)]
#[error("a serving thread cannot be started; set THREADS to fewer")]
pub struct ServingError(#[from] io::Error);

/// What connections are held to.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// How many are served at a time.
    pub most: usize,
    /// How many on top are answered, though not served.
    pub on_top: usize,
    /// How long they may stand still.
    pub patience: Patience,
}

impl ConnectionLimits {
    /// The same where no more than so many may be open at all.
    #[must_use]
    pub fn within(self, room: usize) -> Self {
        let on_top = self.on_top.min(room / 2);
        Self { most: self.most.min(room.saturating_sub(on_top)).max(1), on_top, ..self }
    }
}

/// How many connections on top are answered when nothing else is said.
pub const ON_TOP: usize = 128;

/// How long such a connection may take.
const MOMENT: Duration = Duration::from_secs(2);

/// All serving threads.
#[derive(Debug)]
pub struct Serving {
    threads: Vec<Desk>,
    site: Arc<Site>,
    limits: ConnectionLimits,
    places: Places,
    drain: Drain,
}

/// How many connections of each kind are open. Those on top take no place of those that are served, however long they stay.
#[derive(Debug, Default)]
struct Places {
    served: Arc<AtomicUsize>,
    on_top: Arc<AtomicUsize>,
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
    /// Of its thread, and of its kind.
    among: [Arc<AtomicUsize>; 2],
    site: Arc<Site>,
    _in_flight: InFlight,
}

impl Counted {
    fn new(among: [Arc<AtomicUsize>; 2], site: Arc<Site>, in_flight: InFlight) -> Self {
        for open in &among {
            open.fetch_add(1, Ordering::Relaxed);
        }
        site.metrics.connection_opened();
        Self { among, site, _in_flight: in_flight }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for open in &self.among {
            open.fetch_sub(1, Ordering::Relaxed);
        }
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
        let places = Places::default();
        Ok(Self { threads, site: Arc::clone(site), limits, places, drain: drain.clone() })
    }

    /// Gives a connection to the thread that has the fewest, unless there are too many. Only one thread deals.
    pub fn deal(&self, stream: TcpStream) {
        let Some((service, place)) = self.place() else {
            return;
        };
        let fewest = self.threads.iter().min_by_key(|desk| desk.open.load(Ordering::Relaxed));
        let handed_over = match (fewest, stream.into_std()) {
            (Some(desk), Ok(stream)) => {
                let among = [Arc::clone(&desk.open), Arc::clone(place)];
                let counted = Counted::new(among, Arc::clone(&self.site), self.drain.enter());
                desk.connections.send(Dealt { stream, service, counted }).is_ok()
            }
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

    /// What the next connection is given, and among whom it is counted.
    fn place(&self) -> Option<(Service, &Arc<AtomicUsize>)> {
        if self.places.served.load(Ordering::Relaxed) < self.limits.most {
            return Some((Service::Whole(self.limits.patience), &self.places.served));
        }
        self.site.metrics.connection_refused();
        let has_room = self.places.on_top.load(Ordering::Relaxed) < self.limits.on_top;
        has_room.then_some((Service::OnTop, &self.places.on_top))
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

/// One connection: HTTP/1.1, or HTTP/2 when that is what the client begins with, as every client of gRPC does.
async fn converse(stream: StdStream, site: Arc<Site>, (patience, drain): (Patience, Drain)) -> Ended {
    let pulse = Arc::new(Pulse::default());
    let ending = FuturesUnordered::from_iter([ending(Arc::clone(&pulse), Arc::clone(&site), (patience, drain))]);
    let mut ending = pin!(ending);
    let wire = tokio::select! {
        opened = Wire::open(stream, Arc::clone(&pulse)) => opened?,
        _ = ending.next() => return Ok(()),
    };
    let (beats, watched) = (Arc::clone(&pulse), (pulse, patience, Arc::clone(&site)));
    if wire.speaks_http2() {
        let service = service_fn(move |request| answer_stream(Arc::clone(&site), request, Arc::clone(&beats)));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            // Whoever is gone does not answer when asked.
            .keep_alive_interval(ASKED)
            .serve_connection(wire, service);
        return until_ending(connection, ending, watched).await;
    }
    let service = service_fn(move |request| {
        let (site, pulse) = (Arc::clone(&site), Arc::clone(&beats));
        async move {
            let _under_way = pulse.enter();
            Ok::<_, Infallible>(http::answer(site, request).await)
        }
    });
    until_ending(plain_http().serve_connection(wire, service), ending, watched).await
}

/// Answers one request over HTTP/2. It is under way until there is an answer, or where that tells of what is to come, as
/// long as the client listens.
async fn answer_stream(
    site: Arc<Site>,
    request: Request<Incoming>,
    pulse: Arc<Pulse>,
) -> Result<Response<Body>, Infallible> {
    let under_way = pulse.enter();
    let lasts = oip::grpc::lasts(request.uri().path());
    let answer = oip::grpc::answer(site, request).await;
    Ok(if lasts { answer.map(|body| Body::new(Lasting { body, _under_way: under_way })) } else { answer })
}

/// The answer to a request that is under way until its stream ends.
struct Lasting {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Lasting {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One answer to a connection for which there is no room.
async fn answer_once(stream: StdStream, site: Arc<Site>) -> Ended {
    let wire = Wire::open(stream, Arc::default()).await?;
    if wire.speaks_http2() {
        let service = service_fn(move |request| {
            let site = Arc::clone(&site);
            async move { Ok::<_, Infallible>(oip::grpc::answer_on_top(site, request).await) }
        });
        let builder = http2::Builder::new(TokioExecutor::new());
        return Ok(builder.serve_connection(wire, service).await?);
    }
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(http::answer_on_top(site, request).await) }
    });
    Ok(plain_http().keep_alive(false).serve_connection(wire, service).await?)
}

/// HTTP/1.1 without timers, since a [`Watch`] looks after all of it. Head and body of an answer go out as one piece: to
/// copy a body behind its head costs less than to have the kernel gather both.
fn plain_http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).writev(false);
    builder
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
/// To be asked to end is not to end: what was begun goes on, and may stand still as little as before; once it stood still,
/// for no more than a [`MOMENT`].
///
/// What ends it lies in a set, which asks it only when something woke it: a request's path meets no timer.
async fn until_ending<C, E>(
    connection: C,
    mut ending: Pin<&mut FuturesUnordered<E>>,
    (pulse, patience, site): (Arc<Pulse>, Patience, Arc<Site>),
) -> Ended
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
    let left = match ending {
        Some(Ending::Overdue(Overdue::Head)) => return Ok(()),
        Some(Ending::Overdue(Overdue::Idle)) => Patience { idle: MOMENT, ..patience },
        Some(Ending::Drained) | None => patience,
    };
    tokio::select! {
        biased;
        ended = connection => Ok(ended?),
        overdue = overdue(&pulse, left) => {
            if ending == Some(Ending::Drained) {
                site.metrics.connection_closed(overdue);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_room_that_there_is_and_some_on_top_are_answered() {
        let patience = Patience { idle: MOMENT, head: MOMENT };
        let limits = ConnectionLimits { most: 8192, on_top: ON_TOP, patience };
        for (room, wanted) in
            [(100_000, (8192, 128)), (8320, (8192, 128)), (1000, (872, 128)), (100, (50, 50)), (1, (1, 0))]
        {
            let within = limits.within(room);
            assert_eq!((within.most, within.on_top), wanted, "{room}");
        }
    }
}
