//! What is told of each decision: one line of the log, and one span where a collector takes them.
//!
//! Who has been answered what, and by which rules; nothing of the object but its name. Names are the words of strangers
//! here, since the API server asks before it has checked them: they are quoted, and cut where no name is as long.

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

/// What a filter of log lines names decisions by.
const TARGET: &str = "nicplug::decision";

/// More bytes than any name or user has that Kubernetes accepts.
const LONGEST: usize = 512;

/// Where the span of a request goes.
pub(super) struct Trace<'s> {
    spans: &'s Spans,
    parent: Option<TraceContext>,
}

impl<'s> Trace<'s> {
    /// Whose part a request is; `None` where its parent is not exported, and so it is not either.
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

/// Plainly allowed are most, and they are seldom of interest.
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

/// A decision, in words.
struct LogEntry {
    /// Of the request.
    uid: String,
    /// Who made it.
    user: String,
    /// What it is about: `KIND NAMESPACE/NAME`.
    object: String,
    /// What was to be done with it, and with which part of it.
    operation: String,
    /// The rules that denied or warned.
    rules: String,
}

impl LogEntry {
    fn of(evaluation: &Evaluation) -> Self {
        let malformed = Request::default();
        let request = evaluation.request().unwrap_or(&malformed);
        let Verdict { denied_by, warned_by, .. } = evaluation.verdict();
        let ids: Vec<&str> = denied_by.and(*warned_by).ids().collect();
        Self {
            uid: cut(&request.uid).to_owned(),
            user: cut(&request.user_info.username).to_owned(),
            object: object(request),
            operation: operation(request),
            rules: ids.join(","),
        }
    }

    /// The same as a span that ends now.
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
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or(text)
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
    fn a_decision_says_who_asked_for_what_and_which_rules_spoke() {
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
    fn what_no_name_is_as_long_as_is_cut_between_letters() {
        assert_eq!(cut("vm"), "vm");
        assert_eq!(cut(&"é".repeat(LONGEST)).len(), LONGEST);
        assert_eq!(cut(&format!("x{}", "é".repeat(LONGEST))).len(), LONGEST - 1);
    }
}
