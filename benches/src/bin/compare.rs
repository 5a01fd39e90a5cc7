//! Pointsman, nginx, `HAProxy` and a minimal pingora proxy under the same load, rounds interleaved: `make bench`.
//!
//! The proxy that is measured has the first core of the machine, the load and both versions have the second. Absolute
//! figures belong to the machine; what travels is the ratio to the better of nginx and `HAProxy` in the same round.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pointsman_benches::contender::{Contender, ContenderError};
use pointsman_benches::course::{Course, CourseError};
use pointsman_benches::figures::Figures;
use pointsman_benches::plot;
use pointsman_benches::report::{self, Conditions};
use pointsman_benches::rig::{Rig, RigError};
use thiserror::Error;

/// The core of load and upstreams.
const RIG_CORE: &str = "1";
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
    #[error("the bench needs a second core for the load, and taskset (Debian: util-linux) to stay on it")]
    Cores,
    #[error("the load cannot be started")]
    Rig(#[from] RigError),
    #[error("a proxy cannot be asked for its version")]
    Contender(#[from] ContenderError),
    #[error("a round could not be finished")]
    Course(#[from] CourseError),
    #[error("the results cannot be written to {}", folder.display())]
    Results { folder: PathBuf, source: io::Error },
    #[error("the figures cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("what the bench says cannot be written")]
    Io(#[from] io::Error),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), CompareError> {
    let arguments = Arguments::parse();
    stay_on(RIG_CORE)?;
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

/// Keeps this process, and every thread that it starts from now on, on one core.
fn stay_on(core: &str) -> Result<(), CompareError> {
    let own = std::process::id().to_string();
    let said = std::process::Command::new("taskset").args(["-pc", core, &own]).output()?;
    if said.status.success() { Ok(()) } else { Err(CompareError::Cores) }
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
    let mut versions = Vec::new();
    for contender in Contender::ALL {
        versions.push((contender.name(), contender.version().await?));
    }
    let command =
        format!("compare --rounds {} --seconds {} --name {}", arguments.rounds, arguments.seconds, arguments.name);
    Ok(Conditions {
        date: report::said_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        machine: report::machine(),
        memory_gb: report::memory_gb(),
        kernel: report::said_by("uname", &["-sr"]),
        commit: report::commit(),
        command,
        versions,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        common_rate: course.common_rate,
        half_rate: course.half_rate,
        load_before,
    })
}

fn write_results(arguments: &Arguments, conditions: &Conditions, figures: &Figures) -> Result<(), CompareError> {
    let folder = &arguments.results;
    let plot_file = format!("{}.svg", arguments.name);
    let table = report::markdown(conditions, figures, &plot_file);
    let files = [
        (format!("{}.md", arguments.name), table.clone()),
        (format!("{}.json", arguments.name), report::json(conditions, figures)?),
        (plot_file, plot::svg(figures)),
    ];
    let written = fs::create_dir_all(folder)
        .and_then(|()| files.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text)));
    written.map_err(|source| CompareError::Results { folder: folder.clone(), source })?;
    write!(io::stdout(), "{table}")?;
    Ok(())
}
