//! The running process's end: who comes in gets the sockets and the state file, or nothing at all.
//!
//! Line: **door** ► control (lets go of the state) ► app (drains).

use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::{HELLO, Manifest, NO, PATIENCE, SERVING, SOCKETS, SOCKETS_AT_A_TIME, STATE, YOURS, door_of, hear, say};
use crate::control::Command;
use crate::listen::SharedSockets;

/// What is handed over.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Where clients connect.
    pub(crate) listeners: Vec<SharedSockets>,
    /// Where operators connect.
    pub(crate) admin: TcpListener,
}

/// Why nothing was handed over; the old process goes on.
#[derive(Debug, Error)]
enum NotHandedOver {
    #[error("it runs as another user ({uid}); start it as the user of this process")]
    Stranger { uid: u32 },
    #[error(
        "it said {said:?} where `{expected}` was to come; both must be versions that can be upgraded to each other"
    )]
    Language { said: String, expected: &'static str },
    #[error("this process is ending")]
    Ending,
    #[error("the state file could not be let go of in time; look at its disk")]
    State,
    #[error("it went away, or took longer than {} s for its next word", PATIENCE.as_secs())]
    Gone(#[from] io::Error),
}

/// Where a new process comes in. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Door {
    offer: Arc<Mutex<Option<Offer>>>,
    path: PathBuf,
    /// Which file at `path` is ours.
    inode: Option<u64>,
}

impl Door {
    /// Waits beside the state file `state` on a thread of its own; `replaced` hears when a new process serves. Where that
    /// cannot be, the edge serves all the same and only cannot be replaced without a gap: the log says why.
    pub(crate) fn open(
        state: &Path,
        offer: Offer,
        commands: mpsc::UnboundedSender<Command>,
        replaced: mpsc::UnboundedSender<()>,
    ) -> Self {
        let path = door_of(state);
        let manifest = manifest(&offer);
        let offer = Arc::new(Mutex::new(Some(offer)));
        let sockets = Arc::clone(&offer);
        let opened = manifest.and_then(|manifest| {
            let host = Host { manifest, offer: sockets, commands, replaced };
            let listener = bind(&path)?;
            let inode = fs::metadata(&path)?.ino();
            thread::Builder::new().name("upgrade".to_owned()).spawn(move || host.receive(&listener))?;
            Ok(inode)
        });
        if let Err(error) = &opened {
            warn!(path = %path.display(), %error, "no process can take over from this one while it runs (`run --upgrade`)");
        }
        Self { offer, path, inode: opened.ok() }
    }

    /// Lets go of the sockets: nobody can take over any more.
    pub(crate) fn close(&self) {
        drop(lock(&self.offer).take());
        // A successor may have put its own door there.
        let is_ours = fs::metadata(&self.path).is_ok_and(|found| Some(found.ino()) == self.inode);
        if is_ours {
            drop(fs::remove_file(&self.path));
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(offer: &Mutex<Option<Offer>>) -> MutexGuard<'_, Option<Offer>> {
    offer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Binds in place of a door that nobody is behind any more. A successor finds its predecessor behind it, which has handed
/// over already.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Who may connect here may take all traffic over.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Who receives those that come in.
struct Host {
    manifest: String,
    offer: Arc<Mutex<Option<Offer>>>,
    commands: mpsc::UnboundedSender<Command>,
    replaced: mpsc::UnboundedSender<()>,
}

impl Host {
    fn receive(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            let handed =
                stream.map_err(NotHandedOver::Gone).and_then(|stream| self.hand_over(&stream).map(|()| stream));
            match handed {
                Ok(stream) => {
                    info!("another process has taken over and serves");
                    self.retire(&stream);
                    // Who waits to be replaced lives as long as this process.
                    _ = self.replaced.send(());
                    return;
                }
                Err(problem) => warn!(%problem, "a process that was to take over did not; this one goes on"),
            }
        }
    }

    /// Ends the loop, and tells the other process what it decided since it let go of the state file.
    fn retire(&self, stream: &UnixStream) {
        let (tell, told) = oneshot::channel();
        drop(self.commands.send(Command::Retire(tell)));
        let Ok(words) = told.blocking_recv() else { return };
        let said = serde_json::to_string(&words).map_err(io::Error::from).and_then(|words| say(stream, &words));
        if let Err(error) = said {
            let decisions = words.decisions.len();
            warn!(%error, decisions, "what was decided during the takeover could not be handed over");
        }
    }

    fn hand_over(&self, stream: &UnixStream) -> Result<(), NotHandedOver> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let told = check_user(stream).and_then(|()| self.give(stream));
        if let Err(problem) = &told {
            // It may have gone.
            drop(say(stream, &format!("{NO}{problem}")));
        }
        told
    }

    fn give(&self, stream: &UnixStream) -> Result<(), NotHandedOver> {
        expect(stream, HELLO)?;
        self.give_sockets(stream)?;
        expect(stream, STATE)?;
        self.give_state(stream).inspect_err(|_| drop(self.commands.send(Command::TakeBack)))
    }

    fn give_sockets(&self, stream: &UnixStream) -> Result<(), NotHandedOver> {
        say(stream, &self.manifest)?;
        expect(stream, SOCKETS)?;
        // Not locked while the other side is waited for: an end of this process must not wait for it.
        let offer = lock(&self.offer);
        let offer = offer.as_ref().ok_or(NotHandedOver::Ending)?;
        let clients = offer.listeners.iter().flat_map(|shared| &shared.sockets);
        let sockets: Vec<BorrowedFd<'_>> = clients.chain([&offer.admin]).map(AsFd::as_fd).collect();
        for some in sockets.chunks(SOCKETS_AT_A_TIME) {
            send(stream, some)?;
        }
        Ok(())
    }

    fn give_state(&self, stream: &UnixStream) -> Result<(), NotHandedOver> {
        let (done, released) = oneshot::channel();
        self.commands.send(Command::HandOver(done)).map_err(|_gone| NotHandedOver::Ending)?;
        if !released.blocking_recv().unwrap_or(false) {
            return Err(NotHandedOver::State);
        }
        say(stream, YOURS)?;
        expect(stream, SERVING)
    }
}

fn manifest(offer: &Offer) -> io::Result<String> {
    let manifest = Manifest {
        pid: std::process::id(),
        listeners: offer.listeners.iter().map(|shared| (shared.address, shared.sockets.len())).collect(),
        admin: offer.admin.local_addr()?,
    };
    Ok(serde_json::to_string(&manifest)?)
}

fn check_user(stream: &UnixStream) -> Result<(), NotHandedOver> {
    let uid = rustix::net::sockopt::socket_peercred(stream).map_err(io::Error::from)?.uid;
    if uid == rustix::process::geteuid() || uid.is_root() {
        Ok(())
    } else {
        Err(NotHandedOver::Stranger { uid: uid.as_raw() })
    }
}

fn expect(stream: &UnixStream, expected: &'static str) -> Result<(), NotHandedOver> {
    let said = hear(stream)?;
    if said == expected { Ok(()) } else { Err(NotHandedOver::Language { said, expected }) }
}

fn send(stream: &UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_A_TIME))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(stream, &[IoSlice::new(b".")], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}
