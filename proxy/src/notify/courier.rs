//! The thread of a webhook: takes what waits, posts it, and tries again where that may help.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::hook::{Hook, Woken};
use super::news::News;
use super::{post, schedule};

/// Between two words about rows that were dropped.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Starts it; it ends when the hook is closed and nothing waits.
///
/// # Errors
/// If no thread can be started.
pub(super) fn start(hook: Arc<Hook>) -> io::Result<()> {
    thread::Builder::new().name("notify".to_owned()).spawn(move || run(&hook)).map(drop)
}

fn run(hook: &Hook) {
    let mut told = (0, Instant::now());
    while let Some((news, missed)) = hook.next() {
        deliver(hook, &news, missed);
        tell_of_dropped(hook, &mut told);
    }
}

/// Posts a row until it is taken, or given up.
fn deliver(hook: &Hook, news: &News, missed: u64) {
    for tries in 1.. {
        let settings = hook.settings();
        let failure = match post::once(&settings, news, missed) {
            Ok(()) => return hook.delivered(missed),
            Err(failure) => failure,
        };
        hook.failed(news.event, &failure.problem);
        let so_far = (tries, news.created.elapsed());
        let pause = schedule::pause(failure.again, so_far, settings.give_up_after, rand::random());
        let Some(pause) = pause.filter(|pause| hook.rest(*pause) == Woken::TryAgain) else {
            warn!(
                webhook = %hook.name(),
                event = news.event,
                id = news.id,
                tries,
                problem = failure.problem,
                "notification given up; look at the receiver, then say pointsman notify test"
            );
            return hook.given_up();
        };
        if tries == 1 {
            info!(webhook = %hook.name(), event = news.event, problem = failure.problem, pause_ms = pause.as_millis(), "webhook did not take a notification; it is tried again");
        }
        hook.tried_again();
    }
}

fn tell_of_dropped(hook: &Hook, (told, when): &mut (u64, Instant)) {
    let dropped = hook.dropped();
    if dropped > *told && (*told == 0 || when.elapsed() > TELL_EVERY) {
        warn!(webhook = %hook.name(), rows = dropped - *told, "notifications dropped, the oldest first, since too many wait; look at the receiver");
        (*told, *when) = (dropped, Instant::now());
    }
}
