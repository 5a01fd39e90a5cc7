//! The only place that writes to standard output. Colours are kept on a terminal and taken off elsewhere, as
//! `NO_COLOR` and `CLICOLOR_FORCE` say; a reader that has seen enough (`| head`) is no error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Moves the cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Standard output.
#[derive(Debug, Default)]
pub(crate) struct Page {
    in_place: bool,
}

impl Page {
    /// Prints one below the other.
    pub(crate) fn appended() -> Self {
        Self { in_place: false }
    }

    /// On a terminal, prints each in place of the last.
    pub(crate) fn in_place() -> Self {
        Self { in_place: io::stdout().is_terminal() }
    }

    /// Whether each text takes the place of the last.
    pub(crate) fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// Prints `text` as it stands.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        let clear = if self.in_place { CLEAR } else { "" };
        let mut out = anstream::AutoStream::auto(io::stdout()).lock();
        // In one piece, so that a page that takes the place of another does not flicker.
        out.write_all(format!("{clear}{text}").as_bytes())?;
        out.flush()
    }

    /// Prints `value` as JSON, indented, with a line break.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.text(&text)
    }
}

/// Says on standard error why a command failed.
pub(crate) fn complain(message: &str) {
    let mut out = anstream::AutoStream::auto(io::stderr()).lock();
    // With standard error gone there is nobody left to tell; the exit code still says it.
    drop(writeln!(out, "{}: {message}", super::words::paint(super::words::BAD, "error")));
}
