//! A sentence embedding (`MiniLM`) behind `model-server`, and behind FastAPI with ONNX Runtime.
//!
//! Texts of 16 and of 128 tokens, alone and in batches, from one connection: what is measured is the engine. Then three
//! times as many texts as the server can do: what counts is how many of them are answered well, and how soon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Bench, ModelsError, posted};
use crate::course::{count, per_second, quantile_ms};
use crate::figures::{Better, Figures, Row, Sheet, row};
use crate::process;
use crate::rig::{Pattern, Request};

/// Connections that ask for as much as the server can do.
const CONNECTIONS: usize = 16;
/// Clients of an overload.
const CROWD: usize = 512;
/// How much more than it can do.
const OVERLOAD: f64 = 3.0;

/// Calls of seconds are counted for so long by each of their tokens, so that several end in that time.
const LEAST_FOR_A_TOKEN: Duration = Duration::from_micros(1_500);

const ROWS: &[Row] = &[
    row("ms_1_16", "1 text of 16 tokens", "ms", Better::Lower, 2).ratio(1.0),
    row("ms_8_16", "8 texts of 16 tokens", "ms", Better::Lower, 1).ratio(1.0),
    row("ms_32_16", "32 texts of 16 tokens", "ms", Better::Lower, 1).ratio(1.0),
    row("ms_1_128", "1 text of 128 tokens", "ms", Better::Lower, 1).ratio(1.0),
    row("ms_8_128", "8 texts of 128 tokens", "ms", Better::Lower, 0).ratio(1.0),
    row("ms_32_128", "32 texts of 128 tokens", "ms", Better::Lower, 0).ratio(1.0),
    row("capacity", "texts of 16 tokens a second, 16 connections", "1/s", Better::Higher, 0),
    row("goodput", "answered well at three times as many, to what it can do", "×", Better::Higher, 2).figure(0.9),
    row("p99_overload", "p99 of those", "ms", Better::Lower, 0),
    row("rss", "memory after the load", "MB", Better::Lower, 0),
    row("ready", "from start to ready", "s", Better::Lower, 2),
];

/// The table.
pub const SHEET: Sheet = Sheet {
    title: "model-server beside FastAPI with ONNX Runtime: MiniLM",
    ratio: "The ratio is to FastAPI with ONNX Runtime in the same round, median over the rounds; milliseconds are the p50 of one connection.",
    picture: "milliseconds a call, texts a second and memory as bars",
    columns: &NAMES,
    peers: &["FastAPI + ONNX Runtime"],
    ours: "model-server",
    rows: ROWS,
    panels: &["ms_1_16", "ms_32_16", "ms_1_128", "ms_32_128", "capacity", "rss"],
    unseen: "",
};

/// The columns, in the order of [`Server::ALL`].
const NAMES: [&str; 2] = ["FastAPI + ONNX Runtime", "model-server"];

/// Batches, tokens of each text, and the row that they make.
const SHAPES: [(usize, usize, &str); 6] = [
    (1, 16, "ms_1_16"),
    (8, 16, "ms_8_16"),
    (32, 16, "ms_32_16"),
    (1, 128, "ms_1_128"),
    (8, 128, "ms_8_128"),
    (32, 128, "ms_32_128"),
];

/// Who serves the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Onnx,
    ModelServer,
}

impl Server {
    const ALL: [Self; 2] = [Self::Onnx, Self::ModelServer];

    fn name(self) -> &'static str {
        let [onnx, ours] = NAMES;
        match self {
            Self::Onnx => onnx,
            Self::ModelServer => ours,
        }
    }
}

/// Everything that stays the same over the rounds.
#[derive(Debug)]
pub struct Texts<'a> {
    bench: &'a Bench,
    bundle: PathBuf,
}

impl<'a> Texts<'a> {
    /// Servers of `bundle`.
    pub fn new(bench: &'a Bench, bundle: &Path) -> Self {
        Self { bench, bundle: bundle.to_owned() }
    }

    /// Measures everybody once.
    ///
    /// # Errors
    /// If a server or the load fails.
    pub async fn round(&self, round: usize, figures: &mut Figures) -> Result<(), ModelsError> {
        let mut order = Server::ALL;
        order.rotate_left(round % Server::ALL.len());
        for server in order {
            self.one(server, round, figures).await?;
        }
        Ok(())
    }

    async fn one(&self, server: Server, round: usize, figures: &mut Figures) -> Result<(), ModelsError> {
        let command = |port| match server {
            Server::Onnx => Ok(self.bench.python("serve_texts.py", &self.bundle, port)),
            Server::ModelServer => super::ours(&self.bundle, port),
        };
        let ready = self.bench.start(server.name(), command).await?;
        let mut note = |id, value| figures.note(round, server.name(), id, value);
        note("ready", ready.after.as_secs_f64());
        for (texts, tokens, id) in SHAPES {
            let span = self.bench.span.max(LEAST_FOR_A_TOKEN.mul_f64(count_of(texts * tokens)));
            let alone = (Pattern::Saturate, 1);
            let measured = self.bench.measure_for(span, &ready, alone, &request(texts, tokens)).await?;
            note(id, quantile_ms(&measured, 0.5));
        }
        let most = self.bench.measure(&ready, (Pattern::Saturate, CONNECTIONS), &request(1, 16)).await?;
        let capacity = per_second(&most);
        note("capacity", capacity);
        if server == Server::ModelServer {
            let crowd = (Pattern::Rate(capacity * OVERLOAD), CROWD);
            let overload = self.bench.measure(&ready, crowd, &request(1, 16)).await?;
            note("goodput", count(overload.answered) / overload.seconds / capacity);
            note("p99_overload", quantile_ms(&overload, 0.99));
        }
        note("rss", process::resident_megabytes(&ready.subject.pids()?)?);
        Ok(ready.subject.stop().await?)
    }
}

/// A small number to reckon with.
fn count_of(tokens: usize) -> f64 {
    u64::try_from(tokens).map_or(0.0, count)
}

/// So many texts of so many tokens: one of a word each, and one at either end.
fn request(texts: usize, tokens: usize) -> Request {
    let text = vec!["rain"; tokens.saturating_sub(2)].join(" ");
    let row = format!("{{\"text\":\"{text}\"}}");
    posted(std::iter::repeat_n(&row, texts), texts)
}
