//! The command line: what was asked, who does it, and with which exit code it ends.
//!
//! `run` is the edge itself; `check` and `schema` work on a config file; everything else is a client of the admin API.

mod args;
mod check;
mod client;
mod completions;
mod demo;
mod explain;
mod foresight;
mod history;
mod kubectl;
mod notify;
mod orders;
mod print;
mod replay;
mod run;
mod status;
mod words;

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches};
use http::StatusCode;
use thiserror::Error;

pub use args::{Cli, Command};
pub use client::Connection;

use crate::admin::Problem;
use client::Admin;
use kubectl::{ClusterArgs, ReachError};

/// The exit code for wrong usage and for a bad config.
const WRONG_USAGE: u8 = 2;
/// The exit code for what failed while running.
const FAILED: u8 = 1;

/// Why a command failed, and the way out.
#[derive(Debug, Error)]
pub enum CliError {
    /// The config file is refused; its problems are printed already.
    #[error("`{file}` is refused; put the problems above right")]
    BadConfig {
        /// The file.
        file: String,
    },
    /// The config file cannot be read.
    #[error("`{file}` cannot be read; give the path of a config file that this user may read")]
    ConfigFile {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The token file cannot be read.
    #[error("the token file `{}` cannot be read; --token-file or POINTSMAN_TOKEN_FILE names it", file.display())]
    TokenFile {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The admin address cannot be asked.
    #[error(
        "`{url}` is no admin address; write --admin http://HOST:PORT (https is not spoken here: forward the port, with ssh -L or kubectl port-forward)"
    )]
    Address {
        /// What was written.
        url: String,
    },
    /// Weights that cannot be meant.
    #[error("{what}")]
    Weights {
        /// What is wrong with them, and the way out.
        what: String,
    },
    /// Nobody answers.
    #[error(
        "no answer from the edge at {url}; is it running (`pointsman run --config FILE`), and is this its admin address (--admin URL or POINTSMAN_ADMIN)?"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// Somebody else answers, or an edge of another version.
    #[error("{url} answered with status {status}, but not as an edge of this version does; is this the admin address, and is the edge of version {}?", env!("CARGO_PKG_VERSION"))]
    Strange {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What could not be understood.
        source: serde_json::Error,
    },
    /// An edge answers, on an address for clients.
    #[error(
        "{url} is where this edge serves clients; ask its admin address, which `pointsman run` prints and `admin.address` of the config file names"
    )]
    DataPort {
        /// Where.
        url: String,
    },
    /// The edge says no.
    #[error("{} ({})", problem.detail, problem.code)]
    Refused {
        /// What it says.
        problem: Box<Problem>,
    },
    /// The edge of a cluster asks for its token, and there is none.
    #[error(
        "the edge asks for its token, and kubectl gives none: `admin-token` of the Secret `{secret}` is not there, or you may not read it (`kubectl get secret {secret}` says which); --token-file FILE takes its place"
    )]
    NoToken {
        /// The Secret.
        secret: String,
    },
    /// A webhook did not take its test.
    #[error("webhook `{webhook}` did not take it: {problem}")]
    NotDelivered {
        /// The webhook.
        webhook: String,
        /// Why.
        problem: String,
    },
    /// One of several edges was asked for the traffic of all.
    #[error(
        "{url} is one of several edges and knows only its own {requests_per_s:.1} requests/s of `{route}`; say how many all of them get, with --rps (the leader knows it too, while it compares two versions)"
    )]
    PartOfTraffic {
        /// Which edge.
        url: String,
        /// Which route.
        route: String,
        /// What it carries of it.
        requests_per_s: f64,
    },
    /// There is nothing to explain.
    #[error("`{route}` has no decision yet; `pointsman status {route}` shows where it stands")]
    NoDecision {
        /// The route.
        route: String,
    },
    /// A decision of another route.
    #[error("decision {id} is one of route `{actual}`; say `pointsman explain {actual} {id}`")]
    OtherRoute {
        /// Its number.
        id: u64,
        /// Its route.
        actual: String,
    },
    /// The edge cannot start, or failed.
    #[error(transparent)]
    Run(#[from] run::RunError),
    /// The demo could not be played, or did not end as it should.
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    /// Standard output cannot be written to.
    #[error("standard output cannot be written to")]
    Output(#[from] io::Error),
    /// The manual pages cannot be written.
    #[error("no manual pages can be written into `{}`; name another folder with --out", folder.display())]
    ManPages {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to replay.
    #[error(transparent)]
    Replay(#[from] replay::RecordError),
    /// There is no way to the edge through `kubectl`.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The terminal cannot be used for `--watch`.
    #[error("the terminal cannot show a live view; `pointsman status --watch | cat` prints a line for each change")]
    Watch {
        /// Why.
        source: io::Error,
    },
}

impl CliError {
    /// Whether somebody answered, and not with what was asked for.
    fn is_an_answer(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Strange { .. } | Self::NoToken { .. })
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            // Whoever reads has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::BadConfig { .. }
            | Self::ConfigFile { .. }
            | Self::TokenFile { .. }
            | Self::Address { .. }
            | Self::Weights { .. }
            | Self::PartOfTraffic { .. }
            | Self::Replay(_) => WRONG_USAGE.into(),
            Self::Refused { problem } if problem.status == StatusCode::UNPROCESSABLE_ENTITY.as_u16() => {
                WRONG_USAGE.into()
            }
            Self::Run(error) => error.exit_code().into(),
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Strange { .. }
            | Self::DataPort { .. }
            | Self::NoDecision { .. }
            | Self::OtherRoute { .. }
            | Self::NoToken { .. }
            | Self::NotDelivered { .. }
            | Self::Demo(_)
            | Self::Reach(_)
            | Self::ManPages { .. }
            | Self::Output(_)
            | Self::Watch { .. } => FAILED.into(),
        }
    }

    /// The error and what lies behind it, on one line.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut behind = self.source();
        while let Some(cause) = behind {
            // Writing to a String cannot fail.
            let written = write!(text, ": {cause}");
            debug_assert!(written.is_ok(), "a String takes every text");
            behind = cause.source();
        }
        text
    }
}

