//! How a connection to an endpoint is made and kept.
//!
//! Line: endpoint ► **upstream** ► version.

use std::net::SocketAddr;
use std::time::Duration;

use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pointsman_config::Route;

/// How long a connection to an endpoint is kept unused. Common model servers close theirs after 5 s (uvicorn, Node); who
/// closes first does not lose a request to the race.
const IDLE: Duration = Duration::from_secs(4);

/// The endpoint for the framework; `fresh` asks for a connection that nobody has used. Timeouts for reading and writing
/// are the exchange's: the framework's would run on while a client sends its body.
pub(crate) fn peer(endpoint: SocketAddr, settings: &Route, fresh: bool) -> Box<HttpPeer> {
    let mut peer = Box::new(HttpPeer::new(endpoint, false, String::new()));
    if fresh {
        // Connections are kept by this: under a number of its own there is none.
        peer.group_key = rand::random();
    }
    peer.options.connection_timeout = Some(settings.timeouts.connect);
    peer.options.idle_timeout = Some(IDLE);
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    peer
}
