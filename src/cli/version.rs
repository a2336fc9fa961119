//! `nicplug version`: the version of the program, of KubeVirt that it knows, and the cryptography.

use std::{io::Write, process::ExitCode};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{
    certificates::crypto,
    kubevirt::{NEWEST_KNOWN, Version},
};

/// Print the version of nicplug, the newest KubeVirt that it knows, and the cryptography that it uses.
#[derive(Args, Debug)]
pub(super) struct VersionArgs {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// Returns the note about a KubeVirt that is newer than nicplug knows.
pub(super) fn newer_note(version: Version) -> Option<String> {
    let note = || format!("KubeVirt {version} is newer than nicplug knows: treated as {NEWEST_KNOWN}");
    version.is_newer_than_known().then(note)
}

impl VersionArgs {
    /// Prints the version.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let version = env!("CARGO_PKG_VERSION");
        match self.output {
            Format::Text => {
                writeln!(output, "nicplug v{version}\nnewest known KubeVirt: {NEWEST_KNOWN}")?;
                writeln!(output, "cryptography: {}", crypto::name())?;
            }
            Format::Json => {
                let json = json!({
                    "version": format!("v{version}"),
                    "newestKnownKubeVirt": NEWEST_KNOWN.to_string(),
                    "cryptography": crypto::name(),
                });
                writeln!(output, "{json:#}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
