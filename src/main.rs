//! The program `nicplug`.

use std::process::ExitCode;

/// Replaces musl's allocator, which has one lock for all threads: docs/performance.md has the figures.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nicplug::cli::main()
}
