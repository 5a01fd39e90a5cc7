//! How the traffic differs from what the model was trained on: every feature and the predictions are counted in the
//! bins of the bundle's training reference, over a window that moves, and compared with it. `deployment` has rows
//! counted; `/v1/drift`, `/v1/drift/sketch` and the metrics tell.

mod window;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pointsman_telemetry::drift::{self, PREDICTION, Sketch};
use serde::Serialize;

use crate::bundle::{Histogram, Reference};
use crate::schema::{Feature, Rows, Schema};
use window::{Tally, Window};

pub use pointsman_telemetry::drift::{Distance, distance};

/// Into how many parts the counts are split, so that threads do not wait for each other.
const SHARDS: usize = 16;

/// Fewer rows say nothing.
const LEAST_ROWS: u64 = 200;

/// From here on a distribution has moved (Siddiqi, Credit Risk Scorecards, 2006: 0.1 and 0.25).
const MODERATE: f64 = 0.1;

/// From here on it is another one.
const LARGE: f64 = 0.25;

/// The counts of a model's traffic.
#[derive(Debug)]
pub struct Drift {
    binned: Vec<Binned>,
    shards: Vec<Mutex<Shard>>,
    /// Requests that the schema refused: they have no values that could be counted.
    refused: Mutex<Window>,
    window: Duration,
    instance: String,
}

/// What some threads counted.
#[derive(Debug)]
struct Shard {
    window: Window,
    /// One for each of the `binned`; empty where it has no numbers.
    sketches: Vec<Sketch>,
}

/// One feature, or the prediction, and its bins.
#[derive(Debug)]
struct Binned {
    name: String,
    source: Source,
    bins: Bins,
    trained: Vec<u64>,
    first_bin: usize,
    /// Of what has no order, the name of each bin.
    categories: Vec<String>,
}

/// What some threads counted of it.
struct Counts<'c> {
    bins: &'c mut [u64],
    sketch: &'c mut Sketch,
}

/// Where its value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// From this column of a row on.
    Column(usize),
    /// The length of this text of a row, in characters.
    Text(usize),
    Prediction,
}

/// Which bin a value belongs to.
#[derive(Debug)]
enum Bins {
    /// Numbers, by their inner edges: a value belongs behind all edges that are not above it.
    Edges(Vec<f32>),
    /// 0 or 1.
    Flag,
    /// The column that is set, out of so many.
    OneOf(usize),
}

/// What belongs to each of so many rows that lie one behind the other.
fn of_each<T>(all: &[T], rows: usize) -> impl Iterator<Item = &[T]> {
    all.chunks_exact((all.len() / rows.max(1)).max(1))
}

fn characters(text: Option<&String>) -> f32 {
    let count = text.map_or(0, |text| text.chars().count());
    f32::from(u16::try_from(count).unwrap_or(u16::MAX))
}

/// What has become of a distribution, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Too few rows to say anything.
    TooFewRows,
    /// As in training, as far as can be told.
    Stable,
    /// It has moved: worth a look.
    Moderate,
    /// It is another one: the model was not trained for this.
    Drifted,
}

/// One distribution beside its training.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// The feature, or `prediction`.
    pub name: String,
    /// What is to be thought of it.
    pub verdict: Verdict,
    /// The population stability index; absent without traffic.
    pub psi: Option<f64>,
    /// What chance alone seldom exceeds in it.
    pub psi_noise: Option<f64>,
    /// The Kolmogorov-Smirnov statistic; absent for what has no order.
    pub ks: Option<f64>,
    /// What chance alone exceeds in one of a thousand windows.
    pub ks_noise: Option<f64>,
    /// Rows in each bin of the reference.
    pub counts: Vec<u64>,
}

/// What `/v1/drift` answers.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How much time is looked at.
    pub window_seconds: u64,
    /// How many rows came in it.
    pub rows: u64,
    /// How many requests in it were refused for their values, and so are counted nowhere else here.
    pub refused: u64,
    /// How many rows the training had.
    pub reference_rows: u64,
    /// The worst of all.
    pub verdict: Verdict,
    /// The same in words.
    pub summary: String,
    /// Every feature.
    pub features: Vec<Compared>,
    /// The predictions; absent when they are no single numbers.
    pub prediction: Option<Compared>,
}

