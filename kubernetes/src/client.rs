//! The way to the API server: one connection pool, and a deadline on everything that is asked.
//!
//! kube's own stack answers 429, 503 and 504 by up to fifteen more tries and waits for an answer without end. Here
//! nothing is repeated below the caller, and no call outlasts its deadline: whoever asks knows what to do without.

use std::time::Duration;

use http::{HeaderValue, Uri, header};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Api, Config};
use thiserror::Error;
use tower::timeout::TimeoutLayer;
use tower::{BoxError, ServiceBuilder};

use crate::error::{CallError, innermost};

/// Calls that have a deadline of their own meet that first; this one is for watches that never begin.
const HEAD_MARGIN: Duration = Duration::from_secs(1);

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// One call, answer included. Default 3 s.
    pub call: Duration,
    /// One watch before the server ends it and a new one begins; whole seconds. A connection that died without a word is
    /// noticed so long (and 5 s) after. Default 20 s.
    pub watch: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { call: Duration::from_secs(3), watch: Duration::from_secs(20) }
    }
}

/// Why there is no way to an API server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a pod's service account.
    #[error("no API server is known: {reason}; run in a pod with a service account, or set KUBECONFIG")]
    Unknown {
        /// What was tried.
        reason: String,
    },
    /// What is known cannot be used.
    #[error("the credentials for the API server cannot be used: {reason}")]
    Credentials {
        /// What is wrong.
        reason: String,
    },
    /// A token that no header can carry.
    #[error("the token for the API server holds bytes that no HTTP header can carry")]
    Token,
}

/// One API server, and who we are there. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    namespace: String,
    deadlines: Deadlines,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .field("deadlines", &self.deadlines)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// As `KUBECONFIG` or `~/.kube/config` says; else as the service account of the pod that this runs in. Asks nobody.
    /// Must run on a tokio runtime.
    ///
    /// # Errors
    /// If neither is there, or it cannot be used.
    pub async fn connect(deadlines: Deadlines) -> Result<Self, ConnectError> {
        let config = Config::infer().await.map_err(|error| ConnectError::Unknown { reason: innermost(&error) })?;
        Self::with(&config, deadlines)
    }

    /// The API server at `url`, as whom the bearer `token` names; `namespace` is the one meant where none is named. Must
    /// run on a tokio runtime.
    ///
    /// # Errors
    /// If no header can carry the token, or no TLS can be set up.
    pub fn at(url: Uri, namespace: &str, token: Option<&str>, deadlines: Deadlines) -> Result<Self, ConnectError> {
        let mut config = Config::new(url);
        namespace.clone_into(&mut config.default_namespace);
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_invalid| ConnectError::Token)?;
            value.set_sensitive(true);
            config.headers.push((header::AUTHORIZATION, value));
        }
        Self::with(&config, deadlines)
    }

    fn with(config: &Config, deadlines: Deadlines) -> Result<Self, ConnectError> {
        let client = client(config, deadlines.call + HEAD_MARGIN)
            .map_err(|error| ConnectError::Credentials { reason: innermost(&error) })?;
        Ok(Self { client, namespace: config.default_namespace.clone(), deadlines })
    }

    /// The namespace that is meant where none is named: the pod's own, or that of the kubeconfig.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How long things may take.
    pub fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// The objects of one kind in `namespace`.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Asks, and waits no longer than the deadline for one call. `what` names the call for people.
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        self.call_within(self.deadlines.call, what, asked).await
    }

    /// Asks, and waits no longer than `after`.
    pub(crate) async fn call_within<T>(
        &self,
        after: Duration,
        what: &str,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(after, asked).await {
            Ok(answer) => answer.map_err(|error| CallError::of(what, &error)),
            Err(_elapsed) => Err(CallError::Deadline { call: what.to_owned(), after }),
        }
    }
}

/// Connection pool, credentials, and a deadline for the head of every answer; a watch's body may last.
fn client(config: &Config, head: Duration) -> kube::Result<kube::Client> {
    let connector = config.rustls_https_connector()?;
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(head))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}
