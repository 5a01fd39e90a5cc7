//! What an operator asks of a bundle without serving it: whether it would be served (`verify`), and what it is
//! (`describe`). Both go the way of a start, `bundle` → `model` → `golden`, and open no port.

use std::io::{self, Write};

use clap::{Args, Parser, Subcommand};

use crate::app::AppError;
use crate::artifact::Sha256;
use crate::bundle::Bundle;
use crate::golden;
use crate::model::DeviceName;
use crate::predict::Served;
use crate::schema::Feature;
use crate::settings::Settings;
use crate::source::{self, CacheSettings, ModelPath};

/// Serves one version of a model over HTTP. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "model-server", version, about)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do in place of serving.
    #[command(subcommand)]
    pub order: Option<Order>,
    /// How to serve; absent only with a command.
    #[command(flatten)]
    pub serve: Option<Settings>,
}

/// What can be done with a bundle that is not served.
#[derive(Debug, Subcommand)]
pub enum Order {
    /// Does all that a start does short of serving: digests, description, weights, golden examples. Exit code 0 when the
    /// bundle would be served, 1 when not.
    Verify(Verify),
    /// Says what a bundle is: features with units and ranges, output, golden examples, signature, size.
    Describe(Describe),
}

/// A bundle to be verified.
#[derive(Debug, Args)]
pub struct Verify {
    /// A folder, an archive or a URL, as for serving.
    pub bundle: ModelPath,
    /// Where it is brought to.
    #[command(flatten)]
    pub cache: CacheSettings,
    /// SHA-256 that model.json must have.
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<Sha256>,
    /// Where the model calculates: cpu, or cuda:0 in a build with the feature `cuda`.
    #[arg(long, default_value = "cpu")]
    pub device: DeviceName,
}

/// A bundle to be described.
#[derive(Debug, Args)]
pub struct Describe {
    /// A folder, an archive or a URL, as for serving.
    pub bundle: ModelPath,
    /// Where it is brought to.
    #[command(flatten)]
    pub cache: CacheSettings,
    /// What `/v1/model` would answer, for machines.
    #[arg(long)]
    pub json: bool,
}

/// Carries an order out, and writes what came of it.
///
/// # Errors
/// When the bundle would not be served.
pub fn examine(order: &Order, out: &mut impl Write) -> Result<(), AppError> {
    match order {
        Order::Verify(verify) => verify_bundle(verify, out),
        Order::Describe(describe) => describe_bundle(describe, out),
    }
}

/// Each line stands for something that holds; the first that does not is the error.
fn verify_bundle(order: &Verify, out: &mut impl Write) -> Result<(), AppError> {
    let promised = order.sha256.as_ref();
    let brought = source::bring(&order.bundle, &order.cache, promised)?;
    let mut bundle = Bundle::load(&brought.folder, promised)?;
    writeln!(out, "files     {} and model.json are what their digests say", listed(bundle.files.keys()))?;
    writeln!(out, "schema    {} features, signature {}", bundle.schema.features().count(), bundle.schema.signature())?;
    let architecture = bundle.shape.architecture().name();
    let golden = bundle.take_golden();
    let served = Served::new(bundle, order.device)?;
    writeln!(out, "weights   fit {architecture} on {}, and all are numbers", order.device)?;
    let passed = golden::check(&served, &golden)?;
    let (examples, off, tolerance) = (passed.examples, passed.largest_difference, golden.tolerance);
    writeln!(out, "golden    {examples} examples pass, off by {off:.1e} at most of {tolerance:.1e}")?;
    let off = golden::check_together(&served, &golden)?.largest_difference;
    writeln!(out, "batch     all of them at once give the same, off by {off:.1e} at most")?;
    writeln!(out, "{} {} would be served; MODEL_SHA256={}", served.name(), served.version(), served.sha256())?;
    Ok(())
}

fn listed<'n>(names: impl Iterator<Item = &'n String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn describe_bundle(order: &Describe, out: &mut impl Write) -> Result<(), AppError> {
    let brought = source::bring(&order.bundle, &order.cache, None)?;
    let bundle = Bundle::load(&brought.folder, None)?;
    if order.json {
        out.write_all(&bundle.described())?;
        writeln!(out)?;
        return Ok(());
    }
    Ok(write_description(&bundle, out)?)
}

fn write_description(bundle: &Bundle, out: &mut impl Write) -> io::Result<()> {
    let manifest = &bundle.manifest;
    writeln!(out, "model         {} {}", manifest.name, manifest.version)?;
    if let Some(description) = &manifest.description {
        writeln!(out, "description   {description}")?;
    }
    writeln!(out, "architecture  {}", bundle.shape.architecture().name())?;
    writeln!(out, "signature     {}", bundle.schema.signature())?;
    writeln!(out, "sha256        {}", bundle.sha256)?;
    for (name, content) in &bundle.files {
        writeln!(out, "file          {name}, {}", bytes(content.len()))?;
    }
    let output = &manifest.output;
    let values = output.size.map_or(String::new(), |size| format!(", a vector of {size} values"));
    let [low, high] = output.range;
    writeln!(out, "output        {}, {low} to {high} {}{values}", output.name, output.unit)?;
    let golden = &manifest.golden;
    writeln!(out, "golden        {} examples, tolerance {}", golden.examples.len(), golden.tolerance)?;
    writeln!(out, "reference     {} training rows", manifest.reference.rows)?;
    writeln!(out, "features      {}", bundle.schema.features().count())?;
    let width = bundle.schema.features().map(|feature| feature.name().chars().count()).max().unwrap_or_default();
    for feature in bundle.schema.features() {
        writeln!(out, "  {:width$}  {}", feature.name(), in_words(feature))?;
    }
    Ok(())
}

fn in_words(feature: &Feature) -> String {
    match feature {
        Feature::Numeric { unit, range: [low, high], .. } => format!("number, {low} to {high} {unit}"),
        Feature::Boolean { .. } => "true or false".to_owned(),
        Feature::Categorical { categories, .. } => format!("one of {}", categories.join(", ")),
        Feature::Text { length: [fewest, most], .. } => format!("text of {fewest} to {most} characters"),
    }
}

/// As a person reads sizes: three digits at least, in powers of 1024.
fn bytes(count: usize) -> String {
    let steps = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = steps.into_iter().find(|(_, shift)| count >> shift >= 10);
    unit.map_or_else(|| format!("{count} bytes"), |(unit, shift)| format!("{} {unit}", count >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["model-server"], line].concat())
    }

    #[test]
    fn a_command_needs_no_model_path_and_serving_does() {
        let verify = parsed(&["verify", "models/v1"]).unwrap();
        assert!(matches!(verify.order, Some(Order::Verify(_))));
        let serve = parsed(&["--model-path", "models/v1", "--port", "0"]).unwrap();
        assert!(serve.order.is_none() && serve.serve.is_some_and(|settings| settings.port == 0));
        assert!(parsed(&["verify"]).is_err());
        assert!(parsed(&["--port", "1", "verify", "models/v1"]).is_err());
    }

    #[test]
    fn sizes_are_said_in_words() {
        for (count, words) in [(9, "9 bytes"), (51_680, "50 KiB"), (90_868_376, "86 MiB"), (20 << 30, "20 GiB")] {
            assert_eq!(bytes(count), words);
        }
    }
}
