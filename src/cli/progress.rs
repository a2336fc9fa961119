//! Progress on standard error, for what takes longer than a second. Without a terminal there is none.

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::terminal::is_dumb;

/// The time after which progress is shown.
const DELAY: Duration = Duration::from_secs(1);

/// The time between two drawings: of the mark that turns, and of the elapsed time.
const TICK: Duration = Duration::from_millis(100);

/// A line that is redrawn until this is dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    /// The thread that shows the bar after a second, and what ends its wait.
    delay: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Shows a text and the elapsed time after a second, if standard error is a terminal.
    pub(super) fn start(text: &str) -> Self {
        Self::new(text, "{spinner} {msg} ({elapsed})", DELAY)
    }

    /// As [`start`](Self::start), at once, with a limit such as `60s`, and without a text at first.
    pub(super) fn with_limit(limit: Duration) -> Self {
        Self::new("", &format!("{{spinner}} {{elapsed}} of {}  {{msg}}", seconds(limit)), Duration::ZERO)
    }

    fn new(text: &str, template: &str, delay: Duration) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if !io::stderr().is_terminal() || is_dumb() {
            return Self { bar, delay: None };
        }
        if let Ok(style) = ProgressStyle::with_template(template) {
            let elapsed = |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                // Writing to a line cannot fail.
                let _ = write!(out, "{}", seconds(state.elapsed()));
            };
            bar.set_style(style.with_key("elapsed", elapsed));
        }
        bar.set_message(text.to_owned());
        if delay.is_zero() {
            show(&bar);
            return Self { bar, delay: None };
        }
        let (sender, receiver) = mpsc::channel::<()>();
        let shown = bar.clone();
        let thread = thread::spawn(move || {
            if receiver.recv_timeout(delay) == Err(RecvTimeoutError::Timeout) {
                show(&shown);
            }
        });
        Self { bar, delay: Some((sender, thread)) }
    }

    /// Changes the text.
    pub(super) fn set_text(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// Writes while the line is not shown.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.delay.take() {
            drop(sender);
            // The thread does not panic.
            let _ = thread.join();
        }
        self.bar.finish_and_clear();
    }
}

fn show(bar: &ProgressBar) {
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.enable_steady_tick(TICK);
}

/// Returns a time in seconds, or in minutes and seconds.
fn seconds(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        seconds => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (time, expected) in [(0, "0s"), (59, "59s"), (60, "1m"), (75, "1m15s"), (600, "10m")] {
            assert_eq!(seconds(Duration::from_secs(time)), expected);
        }
        assert_eq!(seconds(Duration::from_millis(1900)), "1s");
    }

    #[test]
    fn without_a_terminal_nothing_is_shown() {
        let progress = Progress::start("reading");
        assert!(progress.delay.is_none() || io::stderr().is_terminal());
        progress.set_text("reading more");
        assert_eq!(progress.suspend(|| 7), 7);
    }
}
