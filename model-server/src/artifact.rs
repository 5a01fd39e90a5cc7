//! The files of a bundle in their folder, with their digests. `source` has brought them there; `bundle` reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::Digest;
use thiserror::Error;

use crate::schema::hex;

/// The name of the file that describes a bundle.
pub const MODEL_FILE: &str = "model.json";

/// A SHA-256 digest, as 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sha256(String);

impl Sha256 {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex(&sha2::Sha256::digest(bytes)))
    }

    /// Of all that is left to be read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_all(mut from: impl Read) -> io::Result<Self> {
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(Self(hex(&hasher.finalize()))),
                count => hasher.update(buffer.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Compares the digest of a `model.json` with the one that the operator promised.
    ///
    /// # Errors
    /// When they differ.
    pub fn must_be(&self, promised: &Self, file: &Path) -> Result<(), ArtifactError> {
        self.be(promised, file, "MODEL_SHA256")
    }

    fn be(&self, promised: &Self, file: &Path, promised_by: &'static str) -> Result<(), ArtifactError> {
        if self == promised {
            return Ok(());
        }
        let (file, found, promised) = (file.to_owned(), self.clone(), promised.clone());
        Err(ArtifactError::Digest { file, found, promised_by, promised })
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no SHA-256 digest; write its 64 hex digits")]
pub struct Sha256Error {
    /// What was written.
    pub text: String,
}

impl FromStr for Sha256 {
    type Err = Sha256Error;

    fn from_str(text: &str) -> Result<Self, Sha256Error> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(digits.to_ascii_lowercase()));
        }
        Err(Sha256Error { text: text.to_owned() })
    }
}

/// A folder that holds a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at a path, whatever is in it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Why the files of a bundle cannot be had.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// The path is no folder.
    #[error("{} is not a folder; MODEL_PATH names the folder that holds model.json", folder.display())]
    NoFolder {
        /// What was named.
        folder: PathBuf,
    },
    /// A file that cannot be read.
    #[error("{} cannot be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something that is no plain file.
    #[error("{} is not a plain file", file.display())]
    NoFile {
        /// What stands there.
        file: PathBuf,
    },
    /// A file that is not what was promised.
    #[error("{} has the SHA-256 {found}, but {promised_by} promises {promised}; fetch or write the bundle again", file.display())]
    Digest {
        /// The file.
        file: PathBuf,
        /// Its digest.
        found: Sha256,
        /// Who says what it should be.
        promised_by: &'static str,
        /// What it should be.
        promised: Sha256,
    },
    /// A name that leads out of the folder.
    #[error("`{name}` under `digests` is no plain file name; every file of a bundle lies in its folder")]
    Name {
        /// The name.
        name: String,
    },
}

/// `model.json` as it lies in the folder, and its digest. The digest of a bundle is the digest of this file,
/// since it holds the digests of all others.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// The text.
    pub bytes: Vec<u8>,
    /// Its digest: what `MODEL_SHA256` is compared with.
    pub sha256: Sha256,
}

impl Folder {
    /// Reads `model.json`, and compares it with the digest that the operator promised, if one did.
    ///
    /// # Errors
    /// When there is no folder, no file, or another file than was promised.
    pub fn model_file(&self, promised: Option<&Sha256>) -> Result<ModelFile, ArtifactError> {
        if !self.0.is_dir() {
            return Err(ArtifactError::NoFolder { folder: self.0.clone() });
        }
        let bytes = self.read(MODEL_FILE)?;
        let sha256 = Sha256::of(&bytes);
        if let Some(promised) = promised {
            sha256.must_be(promised, &self.0.join(MODEL_FILE))?;
        }
        Ok(ModelFile { bytes, sha256 })
    }

    /// Reads the other files of a bundle.
    ///
    /// # Errors
    /// When one is missing, not what its digest says, or not in the folder.
    pub fn files(&self, digests: &BTreeMap<String, String>) -> Result<BTreeMap<String, Vec<u8>>, ArtifactError> {
        digests.iter().map(|(name, promised)| Ok((name.clone(), self.checked(name, promised)?))).collect()
    }

    /// Compares a file with its digest, without keeping it in memory.
    ///
    /// # Errors
    /// When it is missing, not what its digest says, or not in the folder.
    pub fn check(&self, name: &str, promised: &str) -> Result<(), ArtifactError> {
        plain(name)?;
        let file = self.plain_file(name)?;
        let digest = File::open(&file).and_then(Sha256::of_all);
        let found = digest.map_err(|source| ArtifactError::Read { file, source })?;
        self.compare(name, &found, promised)
    }

    fn checked(&self, name: &str, promised: &str) -> Result<Vec<u8>, ArtifactError> {
        plain(name)?;
        let bytes = self.read(name)?;
        self.compare(name, &Sha256::of(&bytes), promised)?;
        Ok(bytes)
    }

    fn compare(&self, name: &str, found: &Sha256, promised: &str) -> Result<(), ArtifactError> {
        found.be(&Sha256(promised.to_ascii_lowercase()), &self.0.join(name), MODEL_FILE)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ArtifactError> {
        let file = self.plain_file(name)?;
        fs::read(&file).map_err(|source| ArtifactError::Read { file, source })
    }

    fn plain_file(&self, name: &str) -> Result<PathBuf, ArtifactError> {
        let file = self.0.join(name);
        match fs::metadata(&file) {
            Ok(about) if about.is_file() => Ok(file),
            Ok(_) => Err(ArtifactError::NoFile { file }),
            Err(source) => Err(ArtifactError::Read { file, source }),
        }
    }
}

/// Refuses a name that leads out of a bundle's folder.
///
/// # Errors
/// When it is anything but the name of a file.
pub fn plain(name: &str) -> Result<(), ArtifactError> {
    if Path::new(name).file_name().is_some_and(|plain| plain == name) {
        return Ok(());
    }
    Err(ArtifactError::Name { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_64_hex_digits() {
        let digest = Sha256::of(b"");
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest.clone()));
        assert_eq!(format!("sha256:{digest}").parse(), Ok(digest));
        assert!("abc".parse::<Sha256>().is_err());
    }
}
