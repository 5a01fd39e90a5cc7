//! The composition root: the one place that knows every part, starts them in order and ends them in order.
//!
//! Threads: one worker per core serves requests (`edge-N`); one runs the control loop (`control`); one asks endpoints
//! and names (`control-checks`); one speaks to other edges (`control-replicas`); one writes the state file
//! (`control-state`); one watches the config file (`control-config`); one serves the admin API (`admin`); this one waits
//! for signals. None of them waits for another but through channels, so that neither traffic holds up a decision nor a decision traffic.
//!
//! A panic on a `control` thread ends the process at once, with the panic's message: an edge whose guard is dead must
//! not look alive. Its supervisor starts it again, and it goes on from the state file. A panic of one request, or in
//! the admin API, ends just that.

mod admin_api;
mod shared;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{panic, process, thread};

use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pointsman_config::{Config, ConfigErrors, Problem, State};
use pointsman_kubernetes::{Candidacy, ConnectError, LeaseTimes, LeaseTimesError};
use pointsman_telemetry::shutdown;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};
use tracing::{error, info, warn};

use self::admin_api::Admin;
use crate::admin::{AdminContext, TokenFile};
use crate::asking::Asking;
use crate::cluster::{self, Connection};
use crate::control::actuator::LiveServices;
use crate::control::config_watch::{ConfigWatch, hash_of, read_text, with_whole_paths};
use crate::control::discovery::{self, Discoveries};
use crate::control::events::{Events, now_in_words};
use crate::control::gates::Askers;
use crate::control::handle::{ControlHandle, OrderMessage};
use crate::control::health::HealthChecks;
use crate::control::history::History;
use crate::control::home::{Home, InCluster};
use crate::control::publisher::Publisher;
use crate::control::resolver::{Resolved, Resolver, first_answers};
use crate::control::series::SeriesBook;
use crate::control::state::{Opened, Reopened, StateFile};
use crate::control::{
    Command, Control, Inputs, LAST_NEWS, LAST_RECORDS, Parts, endpoint_names, endpoint_services, running,
};
use crate::listen::{ListenError, Listeners, Patience, Serving};
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::snapshot::Snapshots;
use crate::tls::TlsFileError;
use crate::upgrade::{Door, Farewell, Inherited, Offer, Successor, UpgradeError};
use crate::upstream;
use crate::user_cookie::{SecretError, SecretFiles, read_secrets};
use crate::view::{ConfigView, View};

/// How long requests in flight may take once the end was asked for.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long the control path may take for its last words.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
/// How long the start waits for names; whoever answers later is heard later.
const FIRST_NAMES: Duration = Duration::from_secs(2);
/// Orders that wait for the control loop.
const ORDERS: usize = 64;
/// Events that a slow listener may lag behind.
const EVENTS: usize = 1024;

/// What `pointsman run` was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// The config file; changes of it are put in force while running.
    pub config: PathBuf,
    /// How long to serve on after the first SIGTERM, with `/readyz` at 503, so that load balancers stop sending requests
    /// before the listeners close.
    pub drain_delay: Duration,
    /// Take over from the process that keeps its state in the same file, without refusing a connection.
    pub upgrade: bool,
}

