//! The log line and the span of each decision.
//!
//! Both have the user, the object's name, the decision and the rules, and nothing else of the object. Names are
//! untrusted here, because the API server calls webhooks before it validates names: they are quoted, and cut if they
//! are too long.

use std::{
    cell::LazyCell,
    fmt::Write,
    time::{Duration, SystemTime},
};

use hyper::HeaderMap;
use tracing::Level;

use crate::{
    admission::{Decision, Endpoint, Evaluation, verdict::Verdict},
    api::review::Request,
    telemetry::spans::{Span, Spans, context::TraceContext},
};

/// The target of the log lines, for filters.
const TARGET: &str = "nicplug::decision";

/// The longest text of a field, in bytes: longer than any name or user that Kubernetes accepts.
const MAX_LENGTH: usize = 512;

/// The destination of a request's span, and its parent.
pub(super) struct Trace<'s> {
    spans: &'s Spans,
    parent: Option<TraceContext>,
}

impl<'s> Trace<'s> {
    /// Returns the trace of a request; `None` if its parent is not sampled, so that its span is not exported either.
    pub(super) fn of(spans: &'s Spans, headers: &HeaderMap) -> Option<Self> {
        let parent = headers.get(TraceContext::HEADER).and_then(|value| TraceContext::parse(value.as_bytes()));
        parent.is_none_or(|parent| parent.is_sampled).then_some(Self { spans, parent })
    }
}

/// Writes the decision and the time that it took to the log and to the trace.
pub(super) fn write(evaluation: &Evaluation, took: Duration, trace: Option<&Trace>) {
    // A decision that is neither logged nor traced costs nothing.
    let entry = LazyCell::new(|| LogEntry::of(evaluation));
    let (endpoint, decision) = (evaluation.endpoint(), evaluation.decision());
    log(endpoint, &entry, decision, took);
    if let Some(Trace { spans, parent }) = trace {
        spans.send(entry.span(endpoint, decision, took, *parent));
    }
}

/// Writes the log line. Requests that are allowed without a change or a warning are most, so they are logged at debug.
fn log(endpoint: Endpoint, entry: &LazyCell<LogEntry, impl FnOnce() -> LogEntry>, decision: Decision, took: Duration) {
    macro_rules! line {
        ($level:expr) => {
            if tracing::enabled!(target: TARGET, $level) {
                let LogEntry { uid, user, object, operation, rules } = &**entry;
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let (endpoint, decision) = (endpoint.as_str(), decision.as_str());
                tracing::event!(
                    target: TARGET, $level, uid, user, object, operation, endpoint, decision, rules, micros, "decided"
                );
            }
        };
    }
    match decision {
        Decision::Denied | Decision::Patched | Decision::Warned => line!(Level::INFO),
        Decision::Allowed | Decision::Malformed | Decision::Unhandled => line!(Level::DEBUG),
    }
}

/// The texts of a log line or span.
struct LogEntry {
    /// The UID of the request.
    uid: String,
    /// The user who made the request.
    user: String,
    /// The object: `KIND NAMESPACE/NAME`.
    object: String,
    /// The operation, and the subresource if there is one.
    operation: String,
    /// The ids of the rules that denied or warned.
    rules: String,
}

impl LogEntry {
    fn of(evaluation: &Evaluation) -> Self {
        let malformed = Request::default();
        let request = evaluation.request().unwrap_or(&malformed);
        let Verdict { denied_by, warned_by, .. } = evaluation.verdict();
        let ids: Vec<&str> = denied_by.union(*warned_by).ids().collect();
        Self {
            uid: cut(&request.uid).to_owned(),
            user: cut(&request.user_info.username).to_owned(),
            object: object(request),
            operation: operation(request),
            rules: ids.join(","),
        }
    }

    /// Returns a span that ends now.
    fn span(&self, endpoint: Endpoint, decision: Decision, took: Duration, parent: Option<TraceContext>) -> Span {
        let Self { uid, user, object, operation, rules } = self;
        let end = SystemTime::now();
        Span {
            name: endpoint.as_str(),
            parent,
            start: end.checked_sub(took).unwrap_or(end),
            end,
            attributes: vec![
                ("nicplug.uid", uid.clone()),
                ("nicplug.user", user.clone()),
                ("nicplug.object", object.clone()),
                ("nicplug.operation", operation.clone()),
                ("nicplug.endpoint", endpoint.as_str().to_owned()),
                ("nicplug.decision", decision.as_str().to_owned()),
                ("nicplug.rules", rules.clone()),
            ],
        }
    }
}

fn object(request: &Request) -> String {
    let mut object = cut(&request.kind.kind).to_owned();
    object.push(' ');
    if !request.namespace.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(object, "{}/", cut(&request.namespace));
    }
    object.push_str(cut(&request.name));
    object
}

fn operation(request: &Request) -> String {
    let mut operation = request.operation.as_str().to_owned();
    if !request.sub_resource.is_empty() {
        let _ = write!(operation, " {}", cut(&request.sub_resource));
    }
    operation
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_LENGTH)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{Evaluator, parse},
        facts::NoFacts,
        settings::Settings,
    };

    #[test]
    fn an_entry_has_the_user_the_object_and_the_rules() {
        let body = br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u-1",
            "operation": "CREATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"}, "namespace": "demo",
            "name": "vm", "subResource": "", "userInfo": {"username": "alice"}, "object": {"spec": {"template": {"spec":
            {"networks": [{"name": "a", "pod": {}}, {"name": "a", "pod": {}}]}}}}}}"#;
        let settings = Settings::default();
        let of =
            |body: &[u8]| LogEntry::of(&Evaluator::new(&NoFacts, &settings).evaluate(Endpoint::Validate, &parse(body)));
        let LogEntry { uid, user, object, operation, rules } = of(body);
        assert_eq!([uid.as_str(), &user, &object, &operation], ["u-1", "alice", "VirtualMachine demo/vm", "CREATE"]);
        assert!(rules.contains("NP001"), "{rules}");
        let malformed = of(b"{");
        assert_eq!((malformed.uid.as_str(), malformed.operation.as_str()), ("", "other"));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("vm"), "vm");
        assert_eq!(cut(&"é".repeat(MAX_LENGTH)).len(), MAX_LENGTH);
        assert_eq!(cut(&format!("x{}", "é".repeat(MAX_LENGTH))).len(), MAX_LENGTH - 1);
    }
}
