//! Locks that processes hold on files beside what they lock, and that can be removed with it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A lock that is held until it is dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Held together with all others who share it; waits for one who holds it alone.
    pub(super) fn shared(path: &Path) -> io::Result<Self> {
        Self::held(path, File::lock_shared)
    }

    /// Held alone; says so when it has to wait.
    pub(super) fn alone(path: &Path, wait: impl Fn()) -> io::Result<Self> {
        Self::held(path, |file| {
            if file.try_lock().is_ok() {
                return Ok(());
            }
            wait();
            file.lock()
        })
    }

    /// Held alone, unless anybody holds it.
    pub(super) fn at_once(path: &Path) -> Option<Self> {
        let file = opened(path).ok()?;
        let free = file.try_lock().is_ok() && is_still(path, &file);
        free.then(|| Self { path: path.to_owned(), file })
    }

    /// Whoever held it alone before may have removed it: then the lock is one of a file that nobody finds any more.
    fn held(path: &Path, lock: impl Fn(&File) -> io::Result<()>) -> io::Result<Self> {
        loop {
            let file = opened(path)?;
            lock(&file)?;
            if is_still(path, &file) {
                return Ok(Self { path: path.to_owned(), file });
            }
        }
    }

    /// Notes that what it locks was used now.
    pub(super) fn touch(&self) -> io::Result<()> {
        self.file.set_modified(SystemTime::now())
    }

    /// Removes it; only who holds it alone may.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn opened(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

fn is_still(path: &Path, file: &File) -> bool {
    let place = |about: fs::Metadata| (about.dev(), about.ino());
    let found = fs::metadata(path).map(place).ok();
    found.is_some() && found == file.metadata().map(place).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_a_lock_keeps_out_who_wants_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.used");
        let (one, other) = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(Lock::at_once(&path).is_none());
        drop(one);
        assert!(Lock::at_once(&path).is_none());
        drop(other);
        let alone = Lock::at_once(&path).unwrap();
        assert!(Lock::at_once(&path).is_none());
        alone.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn who_waited_for_a_lock_that_was_removed_gets_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.lock");
        let alone = Lock::alone(&path, || panic!("nobody holds it")).unwrap();
        let (waits, waiting) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::alone(&path, || waits.send(()).unwrap()).unwrap());
            waiting.recv().unwrap();
            fs::remove_file(&path).unwrap();
            drop(alone);
            let got = waiter.join().unwrap();
            assert!(path.exists() && Lock::at_once(&path).is_none());
            drop(got);
        });
    }
}
