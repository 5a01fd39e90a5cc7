//! The listener of the admin API: bounded in connections and in patience, and able to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use http::HeaderValue;
use http::header::CONNECTION;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::write_limit::WriteLimit;

/// Connections at a time; further ones wait.
const CONNECTIONS: usize = 1_024;
/// The last fourth of the places is kept for clients that ask at once and only once, so that idle ones hold up nobody.
const KEPT_FREE: usize = 4;
/// Longest that a client may take to send the head of a request, and so longest that an idle one may stay.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// The same where it is crowded.
const HEAD_WITHIN_CROWDED: Duration = Duration::from_secs(1);
/// Longest that a client may leave an answer, or the events of a stream, untaken.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// What the kernel keeps of an answer that is not taken, in bytes; with more, it would be noticed late.
const UNTAKEN_BYTES: usize = 64 << 10;
/// Longest request head, in bytes.
const HEAD_BYTES: usize = 32 << 10;
/// How long answers under way may take once the end was asked for; event streams never end by themselves.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a connection that was accepted just before the end may take to bring its request.
const LAST_REQUEST_WITHIN: Duration = Duration::from_millis(250);
/// How long to wait when no connection can be accepted, for want of file descriptors for instance.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The places for connections.
#[derive(Debug, Clone)]
struct Places {
    free: Arc<Semaphore>,
    crowded_below: usize,
}

impl Places {
    fn new(connections: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(connections)), crowded_below: connections / KEPT_FREE }
    }

    fn are_crowded(&self) -> bool {
        self.free.available_permits() < self.crowded_below
    }
}

/// Serves `router` on `listener` until `shutdown` resolves; then who is connected may still ask, for a fourth of a second,
/// and answers under way have a second to end.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    serve_within(listener, router, Places::new(CONNECTIONS), shutdown).await;
}

async fn serve_within(listener: TcpListener, router: Router, places: Places, shutdown: impl Future<Output = ()>) {
    let stop = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let last = LastAnswers { places: places.clone(), stopping: stop.subscribe() };
    let router = router.layer(middleware::from_fn_with_state(last, close_after_the_last));
    let door = Door { listener: &listener, places, router, stop: &stop };
    tokio::select! {
        () = door.accept(&mut connections) => {}
        () = shutdown => {}
    }
    drop(door);
    drop(listener);
    stop.send_replace(true);
    let ended = tokio::time::timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        debug!(connections = connections.len(), "admin connections cut");
    }
}

/// Where connections come in.
struct Door<'serve> {
    listener: &'serve TcpListener,
    places: Places,
    router: Router,
    stop: &'serve watch::Sender<bool>,
}

impl Door<'_> {
    async fn accept(&self, connections: &mut JoinSet<()>) {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&self.places.free).acquire_owned().await {
            match next_connection(self.listener).await {
                Ok(stream) => {
                    let within = if self.places.are_crowded() { HEAD_WITHIN_CROWDED } else { HEAD_WITHIN };
                    let served = one_connection(stream, within, self.router.clone(), self.stop.subscribe());
                    connections.spawn(holding(place, served));
                }
                Err(error) => {
                    warn!(%error, "admin connection not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn holding(place: OwnedSemaphorePermit, served: impl Future<Output = ()>) {
    served.await;
    drop(place);
}

/// What tells whether an answer is the last on its connection.
#[derive(Debug, Clone)]
struct LastAnswers {
    places: Places,
    stopping: watch::Receiver<bool>,
}

/// Ends the connection with the answer where places are few, and at the end.
async fn close_after_the_last(State(last): State<LastAnswers>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if last.places.are_crowded() || *last.stopping.borrow() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn next_connection(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_send_buffer_size(UNTAKEN_BYTES)?;
    Ok(stream)
}

/// Resolves a while after the end is asked for, or nobody is left to ask: a request may be on its way.
async fn last_request(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
    tokio::time::sleep(LAST_REQUEST_WITHIN).await;
}

async fn one_connection(stream: TcpStream, head_within: Duration, router: Router, mut stop: watch::Receiver<bool>) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(head_within).max_buf_size(HEAD_BYTES);
    let stream = TokioIo::new(WriteLimit::new(stream, TAKEN_WITHIN));
    let connection = server.serve_connection(stream, TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_request(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "admin connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    use super::*;

    const ASK: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test]
    async fn idle_connections_on_every_place_do_not_keep_a_probe_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/livez", get(|| async { "ok\n" }));
        let server = tokio::spawn(serve_within(listener, router, Places::new(8), std::future::pending()));
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(ASK).await.unwrap();
        let mut kept = [0; 512];
        let read = first.read(&mut kept).await.unwrap();
        let kept = String::from_utf8_lossy(kept.get(..read).unwrap()).into_owned();
        assert!(kept.starts_with("HTTP/1.1 200") && !kept.contains("connection: close"), "{kept}");
        let mut idle = Vec::new();
        for _ in 0..11 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let begun = Instant::now();
        let mut probe = TcpStream::connect(address).await.unwrap();
        probe.write_all(ASK).await.unwrap();
        let mut answer = String::new();
        timeout(HEAD_WITHIN, probe.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert!(begun.elapsed() >= HEAD_WITHIN_CROWDED, "there was a free place: {:?}", begun.elapsed());
        server.abort();
    }

    #[tokio::test]
    async fn who_is_connected_at_the_end_is_still_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/livez", get(|| async { "ok\n" }));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, router, async { drop(stopped.await) }));
        // Accepted, since one behind it is answered.
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut kept = TcpStream::connect(address).await.unwrap();
        kept.write_all(ASK).await.unwrap();
        let mut first = [0; 512];
        assert!(kept.read(&mut first).await.unwrap() > 0);
        stop.send(()).unwrap();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        for client in [&mut silent, &mut kept] {
            client.write_all(ASK).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        }
        timeout(HEAD_WITHIN, server).await.unwrap().unwrap();
    }
}
