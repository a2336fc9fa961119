//! `nicplug certs`: creates a CA and a server certificate, as files.

#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, bail};
use clap::Args;

use super::arguments::program;
use crate::certificates::{self, GeneratedCertificates, Host};

/// Create a CA and a server certificate.
///
/// Writes ca.crt, ca.key, tls.crt and tls.key (ECDSA P-256) to DIR. The CA is valid for ten years, the server
/// certificate for one year. Both are valid from five minutes ago, for clients whose clock is slow. Only the owner can
/// read the keys.
#[derive(Args, Debug)]
pub(super) struct CertsArgs {
    /// The directory to write to; created if it does not exist.
    dir: PathBuf,
    /// A DNS name or IP address that clients use for the server; may be repeated. For a Service in a cluster:
    /// NAME.NAMESPACE.svc [default: localhost, 127.0.0.1 and ::1].
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<Host>,
    /// Overwrite existing files. The CA is then a new one: write the new ca.crt to the webhook configurations.
    #[arg(long)]
    force: bool,
}

impl CertsArgs {
    /// Writes the four files, and their purposes to `out`.
    ///
    /// Unless `force` is set, nothing is written if one of the files exists.
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let hosts = if self.hosts.is_empty() { Host::local()? } else { self.hosts };
        let bundle = certificates::generate(&hosts, SystemTime::now())?;
        let files = files(&bundle);
        if !self.force {
            refuse_to_overwrite(&self.dir, &files)?;
        }
        directory_builder()
            .create(&self.dir)
            .with_context(|| format!("cannot create the directory {}", self.dir.display()))?;
        for file in &files {
            let path = self.dir.join(file.name);
            write(&path, file, self.force).with_context(|| format!("cannot write {}", path.display()))?;
        }
        report(&self.dir, &files, out)?;
        Ok(ExitCode::SUCCESS)
    }
}

struct File<'a> {
    name: &'static str,
    text: &'a str,
    mode: u32,
    purpose: &'static str,
}

fn files(bundle: &GeneratedCertificates) -> [File<'_>; 4] {
    let file = |name, text, mode, purpose| File { name, text, mode, purpose };
    [
        file(
            "ca.crt",
            &bundle.ca,
            0o644,
            "CA certificate, for the caBundle of the webhook configurations (valid ten years)",
        ),
        file("ca.key", &bundle.ca_key, 0o600, "key of the CA; do not copy it to the server"),
        file("tls.crt", &bundle.server, 0o644, "server certificate (valid one year)"),
        file("tls.key", &bundle.server_key, 0o600, "key of the server"),
    ]
}

fn refuse_to_overwrite(dir: &Path, files: &[File]) -> anyhow::Result<()> {
    for file in files {
        let path = dir.join(file.name);
        // A dangling symlink counts as existing, because a write would follow it.
        if path.symlink_metadata().is_ok() {
            bail!(
                "{} already exists: choose another directory, or pass --force to overwrite all four files",
                path.display()
            );
        }
    }
    Ok(())
}

/// Writes a file. With `force` it writes a temporary file and renames it, so that no reader sees a part of a file, and
/// a key does not keep the mode of an older file.
fn write(path: &Path, file: &File, force: bool) -> io::Result<()> {
    let mut target = path.to_owned();
    if force {
        target.set_file_name(format!(".{}.{}", file.name, std::process::id()));
    }
    let mut handle = new_file(file.mode).open(&target)?;
    handle.write_all(file.text.as_bytes())?;
    handle.sync_all()?;
    if force { std::fs::rename(&target, path) } else { Ok(()) }
}

/// Returns a builder of directories that all users can read.
fn directory_builder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(0o755);
    builder
}

/// Returns options that create a file of a mode. On Windows a file inherits the permissions of its directory.
fn new_file(#[cfg_attr(not(unix), allow(unused_variables))] mode: u32) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(mode);
    options
}

fn report(dir: &Path, files: &[File], out: &mut dyn Write) -> io::Result<()> {
    for file in files {
        writeln!(out, "{}  {}", dir.join(file.name).display(), file.purpose)?;
    }
    let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    writeln!(out, "\nNext:\n  {} serve --tls-cert {} --tls-key {}", program(), certificate.display(), key.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory for one test; removed when it is dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nicplug-certs-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }

        fn args(&self, force: bool) -> CertsArgs {
            CertsArgs { dir: self.0.clone(), hosts: Vec::new(), force }
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.join(name)).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_the_owner_can_read_the_keys_and_the_output_names_the_next_command() {
        let scratch = Scratch::new("modes");
        let mut out = Vec::new();
        scratch.args(false).run(&mut out).unwrap();
        for (name, mode) in [("ca.crt", 0o644), ("ca.key", 0o600), ("tls.crt", 0o644), ("tls.key", 0o600)] {
            let found = scratch.0.join(name).metadata().unwrap().permissions().mode() & 0o777;
            // The umask can only remove permissions.
            assert_eq!(found & !mode, 0, "{name} has mode {found:o}");
        }
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("nicplug serve --tls-cert"), "{out}");
        assert!(out.contains("caBundle"), "{out}");
    }

    #[test]
    fn an_existing_file_is_named_and_nothing_is_written() {
        let scratch = Scratch::new("refused");
        std::fs::create_dir_all(&scratch.0).unwrap();
        std::fs::write(scratch.0.join("tls.key"), "mine").unwrap();
        let error = scratch.args(false).run(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("tls.key already exists") && error.contains("--force"), "{error}");
        assert_eq!(scratch.read("tls.key"), "mine");
        assert_eq!(scratch.0.read_dir().unwrap().count(), 1);
    }

    #[test]
    fn force_replaces_all_four_files_and_the_mode_of_a_readable_key() {
        let scratch = Scratch::new("forced");
        std::fs::create_dir_all(&scratch.0).unwrap();
        std::fs::write(scratch.0.join("tls.key"), "mine").unwrap();
        std::fs::set_permissions(scratch.0.join("tls.key"), PermissionsExt::from_mode(0o644)).unwrap();
        scratch.args(true).run(&mut Vec::new()).unwrap();
        let mode = scratch.0.join("tls.key").metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & !0o600, 0, "{mode:o}");
        assert!(scratch.read("tls.key").contains("PRIVATE KEY"));
        assert_eq!(scratch.0.read_dir().unwrap().count(), 4);
    }
}
