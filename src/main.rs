//! The program `nicplug`.

use std::process::ExitCode;

/// In place of musl's own, which has one lock for all threads: docs/performance.md has the figures.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nicplug::cli::main()
}
