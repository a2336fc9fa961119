//! The log of `serve`: its flags, and its filter, which a file may replace while the server runs.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    pin::pin,
};

use clap::Args;
use futures_util::{StreamExt, future::Either, stream};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    server::reload::{self, every},
    telemetry::{self, LogFilter, LogFormat, TelemetryError},
};

/// What is logged, and how.
#[derive(Args, Debug)]
pub(super) struct LogArgs {
    /// What to log: a level, or directives such as info,nicplug::server=debug. Of each decision one line is logged, of
    /// nicplug::decision: at info unless it allows without a word, else at debug.
    #[arg(long, value_name = "FILTER", env = "NICPLUG_LOG", default_value = "info", help_heading = "Logs")]
    log: String,
    /// A file of such directives, one a line or with commas between them, in place of --log. It is read again every ten
    /// seconds and at SIGHUP: one that cannot be used is refused, and what held before stays. While it is missing or
    /// empty, --log holds.
    #[arg(long, value_name = "FILE", env = "NICPLUG_LOG_FILTER_FILE", help_heading = "Logs")]
    log_filter_file: Option<PathBuf>,
    /// How to log, on standard error: text or json.
    #[arg(long, value_name = "FORMAT", env = "NICPLUG_LOG_FORMAT", default_value_t, help_heading = "Logs")]
    log_format: LogFormat,
}

impl LogArgs {
    /// Begins to log as `--log` says.
    pub(super) fn start(&self) -> Result<Log, TelemetryError> {
        let filter = telemetry::init(self.log_format, &self.log)?;
        let wanted = Wanted { file: self.log_filter_file.clone(), otherwise: self.log.clone(), last: String::new() };
        let mut log = Log { filter, wanted };
        log.look();
        Ok(log)
    }
}

/// The log, under way.
pub(super) struct Log {
    filter: LogFilter,
    wanted: Wanted,
}

impl Log {
    /// Replaces the filter when the file changes, without end.
    ///
    /// # Errors
    /// The signal cannot be received.
    pub(super) fn follow(mut self) -> io::Result<impl Future<Output = ()>> {
        // Received without a file too: unheard it would end the process.
        let mut hangup = signal(SignalKind::hangup())?;
        Ok(async move {
            let has_file = self.wanted.file.is_some();
            let ticks = if has_file { Either::Left(every(reload::INTERVAL)) } else { Either::Right(stream::pending()) };
            let mut ticks = pin!(ticks);
            loop {
                tokio::select! {
                    Some(()) = ticks.next() => {}
                    () = received(&mut hangup) => {}
                }
                self.look();
            }
        })
    }

    fn look(&mut self) {
        match self.wanted.news() {
            Ok(None) => {}
            Ok(Some(wanted)) => match self.filter.set(&wanted) {
                Ok(()) => tracing::info!(filter = wanted, "another log filter is taken"),
                Err(error) => tracing::warn!(%error, "--log-filter-file: the log filter stays as it was"),
            },
            Err(error) => tracing::warn!(%error, "--log-filter-file: the log filter stays as it was"),
        }
    }
}

async fn received(signal: &mut Signal) {
    // There is an end of signals only when the runtime ends.
    let _ = signal.recv().await;
}

/// What shall be logged.
struct Wanted {
    file: Option<PathBuf>,
    /// What holds where the file says nothing.
    otherwise: String,
    /// What the file said last, or why it could not be read.
    last: String,
}

impl Wanted {
    /// What is wanted now, if the file has changed since it was last asked; an error is told once.
    fn news(&mut self) -> io::Result<Option<String>> {
        let Some(file) = &self.file else { return Ok(None) };
        let (text, error) = match read(file) {
            Ok(text) => (text, None),
            Err(error) => (error.to_string(), Some(error)),
        };
        if text == self.last {
            return Ok(None);
        }
        self.last.clone_from(&text);
        match error {
            Some(error) => Err(error),
            None if text.is_empty() => Ok(Some(self.otherwise.clone())),
            None => Ok(Some(text)),
        }
    }
}

/// The directives of a file, with commas between them; none where there is no file.
fn read(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(directives(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// One a line or with commas between them; what follows `#` says why.
fn directives(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(line, _)| line));
    let all = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|directive| !directive.is_empty());
    all.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_stand_on_lines_or_between_commas() {
        for (text, expected) in [
            ("", ""),
            ("\n# nothing\n", ""),
            ("debug\n", "debug"),
            (
                "info\nnicplug::server=debug, # why\nnicplug::cluster=trace",
                "info,nicplug::server=debug,nicplug::cluster=trace",
            ),
        ] {
            assert_eq!(directives(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_has_its_say_once_and_without_it_the_flag_holds() {
        let file = std::env::temp_dir().join(format!("nicplug-log-filter-{}", std::process::id()));
        let _ = fs::remove_file(&file);
        let mut wanted = Wanted { file: Some(file.clone()), otherwise: "warn".to_owned(), last: String::new() };
        assert_eq!(wanted.news().unwrap(), None);
        fs::write(&file, "debug\n").unwrap();
        assert_eq!(wanted.news().unwrap().as_deref(), Some("debug"));
        assert_eq!(wanted.news().unwrap(), None);
        fs::remove_file(&file).unwrap();
        assert_eq!(wanted.news().unwrap().as_deref(), Some("warn"));
        fs::create_dir(&file).unwrap();
        assert!(wanted.news().is_err());
        assert_eq!(wanted.news().unwrap(), None, "it is told once");
        fs::remove_dir(&file).unwrap();
    }
}
