//! `MODEL_PATH`, parsed: a folder or an archive, here or in a store.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;
use url::Url;

/// How the names of archives end.
const ARCHIVES: [&str; 3] = [".tar.gz", ".tgz", ".tar"];

/// Where a bundle lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelPath {
    /// In a folder.
    Folder(PathBuf),
    /// In an archive.
    Archive(PathBuf),
    /// In a store, as single files.
    RemoteFolder(Remote),
    /// In a store, as an archive.
    RemoteArchive(Remote),
}

/// A place in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub(super) kind: StoreKind,
    pub(super) url: Url,
}

/// Stores that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreKind {
    S3,
    Gcs,
    Http,
}

/// Why `MODEL_PATH` names no bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelPathError {
    /// Nothing is written.
    #[error("no model is named; write the path of a folder or an archive that holds a bundle, or its URL")]
    Empty,
    /// A store that nobody here can read.
    #[error("`{scheme}://` is not supported; MODEL_PATH takes a path, or file://, s3://, gs://, http:// or https://")]
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
    /// An address that is none.
    #[error("`{url}` is no address; write it as s3://bucket/path or https://host/path")]
    Url {
        /// What was written.
        url: String,
        /// Why not.
        source: url::ParseError,
    },
    /// A part of an address that would be dropped without a word.
    #[error("`{url}` has a user, a query or a fragment, which is not supported; give credentials in the environment")]
    Extra {
        /// What was written, without the part.
        url: String,
    },
}

impl FromStr for ModelPath {
    type Err = ModelPathError;

    /// A path, `file://` before an absolute path (taken as it stands, no percent signs decoded), or a URL.
    fn from_str(text: &str) -> Result<Self, ModelPathError> {
        match text.split_once("://") {
            _ if text.trim().is_empty() => Err(ModelPathError::Empty),
            None => Ok(Self::local(text)),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::local(path)),
            Some(("file", _)) => Err(ModelPathError::Host { url: text.to_owned() }),
            Some(("s3", _)) => Self::remote(StoreKind::S3, text),
            Some(("gs", _)) => Self::remote(StoreKind::Gcs, text),
            Some(("http" | "https", _)) => Self::remote(StoreKind::Http, text),
            Some((scheme, _)) => Err(ModelPathError::Scheme { scheme: scheme.to_owned() }),
        }
    }
}

impl ModelPath {
    fn local(path: &str) -> Self {
        let is_archive = names_archive(path) && !Path::new(path).is_dir();
        if is_archive { Self::Archive(path.into()) } else { Self::Folder(path.into()) }
    }

    fn remote(kind: StoreKind, text: &str) -> Result<Self, ModelPathError> {
        let mut url: Url = text.parse().map_err(|source| ModelPathError::Url { url: text.to_owned(), source })?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(ModelPathError::Url { url: text.to_owned(), source: url::ParseError::EmptyHost });
        }
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            url.set_query(None);
            let plain = format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
            return Err(ModelPathError::Extra { url: plain });
        }
        let remote = Remote { kind, url };
        Ok(if names_archive(remote.url.path()) { Self::RemoteArchive(remote) } else { Self::RemoteFolder(remote) })
    }
}

fn names_archive(path: &str) -> bool {
    ARCHIVES.iter().any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_archives_are_named_plainly_or_as_file_urls() {
        let folder = |path: &str| Ok(ModelPath::Folder(path.into()));
        assert_eq!("models/v1".parse(), folder("models/v1"));
        assert_eq!("/models/v1".parse(), folder("/models/v1"));
        assert_eq!("file:///models/v1".parse(), folder("/models/v1"));
        assert_eq!("v1.tar.gz".parse(), Ok(ModelPath::Archive("v1.tar.gz".into())));
        assert_eq!("file:///v1.tgz".parse(), Ok(ModelPath::Archive("/v1.tgz".into())));
    }

    #[test]
    fn stores_are_told_by_their_schemes() {
        for (text, wanted) in [
            ("s3://bucket/models/v1", StoreKind::S3),
            ("gs://bucket/v1/", StoreKind::Gcs),
            ("https://example.com/v1", StoreKind::Http),
        ] {
            let parsed = text.parse().unwrap();
            assert!(matches!(parsed, ModelPath::RemoteFolder(Remote { kind, .. }) if kind == wanted), "{text}");
        }
        let parsed = "http://127.0.0.1:8000/v1.tar".parse().unwrap();
        assert!(matches!(parsed, ModelPath::RemoteArchive(_)));
    }

    #[test]
    fn what_would_be_misread_is_refused() {
        let refused = |text: &str| text.parse::<ModelPath>().unwrap_err().to_string();
        assert_eq!(" ".parse::<ModelPath>(), Err(ModelPathError::Empty));
        assert!(refused("ftp://host/v1").contains("MODEL_PATH takes a path"));
        assert!(refused("file://models/v1").contains("three slashes"));
        assert!(refused("s3://").contains("is no address"));
        let query = refused("https://someone:secret@example.com/v1?signature=secret");
        assert!(query.contains("https://example.com/v1") && !query.contains("secret"), "{query}");
    }
}