/// Why the edge did not start, or ended badly.
#[derive(Debug, Error)]
pub enum AppError {
    /// The config file cannot be read.
    #[error("the config file `{}` cannot be read; --config names it", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The config file is refused; prints every problem on a line of its own.
    #[error("{problems}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Every problem.
        problems: ConfigErrors,
    },
    /// There is no state file through whose folder to take over.
    #[error(
        "`--upgrade` takes over from the process that has the state file, and state is kept in a cluster here; start without it, and replace the pods instead: `kubectl rollout restart deployment/pointsman`"
    )]
    NothingToTakeOver,
    /// Nothing says which API server to ask.
    #[error(
        "the config needs an API server, to find the endpoints of Services or to keep state; or list `endpoints` for each version, and write `state.file`"
    )]
    Cluster(#[from] ConnectError),
    /// No lease can last so long.
    #[error("`state.kubernetes.lease_duration` cannot be kept: {0}")]
    Lease(LeaseTimesError),
    /// The secret that signs users' cookies cannot be used.
    #[error(transparent)]
    CookieSecret(#[from] SecretError),
    /// Certificates or keys for connections to endpoints cannot be used.
    #[error("the certificates for connections to endpoints cannot be used")]
    UpstreamTls(#[from] TlsFileError),
    /// A listener cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin API cannot listen.
    #[error("the admin API cannot listen on {address}; stop who listens there, or choose another `admin.address`")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The door for other edges cannot be opened.
    #[error(
        "other edges cannot be listened for on {address}; stop who listens there, or choose another `replicas.address`"
    )]
    Replicas {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No thread, runtime or signal handler.
    #[error("cannot start {what}; check the limits on processes and open files (ulimit -u, ulimit -n)")]
    Start {
        /// What.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing could be taken over.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The control loop went away while it started.
    #[error("the control loop ended while it started; the log says why")]
    Control,
}

impl AppError {
    /// Whether the caller or the config file is at fault (exit code 2), not the machine (exit code 1).
    pub fn is_wrong_usage(&self) -> bool {
        match self {
            Self::ConfigFile { .. }
            | Self::Config { .. }
            | Self::NothingToTakeOver
            | Self::Cluster(_)
            | Self::Lease(_)
            | Self::CookieSecret(_)
            | Self::UpstreamTls(_)
            | Self::Listen(ListenError::Tls { .. }) => true,
            Self::Listen(_)
            | Self::Admin { .. }
            | Self::Replicas { .. }
            | Self::Start { .. }
            | Self::Upgrade(_)
            | Self::Control => false,
        }
    }
}

/// Runs the edge until it is told to stop: SIGTERM drains after [`RunOptions::drain_delay`], SIGINT or a second SIGTERM ends at once, SIGHUP reads the
/// config file again. Prints where it listens on standard output, once it does. Logs must be set up already.
///
/// # Errors
/// If the config is bad, an address cannot be had or a thread cannot be started; nothing is left running then.
pub fn run(options: &RunOptions) -> Result<(), AppError> {
    end_if_the_control_path_panics();
    raise_descriptors();
    let loaded = load(&options.config)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AppError::Start { what: "a runtime", source })?;
    let ended = runtime.block_on(serve(loaded, options));
    // What still runs on other threads ends with the process.
    runtime.shutdown_background();
    ended
}

/// An edge without its guard must not look alive.
fn end_if_the_control_path_panics() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        let guards = thread::current().name().is_some_and(guards_traffic);
        if guards {
            // Past the log's queue, which would not be written out any more.
            drop(writeln!(
                io::stderr(),
                "the control path has panicked, and without it nothing would take a failing canary back: ending; please report this"
            ));
            process::abort();
        }
    }));
}

/// Whether a thread belongs to the control path.
fn guards_traffic(thread: &str) -> bool {
    thread.starts_with("control")
}

/// Takes as many descriptors as the process may have: the soft limit of most shells is meant for other programs.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        warn!(%error, "the limit on open files cannot be raised; fewer clients are accepted at a time");
    }
}

/// The config file as it was at the start.
#[derive(Debug)]
struct Loaded {
    path: PathBuf,
    config: Config,
    warnings: Vec<Problem>,
    hash: String,
    secrets: SecretFiles,
}

fn load(path: &Path) -> Result<Loaded, AppError> {
    let text = read_text(path).map_err(|source| AppError::ConfigFile { path: path.to_owned(), source })?;
    let parsed = Config::parse(&text, &path.display().to_string())
        .map_err(|problems| AppError::Config { path: path.to_owned(), problems })?;
    let config = with_whole_paths(parsed.config, path);
    let secrets = read_secrets(&config)?;
    upstream::check(&config)?;
    let (path, hash) = (path.to_owned(), hash_of(text.as_bytes()));
    Ok(Loaded { path, config, warnings: parsed.warnings, hash, secrets })
}

/// Addresses that are ours and that nobody serves yet.
#[derive(Debug)]
struct Bound {
    listeners: Listeners,
    admin: TcpListener,
    threads: usize,
}

