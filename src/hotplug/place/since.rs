//! Times at which a NIC was at its place already, from the metadata of the objects.
//!
//! The API server records when a client last wrote its fields. A NIC can be older than that, and is never younger than
//! the last write of its list, so each time here is the end of a span.

use serde_json::Value;

use super::{list, text};

/// Returns the newest time at which a client wrote the list at these keys, such as `spec`, `networks`.
pub(super) fn last_write(object: &Value, path: &[&str]) -> Option<String> {
    let owns = |entry: &&Value| {
        let mut fields = entry.get("fieldsV1");
        for key in path {
            fields = fields.and_then(|fields| fields.get(format!("f:{key}")));
        }
        fields.is_some()
    };
    let times = list(object, "/metadata/managedFields").iter().filter(owns).map(|entry| text(entry, "/time"));
    times.filter(|time| !time.is_empty()).max().map(str::to_owned)
}

/// Returns when a condition last changed.
pub(super) fn condition_time(object: &Value, kind: &str) -> Option<String> {
    let condition = list(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind)?;
    Some(text(condition, "/lastTransitionTime").to_owned()).filter(|time| !time.is_empty())
}

/// Returns when the guest began to run.
pub(super) fn start(vmi: &Value) -> Option<String> {
    let times = list(vmi, "/status/phaseTransitionTimestamps").iter();
    let mut running = times.filter(|time| text(time, "/phase") == "Running");
    let time = text(running.next()?, "/phaseTransitionTimestamp").to_owned();
    Some(time).filter(|time| !time.is_empty())
}
