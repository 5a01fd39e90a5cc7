//! Asks the edge's admin API, and the controls of fake models.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client that keeps no connection: what it asks may be killed at any time.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    patience: Duration,
}

impl Caller {
    pub(super) fn new() -> Self {
        Self::with_patience(PATIENCE)
    }

    /// One that waits so long for each answer.
    pub(super) fn with_patience(patience: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(HttpConnector::new());
        Self { client, patience }
    }

    /// None where there is no answer within the patience.
    pub(super) async fn ask(
        &self,
        method: Method,
        to: SocketAddr,
        path: &str,
        body: String,
    ) -> Option<(StatusCode, Bytes)> {
        let request = Request::builder().method(method).uri(format!("http://{to}{path}"));
        let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body))).ok()?;
        let exchange = async {
            let (head, body) = self.client.request(request).await.ok()?.into_parts();
            Some((head.status, body.collect().await.ok()?.to_bytes()))
        };
        tokio::time::timeout(self.patience, exchange).await.ok().flatten()
    }

    /// What is there as JSON; none where nothing of this form is.
    pub(super) async fn get<T: DeserializeOwned>(&self, from: SocketAddr, path: &str) -> Option<T> {
        let (status, body) = self.ask(Method::GET, from, path, String::new()).await?;
        if status != StatusCode::OK {
            return None;
        }
        serde_json::from_slice(&body).inspect_err(|error| tracing::error!(%error, path, "answer not understood")).ok()
    }

    /// What is there as text.
    pub(super) async fn text(&self, from: SocketAddr, path: &str) -> Option<String> {
        let (status, body) = self.ask(Method::GET, from, path, String::new()).await?;
        (status == StatusCode::OK).then(|| String::from_utf8_lossy(&body).into_owned())
    }
}
