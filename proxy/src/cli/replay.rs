//! `replay`: a recorded trial decided again under another policy, and where it would have gone another way.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use pointsman_config::{Config, Route};
use pointsman_rollout::{At, Record, ReplayError, Replayed};
use serde::Serialize;
use thiserror::Error;

use super::args::ReplayArgs;
use super::history::Recorded;
use super::print::{Page, complain};
use super::words::{BOLD, CAREFUL, DIM, GOOD, Say, moment, paint, paragraph};
use super::{CliError, FAILED};
use crate::control::config_watch::read_text;

/// Why there is nothing to replay, and the way out.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The record cannot be read.
    #[error("`{file}` cannot be read; write it with `pointsman history ROUTE --counts > FILE`")]
    File {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// It is no record.
    #[error("`{file}` is no record; write one with `pointsman history ROUTE --counts > FILE`")]
    Form {
        /// The file.
        file: String,
        /// Why.
        source: serde_json::Error,
    },
    /// It has decisions alone.
    #[error(
        "`{file}` holds decisions without the counts behind them, which cannot be judged again; `pointsman history ROUTE --counts` writes both, of the present trial or the last one since the edge began"
    )]
    NoCounts {
        /// The file.
        file: String,
    },
    /// The file has no such route.
    #[error("`{config}` has no route `{route}`, of which the record is; name the config file that has it")]
    NoRoute {
        /// The config file.
        config: String,
        /// The route of the record.
        route: String,
    },
    /// It was written by a newer program.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    route: String,
    began_at: String,
    same: bool,
    #[serde(flatten)]
    replayed: Replayed,
}

/// Decides it again. Ends with 0 if the policy decides as was decided, with 1 if it does not.
pub(super) fn replay(args: &ReplayArgs) -> Result<ExitCode, CliError> {
    let record = record(&args.decisions)?;
    let route = route(&args.config, &record)?;
    let replayed = pointsman_rollout::replay(&route, &record).map_err(RecordError::from)?;
    let same = replayed.differs_at.is_none();
    let report = Report { route: record.route, began_at: record.began_at, same, replayed };
    if args.json {
        Page::appended().json(&report)?;
    } else {
        Page::appended().text(&in_words(&report))?;
    }
    Ok(if same { ExitCode::SUCCESS } else { FAILED.into() })
}

fn record(file: &Path) -> Result<Record, RecordError> {
    let name = file.display().to_string();
    let mut text = String::new();
    let read = if name == "-" {
        io::stdin().read_to_string(&mut text)
    } else {
        File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|source| RecordError::File { file: name.clone(), source })?;
    let recorded: Recorded =
        serde_json::from_str(&text).map_err(|source| RecordError::Form { file: name.clone(), source })?;
    recorded.counts.ok_or(RecordError::NoCounts { file: name })
}

fn route(config: &Path, record: &Record) -> Result<Route, CliError> {
    let file = config.display().to_string();
    let text = read_text(config).map_err(|source| CliError::ConfigFile { file: file.clone(), source })?;
    let parsed = match Config::parse(&text, &file) {
        Ok(parsed) => parsed,
        Err(errors) => {
            complain(&errors.to_string());
            return Err(CliError::BadConfig { file });
        }
    };
    let found = parsed.config.routes.into_iter().find(|route| route.name.as_str() == record.route);
    Ok(found.ok_or_else(|| RecordError::NoRoute { config: file, route: record.route.clone() })?)
}

fn in_words(report: &Report) -> String {
    let Report { route, began_at, same, replayed } = report;
    let mut page = format!("{}, trial of {}\n\n", paint(BOLD, route), moment(began_at));
    let shared = replayed.differs_at.unwrap_or(replayed.recorded.len());
    page.extend(replayed.recorded.iter().take(shared).map(|at| line("as then", at)));
    page.extend(replayed.recorded.iter().skip(shared).map(|at| line("then", at)));
    page.extend(replayed.replayed.iter().skip(shared).map(|at| line("now", at)));
    let verdict = if *same {
        paint(GOOD, "This policy decides as was decided.")
    } else {
        paint(CAREFUL, "This policy decides otherwise.")
    };
    page.say(format_args!("\n{verdict}\n"));
    if !same {
        page.push_str(&paragraph(
            "From the first difference on, the canary would have had other requests than it had: what stands behind `now` after that only says what the policy makes of the recorded ones.",
            2,
        ));
    }
    if replayed.edited {
        page.push_str(&paragraph("The route was edited during the trial; the replay has one policy throughout.", 2));
    }
    if replayed.counts_otherwise {
        let told = "This policy counts other errors (`count_as_error`) or other slow answers (`latency.threshold`) than the edge did; the counts are those of the edge.";
        page.push_str(&paint(CAREFUL, &paragraph(told, 2)));
    }
    if !replayed.complete {
        page.push_str(&paragraph("The record is not complete: what came after it is not judged.", 2));
    }
    page.push_str(&paragraph(
        "Copies of requests, gates, the live Service and other edges are not in the record: what they held is left out.",
        2,
    ));
    page
}

fn line(whose: &str, at: &At) -> String {
    let seconds = std::time::Duration::from_millis(at.after_ms).as_secs_f64();
    let head = format!("  {}  {}\n", paint(BOLD, &format!("{whose:<7}")), paint(DIM, &format!("after {seconds:.1} s")));
    head + &paragraph(&at.decided.sentence, 11)
}