impl Drift {
    /// Nothing counted yet.
    pub fn new(schema: &Schema, reference: &Reference, window: Duration) -> Self {
        let mut binned: Vec<Binned> = Vec::new();
        let (mut column, mut text) = (0, 0);
        for feature in schema.features() {
            let source = if feature.texts() > 0 { Source::Text(text) } else { Source::Column(column) };
            if let Some(histogram) = reference.features.get(feature.name()) {
                push(&mut binned, feature.name(), (source, bins_of(feature, histogram)), histogram);
                if let Some(last) = binned.last_mut() {
                    last.categories = categories_of(feature);
                }
            }
            column += feature.columns();
            text += feature.texts();
        }
        if let Some(histogram) = &reference.prediction {
            push(&mut binned, PREDICTION, (Source::Prediction, edges(histogram)), histogram);
        }
        let bins = binned.iter().map(|binned| binned.trained.len()).sum();
        let now = Instant::now();
        let sketches = vec![Sketch::default(); binned.len()];
        let shard = || Shard { window: Window::new(bins, window, now), sketches: sketches.clone() };
        let shards = (0..SHARDS).map(|_| Mutex::new(shard())).collect();
        let refused = Mutex::new(Window::new(0, window, now));
        Self { binned, shards, refused, window, instance: instance() }
    }

    /// Counts a request whose values the schema refused.
    pub fn refuse(&self, now: Instant) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).counts(now, 1);
    }

    /// Counts the rows of a request and their predictions.
    pub fn note(&self, rows: &Rows, predictions: &[f32], now: Instant) {
        let Some(shard) = self.shards.get(own_shard()) else {
            return;
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let Shard { window, sketches } = &mut *shard;
        let counts = window.counts(now, rows.count);
        for (binned, sketch) in self.binned.iter().zip(sketches) {
            if let Some(counts) = counts.get_mut(binned.first_bin..binned.first_bin + binned.trained.len()) {
                binned.count(rows, predictions, &mut Counts { bins: counts, sketch });
            }
        }
    }

    /// The comparison over the last window.
    pub fn report(&self, now: Instant) -> Report {
        let mut tally = Tally::default();
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).window.add_to(&mut tally, now);
        }
        let mut refused = Tally::default();
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).add_to(&mut refused, now);
        let compared = |binned: &Binned| binned.compare(&tally);
        let (predictions, features): (Vec<_>, Vec<_>) =
            self.binned.iter().partition(|binned| binned.source == Source::Prediction);
        let features: Vec<Compared> = features.into_iter().map(compared).collect();
        let prediction = predictions.first().copied().map(compared);
        let all = features.iter().chain(&prediction);
        let verdict = all.clone().map(|compared| compared.verdict).max().unwrap_or(Verdict::TooFewRows);
        Report {
            window_seconds: self.window.as_secs(),
            rows: tally.rows,
            refused: refused.rows,
            reference_rows: self.binned.first().map_or(0, |binned| binned.trained.iter().sum()),
            verdict,
            summary: summary(verdict, tally.rows, all.collect()),
            features,
            prediction,
        }
    }

    /// What was counted since the start, for whoever adds up endpoints and compares versions; `name` and `version` are
    /// the model's.
    pub fn sketch(&self, (name, version): (&str, &str)) -> drift::Report {
        let mut tally = Tally::default();
        let mut sketches = vec![Sketch::default(); self.binned.len()];
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.window.add_all_to(&mut tally);
            for (sum, part) in sketches.iter_mut().zip(&shard.sketches) {
                sum.add(part);
            }
        }
        let distributions = self.binned.iter().zip(sketches);
        drift::Report {
            format: drift::FORMAT,
            instance: self.instance.clone(),
            model: name.to_owned(),
            version: version.to_owned(),
            rows: tally.rows,
            requests: Some(tally.requests),
            distributions: distributions.map(|(binned, sketch)| binned.distribution(&tally, sketch)).collect(),
        }
    }
}

/// A name for this process that no other one has: counts begin at nothing with it.
fn instance() -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since_1970.as_nanos(), std::process::id())
}

fn push(binned: &mut Vec<Binned>, name: &str, (source, bins): (Source, Bins), histogram: &Histogram) {
    let first_bin = binned.last().map_or(0, |last| last.first_bin + last.trained.len());
    let (name, trained, categories) = (name.to_owned(), histogram.counts.clone(), Vec::new());
    binned.push(Binned { name, source, bins, trained, first_bin, categories });
}

fn bins_of(feature: &Feature, histogram: &Histogram) -> Bins {
    match feature {
        Feature::Numeric { .. } | Feature::Text { .. } => edges(histogram),
        Feature::Boolean { .. } => Bins::Flag,
        Feature::Categorical { categories, .. } => Bins::OneOf(categories.len()),
    }
}

/// The names of a feature's bins, where they have no order.
fn categories_of(feature: &Feature) -> Vec<String> {
    match feature {
        Feature::Numeric { .. } | Feature::Text { .. } => Vec::new(),
        Feature::Boolean { .. } => ["false", "true"].map(str::to_owned).to_vec(),
        Feature::Categorical { categories, .. } => categories.clone(),
    }
}

