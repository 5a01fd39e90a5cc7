//! Bundles in archives: tar, mostly compressed with gzip. Only plain files are taken, from the top or from one folder,
//! under their own names: no link and no path of an archive leads anywhere.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use tar::Archive;
use tracing::info;

use super::cache::{ARCHIVE, Arriving, Cache, digests};
use super::{Brought, Remote, SourceError, found, remote};
use crate::artifact::{ArtifactError, Folder, MODEL_FILE, Sha256};

/// How deep a file of a bundle may lie in an archive: in the one folder that was packed.
const DEEPEST: usize = 2;

/// Unpacks an archive that lies here.
pub(super) fn of_file(file: &Path, cache: &Cache, promised: Option<&Sha256>) -> Result<Brought, SourceError> {
    let archive = file.display().to_string();
    let open = File::open(file)
        .map_err(|source| SourceError::Artifact(ArtifactError::Read { file: file.to_owned(), source }))?;
    let arriving = Arriving::begin(cache, &key(&archive))?;
    if let Some(brought) = promised.and_then(|promised| cache.kept(promised)) {
        return found_meanwhile(brought, arriving);
    }
    unpack(open, &archive, &arriving)?;
    finish(&archive, (cache, arriving), promised)
}

/// Fetches an archive, and unpacks it.
pub(super) async fn of_store(
    address: &Remote,
    cache: &Cache,
    promised: Option<&Sha256>,
) -> Result<Brought, SourceError> {
    let (store, name) = remote::Store::of_file(address)?;
    let archive = store.shown(&name);
    let arriving = Arriving::begin(cache, &key(&archive))?;
    let file = arriving.path().with_extension(ARCHIVE);
    if let Some(brought) = promised.and_then(|promised| cache.kept(promised)) {
        cache.remove_archive(&file);
        return found_meanwhile(brought, arriving);
    }
    store.download(&name, &file).await?;
    let unpacked = unpack(File::open(&file)?, &archive, &arriving);
    // While nobody else may fetch it: the next one would lose what it fetches.
    fs::remove_file(&file)?;
    unpacked?;
    finish(&archive, (cache, arriving), promised)
}

/// An archive says what it holds only when it has come: until then its place is its name.
fn key(archive: &str) -> String {
    format!("archive-{}", Sha256::of(archive.as_bytes()))
}

/// Whoever held the lock before has brought the same.
fn found_meanwhile(brought: Brought, arriving: Arriving) -> Result<Brought, SourceError> {
    arriving.abandon()?;
    Ok(found(brought))
}

fn unpack(file: File, archive: &str, arriving: &Arriving) -> Result<(), SourceError> {
    let broken =
        |source| SourceError::of_disk(source, |source| SourceError::Archive { archive: archive.to_owned(), source });
    let compressed = Path::new(archive).extension().is_none_or(|end| end != "tar");
    let reader = BufReader::new(file);
    let files = if compressed {
        write_files(MultiGzDecoder::new(reader), arriving).map_err(broken)?
    } else {
        write_files(reader, arriving).map_err(broken)?
    };
    info!(archive, files, "archive unpacked");
    Ok(())
}

/// Compares what was unpacked with its digests, and keeps it.
fn finish(
    archive: &str,
    (cache, arriving): (&Cache, Arriving),
    promised: Option<&Sha256>,
) -> Result<Brought, SourceError> {
    if !arriving.path().join(MODEL_FILE).is_file() {
        return Err(SourceError::NoBundle { archive: archive.to_owned() });
    }
    let description = Folder::new(arriving.path()).model_file(promised)?;
    let listed = digests(&description.bytes)
        .map_err(|source| SourceError::Description { address: format!("{archive}: {MODEL_FILE}"), source })?;
    for (name, promised) in &listed {
        arriving.check(name, promised)?;
    }
    arriving.finish(cache, &description.sha256)
}

/// Writes the files of an archive; gives how many there were.
fn write_files(reader: impl Read, arriving: &Arriving) -> io::Result<usize> {
    let mut files = 0;
    let mut archive = Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if !entry.header().entry_type().is_file() || depth(&path) > DEEPEST {
            continue;
        }
        if let Some(name) = path.file_name() {
            io::copy(&mut entry, &mut File::create(arriving.path().join(name))?)?;
            files += 1;
        }
    }
    Ok(files)
}

fn depth(path: &Path) -> usize {
    path.components().filter(|part| !matches!(part, Component::CurDir)).count()
}
