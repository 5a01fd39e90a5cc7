//! Looks for a text that makes the parser panic, take long, or contradict itself, by mutating the examples and the
//! broken files: `cargo run -p pointsman-config --example fuzz -- --seconds 300 --seed 1`. A finding is written to
//! tests/corpus, where the suite keeps it, and the exit code is 1.

use std::fs;
use std::io::{self, Write};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pointsman_config::{Config, Severity};

/// A file of the corpus takes about a millisecond; a hundred times that is no noise.
const SLOWEST: Duration = Duration::from_millis(500);
const WORDS: [&str; 24] = [
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "---\n",
    "\t",
    "%",
    "100%",
    "null",
    "~",
    "[",
    "]",
    "{",
    "}",
    ": ",
    "- ",
    "\"",
    "'",
    "|\n",
    "weights:",
    "\u{feff}",
    "\r\n",
    "99999999999999999999",
    "é",
];

fn main() -> ExitCode {
    match fuzz(number_after("--seconds", 60), number_after("--seed", 1)) {
        Ok(report) => say(&report, ExitCode::SUCCESS),
        Err(finding) => say(&finding, ExitCode::FAILURE),
    }
}

fn say(text: &str, code: ExitCode) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn number_after(flag: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != flag).skip(1);
    arguments.next().and_then(|number| number.parse().ok()).unwrap_or(default)
}

fn fuzz(seconds: u64, seed: u64) -> Result<String, String> {
    let corpus = corpus();
    let mut random = XorShift(seed | 1);
    let (started, mut texts, mut accepted, mut slowest) = (Instant::now(), 0_u64, 0_u64, Duration::ZERO);
    while started.elapsed() < Duration::from_secs(seconds) {
        let text = mutate(&corpus, &mut random);
        let (taken, usable) = judge(&text).map_err(|what| keep(&text, &what))?;
        slowest = slowest.max(taken);
        texts += 1;
        accepted += u64::from(usable);
    }
    Ok(format!(
        "{texts} texts from {} files in {seconds} s, {accepted} of them accepted; slowest {slowest:?}; nothing found",
        corpus.len()
    ))
}

fn corpus() -> Vec<String> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["examples", "tests/bad", "tests/corpus"].map(|folder| crate_folder.join(folder));
    let mut files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// How long one text took and whether it was accepted, or what went wrong.
fn judge(text: &str) -> Result<(Duration, bool), String> {
    let started = Instant::now();
    let usable = panic::catch_unwind(|| contradiction(text)).map_err(|_payload| "the parser panicked".to_owned())??;
    let taken = started.elapsed();
    if taken > SLOWEST { Err(format!("the parser took {taken:?}")) } else { Ok((taken, usable)) }
}

fn contradiction(text: &str) -> Result<bool, String> {
    match Config::parse(text, "fuzz") {
        Ok(parsed) => match Config::parse(&parsed.config.to_yaml(), "printed") {
            Ok(again) if again.config == parsed.config => Ok(true),
            Ok(_) => Err("what is printed back means something else".to_owned()),
            Err(errors) => Err(format!("what is printed back is refused: {errors}")),
        },
        Err(errors) if errors.problems().iter().any(|problem| problem.severity == Severity::Error) => Ok(false),
        Err(_) => Err("the file is refused without a reason".to_owned()),
    }
}

/// Writes the text where the suite will find it.
fn keep(text: &str, what: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let file = folder.join(format!(
        "found-{:016x}.yaml",
        text.bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    ));
    match fs::create_dir_all(&folder).and_then(|()| fs::write(&file, text)) {
        Ok(()) => format!("{what}; see {}", file.display()),
        Err(error) => format!("{what}; the text could not be kept ({error}):\n{text}"),
    }
}

/// One to eight small changes to a file of the corpus.
fn mutate(corpus: &[String], random: &mut XorShift) -> String {
    let mut text = random.one_of(corpus).cloned().unwrap_or_default();
    for _ in 0..=random.below(7) {
        let (from, to) = (random.place_in(&text), random.place_in(&text));
        let (from, to) = (from.min(to), from.max(to));
        let short_end = random.place_in(text.get(from..to).unwrap_or_default()) / 8 + from;
        let end = if text.is_char_boundary(short_end) { short_end } else { from };
        match random.below(6) {
            0 => text.replace_range(from..end, ""),
            1 => text.insert_str(from, random.one_of(&WORDS).copied().unwrap_or_default()),
            2 => {
                let copy = text.get(from..end).unwrap_or_default().to_owned();
                text.insert_str(to, &copy);
            }
            3 => text = swap_lines(&text, random),
            4 => text.insert(from, char::from_u32(u32::try_from(random.below(0x300)).unwrap_or(0)).unwrap_or(' ')),
            _ => text = splice(&text, from, corpus, random),
        }
    }
    text
}

fn swap_lines(text: &str, random: &mut XorShift) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    if !lines.is_empty() {
        let (one, other) = (random.below(lines.len()), random.below(lines.len()));
        lines.swap(one, other);
    }
    lines.join("\n")
}

/// The beginning of one file and the end of another.
fn splice(text: &str, at: usize, corpus: &[String], random: &mut XorShift) -> String {
    let other = random.one_of(corpus).map(String::as_str).unwrap_or_default();
    let start = random.place_in(other);
    format!("{}{}", text.get(..at).unwrap_or_default(), other.get(start..).unwrap_or_default())
}

/// Marsaglia's xorshift64: small, seeded, and good enough to choose places.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// 0 to `bound` - 1; 0 where there is no choice.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn one_of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// A place at which `text` can be cut.
    fn place_in(&mut self, text: &str) -> usize {
        let mut at = self.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}
