//! Where a bundle comes from: a folder is taken as it is; an archive, or an address in a store, is brought to a folder
//! of the cache first. Stands between `settings` and `bundle`.
//!
//! The cache holds whole bundles only, each under the digest of its `model.json`: files arrive in a folder beside it,
//! and that folder gets its name when every file is what its digest says. What broke off stays and is gone on with.
//! Before another one comes, those are removed that were used longest ago, and that no process uses.

mod address;
mod archive;
mod cache;
mod lock;
mod progress;
mod remote;

use std::env;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
use thiserror::Error;
use tokio::runtime::Builder;
use tracing::info;

use crate::artifact::{ArtifactError, MODEL_FILE, Sha256};
use cache::{Arriving, Cache};

pub use cache::Brought;

pub use address::{ModelPath, ModelPathError, Remote};

/// How much a `model.json` may hold: it is read whole before anybody knows what it is.
const LONGEST_DESCRIPTION_BYTES: u64 = 256 * 1024 * 1024;

/// Why a bundle cannot be brought here.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The cache cannot be written.
    #[error("the cache {} cannot be used; set MODEL_CACHE to a folder that can be written", folder.display())]
    Cache {
        /// What was tried.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The cache may hold what somebody else put there.
    #[error(
        "the cache {} was made by somebody else, or others may look or write in it; set MODEL_CACHE to a folder of your own",
        folder.display()
    )]
    CacheOfOthers {
        /// Which.
        folder: PathBuf,
    },
    /// The store cannot be talked to at all.
    #[error("{address} cannot be opened; check the address, and the store's credentials in the environment: {problem}")]
    Open {
        /// As it was named.
        address: String,
        /// Why not; it says its own causes.
        problem: object_store::Error,
    },
    /// The store refuses, or has no such file.
    #[error("{address} cannot be fetched; check the address, and what the credentials may read: {problem}")]
    Refused {
        /// Store and file.
        address: String,
        /// Why not; it says its own causes.
        problem: object_store::Error,
    },
    /// The store failed again and again.
    #[error(
        "{address} cannot be fetched, {attempts} attempts failed; start again to go on from {done} bytes: {problem}"
    )]
    GaveUp {
        /// Store and file.
        address: String,
        /// How often it was tried without a further byte.
        attempts: usize,
        /// How much is there.
        done: u64,
        /// Why the last attempt failed; it says its own causes.
        problem: object_store::Error,
    },
    /// A `model.json` of such a size is none.
    #[error("{address} has {bytes} bytes, and no model.json has more than {LONGEST_DESCRIPTION_BYTES}")]
    TooLong {
        /// Store and file.
        address: String,
        /// Its size.
        bytes: u64,
    },
    /// `model.json` lists no files.
    #[error("{address} cannot be understood")]
    Description {
        /// Store and file.
        address: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// An archive that is cut off, or none.
    #[error("the archive {archive} cannot be unpacked; fetch or write it again")]
    Archive {
        /// As it was named.
        archive: String,
        /// Why not.
        source: io::Error,
    },
    /// An archive without a bundle.
    #[error("the archive {archive} holds no model.json; pack the files of the bundle, or the one folder they lie in")]
    NoBundle {
        /// As it was named.
        archive: String,
    },
    /// A file is not what it should be.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The disk is full.
    #[error("the disk is full; make room in MODEL_CACHE, or set it to a folder with more")]
    DiskFull(#[source] io::Error),
    /// The system refused something.
    #[error("the system refuses what fetching needs")]
    System(#[source] io::Error),
}

impl From<io::Error> for SourceError {
    fn from(source: io::Error) -> Self {
        Self::of_disk(source, Self::System)
    }
}

impl SourceError {
    /// That the disk is full, when that is why; else something more special.
    fn of_disk(source: io::Error, otherwise: impl FnOnce(io::Error) -> Self) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::DiskFull(source);
        }
        otherwise(source)
    }
}

/// The folder that bundles are brought to.
#[derive(Debug, Clone, Args)]
pub struct CacheSettings {
    /// Folder that bundles are brought to which are no folder here.
    #[arg(id = "model_cache", long = "model-cache", env = "MODEL_CACHE", value_name = "FOLDER", default_value_os_t = default_cache())]
    pub folder: PathBuf,
    /// Bundles that stay in that folder, the one that is asked for included.
    #[arg(id = "model_cache_keep", long = "model-cache-keep", env = "MODEL_CACHE_KEEP", value_name = "COUNT", default_value_t = KEPT)]
    pub keep: NonZeroUsize,
}

/// How many bundles a cache keeps when nobody says otherwise: the one that is served, the one before, the one to come.
pub const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);

/// Where bundles are kept when nobody says otherwise: the user's own cache, or where there is no home, in the folder for
/// temporary files.
pub fn default_cache() -> PathBuf {
    let home = env::var_os("HOME").filter(|home| !home.is_empty() && Path::new(home).is_dir());
    let cache = env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| home.map(|home| Path::new(&home).join(".cache")));
    cache.unwrap_or_else(env::temp_dir).join("model-server")
}

/// The folder of a bundle, brought here when it lies elsewhere.
///
/// # Errors
/// When it cannot be brought here whole.
pub fn bring(path: &ModelPath, settings: &CacheSettings, promised: Option<&Sha256>) -> Result<Brought, SourceError> {
    if let ModelPath::Folder(folder) = path {
        return Ok(Brought::here(folder));
    }
    let cache = Cache::open(&settings.folder, settings.keep)?;
    if let Some(brought) = promised.and_then(|promised| cache.kept(promised)) {
        return Ok(found(brought));
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    match path {
        ModelPath::Folder(folder) => Ok(Brought::here(folder)),
        ModelPath::Archive(file) => archive::of_file(file, &cache, promised),
        ModelPath::RemoteArchive(address) => runtime.block_on(archive::of_store(address, &cache, promised)),
        ModelPath::RemoteFolder(address) => runtime.block_on(folder_of_store(address, &cache, promised)),
    }
}

fn found(brought: Brought) -> Brought {
    info!(folder = %brought.folder.path().display(), "bundle is in the cache");
    brought
}

/// Fetches `model.json`, then the files that it lists.
async fn folder_of_store(address: &Remote, cache: &Cache, promised: Option<&Sha256>) -> Result<Brought, SourceError> {
    let store = remote::Store::open(address)?;
    let description = store.small(MODEL_FILE, LONGEST_DESCRIPTION_BYTES).await?;
    let sha256 = Sha256::of(&description);
    if let Some(promised) = promised {
        sha256.must_be(promised, Path::new(&store.shown(MODEL_FILE)))?;
    }
    let digests = cache::digests(&description)
        .map_err(|source| SourceError::Description { address: store.shown(MODEL_FILE), source })?;
    if let Some(brought) = cache.kept(&sha256) {
        return Ok(found(brought));
    }
    let arriving = Arriving::begin(cache, &sha256.to_string())?;
    // Whoever held the lock before has mostly brought the same.
    if let Some(brought) = cache.kept(&sha256) {
        arriving.abandon()?;
        return Ok(found(brought));
    }
    for (name, promised) in &digests {
        let target = arriving.file(name)?;
        if !target.is_file() {
            store.download(name, &target).await?;
        }
        arriving.check(name, promised)?;
    }
    arriving.write(MODEL_FILE, &description)?;
    arriving.finish(cache, &sha256)
}
