//! What the program tells about itself while it runs: log lines on standard error.

use std::{fmt, io::IsTerminal, str::FromStr};

use tracing_subscriber::{EnvFilter, fmt::time::SystemTime, layer::SubscriberExt, util::SubscriberInitExt};

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

/// Sends log lines that pass a filter to standard error, from now on.
///
/// `wanted` is a level (`info`), or directives (`info,nicplug::server=debug`). The client of the cluster says nothing
/// unless a directive is about it: what it tells at each try, the watches tell once.
///
/// # Errors
/// The filter cannot be read, or something else receives the log lines already.
pub fn init(format: LogFormat, wanted: &str) -> Result<(), TelemetryError> {
    let client = if wanted.contains("kube_client") { "" } else { "kube_client=off," };
    // Of an answer that it cannot read kube logs the whole text as a warning, and that may be a Secret.
    let filter = format!("{wanted},{client}kube_client::client=error");
    let filter =
        EnvFilter::builder().parse(&filter).map_err(|source| TelemetryError::Filter(wanted.to_owned(), source))?;
    let lines = tracing_subscriber::fmt::layer().with_timer(SystemTime).with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
    }
    .map_err(|_| TelemetryError::Taken)
}

/// Why there are no log lines.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("{0:?} is no log filter: write a level such as \"info\", or \"info,nicplug::server=debug\"")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// A format that does not exist.
    #[error("{0:?} is no log format: write \"text\" or \"json\"")]
    Format(String),
    /// The program has a subscriber already.
    #[error("log lines go elsewhere already: call telemetry::init once")]
    Taken,
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
