//! The composition root: the one place that knows every part. Listens, starts the serving threads, loads the
//! model while `/health` and `/ready` already answer, serves until a signal, drains.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pointsman_telemetry::shutdown::{self, Drain};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::budget::Budget;
use crate::bundle::{Bundle, BundleError};
use crate::connection::{ConnectionLimits, Serving, ServingError};
use crate::deployment::{Deployment, DeploymentError, Terms};
use crate::descriptors;
use crate::golden::{self, GoldenError};
use crate::health::{Health, Stage};
use crate::http::Site;
use crate::listener::{self, ListenError};
use crate::metrics::{Metrics, MetricsError};
use crate::model::{DeviceName, ModelError};
use crate::predict::Served;
use crate::settings::Settings;
use crate::source::{self, Brought, SourceError};

/// While draining, how long at most new connections are still taken.
const LAST_CALL: Duration = Duration::from_secs(5);

/// Why the server ended.
#[derive(Debug, Error)]
pub enum AppError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It cannot start its threads.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// It cannot count.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The bundle cannot be brought here.
    #[error("the bundle cannot be loaded")]
    Source(#[from] SourceError),
    /// The bundle is not whole.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model is not what was trained.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The thread that loads the model ended without a word.
    #[error("loading the model was cut off; the log says why")]
    Cut,
    /// The model cannot be served.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// The model panicked too often.
    #[error(
        "the model panicked too often within a minute (MAX_PANICS), and what panics may be broken; the log says over what"
    )]
    Panicking,
    /// The system refused something.
    #[error("the system refuses what every server needs")]
    System(#[from] io::Error),
}

/// Serves until SIGTERM has been followed by a drain, or SIGINT came.
///
/// # Errors
/// When the port or the bundle cannot be used, or the model panics again and again: then too what is under way is finished
/// first.
pub fn run(settings: &Settings) -> Result<(), AppError> {
    let listener = listener::bind(&settings.host, settings.port)?;
    let site = Arc::new(Site {
        deployment: std::sync::OnceLock::new(),
        health: Arc::new(Health::new()),
        metrics: Metrics::new()?,
        limits: settings.limits(),
        bodies: Budget::new(settings.bodies_bytes()),
    });
    let drain = Drain::new();
    let serving = Serving::start(settings.threads(), connection_limits(settings), &site, &drain)?;
    let loading = load_aside(settings.clone(), Arc::clone(&site))?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let interrupted = shutdown::interrupt()?;
        let door = Listening { listener, serving, drain };
        let life = live(door, &site, loading, settings.drain_deadline());
        tokio::select! {
            () = interrupted => {
                info!("interrupted, ending at once");
                Ok(())
            }
            ended = life => ended,
        }
    })
}

/// What connections are held to, as far as the system lets that many be open.
fn connection_limits(settings: &Settings) -> ConnectionLimits {
    let wanted = settings.connection_limits();
    let Some(files) = descriptors::raise() else {
        return wanted;
    };
    let limits = wanted.within(descriptors::connections(files, settings.threads().get()));
    if limits.most < wanted.most {
        let (wanted, served) = (wanted.most, limits.most);
        warn!(
            files,
            wanted, served, "fewer connections than MAX_CONNECTIONS are served; raise the limit on open files"
        );
    }
    limits
}

/// What whoever started the server waits for: the first line on stdout.
fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

/// The open door, and who stands behind it.
struct Listening {
    listener: std::net::TcpListener,
    serving: Serving,
    drain: Drain,
}

type Loading = oneshot::Receiver<Result<Brought, AppError>>;

async fn live(door: Listening, site: &Site, loading: Loading, deadline: Duration) -> Result<(), AppError> {
    let terminated = shutdown::terminate()?;
    announce(door.listener.local_addr()?)?;
    let listener = TcpListener::from_std(door.listener)?;
    let last_call = LAST_CALL.min(deadline / 2);
    let accepting = async {
        listener::accept(listener, &door.serving, &door.drain, last_call).await;
        Ok(())
    };
    let until_signal = async {
        tokio::select! {
            () = terminated => {
                site.health.advance(Stage::Draining);
                Ok((begin_drain(&door.drain), Ok(())))
            }
            () = site.health.failing() => Ok((begin_drain(&door.drain), Err(AppError::Panicking))),
            failed = failure(loading) => Err(failed),
        }
    };
    let ((), (begun, ended)) = tokio::try_join!(accepting, until_signal)?;
    finish(&door.drain, begun, deadline).await;
    ended
}

