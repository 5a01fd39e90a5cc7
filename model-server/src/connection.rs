//! The threads that serve, and the life of one connection. Each thread has a runtime of its own and keeps its
//! connections; a request is read, calculated and answered on one thread.

use std::io;
use std::net::TcpStream as StdStream;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pointsman_telemetry::shutdown::{Drain, InFlight};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::http::{self, Site};
use crate::listener::QUIET;

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

/// One connection, until the client leaves, is silent for too long, or the server drains. Draining, a request
/// that comes is answered with `connection: close`; after [`QUIET`] without one the connection is closed. Closing
/// at once would cut off a client that is just sending, and lose its request.
async fn converse(stream: StdStream, site: Arc<Site>, drain: Drain) -> Ended {
    stream.set_nodelay(true)?;
    let stream = TokioIo::new(TcpStream::from_std(stream)?);
    let patience = site.limits.patience;
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, std::convert::Infallible>(http::answer(site, request).await) }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(patience).serve_connection(stream, service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = drain.begun() => {}
    }
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = sleep(QUIET) => {}
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}
