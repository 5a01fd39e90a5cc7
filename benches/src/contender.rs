//! Who is measured: how each proxy is configured, started, told other weights, and stopped.
//!
//! All get the same core and do the same work: one of ten requests goes to the second of two versions, on connections
//! that are kept.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::process;
use crate::rig::loopback;

/// The core of the proxies; the rig has another.
const PROXY_CORE: &str = "0";
/// A proxy that does not listen after this long will not.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// A proxy that is not gone after this long is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// What requests ask for; with many routes, one in their middle has it.
pub const PATH: &str = "/models/m500/v1/predict";
/// That one.
const ASKED_ROUTE: usize = 500;
/// Routes of the large config.
pub const MANY_ROUTES: usize = 1_000;
/// Endpoints of each version in the large config.
const ENDPOINTS_PER_VERSION: usize = 5;

/// Why a proxy cannot be measured.
#[derive(Debug, Error)]
pub enum ContenderError {
    /// It is not there, or not built.
    #[error("{what} cannot be started; `make bench` installs and builds what is measured")]
    Start {
        /// Who.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It does not listen.
    #[error("{what} does not listen on {address} after 20 s; its messages are above")]
    Silent {
        /// Who.
        what: &'static str,
        /// Where it should.
        address: SocketAddr,
    },
    /// Files, sockets or signals.
    #[error("files, sockets or processes of the bench")]
    Io(#[from] io::Error),
}

/// A proxy and how it is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// Nobody between load and upstream: the limit of the rig.
    Direct,
    /// nginx from Debian.
    Nginx,
    /// `HAProxy` from Debian.
    Haproxy,
    /// As little proxy as pingora allows.
    Minimal,
    /// Pointsman with every request on the framework's lane.
    Framework,
    /// Pointsman as it comes.
    Pointsman,
}

impl Contender {
    /// Everybody, in the order of the report.
    pub const ALL: [Self; 6] =
        [Self::Direct, Self::Nginx, Self::Haproxy, Self::Minimal, Self::Framework, Self::Pointsman];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Minimal => "minimal pingora",
            Self::Framework => "Pointsman, no fast lane",
            Self::Pointsman => "Pointsman",
        }
    }

    /// Whether its weights can be changed while it runs.
    pub fn changes_weights(self) -> bool {
        match self {
            Self::Direct | Self::Minimal => false,
            Self::Nginx | Self::Haproxy | Self::Framework | Self::Pointsman => true,
        }
    }

    /// What it calls its version, as it says it itself.
    ///
    /// # Errors
    /// If it cannot be run.
    pub async fn version(self) -> Result<String, ContenderError> {
        let (program, argument) = match self {
            Self::Direct => return Ok(String::new()),
            Self::Nginx => (PathBuf::from("nginx"), "-v"),
            Self::Haproxy => (PathBuf::from("haproxy"), "-v"),
            Self::Minimal => return Ok("pingora 0.9.1, the same allocator and build profile as Pointsman".to_owned()),
            Self::Framework => return Ok("the same, `fast_lane: false`".to_owned()),
            Self::Pointsman => (beside("pointsman")?, "--version"),
        };
        let said = Command::new(program).env("PATH", search_path()).arg(argument).output().await;
        let said = said.map_err(|source| ContenderError::Start { what: self.name(), source })?;
        let text = [said.stdout, said.stderr].concat();
        Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
    }
}

/// Debian keeps servers where only root's path looks.
fn search_path() -> String {
    format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default())
}

/// The weight of the second version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u32);

/// How large Pointsman's config is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The one route that is asked.
    OneRoute,
    /// 1,000 routes and 10,000 endpoints.
    ManyRoutes,
}

