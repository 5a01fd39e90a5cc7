//! The admin API at work: on a thread of its own, so that no question of an operator takes time from a request.

use std::io;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::{self, AdminContext};

/// The admin API; dropping it ends it at once.
#[derive(Debug)]
pub(super) struct Admin {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
    _runtime: Unwaited,
}

/// A runtime that no end waits for.
#[derive(Debug)]
struct Unwaited(Option<Runtime>);

impl Drop for Unwaited {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Admin {
    pub(super) fn start(listener: std::net::TcpListener, context: AdminContext) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("admin").enable_all().build()?;
        let listener = {
            let _on_this_runtime = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let ended = runtime.spawn(admin::serve(listener, admin::router(context), async { drop(stopped.await) }));
        Ok(Self { stop, ended, _runtime: Unwaited(Some(runtime)) })
    }

    /// Takes no further connection, and answers who is connected.
    pub(super) async fn close(self) {
        drop(self.stop);
        drop(self.ended.await);
    }
}
