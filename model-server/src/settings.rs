//! What an operator can say, once, at the start: the environment first, flags over it.

use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use clap::Args;
use pointsman_telemetry::logs::LogFormat;

use crate::artifact::{ModelPath, Sha256};
use crate::http::Limits;
use crate::model::DeviceName;

/// How to serve one version of a model.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Folder that holds the bundle (model.json and its files), or file:// before an absolute path.
    #[arg(long, env = "MODEL_PATH", value_name = "FOLDER")]
    pub model_path: ModelPath,
    /// SHA-256 that model.json must have; it holds the digests of all other files of the bundle.
    #[arg(long, env = "MODEL_SHA256", value_name = "HEX")]
    pub model_sha256: Option<Sha256>,
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
    /// Seconds that a body may take to arrive, and that a connection may be silent. Keep it above the edge's
    /// own keep-alive time, so that it is the edge that closes.
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

    /// What requests are held to.
    pub fn limits(&self) -> Limits {
        Limits {
            body_bytes: self.max_body_bytes,
            batch_rows: self.max_batch_rows,
            patience: Duration::from_secs(self.idle_seconds.into()),
        }
    }

    /// How long draining may take.
    pub fn drain_deadline(&self) -> Duration {
        Duration::from_secs(self.drain_seconds.into())
    }
}
