//! `chaos check`, `chaos run` and `chaos report`: scenarios from the command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use pointsman_chaos::invariant::Broken;
use pointsman_chaos::report::{Line, markdown, measure, svg};
use pointsman_chaos::scenario::{Scenario, ScenarioError, World};
use pointsman_chaos::sim::{Chosen, play, smallest};

use super::{CliError, print};

/// Reads scenarios and says what is wrong with them
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Scenario files
    #[arg(required = true, value_name = "SCENARIO")]
    files: Vec<PathBuf>,
}

/// Plays a scenario, in virtual time against the edge's own decisions or on real processes
///
/// With --sim the same seed gives the same lines, byte by byte, and where something did not hold the smallest scenario is shown
/// that still breaks it. With --live edge and endpoints are started on free ports of loopback, and ended again. Exits
/// with 1 where something did not hold.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A scenario file
    #[arg(value_name = "SCENARIO")]
    file: PathBuf,
    /// In virtual time
    #[arg(long, required_unless_present = "live")]
    sim: bool,
    /// On real processes: `pointsman`, `model-server` and `chaos` of the folder of this program
    #[arg(long, conflicts_with = "sim")]
    live: bool,
    /// The first seed
    #[arg(long, default_value_t = 1, conflicts_with = "live")]
    seed: u64,
    /// How many seeds, one after the other
    #[arg(long, default_value_t = 1, conflicts_with = "live", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// So many seconds of the scenario in each real one, instead of what it says itself
    #[arg(long, value_name = "NUMBER", requires = "live", value_parser = clap::value_parser!(u8).range(1..=100))]
    speed: Option<u8>,
    /// Where the record goes, as JSON
    #[arg(long, value_name = "FILE", requires = "live")]
    record: Option<PathBuf>,
    /// Plays smaller ones where something did not hold, and shows the smallest that breaks the same rule; it takes real time,
    /// and says how much
    #[arg(long, requires = "live")]
    shrink: bool,
}

/// Plays scenarios with many seeds, decided by Pointsman and as peers would, and writes a table and a picture
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Scenario files
    #[arg(required = true, value_name = "SCENARIO")]
    files: Vec<PathBuf>,
    /// How many seeds for each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Where simulated.md and simulated.svg go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn read(file: &Path) -> Result<Scenario, CliError> {
    let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let text = fs::read_to_string(file)
        .map_err(|source| CliError::Scenario(ScenarioError::Unreadable { path: file.to_owned(), source }))?;
    Scenario::parse(&text, &name).map_err(CliError::Scenario)
}

pub(crate) fn check(arguments: &Check) -> Result<(), CliError> {
    for file in &arguments.files {
        let scenario = read(file)?;
        print(format_args!(
            "{}: {} events in {:?}: {}",
            scenario.name,
            scenario.events.len(),
            scenario.end,
            scenario.about
        ))?;
    }
    Ok(())
}

pub(crate) async fn run(arguments: &Run) -> Result<(), CliError> {
    let scenario = read(&arguments.file)?;
    if arguments.live {
        let scenario = super::live::at_speed(scenario, arguments.speed);
        return super::live::run_one(&scenario, arguments.record.as_deref(), arguments.shrink).await;
    }
    run_sim(&scenario, arguments)
}

fn run_sim(scenario: &Scenario, arguments: &Run) -> Result<(), CliError> {
    scenario.is_for(World::Sim).map_err(CliError::Scenario)?;
    print(format_args!("{}: {}", scenario.name, scenario.about))?;
    let mut broke = 0;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        broke += u64::from(!run_one(scenario, seed, arguments.seeds == 1)?);
    }
    if broke > 0 {
        return Err(CliError::Broken { scenario: scenario.name.clone(), broke, seeds: arguments.seeds });
    }
    print(format_args!(
        "everything held, with {} {}",
        arguments.seeds,
        if arguments.seeds == 1 { "seed" } else { "seeds" }
    ))
}

