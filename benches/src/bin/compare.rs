//! Pointsman, nginx, `HAProxy` and a minimal pingora proxy under the same load, rounds interleaved: `make bench`.
//!
//! The proxy that is measured has the first core of the machine, the load and both versions have the second. Absolute
//! figures belong to the machine; what travels is the ratio to the better of nginx and `HAProxy` in the same round.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pointsman_benches::contender::{Contender, SHEET};
use pointsman_benches::course::{Course, CourseError};
use pointsman_benches::figures::Figures;
use pointsman_benches::report::{self, Conditions};
use pointsman_benches::rig::{Rig, RigError};
use pointsman_benches::subject::{self, NoCores, SubjectError};
use thiserror::Error;

/// The rate at which CPU time is compared, if all can carry it.
const COMMON_RATE: f64 = 20_000.0;
/// Of what the slowest can do, so that nobody is measured beyond its limit.
const SAFE_PART: f64 = 0.75;

/// Compares proxies under the same load.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; each measures everybody once, and medians are taken over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 1.2)]
    seconds: f64,
    /// Folder for the table, the JSON and the plot
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// Name of these files
    #[arg(long, default_value = "latest")]
    name: String,
}

/// Why there are no figures.
#[derive(Debug, Error)]
enum CompareError {
    #[error(transparent)]
    Cores(#[from] NoCores),
    #[error("the load cannot be started")]
    Rig(#[from] RigError),
    #[error("a proxy cannot be asked for its version")]
    Subject(#[from] SubjectError),
    #[error("a round could not be finished")]
    Course(#[from] CourseError),
    #[error("the results cannot be written to {}", folder.display())]
    Results { folder: PathBuf, source: io::Error },
    #[error("what the bench says cannot be written")]
    Io(#[from] io::Error),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), CompareError> {
    let arguments = Arguments::parse();
    subject::leave_their_core()?;
    let load_before = report::load_average();
    let course = prepare(&arguments).await?;
    let mut figures = Figures::default();
    for round in 0..arguments.rounds {
        course.round(round, &mut figures).await?;
        writeln!(io::stderr(), "round {} of {} done", round + 1, arguments.rounds)?;
    }
    let conditions = conditions(&arguments, &course, load_before).await?;
    write_results(&arguments, &conditions, &figures)
}

/// Starts the rig and finds the rates that everybody is measured at.
async fn prepare(arguments: &Arguments) -> Result<Course, CompareError> {
    let rig = Rig::start()?;
    let span = Duration::from_secs_f64(arguments.seconds);
    let (mut slowest, mut nginx) = (f64::INFINITY, 0.0);
    for contender in Contender::ALL {
        let most = Course::saturation(&rig, contender, span).await?;
        writeln!(io::stderr(), "{:<23} {:>9} requests/s at most", contender.name(), most.round())?;
        slowest = most.min(slowest);
        if contender == Contender::Nginx {
            nginx = most;
        }
    }
    let common_rate = (slowest * SAFE_PART).min(COMMON_RATE).round();
    Ok(Course { rig, span, common_rate, half_rate: (nginx / 2.0).round() })
}

async fn conditions(arguments: &Arguments, course: &Course, load_before: f64) -> Result<Conditions, CompareError> {
    let command =
        format!("compare --rounds {} --seconds {} --name {}", arguments.rounds, arguments.seconds, arguments.name);
    let rate = |rate| format!("{} requests/s", report::grouped(rate, 0));
    let mut conditions = Conditions::now(command, arguments.rounds, arguments.seconds, load_before);
    conditions.more.push(("common rate", rate(course.common_rate)));
    conditions.more.push(("half of nginx's saturation", rate(course.half_rate)));
    for contender in Contender::ALL {
        conditions.more.push((contender.name(), contender.version().await?));
    }
    Ok(conditions)
}

fn write_results(arguments: &Arguments, conditions: &Conditions, figures: &Figures) -> Result<(), CompareError> {
    let folder = &arguments.results;
    let table = report::write((folder, &arguments.name), &SHEET, conditions, figures)
        .map_err(|source| CompareError::Results { folder: folder.clone(), source })?;
    write!(io::stdout(), "{table}")?;
    Ok(())
}