/// Binds every address or none, before anything else is touched; what another process hands over is bound already.
fn bind(config: &Config, inherited: Option<Inherited>) -> Result<Bound, AppError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (mut taken, their_admin) = inherited.map_or_else(Default::default, |all| (all.listeners, Some(all.admin)));
    let listeners = Listeners::bind_or_take(&config.listeners, threads, &mut taken)?;
    let address = config.admin.address;
    let refused = |source| AppError::Admin { address, source };
    let fits = |found: SocketAddr| found == address || (address.port() == 0 && found.ip() == address.ip());
    let admin = match their_admin.filter(|admin| admin.local_addr().is_ok_and(fits)) {
        Some(admin) => admin,
        None => std::net::TcpListener::bind(address).map_err(refused)?,
    };
    admin.set_nonblocking(true).map_err(refused)?;
    Ok(Bound { listeners, admin: TcpListener::from_std(admin).map_err(refused)?, threads })
}

async fn serve(loaded: Loaded, options: &RunOptions) -> Result<(), AppError> {
    let signals = Signals::listen()?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let asked = match (options.upgrade, &loaded.config.state) {
        (false, _) => None,
        (true, State::File(file)) => Some(Successor::ask(file)?),
        (true, State::Kubernetes(_)) => return Err(AppError::NothingToTakeOver),
    };
    let (successor, inherited) = asked.unzip();
    let bound = bind(&loaded.config, inherited)?;
    if let Some(successor) = &successor {
        successor.claim_state()?;
    }
    let (started, replaced) = start(loaded, bound, successor).await?;
    signals.obey(started, replaced, options.drain_delay).await;
    Ok(())
}

/// The edge at work.
#[derive(Debug)]
struct Started {
    serving: Serving,
    commands: mpsc::UnboundedSender<Command>,
    watch: ConfigWatch,
    admin: Admin,
    /// None where state is in a cluster: nobody takes over there.
    door: Option<Door>,
    snapshots: Arc<Snapshots>,
    notifier: Notifier,
}

/// Starts everything; the receiver hears when another process has taken over.
async fn start(
    loaded: Loaded,
    bound: Bound,
    successor: Option<Successor>,
) -> Result<(Started, mpsc::UnboundedReceiver<()>), AppError> {
    let refused = |what| move |source| AppError::Start { what, source };
    let Bound { listeners, admin, threads } = bound;
    let state = loaded.config.state.clone();
    let snapshots = Arc::new(Snapshots::default());
    let (tell_reload, reloads) = mpsc::unbounded_channel();
    let (commands, told) = mpsc::unbounded_channel();
    let (order, orders) = mpsc::channel(ORDERS);
    let watch = ConfigWatch::start(loaded.path.clone(), loaded.hash.clone(), tell_reload)
        .map_err(refused("the watch on the config file"))?;
    let context = start_control(loaded, Publisher::new(Arc::clone(&snapshots), threads), order, |channels| Inputs {
        orders,
        reloads,
        turned: channels.turned,
        resolved: channels.resolved,
        reopened: channels.reopened,
        replicas: channels.replicas,
        commands: told,
    })
    .await?;
    let admin = admin.into_std().map_err(refused("the admin API"))?;
    let admin_address = admin.local_addr().map_err(refused("the admin API"))?;
    let offer = offer(&listeners, &admin).map_err(refused("the door for an upgrade"))?;
    let serving = listeners.serve(&snapshots, Patience::default())?;
    commands.send(Command::Ready).map_err(|_gone| AppError::Control)?;
    let notifier = context.notifier.clone();
    let admin = Admin::start(admin, context).map_err(refused("the admin API"))?;
    let (tell_replaced, replaced) = mpsc::unbounded_channel();
    let door = match &state {
        State::File(file) => Some(Door::open(file, offer, commands.clone(), tell_replaced)),
        State::Kubernetes(_) => None,
    };
    match successor.map(Successor::serve) {
        Some(Ok(farewell)) => hear_out(farewell, commands.clone()).map_err(refused("the thread for a takeover"))?,
        Some(Err(error)) => warn!(%error, "the process that was taken over from has gone already"),
        None => {}
    }
    say_where(serving.addresses(), admin_address);
    Ok((Started { serving, commands, watch, admin, door, snapshots, notifier }, replaced))
}

