//! What an operator can say, once, at the start: the environment first, flags over it.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use pointsman_telemetry::logs::LogFormat;

use crate::artifact::Sha256;
use crate::batching::Policy;
use crate::connection::{ConnectionLimits, ON_TOP};
use crate::http::Limits;
use crate::model::DeviceName;
use crate::queue::QueueLimits;
use crate::source::{self, CacheSettings, ModelPath};
use crate::watch::Patience;

/// How to serve one version of a model.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Where the bundle is: a folder that holds model.json and its files, an archive of them (.tar.gz, .tgz, .tar), or
    /// either behind file://, s3://, gs://, http:// or https://.
    #[arg(long, env = "MODEL_PATH", value_name = "PATH|URL")]
    pub model_path: ModelPath,
    /// SHA-256 that model.json must have; it holds the digests of all other files of the bundle.
    #[arg(long, env = "MODEL_SHA256", value_name = "HEX")]
    pub model_sha256: Option<Sha256>,
    /// Folder that bundles are brought to which are no folder here; it keeps them for the next start.
    #[arg(long, env = "MODEL_CACHE", value_name = "FOLDER", default_value_os_t = source::default_cache())]
    pub model_cache: PathBuf,
    /// Bundles that stay in that folder, the one that is served included: before another one is brought there, those are
    /// removed that were used longest ago and that no process uses.
    #[arg(long, env = "MODEL_CACHE_KEEP", value_name = "COUNT", default_value_t = source::KEPT)]
    pub model_cache_keep: NonZeroUsize,
    /// Address to listen on.
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one and prints it.
    #[arg(long, env = "PORT", default_value_t = 9000)]
    pub port: u16,
    /// Where the model calculates: cpu, or cuda:0 in a build with the feature `cuda`.
    #[arg(long, env = "DEVICE", default_value = "cpu")]
    pub device: DeviceName,
    /// Threads that read, calculate and answer [default: as many as there are processors to use]
    #[arg(long, env = "THREADS", value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,
    /// Bytes that a request's body may hold.
    #[arg(long, env = "MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 2 * 1024 * 1024)]
    pub max_body_bytes: usize,
    /// Rows that a batch may hold.
    #[arg(long, env = "MAX_BATCH_ROWS", value_name = "ROWS", default_value_t = 4096)]
    pub max_batch_rows: usize,
    /// Milliseconds of work that may wait for each thread of the model; what comes on top gets 429.
    #[arg(long, env = "QUEUE_MILLISECONDS", value_name = "MS", default_value_t = 1000)]
    pub queue_milliseconds: u32,
    /// Rows of different requests that go through the model together at most.
    #[arg(long, env = "MICRO_BATCH_ROWS", value_name = "ROWS", default_value_t = NonZeroUsize::MIN.saturating_add(63))]
    pub micro_batch_rows: NonZeroUsize,
    /// Columns and bytes of text that go through the model together at most.
    #[arg(long, env = "MICRO_BATCH_WEIGHT", value_name = "WEIGHT", default_value_t = NonZeroUsize::MIN.saturating_add(16383))]
    pub micro_batch_weight: NonZeroUsize,
    /// Panics of the model within a minute that make the server finish what is under way and end with exit code 1.
    #[arg(long, env = "MAX_PANICS", value_name = "COUNT", default_value_t = NonZeroUsize::MIN.saturating_add(4))]
    pub max_panics: NonZeroUsize,
    /// Seconds of traffic that are compared with training at a time.
    #[arg(long, env = "DRIFT_WINDOW_SECONDS", value_name = "SECONDS", default_value_t = 600)]
    pub drift_window_seconds: u32,
    /// Connections that are served at a time; who comes on top gets 503, and answers about health.
    #[arg(long, env = "MAX_CONNECTIONS", value_name = "COUNT", default_value_t = NonZeroUsize::MIN.saturating_add(8191))]
    pub max_connections: NonZeroUsize,
    /// Bytes of all bodies together that are read at a time; what comes on top gets 503.
    #[arg(long, env = "MAX_BODIES_BYTES", value_name = "BYTES", default_value_t = 64 * 1024 * 1024)]
    pub max_bodies_bytes: usize,
    /// Seconds that a request's head may take to arrive, and its body.
    #[arg(long, env = "REQUEST_SECONDS", value_name = "SECONDS", default_value_t = NonZeroU32::MIN.saturating_add(19))]
    pub request_seconds: NonZeroU32,
    /// Seconds that a connection may be without a request. Keep it above the edge's own keep-alive time, so that it is
    /// the edge that closes.
    #[arg(long, env = "IDLE_SECONDS", value_name = "SECONDS", default_value_t = 75)]
    pub idle_seconds: u32,
    /// Seconds from SIGTERM until the server ends even if a request is still under way.
    #[arg(long, env = "DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 25)]
    pub drain_seconds: u32,
    /// How log lines on stderr are written: text or json.
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
}

impl Settings {
    /// How many threads serve.
    pub fn threads(&self) -> NonZeroUsize {
        self.threads.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }

    /// Where bundles are brought to.
    pub fn cache(&self) -> CacheSettings {
        CacheSettings { folder: self.model_cache.clone(), keep: self.model_cache_keep }
    }

    /// What requests are held to.
    pub fn limits(&self) -> Limits {
        Limits {
            body_bytes: self.max_body_bytes,
            batch_rows: self.max_batch_rows,
            body_patience: self.request_patience(),
        }
    }

    /// What connections are held to.
    pub fn connection_limits(&self) -> ConnectionLimits {
        let idle = Duration::from_secs(self.idle_seconds.into());
        ConnectionLimits {
            most: self.max_connections.get(),
            on_top: ON_TOP,
            patience: Patience { idle, head: self.request_patience() },
        }
    }

    /// How many bytes of bodies are read at a time; the largest one always has room.
    pub fn bodies_bytes(&self) -> usize {
        self.max_bodies_bytes.max(self.max_body_bytes)
    }

    fn request_patience(&self) -> Duration {
        Duration::from_secs(self.request_seconds.get().into())
    }

    /// What requests are held to while they wait for the model.
    pub fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            wait: Duration::from_millis(self.queue_milliseconds.into()),
            policy: Policy { most_rows: self.micro_batch_rows.get(), most_weight: self.micro_batch_weight.get() },
            panics: self.max_panics,
        }
    }

    /// How much traffic is compared with training at a time.
    pub fn drift_window(&self) -> Duration {
        Duration::from_secs(self.drift_window_seconds.max(1).into())
    }

    /// How long draining may take.
    pub fn drain_deadline(&self) -> Duration {
        Duration::from_secs(self.drain_seconds.into())
    }
}
