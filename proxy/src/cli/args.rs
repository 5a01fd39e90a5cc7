//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use pointsman_config::{RouteName, Share, VersionId};
use pointsman_telemetry::logs::LogFormat;

use super::client::Connection;
use super::completions::{self, Shell};
use super::demo::DemoArgs;

/// Blue-green and canary edge proxy for model servers: splits live traffic between two versions, compares them, and takes the worse one back by itself.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version = crate::build::VERSION, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the edge is, for operator commands.
    #[command(flatten, next_help_heading = "Where the edge is (operator commands)")]
    pub connection: Connection,
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the edge (SIGTERM drains and ends it, SIGINT ends it at once)
    Run(RunArgs),
    /// Play the main job on real processes: a canary promoted, one taken back, weights edited
    Demo(DemoArgs),
    /// Check a config file: every problem with its place and the way out
    Check(CheckArgs),
    /// Print the JSON Schema of the config file
    Schema,
    /// Show where routes stand: what serves, what is tried, and whether it is worse
    Status(StatusArgs),
    /// Divide the traffic of a route by hand
    Weights(WeightsArgs),
    /// Give the canary all traffic now
    Promote(PromoteArgs),
    /// Take the canary back to weight 0 now
    Rollback(OrderArgs),
    /// Stop a rollout where it stands; the guard stays armed
    Pause(OrderArgs),
    /// Go on with a paused rollout
    Resume(ResumeArgs),
    /// Lift the quarantine of a version that was taken back
    Retry(RetryArgs),
    /// Ask about webhooks that are told of changes
    Notify(NotifyArgs),
    /// List the decisions of a route
    History(HistoryArgs),
    /// Explain a decision: counts, odds, interval, failing requests, and what to do
    Explain(ExplainArgs),
    /// Decide a recorded trial again under the policy of a config file
    Replay(ReplayArgs),
    /// Print the completions of a shell, which know the edge's routes and versions
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder
    Man(ManArgs),
}

/// `replay`
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What `pointsman history ROUTE --counts` printed; `-` reads standard input
    #[arg(value_name = "DECISIONS")]
    pub decisions: PathBuf,
    /// Config file with the policy
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell; for bash: source <(pointsman completions bash)
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// `man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder; made if it is missing
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

/// `run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Config file; changes of it are put in force while running
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How log lines are written to standard error: text or json
    #[arg(long, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// After SIGTERM, serve on for so long with /readyz at 503, so that load balancers look elsewhere before the
    /// listeners close
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = pointsman_config::parse_duration)]
    pub drain_delay: Duration,
    /// Take over from the running process that keeps its state in the same file: its listening sockets, its state, and
    /// with them every new connection; it finishes what it has begun and ends. Nobody is refused
    #[arg(long)]
    pub upgrade: bool,
}

/// `check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Config file; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Requests per second of each route: forecasts its plan, and warns of what cannot decide at that rate
    #[arg(long, value_name = "NUMBER", value_parser = requests_per_second)]
    pub rps: Option<f64>,
    /// The same with the rates of a running edge, over the last 10 s: its admin address
    #[arg(long, value_name = "URL", conflicts_with_all = ["rps", "baseline", "slow"])]
    pub from: Option<String>,
    /// Share of requests that stable fails, for --rps
    #[arg(long, value_name = "SHARE", default_value = "0.1%", value_parser = pointsman_config::parse_percent, requires = "rps")]
    pub baseline: f64,
    /// Share of answers slower than `guard.latency`, for --rps
    #[arg(long, value_name = "SHARE", default_value = "0.5%", value_parser = pointsman_config::parse_percent, requires = "rps")]
    pub slow: f64,
    /// End with 2 on warnings, too
    #[arg(long)]
    pub deny_warnings: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this route
    #[arg(value_name = "ROUTE", add = ArgValueCandidates::new(completions::routes))]
    pub route: Option<RouteName>,
    /// Look again every second: as a live view on a terminal, a line for each change elsewhere
    #[arg(long)]
    pub watch: bool,
    /// Print JSON; with --watch one object a line
    #[arg(long)]
    pub json: bool,
}

