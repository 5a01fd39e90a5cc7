//! Where connections come from: one listening socket, whose connections are dealt out to the serving threads.
//!
//! One socket rather than one per thread (`SO_REUSEPORT`): with the latter a second server on the same port
//! would start without a word and take half of the traffic, and closing one socket loses what waits in its
//! queue. Dealing costs nothing, since clients of a model server keep their connections.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use pointsman_telemetry::shutdown::Drain;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::warn;

use crate::connection::Serving;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// How long to wait when the kernel has no room for another connection (out of file descriptors, mostly).
const NO_ROOM: Duration = Duration::from_millis(50);

/// While draining: how long nobody may come before the door closes.
pub const QUIET: Duration = Duration::from_millis(250);

/// Why the server cannot listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// A host without an address.
    #[error("the host `{host}` has no address; set HOST to an address such as 127.0.0.1 or 0.0.0.0")]
    Host {
        /// The host.
        host: String,
        /// Why not, when the system says.
        source: io::Error,
    },
    /// An address that cannot be had.
    #[error("cannot listen on {address}; set PORT to a free one, or stop what listens there")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// Listens on the first address of a host; port 0 takes any free one.
///
/// # Errors
/// When the host is unknown or the port is taken.
pub fn bind(host: &str, port: u16) -> Result<std::net::TcpListener, ListenError> {
    let address = (host, port)
        .to_socket_addrs()
        .and_then(|mut addresses| addresses.next().ok_or_else(no_address))
        .map_err(|source| ListenError::Host { host: host.to_owned(), source })?;
    listen(address).map_err(|source| ListenError::Bind { address, source })
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no address found")
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts until the server drains and nobody has come for [`QUIET`], or until `last_call` after that began.
/// Who comes while the server drains is still served: a balancer learns late that it should send nobody.
pub async fn accept(listener: TcpListener, serving: &Serving, drain: &Drain, last_call: Duration) {
    tokio::select! {
        () = accept_forever(&listener, serving) => {}
        () = drain.begun() => {}
    }
    let latest = Instant::now() + last_call;
    loop {
        tokio::select! {
            accepted = listener.accept() => take(accepted, serving).await,
            () = sleep(QUIET) => return,
            () = sleep_until(latest) => break,
        }
    }
    take_waiting(&listener, serving).await;
}

/// Whoever the kernel let in already would otherwise meet a reset.
async fn take_waiting(listener: &TcpListener, serving: &Serving) {
    while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
        serving.deal(stream);
    }
}

async fn accept_forever(listener: &TcpListener, serving: &Serving) {
    loop {
        take(listener.accept().await, serving).await;
    }
}

async fn take(accepted: io::Result<(TcpStream, SocketAddr)>, serving: &Serving) {
    match accepted {
        Ok((stream, _)) => serving.deal(stream),
        Err(error) if is_of_one_client(&error) => {}
        Err(error) => {
            warn!(%error, "no connection accepted");
            sleep(NO_ROOM).await;
        }
    }
}

/// A client that went away before it was accepted concerns nobody else.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
