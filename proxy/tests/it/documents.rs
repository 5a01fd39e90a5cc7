//! Every command block of README and of the quick starts, run as it stands: each terminal of the reader is a shell, ports
//! are free ones in place of those on the page, and `target/release` is where this test's programs are. What a page says
//! that a command prints is what it prints.
//!
//! Comments in the pages, which readers do not see, say what is more to it than running a block in the first terminal:
//!
//! | comment | means |
//! |---|---|
//! | `terminal: 2`, `terminals: 1, 2, 3` | there |
//! | `until: TEXT` | again and again until it prints that, as a reader looks again |
//! | `stays: TEXT` | it does not come back; go on once it prints that |
//! | `ends: 1` | Ctrl-C there before |
//! | `not run: REASON` | it is not run, and why |
//! | `file: NAME` | the block is written there |
//! | `config` | the block is a config file, and a valid one that nobody is warned of |
//! | `prints`, `prints in part`, each with `figures vary` or without | the last command printed this; `...` leaves lines out |

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use pointsman_docs::page::{Block, Page};
use pointsman_docs::tree::Tree;
use serde_json::Value;

use crate::models::built;

/// No block takes longer.
const PATIENCE: Duration = Duration::from_mins(4);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Ports that pages name.
const PORTS: [&str; 6] = ["8080", "9900", "9001", "9002", "9003", "9102"];

#[test]
fn the_commands_of_the_readme_work() {
    walk("README.md", 0);
}

#[test]
fn the_commands_of_the_quick_start_work() {
    walk("docs/quick-start.md", 0);
}

#[test]
fn the_commands_of_the_quick_start_on_kubernetes_work_as_far_as_they_need_no_cluster() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        assert!(std::env::var_os("REQUIRE_KUBECTL").is_none(), "kubectl cannot be started");
        eprintln!("skipped: kubectl cannot be started; REQUIRE_KUBECTL=1 makes this a failure");
        return;
    }
    walk("docs/quick-start-kubernetes.md", 5);
}

#[test]
fn configs_of_the_migration_pages_are_valid_and_for_edges_that_decide_as_one() {
    for name in ["docs/migrate-argo-rollouts.md", "docs/migrate-flagger.md"] {
        walk(name, 0);
        let page = Page::parse(&read(name));
        let config = page.blocks.iter().find(|block| block.note.as_deref() == Some("config")).unwrap();
        let base = read("manifests/base/pointsman.yaml");
        let replicas = |text: &str| {
            let lines = text.lines().skip_while(|line| !line.starts_with("replicas:")).skip(1);
            lines.take_while(|line| line.starts_with(' ')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(replicas(&config.text), replicas(&base), "{name}: the manifests that it leads to run three edges");
    }
}

/// A file of the repository.
fn read(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(name)).unwrap()
}

/// What a command and its subcommands say of themselves.
fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman")).args(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{words:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands of `pointsman` that a page names, in a line or in a block.
fn commands(page: &Page) -> Vec<String> {
    let in_blocks = page.blocks.iter().flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>());
    let all = page.codes.iter().map(|(code, _line)| code.clone()).chain(in_blocks);
    all.filter_map(|code| {
        let command = code.trim_start_matches([' ', '$']).split(" #").next().unwrap().trim().to_owned();
        command.starts_with("pointsman ").then_some(command)
    })
    .collect()
}

