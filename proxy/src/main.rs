//! The `pointsman` program: everything it does is in the library.

use std::process::ExitCode;

/// Faster than the system's under many threads, and steadier in what it keeps.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pointsman::cli::main(std::env::args_os())
}
