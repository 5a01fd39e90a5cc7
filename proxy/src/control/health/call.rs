//! One request of the edge's own to an endpoint.
//!
//! Line: health, warm-up ► **call** ► endpoint. A connection for each: whether one can be opened is part of the question.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::request::Builder;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::errno::Errno;
use pointsman_config::Protocol;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::forward::GOLDEN;
use crate::outcome::Outcome;
use crate::retry::AnswerSigns;
use crate::upstream::{HandshakeError, Speech};

/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("no TLS connection")]
    Tls(#[source] std::io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the answer is no HTTP")]
    Http(#[source] hyper::Error),
    #[error("`{path}` cannot be asked for")]
    Path { path: String, source: http::Error },
    #[error("the answer of `{path}` is longer than {} MiB", MAX_ANSWER_BYTES >> 20)]
    TooLong { path: String },
}

impl CallError {
    /// Whether this process lacks something to ask with, which says nothing of the endpoint.
    pub(super) fn is_ours(&self) -> bool {
        let first: &dyn std::error::Error = self;
        std::iter::successors(Some(first), |error| error.source())
            .filter_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error())
            .any(|code| {
                let lacking = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::EADDRNOTAVAIL, Errno::ENOMEM];
                lacking.contains(&Errno::from_raw(code))
            })
    }
}

/// What a golden call was answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Whether it was turned away for want of room, not looked at.
    pub(super) is_shed: bool,
    pub(super) body: Bytes,
}

/// Whom to ask, as whom, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Callee<'a> {
    pub(crate) address: SocketAddr,
    /// The Host header.
    pub(crate) host: &'a str,
    /// What it speaks.
    pub(crate) speech: &'a Speech,
    /// For the whole call.
    pub(crate) patience: Duration,
}

impl Callee<'_> {
    /// Whether a connection can be opened.
    pub(super) async fn connect(self) -> Result<(), CallError> {
        self.within(async { TcpStream::connect(self.address).await.map(drop).map_err(CallError::Connect) }).await
    }

    /// The status that `path` answers with.
    pub(super) async fn status(self, path: &str) -> Result<StatusCode, CallError> {
        self.within(async { self.exchange(self.get(path)?, async |answer| Ok(answer.status())).await }).await
    }

    /// Status and body of `path`.
    pub(crate) async fn fetch(self, path: &str) -> Result<(StatusCode, Bytes), CallError> {
        self.within(async { self.exchange(self.get(path)?, async |answer| whole(path, answer).await).await }).await
    }

    /// What a golden call with a JSON `body` is answered.
    pub(super) async fn golden(self, path: &str, body: Bytes) -> Result<Answer, CallError> {
        let marked = Request::builder().method(Method::POST).header(GOLDEN, HeaderValue::from_static("1"));
        let request = self.request(marked, path, body)?;
        let read = async |answer: http::Response<Incoming>| {
            let header = |name: &HeaderName| answer.headers().get(name).map(HeaderValue::as_bytes);
            let is_shed = AnswerSigns::of(answer.status().as_u16(), header).outcome() == Outcome::Rejected;
            let (status, body) = whole(path, answer).await?;
            Ok(Answer { status, is_shed, body })
        };
        self.within(self.exchange(request, read)).await
    }

    fn get(self, path: &str) -> Result<Request<Full<Bytes>>, CallError> {
        self.request(Request::builder().method(Method::GET), path, Bytes::new())
    }

    fn request(self, begun: Builder, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, CallError> {
        let request =
            begun.header(header::USER_AGENT, "pointsman-health").header(header::CONTENT_TYPE, "application/json");
        let request = match self.speech.protocol {
            Protocol::Http1 => request.uri(path).header(header::HOST, self.host).header(header::CONNECTION, "close"),
            Protocol::H2c | Protocol::H2 => request.uri(self.whole_uri(path)?),
        };
        request.body(Full::new(body)).map_err(|source| CallError::Path { path: path.to_owned(), source })
    }

    /// HTTP/2 has no Host header; its authority is part of what is asked for.
    fn whole_uri(self, path: &str) -> Result<Uri, CallError> {
        let scheme = if self.speech.is_secured() { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = Authority::try_from(self.host).map_err(http::Error::from);
        authority
            .and_then(|authority| Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build())
            .map_err(|source| CallError::Path { path: path.to_owned(), source })
    }

    async fn within<T>(self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        timeout(self.patience, call).await.unwrap_or(Err(CallError::Timeout(self.patience)))
    }

    /// Sends `request` on a connection of its own; `read` takes from the answer what is wanted.
    async fn exchange<T>(
        self,
        request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(http::Response<Incoming>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let handshake = self.speech.handshake()?;
        let stream = TcpStream::connect(self.address).await.map_err(CallError::Connect)?;
        match handshake {
            // What HTTP/2 keeps of a connection is too much to carry through every future above.
            None => Box::pin(self.speak(stream, request, read)).await,
            Some(with) => {
                let stream = with.connector.connect(with.server_name, stream).await.map_err(CallError::Tls)?;
                Box::pin(self.speak(stream, request, read)).await
            }
        }
    }

    async fn speak<T, S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self,
        stream: S,
        request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(http::Response<Incoming>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let stream = TokioIo::new(stream);
        match self.speech.protocol {
            Protocol::Http1 => {
                let (mut sender, connection) = http1::handshake(stream).await.map_err(CallError::Http)?;
                let answer = async { read(sender.send_request(request).await.map_err(CallError::Http)?).await };
                drive(connection, answer).await
            }
            Protocol::H2c | Protocol::H2 => {
                let (mut sender, connection) =
                    http2::handshake(TokioExecutor::new(), stream).await.map_err(CallError::Http)?;
                let answer = async { read(sender.send_request(request).await.map_err(CallError::Http)?).await };
                drive(connection, answer).await
            }
        }
    }
}

/// Waits for `answer` while `connection` moves what is to be moved.
async fn drive<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    answer: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::pin!(connection, answer);
    tokio::select! {
        found = &mut answer => found,
        ended = &mut connection => match ended {
            // It may have ended because everything has been said.
            Ok(()) => answer.await,
            Err(error) => Err(CallError::Http(error)),
        },
    }
}

async fn whole(path: &str, answer: http::Response<Incoming>) -> Result<(StatusCode, Bytes), CallError> {
    let status = answer.status();
    match Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(CallError::TooLong { path: path.to_owned() }),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(error) => CallError::Http(*error),
            Err(error) => CallError::Connect(std::io::Error::other(error)),
        }),
    }
}
