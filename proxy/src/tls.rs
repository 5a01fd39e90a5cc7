//! Certificates and keys in files: read, checked, and read again when they change.
//!
//! Line: files ► **tls** ► listen and upstream. A thread of its own looks at every file in use every two seconds, so that
//! a slow disk holds up neither a handshake nor a decision. What cannot be used (half written, a key of another
//! certificate) changes nothing: the last good contents stay, the log says so once, and `/metrics` until it is mended.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pointsman_config::CertificateFiles;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tracing::{error, info, warn};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Between two looks at the files; a file system does not always say when a file changes (NFS, overlays).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why certificates or keys cannot be used.
#[derive(Debug, Error)]
pub enum TlsFileError {
    /// The file cannot be read.
    #[error("cannot read {path}; check that it exists and that this process may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not PEM, or ends too early.
    #[error("{path} is no sound PEM file; it may be half written, or in another format such as DER")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// No certificate in the file.
    #[error("{path} holds no certificate; it must hold at least one `-----BEGIN CERTIFICATE-----`")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate that is none.
    #[error("a certificate in {path} is not readable as X.509; issue it anew")]
    NotX509 {
        /// The file.
        path: PathBuf,
    },
    /// A key that cannot be used.
    #[error("the key in {path} cannot be used; RSA, ECDSA (P-256, P-384) and Ed25519 keys can")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// Key and certificate are of different pairs.
    #[error("the key in {private_key} does not belong to the first certificate in {certificate}; put a pair there")]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        private_key: PathBuf,
    },
    /// The library refuses what the files say together.
    #[error("the TLS settings of a listener cannot be used")]
    Settings {
        /// What it said.
        source: rustls::Error,
    },
    /// The library refuses a certificate as the root of clients' certificates.
    #[error("{path} cannot be used to verify clients")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: rustls::server::VerifierBuilderError,
    },
    /// Something needs more files than it was given.
    #[error("no file is named for a certificate")]
    NoFile,
}

/// The cryptography behind every TLS connection.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// One file as it was read.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl File {
    fn read(path: &PathBuf) -> Result<Self, TlsFileError> {
        let bytes = std::fs::read(path).map_err(|source| TlsFileError::Read { path: path.clone(), source })?;
        Ok(Self { path: path.clone(), bytes })
    }

    /// Every certificate in it; at least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let found = found.map_err(|source| TlsFileError::Pem { path: self.path.clone(), source })?;
        if found.is_empty() {
            return Err(TlsFileError::NoCertificate { path: self.path.clone() });
        }
        for der in &found {
            self.parse(der)?;
        }
        Ok(found)
    }

    fn parse<'a>(&self, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, TlsFileError> {
        let parsed = X509Certificate::from_der(der).map_err(|_error| TlsFileError::NotX509 { path: self.path.clone() });
        parsed.map(|(_, certificate)| certificate)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsFileError> {
        PrivateKeyDer::from_pem_slice(&self.bytes)
            .map_err(|source| TlsFileError::Pem { path: self.path.clone(), source })
    }
}

/// What is made of one or two files.
pub(crate) trait Material: Debug + Send + Sync + Sized + 'static {
    /// Makes it of the files, in the order in which they were named.
    ///
    /// # Errors
    /// If the files do not hold what they should.
    fn parse(files: &[File]) -> Result<Self, TlsFileError>;

    /// When the first of its certificates ends, in seconds since 1970.
    fn not_after(&self) -> i64;
}

/// A certificate with its chain and its key.
#[derive(Debug)]
pub(crate) struct Pair {
    /// For connections of clients.
    pub(crate) certified: Arc<CertifiedKey>,
    /// For connections to versions.
    pub(crate) identity: Arc<CertKey>,
    /// The DNS names it proves, in lower case; `*.` stands for one label.
    names: Vec<String>,
    not_after: i64,
}

