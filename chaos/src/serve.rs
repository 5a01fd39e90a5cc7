//! A small HTTP/1.1 server whose answers may also be none: a handler can have the connection reset, filled
//! with garbage, or cut in the middle of an answer. The fault layer and the fake model server stand on it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Sleep;

/// Bodies are held in memory; a larger one cuts the connection.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// How long the first half of a torn answer travels before the connection is reset.
const TORN_AFTER: Duration = Duration::from_millis(5);

/// What no HTTP parser takes for an answer: a TLS alert, as from a port that speaks another protocol.
const GARBAGE: &[u8] = b"\x15\x03\x03\x00\x02\x02\x46\x00\xff\xfe";

/// How long to wait when no connection can be accepted (out of file descriptors, most likely).
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// How long one byte of a trickled answer comes after the other.
const DROP_EVERY: Duration = Duration::from_millis(25);

/// How an exchange goes other than by a whole answer at once.
#[derive(Debug)]
pub(crate) enum Cut {
    /// RST, and nothing else.
    Reset,
    /// Bytes that are no HTTP, then the end.
    Garbage,
    /// Status, headers and half of this answer's body, then RST. Without a body to halve: [`Cut::Reset`].
    Torn(Box<Response<Bytes>>),
    /// This answer, its body byte by byte.
    Trickled(Box<Response<Bytes>>),
}

/// What a handler gives: an answer with a whole body most often, or with one that goes on.
pub(crate) type Answer<B = Bytes> = Result<Response<B>, Cut>;

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Bytes> {
    let (status, body) = match serde_json::to_vec(value) {
        Ok(body) => (status, body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// A running server. Dropped, it closes its listener and resets its connections, soon; [`Server::stop`] waits
/// until that is done.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    accepted: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Binds (port 0 takes a free one) and answers every request through `handler`, on the runtime of the caller.
    pub(crate) async fn start<H, F, B>(listen: SocketAddr, handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer<B>> + Send + 'static,
        B: Into<AnswerBody> + Send + 'static,
    {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let accepted = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, stopped, Arc::clone(&accepted), handler));
        Ok(Self { addr, accepted, stop, accepting })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Closes the listener, resets every connection, and returns when both are done.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "server did not stop in order");
        }
    }
}

async fn accept<H, F, B>(
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
    accepted: Arc<AtomicU64>,
    handler: H,
) where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer<B>> + Send + 'static,
    B: Into<AnswerBody> + Send + 'static,
{
    let stopping = Arc::new(AtomicBool::new(false));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // An error means that the handle was dropped: that too is a wish to stop.
            _ = stopped.changed() => break,
            incoming = listener.accept() => match incoming {
                Ok((stream, _)) => {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(converse(Wire::new(stream, Arc::clone(&stopping)), handler.clone()));
                }
                Err(error) => wait_after(&error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    stopping.store(true, Ordering::Release);
    drop(listener);
    connections.shutdown().await;
}

async fn wait_after(error: &io::Error) {
    tracing::warn!(%error, "connection not accepted");
    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
}

/// One connection, until either side ends it.
async fn converse<H, F, B>(wire: Wire, handler: H)
where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer<B>> + Send + 'static,
    B: Into<AnswerBody> + Send + 'static,
{
    let ending = Arc::clone(&wire.ending);
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, ending) = (handler.clone(), Arc::clone(&ending));
        async move { answer(request, &handler, &ending).await }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(wire), service).await {
        tracing::debug!(%error, "connection ended early");
    }
}

async fn answer<H, F, B>(
    request: Request<Incoming>,
    handler: &H,
    ending: &Ending,
) -> Result<Response<AnswerBody>, Broken>
where
    H: Fn(Request<Bytes>) -> F,
    F: Future<Output = Answer<B>>,
    B: Into<AnswerBody>,
{
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
        return Err(ending.choose(End::Reset));
    };
    match handler(Request::from_parts(head, body.to_bytes())).await {
        Ok(response) => Ok(response.map(Into::into)),
        Err(Cut::Garbage) => Err(ending.choose(End::Garbage)),
        Err(Cut::Trickled(response)) => Ok((*response).map(AnswerBody::trickled)),
        Err(Cut::Torn(response)) if response.body().len() > 1 => {
            ending.choose(End::Reset);
            Ok((*response).map(AnswerBody::torn))
        }
        Err(Cut::Reset | Cut::Torn(_)) => Err(ending.choose(End::Reset)),
    }
}

