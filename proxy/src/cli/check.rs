//! `check` and `schema`: what can be said of a config file without running it.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use pointsman_config::{Config, Problem, Severity, json_schema};
use serde::Serialize;

use super::args::CheckArgs;
use super::print::Page;
use super::words::{BAD, BOLD, CAREFUL, GOOD, Say, counted, paint, paragraph};
use super::{CliError, WRONG_USAGE};
use crate::control::config_watch::{read_text, read_text_from};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    file: &'a str,
    valid: bool,
    errors: usize,
    warnings: usize,
    problems: &'a [Problem],
}

/// Checks one file.
pub(super) fn check(args: &CheckArgs) -> Result<ExitCode, CliError> {
    let file = args.file.display().to_string();
    let text = read(&args.file).map_err(|source| CliError::ConfigFile { file: file.clone(), source })?;
    let origin = if file == "-" { "stdin" } else { &file };
    let problems = match Config::parse(&text, origin) {
        Ok(parsed) => parsed.warnings,
        Err(errors) => errors.into_problems(),
    };
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let report =
        Report { file: origin, valid: errors == 0, errors, warnings: problems.len() - errors, problems: &problems };
    if args.json {
        Page::appended().json(&report)?;
    } else {
        Page::appended().text(&in_words(&report))?;
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { WRONG_USAGE.into() })
}

fn read(file: &Path) -> io::Result<String> {
    if file == Path::new("-") {
        return read_text_from(io::stdin());
    }
    read_text(file)
}

fn in_words(report: &Report<'_>) -> String {
    let mut page: String = report.problems.iter().map(problem).collect();
    let errors = if report.errors == 0 { paint(GOOD, "valid") } else { paint(BAD, &counted(report.errors, "error")) };
    let and = if report.warnings == 0 { String::new() } else { format!(", {}", counted(report.warnings, "warning")) };
    page.say(format_args!("{}: {errors}{and}\n", report.file));
    page
}

/// Place and what is wrong on one line, as editors and CI look for it; the way out below.
fn problem(problem: &Problem) -> String {
    let style = match problem.severity {
        Severity::Error => BAD,
        Severity::Warning => CAREFUL,
    };
    let place = paint(BOLD, &problem.place.to_string());
    let severity = paint(style, &problem.severity.to_string());
    format!("{place}: {severity}: {}\n{}", problem.what, paragraph(&problem.way_out, 4))
}

/// Prints the JSON Schema of the config file.
pub(super) fn schema() -> Result<(), CliError> {
    Ok(Page::appended().json(&json_schema())?)
}