impl Pair {
    /// Whether it proves just this name.
    pub(crate) fn is_for(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// Whether one of its wildcards stands for this name (RFC 6125, section 6.4.3).
    pub(crate) fn covers(&self, name: &str) -> bool {
        let Some((_, parent)) = name.split_once('.') else { return false };
        self.names.iter().any(|known| known.strip_prefix("*.") == Some(parent))
    }
}

impl Material for Pair {
    fn parse(files: &[File]) -> Result<Self, TlsFileError> {
        let [certificate, private_key] = files else { return Err(TlsFileError::NoFile) };
        let chain = certificate.certificates()?;
        let leaf = chain.first().ok_or(TlsFileError::NoFile)?;
        let parsed = certificate.parse(leaf)?;
        let (names, not_after) = (dns_names(&parsed), parsed.validity.not_after.timestamp());
        let key = private_key.key()?;
        let ders = chain.iter().map(|der| der.to_vec()).collect();
        let identity = Arc::new(CertKey::new(ders, key.secret_der().to_vec()));
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|source| {
            let mismatch = rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
            let (certificate, private_key) = (certificate.path.clone(), private_key.path.clone());
            if source == mismatch {
                TlsFileError::Mismatch { certificate, private_key }
            } else {
                TlsFileError::Key { path: private_key, source }
            }
        })?;
        Ok(Self { certified: Arc::new(certified), identity, names, not_after })
    }

    fn not_after(&self) -> i64 {
        self.not_after
    }
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = |name: &GeneralName<'_>| {
        if let GeneralName::DNSName(name) = name { Some(name.to_ascii_lowercase()) } else { None }
    };
    names.value.general_names.iter().filter_map(dns).collect()
}

/// Certificates that sign others.
#[derive(Debug)]
pub(crate) struct Roots {
    /// For connections of clients.
    pub(crate) store: Arc<RootCertStore>,
    /// For connections to versions.
    pub(crate) authorities: Arc<CaType>,
    not_after: i64,
}

impl Roots {
    /// Those that the system trusts; what cannot be read of them is left out.
    pub(crate) fn of_system() -> Self {
        let found = rustls_native_certs::load_native_certs().unwrap_or_else(|error| {
            warn!(%error, "the system's certificates cannot be read; name a `ca` under `upstream_tls`");
            Vec::new()
        });
        let sound = found.into_iter().filter(|der| X509Certificate::from_der(der).is_ok());
        Self::new(sound.collect(), i64::MAX)
    }

    fn new(ders: Vec<CertificateDer<'static>>, not_after: i64) -> Self {
        let authorities: Vec<WrappedX509> = ders.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(ders);
        Self { store: Arc::new(store), authorities: authorities.into(), not_after }
    }
}

impl Material for Roots {
    fn parse(files: &[File]) -> Result<Self, TlsFileError> {
        let [file] = files else { return Err(TlsFileError::NoFile) };
        let ders = file.certificates()?;
        let ends = |der| file.parse(der).map(|parsed| parsed.validity.not_after.timestamp());
        let ends: Result<Vec<i64>, _> = ders.iter().map(ends).collect();
        let not_after = ends?.into_iter().min().unwrap_or(i64::MAX);
        Ok(Self::new(ders, not_after))
    }

    fn not_after(&self) -> i64 {
        self.not_after
    }
}

/// Something made of files that is made anew when they change.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    paths: Vec<PathBuf>,
    current: ArcSwap<Loaded<T>>,
    /// The contents that were looked at last, good or bad.
    looked_at: Mutex<Option<[u8; 32]>>,
    usable: AtomicBool,
}

/// Material, and what tells it from other material.
#[derive(Debug)]
pub(crate) struct Loaded<T> {
    /// The material.
    pub(crate) value: T,
    /// Different for different contents.
    pub(crate) fingerprint: u64,
}

impl<T: Material> Watched<T> {
    /// Reads the files, and again whenever they change for as long as somebody keeps what this gives.
    ///
    /// # Errors
    /// If the files cannot be used now.
    pub(crate) fn load(paths: Vec<PathBuf>) -> Result<Arc<Self>, TlsFileError> {
        let files = read_all(&paths)?;
        let digest = digest(&files);
        let loaded = Loaded { value: T::parse(&files)?, fingerprint: fingerprint(&digest) };
        let watched = Arc::new(Self {
            paths,
            current: ArcSwap::from_pointee(loaded),
            looked_at: Mutex::new(Some(digest)),
            usable: AtomicBool::new(true),
        });
        watch(&watched);
        Ok(watched)
    }

