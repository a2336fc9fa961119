//! The telemetry of the program: log lines on standard error, and spans for an OpenTelemetry collector.

pub mod colours;
mod queue;
pub mod spans;

use std::{fmt, io::IsTerminal, str::FromStr};

use tracing::{Dispatch, Level, Metadata, dispatcher};
use tracing_subscriber::{
    Registry,
    filter::{ParseError, Targets, filter_fn},
    fmt::{MakeWriter, time::SystemTime},
    layer::SubscriberExt,
    reload,
};

pub use self::queue::LogQueue;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text, with colours on a terminal.
    #[default]
    Text,
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(TelemetryError::Format(text.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Json => "json",
            Self::Text => "text",
        })
    }
}

/// The filter of log lines. It can be replaced while the program runs.
#[derive(Debug)]
pub struct LogFilter(reload::Handle<Targets, Registry>);

impl LogFilter {
    /// Replaces the filter; see [`init`] for its syntax.
    ///
    /// # Errors
    /// The filter is invalid; the previous one stays in force.
    pub fn set(&self, directives: &str) -> Result<(), TelemetryError> {
        self.0.reload(parse(directives)?).map_err(|_| TelemetryError::Gone)
    }
}

/// Starts to write log lines that pass a filter to standard error. They wait in the queue that is returned, so that no
/// line delays an answer.
///
/// `directives` is a level (`info`), or directives (`info,nicplug::server=debug`). The Kubernetes client logs nothing
/// unless a directive names it: it logs an error with each attempt, and the watches log the same error once.
///
/// # Errors
/// The filter is invalid, the program has another subscriber already, or the thread that writes cannot start.
pub fn init(format: LogFormat, directives: &str) -> Result<(LogFilter, LogQueue), TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse(directives)?);
    let is_terminal = std::io::stderr().is_terminal();
    let queue = LogQueue::start(std::io::stderr()).map_err(TelemetryError::Thread)?;
    let lines = dispatch(format, filter, queue.clone(), colours::wants_colours(is_terminal));
    dispatcher::set_global_default(lines).map_err(|_| TelemetryError::Taken)?;
    Ok((LogFilter(handle), queue))
}

fn parse(directives: &str) -> Result<Targets, TelemetryError> {
    let names_client = directives.split(',').any(|directive| directive.trim().starts_with("kube_client"));
    // A directive for a module takes precedence over one for all modules, in any order.
    let filter = if names_client { directives.to_owned() } else { format!("{directives},kube_client=off") };
    filter.parse().map_err(|source| TelemetryError::Filter(directives.to_owned(), source))
}

fn dispatch(
    format: LogFormat,
    filter: reload::Layer<Targets, Registry>,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
    has_colours: bool,
) -> Dispatch {
    let lines = tracing_subscriber::fmt::layer().with_timer(SystemTime).with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(|metadata| !can_have_secrets(metadata)));
    match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).into(),
        LogFormat::Text => registry.with(lines.with_ansi(has_colours)).into(),
    }
}

/// Whether a log line can contain a Secret: kube's client logs the whole text of a response that it cannot parse. No
/// filter of a user enables these lines. Errors, and the lines of its other modules, have no such text.
fn can_have_secrets(metadata: &Metadata) -> bool {
    metadata.target() == "kube_client::client" && *metadata.level() > Level::ERROR
}

/// Why log lines cannot be written as requested.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is invalid.
    #[error("{0:?} is not a log filter: write a level such as \"info\", or \"info,nicplug::server=debug\"")]
    Filter(String, #[source] ParseError),
    /// The format is unknown.
    #[error("{0:?} is not a log format: write \"text\" or \"json\"")]
    Format(String),
    /// The program is about to exit.
    #[error("log lines are not written any more: the program is about to exit")]
    Gone,
    /// The program has another subscriber.
    #[error("the program has another tracing subscriber: call telemetry::init once")]
    Taken,
    /// The thread that writes log lines cannot start.
    #[error("cannot start the thread that writes log lines: the process has reached a limit of the system")]
    Thread(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns a subscriber with a filter, the filter, and the lines that it writes.
    fn lines(directives: &str) -> (Dispatch, LogFilter, Buffer) {
        let (filter, handle) = reload::Layer::new(parse(directives).unwrap());
        let buffer = Buffer::default();
        let writer = buffer.clone();
        (dispatch(LogFormat::Text, filter, move || writer.clone(), false), LogFilter(handle), buffer)
    }

    #[test]
    fn a_format_is_parsed_as_it_is_displayed() {
        for format in [LogFormat::Json, LogFormat::Text] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("\"xml\""));
    }

    #[test]
    fn an_invalid_filter_is_quoted() {
        let error = init(LogFormat::Text, "nicplug=loud").unwrap_err().to_string();
        assert!(error.contains("\"nicplug=loud\""), "{error}");
    }

    #[test]
    fn the_kubernetes_client_logs_only_if_a_directive_names_it_and_never_a_secret() {
        for (directives, logs_error, logs_builder) in [
            ("trace", false, false),
            ("info,kube_client=off", false, false),
            ("off,kube_client=error", true, false),
            ("kube_client=trace", true, true),
            ("info,kube_client::client=trace", true, true),
            ("trace,kube_client::client=off", false, false),
        ] {
            let (dispatch, _filter, buffer) = lines(directives);
            dispatcher::with_default(&dispatch, || {
                tracing::error!(target: "kube_client::client", "an error");
                tracing::debug!(target: "kube_client::client::builder", "a request");
                tracing::warn!(target: "kube_client::client", "a secret");
                tracing::debug!(target: "kube_client::client", "a secret");
                tracing::trace!(target: "kube_client::client", "a secret");
            });
            let text = buffer.take();
            assert_eq!(text.contains("an error"), logs_error, "{directives}: {text}");
            assert_eq!(text.contains("a request"), logs_builder, "{directives}: {text}");
            assert!(!text.contains("secret"), "{directives}: {text}");
        }
    }

    #[test]
    fn a_filter_is_replaced_and_stays_if_the_next_one_is_invalid() {
        let (dispatch, filter, buffer) = lines("info");
        let is_logged = || {
            dispatcher::with_default(&dispatch, || tracing::debug!("hello"));
            !buffer.take().is_empty()
        };
        assert!(!is_logged());
        filter.set("info,nicplug::telemetry=debug").unwrap();
        assert!(is_logged());
        assert!(filter.set("nicplug=loud").is_err());
        assert!(is_logged());
        filter.set("info").unwrap();
        assert!(!is_logged());
    }
}
