//! `chaos run --live` and `chaos live`: scenarios on real processes, from the command line.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::try_join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pointsman_chaos::live::{self, Programs, Record, page, row, soak};
use pointsman_chaos::scenario::{Scenario, World};

use super::{CliError, asked_to_stop, print};

/// Plays scenarios on real processes, several at a time, and writes a page and their records
///
/// Everything is started on free ports of loopback, and ended again, also at SIGTERM and SIGINT. Scenarios that are not for
/// the live world are left out; those that need the machine for themselves are played at the end, one after the other. Exits
/// with 1 where something did not hold.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Scenario files
    #[arg(required = true, value_name = "SCENARIO")]
    files: Vec<PathBuf>,
    /// Where live.md and live.json go
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How many at a time; 1 for a machine that is small or has other work
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    at_a_time: u8,
}

/// Plays them all.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), CliError> {
    let began = Instant::now();
    let mut scenarios = Vec::new();
    for file in &arguments.files {
        scenarios.push(super::scenario::read(file)?);
    }
    scenarios.retain(|scenario| scenario.is_for(World::Live).is_ok());
    let (alone, together): (Vec<&Scenario>, Vec<&Scenario>) =
        scenarios.iter().partition(|scenario| live::is_alone(scenario));
    let (together, alone) = (Queue::of(together), Queue::of(alone));
    try_join_all((0..arguments.at_a_time).map(|_| Box::pin(together.play()))).await?;
    Box::pin(alone.play()).await?;
    let mut records: Vec<Record> = together.played.into_inner();
    records.extend(alone.played.into_inner());
    records.sort_by(|one, other| one.scenario.cmp(&other.scenario));
    if let Some(out) = &arguments.out {
        write(out, &records, began.elapsed())?;
    }
    let broke = records.iter().filter(|record| !record.broken.is_empty()).count();
    if broke > 0 {
        return Err(CliError::LiveBroken { broke, of: records.len() });
    }
    let skipped = records.iter().filter(|record| record.skipped.is_some()).count();
    print(format_args!(
        "everything held in {} scenarios, in {:.0} s; {skipped} were skipped",
        records.len() - skipped,
        began.elapsed().as_secs_f64()
    ))
}

/// Scenarios that wait, and what came of those that were played.
struct Queue<'a> {
    waiting: RefCell<VecDeque<&'a Scenario>>,
    played: RefCell<Vec<Record>>,
}

impl<'a> Queue<'a> {
    fn of(scenarios: Vec<&'a Scenario>) -> Self {
        Self { waiting: RefCell::new(scenarios.into()), played: RefCell::default() }
    }

    /// Plays what waits, one after the other; several may do that at a time.
    async fn play(&self) -> Result<(), CliError> {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(scenario) = next else { return Ok(()) };
            let record = match play(scenario).await {
                // One world that breaks down keeps nobody from seeing the rest.
                Err(CliError::Live(error)) => Record::broken_down(scenario, &error),
                played => played?,
            };
            print(row(&record))?;
            tell_broken(&record)?;
            self.played.borrow_mut().push(record);
        }
    }
}

/// Plays one, and tells its story.
pub(crate) async fn run_one(scenario: &Scenario, record: Option<&Path>, is_shrunk: bool) -> Result<(), CliError> {
    scenario.is_for(World::Live).map_err(CliError::Scenario)?;
    print(format_args!("{}: {}", scenario.name, scenario.about))?;
    let played = play(scenario).await?;
    if let Some(why) = played.skipped {
        return Err(CliError::NotAtHand { scenario: scenario.name.clone(), why });
    }
    for line in &played.trace {
        print(line)?;
    }
    print(row(&played))?;
    if let Some(path) = record {
        save(path, &played)?;
    }
    tell_broken(&played)?;
    let Some(rule) = played.rules.first() else { return print("everything held") };
    if is_shrunk {
        shrink(scenario, rule).await?;
    }
    Err(CliError::LiveBroken { broke: 1, of: 1 })
}

