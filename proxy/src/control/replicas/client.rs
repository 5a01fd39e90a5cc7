//! How other edges are asked: over kept connections, with the token, and for no longer than the deadline.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::serve::BODY_BYTES;
use super::token::{SharedToken, TokenError};
use super::wire::Stale;

/// Longest that a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// Why another edge gave no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    /// There is no token to offer.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token cannot be sent.
    #[error("the token that edges share holds bytes that no HTTP header can carry")]
    TokenBytes,
    /// The question could not be written.
    #[error("the question to `{0}` could not be written: {1}")]
    Question(SocketAddr, String),
    /// It was not reached.
    #[error("the edge at {address} cannot be reached: {why}")]
    Unreachable {
        /// Which edge.
        address: SocketAddr,
        /// What the system said.
        why: String,
        /// Whether its machine says that nobody listens there.
        refuses: bool,
    },
    /// It took too long.
    #[error("the edge at {address} did not answer within {} ms", within.as_millis())]
    Late {
        /// Which edge.
        address: SocketAddr,
        /// How long was waited.
        within: Duration,
    },
    /// It wants another token.
    #[error("the edge at {0} does not take this edge's token; `replicas.token_file` must hold the same for every edge")]
    Unauthorized(SocketAddr),
    /// Another edge leads.
    #[error("the edge at {address} follows another leader, of term {}", stale.term)]
    Stale {
        /// Which edge.
        address: SocketAddr,
        /// What it said.
        stale: Stale,
    },
    /// It answered something else.
    #[error("the edge at {0} answered {1}: {2}")]
    Answer(SocketAddr, StatusCode, String),
}

impl AskError {
    /// Whether nobody listens where the edge should be, on a machine that is there.
    pub(crate) fn is_refusal_to_connect(&self) -> bool {
        matches!(self, Self::Unreachable { refuses: true, .. })
    }
}

/// Asks other edges; clones share their connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    token: SharedToken,
}

impl Client {
    /// A client with this token.
    pub(crate) fn new(token: SharedToken) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_nodelay(true);
        Self { http: Http::builder(TokioExecutor::new()).build(connector), token }
    }

    /// Puts `question` to the edge at `address`, and waits for the answer no longer than `within`.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        (address, path): (SocketAddr, &str),
        question: &(impl Serialize + Sync),
        within: Duration,
    ) -> Result<T, AskError> {
        let asked = async {
            let (status, body) = self.send(address, path, question).await?;
            read(address, status, &body)
        };
        tokio::time::timeout(within, asked).await.unwrap_or(Err(AskError::Late { address, within }))
    }

    /// The same where only the status matters.
    pub(crate) async fn tell(
        &self,
        (address, path): (SocketAddr, &str),
        told: &(impl Serialize + Sync),
        within: Duration,
    ) -> Result<(), AskError> {
        let (status, body) = tokio::time::timeout(within, self.send(address, path, told))
            .await
            .unwrap_or(Err(AskError::Late { address, within }))?;
        if status.is_success() { Ok(()) } else { Err(refusal(address, status, &body)) }
    }

    async fn send(
        &self,
        address: SocketAddr,
        path: &str,
        question: &(impl Serialize + Sync),
    ) -> Result<(StatusCode, Bytes), AskError> {
        let unwritten = |why: String| AskError::Question(address, why);
        let unreachable = |error: &(dyn std::error::Error + 'static)| {
            let cause = innermost(error);
            let refuses = cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
            AskError::Unreachable { address, why: cause.to_string(), refuses }
        };
        let token = format!("Bearer {}", self.token.read().await?);
        let mut token = HeaderValue::try_from(token).map_err(|_invalid| AskError::TokenBytes)?;
        token.set_sensitive(true);
        let body = serde_json::to_vec(question).map_err(|error| unwritten(error.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}{path}"))
            .header(AUTHORIZATION, token)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unwritten(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let read = Limited::new(response.into_body(), BODY_BYTES).collect().await;
        Ok((status, read.map_err(|error| unreachable(&*error))?.to_bytes()))
    }
}

fn read<T: DeserializeOwned>(address: SocketAddr, status: StatusCode, body: &[u8]) -> Result<T, AskError> {
    if !status.is_success() {
        return Err(refusal(address, status, body));
    }
    serde_json::from_slice(body).map_err(|error| AskError::Answer(address, status, error.to_string()))
}

fn refusal(address: SocketAddr, status: StatusCode, body: &[u8]) -> AskError {
    if status == StatusCode::UNAUTHORIZED {
        return AskError::Unauthorized(address);
    }
    match serde_json::from_slice(body) {
        Ok(stale) if status == StatusCode::CONFLICT => AskError::Stale { address, stale },
        Ok(_) | Err(_) => AskError::Answer(address, status, String::from_utf8_lossy(body).chars().take(200).collect()),
    }
}

/// The cause behind the causes: "connection refused" says more than "client error (Connect)".
fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