/// Waits, on a thread of its own, for what the process decided last that this one took over from.
fn hear_out(farewell: Farewell, commands: mpsc::UnboundedSender<Command>) -> io::Result<()> {
    let listen = move || match farewell.hear() {
        // The loop lives as long as this process.
        Ok(words) => drop(commands.send(Command::Inherit(words))),
        Err(error) => warn!(%error, "what the process decided last that was taken over from is not known"),
    };
    thread::Builder::new().name("takeover".to_owned()).spawn(listen).map(drop)
}

/// What a process is given that takes over from this one.
fn offer(listeners: &Listeners, admin: &std::net::TcpListener) -> io::Result<Offer> {
    Ok(Offer { listeners: listeners.share()?, admin: admin.try_clone()? })
}

/// Says on standard output, for people and for scripts, where the edge listens.
fn say_where(clients: &[SocketAddr], admin: SocketAddr) {
    let mut out = io::stdout().lock();
    let mut said = clients.iter().try_for_each(|address| writeln!(out, "listening on {address}"));
    said = said.and_then(|()| writeln!(out, "admin on http://{admin}")).and_then(|()| out.flush());
    if let Err(error) = said {
        warn!(%error, "standard output cannot be written");
    }
    info!(listeners = ?clients, %admin, "serving");
}

/// The loop's ends of what is started beside it.
#[derive(Debug)]
struct Channels {
    turned: mpsc::UnboundedReceiver<crate::control::health::Turned>,
    resolved: mpsc::UnboundedReceiver<Resolved>,
    reopened: mpsc::UnboundedReceiver<Reopened>,
    replicas: mpsc::UnboundedReceiver<crate::control::replicas::Message>,
}

/// Opens the state, asks for the first addresses, starts the control loop and waits until the config is in force.
async fn start_control(
    loaded: Loaded,
    mut publisher: Publisher,
    orders: mpsc::Sender<OrderMessage>,
    inputs: impl FnOnce(Channels) -> Inputs,
) -> Result<AdminContext, AppError> {
    let refused = |what| move |source| AppError::Start { what, source };
    let (tell_turned, turned) = mpsc::unbounded_channel();
    let (tell_resolved, mut resolved) = mpsc::unbounded_channel();
    let (tell_reopened, reopened) = mpsc::unbounded_channel();
    let (tell_replicas, replicas) = mpsc::unbounded_channel();
    let Loaded { path, config, hash, secrets, .. } = loaded;
    let checks = background("control-checks").map_err(refused("the thread for health checks"))?;
    let connection = connect(&checks, &config).await?;
    let discoveries = Discoveries::start(&checks, connection.clone(), tell_resolved.clone());
    let (state, history, opened) = open_home(&config, (&checks, &connection), tell_reopened).await?;
    let replication = shared::start(&config, connection, &state, tell_replicas).await?;
    publisher.sign_with(opened.cookie_secret);
    publisher.sign_with_files(secrets);
    for row in opened.recent {
        history.remember(Arc::new(row));
    }
    let (event, _) = broadcast::channel(EVENTS);
    let view = Arc::new(ArcSwap::from_pointee(View::default()));
    let handle = ControlHandle::new(orders, Arc::clone(&view), event.clone());
    let token = config.admin.token_file.clone().map(TokenFile::new);
    let series = SeriesBook::default();
    let notifier = Notifier::default();
    let parts = Parts {
        config_view: first_view(&path, &config, hash),
        saved: opened.routes,
        resolved: first_addresses(&config, &discoveries, &mut resolved).await,
        publisher,
        state,
        events: Events::new(opened.last_id, history.clone(), event),
        checks: HealthChecks::start(&checks, tell_turned),
        askers: Askers::start(&checks),
        asking: Asking::start(&checks),
        resolver: Resolver::start(&checks, tell_resolved),
        discoveries,
        replication,
        notifier: notifier.clone(),
        view,
        series: series.clone(),
        config,
    };
    run_control(parts, inputs(Channels { turned, resolved, reopened, replicas })).await?;
    let (metrics, decisions) = (Metrics::new(handle.clone()), Arc::new(history));
    Ok(AdminContext { handle, decisions, series, metrics, notifier, token })
}

