//! `completions` and `man`: what shells and `man` know of the command line, made from the command line itself.
//!
//! The script that a shell reads asks this very program for what fits, with [`ASKED_BY`] set; so it knows routes and
//! versions of the edge that `POINTSMAN_ADMIN` names, and nothing where none answers at once.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh};

use super::CliError;
use super::args::{Cli, CompletionsArgs, ManArgs};
use super::client::{Admin, Connection};
use crate::view::RouteView;

/// The environment variable by which a shell asks for completions.
const ASKED_BY: &str = "POINTSMAN_COMPLETE";
/// Nobody waits longer for a word.
const AT_ONCE: Duration = Duration::from_millis(300);

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// elvish
    Elvish,
    /// fish
    Fish,
    /// PowerShell
    Powershell,
    /// zsh
    Zsh,
}

impl Shell {
    fn completer(self) -> &'static dyn EnvCompleter {
        match self {
            Self::Bash => &Bash,
            Self::Elvish => &Elvish,
            Self::Fish => &Fish,
            Self::Powershell => &Powershell,
            Self::Zsh => &Zsh,
        }
    }
}

/// Answers a shell that asks; whether one did.
///
/// # Errors
/// If the shell is not known, or its question makes no sense.
pub(super) fn answered(arguments: &[OsString]) -> Result<bool, clap::Error> {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(Cli::command).var(ASKED_BY).try_complete(arguments.to_vec(), here.as_deref())
}

/// Prints the script for one shell.
pub(super) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    args.shell.completer().write_registration(ASKED_BY, "pointsman", "pointsman", "pointsman", &mut script)?;
    Ok(super::print::Page::appended().text(&String::from_utf8_lossy(&script))?)
}

/// Writes a page for every command.
pub(super) fn man(args: &ManArgs) -> Result<(), CliError> {
    let failed = |source: io::Error| CliError::ManPages { folder: args.out.clone(), source };
    std::fs::create_dir_all(&args.out).map_err(failed)?;
    let mut command = Cli::command();
    command.build();
    pages(&command, "pointsman", &args.out).map_err(failed)
}

fn pages(command: &clap::Command, name: &str, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    let mut page = Vec::new();
    let title = name.to_uppercase();
    let named = command.clone().display_name(name.to_owned());
    clap_mangen::Man::new(named).title(title).manual("Pointsman").date("").render(&mut page)?;
    let mut file = std::fs::File::create(folder.join(format!("{name}.1")))?;
    file.write_all(&page)
}

/// Names of routes.
pub(super) fn routes() -> Vec<CompletionCandidate> {
    seen()
        .into_iter()
        .map(|route| CompletionCandidate::new(route.name.as_str().to_owned()).help(Some(route.phase.into())))
        .collect()
}

/// Names of versions.
pub(super) fn versions() -> Vec<CompletionCandidate> {
    named("")
}

/// The beginnings of weights.
pub(super) fn weights() -> Vec<CompletionCandidate> {
    named("=")
}

fn named(suffix: &str) -> Vec<CompletionCandidate> {
    let versions = seen().into_iter().flat_map(|route| route.versions.into_keys());
    let mut names: Vec<String> = versions.map(|version| format!("{version}{suffix}")).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// What the edge of the environment says; nothing if none answers at once.
fn seen() -> Vec<RouteView> {
    Admin::new(&Connection::of_environment())
        .map(|admin| admin.within(AT_ONCE))
        .and_then(|admin| admin.routes())
        .unwrap_or_default()
}
