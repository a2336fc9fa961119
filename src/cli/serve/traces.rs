//! The spans of `serve`: the flag, the task that exports them, and its end.

use clap::Args;
use tokio::{sync::oneshot, task::JoinHandle};

use super::replica::{environment, identity};
use crate::telemetry::spans::{self, Collector, CollectorError, Spans};

/// The flag that enables the export of spans.
#[derive(Args, Debug)]
pub(super) struct TraceArgs {
    /// Base URL of an OpenTelemetry collector that accepts OTLP over HTTP, such as http://collector.monitoring:4318.
    /// nicplug sends a span of each request to /v1/traces, as a child of the span that the API server names in the
    /// header traceparent. If the collector is slow or unavailable, spans are dropped; no response waits for it.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", help_heading = "Traces")]
    otlp_endpoint: Option<String>,
}

impl TraceArgs {
    /// Returns the collector, if one is given. An empty variable is the same as none.
    pub(super) fn collector(&self) -> Result<Option<Collector>, CollectorError> {
        self.otlp_endpoint.as_deref().filter(|url| !url.is_empty()).map(str::parse).transpose()
    }
}

/// A running export of spans.
pub(super) struct SpanExport {
    spans: Spans,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Starts the export; needs a runtime.
pub(super) fn start(collector: Collector) -> SpanExport {
    let (spans, exporter) = spans::queue(collector, resource_attributes());
    let (stop, stop_requested) = oneshot::channel();
    let task = tokio::spawn(exporter.run(async {
        // A dropped sender requests the end too.
        let _ = stop_requested.await;
    }));
    SpanExport { spans, stop, task }
}

/// Returns the resource attributes of this replica, by OpenTelemetry's semantic conventions.
fn resource_attributes() -> Vec<(&'static str, String)> {
    let mut attributes = vec![
        ("service.name", "nicplug".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", identity()),
    ];
    for (key, variable) in [("k8s.namespace.name", "POD_NAMESPACE"), ("k8s.pod.name", "POD_NAME")] {
        attributes.extend(environment(variable).map(|value| (key, value)));
    }
    attributes
}

impl SpanExport {
    /// Returns the queue that a server writes its spans to.
    pub(super) fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Sends the remaining spans, if the collector accepts them soon, and ends the export.
    pub(super) async fn finish(self) {
        // If the receiver is gone, the task has ended already.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_exports_nothing_and_an_invalid_url_is_refused() {
        let collector = |url: &str| TraceArgs { otlp_endpoint: Some(url.to_owned()) }.collector();
        assert_eq!(collector("").unwrap(), None);
        assert!(collector("http://collector:4318").unwrap().is_some());
        assert!(collector("collector").unwrap_err().to_string().contains("\"collector\""));
    }
}
