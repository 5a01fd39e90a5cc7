//! Files of a store: read as they stream, gone on with where they broke off, tried again with growing pauses.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, Error, GetOptions, GetRange, GetResult, ObjectStore, RetryConfig};
use tracing::warn;

use super::SourceError;
use super::address::{Remote, StoreKind};
use super::progress::Progress;

/// How often in a row nothing may come before it is given up.
const ATTEMPTS: usize = 6;

/// The first pause; each further one is twice as long, and none longer than the last.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a store may be silent in the middle of a file, or before one.
const SILENCE: Duration = Duration::from_secs(30);

/// A folder of a store.
pub(super) struct Store {
    client: Box<dyn ObjectStore>,
    folder: ObjectPath,
    /// As it was named, for people; without a slash at the end.
    address: String,
}

/// Why one attempt failed.
enum Failure {
    /// Trying again changes nothing.
    Final(Error),
    /// It may go better next time.
    Passing(Error),
    /// The store has another file by now: what is here cannot be gone on with.
    Stale(Error),
    /// The disk refused.
    Disk(io::Error),
}

impl Store {
    /// The folder at an address.
    pub(super) fn open(address: &Remote) -> Result<Self, SourceError> {
        let shown = address.url.as_str().trim_end_matches('/').to_owned();
        let failed = |problem| SourceError::Open { address: shown.clone(), problem };
        let client = client_of(address).map_err(failed)?;
        let folder = ObjectPath::from_url_path(address.url.path()).map_err(|source| failed(source.into()))?;
        Ok(Self { client, folder, address: shown })
    }

    /// The folder of the file at an address, and the file's name.
    pub(super) fn of_file(address: &Remote) -> Result<(Self, String), SourceError> {
        let mut store = Self::open(address)?;
        let parts: Vec<_> = store.folder.parts().collect();
        let (name, folder) = parts
            .split_last()
            .map_or((String::new(), vec![]), |(name, folder)| (name.as_ref().to_owned(), folder.to_vec()));
        store.folder = folder.into_iter().collect();
        store.address = store.address.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
        Ok((store, name))
    }

    /// Store and file, for people.
    pub(super) fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// A file that is read whole.
    pub(super) async fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, SourceError> {
        let mut pauses = pauses();
        loop {
            let failure = match self.read(name, limit).await {
                Ok(read) => return read,
                Err(failure) => failure,
            };
            self.pause(name, failure, &mut pauses, 0).await?;
        }
    }

    async fn read(&self, name: &str, limit: u64) -> Result<Result<Vec<u8>, SourceError>, Failure> {
        let got = self.get(name, GetOptions::default()).await?;
        if got.meta.size > limit {
            return Ok(Err(SourceError::TooLong { address: self.shown(name), bytes: got.meta.size }));
        }
        Ok(Ok(got.bytes().await.map_err(Failure::of)?.to_vec()))
    }

    /// Fetches a file to `target`, which is there only when it is whole. How whole it is says the store; whether it is
    /// the right one says its digest.
    pub(super) async fn download(&self, name: &str, target: &Path) -> Result<(), SourceError> {
        let part = Part::beside(target);
        let mut pauses = pauses();
        let mut in_vain = 0;
        loop {
            let before = part.length();
            // A store that knows no ranges fails to give one just as one that is down does.
            let resumed = part.resumed().filter(|_| in_vain < 2 || in_vain % 2 == 0);
            let failure = match self.go_on(name, &part, resumed).await {
                Ok(()) => break,
                Err(failure) => failure,
            };
            if let Failure::Stale(_) = failure {
                part.forget();
            }
            in_vain += 1;
            if part.length() > before {
                (pauses, in_vain) = (self::pauses(), 0);
            }
            self.pause(name, failure, &mut pauses, part.length()).await?;
        }
        Ok(part.becomes(target)?)
    }