/// The outer edges bound nothing: a value beyond belongs to the first or the last bin.
fn edges(histogram: &Histogram) -> Bins {
    let edges = histogram.edges.as_deref().unwrap_or_default();
    let inner = edges.get(1..edges.len().saturating_sub(1)).unwrap_or_default();
    Bins::Edges(inner.iter().copied().map(crate::schema::narrow).collect())
}

/// A shard of this thread's own, as long as there are fewer threads than shards.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    OWN.with(|own| *own)
}

impl Binned {
    /// Counts its value of each row.
    fn count(&self, rows: &Rows, predictions: &[f32], counts: &mut Counts<'_>) {
        match self.source {
            Source::Column(first) => {
                for row in of_each(&rows.columns, rows.count) {
                    self.add(row.get(first..).unwrap_or_default(), counts);
                }
            }
            Source::Text(position) => {
                for row in of_each(&rows.texts, rows.count) {
                    self.add(&[characters(row.get(position))], counts);
                }
            }
            Source::Prediction => {
                for row in of_each(predictions, rows.count) {
                    self.add(row, counts);
                }
            }
        }
    }

    fn add(&self, values: &[f32], counts: &mut Counts<'_>) {
        let first = values.first().copied().unwrap_or_default();
        let bin = match &self.bins {
            // They are few: to look at all of them is faster than to guess which way to go.
            Bins::Edges(edges) => {
                counts.sketch.count(first);
                edges.iter().filter(|edge| **edge <= first).count()
            }
            Bins::Flag => usize::from(first > 0.5),
            Bins::OneOf(count) => values.iter().take(*count).position(|value| *value > 0.5).unwrap_or_default(),
        };
        if let Some(count) = counts.bins.get_mut(bin) {
            *count += 1;
        }
    }

    /// Whether its values are numbers.
    fn has_order(&self) -> bool {
        matches!(self.bins, Bins::Edges(_))
    }

    /// Rows in each of its bins.
    fn counts(&self, tally: &Tally) -> Vec<u64> {
        let bins = self.trained.len();
        tally.counts.get(self.first_bin..self.first_bin + bins).map_or_else(|| vec![0; bins], <[u64]>::to_vec)
    }

    /// Its name, and its values as they are handed over.
    fn distribution(&self, tally: &Tally, sketch: Sketch) -> (String, drift::Distribution) {
        let counts = self.counts(tally);
        let edges = match &self.bins {
            Bins::Edges(edges) => Some(edges.iter().copied().map(f64::from).collect()),
            Bins::Flag | Bins::OneOf(_) => None,
        };
        let values = if edges.is_some() {
            drift::Values::Numbers(sketch)
        } else {
            drift::Values::Categories { counts: self.categories.iter().cloned().zip(counts.iter().copied()).collect() }
        };
        let training = Some(drift::Training { edges, trained: self.trained.clone(), counts });
        let is_prediction = self.source == Source::Prediction;
        (self.name.clone(), drift::Distribution { is_prediction, values, training })
    }

    fn compare(&self, tally: &Tally) -> Compared {
        let counts = self.counts(tally);
        let distance = distance(&counts, &self.trained);
        let ordered = distance.filter(|_| self.has_order());
        Compared {
            name: self.name.clone(),
            verdict: verdict(distance, ordered, tally.rows),
            psi: distance.map(|distance| distance.psi),
            psi_noise: distance.map(|distance| distance.psi_noise),
            ks: ordered.map(|distance| distance.ks),
            ks_noise: ordered.map(|distance| distance.ks_noise),
            counts,
        }
    }
}

/// A PSI counts only where it stands above its noise, and for numbers the Kolmogorov-Smirnov statistic has to agree.
fn verdict(distance: Option<Distance>, ordered: Option<Distance>, rows: u64) -> Verdict {
    let Some(distance) = distance.filter(|_| rows >= LEAST_ROWS) else {
        return Verdict::TooFewRows;
    };
    let by_chance = distance.psi <= distance.psi_noise || ordered.is_some_and(|ordered| ordered.ks <= ordered.ks_noise);
    match distance.psi {
        _ if by_chance => Verdict::Stable,
        psi if psi >= LARGE => Verdict::Drifted,
        psi if psi >= MODERATE => Verdict::Moderate,
        _ => Verdict::Stable,
    }
}

