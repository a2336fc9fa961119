//! What the program tells about itself while it runs: log lines on standard error, and spans for a collector.

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

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// Words, coloured on a terminal.
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

/// Decides which log lines are written; another one can be set while the program runs.
#[derive(Debug)]
pub struct LogFilter(reload::Handle<Targets, Registry>);

impl LogFilter {
    /// Takes this filter from now on; see [`init`].
    ///
    /// # Errors
    /// It cannot be read: the one before stays.
    pub fn set(&self, wanted: &str) -> Result<(), TelemetryError> {
        self.0.reload(parse(wanted)?).map_err(|_| TelemetryError::Gone)
    }
}

/// Sends log lines that pass a filter to standard error, from now on.
///
/// `wanted` is a level (`info`), or directives (`info,nicplug::server=debug`). The client of the cluster says nothing
/// unless a directive is about it: what it tells at each try, the watches tell once.
///
/// # Errors
/// The filter cannot be read, or something else receives the log lines already.
pub fn init(format: LogFormat, wanted: &str) -> Result<LogFilter, TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse(wanted)?);
    let is_terminal = std::io::stderr().is_terminal();
    let lines = dispatch(format, filter, std::io::stderr, is_terminal);
    dispatcher::set_global_default(lines).map_err(|_| TelemetryError::Taken)?;
    Ok(LogFilter(handle))
}

fn parse(wanted: &str) -> Result<Targets, TelemetryError> {
    let names_client = wanted.split(',').any(|directive| directive.trim().starts_with("kube_client"));
    // A directive about a module counts more than one about all, whichever comes first.
    let filter = if names_client { wanted.to_owned() } else { format!("{wanted},kube_client=off") };
    filter.parse().map_err(|source| TelemetryError::Filter(wanted.to_owned(), source))
}

fn dispatch(
    format: LogFormat,
    filter: reload::Layer<Targets, Registry>,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
    has_colours: bool,
) -> Dispatch {
    let lines = tracing_subscriber::fmt::layer().with_timer(SystemTime).with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(|metadata| !may_quote(metadata)));
    match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).into(),
        LogFormat::Text => registry.with(lines.with_ansi(has_colours)).into(),
    }
}

/// Of an answer that it cannot read kube's client logs the whole text, and that may be a Secret. No filter of a user
/// lets such lines pass; those of its other modules, and its errors, have no such text.
fn may_quote(metadata: &Metadata) -> bool {
    metadata.target() == "kube_client::client" && *metadata.level() > Level::ERROR
}

/// Why there are no log lines.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("{0:?} is no log filter: write a level such as \"info\", or \"info,nicplug::server=debug\"")]
    Filter(String, #[source] ParseError),
    /// A format that does not exist.
    #[error("{0:?} is no log format: write \"text\" or \"json\"")]
    Format(String),
    /// The program ends.
    #[error("there are no log lines any more: the program is about to end")]
    Gone,
    /// The program has a subscriber already.
    #[error("log lines go elsewhere already: call telemetry::init once")]
    Taken,
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

    /// Lines that pass a filter, and that filter.
    fn lines(wanted: &str) -> (Dispatch, LogFilter, Buffer) {
        let (filter, handle) = reload::Layer::new(parse(wanted).unwrap());
        let buffer = Buffer::default();
        let writer = buffer.clone();
        (dispatch(LogFormat::Text, filter, move || writer.clone(), false), LogFilter(handle), buffer)
    }

    #[test]
    fn a_format_is_read_as_it_is_written() {
        for format in [LogFormat::Json, LogFormat::Text] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("\"xml\""));
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_quoted() {
        let error = init(LogFormat::Text, "nicplug=loud").unwrap_err().to_string();
        assert!(error.contains("\"nicplug=loud\""), "{error}");
    }

    #[test]
    fn the_client_of_the_cluster_speaks_when_it_is_asked_to_and_never_of_what_it_could_not_read() {
        for (wanted, hears_error, hears_builder) in [
            ("trace", false, false),
            ("info,kube_client=off", false, false),
            ("off,kube_client=error", true, false),
            ("kube_client=trace", true, true),
            ("info,kube_client::client=trace", true, true),
            ("trace,kube_client::client=off", false, false),
        ] {
            let (dispatch, _filter, buffer) = lines(wanted);
            dispatcher::with_default(&dispatch, || {
                tracing::error!(target: "kube_client::client", "an error");
                tracing::debug!(target: "kube_client::client::builder", "a request");
                tracing::warn!(target: "kube_client::client", "a secret");
                tracing::debug!(target: "kube_client::client", "a secret");
                tracing::trace!(target: "kube_client::client", "a secret");
            });
            let text = buffer.take();
            assert_eq!(text.contains("an error"), hears_error, "{wanted}: {text}");
            assert_eq!(text.contains("a request"), hears_builder, "{wanted}: {text}");
            assert!(!text.contains("secret"), "{wanted}: {text}");
        }
    }

    #[test]
    fn a_filter_is_replaced_and_stays_when_the_next_one_cannot_be_read() {
        let (dispatch, filter, buffer) = lines("info");
        let heard = || {
            dispatcher::with_default(&dispatch, || tracing::debug!("hello"));
            !buffer.take().is_empty()
        };
        assert!(!heard());
        filter.set("info,nicplug::telemetry=debug").unwrap();
        assert!(heard());
        assert!(filter.set("nicplug=loud").is_err());
        assert!(heard());
        filter.set("info").unwrap();
        assert!(!heard());
    }
}
