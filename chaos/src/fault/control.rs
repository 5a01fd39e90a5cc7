//! The control port of a fault layer: `GET /faults`, `PUT /faults`, `GET /counts`, all JSON.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::Faults;
use super::switch::FaultSwitch;
use crate::serve::{Server, json as answer};

/// A running control port; dropped, it is closed.
#[derive(Debug)]
pub struct Control(Server);

impl Control {
    /// Starts answering on `listen`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(listen: SocketAddr, faults: FaultSwitch) -> io::Result<Self> {
        let server = Server::start(listen, move |request| {
            let response = respond(&request, &faults);
            async move { Ok(response) }
        })
        .await?;
        Ok(Self(server))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    /// Closes it; returns when that is done.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

fn respond(request: &Request<Bytes>, faults: &FaultSwitch) -> Response<Bytes> {
    match (request.uri().path(), request.method()) {
        ("/faults", &Method::GET) => answer(StatusCode::OK, &faults.faults()),
        ("/faults", &Method::PUT) => change(request.body(), faults),
        ("/counts", &Method::GET) => answer(StatusCode::OK, &faults.counts()),
        ("/faults", _) => not_allowed("GET, PUT"),
        ("/counts", _) => not_allowed("GET"),
        (_, _) => refusal(StatusCode::NOT_FOUND, "only /faults and /counts are here"),
    }
}

/// Answers with the faults now in force.
fn change(body: &[u8], faults: &FaultSwitch) -> Response<Bytes> {
    match String::from_utf8_lossy(body).parse::<Faults>() {
        Ok(wanted) => {
            faults.set(wanted);
            answer(StatusCode::OK, &wanted)
        }
        Err(error) => refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn not_allowed(methods: &'static str) -> Response<Bytes> {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, methods);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn refusal(status: StatusCode, words: &str) -> Response<Bytes> {
    answer(status, &json!({ "error": words }))
}
