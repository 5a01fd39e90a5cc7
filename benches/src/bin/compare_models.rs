//! `model-server` and its peers in Python under the same load, rounds interleaved: `make bench-model`.
//!
//! The server that is measured has the first core of the machine, the load has the second.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pointsman_benches::figures::Figures;
use pointsman_benches::models::{ModelsError, SHEET, Trial};
use pointsman_benches::report::{self, Conditions};
use pointsman_benches::subject::{self, NoCores};
use thiserror::Error;

/// Compares servers of one model under the same load.
#[derive(Debug, Parser)]
struct Arguments {
    /// The bundle that everybody serves
    #[arg(long, default_value = "model-server/models/delivery-time/v1")]
    bundle: PathBuf,
    /// The interpreter that has what benches/peers/models/requirements.txt names
    #[arg(long)]
    python: PathBuf,
    /// Rounds; each measures everybody once, and medians are taken over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Folder for the table, the JSON and the plot
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// Name of these files
    #[arg(long, default_value = "models-latest")]
    name: String,
}

/// Why there are no figures.
#[derive(Debug, Error)]
enum CompareError {
    #[error(transparent)]
    Cores(#[from] NoCores),
    #[error("a round could not be finished")]
    Models(#[from] ModelsError),
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
    let trial = Trial::new(&arguments.bundle, &arguments.python, Duration::from_secs_f64(arguments.seconds))?;
    let mut figures = Figures::default();
    for round in 0..arguments.rounds {
        trial.round(round, &mut figures).await?;
        writeln!(io::stderr(), "round {} of {} done", round + 1, arguments.rounds)?;
    }
    let command = format!(
        "compare_models --rounds {} --seconds {} --name {}",
        arguments.rounds, arguments.seconds, arguments.name
    );
    let mut conditions = Conditions::now(command, arguments.rounds, arguments.seconds, load_before);
    conditions.more.push(("peers", peers()));
    let folder = arguments.results;
    let table = report::write((&folder, &arguments.name), &SHEET, &conditions, &figures)
        .map_err(|source| CompareError::Results { folder, source })?;
    write!(io::stdout(), "{table}")?;
    Ok(())
}

/// The versions that the peers are pinned to.
fn peers() -> String {
    include_str!("../../peers/models/requirements.txt").lines().collect::<Vec<_>>().join(", ")
}