#[test]
fn commands_that_pages_name_are_known() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let known = help(&[]);
    let (mut helps, mut seen) = (BTreeMap::new(), 0);
    for (path, page) in Tree::read(root).unwrap().pages {
        for command in commands(&page) {
            let mut words = command.split_whitespace().skip(1).filter(|word| !word.starts_with("http"));
            let is_name = |word: &&str| word.chars().all(|letter| letter.is_ascii_lowercase());
            let options: Vec<&str> = command.split_whitespace().filter(|word| word.starts_with("--")).collect();
            let Some(verb) = words.find(is_name) else { continue };
            let is_known = known.lines().any(|line| line.split_whitespace().next() == Some(verb));
            assert!(is_known, "{}: `{command}`: there is no `{verb}`", path.display());
            let told = helps.entry(verb.to_owned()).or_insert_with(|| help(&[verb]));
            for option in options {
                let option = option.split(['=', ',', ')', ']']).next().unwrap();
                assert!(told.contains(option), "{}: `{command}`: there is no `{option}`", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

/// Goes through a page, of which so many blocks may say that they are not run.
fn walk(name: &str, not_run: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = Page::parse(&fs::read_to_string(root.join(name)).unwrap());
    let mut reader = Reader::new(root, name);
    for block in &page.blocks {
        reader.take(block);
    }
    assert_eq!(reader.not_run, not_run, "{name}: blocks that are not run");
}

/// What a comment says of its block.
struct Note<'a> {
    parts: Vec<(&'a str, &'a str)>,
}

impl<'a> Note<'a> {
    fn of(block: &'a Block) -> Self {
        let parts = block.note.as_deref().unwrap_or_default().split(';').map(str::trim);
        Self { parts: parts.map(|part| part.split_once(": ").unwrap_or((part, ""))).collect() }
    }

    fn says(&self, key: &str) -> Option<&'a str> {
        self.parts.iter().find(|(said, _)| *said == key).map(|(_, value)| *value)
    }
}

/// Somebody who does what a page says.
struct Reader<'a> {
    name: &'a str,
    folder: tempfile::TempDir,
    ports: BTreeMap<&'static str, u16>,
    terminals: BTreeMap<String, Terminal>,
    /// What the last command printed.
    printed: String,
    not_run: usize,
}

impl<'a> Reader<'a> {
    /// In a folder with what a clone of the repository has, and the programs as if they had been built there.
    fn new(root: &Path, name: &'a str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(root).unwrap() {
            let (path, file) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
            if file != "target" && file != ".git" {
                symlink(path, folder.path().join(file)).unwrap();
            }
        }
        fs::create_dir_all(folder.path().join("target/tools")).unwrap();
        fs::create_dir_all(folder.path().join("target/tmp")).unwrap();
        symlink(programs(), folder.path().join("target/release")).unwrap();
        let cargo = folder.path().join("target/tools/cargo");
        fs::write(&cargo, cargo_that_builds_nothing(root)).unwrap();
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
        Self { name, folder, ports: free_ports(), terminals: BTreeMap::new(), printed: String::new(), not_run: 0 }
    }

    fn take(&mut self, block: &Block) {
        let (note, place) = (Note::of(block), format!("{}:{}", self.name, block.line));
        match block.language.as_str() {
            "sh" if note.says("not run").is_some_and(|reason| reason.len() > 10) => self.not_run += 1,
            "sh" => self.run(block, &note, &place),
            "text" => self.compare(block, &note, &place),
            "yaml" if note.says("config").is_some() => self.check(block, &place),
            "yaml" => {
                if let Some(file) = note.says("file") {
                    fs::write(self.folder.path().join(file), self.config(&block.text)).unwrap();
                }
            }
            "" => assert_eq!(block.note, None, "{place}: a note, and no language"),
            other => panic!("{place}: nobody knows what to do with `{other}`"),
        }
    }

    fn run(&mut self, block: &Block, note: &Note<'_>, place: &str) {
        if let Some(ended) = note.says("ends") {
            self.terminals.remove(ended);
        }
        let names = note.says("terminals").or(note.says("terminal")).unwrap_or("1");
        let text = self.with_ports(&block.text);
        for name in names.split(", ") {
            let deadline = Instant::now() + PATIENCE;
            let terminal = self.terminal(name);
            self.printed = loop {
                let printed = terminal.run(&text, note.says("stays"), place);
                if note.says("until").is_none_or(|wanted| printed.contains(wanted)) {
                    break printed;
                }
                assert!(Instant::now() < deadline, "{place}: it does not print {:?}:\n{printed}", note.says("until"));
                terminal.said.next();
            };
        }
    }

    fn terminal(&mut self, name: &str) -> &mut Terminal {
        let (folder, admin) = (self.folder.path().to_owned(), self.ports["9900"]);
        self.terminals.entry(name.to_owned()).or_insert_with(|| Terminal::open(&folder, admin))
    }

    fn compare(&self, block: &Block, note: &Note<'_>, place: &str) {
        let (printed, varies) = (self.as_on_the_page(&self.printed), note.says("figures vary").is_some());
        let seen = plain(&printed, varies);
        if note.says("prints").is_some() {
            assert_eq!(plain(&block.text, varies), seen, "{place}: this is printed:\n{printed}");
            return;
        }
        assert!(
            note.says("prints in part").is_some(),
            "{place}: does a command print this? Say so, or give it no language"
        );
        let mut rest = seen.as_str();
        for part in block.text.split("...\n") {
            let wanted = plain(part, varies);
            let at = rest
                .find(&wanted)
                .unwrap_or_else(|| panic!("{place}: {wanted:?} is not in\n{printed}\nwhich is\n{seen}"));
            rest = &rest[at + wanted.len()..];
        }
    }

    fn check(&self, block: &Block, place: &str) {
        let file = self.folder.path().join("checked.yaml");
        fs::write(&file, &block.text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .args(["check", "--deny-warnings"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// A config file with free ports, also where it leaves the admin address to its default.
    fn config(&self, text: &str) -> String {
        let has_admin = text.lines().any(|line| line.starts_with("admin:"));
        let admin = if has_admin { "" } else { "admin: { address: 127.0.0.1:9900 }\n" };
        self.with_ports(&format!("{text}{admin}"))
    }

    fn with_ports(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (page, free)| {
            let text = text.replace(&format!(":{page}"), &format!(":{free}"));
            text.replace(&format!("PORT={page}"), &format!("PORT={free}"))
        })
    }

    fn as_on_the_page(&self, text: &str) -> String {
        let ports = self.ports.iter();
        ports.fold(text.to_owned(), |text, (page, free)| text.replace(&format!(":{free}"), &format!(":{page}")))
    }
}

/// Free ports below those that the system gives to whoever asks for any, as other tests do all the time.
fn free_ports() -> BTreeMap<&'static str, u16> {
    let mut free = std::iter::repeat_with(|| rand::random_range(10_000..30_000))
        .filter(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let mut ports = BTreeMap::new();
    for page in PORTS {
        ports.insert(page, free.find(|port| !ports.values().any(|taken| taken == port)).unwrap());
    }
    ports
}

/// Everything is built already, by whoever runs this test. What a page has built must exist, all the same.
fn cargo_that_builds_nothing(root: &Path) -> String {
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root);
    let told: Value = serde_json::from_slice(&metadata.output().unwrap().stdout).unwrap();
    let names = told["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap());
    format!(
        r#"#!/bin/sh
test "$1" = build || {{ echo "nobody knows what to do with cargo $1"; exit 1; }}
while shift && [ $# -gt 0 ]; do
    case $1 in
    -p) shift; case " {} " in *" $1 "*) ;; *) echo "there is no package $1"; exit 101 ;; esac ;;
    --release | --quiet) ;;
    *) echo "nobody knows what to do with $1"; exit 1 ;;
    esac
done
"#,
        names.collect::<Vec<_>>().join(" ")
    )
}

