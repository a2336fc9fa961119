//! The log of `serve`: its flags, and its filter, which a file can replace while the server runs.

use std::{
    fs,
    io::{self, ErrorKind},
    panic,
    path::{Path, PathBuf},
    pin::pin,
    process,
    time::Duration,
};

use clap::Args;
use futures_util::{StreamExt, future::Either, stream};

use super::signals::Hangup;
use crate::{
    rules,
    server::reload::{self, every},
    telemetry::{self, LogFilter, LogFormat, LogQueue, TelemetryError},
};

/// The flags of the log.
#[derive(Args, Debug)]
pub(super) struct LogArgs {
    /// What to log: a level, or directives such as info,nicplug::server=debug. Each decision is one line with target
    /// nicplug::decision, at level info; at debug if the request is allowed without a warning.
    #[arg(long, value_name = "FILTER", env = "NICPLUG_LOG", default_value = "info", help_heading = "Logs")]
    log: String,
    /// A file of directives that replaces --log, one per line or separated by commas. It is read again every ten
    /// seconds and at SIGHUP. An invalid filter is not used; the previous filter stays. While the file is missing or
    /// empty, --log applies.
    #[arg(long, value_name = "FILE", env = "NICPLUG_LOG_FILTER_FILE", help_heading = "Logs")]
    log_filter_file: Option<PathBuf>,
    /// Format of the log on standard error: text or json.
    #[arg(long, value_name = "FORMAT", env = "NICPLUG_LOG_FORMAT", default_value_t, help_heading = "Logs")]
    log_format: LogFormat,
}

impl LogArgs {
    /// Starts to log by the filter of the file, else of `--log`.
    pub(super) fn start(&self) -> Result<(Log, LogEnd), TelemetryError> {
        let (filter, queue) = telemetry::init(self.log_format, &self.log)?;
        end_at_panics(queue.clone());
        let source = FilterSource { file: self.log_filter_file.clone(), flag: self.log.clone(), last: String::new() };
        let mut log = Log { filter, source };
        log.reload();
        Ok((log, LogEnd(queue)))
    }
}

/// How long the end of the process waits for its last log lines, if their reader is slow.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Waits for the last log lines when it is dropped.
pub(super) struct LogEnd(LogQueue);

impl LogEnd {
    /// Returns the queue of log lines, for the metrics.
    pub(super) fn queue(&self) -> &LogQueue {
        &self.0
    }
}

impl Drop for LogEnd {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Ends the process at a panic, after the log lines and the message: a task that ends silently would leave facts or
/// certificates outdated. Only a panic in the check of a rule is logged as an error, and the server goes on.
fn end_at_panics(queue: LogQueue) {
    let write_message = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if rules::is_isolated() {
            tracing::error!(panic = %info, "internal error in a rule: please report it");
            return;
        }
        queue.flush(LAST_LINES);
        write_message(info);
        process::abort();
    }));
}

/// The running log.
pub(super) struct Log {
    filter: LogFilter,
    source: FilterSource,
}

impl Log {
    /// Replaces the filter when the file changes; never ends.
    ///
    /// # Errors
    /// The signal cannot be received.
    pub(super) fn follow(mut self) -> io::Result<impl Future<Output = ()>> {
        // Received also without a file, because SIGHUP ends a process that does not handle it.
        let mut hangup = Hangup::new()?;
        Ok(async move {
            let has_file = self.source.file.is_some();
            let ticks = if has_file { Either::Left(every(reload::INTERVAL)) } else { Either::Right(stream::pending()) };
            let mut ticks = pin!(ticks);
            loop {
                tokio::select! {
                    Some(()) = ticks.next() => {}
                    () = hangup.received() => {}
                }
                self.reload();
            }
        })
    }

    fn reload(&mut self) {
        match self.source.changed() {
            Ok(None) => {}
            Ok(Some(filter)) => match self.filter.set(&filter) {
                Ok(()) => tracing::info!(filter, "changed the log filter"),
                Err(error) => tracing::warn!(%error, "--log-filter-file: the previous log filter stays"),
            },
            Err(error) => tracing::warn!(%error, "--log-filter-file: the previous log filter stays"),
        }
    }
}

/// The file and the flag that the filter comes from.
struct FilterSource {
    file: Option<PathBuf>,
    /// The filter that applies while the file is missing or empty.
    flag: String,
    /// The content that was read last, or the error.
    last: String,
}

impl FilterSource {
    /// Returns the filter, if the file has changed since the last call. The same error is returned only once.
    fn changed(&mut self) -> io::Result<Option<String>> {
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
            None if text.is_empty() => Ok(Some(self.flag.clone())),
            None => Ok(Some(text)),
        }
    }
}

/// Reads the directives of a file, separated by commas; empty if the file does not exist.
fn read(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(directives(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Joins directives that are on lines or separated by commas; `#` starts a comment.
fn directives(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(line, _)| line));
    let all = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|directive| !directive.is_empty());
    all.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Selects the part of the next test that runs in a process of its own.
    const PANIC: &str = "NICPLUG_TEST_PANIC";

    #[test]
    fn only_a_panic_outside_of_a_rule_ends_the_process() {
        let Ok(place) = std::env::var(PANIC) else {
            for (place, is_alive) in [("rule", true), ("task", false)] {
                let name = "cli::serve::logs::tests::only_a_panic_outside_of_a_rule_ends_the_process";
                let mut command = process::Command::new(std::env::current_exe().unwrap());
                let output = command.args(["--exact", name, "--nocapture"]).env(PANIC, place).output().unwrap();
                let text = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.success(), is_alive, "{place}: {text}");
                assert!(text.contains("a panic of this test"), "{place}: {text}");
                assert_eq!(text.contains("internal error in a rule"), is_alive, "{place}: {text}");
            }
            return;
        };
        let (_, queue) = telemetry::init(LogFormat::Json, "info").unwrap();
        end_at_panics(queue.clone());
        let panics = || -> () { panic!("a panic of this test") };
        if place == "rule" {
            assert_eq!(rules::isolation::isolated(panics), None);
        } else {
            // tokio catches the panic of a task, so it would go unnoticed.
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(runtime.spawn(async move { panics() }));
        }
        queue.flush(LAST_LINES);
    }

    #[test]
    fn directives_are_separated_by_lines_or_commas() {
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
    fn a_change_of_the_file_is_returned_once_and_without_a_file_the_flag_applies() {
        let file = std::env::temp_dir().join(format!("nicplug-log-filter-{}", std::process::id()));
        let _ = fs::remove_file(&file);
        let mut source = FilterSource { file: Some(file.clone()), flag: "warn".to_owned(), last: String::new() };
        assert_eq!(source.changed().unwrap(), None);
        fs::write(&file, "debug\n").unwrap();
        assert_eq!(source.changed().unwrap().as_deref(), Some("debug"));
        assert_eq!(source.changed().unwrap(), None);
        fs::remove_file(&file).unwrap();
        assert_eq!(source.changed().unwrap().as_deref(), Some("warn"));
        fs::create_dir(&file).unwrap();
        assert!(source.changed().is_err());
        assert_eq!(source.changed().unwrap(), None, "the same error is returned once");
        fs::remove_dir(&file).unwrap();
    }
}
