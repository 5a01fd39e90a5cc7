//! The table that people read, and the JSON beside it. Rows and columns always stand in the same order, so that two
//! results can be compared line by line.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use serde::Serialize;

use crate::figures::{Better, Figures, Goal, Row, Sheet, Spread};

/// Under which conditions the figures were taken.
#[derive(Debug, Clone, Serialize)]
pub struct Conditions {
    /// UTC, to the minute.
    pub date: String,
    /// Processor and number of cores.
    pub machine: String,
    /// Memory in gigabytes.
    pub memory_gb: f64,
    /// As `uname` says.
    pub kernel: String,
    /// Of Pointsman.
    pub commit: String,
    /// How it was run.
    pub command: String,
    /// What else is to be known, such as what each program says of itself.
    pub more: Vec<(&'static str, String)>,
    /// Over how many rounds medians were taken.
    pub rounds: usize,
    /// Seconds of one measurement.
    pub seconds: f64,
    /// Load average over five minutes when the bench began: above 0.2 the machine was not its own.
    pub load_before: f64,
}

impl Conditions {
    /// Those of this machine now. `load_before` was read before the bench began.
    pub fn now(command: String, rounds: usize, seconds: f64, load_before: f64) -> Self {
        Self {
            date: said_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            machine: machine(),
            memory_gb: memory_gb(),
            kernel: said_by("uname", &["-sr"]),
            commit: commit(),
            command,
            more: Vec::new(),
            rounds,
            seconds,
            load_before,
        }
    }
}

/// What the machine says of itself.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpu.lines().find(|line| line.starts_with(name)).and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let cores = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let is_core = |name: &str| name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok());
    let cores = cores.filter(|entry| entry.file_name().to_str().is_some_and(is_core)).count();
    format!("{}, {cores} cores", field("model name").unwrap_or_else(|| "unknown processor".to_owned()))
}

/// Memory of the machine in gigabytes of 10^9 bytes.
fn memory_gb() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes: f64 = total.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    (kilobytes * 1024.0 / 1e8).round() / 10.0
}

/// The load average over five minutes.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0.0)
}

/// The first line that a program says; empty if it cannot be run.
pub fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}

/// The commit that was measured; marked if the tree is not as committed.
fn commit() -> String {
    let commit = said_by("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = !said_by("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if changed { format!("{commit}, with changes that are not committed") } else { commit }
}

/// Everything, for programs.
///
/// # Errors
/// Never for what a bench measures.
pub fn json(sheet: &Sheet, conditions: &Conditions, figures: &Figures) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Whole<'a> {
        conditions: &'a Conditions,
        rows: &'a [Row],
        figures: &'a Figures,
    }
    serde_json::to_string_pretty(&Whole { conditions, rows: sheet.rows, figures }).map(|text| text + "\n")
}

/// Everything, for people. `plot` is the file name of the picture beside it.
pub fn markdown(sheet: &Sheet, conditions: &Conditions, figures: &Figures, plot: &str) -> String {
    let mut text = format!("# {}\n\n", sheet.title);
    about(&mut text, conditions);
    _ = writeln!(text, "\n![{}]({plot})\n", sheet.picture);
    text.push_str("## Medians\n\n");
    if !sheet.ratio.is_empty() {
        _ = writeln!(text, "{}\n", sheet.ratio);
    }
    medians(&mut text, sheet, figures);
    text.push_str("\n## Spread\n\nLowest to highest value over the rounds.\n\n");
    spreads(&mut text, sheet, figures);
    text
}

/// Writes table, JSON and picture under `name` into `folder`, and gives the table.
///
/// # Errors
/// If files cannot be written.
pub fn write(
    (folder, name): (&Path, &str),
    sheet: &Sheet,
    conditions: &Conditions,
    figures: &Figures,
) -> io::Result<String> {
    let plot = format!("{name}.svg");
    let table = markdown(sheet, conditions, figures, &plot);
    fs::create_dir_all(folder)?;
    fs::write(folder.join(format!("{name}.md")), &table)?;
    fs::write(folder.join(format!("{name}.json")), json(sheet, conditions, figures)?)?;
    fs::write(folder.join(plot), crate::plot::svg(sheet, figures))?;
    Ok(table)
}

fn about(text: &mut String, conditions: &Conditions) {
    let rows = [
        ("date", conditions.date.clone()),
        ("machine", format!("{}, {:.1} GB", conditions.machine, conditions.memory_gb)),
        ("kernel", conditions.kernel.clone()),
        ("commit", conditions.commit.clone()),
        ("command", format!("`{}`", conditions.command)),
        ("rounds", format!("{} of {} s a measurement, interleaved", conditions.rounds, conditions.seconds)),
        ("load average before", format!("{:.2} (above 0.2 the machine was not its own)", conditions.load_before)),
    ];
    let more = conditions.more.iter().map(|(name, value)| (*name, value.clone()));
    text.push_str("| | |\n|---|---|\n");
    for (name, value) in rows.into_iter().chain(more).filter(|(_, value)| !value.is_empty()) {
        // Writing to a string cannot fail.
        _ = writeln!(text, "| {name} | {value} |");
    }
}

