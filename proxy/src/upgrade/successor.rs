//! The new process's end: asks the running one for its sockets, and for its state file once everything else stands.
//!
//! Line: app ► **successor** ► (the running process's door).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use thiserror::Error;
use tracing::info;

use super::{
    HELLO, LastWords, MOST_LAST_WORDS_BYTES, Manifest, NO, PATIENCE, SERVING, SOCKETS, SOCKETS_AT_A_TIME, STATE, YOURS,
    door_of, hear, hear_up_to, say,
};
use crate::listen::SharedSockets;

/// Why nothing was taken over. The running process, if there is one, goes on as before.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// Nobody to take over from.
    #[error(
        "nobody to take over from at `{}`; start without --upgrade, or name the state file of the running process", path.display()
    )]
    Nobody {
        /// Where it would have been.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The running process did not want to.
    #[error("the running process does not hand over: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The conversation broke off.
    #[error(
        "the running process broke off, or said what this one does not understand; it goes on serving, see its log"
    )]
    Broken(#[from] io::Error),
}

/// What the running process listened on.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// For clients.
    pub(crate) listeners: Vec<SharedSockets>,
    /// For operators.
    pub(crate) admin: TcpListener,
}

/// The conversation with the running process. Dropping it before [`Successor::serve`] leaves everything to that one.
#[derive(Debug)]
pub(crate) struct Successor {
    stream: UnixStream,
}

impl Successor {
    /// Asks the process that keeps its state in `state` for its sockets; they are shared from then on.
    ///
    /// # Errors
    /// If nobody runs there, or it does not hand over.
    pub(crate) fn ask(state: &Path) -> Result<(Self, Inherited), UpgradeError> {
        let path = door_of(state);
        let stream = UnixStream::connect(&path).map_err(|source| UpgradeError::Nobody { path, source })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        say(&stream, HELLO)?;
        let manifest: Manifest = serde_json::from_str(&answer(&stream)?).map_err(io::Error::from)?;
        say(&stream, SOCKETS)?;
        let inherited = receive(&stream, &manifest)?;
        info!(pid = manifest.pid, listeners = ?manifest.listeners, "taking over");
        Ok((Self { stream }, inherited))
    }

    /// Waits until the running process has let go of its state file. It still serves.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn claim_state(&self) -> Result<(), UpgradeError> {
        say(&self.stream, STATE)?;
        match answer(&self.stream)?.as_str() {
            YOURS => Ok(()),
            other => Err(unknown_word(other)),
        }
    }

    /// Tells the running process that this one serves: it finishes what it has begun, and ends.
    ///
    /// # Errors
    /// If it is gone already, which is as good.
    pub(crate) fn serve(self) -> io::Result<Farewell> {
        say(&self.stream, SERVING)?;
        Ok(Farewell { stream: self.stream })
    }
}

/// The end of the conversation: the process that was taken over from decides nothing any more, and says what it decided last.
#[derive(Debug)]
pub(crate) struct Farewell {
    stream: UnixStream,
}

impl Farewell {
    /// Waits for what the other process decided after it had let go of the state file; nothing if it says nothing.
    ///
    /// # Errors
    /// If it breaks off in the middle, or takes too long.
    pub(crate) fn hear(self) -> io::Result<LastWords> {
        match hear_up_to(&self.stream, MOST_LAST_WORDS_BYTES) {
            Ok(words) => Ok(serde_json::from_str(&words)?),
            // One that has no last words closes the conversation.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(LastWords::default()),
            Err(error) => Err(error),
        }
    }
}

/// What the running process says, unless that is no.
fn answer(stream: &UnixStream) -> Result<String, UpgradeError> {
    let said = hear(stream)?;
    match said.strip_prefix(NO) {
        Some(reason) => Err(UpgradeError::Refused { reason: reason.to_owned() }),
        None => Ok(said),
    }
}

fn unknown_word(word: &str) -> UpgradeError {
    io::Error::new(io::ErrorKind::InvalidData, format!("it said {word:?}")).into()
}

fn receive(stream: &UnixStream, manifest: &Manifest) -> io::Result<Inherited> {
    let count: usize = manifest.listeners.iter().map(|(_, sockets)| sockets).sum();
    let mut sockets = Vec::with_capacity(count + 1);
    while sockets.len() <= count {
        let more = receive_some(stream)?;
        if more.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sockets.extend(more.into_iter().map(TcpListener::from));
    }
    let mut sockets = sockets.into_iter();
    let mut take = |address: SocketAddr, count: usize| {
        let sockets: Vec<_> = sockets.by_ref().take(count).collect();
        let all_fit = sockets.iter().all(|socket| socket.local_addr().is_ok_and(|found| found == address));
        if all_fit { Ok(sockets) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
    };
    let mut listeners = Vec::new();
    for (address, count) in &manifest.listeners {
        listeners.push(SharedSockets { address: *address, sockets: take(*address, *count)? });
    }
    let admin = take(manifest.admin, 1)?.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Inherited { listeners, admin })
}

fn receive_some(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_A_TIME))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let mut received = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            received.extend(sockets);
        }
    }
    Ok(received)
}
