//! Warnings of other programs about a NIC, from Events.

use serde_json::Value;

use super::{
    super::progress::objects::{is_alive, name_of, quoted, text},
    GuestView,
};

/// The reason of the Event about a NIC that has not reached the guest, which the server writes.
const PENDING_EVENT: &str = "InterfacePending";

/// Returns the newest warning about the NIC, as a part of a sentence: one that names it, one about a pod or a migration
/// of the guest that is on its way, or one about the guest that virt-handler cannot synchronize.
pub(super) fn warning(observed: &GuestView, nic: &str, pod_interface: &str, since: Option<&str>) -> Option<String> {
    let events = observed.around.events?;
    let is_recent = |event: &&Value| since.is_none_or(|since| time_of(event) >= since);
    let about = events.iter().filter(|event| is_about(observed, event, nic, pod_interface)).filter(is_recent);
    let event = about.max_by_key(|event| time_of(event))?;
    let (reason, object) = (text(event, "/reason"), text(event, "/involvedObject/kind"));
    let (name, message) = (text(event, "/involvedObject/name"), text(event, "/message"));
    Some(format!("Event {reason} of {object} {name:?}{}", quoted(message)))
}

fn is_about(observed: &GuestView, event: &Value, nic: &str, pod_interface: &str) -> bool {
    let guest = observed.snapshot.vmi.or(observed.snapshot.vm).map(name_of).unwrap_or_default();
    let (kind, name) = (text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    let message = text(event, "/message");
    let names_it = || message.contains(&format!("{nic:?}")) || message.contains(pod_interface);
    match kind {
        // The server's Event about the same NIC only repeats the reason.
        "VirtualMachine" => name == guest && names_it() && text(event, "/reason") != PENDING_EVENT,
        "VirtualMachineInstance" => name == guest && (names_it() || text(event, "/reason") == "SyncFailed"),
        "Pod" => pod(observed, name).is_some_and(|pod| names_it() || text(pod, "/status/phase") == "Pending"),
        "VirtualMachineInstanceMigration" => is_migration_of(observed, name, guest),
        _ => false,
    }
}

fn pod<'o>(observed: &'o GuestView, name: &str) -> Option<&'o Value> {
    observed.snapshot.pods?.iter().find(|pod| name_of(pod) == name && is_alive(pod))
}

fn is_migration_of(observed: &GuestView, name: &str, guest: &str) -> bool {
    let migrations = observed.snapshot.migrations.unwrap_or_default();
    migrations.iter().any(|migration| name_of(migration) == name && text(migration, "/spec/vmiName") == guest)
}

/// Returns when an Event was last observed, in RFC 3339.
fn time_of(event: &Value) -> &str {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    times.into_iter().map(|pointer| text(event, pointer)).find(|time| !time.is_empty()).unwrap_or_default()
}
