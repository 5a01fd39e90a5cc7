//! `model-server` and its peers in Python under the same load, rounds interleaved: `make bench-model`.
//!
//! The server that is measured has the first core of the machine, the load has the second.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pointsman_benches::figures::{Figures, Sheet};
use pointsman_benches::models::tables::{self, Tables};
use pointsman_benches::models::texts::{self, Texts};
use pointsman_benches::models::{Bench, ModelsError};
use pointsman_benches::report::{self, Conditions};
use pointsman_benches::subject::{self, NoCores};
use thiserror::Error;

/// Compares servers of one model under the same load.
#[derive(Debug, Parser)]
struct Arguments {
    /// The bundle on tables that everybody serves
    #[arg(long, default_value = "model-server/models/delivery-time/v1")]
    tables: PathBuf,
    /// The bundle on texts that everybody serves; without it, texts are left out
    #[arg(long)]
    texts: Option<PathBuf>,
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
    /// Name of these files, behind `tables-` and `texts-`
    #[arg(long, default_value = "latest")]
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
    let bench = Bench::new(&arguments.python, Duration::from_secs_f64(arguments.seconds))?;
    let tables = Tables::new(&bench, &arguments.tables)?;
    let texts = arguments.texts.as_deref().map(|bundle| Texts::new(&bench, bundle));
    let (mut of_tables, mut of_texts) = (Figures::default(), Figures::default());
    for round in 0..arguments.rounds {
        tables.round(round, &mut of_tables).await?;
        if let Some(texts) = &texts {
            texts.round(round, &mut of_texts).await?;
        }
        writeln!(io::stderr(), "round {} of {} done", round + 1, arguments.rounds)?;
    }
    write_results(&arguments, load_before, ("tables", &tables::SHEET), &of_tables)?;
    if texts.is_some() {
        write_results(&arguments, load_before, ("texts", &texts::SHEET), &of_texts)?;
    }
    Ok(())
}

fn write_results(
    arguments: &Arguments,
    load_before: f64,
    (kind, sheet): (&str, &Sheet),
    figures: &Figures,
) -> Result<(), CompareError> {
    let Arguments { rounds, seconds, name, results, .. } = arguments;
    let command = format!("compare_models --rounds {rounds} --seconds {seconds} --name {name}");
    let mut conditions = Conditions::now(command, *rounds, *seconds, load_before);
    conditions.more.push(("peers", peers()));
    let table = report::write((results, &format!("{kind}-{name}")), sheet, &conditions, figures)
        .map_err(|source| CompareError::Results { folder: results.clone(), source })?;
    writeln!(io::stdout(), "{table}")?;
    Ok(())
}

/// The versions that the peers are pinned to.
fn peers() -> String {
    include_str!("../../peers/models/requirements.txt").lines().collect::<Vec<_>>().join(", ")
}
