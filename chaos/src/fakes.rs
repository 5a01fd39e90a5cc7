//! Stand-ins for what the edge meets, for tests and benches.

pub mod api_server;
mod link;
mod model;

pub use api_server::ApiServer;
pub use link::Link;
pub use model::{Echo, FakeModel};
