//! `status --watch` on a terminal of its own: what is drawn, and that the terminal is as it was before, whatever ends it.
//!
//! The terminal is a pseudo-terminal of the kernel with the real program on it, and what the program writes is read as a
//! terminal would read it. `setsid --ctty` makes it the program's own, so that it hears of a new size and of a hangup.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::fixture::{Edge, rolled_back, shifting, steady, view};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long is waited before what is shown is looked at again.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Ends with the value.
struct Program(Child);

impl Program {
    /// How it ended, as soon as it has; `meanwhile` is done until then.
    fn ended(&mut self, mut meanwhile: impl FnMut()) -> ExitStatus {
        let begun = Instant::now();
        loop {
            meanwhile();
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The program on a terminal, and what the terminal shows.
struct Terminal {
    program: Program,
    master: OwnedFd,
    /// Who had the terminal before the program, and has it after: a shell.
    shell: OwnedFd,
    shown: vt100::Parser,
    /// How the terminal was set before the program had it.
    before: Termios,
}

fn size_of(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// What has to be as it was: raw modes are those of input, output and line.
fn modes(termios: &Termios) -> impl PartialEq + std::fmt::Debug {
    (termios.input_modes, termios.output_modes, termios.local_modes)
}

/// What the program wrote, if it writes within a moment.
fn written(master: &OwnedFd) -> Option<Vec<u8>> {
    let mut waited = [PollFd::new(master, PollFlags::IN)];
    match poll(&mut waited, Some(&LOOK)) {
        // A child that has ended interrupts whoever waits.
        Ok(0) | Err(Errno::INTR) => return None,
        Ok(_) => {}
        Err(error) => panic!("the terminal cannot be waited for: {error}"),
    }
    let mut bytes = vec![0; 4096];
    let read = rustix::io::read(master, &mut bytes).unwrap();
    bytes.truncate(read);
    Some(bytes)
}

impl Terminal {
    fn new(arguments: &[&str], (rows, columns): (u16, u16), environment: &[(&str, &str)]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, size_of(rows, columns)).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let shell = open(name.as_c_str(), flags, Mode::empty()).unwrap();
        let end = || Stdio::from(shell.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_pointsman")).args(arguments);
        command.stdin(end()).stdout(end()).stderr(end());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("POINTSMAN_ADMIN");
        command.envs(environment.iter().copied());
        let before = tcgetattr(&shell).unwrap();
        let program = Program(command.spawn().unwrap());
        let shown = vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 0);
        Self { program, master, shell, shown, before }
    }

    fn watch(edge: &Edge, size: (u16, u16)) -> Self {
        Self::new(&["status", "--watch", "--admin", &edge.url("")], size, &[])
    }

    /// Shows what the program wrote meanwhile, or waits a moment for it.
    fn look(&mut self) {
        if let Some(bytes) = written(&self.master) {
            self.shown.process(&bytes);
        }
    }

    /// Shows what comes until `wanted` is true of it.
    fn until(&mut self, what: &str, wanted: impl Fn(&vt100::Screen) -> bool) -> String {
        let begun = Instant::now();
        while !wanted(self.shown.screen()) {
            assert!(begun.elapsed() < PATIENCE, "never {what}:\n{}", self.shown.screen().contents());
            self.look();
        }
        self.shown.screen().contents()
    }

    /// All of the first picture: the keys are its last line.
    fn until_drawn(&mut self) -> String {
        self.until("drawn", |screen| screen.contents().contains("q quit"))
    }

    fn until_it_says(&mut self, words: &str) -> String {
        self.until(words, |screen| screen.contents().contains(words))
    }

    fn press(&mut self, keys: &[u8]) {
        assert_eq!(rustix::io::write(&self.master, keys).unwrap(), keys.len());
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        self.shown.screen_mut().set_size(rows.try_into().unwrap(), columns.try_into().unwrap());
        tcsetwinsize(&self.master, size_of(rows, columns)).unwrap();
    }

    fn signal(&self, signal: Signal) {
        // The session that was opened is that of the program itself.
        kill(Pid::from_raw(i32::try_from(self.program.0.id()).unwrap()), signal).unwrap();
    }

    /// It ends by itself, and the terminal is as it was.
    fn ends_well(&mut self) {
        let Self { program, master, shown, .. } = self;
        let status = program.ended(|| {
            if let Some(bytes) = written(master) {
                shown.process(&bytes);
            }
        });
        assert_eq!(status.code(), Some(0), "{}", self.shown.screen().contents());
        self.until("the first screen again", |screen| !screen.alternate_screen() && !screen.hide_cursor());
        let after = tcgetattr(&self.shell).unwrap();
        assert_eq!(modes(&after), modes(&self.before), "keys are read and shown as before");
    }
}

#[test]
fn it_follows_the_edge_and_leaves_the_terminal_as_it_was() {
    let edge = Edge::new(view(vec![shifting()]));
    let mut terminal = Terminal::watch(&edge, (50, 100));
    let shown = terminal.until_drawn();
    assert!(terminal.shown.screen().alternate_screen(), "on a screen of its own");
    for words in ["  live", "effective", "next", "you can", "pointsman rollback delivery-time", "q quit"] {
        assert!(shown.contains(words), "`{words}` is missing:\n{shown}");
    }
    edge.view.store(view(vec![rolled_back()]).into());
    terminal.until_it_says("held at 0%");
    terminal.press(b"q");
    terminal.ends_well();
}

#[test]
fn ctrl_c_and_signals_end_it_and_the_terminal_is_as_it_was() {
    let edge = Edge::new(view(vec![shifting()]));
    let mut terminal = Terminal::watch(&edge, (30, 80));
    terminal.until_it_says("shifting");
    terminal.press(&[3]);
    terminal.ends_well();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut terminal = Terminal::watch(&edge, (30, 80));
        terminal.until_it_says("shifting");
        terminal.signal(signal);
        terminal.ends_well();
    }
}

#[test]
fn a_window_that_is_closed_takes_it_along() {
    let edge = Edge::new(view(vec![shifting()]));
    let mut terminal = Terminal::watch(&edge, (30, 80));
    terminal.until_it_says("shifting");
    let Terminal { mut program, master, shell, .. } = terminal;
    drop((master, shell));
    program.ended(|| std::thread::park_timeout(Duration::from_millis(10)));
}

#[test]
fn a_lost_edge_is_told_with_since_when_and_comes_back() {
    let edge = Edge::new(view(vec![shifting()]));
    let address = edge.address;
    let mut terminal = Terminal::watch(&edge, (50, 100));
    terminal.until_it_says("  live");
    drop(edge);
    let shown = terminal.until_it_says("LOST since");
    assert!(shown.contains("v1 95%"), "the last picture stays:\n{shown}");
    let edge = Edge::at(address, view(vec![rolled_back()]));
    terminal.until_it_says("rolled back");
    terminal.until("live again", |screen| screen.contents().contains("  live") && !screen.contents().contains("LOST"));
    terminal.press(b"q");
    terminal.ends_well();
    drop(edge);
}

#[test]
fn narrow_and_low_terminals_lose_nothing_that_cannot_be_scrolled_to() {
    let edge = Edge::new(view(vec![shifting()]));
    let mut terminal = Terminal::watch(&edge, (50, 100));
    terminal.until_it_says("shifting");
    terminal.resize(15, 34);
    // What the first lines say is there in full, and how much is below.
    let shown = terminal.until_it_says("more lines below");
    for words in ["  live", "delivery-time: ", "step 2 of 4", "1 min 12 s"] {
        assert!(shown.contains(words), "`{words}` is missing:\n{shown}");
    }
    for _ in 0..40 {
        terminal.press(b" ");
    }
    terminal.until_it_says("decision 4");
    // As small as a terminal can be, there is nothing to see and nothing breaks.
    terminal.resize(1, 1);
    terminal.press(b"jkb ");
    terminal.resize(60, 120);
    terminal.until_it_says("delivery-time: shifting");
    terminal.press(b"q");
    terminal.ends_well();
}

#[test]
fn many_routes_are_a_list_with_one_of_them_in_full() {
    let edge = Edge::new(view(vec![steady("ranking"), rolled_back()]));
    let mut terminal = Terminal::watch(&edge, (50, 100));
    let shown = terminal.until_drawn();
    assert!(shown.contains("> ranking") && shown.contains("rolled back"), "{shown}");
    terminal.press(b"j");
    terminal.until_it_says("> delivery-time");
    terminal.until_it_says("held at 0%");
    terminal.press(b"\x1b[A");
    terminal.until_it_says("> ranking");
    terminal.press(b"q");
    terminal.ends_well();
}

#[test]
fn without_colours_every_word_is_still_there() {
    let edge = Edge::new(view(vec![rolled_back()]));
    let arguments = ["status", "--watch", "--admin", &edge.url("")];
    let coloured = |environment: &[(&str, &str)]| {
        let mut terminal = Terminal::new(&arguments, (50, 100), environment);
        // The last words of the last line: before them the first ones may have come alone.
        let shown = terminal.until_it_says("space/b scroll");
        let screen = terminal.shown.screen();
        let cells = (0..50).flat_map(|row| (0..100).filter_map(move |column| screen.cell(row, column)));
        let colours = cells.filter(|cell| cell.fgcolor() != vt100::Color::Default).count();
        terminal.press(b"q");
        terminal.ends_well();
        (shown, colours)
    };
    let (with, some) = coloured(&[]);
    let (without, none) = coloured(&[("NO_COLOR", "1")]);
    assert!(some > 0 && none == 0, "{some} and {none} coloured cells");
    // The first line has the time of day.
    let words = |shown: &str| shown.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&with), words(&without));
    assert!(without.contains("rolled back") && without.contains("  live"));
}