/// Opens the home of the state, for what it holds.
async fn open_home(
    config: &Config,
    (checks, connection): (&tokio::runtime::Handle, &Connection),
    reopened: mpsc::UnboundedSender<Reopened>,
) -> Result<(Home, History, Opened), AppError> {
    match &config.state {
        State::File(file) => {
            let refused = |source| AppError::Start { what: "the thread for the state file", source };
            let (state, opened) = StateFile::open(file.clone(), reopened).map_err(refused)?;
            Ok((Home::File(state), History::of_file(file.clone()), opened))
        }
        State::Kubernetes(state) => {
            let cluster = connection.cluster().await?;
            let instance = cluster::instance();
            let namespace = state.namespace.clone().unwrap_or_else(|| cluster.namespace().to_owned());
            let times = LeaseTimes::lasting(state.lease_duration).map_err(AppError::Lease)?;
            let candidacy = {
                let _on_this_runtime = checks.enter();
                Candidacy::start(&cluster, &namespace, &state.lease, &instance, times)
            };
            let (at, led) = ((checks.clone(), cluster), (candidacy.leadership(), instance.as_str()));
            let (live, opened) = LiveServices::open(at, led, &config.routes, (reopened, FIRST_NAMES)).await;
            Ok((
                Home::Cluster(Box::new(InCluster { live, candidacy, name: instance })),
                History::without_file(),
                opened,
            ))
        }
    }
}

/// The way to the API server. Where the config needs one, something must say which; whether it answers is another matter.
async fn connect(checks: &tokio::runtime::Handle, config: &Config) -> Result<Connection, AppError> {
    let connection = Connection::default();
    if config.needs_cluster() {
        let connecting = connection.clone();
        let connected = checks.spawn(async move { connecting.cluster().await }).await;
        connected.map_err(|_gone| AppError::Control)??;
    }
    Ok(connection)
}

/// Where endpoints are, as far as that is known in time.
async fn first_addresses(
    config: &Config,
    discoveries: &Discoveries,
    resolved: &mut mpsc::UnboundedReceiver<Resolved>,
) -> Resolved {
    let services = endpoint_services(&config.routes);
    discoveries.set(services.clone());
    let discovered = discovery::first_answers(&services, resolved, FIRST_NAMES);
    let (mut first, discovered) = tokio::join!(first_answers(endpoint_names(&config.routes), FIRST_NAMES), discovered);
    first.extend(discovered);
    first
}

fn first_view(path: &Path, config: &Config, hash: String) -> ConfigView {
    ConfigView {
        file: path.display().to_string(),
        hash,
        generation: 1,
        loaded_at: now_in_words(),
        running: running(config),
        ..ConfigView::default()
    }
}

/// A thread for tasks beside the loop; it ends with the process.
fn background(name: &str) -> io::Result<tokio::runtime::Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Starts the loop on a thread of its own; returns when the config is in force.
async fn run_control(parts: Parts, inputs: Inputs) -> Result<(), AppError> {
    let refused = |source| AppError::Start { what: "the control loop", source };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(refused)?;
    let (in_force, waits) = oneshot::channel();
    let control = async move {
        let control = Control::begin(parts).await;
        // Nobody hears it if the start was broken off.
        _ = in_force.send(());
        control.run(inputs).await;
    };
    thread::Builder::new().name("control".to_owned()).spawn(move || runtime.block_on(control)).map_err(refused)?;
    waits.await.map_err(|_gone| AppError::Control)
}

/// Serves the admin API on a thread of its own.
/// The signals that are obeyed; heard from the start on, so that none is missed.
struct Signals<T, I> {
    terminate: T,
    interrupt: I,
    hang_up: Signal,
}

impl Signals<(), ()> {
    fn listen() -> Result<Signals<impl Future<Output = ()>, impl Future<Output = ()>>, AppError> {
        let refused = |source| AppError::Start { what: "the signal handlers", source };
        Ok(Signals {
            terminate: Box::pin(shutdown::terminate().map_err(refused)?),
            interrupt: Box::pin(shutdown::interrupt().map_err(refused)?),
            hang_up: signal(SignalKind::hangup()).map_err(refused)?,
        })
    }
}

impl<T: Future<Output = ()> + Unpin, I: Future<Output = ()> + Unpin> Signals<T, I> {
    /// Serves until the end is asked for, and ends as it was asked.
    async fn obey(mut self, started: Started, mut replaced: mpsc::UnboundedReceiver<()>, drain_delay: Duration) {
        match self.wait(&started.watch, &mut replaced).await {
            End::AtOnce => info!("interrupted; ending at once"),
            End::Drained => self.drain(drain(started, drain_delay)).await,
            End::Replaced => self.drain(leave(started)).await,
        }
    }

