//! A server of no model, as lean as hyper allows: it reads what is posted and answers with as many bytes as a prediction
//! has. The limit for whoever speaks HTTP through hyper, and what `model-server` is measured against.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers every request with the same bytes
#[derive(Debug, Parser)]
struct Arguments {
    /// Port on 127.0.0.1
    #[arg(long)]
    port: u16,
}

const ANSWER: &[u8] = br#"{"prediction":31.700001,"model":"delivery-time","version":"v1"}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], Arguments::parse().port))).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that breaks is the client's affair.
        tokio::spawn(async move { drop(serve(stream).await) });
    }
}

async fn serve(stream: TcpStream) -> hyper::Result<()> {
    http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), service_fn(answer)).await
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // What cannot be read whole ends with its connection.
    drop(request.into_body().collect().await);
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
