//! A model server without a model: what it predicts is the length of the body it was sent, so that a test sees
//! whether an answer belongs to its question.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::fault::{Counts, FaultSwitch, Faults};
use crate::serve::{self, Server};

/// What `/echo` (with any method and query) answers: the request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Who answered.
    pub version: String,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Names in lower case, with values; a header sent twice is here twice. Bytes that are no UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// Length of the body in bytes.
    pub body_bytes: usize,
    /// SHA-256 of the body, in lower-case hexadecimal.
    pub body_sha256: String,
}

impl Echo {
    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A fake model server on a loopback port.
///
/// * `/ready` and `/health`: 200, or 503 after [`FakeModel::set_ready`] or [`FakeModel::set_healthy`] `(false)`
/// * `/echo`: [`Echo`]
/// * everything else: `{"prediction": LENGTH OF THE BODY, "version": NAME}`
///
/// It runs on the runtime that it was started on, so a test that blocks its thread needs a `multi_thread`
/// runtime. Dropped, it closes its port and resets its connections.
#[derive(Debug)]
pub struct FakeModel {
    addr: SocketAddr,
    state: Arc<State>,
    server: Option<Server>,
    /// Accepted by servers that were stopped since.
    earlier_connections: u64,
}

#[derive(Debug)]
struct State {
    version: String,
    ready: AtomicBool,
    healthy: AtomicBool,
    faults: FaultSwitch,
    predictions: AtomicU64,
}

impl FakeModel {
    /// Starts on a free loopback port, ready, healthy and without faults.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub async fn start(version: &str) -> io::Result<Self> {
        Self::start_on(version, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts on this address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start_on(version: &str, listen: SocketAddr) -> io::Result<Self> {
        let state = Arc::new(State {
            version: version.to_owned(),
            ready: AtomicBool::new(true),
            healthy: AtomicBool::new(true),
            faults: FaultSwitch::default(),
            predictions: AtomicU64::new(0),
        });
        let server = serve_on(listen, &state).await?;
        Ok(Self { addr: server.addr(), state, server: Some(server), earlier_connections: 0 })
    }

    /// Where it listens, or listened before [`FakeModel::stop`].
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The name in its answers.
    pub fn version(&self) -> &str {
        &self.state.version
    }

    /// Puts other faults in force, for every request that comes from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.faults.set(faults);
    }

    /// The switch that its faults hang on.
    pub fn faults(&self) -> &FaultSwitch {
        &self.state.faults
    }

    /// What `/ready` says.
    pub fn set_ready(&self, ready: bool) {
        self.state.ready.store(ready, Ordering::Release);
    }

    /// What `/health` says.
    pub fn set_healthy(&self, healthy: bool) {
        self.state.healthy.store(healthy, Ordering::Release);
    }

    /// Requests received so far, probes and faulty ones included.
    pub fn requests(&self) -> u64 {
        self.counts().requests
    }

    /// Predictions worked out so far: no probe, no echo, nothing that a fault kept from being answered.
    pub fn predictions(&self) -> u64 {
        self.state.predictions.load(Ordering::Acquire)
    }

    /// Connections accepted so far, over all its restarts.
    pub fn connections(&self) -> u64 {
        self.earlier_connections + self.server.as_ref().map_or(0, Server::accepted)
    }

    /// Requests and faults, counted.
    pub fn counts(&self) -> Counts {
        self.state.faults.counts()
    }

    /// Closes the listener and resets all connections, as a killed process does; returns when done. Stopping
    /// what stands still does nothing.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            self.earlier_connections += server.accepted();
            server.stop().await;
        }
    }

    /// Stops, and listens again on the same port. Faults, readiness and counts stay.
    ///
    /// # Errors
    /// When somebody else took the port meanwhile.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop().await;
        self.server = Some(serve_on(self.addr, &self.state).await?);
        Ok(())
    }
}

async fn serve_on(listen: SocketAddr, state: &Arc<State>) -> io::Result<Server> {
    let state = Arc::clone(state);
    Server::start(listen, move |request| {
        let state = Arc::clone(&state);
        async move {
            let path = request.uri().path().to_owned();
            state.faults.meet(&path, async { Ok(state.respond(&request)) }).await
        }
    })
    .await
}

impl State {
    fn respond(&self, request: &Request<Bytes>) -> Response<Bytes> {
        match request.uri().path() {
            "/ready" => probe("ready", self.ready.load(Ordering::Acquire)),
            "/health" => probe("healthy", self.healthy.load(Ordering::Acquire)),
            "/echo" => serve::json(StatusCode::OK, &self.echo(request)),
            _ => self.predict(request.body()),
        }
    }

    fn predict(&self, body: &[u8]) -> Response<Bytes> {
        self.predictions.fetch_add(1, Ordering::AcqRel);
        serve::json(StatusCode::OK, &json!({ "prediction": body.len(), "version": self.version }))
    }

    fn echo(&self, request: &Request<Bytes>) -> Echo {
        let headers = request.headers().iter();
        Echo {
            version: self.version.clone(),
            method: request.method().to_string(),
            path: request.uri().to_string(),
            headers: headers
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            body_bytes: request.body().len(),
            body_sha256: hexadecimal(&Sha256::digest(request.body())),
        }
    }
}

fn probe(what: &str, yes: bool) -> Response<Bytes> {
    let status = if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    serve::json(status, &json!({ what: yes }))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}
