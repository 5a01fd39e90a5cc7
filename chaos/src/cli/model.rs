//! `chaos model`: a fake model server as a process, so that it can be killed and stopped like a real one.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::fault::Control;

use super::{CliError, asked_to_stop, print};

/// A model server without a model: predicts the length of what it is sent
///
/// `/ready` and `/health` answer 200, everything else `{"prediction": LENGTH OF THE BODY, "version": NAME}`. Faults are changed
/// on the control address as with `chaos fault`. Stops at SIGTERM, at SIGINT, and when a pipe on standard input is
/// closed.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The name in its answers
    #[arg(long, value_name = "NAME")]
    version: String,
    /// Where requests come in; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where faults are changed and counts are read
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// How long it is not ready after its start, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    cold: u64,
}

/// Runs until asked to stop; prints where it listens.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), CliError> {
    let stop = asked_to_stop()?;
    let mut model = FakeModel::start_on(&arguments.version, arguments.listen).await.map_err(CliError::Listen)?;
    model.set_ready(arguments.cold == 0);
    let control = Control::start(arguments.control, model.faults().clone()).await.map_err(CliError::Listen)?;
    print(format_args!("listening on {}", model.addr()))?;
    print(format_args!("control on {}", control.addr()))?;
    tokio::pin!(stop);
    tokio::select! {
        () = &mut stop => {}
        () = tokio::time::sleep(Duration::from_millis(arguments.cold)) => {
            model.set_ready(true);
            stop.await;
        }
    }
    control.stop().await;
    model.stop().await;
    Ok(())
}
