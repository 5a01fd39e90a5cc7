//! How many threads one product of matrices uses: one. The serving threads are what makes use of several
//! processors; a product of tables is too small to be shared out (98 µs through rayon's pool against 3 µs).
//!
//! candle asks the environment for that number at every single product, and where the environment says nothing
//! it reads `/proc/cpuinfo` each time. It cannot be told otherwise, and a process cannot change its own
//! environment without `unsafe`. So the program starts itself anew, in the same process, with the variables set.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use thiserror::Error;

/// What candle and rayon read.
const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

/// Why the number of threads cannot be fixed.
#[derive(Debug, Error)]
#[error("the program cannot start itself anew; set RAYON_NUM_THREADS=1 and CANDLE_NUM_THREADS=1 in its environment")]
pub struct ThreadsError(#[from] io::Error);

/// Gives back at once when the environment says what it must. Otherwise replaces the process, which then comes
/// here again; so it must be called before any thread, file or socket is opened.
///
/// # Errors
/// When the program's own file cannot be run.
pub fn fix_products_to_one() -> Result<(), ThreadsError> {
    if VARIABLES.iter().all(|name| env::var_os(name).is_some_and(|value| value == "1")) {
        return Ok(());
    }
    let error =
        Command::new(env::current_exe()?).args(env::args_os().skip(1)).envs(VARIABLES.map(|name| (name, "1"))).exec();
    Err(error.into())
}
