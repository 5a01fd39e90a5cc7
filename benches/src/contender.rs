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

use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::figures::{Better, Row, Sheet, row};
use crate::rig::loopback;
use crate::subject::{self, Subject, SubjectError, search_path};

/// What requests ask for; with many routes, one in their middle has it.
pub const PATH: &str = "/models/m500/v1/predict";
/// That one.
const ASKED_ROUTE: usize = 500;
/// Routes of the large config.
pub const MANY_ROUTES: usize = 1_000;
/// Endpoints of each version in the large config.
const ENDPOINTS_PER_VERSION: usize = 5;

const ROWS: &[Row] = &[
    row("rps_64", "requests/s on one core, 64 connections", "1/s", Better::Higher, 0).ratio(1.15),
    row("busy_64", "… of its core in use meanwhile", "%", Better::Neither, 0),
    row("rps_256", "requests/s on one core, 256 connections", "1/s", Better::Higher, 0).ratio(1.15),
    row("busy_256", "… of its core in use meanwhile", "%", Better::Neither, 0),
    row("rps_fresh", "requests/s, each on a new connection", "1/s", Better::Higher, 0),
    row("p50_half", "p50 at half of nginx's saturation", "ms", Better::Lower, 3),
    row("p99_half", "p99 at half of nginx's saturation", "ms", Better::Lower, 3).ratio(1.0),
    row("p999_half", "p99.9 at half of nginx's saturation", "ms", Better::Lower, 3),
    row("cpu_per_million", "CPU seconds per million requests at the common rate", "s", Better::Lower, 1).ratio(0.85),
    row("p99_steady", "p99 at the common rate, weights left alone", "ms", Better::Lower, 3),
    row("p99_changing", "p99 at the common rate, weights changed 10 times a second", "ms", Better::Lower, 3).ratio(1.0),
    row("p99_changing_ratio", "… as a ratio to weights left alone", "×", Better::Lower, 2).figure(1.1),
    row("lost_changing", "requests lost while weights change", "", Better::Lower, 0).figure(0.0),
    row("p50_one", "p50 at one connection", "µs", Better::Lower, 1),
    row("added_p50", "latency added at one connection, p50", "µs", Better::Lower, 1).figure(30.0),
    row("rss_idle", "memory, just started", "MB", Better::Lower, 1),
    row("rss_1000", "memory, 1,000 idle connections", "MB", Better::Lower, 1).figure(30.0),
    row("rss_after", "memory, after the load", "MB", Better::Lower, 1),
    row("lost", "requests lost under steady load", "", Better::Lower, 0).figure(0.0),
    row("routes_cpu_ratio", "CPU of a request among 1,000 routes against 1", "×", Better::Lower, 3).figure(1.02),
    row("effect_one", "edit in force, 1 route", "ms", Better::Lower, 0),
    row("effect_many", "edit in force, 1,000 routes and 10,000 endpoints", "ms", Better::Lower, 0).figure(100.0),
    row("p99_many_steady", "p99 with 1,000 routes, no edit", "ms", Better::Lower, 3),
    row("p99_many_edited", "p99 with 1,000 routes, an edit each second", "ms", Better::Lower, 3),
    row("p99_many_ratio", "… as a ratio to no edit", "×", Better::Lower, 2).figure(1.1),
    row("control_many", "CPU beside requests with 1,000 routes and 10,000 endpoints", "% of a core", Better::Lower, 1),
];