    /// Until the end is asked for.
    async fn wait(&mut self, watch: &ConfigWatch, replaced: &mut mpsc::UnboundedReceiver<()>) -> End {
        loop {
            tokio::select! {
                Some(()) = replaced.recv() => return End::Replaced,
                () = &mut self.terminate => return End::Drained,
                () = &mut self.interrupt => return End::AtOnce,
                _ = self.hang_up.recv() => watch.reload(),
            }
        }
    }

    async fn drain(&mut self, draining: impl Future<Output = ()>) {
        tokio::select! {
            () = draining => info!("drained"),
            () = second_terminate() => warn!("told to end a second time; ending at once"),
            () = &mut self.interrupt => warn!("interrupted; ending at once"),
        }
    }
}

/// How the end was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    AtOnce,
    Drained,
    Replaced,
}

async fn second_terminate() {
    match shutdown::terminate() {
        Ok(again) => again.await,
        Err(error) => {
            error!(%error, "a second SIGTERM will not be heard");
            std::future::pending::<()>().await;
        }
    }
}

/// Says that we are leaving and serves on while that gets about; then lets requests in flight end, and lets the control
/// path keep what it knows.
async fn drain(started: Started, delay: Duration) {
    let Started { serving, commands, watch: _watch, admin, door, snapshots: _snapshots, notifier: _notifier } = started;
    // The loop lives as long as this process, or has taken it down.
    drop(commands.send(Command::Drain));
    info!(delay_ms = delay.as_millis(), "told to end; not ready any more, serving on for the delay");
    tokio::time::sleep(delay).await;
    if let Some(door) = door {
        door.close();
    }
    serving.drain(DRAIN_DEADLINE).await;
    let (stopped, stop) = oneshot::channel();
    drop(commands.send(Command::Stop(stopped)));
    if tokio::time::timeout(STOP_DEADLINE, stop).await.is_err() {
        warn!("the control path did not end in time; what was kept before stands, the last decisions may not");
    }
    admin.close().await;
}

/// Another process serves and decides: lets requests in flight end, and what is to be told of them be written. New
/// connections are that one's.
async fn leave(started: Started) {
    let Started { serving, commands: _commands, watch: _watch, admin, door, snapshots, notifier } = started;
    if let Some(door) = door {
        door.close();
    }
    tokio::join!(admin.close(), serving.drain(DRAIN_DEADLINE));
    // The control loop has let go; nobody else does this for it.
    let observers = snapshots.load().observers.clone();
    tokio::join!(observers.flush(LAST_RECORDS), notifier.flush(LAST_NEWS));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_the_control_path_takes_the_process_down() {
        for thread in ["control", "control-state", "control-config", "control-checks"] {
            assert!(guards_traffic(thread), "{thread}");
        }
        for thread in ["edge-0", "admin", "main", "logs"] {
            assert!(!guards_traffic(thread), "{thread}");
        }
    }

    #[test]
    fn a_file_that_is_missing_or_bad_is_wrong_usage() {
        let folder = tempfile::tempdir().unwrap();
        let missing = load(&folder.path().join("none.yaml")).unwrap_err();
        assert!(missing.is_wrong_usage() && missing.to_string().contains("none.yaml"), "{missing}");
        let path = folder.path().join("bad.yaml");
        fs::write(&path, "routes: 5\nlistenres: []\n").unwrap();
        let bad = load(&path).unwrap_err();
        assert!(bad.is_wrong_usage() && bad.to_string().lines().count() >= 2, "{bad}");
    }

    #[test]
    fn paths_start_from_the_files_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pointsman.yaml");
        let text = "listeners: [{ address: 127.0.0.1:0 }]\nstate: { file: state.db }\nroutes: [{ name: r, stable: v1, versions: { v1: { endpoints: [127.0.0.1:9001] } } }]\n";
        fs::write(&path, text).unwrap();
        assert_eq!(load(&path).unwrap().config.state, State::File(folder.path().join("state.db")));
    }
}