fn medians(text: &mut String, sheet: &Sheet, figures: &Figures) {
    let ratios: &[&str] = if sheet.peers.is_empty() { &[] } else { &["ratio"] };
    header(text, sheet, &[ratios, &["to reach", "reached"]].concat());
    for row in sheet.rows {
        cells(text, sheet, row, |name| figures.spread(name, row.id).map(|spread| grouped(spread.median, row.digits)));
        if !sheet.peers.is_empty() {
            let ratio = figures.ratio(sheet.ours, row, sheet.peers);
            _ = write!(text, " {} |", ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median)));
        }
        let reached = is_reached(sheet, row, figures).map_or("", |reached| if reached { "yes" } else { "no" });
        _ = writeln!(text, " {} | {reached} |", goal(row));
    }
}

fn spreads(text: &mut String, sheet: &Sheet, figures: &Figures) {
    let ratios: &[&str] = if sheet.peers.is_empty() { &[] } else { &["ratio"] };
    header(text, sheet, ratios);
    for row in sheet.rows {
        let range =
            |spread: Spread, digits| format!("{}–{}", grouped(spread.low, digits), grouped(spread.high, digits));
        cells(text, sheet, row, |name| figures.spread(name, row.id).map(|spread| range(spread, row.digits)));
        if !sheet.peers.is_empty() {
            let ratio = figures.ratio(sheet.ours, row, sheet.peers);
            _ = write!(text, " {} |", ratio.map_or_else(String::new, |ratio| range(ratio, 2)));
        }
        text.push('\n');
    }
}

fn header(text: &mut String, sheet: &Sheet, more: &[&str]) {
    let names = [sheet.columns, more].concat();
    _ = writeln!(text, "| | {} |\n|---|{}", names.join(" | "), "---:|".repeat(names.len()));
}

fn cells(text: &mut String, sheet: &Sheet, row: &Row, value: impl Fn(&str) -> Option<String>) {
    let unit = if row.unit.is_empty() { String::new() } else { format!(" [{}]", row.unit) };
    _ = write!(text, "| {}{unit} |", row.title);
    for name in sheet.columns {
        _ = write!(text, " {} |", value(name).unwrap_or_default());
    }
}

fn goal(row: &Row) -> String {
    let sign = if row.better == Better::Higher { "≥" } else { "≤" };
    match row.goal {
        Some(Goal::Ratio(ratio)) => format!("ratio {sign} {ratio}"),
        Some(Goal::Figure(figure)) => format!("{sign} {figure}"),
        None => String::new(),
    }
}

/// Whether ours reached the goal of a row; none if there is none, or nothing was measured.
fn is_reached(sheet: &Sheet, row: &Row, figures: &Figures) -> Option<bool> {
    let (value, goal) = match row.goal? {
        Goal::Ratio(goal) => (figures.ratio(sheet.ours, row, sheet.peers)?.median, goal),
        Goal::Figure(goal) => (figures.spread(sheet.ours, row.id)?.median, goal),
    };
    Some(if row.better == Better::Higher { value >= goal } else { value <= goal })
}

/// A number with its digits, thousands apart.
pub fn grouped(number: f64, digits: usize) -> String {
    let plain = format!("{number:.digits$}");
    let (sign, rest) = plain.strip_prefix('-').map_or(("", plain.as_str()), |rest| ("-", rest));
    let (whole, fraction) = rest.split_once('.').map_or((rest, ""), |parts| parts);
    let mut grouped = String::new();
    for (position, digit) in whole.chars().enumerate() {
        if position > 0 && (whole.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{point}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::SHEET;

    #[test]
    fn numbers_read_well() {
        let check = |number, digits, expected: &str| assert_eq!(grouped(number, digits), expected);
        check(1_234_567.0, 0, "1,234,567");
        check(999.96, 1, "1,000.0");
        check(-12_345.5, 2, "-12,345.50");
        check(0.25, 2, "0.25");
    }

    #[test]
    fn a_goal_is_reached_or_not_by_ratio_and_by_figure() {
        let mut figures = Figures::default();
        for (name, rps) in [("nginx", 90.0), ("HAProxy", 100.0), (SHEET.ours, 116.0)] {
            figures.note(0, name, "rps_64", rps);
            figures.note(0, name, "rps_256", rps - 10.0);
        }
        figures.note(0, SHEET.ours, "effect_many", 101.0);
        let check = |id, expected| assert_eq!(is_reached(&SHEET, SHEET.find(id).unwrap(), &figures), expected, "{id}");
        check("rps_64", Some(true));
        check("rps_256", Some(true));
        check("effect_many", Some(false));
        check("rss_1000", None);
        let mut text = String::new();
        medians(&mut text, &SHEET, &figures);
        assert!(
            text.contains(
                "| requests/s on one core, 64 connections [1/s] |  | 90 | 100 |  |  | 116 | 1.16 | ratio ≥ 1.15 | yes |"
            ),
            "{text}"
        );
    }
}