/// `resume`
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Route
    #[arg(value_name = "ROUTE", add = ArgValueCandidates::new(completions::routes))]
    pub route: RouteName,
    /// Somebody else changed the live Service: go on with it as it is now
    #[arg(long, conflicts_with = "restore")]
    pub adopt: bool,
    /// Somebody else changed the live Service: put it back, and go on
    #[arg(long)]
    pub restore: bool,
    /// Why, for the decision log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `weights`
#[derive(Debug, Args)]
pub struct WeightsArgs {
    /// Route
    #[arg(value_name = "ROUTE", add = ArgValueCandidates::new(completions::routes))]
    pub route: RouteName,
    /// Shares that add up to 100%, such as v1=90% v2=10%
    #[arg(value_name = "VERSION=SHARE", required = true, value_parser = version_and_share, add = ArgValueCandidates::new(completions::weights))]
    pub weights: Vec<(VersionId, Share)>,
    /// Why, for the decision log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `promote`
#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// Route
    #[arg(value_name = "ROUTE", add = ArgValueCandidates::new(completions::routes))]
    pub route: RouteName,
    /// Although the route is frozen; needs a reason
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// Why, for the decision log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `rollback`, `pause`
#[derive(Debug, Args)]
pub struct OrderArgs {
    /// Route
    #[arg(value_name = "ROUTE", add = ArgValueCandidates::new(completions::routes))]
    pub route: RouteName,
    /// Why, for the decision log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `retry`
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Route
    #[arg(value_name = "ROUTE", add = ArgValueCandidates::new(completions::routes))]
    pub route: RouteName,
    /// Version that was taken back
    #[arg(value_name = "VERSION", add = ArgValueCandidates::new(completions::versions))]
    pub version: VersionId,
    /// Why, for the decision log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `notify`
#[derive(Debug, Args)]
pub struct NotifyArgs {
    /// What to do with webhooks.
    #[command(subcommand)]
    pub command: NotifyCommand,
}

/// What to do with webhooks.
#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Post a test row to a webhook, once, from the edge that is asked
    Test(NotifyTestArgs),
}

/// `notify test`
#[derive(Debug, Args)]
pub struct NotifyTestArgs {
    /// Webhook, by its name in `notifications`
    #[arg(value_name = "NAME")]
    pub name: pointsman_config::Name,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Route
    #[arg(value_name = "ROUTE", add = ArgValueCandidates::new(completions::routes))]
    pub route: RouteName,
    /// Newest decisions to list, 500 at most
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = limit)]
    pub limit: u16,
    /// Print JSON with what the present or the last trial was decided on, for `replay`
    #[arg(long)]
    pub counts: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Route
    #[arg(value_name = "ROUTE", add = ArgValueCandidates::new(completions::routes))]
    pub route: RouteName,
    /// Number of the decision, as `history` lists it; the last one with evidence if not given
    #[arg(value_name = "DECISION", value_parser = decision)]
    pub decision: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The most that a forecast is made for: what it takes grows with the root of it, and no edge carries more.
const MOST_REQUESTS_PER_S: f64 = 1e7;

/// Reads a number above 0.
fn requests_per_second(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error: std::num::ParseFloatError| error.to_string())?;
    if number > 0.0 && number <= MOST_REQUESTS_PER_S {
        Ok(number)
    } else {
        Err("write a number above 0 and up to 10000000, such as 200".to_owned())
    }
}

/// Reads how many rows are wanted.
fn limit(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| (1..=500).contains(number));
    number.ok_or_else(|| "write a number from 1 to 500".to_owned())
}

/// Reads the number of a decision.
fn decision(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_not_a_number: std::num::ParseIntError| {
        "write the number of a decision, as `pointsman history ROUTE` lists them".to_owned()
    })
}

/// Reads `v1=90%`.
fn version_and_share(text: &str) -> Result<(VersionId, Share), String> {
    let Some((version, share)) = text.split_once('=') else {
        return Err("write VERSION=SHARE, such as v2=10%".to_owned());
    };
    let version = version.parse().map_err(|error: pointsman_config::NameError| error.to_string())?;
    let share = share.parse().map_err(|error: pointsman_config::ShareError| error.to_string())?;
    Ok((version, share))
}
