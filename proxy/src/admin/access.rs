//! Who may come in: whoever has the token; without a token, which only loopback may do, whoever is on this machine and
//! is not a web page of somebody else.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use tracing::error;

use super::problem::{INVALID_TOKEN, Problem};

/// The file that holds the bearer token. Read at every request, so that a new token counts from the moment it is
/// written, and an unreadable or empty file lets nobody in.
#[derive(Debug, Clone)]
pub struct TokenFile {
    path: Arc<PathBuf>,
}

impl TokenFile {
    /// The token is what stands in `path`, white space around it apart.
    pub fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path) }
    }

    async fn admits(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(offered) = bearer(headers) else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "this needs a token; send `authorization: Bearer TOKEN`, or give the command line --token-file FILE",
            ));
        };
        let expected = self.read().await?;
        if same(offered, expected.trim()) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            INVALID_TOKEN,
            "this is not the token; use the one in the edge's admin.token_file",
        ))
    }

    async fn read(&self) -> Result<String, Problem> {
        let cannot = |why: String| {
            error!(file = %self.path.display(), why, "admin token cannot be read; nobody is let in");
            let what = "the edge cannot read its token; its log names the file and the reason";
            Problem::unavailable("token_unreadable", what)
        };
        let token = tokio::fs::read_to_string(self.path.as_path()).await.map_err(|error| cannot(error.to_string()))?;
        if token.trim().is_empty() { Err(cannot("it is empty".to_owned())) } else { Ok(token) }
    }
}

/// The token that a request offers.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Compares digests without stopping at the first difference, so that the time taken says nothing of the token.
pub(crate) fn same(offered: &str, expected: &str) -> bool {
    let (offered, expected) = (Sha256::digest(offered.as_bytes()), Sha256::digest(expected.as_bytes()));
    offered.iter().zip(expected.iter()).fold(0, |difference, (left, right)| difference | (left ^ right)) == 0
}

/// Lets a request through, or says why not.
pub(super) async fn check(State(token): State<Option<TokenFile>>, request: Request, next: Next) -> Response {
    let admitted = match &token {
        Some(token) => token.admits(request.headers()).await,
        None => from_this_machine(&request),
    };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// A page of somebody else that has its own name resolved to 127.0.0.1 still sends that name as the host, so only
/// addresses and `localhost` are taken. (That a page cannot send orders here is ensured by the content type that
/// every order needs: a browser asks first, and is never allowed.)
fn from_this_machine(request: &Request) -> Result<(), Problem> {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let authority = named.and_then(|host| host.parse::<Authority>().ok());
    let host = authority.as_ref().map(Authority::host).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    if host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let what =
        "without a token the host must be an IP address or `localhost`; ask http://127.0.0.1, or set admin.token_file";
    Err(Problem::new(StatusCode::FORBIDDEN, "host_not_allowed", what))
}
