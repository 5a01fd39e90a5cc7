//! The folder in which fetched bundles lie: whole ones under their digests, arriving ones beside them under a lock.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process;

use serde::Deserialize;
use tracing::{info, warn};

use super::SourceError;
use crate::artifact::{ArtifactError, Folder, MODEL_FILE, Sha256, plain};

/// See the module.
pub(super) struct Cache {
    folder: PathBuf,
}

/// Whether nobody else made this folder, or may look in or write there.
fn is_ours_alone(folder: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.mode() & 0o077 != 0 {
        return Ok(false);
    }
    // What we make belongs to us.
    let ours = folder.join(format!(".owner-{}", process::id()));
    let owner = File::create_new(&ours).and_then(|file| file.metadata());
    fs::remove_file(&ours)?;
    Ok(owner?.uid() == found.uid())
}

/// What `model.json` says of the other files; whether the rest of it makes sense is for `bundle` to say.
#[derive(Deserialize)]
struct Listing {
    digests: BTreeMap<String, String>,
}

/// The files that a `model.json` lists, with their digests.
pub(super) fn digests(description: &[u8]) -> Result<BTreeMap<String, String>, serde_json::Error> {
    serde_json::from_slice::<Listing>(description).map(|listing| listing.digests)
}

impl Cache {
    /// Makes the folder when it is not there; nobody else may look in. One that lies in the folder for temporary files may
    /// be a trap: everybody can make one there, under the name that everybody knows.
    pub(super) fn open(folder: &Path) -> Result<Self, SourceError> {
        let cache = Self { folder: folder.to_owned() };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| cache.refused(source))?;
        if folder.parent() == Some(&env::temp_dir())
            && !is_ours_alone(folder).map_err(|source| cache.refused(source))?
        {
            return Err(SourceError::CacheOfOthers { folder: folder.to_owned() });
        }
        Ok(cache)
    }

    /// A bundle that is here and still whole; one that is spoilt is put away.
    pub(super) fn kept(&self, sha256: &Sha256) -> Option<Folder> {
        let folder = self.folder.join(sha256.to_string());
        if !folder.is_dir() {
            return None;
        }
        match whole(&folder, sha256) {
            Ok(()) => Some(Folder::new(folder)),
            Err(problem) => {
                warn!(folder = %folder.display(), problem = %problem, "bundle in the cache is spoilt, fetched again");
                fs::remove_dir_all(&folder).inspect_err(|error| warn!(%error, "spoilt bundle not removed")).ok();
                None
            }
        }
    }

    fn refused(&self, source: io::Error) -> SourceError {
        SourceError::Cache { folder: self.folder.clone(), source }
    }
}

fn whole(folder: &Path, sha256: &Sha256) -> Result<(), ArtifactError> {
    let here = Folder::new(folder);
    let description = here.model_file(Some(sha256))?;
    let listed = digests(&description.bytes)
        .map_err(|source| ArtifactError::Read { file: folder.join(MODEL_FILE), source: source.into() })?;
    listed.iter().try_for_each(|(name, promised)| here.check(name, promised))
}

/// A bundle on its way, which nobody else touches meanwhile.
pub(super) struct Arriving {
    folder: PathBuf,
    _lock: File,
}

impl Arriving {
    /// Waits until nobody else brings the same here; what broke off before is still there.
    pub(super) fn begin(cache: &Cache, key: &str) -> Result<Self, SourceError> {
        let lock = File::create(cache.folder.join(format!("{key}.lock"))).map_err(|source| cache.refused(source))?;
        if lock.try_lock().is_err() {
            info!("another process fetches the same bundle, waiting for it");
            lock.lock().map_err(|source| cache.refused(source))?;
        }
        let folder = cache.folder.join(format!("{key}.arriving"));
        fs::create_dir_all(&folder).map_err(|source| cache.refused(source))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Where a file of the bundle goes.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf, SourceError> {
        plain(name)?;
        Ok(self.folder.join(name))
    }

    /// Compares a file with its digest; one that differs is removed, so that it is fetched anew.
    pub(super) fn check(&self, name: &str, promised: &str) -> Result<(), SourceError> {
        let checked = Folder::new(&self.folder).check(name, promised);
        if checked.is_err() {
            fs::remove_file(self.folder.join(name)).inspect_err(|error| warn!(%error, "wrong file not removed")).ok();
        }
        Ok(checked?)
    }

    /// Writes a file whole.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), SourceError> {
        let mut file = File::create(self.file(name)?)?;
        file.write_all(content)?;
        Ok(file.sync_all()?)
    }

    /// The folder that things arrive in.
    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Everything is there and right: from now on it is a bundle of the cache.
    pub(super) fn finish(self, cache: &Cache, sha256: &Sha256) -> Result<Folder, SourceError> {
        let kept = cache.folder.join(sha256.to_string());
        // Whoever held the lock before may have brought the same.
        if cache.kept(sha256).is_some() {
            fs::remove_dir_all(&self.folder)?;
        } else {
            fs::rename(&self.folder, &kept).map_err(|source| cache.refused(source))?;
        }
        Ok(Folder::new(kept))
    }
}