    /// What is in force.
    pub(crate) fn current(&self) -> Guard<Arc<Loaded<T>>> {
        self.current.load()
    }

    /// Remembers what was read; whether it is what was read before.
    fn is_known(&self, digest: Option<[u8; 32]>) -> bool {
        let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *looked_at, digest);
        digest.is_some() && before == digest
    }

    fn try_again(&self) -> Result<bool, TlsFileError> {
        // What could not be read is not known any more: it is looked at again even if it comes back as it was.
        let digested = read_all(&self.paths).map(|files| (digest(&files), files));
        if self.is_known(digested.as_ref().ok().map(|(digest, _)| *digest)) {
            return Ok(false);
        }
        let (digest, files) = digested?;
        let loaded = Loaded { value: T::parse(&files)?, fingerprint: fingerprint(&digest) };
        self.current.store(Arc::new(loaded));
        Ok(true)
    }
}

impl Watched<Pair> {
    /// A certificate and its key.
    ///
    /// # Errors
    /// If they cannot be used now.
    pub(crate) fn pair(files: &CertificateFiles) -> Result<Arc<Self>, TlsFileError> {
        Self::load(vec![files.certificate.clone(), files.private_key.clone()])
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<File>, TlsFileError> {
    paths.iter().map(File::read).collect()
}

fn digest(files: &[File]) -> [u8; 32] {
    let mut sum = Sha256::new();
    for file in files {
        // Where one file ends and the next begins is part of what they say.
        sum.update(Sha256::digest(&file.bytes));
    }
    sum.finalize().into()
}

fn fingerprint(digest: &[u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Something that can be looked at again, whatever it is made of.
trait Reread: Send + Sync {
    fn look_again(&self);
    fn status(&self) -> FileStatus;
}

/// What is known of the files behind one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileStatus {
    /// The first of them.
    pub(crate) file: String,
    /// When the certificate in force ends, in seconds since 1970; `i64::MAX` if that is not known.
    pub(crate) not_after: i64,
    /// Whether what the files hold now is what is in force.
    pub(crate) usable: bool,
}

impl<T: Material> Reread for Watched<T> {
    fn look_again(&self) {
        let file = self.status().file;
        match self.try_again() {
            Ok(true) => {
                self.usable.store(true, Relaxed);
                info!(file, "certificate read again");
            }
            Ok(false) => {}
            Err(problem) => {
                if self.usable.swap(false, Relaxed) {
                    let error: &dyn std::error::Error = &problem;
                    warn!(file, error, "certificate cannot be used; the last good one stays in force");
                }
            }
        }
    }

    fn status(&self) -> FileStatus {
        FileStatus {
            file: self.paths.first().map(|path| path.display().to_string()).unwrap_or_default(),
            not_after: self.current().value.not_after(),
            usable: self.usable.load(Relaxed),
        }
    }
}

/// Everything that is looked at; what nobody keeps any more drops out.
static WATCHED: Mutex<Vec<Weak<dyn Reread>>> = Mutex::new(Vec::new());
static THREAD: Once = Once::new();

fn all_watched() -> MutexGuard<'static, Vec<Weak<dyn Reread>>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch<T: Material>(watched: &Arc<Watched<T>>) {
    let weak: Weak<Watched<T>> = Arc::downgrade(watched);
    all_watched().push(weak);
    THREAD.call_once(|| {
        let started = std::thread::Builder::new().name("tls-files".to_owned()).spawn(look_forever);
        if let Err(error) = started {
            error!(%error, "certificates will not be read again: no thread can be started");
        }
    });
}

fn look_forever() {
    loop {
        std::thread::park_timeout(LOOK_EVERY);
        for watched in present() {
            watched.look_again();
        }
    }
}

fn present() -> Vec<Arc<dyn Reread>> {
    let mut all = all_watched();
    all.retain(|watched| watched.strong_count() > 0);
    all.iter().filter_map(Weak::upgrade).collect()
}

/// What is known of every file in use, by name.
pub(crate) fn statuses() -> Vec<FileStatus> {
    let mut statuses: Vec<FileStatus> = present().iter().map(|watched| watched.status()).collect();
    statuses.sort_by(|one, other| one.file.cmp(&other.file));
    statuses.dedup_by(|one, other| one.file == other.file);
    statuses
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn files(&self) -> CertificateFiles {
            CertificateFiles { certificate: self.0.path().join("tls.crt"), private_key: self.0.path().join("tls.key") }
        }

        fn write(&self, certificate: &str, key: &str) {
            fs::write(self.files().certificate, certificate).unwrap();
            fs::write(self.files().private_key, key).unwrap();
        }
    }

    fn issue(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let issued = rcgen::generate_simple_self_signed(names).unwrap();
        (issued.cert.pem(), issued.signing_key.serialize_pem())
    }

    #[track_caller]
    fn check(folder: &Folder, part: &str) {
        let error = Watched::pair(&folder.files()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(&folder.0.path().display().to_string()), "{error}");
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
        let folder = Folder::new();
        check(&folder, "cannot read");
        let ((certificate, key), (_, other)) = (issue(&["a.test"]), issue(&["a.test"]));
        folder.write("", &key);
        check(&folder, "holds no certificate");
        folder.write(&certificate[..certificate.len() / 2], &key);
        check(&folder, "half written");
        folder.write(&certificate, "");
        check(&folder, "half written");
        folder.write(&certificate, &other);
        check(&folder, "does not belong");
        folder.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key);
        check(&folder, "not readable as X.509");
        folder.write(&certificate, &key);
        Watched::pair(&folder.files()).unwrap();
    }