/// Whether everything held.
fn run_one(scenario: &Scenario, seed: u64, is_told: bool) -> Result<bool, CliError> {
    let played = play(scenario, seed, Chosen::Pointsman);
    let is_told = is_told || !played.broken.is_empty();
    if is_told {
        for line in &played.trace {
            print(line)?;
        }
        for (version, books) in &played.books.versions {
            print(format_args!("{version}: {} requests, {} good, {} bad", books.assigned, books.good, books.bad))?;
        }
    }
    if played.broken.is_empty() {
        return Ok(true);
    }
    for broken in &played.broken {
        print(format_args!("BROKEN with seed {seed}: {broken}"))?;
    }
    if let Some(first) = played.broken.first() {
        show_smallest(scenario, seed, first)?;
    }
    Ok(false)
}

fn show_smallest(scenario: &Scenario, seed: u64, broken: &Broken) -> Result<(), CliError> {
    show(&smallest(scenario, seed, broken.rule), broken.rule)
}

/// The smallest scenario that breaks a rule, in words.
pub(crate) fn show(small: &Scenario, rule: &str) -> Result<(), CliError> {
    let events = if small.events.is_empty() { "no events" } else { "these events" };
    print(format_args!("the smallest scenario that breaks `{rule}` ends after {:?} and has {events}", small.end))?;
    for event in &small.events {
        print(format_args!("  - {}", event.text))?;
    }
    Ok(())
}

pub(crate) fn report(arguments: &Report) -> Result<(), CliError> {
    let mut lines: Vec<Line> = Vec::new();
    for file in &arguments.files {
        let scenario = read(file)?;
        if !scenario.comparable {
            print(format_args!("{} is left out: peers cannot be given what happens in it", scenario.name))?;
            continue;
        }
        for chosen in Chosen::ALL {
            lines.push(measure(&scenario, chosen, 1..arguments.seeds + 1));
        }
        print(format_args!("{} is played", scenario.name))?;
    }
    let table = markdown(&lines);
    let write = |name: &str, text: &str| {
        let path = arguments.out.join(name);
        fs::write(&path, text).map_err(|source| CliError::Report { path, source })
    };
    fs::create_dir_all(&arguments.out).map_err(|source| CliError::Report { path: arguments.out.clone(), source })?;
    write("simulated.md", &told(&lines, &table, arguments.seeds))?;
    write("simulated.svg", &svg(&lines))?;
    print(table)?;
    lines.iter().try_for_each(|line| all_held(line, arguments.seeds))
}

/// A table of what did not hold is no table.
fn all_held(line: &Line, seeds: u64) -> Result<(), CliError> {
    for (seed, broken) in &line.broken {
        print(format_args!("BROKEN: {}, {}, with seed {seed}: {broken}", line.scenario, line.chosen))?;
    }
    let broke = line.broken.iter().map(|(seed, _)| seed).collect::<BTreeSet<_>>().len();
    match u64::try_from(broke) {
        Ok(0) => Ok(()),
        counted => Err(CliError::Broken { scenario: line.scenario.clone(), broke: counted.unwrap_or(seeds), seeds }),
    }
}

/// The table, and what a reader must know to read it.
fn told(lines: &[Line], table: &str, seeds: u64) -> String {
    let mut abouts: Vec<String> = lines.iter().map(|line| format!("- **{}**: {}", line.scenario, line.about)).collect();
    abouts.dedup();
    format!(
        "# Simulated rollouts\n\n{seeds} seeds each, in virtual time; `chaos report` makes this page. What decides for Pointsman is the edge's own\n\
         code. The peers are models of what their documentation sets up, not the programs themselves: docs/chaos.md says\n\
         what they see and what is left out in their favour. The scenarios set `guard: {{ promotion: {{ difference: 1%,\n\
         min_soak: 1m }} }}`; the rows with the default proof have 0.1 % and 5 minutes, and an hour. Bad answers are counted\n\
         to the end of the scenario, so those of who never takes the canary back are as many as that is long. The steps of\n\
         the plan last five minutes, and Argo Rollouts as documented measures every five and lets three failures pass: on\n\
         this plan it cannot fail. The rows with its own plan, an hour as well, are what it does on the plan of its documentation.\n\n![bad answers](simulated.svg)\n\n{table}\n{}\n",
        abouts.join("\n")
    )
}
