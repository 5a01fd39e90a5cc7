//! Where a bundle comes from: `MODEL_PATH` to a folder, and its files with their digests. `bundle` reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
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

/// A folder that holds a bundle, as `MODEL_PATH` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPath(PathBuf);

/// Why `MODEL_PATH` names no folder.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelPathError {
    /// Nothing is written.
    #[error("no model is named; write the path of a folder that holds a bundle")]
    Empty,
    /// Another place than the local disk.
    #[error("`{scheme}://` is not supported; MODEL_PATH takes a folder or file:///folder, so fetch the bundle first")]
    Scheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// `file://host/…`
    #[error("`{url}` names another host; write file:///folder with three slashes")]
    Host {
        /// What was written.
        url: String,
    },
}

impl FromStr for ModelPath {
    type Err = ModelPathError;

    /// A path, or `file://` before an absolute path (taken as it stands, no percent signs decoded).
    fn from_str(text: &str) -> Result<Self, ModelPathError> {
        match text.split_once("://") {
            _ if text.trim().is_empty() => Err(ModelPathError::Empty),
            None => Ok(Self(PathBuf::from(text))),
            Some(("file", path)) if path.starts_with('/') => Ok(Self(PathBuf::from(path))),
            Some(("file", _)) => Err(ModelPathError::Host { url: text.to_owned() }),
            Some((scheme, _)) => Err(ModelPathError::Scheme { scheme: scheme.to_owned() }),
        }
    }
}

impl ModelPath {
    /// The folder.
    pub fn folder(&self) -> &Path {
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

impl ModelPath {
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
            self.compare(MODEL_FILE, &sha256, promised, "MODEL_SHA256")?;
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

    fn checked(&self, name: &str, promised: &str) -> Result<Vec<u8>, ArtifactError> {
        if Path::new(name).file_name().is_none_or(|plain| plain != name) {
            return Err(ArtifactError::Name { name: name.to_owned() });
        }
        let bytes = self.read(name)?;
        let promised = Sha256(promised.to_ascii_lowercase());
        self.compare(name, &Sha256::of(&bytes), &promised, MODEL_FILE)?;
        Ok(bytes)
    }

    fn compare(
        &self,
        name: &str,
        found: &Sha256,
        promised: &Sha256,
        promised_by: &'static str,
    ) -> Result<(), ArtifactError> {
        if found == promised {
            return Ok(());
        }
        Err(ArtifactError::Digest {
            file: self.0.join(name),
            found: found.clone(),
            promised_by,
            promised: promised.clone(),
        })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ArtifactError> {
        let file = self.0.join(name);
        match fs::metadata(&file) {
            Ok(about) if !about.is_file() => Err(ArtifactError::NoFile { file }),
            Ok(_) => fs::read(&file).map_err(|source| ArtifactError::Read { file, source }),
            Err(source) => Err(ArtifactError::Read { file, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_plainly_or_as_file_urls() {
        for (text, folder) in
            [("models/v1", "models/v1"), ("/models/v1", "/models/v1"), ("file:///models/v1", "/models/v1")]
        {
            assert_eq!(text.parse::<ModelPath>().unwrap().folder(), Path::new(folder));
        }
    }

    #[test]
    fn other_places_are_refused_with_what_is_supported() {
        for text in ["s3://bucket/v1", "gs://bucket/v1", "https://example.com/v1"] {
            let error = text.parse::<ModelPath>().unwrap_err().to_string();
            assert!(error.contains("takes a folder or file:///folder"), "{error}");
        }
        assert!("file://models/v1".parse::<ModelPath>().is_err());
        assert_eq!(" ".parse::<ModelPath>(), Err(ModelPathError::Empty));
    }

    #[test]
    fn digests_are_64_hex_digits() {
        let digest = Sha256::of(b"");
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest.clone()));
        assert_eq!(format!("sha256:{digest}").parse(), Ok(digest));
        assert!("abc".parse::<Sha256>().is_err());
    }
}