/// What happens on the wire when the server lets go of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Reset,
    Garbage,
}

/// The end that a connection's handler chose; read when the wire is dropped.
#[derive(Debug, Default)]
struct Ending(AtomicU8);

impl Ending {
    const RESET: u8 = 1;
    const GARBAGE: u8 = 2;

    fn choose(&self, end: End) -> Broken {
        let value = match end {
            End::Close => 0,
            End::Reset => Self::RESET,
            End::Garbage => Self::GARBAGE,
        };
        self.0.store(value, Ordering::Release);
        Broken
    }

    fn chosen(&self) -> End {
        match self.0.load(Ordering::Acquire) {
            Self::RESET => End::Reset,
            Self::GARBAGE => End::Garbage,
            _ => End::Close,
        }
    }
}

/// Tells hyper to give a connection up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is broken on purpose")
    }
}

impl std::error::Error for Broken {}

/// A body that comes whole, in half, or piece by piece for as long as somebody has more to say.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    Whole(Bytes),
    Torn {
        promised: u64,
        half: Option<Bytes>,
        pause: Pin<Box<Sleep>>,
    },
    Trickled {
        rest: Bytes,
        pause: Pin<Box<Sleep>>,
    },
    /// Ends in order when the sender is dropped, and as a broken connection does on [`Broken`].
    Pieces(mpsc::Receiver<Result<Bytes, Broken>>),
}

impl From<Bytes> for AnswerBody {
    fn from(whole: Bytes) -> Self {
        Self::Whole(whole)
    }
}

impl AnswerBody {
    fn torn(mut whole: Bytes) -> Self {
        let promised = u64::try_from(whole.len()).unwrap_or(u64::MAX);
        let half = whole.split_to(whole.len() / 2);
        Self::Torn { promised, half: Some(half), pause: Box::pin(tokio::time::sleep(TORN_AFTER)) }
    }
}

impl AnswerBody {
    fn trickled(whole: Bytes) -> Self {
        Self::Trickled { rest: whole, pause: Box::pin(tokio::time::sleep(DROP_EVERY)) }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Torn { half, pause, .. } => {
                if let Some(half) = half.take() {
                    return Poll::Ready(Some(Ok(Frame::data(half))));
                }
                ready!(pause.as_mut().poll(cx));
                Poll::Ready(Some(Err(Broken)))
            }
            Self::Trickled { rest, .. } if rest.is_empty() => Poll::Ready(None),
            Self::Trickled { rest, pause } => {
                ready!(pause.as_mut().poll(cx));
                pause.as_mut().reset(tokio::time::Instant::now() + DROP_EVERY);
                Poll::Ready(Some(Ok(Frame::data(rest.split_to(1)))))
            }
            Self::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) | Self::Trickled { rest: bytes, .. } if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) | Self::Trickled { rest: bytes, .. } => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Self::Torn { promised, .. } => SizeHint::with_exact(*promised),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// A TCP stream that ends as its handler chose, and with RST when the server stops.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    ending: Arc<Ending>,
    stopping: Arc<AtomicBool>,
}

impl Wire {
    fn new(stream: TcpStream, stopping: Arc<AtomicBool>) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        Self { stream, ending: Arc::default(), stopping }
    }

    fn end(&self) -> io::Result<()> {
        let chosen = if self.stopping.load(Ordering::Acquire) { End::Reset } else { self.ending.chosen() };
        match chosen {
            End::Close => Ok(()),
            End::Reset => self.stream.set_zero_linger(),
            // Nothing else was written of this answer, so a few bytes always find room.
            End::Garbage => self.stream.try_write(GARBAGE).map(drop),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::debug!(%error, "connection could not be ended as chosen");
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
