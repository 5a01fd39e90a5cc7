//! `status --watch` on a terminal: a view that follows the edge, on a screen of its own.
//!
//! One thread asks the edge every second, one waits for signals; this one draws, and listens to keys. Whatever ends it
//! (a key, a signal, an error, a panic), the terminal is as it was before. An edge that is gone does not end it: the view
//! says since when, keeps the last picture, and asks on; one that is slow to answer is not called live meanwhile.

mod screen;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use pointsman_config::RouteName;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};

use self::screen::Screen;
use super::{AGAIN_AFTER, Seen, Silence, look};
use crate::cli::CliError;
use crate::cli::client::Admin;

/// How long a key is waited for before the clock is drawn again.
const FRAME: Duration = Duration::from_millis(100);

/// What the drawing thread is told.
enum News {
    /// The edge answered, or did not.
    Looked(Box<Result<Seen, Silence>>),
    /// A signal asked to end.
    End,
}

/// Shows the edge until somebody has seen enough. `first` is what it said first: one that never answered is no live view.
pub(super) fn watch(admin: Admin, route: Option<RouteName>, first: Seen) -> Result<(), CliError> {
    let broken = |source| CliError::Watch { source };
    let (tell, news) = mpsc::channel();
    let mut screen = Screen::new(admin.url().to_owned(), first, OffsetDateTime::now_utc());
    end_on_signals(tell.clone()).map_err(broken)?;
    // Dropped in the end, which ends the asking.
    let (_goes_on, goes_on) = mpsc::channel();
    thread::spawn(move || ask(admin, route.as_ref(), &tell, &goes_on));
    let mut terminal = ratatui::try_init().map_err(broken)?;
    let ended = follow(&mut terminal, &mut screen, &news);
    ratatui::try_restore().and(ended).map_err(broken)
}

/// Asks every second until nobody listens.
fn ask(mut admin: Admin, route: Option<&RouteName>, tell: &Sender<News>, goes_on: &Receiver<()>) {
    while goes_on.recv_timeout(AGAIN_AFTER) == Err(RecvTimeoutError::Timeout) {
        let seen = admin.renew().and_then(|()| look(&admin, route)).map_err(|error| Silence::of(&error));
        if tell.send(News::Looked(Box::new(seen))).is_err() {
            return;
        }
    }
}

/// Ctrl-C arrives as a key; whoever else wants this to end says so with a signal.
fn end_on_signals(tell: Sender<News>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?
    };
    thread::spawn(move || {
        runtime.block_on(futures_util::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))));
        // It may have ended by itself meanwhile.
        drop(tell.send(News::End));
    });
    Ok(())
}

fn follow(terminal: &mut ratatui::DefaultTerminal, screen: &mut Screen, news: &Receiver<News>) -> std::io::Result<()> {
    loop {
        for told in news.try_iter() {
            match told {
                News::Looked(seen) => screen.note(*seen, OffsetDateTime::now_utc()),
                News::End => return Ok(()),
            }
        }
        terminal.draw(|frame| screen.draw(frame, OffsetDateTime::now_utc()))?;
        if event::poll(FRAME)?
            && let event::Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && is_end(key, screen)
        {
            return Ok(());
        }
    }
}

/// What a key does; whether it ends the view.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other key does nothing")]
fn is_end(key: KeyEvent, screen: &mut Screen) -> bool {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Down | KeyCode::Char('j') => screen.next_route(),
        KeyCode::Up | KeyCode::Char('k') => screen.previous_route(),
        KeyCode::PageDown | KeyCode::Char(' ') => screen.scroll_down(),
        KeyCode::PageUp | KeyCode::Char('b') => screen.scroll_up(),
        _ => {}
    }
    false
}
