//! The way to the API server of a cluster, for a config that needs one.

use std::fmt;
use std::sync::Arc;

use pointsman_kubernetes::{Cluster, ConnectError, Deadlines};
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

/// A name for this process and no other: that of the pod, with something that no earlier process of it had.
pub(crate) fn instance() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_not_set| "pointsman".to_owned());
    format!("{host}-{:08x}", rand::random::<u32>())
}