#[test]
fn a_page_cannot_build_what_is_not_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let reader = Reader::new(root, "no page");
    let check = |arguments: &[&str], works: bool| {
        let output = Command::new(reader.folder.path().join("target/tools/cargo")).args(arguments).output().unwrap();
        assert_eq!(output.status.success(), works, "{arguments:?}");
    };
    check(&["build", "--release", "-p", "pointsman", "-p", "model-server", "-p", "pointsman-chaos"], true);
    check(&["build", "--release", "-p", "pointsman", "-p", "chaos"], false);
    check(&["build", "--relase"], false);
    check(&["run", "-p", "pointsman"], false);
}

/// The folder of the programs that pages name.
fn programs() -> PathBuf {
    built("chaos", "pointsman-chaos");
    built("model-server", "model-server").parent().unwrap().to_owned()
}

/// What a terminal shows.
#[derive(Default)]
struct Said {
    text: Mutex<String>,
    more: Condvar,
}

impl Said {
    /// Waits until there is more, or it is time to look again.
    fn next(&self) {
        drop(self.more.wait_timeout(self.text.lock().unwrap(), LOOK_EVERY).unwrap());
    }
}

/// A shell that a reader types into; everything that it started ends with it.
struct Terminal {
    shell: Child,
    input: ChildStdin,
    said: Arc<Said>,
    folder: PathBuf,
    blocks: usize,
    is_busy: bool,
}

