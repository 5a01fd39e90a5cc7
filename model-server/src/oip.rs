//! The Open Inference Protocol v2, over HTTP (`rest`, with the binary tensor extension) and gRPC (`grpc`, `messages` within
//! their `bounds`, `grpc_health`): every feature is an input tensor of its own, the prediction the one output. `http` and
//! `connection` hand requests in; `tensor` turns tensors into the rows that every other request becomes too.

mod bounds;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod grpc;
mod grpc_health;
mod messages;
pub mod rest;
mod tensor;

use crate::answer::Refusal;
use crate::predict::Served;

/// What the server calls itself.
const SERVER_NAME: &str = "model-server";

/// What calculates.
const PLATFORM: &str = "candle";

/// What is understood beyond the protocol's core.
const EXTENSIONS: &[&str] = &["binary_tensor_data"];

/// That a request names the model that is served; a version may be left out.
fn check_model(served: &Served, name: &str, version: &str) -> Result<(), Refusal> {
    if name == served.name() && (version.is_empty() || version == served.version()) {
        return Ok(());
    }
    let asked = if version.is_empty() { format!("`{name}`") } else { format!("`{name}` version `{version}`") };
    Err(Refusal::NoModel(format!(
        "the model {asked} is not served here; `{}` version `{}` is",
        served.name(),
        served.version()
    )))
}
