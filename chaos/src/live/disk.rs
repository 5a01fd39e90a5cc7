//! A disk of one MiB for a state file, that can be filled up and closed to writers. Needs root.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::LiveError;

/// A mounted disk; unmounted when this is dropped.
#[derive(Debug)]
pub(super) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    pub(super) fn mount(path: &Path) -> Result<Self, LiveError> {
        fs::create_dir_all(path).map_err(LiveError::Folder)?;
        let disk = Self { path: path.to_owned() };
        disk.set(MsFlags::empty())?;
        Ok(disk)
    }

    fn set(&self, flags: MsFlags) -> Result<(), LiveError> {
        let done = mount(Some("tmpfs"), &self.path, Some("tmpfs"), flags, Some("size=1m"));
        done.map_err(|errno| LiveError::Folder(errno.into()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all the room that is left.
    pub(super) fn fill(&self) -> Result<(), LiveError> {
        let mut ballast = fs::File::create(self.ballast()).map_err(LiveError::Folder)?;
        loop {
            match ballast.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(LiveError::Folder(error)),
            }
        }
    }

    /// Gives it back.
    pub(super) fn empty(&self) -> Result<(), LiveError> {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LiveError::Folder(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    pub(super) fn allow_writes(&self, is_allowed: bool) -> Result<(), LiveError> {
        let read_only = if is_allowed { MsFlags::empty() } else { MsFlags::MS_RDONLY };
        self.set(MsFlags::MS_REMOUNT | read_only)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            tracing::error!(%error, path = %self.path.display(), "the small disk could not be unmounted");
        }
    }
}
