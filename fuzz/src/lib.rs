//! What all fuzz targets have in common: none may make the program hold more than its input is worth.
//!
//! What a target checks stands beside the code that it checks, in the module `fuzzing` of each crate, where `make test`
//! gives it every kept input once more.

use std::alloc::System;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use cap::Cap;
pub use libfuzzer_sys;

/// What is held at a time is counted, and limited.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What a target may hold for any input, in bytes: enough for what is built once, by the first input that needs it.
const FOR_ANY_BYTES: usize = 16 << 20;
/// What it may hold for each byte of its input.
const FOR_A_BYTE: usize = 1 << 10;

/// Whether libFuzzer's hook is gone, which ends the process at every panic, those included that a target catches. One that is
/// not caught ends it all the same.
static UNHOOKED: Once = Once::new();

/// Gives an input to a target, which may not hold more than the input is worth: the process aborts where it does, and
/// libFuzzer keeps the input. Says how long the slowest took.
pub fn within_bounds(input: &[u8], target: impl FnOnce(&[u8])) {
    // In few words: to name every frame takes seconds, and libFuzzer does it where that is of use.
    UNHOOKED.call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
    let allowed = ALLOCATOR.allocated() + FOR_ANY_BYTES + FOR_A_BYTE * input.len();
    let began = Instant::now();
    // Neither is less than what is held.
    let _limited = ALLOCATOR.set_limit(allowed);
    target(input);
    let _free = ALLOCATOR.set_limit(usize::MAX);
    tell_slowest(began.elapsed().as_millis() as u64);
}

fn tell_slowest(milliseconds: u64) {
    if SLOWEST.fetch_max(milliseconds, Relaxed) < milliseconds {
        eprintln!("slowest: {milliseconds} ms");
    }
}

static SLOWEST: AtomicU64 = AtomicU64::new(0);

/// A target of libFuzzer.
#[macro_export]
macro_rules! target {
    ($target:path) => {
        $crate::libfuzzer_sys::fuzz_target!(|input: &[u8]| $crate::within_bounds(input, $target));
    };
}
