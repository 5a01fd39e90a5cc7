//! Where the programs are that a live world is made of, and ports for them.

use std::collections::BTreeSet;
use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::LiveError;

/// Below the ports that the system gives to connections: a port that is listened on again after a while must not have been
/// taken by one of them meanwhile.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 1_000;

/// The programs, by their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The edge.
    pub pointsman: PathBuf,
    /// The model server.
    pub model_server: PathBuf,
    /// This program, for fake models.
    pub chaos: PathBuf,
}

impl Programs {
    /// Those in the folder of `program`.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn beside(program: &Path) -> Result<Self, LiveError> {
        let folder = program.parent().unwrap_or(Path::new("."));
        let find = |name: &'static str| {
            let path = folder.join(name);
            if path.is_file() { Ok(path) } else { Err(LiveError::Missing { name, folder: folder.to_owned() }) }
        };
        Ok(Self { pointsman: find("pointsman")?, model_server: find("model-server")?, chaos: find("chaos")? })
    }

    /// Those in the folder of the running program.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn beside_this() -> Result<Self, LiveError> {
        Self::beside(&env::current_exe().map_err(|source| LiveError::Start { what: "this program", source })?)
    }
}

/// A port that nobody listens on, that no connection takes by chance, and that no other scenario of this process has.
pub(super) fn free_address() -> Result<SocketAddr, LiveError> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = |_try| SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(PORTS)));
    let is_free = |address: &SocketAddr| !given.contains(&address.port()) && TcpListener::bind(address).is_ok();
    let address = (0..TRIES).map(wanted).find(is_free).ok_or(LiveError::NoPort)?;
    given.insert(address.port());
    Ok(address)
}
