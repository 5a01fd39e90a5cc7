//! What came of many seeds: how long a bad version stays, what users saw of it, and how often a good one is taken back,
//! for Pointsman and for the peers, as a table and as a picture.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use crate::count::exact;
use crate::invariant::Broken;
use crate::scenario::Scenario;
use crate::sim::{Chosen, Played, play};

/// What came of one scenario for one who decides.
#[derive(Debug, Clone)]
pub struct Line {
    /// The scenario.
    pub scenario: String,
    /// What happens in it.
    pub about: String,
    /// Who decides.
    pub chosen: Chosen,
    /// How many seeds were played.
    pub runs: usize,
    /// In how many the canary was taken back with a cause, and in how many without one.
    pub taken_back: usize,
    /// Without anything wrong with it until then.
    pub falsely: usize,
    /// In how many it was promoted.
    pub promoted: usize,
    /// From the first thing that went wrong with the canary to weight 0.
    pub to_rollback: Spread,
    /// From the start.
    pub to_promotion: Spread,
    /// Bad answers that the canary gave to clients.
    pub bad_answers: Spread,
    /// Whether something is wrong with the canary.
    pub is_harmful: bool,
    /// When the scenario is over; bad answers are counted until then.
    pub end: Duration,
    /// What did not hold, and with which seed.
    pub broken: Vec<(u64, Broken)>,
}

/// The middle and the edge of a distribution; seconds or answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// Half lie below.
    pub median: f64,
    /// 95 of 100 lie below.
    pub p95: f64,
    /// Of how many.
    pub of: usize,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |hundredths: usize| {
            let rank = (values.len() * hundredths).div_ceil(100).saturating_sub(1);
            values.get(rank).copied().unwrap_or_default()
        };
        Self { median: at(50), p95: at(95), of: values.len() }
    }
}

/// Plays a scenario with every seed.
pub fn measure(scenario: &Scenario, chosen: Chosen, seeds: Range<u64>) -> Line {
    let played: Vec<Played> = seeds.map(|seed| play(scenario, seed, chosen)).collect();
    let canary = scenario.canary();
    let harm = canary.and_then(|canary| scenario.first_harm(canary));
    let seconds = |span: Duration| span.as_secs_f64();
    let caused = |at: &Duration| harm.is_some_and(|harm| harm <= *at);
    let back: Vec<Duration> = played.iter().filter_map(|played| played.taken_back).collect();
    let rightly: Vec<f64> =
        back.iter().filter(|at| caused(at)).map(|at| seconds(at.saturating_sub(harm.unwrap_or_default()))).collect();
    let promoted: Vec<f64> = played.iter().filter_map(|played| played.promoted).map(seconds).collect();
    // Only who is the edge is held to what the scenario promises of it.
    let judged = if chosen == Chosen::Pointsman { played.as_slice() } else { &[] };
    let bad = |played: &Played| canary.map_or(0, |canary| played.books.of(canary).bad);
    Line {
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        chosen,
        runs: played.len(),
        taken_back: rightly.len(),
        falsely: back.len() - rightly.len(),
        promoted: promoted.len(),
        to_rollback: Spread::of(rightly),
        to_promotion: Spread::of(promoted),
        bad_answers: Spread::of(played.iter().map(|played| exact(bad(played))).collect()),
        is_harmful: harm.is_some(),
        end: played.first().map_or(scenario.end, |played| played.end),
        broken: judged.iter().flat_map(|played| played.broken.iter().map(|what| (played.seed, what.clone()))).collect(),
    }
}

/// The table: one block for each scenario.
pub fn markdown(lines: &[Line]) -> String {
    let mut text = String::from(
        "| scenario | decided by | taken back | s to weight 0, median (p95) | bad answers of the canary, median (p95) | promoted | s to promotion, median | taken back for nothing | minutes |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for line in lines {
        let rate = |part: usize| if part == 0 { "–".to_owned() } else { percent(part, line.runs) };
        let spread = |spread: Spread| match spread.of {
            0 => "–".to_owned(),
            _ => format!("{} ({})", figure(spread.median), figure(spread.p95)),
        };
        let median = |spread: Spread| if spread.of == 0 { "–".to_owned() } else { figure(spread.median) };
        // Writing to a string does not fail.
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            line.scenario,
            line.chosen,
            rate(line.taken_back),
            spread(line.to_rollback),
            spread(line.bad_answers),
            rate(line.promoted),
            median(line.to_promotion),
            rate(line.falsely),
            line.end.as_secs() / 60,
        )
        .ok();
    }
    text
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.4}", 100.0 * exact(part) / exact(whole)).trim_end_matches('0').trim_end_matches('.').to_owned() + " %"
}

/// Three digits are enough to compare.
fn figure(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Pixels.
const LEFT: f64 = 170.0;
const WIDTH: f64 = 520.0;
const ROW: f64 = 15.0;
const GAP: f64 = 14.0;
const TOP: f64 = 54.0;
/// What a bar of the full width stands for: bad answers, on a logarithmic scale from 1.
const MOST: f64 = 100_000.0;

/// The picture: bad answers that users got of each bad canary, median and p95, on a logarithmic scale.
pub fn svg(lines: &[Line]) -> String {
    let harmful: Vec<&Line> = lines.iter().filter(|line| line.is_harmful).collect();
    let mut groups: Vec<&str> = harmful.iter().map(|line| line.scenario.as_str()).collect();
    groups.dedup();
    let rows = u32::try_from(harmful.len()).map_or(0.0, f64::from);
    let gaps = u32::try_from(groups.len()).map_or(0.0, f64::from);
    let (width, height) = (LEFT + WIDTH + 90.0, TOP + rows * ROW + gaps * GAP + 20.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Bad answers that users got from a canary with which something is wrong</text>\n\
         <text x=\"10\" y=\"38\" fill=\"#555\">median (bar) and p95 (line), logarithmic, simulated; to the end of each row's run</text>\n"
    );
    let mut y = TOP;
    let mut group = "";
    for line in harmful {
        if group != line.scenario {
            y += GAP;
            group = &line.scenario;
            writeln!(text, "<text x=\"10\" y=\"{:.0}\" font-weight=\"bold\">{group}</text>", y - 2.0).ok();
        }
        bar(&mut text, line, y);
        y += ROW;
    }
    text.push_str("</svg>\n");
    text
}

fn bar(text: &mut String, line: &Line, y: f64) {
    let long = |answers: f64| WIDTH * (answers.max(1.0).ln() / MOST.ln()).min(1.0);
    let colour = if line.chosen.is_pointsman() { "#1a7f5a" } else { "#9aa4b2" };
    let Spread { median, p95, .. } = line.bad_answers;
    writeln!(
        text,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
         <rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{:.1}\" height=\"{:.0}\" fill=\"{colour}\"/>\n\
         <line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{3:.0}\" y2=\"{3:.0}\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
         <text x=\"{:.0}\" y=\"{1:.0}\">{} ({})</text>",
        LEFT - 6.0,
        y + 10.0,
        line.chosen,
        y,
        long(median),
        ROW - 3.0,
        LEFT + long(p95),
        LEFT + long(p95) + 6.0,
        figure(median),
        figure(p95),
    )
    .ok();
}
