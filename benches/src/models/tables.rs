//! The delivery-time model on tables: `model-server`, what Python teams use, and a server without any model.
//!
//! All have one core and do the same work: they take an order, check it, and answer with its minutes.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Bench, ModelsError, golden_inputs, posted};
use crate::contender::beside;
use crate::course::{count, per_second, quantile_ms};
use crate::figures::{Better, Figures, Row, Sheet, row};
use crate::process;
use crate::rig::{Pattern, Request};
use crate::subject::Subject;

const ROWS: &[Row] = &[
    row("rps_one", "single predictions a second, 32 connections", "1/s", Better::Higher, 0),
    row("one_sklearn", "… as a ratio to FastAPI + scikit-learn", "×", Better::Higher, 1).figure(200.0),
    row("one_onnx", "… as a ratio to FastAPI + ONNX Runtime", "×", Better::Higher, 1).figure(10.0),
    row("one_none", "… as a ratio to a server without a model", "×", Better::Higher, 2).figure(0.8),
    row("p50_load", "p50 meanwhile", "ms", Better::Lower, 3),
    row("p99_load", "p99 meanwhile", "ms", Better::Lower, 3),
    row("rps_32", "batches of 32 a second, 8 connections", "1/s", Better::Higher, 0),
    row("rps_256", "batches of 256 a second, 8 connections", "1/s", Better::Higher, 0),
    row("batch_onnx", "… as a ratio to FastAPI + ONNX Runtime", "×", Better::Higher, 1).figure(6.0),
    row("p50_alone", "p50 at one connection", "ms", Better::Lower, 3).figure(0.1),
    row("p99_alone", "p99 at one connection", "ms", Better::Lower, 3).figure(1.5),
    row("rss", "memory after the load", "MB", Better::Lower, 1).figure(20.0),
    row("ready", "from start to ready", "s", Better::Lower, 3).figure(0.1),
    row("binary", "size of the program", "MB", Better::Lower, 1).figure(25.0),
    row("lost", "requests not answered with 200", "", Better::Lower, 0).figure(0.0),
];

/// The table.
pub const SHEET: Sheet = Sheet {
    title: "model-server beside FastAPI with scikit-learn and ONNX Runtime",
    ratio: "",
    picture: "predictions a second, latency, memory and time to ready as bars",
    columns: &NAMES,
    peers: &[],
    ours: "model-server",
    rows: ROWS,
    panels: &["rps_one", "rps_256", "p50_alone", "p99_load", "rss", "ready"],
    unseen: "no model",
};

/// The columns, in the order of [`Server::ALL`].
const NAMES: [&str; 5] =
    ["no model", "FastAPI + scikit-learn GBR", "FastAPI + scikit-learn MLP", "FastAPI + ONNX Runtime", "model-server"];

/// Who serves the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// hyper alone: the limit.
    NoModel,
    /// Gradient-boosted trees, trained on the same orders.
    SklearnGbr,
    /// The weights of the bundle in scikit-learn.
    SklearnMlp,
    /// The same in ONNX Runtime.
    Onnx,
    /// Ours.
    ModelServer,
}

impl Server {
    /// Everybody, in the order of the report.
    pub const ALL: [Self; 5] = [Self::NoModel, Self::SklearnGbr, Self::SklearnMlp, Self::Onnx, Self::ModelServer];

    /// For people.
    pub fn name(self) -> &'static str {
        let [none, gbr, mlp, onnx, ours] = NAMES;
        match self {
            Self::NoModel => none,
            Self::SklearnGbr => gbr,
            Self::SklearnMlp => mlp,
            Self::Onnx => onnx,
            Self::ModelServer => ours,
        }
    }
}

/// Everything that stays the same over the rounds.
#[derive(Debug)]
pub struct Tables<'a> {
    bench: &'a Bench,
    bundle: PathBuf,
    orders: Vec<String>,
}

impl<'a> Tables<'a> {
    /// Servers of `bundle`.
    ///
    /// # Errors
    /// If the bundle cannot be read.
    pub fn new(bench: &'a Bench, bundle: &Path) -> Result<Self, ModelsError> {
        Ok(Self { bench, bundle: bundle.to_owned(), orders: golden_inputs(bundle)? })
    }

    /// Measures everybody once.
    ///
    /// # Errors
    /// If a server or the load fails.
    pub async fn round(&self, round: usize, figures: &mut Figures) -> Result<(), ModelsError> {
        // Who comes first changes, so that nobody always has the machine as another left it.
        let mut order = Server::ALL;
        order.rotate_left(round % Server::ALL.len());
        for server in order {
            self.one(server, round, figures).await?;
        }
        let ours = Server::ModelServer.name();
        let ratios = [
            ("one_sklearn", "rps_one", Server::SklearnMlp),
            ("one_onnx", "rps_one", Server::Onnx),
            ("one_none", "rps_one", Server::NoModel),
            ("batch_onnx", "rps_256", Server::Onnx),
        ];
        for (id, of, peer) in ratios {
            let both = figures.value(round, ours, of).zip(figures.value(round, peer.name(), of));
            if let Some((own, theirs)) = both {
                figures.note(round, ours, id, own / theirs);
            }
        }
        Ok(())
    }

    async fn one(&self, server: Server, round: usize, figures: &mut Figures) -> Result<(), ModelsError> {
        let ready = self.bench.start(server.name(), |port| self.command(server, port)).await?;
        let mut lost = 0;
        let mut note = |id, value| figures.note(round, server.name(), id, value);
        note("ready", ready.after.as_secs_f64());
        let alone = self.bench.measure(&ready, (Pattern::Saturate, 1), &self.single()).await?;
        note("p50_alone", quantile_ms(&alone, 0.5));
        note("p99_alone", quantile_ms(&alone, 0.99));
        let many = self.bench.measure(&ready, (Pattern::Saturate, 32), &self.single()).await?;
        note("rps_one", per_second(&many));
        note("p50_load", quantile_ms(&many, 0.5));
        note("p99_load", quantile_ms(&many, 0.99));
        lost += alone.lost + many.lost;
        for (rows, id) in [(32, "rps_32"), (256, "rps_256")] {
            let batches = self.bench.measure(&ready, (Pattern::Saturate, 8), &self.batch(rows)).await?;
            note(id, per_second(&batches));
            lost += batches.lost;
        }
        note("lost", count(lost));
        note("rss", process::resident_megabytes(&ready.subject.pids()?)?);
        if server == Server::ModelServer {
            note("binary", count(fs::metadata(beside("model-server")?)?.len()) / 1e6);
        }
        Ok(ready.subject.stop().await?)
    }

    fn single(&self) -> Request {
        posted(self.orders.iter().take(1), 1)
    }

    fn batch(&self, rows: usize) -> Request {
        posted(self.orders.iter().cycle().take(rows), rows)
    }

    fn command(&self, server: Server, port: u16) -> std::io::Result<tokio::process::Command> {
        let engine = match server {
            Server::NoModel => {
                let mut command = Subject::pinned();
                command.arg(beside("no_model")?).arg("--port").arg(port.to_string());
                return Ok(command);
            }
            Server::ModelServer => return super::ours(&self.bundle, port),
            Server::SklearnGbr => "sklearn-gbr",
            Server::SklearnMlp => "sklearn-mlp",
            Server::Onnx => "onnx",
        };
        let mut command = self.bench.python("serve.py", &self.bundle, port);
        command.env("ENGINE", engine);
        Ok(command)
    }
}