impl Terminal {
    fn open(folder: &Path, admin: u16) -> Self {
        let path = format!("{}:{}", folder.join("target/tools").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(folder).process_group(0);
        command.env("PATH", path).env("POINTSMAN_ADMIN", format!("http://127.0.0.1:{admin}")).env("NO_COLOR", "1");
        command.env("TMPDIR", folder.join("target/tmp"));
        for name in ["POINTSMAN_TOKEN_FILE", "RUST_LOG", "MAKEFLAGS", "MAKELEVEL", "ARGS"] {
            command.env_remove(name);
        }
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut input = shell.stdin.take().unwrap();
        input.write_all(b"exec 2>&1\nset -E\ntrap 'echo \"__failed__ $BASH_COMMAND\"' ERR\n").unwrap();
        let (said, mut output) = (Arc::new(Said::default()), shell.stdout.take().unwrap());
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Some(count) = output.read(&mut bytes).ok().filter(|&count| count > 0) {
                heard.text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
                heard.more.notify_all();
            }
        });
        Self { shell, input, said, folder: folder.to_owned(), blocks: 0, is_busy: false }
    }

    /// Runs `text`; gives what it printed. With `stays` it is waited for until it prints that, and not for its end.
    fn run(&mut self, text: &str, stays: Option<&str>, place: &str) -> String {
        assert!(!self.is_busy, "{place}: something is running in that terminal; take another one");
        self.blocks += 1;
        let (file, done) =
            (self.folder.join(format!("target/block-{}", self.blocks)), format!("__done_{}__", self.blocks));
        fs::write(&file, text).unwrap();
        let from = self.said.text.lock().unwrap().len();
        writeln!(self.input, ". {}; echo {done}", file.display()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said.text.lock().unwrap()[from..].to_owned();
            assert!(!said.contains("__failed__"), "{place}: {said}");
            let ended = said.split_once(&done).map(|(printed, _)| printed.to_owned());
            if let (Some(wanted), true) = (stays, said.ends_with('\n')) {
                assert_eq!(ended, None, "{place}: it should stay, and ended");
                if said.contains(wanted) {
                    self.is_busy = true;
                    return said;
                }
            } else if let (None, Some(printed)) = (stays, ended) {
                return printed;
            }
            assert!(Instant::now() < deadline, "{place}: it does not get anywhere: {said}");
            self.said.next();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.shell.id()).unwrap());
        // It may have ended by itself; but it is ours.
        assert_ne!(killpg(group, Signal::SIGKILL), Err(Errno::EPERM));
        drop(self.shell.wait());
    }
}

/// One line, with single spaces; where figures vary, numbers and times are all the same.
fn plain(text: &str, figures_vary: bool) -> String {
    let words = text.split_whitespace().map(|word| if figures_vary { figures(word) } else { word.to_owned() });
    let mut plain: Vec<String> = Vec::new();
    for word in words {
        let is_unit = matches!(word.trim_end_matches([',', ';', '.', ')']), "s" | "ms" | "µs" | "min" | "h");
        match plain.last().map(String::as_str) {
            Some("#") if figures_vary && is_unit => {
                plain.pop();
                plain.push("#t".to_owned());
            }
            Some("#t") if figures_vary && word == "#" => {}
            Some("#t") if figures_vary && is_unit => {}
            _ => plain.push(word),
        }
    }
    plain.join(" ")
}

/// A word with `#` in place of each number; digits in a name, such as `v1`, stay.
fn figures(word: &str) -> String {
    let (mut plain, mut letters) = (String::new(), word.chars().peekable());
    while let Some(letter) = letters.next() {
        let in_name = plain.chars().last().is_some_and(|last| last.is_alphanumeric() || last == '_');
        if !letter.is_ascii_digit() || in_name {
            plain.push(letter);
            continue;
        }
        while letters.peek().is_some_and(|next| next.is_ascii_digit() || matches!(next, '.' | ',' | ':')) {
            letters.next();
        }
        plain.push('#');
    }
    plain
}

#[test]
fn figures_are_made_alike_and_names_are_kept() {
    let one = plain("v1 95.2%  v2   4.8%, for 1 min 12 s at 03:04:05 (0 s ago)", true);
    let other = plain("v1 9% v2 14.8%, for 7 s at 13:14:15 (2 s ago)", true);
    assert_eq!(one, other);
    assert_ne!(one, plain("v1 9% v1 14.8%, for 7 s at 13:14:15 (2 s ago)", true));
    assert_eq!(plain("a  b\nc", false), "a b c");
}
