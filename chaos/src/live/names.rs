//! Names of endpoints that only the edge knows, and that can be made to fail: its process has its own `/etc/hosts` and
//! `/etc/resolv.conf`, in a mount namespace. Needs root.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::LiveError;

const HOST: &str = "models.chaos.test";

/// The two files.
#[derive(Debug)]
pub(super) struct Names {
    hosts: PathBuf,
    resolver: PathBuf,
}

impl Names {
    pub(super) fn new(folder: &Path) -> Result<Self, LiveError> {
        let names = Self { hosts: folder.join("hosts"), resolver: folder.join("resolv.conf") };
        // Nobody answers there, which is known at once.
        fs::write(&names.resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
            .map_err(LiveError::Folder)?;
        names.fail(false)?;
        Ok(names)
    }

    /// How an endpoint is named.
    pub(super) fn of(address: SocketAddr) -> String {
        format!("{HOST}:{}", address.port())
    }

    /// Words in front of a program that has these names.
    pub(super) fn wrapper(&self) -> Vec<String> {
        let script = format!(
            "mount --bind '{}' /etc/hosts && mount --bind '{}' /etc/resolv.conf && exec \"$@\"",
            self.hosts.display(),
            self.resolver.display()
        );
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"].map(str::to_owned).into()
    }

    /// Written over in place: the edge sees the file, not its name.
    pub(super) fn fail(&self, is_failing: bool) -> Result<(), LiveError> {
        let known = if is_failing { String::new() } else { format!("127.0.0.1 {HOST}\n") };
        fs::write(&self.hosts, format!("127.0.0.1 localhost\n{known}")).map_err(LiveError::Folder)
    }
}