    #[test]
    fn a_certificate_is_for_its_names_and_for_one_label_under_its_wildcards() {
        let folder = Folder::new();
        let (certificate, key) = issue(&["a.test", "*.b.test"]);
        folder.write(&certificate, &key);
        let pair = Watched::pair(&folder.files()).unwrap();
        let pair = &pair.current().value;
        assert!(pair.is_for("a.test") && !pair.is_for("x.b.test"));
        assert!(pair.covers("x.b.test"));
        for other in ["b.test", "x.y.b.test", "a.test", "test"] {
            assert!(!pair.covers(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_used_keeps_the_last_good_pair_in_force_and_shows() {
        let folder = Folder::new();
        let ((first, first_key), (second, second_key)) = (issue(&["a.test"]), issue(&["b.test"]));
        folder.write(&first, &first_key);
        let pair = Watched::pair(&folder.files()).unwrap();
        let fingerprint = pair.current().fingerprint;
        let is_first = |pair: &Watched<Pair>| pair.current().value.is_for("a.test");
        // Half a renewal: a certificate without its key.
        fs::write(folder.files().certificate, &second).unwrap();
        pair.look_again();
        assert!(is_first(&pair) && !pair.status().usable);
        fs::remove_file(folder.files().private_key).unwrap();
        pair.look_again();
        assert!(is_first(&pair) && !pair.status().usable);
        fs::write(folder.files().private_key, &second_key).unwrap();
        pair.look_again();
        assert!(!is_first(&pair) && pair.status().usable);
        assert_ne!(pair.current().fingerprint, fingerprint);
        assert!(statuses().iter().any(|status| Path::new(&status.file) == folder.files().certificate));
    }

    #[test]
    fn a_file_that_could_not_be_read_once_and_is_there_again_is_not_stale() {
        let folder = Folder::new();
        let (certificate, key) = issue(&["a.test"]);
        folder.write(&certificate, &key);
        let pair = Watched::pair(&folder.files()).unwrap();
        fs::remove_file(folder.files().private_key).unwrap();
        pair.look_again();
        assert!(!pair.status().usable);
        folder.write(&certificate, &key);
        pair.look_again();
        assert!(pair.status().usable);
    }

    #[test]
    fn the_old_files_put_back_are_in_force_again() {
        let folder = Folder::new();
        let (certificate, key) = issue(&["a.test"]);
        folder.write(&certificate, &key);
        let pair = Watched::pair(&folder.files()).unwrap();
        fs::write(folder.files().private_key, "").unwrap();
        pair.look_again();
        assert!(!pair.status().usable);
        folder.write(&certificate, &key);
        pair.look_again();
        assert!(pair.status().usable);
    }
}
