//! `pointsman demo`: the main job on real processes, told in plain words with figures.
//!
//! The cast are two model servers, a fault layer in front of the second, the edge and an open-loop load, each a process
//! of its own. Every figure printed is counted by one of them: what clients saw by the load, when a bad answer was
//! given by the fault layer, what was decided and when by the edge.

mod acts;
mod cast;
mod figures;
mod script;
mod stage;

use std::io;

use clap::{Args, ValueEnum};
use pointsman_telemetry::shutdown;
use serde::Serialize;
use thiserror::Error;

use super::CliError;
use super::print::Page;
use stage::Stage;

/// `demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Play only this act
    #[arg(long, value_name = "ACT")]
    pub act: Option<Act>,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Print the figures as JSON at the end, and nothing else
    #[arg(long)]
    pub json: bool,
    /// Requests per second of the load
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=20_000))]
    pub rate: u32,
}

/// One act of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// A healthy canary is promoted.
    Healthy,
    /// A canary that starts failing is taken back.
    Failing,
    /// An operator edits weights in the file and traffic follows.
    Edit,
}

/// Why the demo could not be played, or did not end as it should.
#[derive(Debug, Error)]
pub enum DemoError {
    /// A program that the demo starts is not there.
    #[error("`{program}` is neither beside this program nor on the PATH; build it: cargo build --release -p {package}")]
    Missing {
        /// Which.
        program: &'static str,
        /// The package that makes it.
        package: &'static str,
    },
    /// A process could not be started, or its pipes could not be read.
    #[error("{what} cannot be started")]
    Start {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A process ended before it was ready.
    #[error("{what} ended before it was ready; its own words stand above")]
    Ended {
        /// Which.
        what: &'static str,
    },
    /// A file of the demo could not be written.
    #[error("the demo's folder cannot be written")]
    Folder(#[from] io::Error),
    /// The fault layer or the load says something else than it should.
    #[error("{what} cannot be understood or reached")]
    Strange {
        /// Which.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something did not happen in time.
    #[error("waited {seconds} s in vain for: {what}")]
    InVain {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// An act ended otherwise than it should.
    #[error("the demo did not end as it should: {what}")]
    Failed {
        /// How.
        what: String,
    },
}

/// Plays the acts.
pub(super) fn demo(args: &DemoArgs) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DemoError::Folder)?;
    runtime.block_on(async {
        let terminate = shutdown::terminate().map_err(DemoError::Folder)?;
        let interrupt = shutdown::interrupt().map_err(DemoError::Folder)?;
        // Whoever ends the demo ends its processes too: they are killed when the stage is dropped.
        tokio::select! {
            played = play(args) => played,
            () = terminate => Ok(()),
            () = interrupt => Ok(()),
        }
    })
}

async fn play(args: &DemoArgs) -> Result<(), CliError> {
    let page = Page::appended();
    let mut stage = Stage::set(args).await?;
    let played = acts::play(&mut stage, args.act).await;
    let figures = stage.figures(&played);
    if args.json {
        page.json(&figures)?;
    } else {
        page.text(&figures.in_words())?;
    }
    if args.keep {
        page.text(&stage.how_to_look_around())?;
        std::future::pending::<()>().await;
    }
    stage.clear().await;
    played
}
