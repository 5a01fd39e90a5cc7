//! Starts the exchange with other edges, under the Lease that says who decides.

use std::net::SocketAddr;

use pointsman_config::{Config, State};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{AppError, background};
use crate::cluster::Connection;
use crate::control::home::Home;
use crate::control::leader::Seat;
use crate::control::replicas::{Message, Replication};

/// Opens the door for other edges, if the config says that there are others.
pub(super) async fn start(
    config: &Config,
    connection: Connection,
    home: &Home,
    messages: mpsc::UnboundedSender<Message>,
) -> Result<Option<Replication>, AppError> {
    let (Some(replicas), State::Kubernetes(state)) = (config.replicas.clone(), &config.state) else { return Ok(None) };
    let Some((name, leadership)) = home.leadership() else { return Ok(None) };
    let refused = |source| AppError::Start { what: "the thread for other edges", source };
    let runtime = background("control-replicas").map_err(refused)?;
    let listener = bind(replicas.address)?;
    let (seat, namespace) = (Seat::new(name, leadership), state.namespace.clone());
    let started = runtime.spawn(async move {
        let cluster = connection.cluster().await?;
        let namespace = namespace.unwrap_or_else(|| cluster.namespace().to_owned());
        let listener = TcpListener::from_std(listener).map_err(refused)?;
        Ok(Replication::start(seat, (&replicas, listener), (&cluster, &namespace), &messages))
    });
    started.await.map_err(|_panicked| AppError::Control)?.map(Some)
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener, AppError> {
    let refused = |source| AppError::Replicas { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}
