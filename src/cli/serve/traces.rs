//! The spans of `serve`: the flag, the task that exports them, and its end.

use clap::Args;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{environment, identity};
use crate::telemetry::spans::{self, Collector, CollectorError, Spans};

/// Whether a span of each request is exported, and where to.
#[derive(Args, Debug)]
pub(super) struct TraceArgs {
    /// The address of a collector of OpenTelemetry that takes OTLP over HTTP, such as http://collector.monitoring:4318: a
    /// span of each request is sent to its /v1/traces, as a child of the one that the API server names in the header
    /// traceparent. Off unless given. A collector that is slow or away costs spans, and no answer waits for it.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", help_heading = "Traces")]
    otlp_endpoint: Option<String>,
}

impl TraceArgs {
    /// Who takes the spans, if anybody. An empty variable is as good as none.
    pub(super) fn collector(&self) -> Result<Option<Collector>, CollectorError> {
        self.otlp_endpoint.as_deref().filter(|url| !url.is_empty()).map(str::parse).transpose()
    }
}

/// The export, under way.
pub(super) struct Exporting {
    spans: Spans,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Begins to export; needs a runtime.
pub(super) fn start(collector: Collector) -> Exporting {
    let (spans, exporter) = spans::queue(collector, about());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(exporter.run(async {
        // The end of the sender is a sign too.
        let _ = stopped.await;
    }));
    Exporting { spans, stop, task }
}

/// What the spans tell of this replica, by the names that OpenTelemetry gives such things.
fn about() -> Vec<(&'static str, String)> {
    let mut about = vec![
        ("service.name", "nicplug".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", identity()),
    ];
    for (key, variable) in [("k8s.namespace.name", "POD_NAMESPACE"), ("k8s.pod.name", "POD_NAME")] {
        about.extend(environment(variable).map(|value| (key, value)));
    }
    about
}

impl Exporting {
    /// Where a server puts its spans.
    pub(super) fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Sends what is left, if that is quickly done.
    pub(super) async fn ended(self) {
        // It has ended already if nobody listens.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_exports_nothing_and_a_wrong_one_is_refused() {
        let collector = |url: &str| TraceArgs { otlp_endpoint: Some(url.to_owned()) }.collector();
        assert_eq!(collector("").unwrap(), None);
        assert!(collector("http://collector:4318").unwrap().is_some());
        assert!(collector("collector").unwrap_err().to_string().contains("\"collector\""));
    }
}