    /// Waits before the next attempt, when there is one.
    async fn pause(
        &self,
        name: &str,
        failure: Failure,
        pauses: &mut impl Iterator<Item = Duration>,
        done: u64,
    ) -> Result<(), SourceError> {
        let address = self.shown(name);
        let source = match failure {
            Failure::Final(source) => return Err(SourceError::Refused { address, problem: source }),
            Failure::Disk(source) => return Err(source.into()),
            Failure::Passing(source) | Failure::Stale(source) => source,
        };
        let Some(pause) = pauses.next() else {
            return Err(SourceError::GaveUp { address, attempts: ATTEMPTS, done, problem: source });
        };
        warn!(file = name, done, error = %source, pause_ms = pause.as_millis(), "fetch broke off, trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn get(&self, name: &str, options: GetOptions) -> Result<GetResult, Failure> {
        let path: ObjectPath = self.folder.parts().chain(ObjectPath::from(name).parts()).collect();
        self.client.get_opts(&path, options).await.map_err(Failure::of)
    }

    /// Fetches what is missing; everything, when nothing is resumed.
    async fn go_on(&self, name: &str, part: &Part, resumed: Option<(u64, String)>) -> Result<(), Failure> {
        let options = resumed.as_ref().map_or_else(GetOptions::default, |(length, tag)| {
            GetOptions::default().with_range(Some(GetRange::Offset(*length))).with_if_match(Some(tag))
        });
        let got = self.get(name, options).await?;
        let first = resumed.map_or(0, |(length, _)| length);
        let (total, tag) = (got.meta.size, got.meta.e_tag.clone());
        let mut progress = Progress::begin(name, total, first);
        let mut stream = got.into_stream();
        let mut file = None;
        let mut done = first;
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(Failure::of)?;
            // What is here stays until something better has come.
            let file = match &mut file {
                Some(file) => file,
                None => file.insert(part.open(first, tag.as_deref()).map_err(Failure::Disk)?),
            };
            file.write_all(&bytes).map_err(Failure::Disk)?;
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            done += count;
            progress.add(count);
        }
        if done < total {
            return Err(Failure::Passing(cut_off(done, total)));
        }
        let file = file.map_or_else(|| part.open(done, tag.as_deref()), Ok);
        file.and_then(|file| file.sync_all()).map_err(Failure::Disk)
    }
}

fn cut_off(done: u64, total: u64) -> Error {
    Error::Generic { store: "fetch", source: format!("{done} of {total} bytes came").into() }
}

impl Failure {
    fn of(error: Error) -> Self {
        let is_final = matches!(
            error,
            Error::NotFound { .. }
                | Error::PermissionDenied { .. }
                | Error::Unauthenticated { .. }
                | Error::InvalidPath { .. }
                | Error::UnknownConfigurationKey { .. }
        );
        if is_final {
            Self::Final(error)
        } else if matches!(error, Error::Precondition { .. }) {
            Self::Stale(error)
        } else {
            Self::Passing(error)
        }
    }
}

/// Pauses between attempts that bring nothing.
fn pauses() -> impl Iterator<Item = Duration> {
    let growing = ExponentialBuilder::default().with_min_delay(SHORTEST_PAUSE).with_max_delay(LONGEST_PAUSE);
    growing.with_max_times(ATTEMPTS - 1).with_jitter().build()
}

/// A file on its way, and beside it the tag that the store gave it: what is gone on with must be the same file.
struct Part {
    content: PathBuf,
    tag: PathBuf,
}

impl Part {
    fn beside(target: &Path) -> Self {
        let named = |end: &str| {
            let mut name = target.file_name().unwrap_or_default().to_owned();
            name.push(end);
            target.with_file_name(name)
        };
        Self { content: named(".part"), tag: named(".tag") }
    }

    fn length(&self) -> u64 {
        fs::metadata(&self.content).map_or(0, |about| about.len())
    }

    /// How much is there, and of what.
    fn resumed(&self) -> Option<(u64, String)> {
        let length = self.length();
        let tag = fs::read_to_string(&self.tag).ok()?;
        (length > 0 && !tag.is_empty()).then_some((length, tag))
    }

    fn open(&self, first: u64, tag: Option<&str>) -> io::Result<File> {
        fs::write(&self.tag, tag.unwrap_or_default())?;
        let file = OpenOptions::new().create(true).append(true).open(&self.content)?;
        file.set_len(first)?;
        Ok(file)
    }

    fn forget(&self) {
        for file in [&self.content, &self.tag] {
            fs::remove_file(file).inspect_err(|error| warn!(%error, "stale download not removed")).ok();
        }
    }

    fn becomes(&self, target: &Path) -> io::Result<()> {
        fs::remove_file(&self.tag)?;
        fs::rename(&self.content, target)
    }
}

/// The client of a store. It tries nothing again by itself: that is done here, with words in the log.
fn client_of(address: &Remote) -> Result<Box<dyn ObjectStore>, Error> {
    provide_tls();
    let url = address.url.as_str();
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    Ok(match address.kind {
        StoreKind::S3 => {
            let builder = AmazonS3Builder::from_env().with_url(url).with_retry(retry);
            Box::new(builder.with_client_options(options()).build()?)
        }
        StoreKind::Gcs => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(retry);
            Box::new(builder.with_client_options(options()).build()?)
        }
        StoreKind::Http => {
            let origin = &address.url[..url::Position::BeforePath];
            let builder = HttpBuilder::new().with_url(origin).with_retry(retry);
            Box::new(builder.with_client_options(options()).build()?)
        }
    })
}

/// A file may take as long as it takes, as long as something comes. Whether http will do, the address says.
fn options() -> ClientOptions {
    ClientOptions::new().with_allow_http(true).with_timeout_disabled().with_read_timeout(SILENCE)
}

/// All of Pointsman speaks TLS with ring; a process has one provider, and a second call changes nothing.
fn provide_tls() {
    rustls::crypto::ring::default_provider().install_default().ok();
}
