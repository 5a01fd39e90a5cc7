//! How many files and sockets the process may have open: the soft limit of most shells is meant for other programs, and
//! a server that reaches it accepts nobody any more, not even who asks how it is. `app` asks before it listens.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tracing::warn;

/// What is open beside the connections: the listener, the log, what is read and fetched, and a few for each thread.
const OTHERS: usize = 64;

/// What each serving thread has open by itself.
const OF_A_THREAD: usize = 4;

/// Takes as many descriptors as the process may have; gives how many that are, where the system says so.
pub fn raise() -> Option<usize> {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(files) => Some(bounded(files)),
        Err(error) => {
            warn!(%error, "the limit on open files cannot be raised");
            getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| bounded(soft))
        }
    }
}

fn bounded(files: rlim_t) -> usize {
    usize::try_from(files).unwrap_or(usize::MAX)
}

/// For how many connections there is room, of so many descriptors: one at least.
pub fn connections(files: usize, threads: usize) -> usize {
    files.saturating_sub(OTHERS).saturating_sub(threads.saturating_mul(OF_A_THREAD)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_anyway_is_left_out_and_somebody_is_always_served() {
        for (files, threads, wanted) in [(1024, 4, 944), (1024, 1000, 1), (10, 1, 1), (usize::MAX, 2, usize::MAX - 72)]
        {
            assert_eq!(connections(files, threads), wanted);
        }
    }
}