/// The row with this id.
pub fn find(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

/// The table.
pub const SHEET: Sheet = Sheet {
    title: "Pointsman beside nginx, HAProxy and a minimal pingora proxy",
    ratio: "The ratio is to the better of nginx and HAProxy in the same round, median over the rounds.",
    picture: "requests a second, latency, CPU and memory as bars",
    columns: &NAMES,
    peers: &["nginx", "HAProxy"],
    ours: "Pointsman",
    rows: ROWS,
    panels: &["rps_64", "rps_256", "rps_fresh", "cpu_per_million", "p99_half", "p99_changing", "added_p50", "rss_1000"],
    unseen: "no proxy",
};
/// The columns, in the order of [`Contender::ALL`].
const NAMES: [&str; 6] = ["no proxy", "nginx", "HAProxy", "minimal pingora", "Pointsman, no fast lane", "Pointsman"];

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
        let [direct, nginx, haproxy, minimal, framework, pointsman] = NAMES;
        match self {
            Self::Direct => direct,
            Self::Nginx => nginx,
            Self::Haproxy => haproxy,
            Self::Minimal => minimal,
            Self::Framework => framework,
            Self::Pointsman => pointsman,
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
    pub async fn version(self) -> Result<String, SubjectError> {
        let (program, argument) = match self {
            Self::Direct => return Ok(String::new()),
            Self::Nginx => (PathBuf::from("nginx"), "-v"),
            Self::Haproxy => (PathBuf::from("haproxy"), "-v"),
            Self::Minimal => return Ok("pingora 0.9.1, the same allocator and build profile as Pointsman".to_owned()),
            Self::Framework => return Ok("the same, `fast_lane: false`".to_owned()),
            Self::Pointsman => (beside("pointsman")?, "--version"),
        };
        let said = Command::new(program).env("PATH", search_path()).arg(argument).output().await;
        let said = said.map_err(|source| SubjectError::Start { what: self.name(), source })?;
        let text = [said.stdout, said.stderr].concat();
        Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
    }
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
    /// None where nobody stands between.
    subject: Option<Subject>,
    folder: tempfile::TempDir,
}

impl Running {
    /// Starts `contender` before the versions at `upstreams` and waits until it listens.
    ///
    /// # Errors
    /// If it cannot be started or does not listen.
    pub async fn start(contender: Contender, size: Size, upstreams: [u16; 2]) -> Result<Self, SubjectError> {
        let address = match contender {
            Contender::Direct => loopback(upstreams[0]),
            Contender::Nginx
            | Contender::Haproxy
            | Contender::Minimal
            | Contender::Framework
            | Contender::Pointsman => TcpListener::bind("127.0.0.1:0")?.local_addr()?,
        };
        let folder = tempfile::tempdir()?;
        let mut running = Self { contender, size, address, upstreams, subject: None, folder };
        running.prepare(Percent(10))?;
        let name = contender.name();
        running.subject = running.command()?.map(|mut command| Subject::start(name, &mut command)).transpose()?;
        subject::listens(name, address).await?;
        Ok(running)
    }

    /// Where the files of the proxy are.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Result<Option<Command>, SubjectError> {
        let mut command = Subject::pinned();
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

    /// The processes that do its work now.
    ///
    /// # Errors
    /// If it has gone.
    pub fn pids(&self) -> Result<Vec<u32>, SubjectError> {
        self.subject.as_ref().map_or_else(|| Ok(Vec::new()), Subject::pids)
    }

    /// Ends it in its own way; kills it if that takes too long.
    ///
    /// # Errors
    /// If its end cannot be waited for.
    pub async fn stop(self) -> Result<(), SubjectError> {
        match self.subject {
            Some(subject) => subject.stop().await,
            None => Ok(()),
        }
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
    pub fn prepare(&self, percent: Percent) -> Result<(), SubjectError> {
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
    pub fn set(&self, percent: Percent) -> Result<(), SubjectError> {
        match self.contender {
            Contender::Direct | Contender::Minimal => {}
            Contender::Framework | Contender::Pointsman => self.replace_config(percent)?,
            Contender::Nginx => {
                self.replace_config(percent)?;
                if let Some(subject) = &self.subject {
                    subject.tell(Signal::SIGHUP);
                }
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
pub(crate) fn beside(program: &str) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(Path::new(".")).join(program))
}
