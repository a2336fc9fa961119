//! The program `nicplug`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nicplug::cli::main()
}
