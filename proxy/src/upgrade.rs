//! Taking over from a running edge without refusing a connection: a new process gets the listening sockets themselves,
//! with whoever waits in their queues, and the state file.
//!
//! The running process waits at a [`Door`], a Unix socket beside its state file. The new one ([`Successor`]) checks its
//! config, gets the sockets, opens what it needs, and only then asks for the state file; from its first request on, the
//! old process finishes what it has begun and ends. Whatever breaks before that, the old process goes on as if nothing
//! had happened: until the new one serves, nothing is given up that cannot be taken back.
//!
//! The words on the wire are lines of ASCII; sockets travel beside a single byte (`SCM_RIGHTS`, unix(7)).

mod door;
mod successor;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pointsman_config::RouteName;
use pointsman_rollout::Saved;
use serde::{Deserialize, Serialize};

pub(crate) use door::{Door, Offer};
pub use successor::UpgradeError;
pub(crate) use successor::{Farewell, Inherited, Successor};

use crate::view::DecisionRow;

/// The new process introduces itself; the number goes up when the words change.
const HELLO: &str = "pointsman upgrade 1";
/// It is ready for the sockets.
const SOCKETS: &str = "sockets";
/// It has everything but the state file.
const STATE: &str = "state";
/// The old process has let go of the state file.
const YOURS: &str = "yours";
/// The old process does not hand over; the reason follows.
const NO: &str = "no ";
/// The new process accepts connections.
const SERVING: &str = "serving";
/// The longest line of the conversation.
const MOST_LINE_BYTES: usize = 64 << 10;
/// The longest line of last words: some kilobytes for each decision of a few seconds.
const MOST_LAST_WORDS_BYTES: usize = 16 << 20;
/// Sockets beside one byte; the kernel takes at most 253.
const SOCKETS_AT_A_TIME: usize = 64;
/// How long one side waits for the next word of the other. A start looks names up and reads the state file.
const PATIENCE: Duration = Duration::from_secs(30);

/// What comes with the sockets: what each of them is for, in the order in which they are sent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    /// Who hands over.
    pid: u32,
    /// For clients: an address, and how many sockets listen on it.
    listeners: Vec<(SocketAddr, usize)>,
    /// For operators; one socket, the last one.
    admin: SocketAddr,
}

/// What the old process decided between letting go of the state file and hearing that the new one serves; the file does not
/// have it. A guard that stays armed in that time is worth nothing if what it takes back is forgotten.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastWords {
    /// Routes as they stand after it.
    pub(crate) routes: BTreeMap<RouteName, Saved>,
    /// The decisions, oldest first.
    pub(crate) decisions: Vec<DecisionRow>,
}

/// Where the process waits that keeps its state in `state`.
fn door_of(state: &Path) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(".upgrade");
    PathBuf::from(path)
}

fn say(mut stream: &UnixStream, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes())
}

/// Reads a line and not a byte more, since sockets may come with the next.
fn hear(stream: &UnixStream) -> io::Result<String> {
    hear_up_to(stream, MOST_LINE_BYTES)
}

fn hear_up_to(mut stream: &UnixStream, most_bytes: usize) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < most_bytes {
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return String::from_utf8(line).map_err(|_not_text| io::ErrorKind::InvalidData.into()),
            [other] => line.push(other),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}
