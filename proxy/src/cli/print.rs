//! The only place that writes to standard output. Colours are kept on a terminal and taken off elsewhere, as
//! `NO_COLOR` and `CLICOLOR_FORCE` say; a reader that has seen enough (`| head`) is no error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// The version of everything that `--json` prints: grows when a field is taken away or changes its meaning; new fields
/// come without notice. `docs/JSON.md` lists them.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// What `--json` prints: a value, and the version of its form.
#[derive(Debug, Serialize)]
struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Page {
    colours: anstream::ColorChoice,
}

impl Page {
    /// Prints one below the other.
    pub(crate) fn appended() -> Self {
        Self { colours: anstream::AutoStream::choice(&io::stdout()) }
    }

    /// Prints `text` as it stands.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        let mut out = anstream::AutoStream::new(io::stdout(), self.colours).lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Prints `value` as JSON, indented, with a line break.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        self.text(&format!("{}\n", serde_json::to_string_pretty(&versioned(value))?))
    }

    /// Prints `value` as JSON on a line.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> io::Result<()> {
        self.text(&format!("{}\n", serde_json::to_string(&versioned(value))?))
    }
}

fn versioned<T>(value: &T) -> Versioned<'_, T> {
    Versioned { schema_version: SCHEMA_VERSION, value }
}

/// Whether people look at standard output, and at once.
pub(crate) fn is_watched() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Says on standard error why a command failed.
pub(crate) fn complain(message: &str) {
    let mut out = anstream::AutoStream::auto(io::stderr()).lock();
    // With standard error gone there is nobody left to tell; the exit code still says it.
    drop(writeln!(out, "{}: {message}", super::words::paint(super::words::BAD, "error")));
}
