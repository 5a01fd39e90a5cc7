//! The listener of the admin API: bounded in connections and in patience, and able to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// Connections at a time; further ones wait.
const CONNECTIONS: usize = 256;
/// Longest that a client may take to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Longest request head, in bytes.
const HEAD_BYTES: usize = 32 << 10;
/// How long answers under way may take once the end was asked for; event streams never end by themselves.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted, for want of file descriptors for instance.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `shutdown` resolves; then answers under way have a second to end.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let stop = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept(&listener, &router, &stop, &mut connections) => {}
        () = shutdown => {}
    }
    drop(listener);
    stop.send_replace(true);
    let ended = tokio::time::timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        debug!(connections = connections.len(), "admin connections cut");
    }
}

async fn accept(listener: &TcpListener, router: &Router, stop: &watch::Sender<bool>, connections: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match next_connection(listener).await {
            Ok(stream) => {
                connections.spawn(one_connection(stream, router.clone(), stop.subscribe(), place));
            }
            Err(error) => {
                warn!(%error, "admin connection not accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn next_connection(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Resolves when the end is asked for, or nobody is left to ask.
async fn asked_to(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn one_connection(
    stream: TcpStream,
    router: Router,
    mut stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = asked_to(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "admin connection ended early");
    }
}
