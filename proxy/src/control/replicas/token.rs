//! The bearer token that all edges of one installation share.

use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use thiserror::Error;

use crate::admin::{bearer, same};

/// The file that holds it; read for every request, so that a new token counts from the moment it is written, and a file
/// that cannot be read lets nobody in.
#[derive(Debug, Clone)]
pub(crate) struct SharedToken(Arc<PathBuf>);

/// Why nobody is let in, or asked.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    /// It cannot be read.
    #[error(
        "the token that edges share cannot be read from `{path}`: {source}; `replicas.token_file` names it, and it is the same for every edge"
    )]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("the token that edges share is empty; write one into `{path}`, the same for every edge")]
    Empty {
        /// The file.
        path: String,
    },
}

impl SharedToken {
    /// The token in `file`, white space around it apart.
    pub(crate) fn new(file: PathBuf) -> Self {
        Self(Arc::new(file))
    }

    /// What stands in the file now.
    pub(crate) async fn read(&self) -> Result<String, TokenError> {
        let path = || self.0.display().to_string();
        let text = tokio::fs::read_to_string(self.0.as_path())
            .await
            .map_err(|source| TokenError::Unreadable { path: path(), source })?;
        let token = text.trim();
        if token.is_empty() { Err(TokenError::Empty { path: path() }) } else { Ok(token.to_owned()) }
    }

    /// Whether a request offers it.
    pub(crate) async fn admits(&self, headers: &HeaderMap) -> Result<bool, TokenError> {
        let expected = self.read().await?;
        Ok(bearer(headers).is_some_and(|offered| same(offered, &expected)))
    }
}
