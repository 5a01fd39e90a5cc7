//! The way to the API server of a cluster, for a config that needs one.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use pointsman_config::{Config, State};
use pointsman_kubernetes::{Cluster, ConnectError, Deadlines};
use thiserror::Error;
use tokio::sync::OnceCell;

/// The API server, found out about when it is first needed. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Connection(Arc<OnceCell<Cluster>>);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0.get()).finish()
    }
}

impl Connection {
    /// As the environment says. Asks nobody; must run on the runtime on which the API server is asked.
    ///
    /// # Errors
    /// If the environment names no API server, or none that can be used. Another try may find one.
    pub(crate) async fn cluster(&self) -> Result<Cluster, ConnectError> {
        self.0.get_or_try_init(|| Box::pin(Cluster::connect(Deadlines::default()))).await.cloned()
    }
}

/// The config keeps its state in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "this edge keeps no state in a cluster and flips no Service: `pointsman check` accepts such a file, and it cannot be run; keep state in `state.file`, and remove `kubernetes` and `replicas`"
)]
pub struct NeedsCluster;

/// Where state is kept, if the config can be run here.
///
/// # Errors
/// If it is kept in a cluster.
pub(crate) fn state_file(config: &Config) -> Result<&Path, NeedsCluster> {
    match &config.state {
        State::File(file) => Ok(file.as_path()),
        State::Kubernetes(_) => Err(NeedsCluster),
    }
}
