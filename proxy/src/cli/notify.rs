//! Webhooks, from the operator's side.

use super::CliError;
use super::args::{NotifyArgs, NotifyCommand, NotifyTestArgs};
use super::client::Admin;
use super::print::Page;
use super::words::paragraph;

/// Does what was asked about webhooks.
pub(super) fn notify(admin: &Admin, args: &NotifyArgs) -> Result<(), CliError> {
    match &args.command {
        NotifyCommand::Test(args) => test(admin, args),
    }
}

/// Has the edge post a test row; fails if the receiver does not take it.
fn test(admin: &Admin, args: &NotifyTestArgs) -> Result<(), CliError> {
    let answer = admin.test_webhook(&args.name)?;
    if args.json {
        Page::appended().json(&answer)?;
    }
    if let Some(problem) = answer.problem {
        return Err(CliError::NotDelivered { webhook: answer.webhook, problem });
    }
    if args.json {
        return Ok(());
    }
    let taken = format!("{} took the test row {} in {:.0} ms", answer.webhook, answer.id, answer.took_ms);
    Ok(Page::appended().text(&paragraph(&taken, 0))?)
}
