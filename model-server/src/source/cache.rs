//! The folder in which fetched bundles lie: whole ones under their digests, arriving ones beside them under a lock.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tracing::{debug, info, warn};

use super::SourceError;
use super::lock::Lock;
use crate::artifact::{ArtifactError, Folder, MODEL_FILE, Sha256, plain};

/// How the names of locks and folders end: of bundles in use, of those who arrive, and of what arrives.
const USED: &str = "used";
const LOCK: &str = "lock";
const ARRIVING: &str = "arriving";

/// How the name of an archive ends while it comes.
pub(super) const ARCHIVE: &str = "archive";

/// How old what broke off may be before it is removed.
const FORGOTTEN: Duration = Duration::from_hours(24);

/// A bundle that was brought here; as long as this lives, no server that shares the cache removes it.
#[derive(Debug)]
pub struct Brought {
    /// Where it is.
    pub folder: Folder,
    _in_use: Option<Lock>,
}

impl Brought {
    /// A folder that lies here anyway, and is nobody's to remove.
    pub fn here(path: &Path) -> Self {
        Self { folder: Folder::new(path), _in_use: None }
    }
}

/// See the module.
pub(super) struct Cache {
    folder: PathBuf,
    keep: NonZeroUsize,
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
    pub(super) fn open(folder: &Path, keep: NonZeroUsize) -> Result<Self, SourceError> {
        let cache = Self { folder: folder.to_owned(), keep };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| cache.refused(source))?;
        if folder.parent() == Some(&env::temp_dir())
            && !is_ours_alone(folder).map_err(|source| cache.refused(source))?
        {
            return Err(SourceError::CacheOfOthers { folder: folder.to_owned() });
        }
        Ok(cache)
    }

    /// A bundle that is here and still whole, from now on in use; one that is spoilt is put away.
    pub(super) fn kept(&self, sha256: &Sha256) -> Option<Brought> {
        let folder = self.folder.join(sha256.to_string());
        if !folder.is_dir() {
            return None;
        }
        let in_use = self.use_of(sha256);
        match whole(&folder, sha256) {
            Ok(()) => Some(Brought { folder: Folder::new(folder), _in_use: in_use }),
            Err(ArtifactError::NoFolder { .. }) => None,
            Err(problem) => {
                warn!(folder = %folder.display(), problem = %problem, "bundle in the cache is spoilt, fetched again");
                fs::remove_dir_all(&folder).inspect_err(|error| warn!(%error, "spoilt bundle not removed")).ok();
                None
            }
        }
    }

    /// Keeps others from removing a bundle, where the cache can be written at all.
    fn use_of(&self, sha256: &Sha256) -> Option<Lock> {
        let lock = Lock::shared(&self.folder.join(format!("{sha256}.{USED}")));
        let noted = lock.and_then(|lock| lock.touch().map(|()| lock));
        noted.inspect_err(|error| debug!(%error, "the use of a bundle is not noted")).ok()
    }

    /// Makes room for another bundle: removes those that were used longest ago, but none that a process uses; and what
    /// broke off so long ago that nobody will go on with it.
    fn make_room(&self) {
        let mut bundles = self.entries(|name| name.parse::<Sha256>().is_ok());
        bundles.sort_by_key(|bundle| modified(&bundle.with_extension(USED)));
        let mut surplus = (bundles.len() + 1).saturating_sub(self.keep.get());
        for bundle in bundles {
            if surplus > 0 && remove(&bundle, &bundle.with_extension(USED)) {
                surplus -= 1;
            }
        }
        for arriving in self.entries(|name| name.ends_with(&format!(".{ARRIVING}"))) {
            let age = modified(&arriving).and_then(|at| at.elapsed().ok()).unwrap_or_default();
            if age > FORGOTTEN && remove(&arriving, &arriving.with_extension(LOCK)) {
                self.remove_archive(&arriving.with_extension(ARCHIVE));
            }
        }
    }

    /// Removes what has come of an archive, and what its fetch noted beside it.
    pub(super) fn remove_archive(&self, archive: &Path) {
        let stem = archive.file_name().and_then(OsStr::to_str).unwrap_or_default();
        for file in self.entries(|name| name.starts_with(stem)) {
            fs::remove_file(file).inspect_err(|error| warn!(%error, "half an archive not removed")).ok();
        }
    }

    fn entries(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(&wanted)).map(|entry| entry.path()).collect()
    }

    fn refused(&self, source: io::Error) -> SourceError {
        SourceError::of_disk(source, |source| SourceError::Cache { folder: self.folder.clone(), source })
    }
}

/// Removes a folder and its lock, unless anybody holds it; gives whether it is gone.
fn remove(folder: &Path, lock: &Path) -> bool {
    let Some(lock) = Lock::at_once(lock) else {
        return false;
    };
    let removed = fs::remove_dir_all(folder).and_then(|()| lock.remove());
    match &removed {
        Ok(()) => info!(folder = %folder.display(), "removed from the cache to make room"),
        Err(error) => warn!(folder = %folder.display(), %error, "not removed from the cache"),
    }
    removed.is_ok()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|about| about.modified()).ok()
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
    lock: Lock,
}

impl Arriving {
    /// Waits until nobody else brings the same here; what broke off before is still there.
    pub(super) fn begin(cache: &Cache, key: &str) -> Result<Self, SourceError> {
        let waits = || info!("another process fetches the same bundle, waiting for it");
        let lock = Lock::alone(&cache.folder.join(format!("{key}.{LOCK}")), waits);
        let lock = lock.map_err(|source| cache.refused(source))?;
        cache.make_room();
        let folder = cache.folder.join(format!("{key}.{ARRIVING}"));
        fs::create_dir_all(&folder).map_err(|source| cache.refused(source))?;
        Ok(Self { folder, lock })
    }

    /// Somebody else has brought it meanwhile.
    pub(super) fn abandon(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)?;
        self.lock.remove()
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

    /// Everything is there and right: from now on it is a bundle of the cache, and in use.
    pub(super) fn finish(self, cache: &Cache, sha256: &Sha256) -> Result<Brought, SourceError> {
        // Whoever brought it under another name may have been faster.
        if let Some(brought) = cache.kept(sha256) {
            self.abandon()?;
            return Ok(brought);
        }
        let in_use = cache.use_of(sha256);
        let kept = cache.folder.join(sha256.to_string());
        fs::rename(&self.folder, &kept).map_err(|source| cache.refused(source))?;
        self.lock.remove()?;
        Ok(Brought { folder: Folder::new(kept), _in_use: in_use })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_broke_off_is_forgotten_after_a_day_unless_somebody_is_at_it() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("cache");
        let cache = Cache::open(&here, NonZeroUsize::MIN).unwrap();
        let at_work = Arriving::begin(&cache, "at-work").unwrap();
        for key in ["old", "young", "at-work"] {
            fs::create_dir_all(here.join(format!("{key}.arriving"))).unwrap();
            fs::write(here.join(format!("{key}.archive.part")), "half").unwrap();
        }
        let long_ago = SystemTime::now() - FORGOTTEN - Duration::from_secs(1);
        for key in ["old", "at-work"] {
            File::open(here.join(format!("{key}.arriving"))).unwrap().set_modified(long_ago).unwrap();
        }
        cache.make_room();
        let mut left: Vec<_> =
            cache.entries(|_| true).into_iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            ["at-work.archive.part", "at-work.arriving", "at-work.lock", "young.archive.part", "young.arriving"]
        );
        drop(at_work);
    }
}