fn summary(verdict: Verdict, rows: u64, mut compared: Vec<&Compared>) -> String {
    let moved = |least: Verdict| move |compared: &&Compared| compared.verdict >= least;
    compared.sort_by(|one, other| other.psi.unwrap_or_default().total_cmp(&one.psi.unwrap_or_default()));
    let named = |least| {
        let names = compared.iter().copied().filter(moved(least));
        names
            .map(|compared| format!("{} (PSI {:.2})", compared.name, compared.psi.unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match verdict {
        Verdict::TooFewRows => {
            format!("{rows} rows in this window are too few to say anything; {LEAST_ROWS} are needed")
        }
        Verdict::Stable => format!("{rows} rows look like those of the training"),
        Verdict::Moderate => format!("worth a look: {} moved away from training", named(Verdict::Moderate)),
        Verdict::Drifted => {
            format!("the model was not trained for this: {} differ from training", named(Verdict::Moderate))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drift() -> Drift {
        let features = r#"[
            {"name":"km","type":"numeric","unit":"km","range":[0,4]},
            {"name":"weather","type":"categorical","categories":["sun","rain"]},
            {"name":"fresh","type":"boolean"}]"#;
        let reference = r#"{"rows":1000,"features":{
            "km":{"edges":[0,1,2,3,4],"counts":[250,250,250,250]},
            "weather":{"counts":[500,500]},
            "fresh":{"counts":[900,100]}},
            "prediction":{"edges":[0,10,20],"counts":[500,500]}}"#;
        let schema = Schema::new(serde_json::from_str(features).unwrap()).unwrap();
        Drift::new(&schema, &serde_json::from_str(reference).unwrap(), Duration::from_mins(1))
    }

    /// `count` rows of the same values.
    fn note(drift: &Drift, count: usize, row: [f32; 4], prediction: f32) {
        let rows = Rows { columns: row.repeat(count), count, ..Rows::default() };
        drift.note(&rows, &vec![prediction; count], Instant::now());
    }

    #[test]
    fn values_are_counted_in_the_bins_of_the_reference() {
        let drift = drift();
        for (row, prediction) in
            [([0.0, 1.0, 0.0, 0.0], -5.0), ([1.0, 0.0, 1.0, 1.0], 10.0), ([4.0, 0.0, 1.0, 0.0], 99.0)]
        {
            note(&drift, 1, row, prediction);
        }
        let report = drift.report(Instant::now());
        let counts: Vec<_> = report.features.iter().map(|compared| compared.counts.clone()).collect();
        assert_eq!(counts, [vec![1, 1, 0, 1], vec![1, 2], vec![2, 1]]);
        assert_eq!(report.prediction.unwrap().counts, [1, 2]);
        assert_eq!(report.verdict, Verdict::TooFewRows);
    }

    #[test]
    fn of_texts_the_lengths_are_counted_and_of_vectors_nothing() {
        let features = r#"[{"name":"text","type":"text","length":[0,9]},{"name":"fresh","type":"boolean"}]"#;
        let reference = r#"{"rows":10,"features":{
            "text":{"edges":[0,3,6,9],"counts":[5,5,0]},"fresh":{"counts":[5,5]}}}"#;
        let schema = Schema::new(serde_json::from_str(features).unwrap()).unwrap();
        let drift = Drift::new(&schema, &serde_json::from_str(reference).unwrap(), Duration::from_mins(1));
        let texts = ["éé", "aaa", "", "123456789"].map(str::to_owned).to_vec();
        let rows = Rows { columns: vec![1.0, 0.0, 1.0, 1.0], texts, count: 4, ..Rows::default() };
        drift.note(&rows, &[0.5; 12], Instant::now());
        let report = drift.report(Instant::now());
        let counts: Vec<_> = report.features.iter().map(|compared| compared.counts.clone()).collect();
        assert_eq!(counts, [vec![2, 1, 1], vec![1, 3]]);
        assert!(report.prediction.is_none());
    }

    #[test]
    fn traffic_as_in_training_is_stable_and_another_is_named() {
        let drift = drift();
        for km in [0.5, 1.5, 2.5, 3.5] {
            for (sun, rain) in [(1.0, 0.0), (0.0, 1.0)] {
                for prediction in [5.0, 15.0] {
                    note(&drift, 90, [km, sun, rain, 0.0], prediction);
                    note(&drift, 10, [km, sun, rain, 1.0], prediction);
                }
            }
        }
        let report = drift.report(Instant::now());
        assert_eq!((report.rows, report.verdict), (1600, Verdict::Stable), "{}", report.summary);
        note(&drift, 4000, [3.5, 1.0, 0.0, 0.0], 15.0);
        let report = drift.report(Instant::now());
        assert_eq!(report.verdict, Verdict::Drifted);
        assert!(report.summary.contains("km (PSI"), "{}", report.summary);
        assert!(!report.summary.contains("fresh"), "{}", report.summary);
    }

    #[test]
    fn what_chance_explains_is_no_drift() {
        let drift = drift();
        for (km, count) in [(0.5, 62), (1.5, 48), (2.5, 54), (3.5, 46)] {
            note(&drift, count, [km, 1.0, 0.0, 0.0], 5.0);
        }
        let km = drift.report(Instant::now()).features.swap_remove(0);
        assert_eq!(km.verdict, Verdict::Stable, "{km:?}");
        assert!(km.psi.unwrap() > 0.0);
    }
}
