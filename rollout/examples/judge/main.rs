//! Judges the sequences of a vector file: `cargo run -p pointsman-rollout --example judge -- VECTORS.json`.
//!
//! Prints one JSON object per vector: its name, when it was first taken back and why, and the state at the ticks that
//! the file asks for. Minus infinity is written as null, infinity as `"inf"`.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::Value;
use thiserror::Error;

mod vector;

/// Why the file could not be judged.
#[derive(Debug, Error)]
enum JudgeError {
    #[error("no file named; write: judge VECTORS.json")]
    NoFile,
    #[error("{path} cannot be read")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is no JSON")]
    Json { path: String, source: serde_json::Error },
    #[error("{path} has no list `vectors`; see vectors_public.json for the format")]
    NoVectors { path: String },
    #[error("{path}: vector {index} cannot be judged")]
    Vector { path: String, index: usize, source: vector::VectorError },
    #[error("the result cannot be written")]
    Write { source: std::io::Error },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), JudgeError> {
    let path = std::env::args().nth(1).ok_or(JudgeError::NoFile)?;
    let text = std::fs::read_to_string(&path).map_err(|source| JudgeError::Read { path: path.clone(), source })?;
    let file: Value = serde_json::from_str(&text).map_err(|source| JudgeError::Json { path: path.clone(), source })?;
    let Some(vectors) = file.get("vectors").and_then(Value::as_array) else {
        return Err(JudgeError::NoVectors { path });
    };
    let mut out = std::io::stdout().lock();
    for (index, case) in vectors.iter().enumerate() {
        let judged = vector::judge(case).map_err(|source| JudgeError::Vector { path: path.clone(), index, source })?;
        writeln!(out, "{judged}").map_err(|source| JudgeError::Write { source })?;
    }
    Ok(())
}
