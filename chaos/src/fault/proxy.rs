//! The fault layer as a server of its own: HTTP/1.1 in, HTTP/1.1 out, keep-alive on both sides, and on the way
//! whatever its [`FaultSwitch`] holds. Bodies are held whole, up to 16 MiB.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Response, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::control::Control;
use super::switch::FaultSwitch;
use crate::serve::{Answer, Cut, Server};

/// Headers that belong to one connection and are not passed on (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Where a fault layer stands. Port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where requests come in.
    pub listen: SocketAddr,
    /// Where they go.
    pub upstream: SocketAddr,
    /// Where `GET`/`PUT /faults` and `GET /counts` are answered.
    pub control: SocketAddr,
}

/// A running fault layer; dropped, it closes its ports and resets its connections. Runs on the runtime that it
/// was started on.
#[derive(Debug)]
pub struct FaultProxy {
    faults: FaultSwitch,
    traffic: Server,
    control: Control,
}

impl FaultProxy {
    /// Starts without faults.
    ///
    /// # Errors
    /// When one of the addresses cannot be listened on.
    pub async fn start(addresses: Addresses) -> io::Result<Self> {
        let faults = FaultSwitch::default();
        let passage = Passage { faults: faults.clone(), upstream: addresses.upstream, client: client() };
        let traffic = Server::start(addresses.listen, move |request| {
            let passage = passage.clone();
            async move { passage.pass(request).await }
        })
        .await?;
        let control = Control::start(addresses.control, faults.clone()).await?;
        Ok(Self { faults, traffic, control })
    }

    /// Where requests come in.
    pub fn addr(&self) -> SocketAddr {
        self.traffic.addr()
    }

    /// Where faults are changed over HTTP.
    pub fn control_addr(&self) -> SocketAddr {
        self.control.addr()
    }

    /// The switch: change faults, read counts.
    pub fn faults(&self) -> &FaultSwitch {
        &self.faults
    }

    /// Closes its ports, resets its connections, and returns when that is done.
    pub async fn stop(self) {
        self.traffic.stop().await;
        self.control.stop().await;
    }
}

type UpstreamClient = Client<HttpConnector, Full<Bytes>>;

fn client() -> UpstreamClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector)
}

/// The way of a request through the layer.
#[derive(Clone)]
struct Passage {
    faults: FaultSwitch,
    upstream: SocketAddr,
    client: UpstreamClient,
}

impl Passage {
    async fn pass(&self, request: Request<Bytes>) -> Answer {
        let path = request.uri().path().to_owned();
        self.faults.meet(&path, self.forward(request)).await
    }

    /// An upstream without an answer looks, from the edge, like one that resets: no answer is made up.
    async fn forward(&self, request: Request<Bytes>) -> Answer {
        let head_only = request.method() == Method::HEAD;
        match self.exchange(request).await {
            Ok(response) => Ok(without_hop_by_hop(response, head_only)),
            Err(error) => {
                tracing::debug!(upstream = %self.upstream, error, "no answer from upstream");
                self.faults.upstream_failed();
                Err(Cut::Reset)
            }
        }
    }

    async fn exchange(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        let response = self.client.request(self.outgoing(request)?).await?;
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    fn outgoing(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = Uri::builder().scheme("http").authority(self.upstream.to_string()).path_and_query(path).build()?;
        head.version = Version::HTTP_11;
        remove_hop_by_hop(&mut head.headers);
        Ok(Request::from_parts(head, Full::new(body)))
    }
}

/// The length is written anew from the body, except where there is none to measure.
fn without_hop_by_hop(mut response: Response<Bytes>, head_only: bool) -> Response<Bytes> {
    remove_hop_by_hop(response.headers_mut());
    if !head_only {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}