fn begin_drain(drain: &Drain) -> Instant {
    info!(open_connections = drain.in_flight(), "draining");
    drain.begin();
    Instant::now()
}

/// Resolves only when the model cannot be loaded.
async fn failure(loading: Loading) -> AppError {
    match loading.await {
        // The bundle is in use until here.
        Ok(Ok(_in_use)) => std::future::pending().await,
        Ok(Err(error)) => error,
        Err(_sender_dropped) => AppError::Cut,
    }
}

async fn finish(drain: &Drain, begun: Instant, deadline: Duration) {
    if drain.wait(deadline.saturating_sub(begun.elapsed())).await {
        info!(took_ms = begun.elapsed().as_millis(), "drained");
    } else {
        warn!(connections = drain.in_flight(), "drain deadline passed, connections cut off");
    }
}

/// Loads the model on a thread of its own, so that the server answers meanwhile.
fn load_aside(settings: Settings, site: Arc<Site>) -> io::Result<Loading> {
    let (done, loading) = oneshot::channel();
    thread::Builder::new().name("load".to_owned()).spawn(move || {
        if done.send(load(&settings, &site)).is_err() {
            info!("the model was loaded for nobody");
        }
    })?;
    Ok(loading)
}

fn load(settings: &Settings, site: &Site) -> Result<Brought, AppError> {
    let start = Instant::now();
    let promised = settings.model_sha256.as_ref();
    let brought = source::bring(&settings.model_path, &settings.cache(), promised)?;
    let mut bundle = Bundle::load(&brought.folder, promised)?;
    let golden = bundle.take_golden();
    let device = settings.device.for_shape(&bundle.shape);
    let served = Served::new(bundle, settings.device)?;
    site.health.advance(Stage::Checking);
    let golden_examples = golden::check(&served, &golden)?.examples;
    site.metrics.serve(served.name(), served.version());
    let example = golden.examples.first().map(|example| example.input.to_string()).unwrap_or_default();
    let deployment = Deployment::start(served, example.as_bytes(), &terms(settings, site, device))?;
    let served = deployment.served();
    info!(
        model = served.name(),
        version = served.version(),
        sha256 = %served.sha256(),
        signature = served.signature(),
        golden_examples,
        took_ms = start.elapsed().as_millis(),
        "ready"
    );
    site.deployment.get_or_init(|| deployment);
    site.health.advance(Stage::Ready);
    Ok(brought)
}

fn terms(settings: &Settings, site: &Site, device: DeviceName) -> Terms {
    Terms {
        limits: settings.limits(),
        queue: settings.queue_limits(),
        workers: device.at_a_time(settings.threads()),
        health: Arc::clone(&site.health),
        drift_window: settings.drift_window(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::Path;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::http::Limits;
    use crate::watch::Patience;

    fn site() -> Arc<Site> {
        let limits = Limits { body_bytes: 1024, batch_rows: 1, body_patience: Duration::from_mins(1) };
        let (health, metrics) = (Arc::new(Health::new()), Metrics::new().unwrap());
        Arc::new(Site { deployment: std::sync::OnceLock::new(), health, metrics, limits, bodies: Budget::new(1024) })
    }

    #[test]
    fn a_server_whose_model_panics_again_and_again_drains_and_ends_with_an_error() {
        let (site, drain) = (site(), Drain::new());
        let listener = listener::bind("127.0.0.1", 0).unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Patience { idle: Duration::from_mins(1), head: Duration::from_mins(1) };
        let limits = ConnectionLimits { most: 10, on_top: 10, patience };
        let serving = Serving::start(NonZeroUsize::MIN, limits, &site, &drain).unwrap();
        let (loaded, loading) = oneshot::channel();
        let client = async {
            let mut kept = TcpStream::connect(address).await.unwrap();
            kept.write_all(b"GET /health HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
            assert!(kept.read_u8().await.is_ok());
            loaded.send(Ok(Brought::here(Path::new("/model")))).unwrap();
            site.health.advance(Stage::Ready);
            site.health.advance(Stage::Failing);
            let mut rest = Vec::new();
            kept.read_to_end(&mut rest).await.unwrap();
        };
        let life = live(Listening { listener, serving, drain }, &site, loading, Duration::from_mins(1));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (ended, ()) = runtime.block_on(async { tokio::join!(life, client) });
        assert!(matches!(ended, Err(AppError::Panicking)), "{ended:?}");
        assert_eq!(site.health.stage(), Stage::Failing, "whoever still asks is told why");
    }
}
