//! Stand-ins for what the edge meets, for tests and benches.

mod model;

pub use model::{Echo, FakeModel};