/// Does what the arguments say; the first is the program's own name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match completions::answered(&arguments) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => return explained(&error),
    }
    let cli = match parsed(&arguments) {
        Ok(cli) => cli,
        Err(error) => return explained(&error),
    };
    match carried_out(cli) {
        Ok(code) => code,
        Err(error) => {
            let code = error.exit_code();
            if code != ExitCode::SUCCESS {
                print::complain(&error.chain());
            }
            code
        }
    }
}

fn parsed(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let as_plugin = is_kubectl_plugin(arguments.first());
    if as_plugin {
        command = ClusterArgs::NAMES.into_iter().fold(command.bin_name("kubectl pointsman"), |command, name| {
            command.mut_arg(name, |argument| argument.hide(false))
        });
    }
    let matches = command.clone().try_get_matches_from(arguments);
    let matches = matches.map_err(|error| with_a_tip(as_written(command.clone(), arguments).unwrap_or(error)))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    cli.connection.settle(&matches, as_plugin).map_err(|error| error.format(&mut command))?;
    Ok(cli)
}

/// The same error as if the environment said nothing: its addresses would stand in the usage as if they were asked for.
fn as_written(command: clap::Command, arguments: &[OsString]) -> Option<clap::Error> {
    let alone = ["admin", "token_file"]
        .into_iter()
        .fold(command, |command, name| command.mut_arg(name, |argument| argument.env(None::<&str>)));
    alone.try_get_matches_from(arguments).err()
}

/// Says where the names of routes are to be had, where one is missing or is none.
fn with_a_tip(mut error: clap::Error) -> clap::Error {
    let is_about_a_route = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.iter().any(|argument| argument.contains("ROUTE")),
        Some(ContextValue::String(argument)) => argument.contains("ROUTE"),
        Some(_) | None => false,
    };
    if is_about_a_route {
        let tip = "`pointsman status` lists the routes".into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// `kubectl pointsman …` starts a program of this name.
fn is_kubectl_plugin(program: Option<&OsString>) -> bool {
    let name = program.and_then(|path| Path::new(path).file_name());
    name.is_some_and(|name| name == "kubectl-pointsman")
}

/// Help and version go to standard output and are no failure; everything else is wrong usage.
fn explained(error: &clap::Error) -> ExitCode {
    let code = if error.use_stderr() { WRONG_USAGE.into() } else { ExitCode::SUCCESS };
    match error.print() {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => FAILED.into(),
        Ok(()) | Err(_) => code,
    }
}

fn carried_out(cli: Cli) -> Result<ExitCode, CliError> {
    let connection = cli.connection;
    match cli.command {
        Command::Run(args) => run::run(&args)?,
        Command::Demo(args) => demo::demo(&args)?,
        Command::Check(args) => return check::check(&args, &connection),
        Command::Schema => check::schema()?,
        Command::Replay(args) => return replay::replay(&args),
        Command::Completions(args) => completions::completions(&args)?,
        Command::Man(args) => completions::man(&args)?,
        Command::Status(args) => status::status(Admin::new(&connection)?, &args)?,
        Command::Weights(args) => orders::weights(&Admin::new(&connection)?, &args)?,
        Command::Promote(args) => orders::promote(&Admin::new(&connection)?, &args)?,
        Command::Rollback(args) => orders::simple(&Admin::new(&connection)?, "rollback", &args)?,
        Command::Pause(args) => orders::simple(&Admin::new(&connection)?, "pause", &args)?,
        Command::Resume(args) => orders::resume(&Admin::new(&connection)?, &args)?,
        Command::Retry(args) => orders::retry(&Admin::new(&connection)?, &args)?,
        Command::Notify(args) => notify::notify(&Admin::new(&connection)?, &args)?,
        Command::History(args) => history::history(&Admin::new(&connection)?, &args)?,
        Command::Explain(args) => explain::explain(&Admin::new(&connection)?, &args)?,
    }
    Ok(ExitCode::SUCCESS)
}
