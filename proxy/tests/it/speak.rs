//! One client for every protocol that the edge speaks with clients, so that one story is told to all of them.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pointsman::listen::Patience;
use pointsman_config::Route;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{PATIENCE, TestEdge};
use crate::pki::Pki;

pub type Body = BoxBody<Bytes, std::io::Error>;

/// A body that is sent at once.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http1Tls,
    H2c,
    Http2Tls,
}

impl Speaks {
    pub const ALL: [Self; 4] = [Self::Http1, Self::Http1Tls, Self::H2c, Self::Http2Tls];

    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::Http2Tls)
    }

    pub fn is_secure(self) -> bool {
        matches!(self, Self::Http1Tls | Self::Http2Tls)
    }

    /// An edge that clients reach this way.
    pub fn edge(self, pki: &Pki, route: Route, v1: &[SocketAddr], v2: &[SocketAddr]) -> TestEdge {
        let tls = self.is_secure().then(|| Pki::listener(vec![pki.issue("edge", &["model.test", "127.0.0.1"])]));
        TestEdge::listening(tls, Patience::default(), route, v1, v2)
    }

    /// A connection to it.
    pub async fn connect(self, pki: &Pki, address: SocketAddr) -> Talk {
        let alpn: &[&str] = if self.is_http2() { &["h2"] } else { &["http/1.1"] };
        let wire: Box<dyn Wire> = if self.is_secure() {
            Box::new(tls(pki.client(alpn, None), "model.test", address).await.unwrap())
        } else {
            Box::new(tcp(address).await)
        };
        Talk::over(wire, self.is_http2()).await
    }
}

pub async fn tcp(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

pub async fn tls(
    config: Arc<ClientConfig>,
    name: &str,
    address: SocketAddr,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    TlsConnector::from(config).connect(ServerName::try_from(name.to_owned()).unwrap(), tcp(address).await).await
}

/// A connection of a client.
#[derive(Clone)]
pub enum Talk {
    One(Arc<tokio::sync::Mutex<http1::SendRequest<Body>>>),
    Two(http2::SendRequest<Body>),
}

/// A whole answer.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Told {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.json()["request_id"].as_str(), self.header("x-request-id"), "{self:?}");
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

impl Talk {
    pub async fn over(wire: impl Wire + 'static, http2: bool) -> Self {
        let io = TokioIo::new(Box::pin(wire) as Pin<Box<dyn Wire>>);
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Self::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::One(Arc::new(tokio::sync::Mutex::new(sender)))
        }
    }

    /// A request for `path`; what `headers` says is added.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
        let (uri, host) = match self {
            Self::One(_) => (path.to_owned(), Some("model.test")),
            Self::Two(_) => (format!("http://model.test{path}"), None),
        };
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in host.map(|host| ("host", host)).iter().chain(headers) {
            request = request.header(*name, *value);
        }
        request.body(body).unwrap()
    }

    pub async fn begin(&self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let answer = async {
            match self {
                Self::One(sender) => {
                    let mut sender = sender.lock().await;
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Self::Two(sender) => {
                    let mut sender = sender.clone();
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Told {
        let answer = self.begin(self.request(method, path, headers, body)).await.unwrap();
        told(answer).await.unwrap()
    }

    pub async fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.lock().await.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }
}

/// Waits for all of an answer.
pub async fn told(answer: Response<Incoming>) -> hyper::Result<Told> {
    let (head, body) = answer.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a whole answer in time")?;
    Ok(Told { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
}