/// A proxy at work; dropped, it is told to end.
#[derive(Debug)]
pub struct Running {
    contender: Contender,
    size: Size,
    /// Where it listens.
    pub address: SocketAddr,
    upstreams: [u16; 2],
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Running {
    /// Starts `contender` before the versions at `upstreams` and waits until it listens.
    ///
    /// # Errors
    /// If it cannot be started or does not listen.
    pub async fn start(contender: Contender, size: Size, upstreams: [u16; 2]) -> Result<Self, ContenderError> {
        let address = match contender {
            Contender::Direct => loopback(upstreams[0]),
            Contender::Nginx
            | Contender::Haproxy
            | Contender::Minimal
            | Contender::Framework
            | Contender::Pointsman => TcpListener::bind("127.0.0.1:0")?.local_addr()?,
        };
        let folder = tempfile::tempdir()?;
        let mut running = Self { contender, size, address, upstreams, child: None, folder };
        running.prepare(Percent(10))?;
        running.child = running.command()?.map(|mut command| running.spawn(&mut command)).transpose()?;
        running.wait().await?;
        Ok(running)
    }

    /// Where the files of the proxy are.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Result<Option<Command>, ContenderError> {
        let mut command = Command::new("taskset");
        command.args(["-c", PROXY_CORE]);
        match self.contender {
            Contender::Direct => return Ok(None),
            Contender::Nginx => command.arg("nginx").arg("-e").arg(self.file("nginx.log")).arg("-c").arg(self.config()),
            Contender::Haproxy => command.args(["haproxy", "-db", "-f"]).arg(self.config()),
            Contender::Minimal => {
                let [first, second] = self.upstreams.map(|port| loopback(port).to_string());
                let listen = self.address.to_string();
                command.arg(beside("minimal_pingora")?);
                command.args(["--listen", &listen, "--first", &first, "--second", &second])
            }
            Contender::Framework | Contender::Pointsman => {
                command.arg(beside("pointsman")?).args(["run", "--drain-delay", "0s", "--config"]).arg(self.config())
            }
        };
        Ok(Some(command))
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, ContenderError> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).env("RUST_LOG", "error");
        let what = self.contender.name();
        command.env("PATH", search_path()).spawn().map_err(|source| ContenderError::Start { what, source })
    }

    async fn wait(&self) -> Result<(), ContenderError> {
        let until = Instant::now() + START_PATIENCE;
        while Instant::now() < until {
            if tokio::net::TcpStream::connect(self.address).await.is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err(ContenderError::Silent { what: self.contender.name(), address: self.address })
    }

    /// The processes that do its work now.
    ///
    /// # Errors
    /// If it has gone.
    pub fn pids(&self) -> Result<Vec<u32>, ContenderError> {
        match self.child.as_ref().and_then(Child::id) {
            Some(pid) => Ok(process::family(pid)?),
            None => Ok(Vec::new()),
        }
    }

    fn tell(&self, what: Signal) {
        if let Some(child) = &self.child {
            signal(child, what);
        }
    }

    /// Ends it in its own way; kills it if that takes too long.
    ///
    /// # Errors
    /// If signals cannot be sent.
    pub async fn stop(mut self) -> Result<(), ContenderError> {
        let family = self.pids()?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        signal(&child, Signal::SIGTERM);
        if timeout(STOP_PATIENCE, child.wait()).await.is_err() {
            for pid in family.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
                // Whoever has gone meanwhile needs no signal.
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_default();
            }
            child.wait().await?;
        }
        Ok(())
    }

    // -- weights

    fn config(&self) -> PathBuf {
        self.file("config")
    }

    /// A config with this weight, made beforehand, so that a change costs the rig's core a rename and no writing.
    fn draft(&self, percent: Percent) -> PathBuf {
        self.file(&format!("config-{}", percent.0))
    }

    /// Writes what [`Running::set`] puts in force later.
    ///
    /// # Errors
    /// If files cannot be written.
    pub fn prepare(&self, percent: Percent) -> Result<(), ContenderError> {
        let text = match self.contender {
            Contender::Direct | Contender::Minimal => return Ok(()),
            Contender::Nginx => self.filled_in(include_str!("../peers/nginx.conf"), percent),
            Contender::Haproxy => self.filled_in(include_str!("../peers/haproxy.cfg"), percent),
            Contender::Framework | Contender::Pointsman => self.pointsman_config(percent),
        };
        fs::write(self.draft(percent), text)?;
        if !self.config().exists() {
            self.replace_config(percent)?;
        }
        Ok(())
    }

    /// Gives the second version another weight, each proxy in its own way.
    ///
    /// # Errors
    /// If the proxy cannot be reached.
    pub fn set(&self, percent: Percent) -> Result<(), ContenderError> {
        match self.contender {
            Contender::Direct | Contender::Minimal => {}
            Contender::Framework | Contender::Pointsman => self.replace_config(percent)?,
            Contender::Nginx => {
                self.replace_config(percent)?;
                self.tell(Signal::SIGHUP);
            }
            Contender::Haproxy => {
                let mut socket = UnixStream::connect(self.file("haproxy.sock"))?;
                let (first, second) = (100 - percent.0, percent.0);
                let words = format!("set weight versions/v1 {first}; set weight versions/v2 {second}\n");
                socket.write_all(words.as_bytes())?;
            }
        }
        Ok(())
    }

    fn replace_config(&self, percent: Percent) -> io::Result<()> {
        let link = self.file("config-next");
        // Two names of one file are not renamed onto each other, and the first of them stays.
        drop(fs::remove_file(&link));
        fs::hard_link(self.draft(percent), &link)?;
        fs::rename(link, self.config())
    }

    fn filled_in(&self, template: &str, Percent(second): Percent) -> String {
        let [first_port, second_port] = self.upstreams;
        let values = [
            ("@FOLDER@", self.folder.path().display().to_string()),
            ("@PORT@", self.address.port().to_string()),
            ("@FIRST_PORT@", first_port.to_string()),
            ("@SECOND_PORT@", second_port.to_string()),
            ("@FIRST_PERCENT@", (100 - second).to_string()),
            ("@SECOND_PERCENT@", second.to_string()),
        ];
        values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    fn pointsman_config(&self, percent: Percent) -> String {
        let mut text = format!(
            "listeners: [ {{ address: {} }} ]\nadmin: {{ address: 127.0.0.1:0 }}\nstate: {{ file: state.db }}\nfast_lane: {}\nroutes:\n",
            self.address,
            self.contender == Contender::Pointsman
        );
        let own = |number| if number == ASKED_ROUTE { percent } else { Percent(10) };
        match self.size {
            Size::OneRoute => {
                route(&mut text, ASKED_ROUTE, percent, self.upstreams.map(|port| vec![loopback(port)]));
            }
            Size::ManyRoutes => {
                for number in 0..MANY_ROUTES {
                    route(&mut text, number, own(number), self.upstreams.map(|port| endpoints(number, port)));
                }
            }
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell(Signal::SIGTERM);
    }
}

fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // Whoever has gone meanwhile needs no signal.
        kill(Pid::from_raw(pid), signal).unwrap_or_default();
    }
}

/// Loopback addresses that nobody else has; the versions listen on all of them.
fn endpoints(route: usize, port: u16) -> Vec<SocketAddr> {
    let addresses = (0..ENDPOINTS_PER_VERSION).filter_map(|number| {
        let [block, host] = [route / 250, route % 250 + 1].map(u8::try_from);
        let zone = u8::try_from(number + 1);
        Some(SocketAddr::from(([127, zone.ok()?, block.ok()?, host.ok()?], port)))
    });
    addresses.collect()
}

fn route(text: &mut String, number: usize, Percent(second): Percent, versions: [Vec<SocketAddr>; 2]) {
    let [v1, v2] = versions
        .map(|endpoints| endpoints.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", "));
    // Writing to a string cannot fail.
    _ = write!(
        text,
        "  - name: m{number}\n    match: {{ path_prefix: /models/m{number} }}\n    stable: v1\n    versions:\n      \
         v1: {{ endpoints: [{v1}] }}\n      v2: {{ endpoints: [{v2}] }}\n    weights: {{ v1: {}%, v2: {second}% }}\n",
        100 - second
    );
}

/// A program that was built with this one.
fn beside(program: &str) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(Path::new(".")).join(program))
}
