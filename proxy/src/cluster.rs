//! What of a config needs a cluster, which this edge does not speak to: such a file is refused before anything is touched.

use std::path::Path;

use pointsman_config::{Config, State};
use thiserror::Error;

/// The config needs an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "this edge finds no endpoints through a Kubernetes API server and keeps no state there: `pointsman check` accepts such a file, and it cannot be run; list `endpoints` for each version, keep state in `state.file`, and remove `kubernetes` and `replicas`"
)]
pub struct NeedsCluster;

/// Where state is kept, if the config can be run here.
///
/// # Errors
/// If it needs a cluster.
pub(crate) fn state_file(config: &Config) -> Result<&Path, NeedsCluster> {
    match &config.state {
        State::File(file) if !config.needs_cluster() => Ok(file.as_path()),
        State::File(_) | State::Kubernetes(_) => Err(NeedsCluster),
    }
}
