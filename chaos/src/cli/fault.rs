//! `chaos fault`: a fault layer between an edge and a model server.

use std::net::SocketAddr;

use clap::Args;
use pointsman_chaos::fault::{Addresses, FaultProxy, Faults};

use super::{CliError, asked_to_stop, print};

/// Passes HTTP/1.1 requests on, and breaks the share of them that it is told to
///
/// Faults are changed while it runs: `PUT /faults` on the control address, with JSON such as
/// `{"fail":{"share":0.5,"status":500},"delay":{"share":1,"ms":50}}`; `GET /counts` says what was done.
/// Kinds: `fail {share, status}`, `delay {share, ms: N or [FROM, TO]}`, `reset {share, when: "before_answer" or
/// "mid_body"}`, `hang {share}`, `garbage {share}`, `wrong {share, prediction}`; /health and /ready are spared
/// without `"probes": true`. Stops at SIGTERM, at SIGINT, and when a pipe on standard input is closed.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where requests come in; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where they go
    #[arg(long, value_name = "ADDR")]
    upstream: SocketAddr,
    /// Where faults are changed and counts are read
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// Faults to start with, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    faults: Faults,
}

/// Runs until asked to stop; prints where it listens.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), CliError> {
    let stop = asked_to_stop()?;
    let Arguments { listen, upstream, control, faults } = *arguments;
    let proxy = FaultProxy::start(Addresses { listen, upstream, control }).await.map_err(CliError::Listen)?;
    proxy.faults().set(faults);
    print(format_args!("listening on {}", proxy.addr()))?;
    print(format_args!("control on {}", proxy.control_addr()))?;
    stop.await;
    proxy.stop().await;
    Ok(())
}