/// Plays smaller ones, and shows the smallest that breaks the same rule.
async fn shrink(scenario: &Scenario, rule: &str) -> Result<(), CliError> {
    let programs = Programs::beside_this().map_err(CliError::Live)?;
    print(format_args!(
        "looking for the smallest scenario that breaks `{rule}`, in real time: {:.0} s at most",
        live::takes(scenario).as_secs_f64()
    ))?;
    let tell = |small: &Scenario| {
        // Whoever does not read the tries still gets the last word.
        print(format_args!("playing {} events until {:?}", small.events.len(), small.end)).ok();
    };
    let small = tokio::select! {
        small = live::smallest(scenario, &programs, rule, tell) => small.map_err(CliError::Live)?,
        () = asked_to_stop()? => return Err(CliError::CutShort),
    };
    super::scenario::show(&small, rule)
}

fn tell_broken(record: &Record) -> Result<(), CliError> {
    record.requests.first_lost.iter().try_for_each(|lost| print(format_args!("LOST {lost}")))?;
    record.broken.iter().try_for_each(|broken| print(format_args!("BROKEN {}: {broken}", record.scenario)))
}

/// Whatever was started ends when this is given up.
async fn play(scenario: &Scenario) -> Result<Record, CliError> {
    raise_descriptors();
    let programs = Programs::beside_this().map_err(CliError::Live)?;
    tokio::select! {
        played = live::play(scenario, &programs) => played.map_err(CliError::Live),
        () = asked_to_stop()? => Err(CliError::CutShort),
    }
}

/// Thousands of clients are as many descriptors of ours.
fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

fn write(out: &Path, records: &[Record], took: Duration) -> Result<(), CliError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    fs::create_dir_all(out).map_err(|source| CliError::Report { path: out.to_owned(), source })?;
    let path = out.join("live.md");
    fs::write(&path, page(records, &format!("{cores} cores"), took))
        .map_err(|source| CliError::Report { path, source })?;
    save(&out.join("live.json"), &records)
}

fn save(path: &Path, what: &impl serde::Serialize) -> Result<(), CliError> {
    let refused = |source| CliError::Report { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(what).map_err(|error| refused(error.into()))?;
    fs::write(path, text + "\n").map_err(refused)
}

/// A scenario so many times as fast.
pub(crate) fn at_speed(mut scenario: Scenario, speed: Option<u8>) -> Scenario {
    if let Some(speed) = speed {
        scenario.live.speed = speed.into();
    }
    scenario
}

/// Mixes random faults on the live system, and looks for what it leaves behind
///
/// The faults are drawn from the seed: of endpoints, files, load and clients. Every request must be in the books of the load
/// and in those of the edge, and memory, descriptors and threads of the edge must not have grown at the end, when
/// everything works again. Exits with 1 where something did not hold.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// How long
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Where the faults are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Requests per second
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// Where the record goes, as JSON
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Prints the scenario instead of playing it
    #[arg(long)]
    print: bool,
}

/// Plays the faults of one seed.
pub(crate) async fn soak(arguments: &Soak) -> Result<(), CliError> {
    let Soak { minutes, seed, rate, .. } = *arguments;
    let lasts = Duration::from_mins(minutes.into());
    if arguments.print {
        return print(soak::text(seed, lasts, rate));
    }
    let scenario = soak::scenario(seed, lasts, rate).map_err(CliError::Scenario)?;
    print(format_args!("{} faults in {lasts:?}, from seed {seed}", scenario.events.len()))?;
    let mut record = play(&scenario).await?;
    let leaks = soak::leaks(&record);
    record.broken.extend(leaks);
    for line in &record.trace {
        print(line)?;
    }
    print(row(&record))?;
    if let Some(path) = &arguments.record {
        save(path, &record)?;
    }
    tell_broken(&record)?;
    if record.broken.is_empty() { print("everything held") } else { Err(CliError::LiveBroken { broke: 1, of: 1 }) }
}
