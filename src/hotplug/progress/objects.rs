//! Reads the fields of KubeVirt's objects that show the progress. A field of another type counts as missing.

use serde_json::Value;

/// The maximum length of a quoted message, in characters.
const MAX_QUOTED: usize = 200;

/// Returns what the last migration failed of, in parentheses.
pub(in crate::hotplug) fn failed_migration(vmi: &Value) -> String {
    let state = vmi.pointer("/status/migrationState");
    let has_failed = state.and_then(|state| state.get("failed")).and_then(Value::as_bool) == Some(true);
    let reason = text(vmi, "/status/migrationState/failureReason");
    if has_failed { format!("; the last one failed{}", quoted(reason)) } else { String::new() }
}

/// Returns how a guest ends or has ended, if it does.
pub(in crate::hotplug) fn end_of(vmi: &Value) -> Option<String> {
    if vmi.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Some("is being stopped".to_owned());
    }
    let phase = text(vmi, "/status/phase");
    matches!(phase, "Succeeded" | "Failed").then(|| format!("has ended ({phase})"))
}

/// Whether a guest's spec has interface and network of a NIC, and not with `state: absent`.
pub(in crate::hotplug) fn has_nic(guest: Option<&Value>, nic: &str) -> bool {
    let Some(guest) = guest else { return false };
    let interfaces = list(guest, "/domain/devices/interfaces");
    let is_present = |interface: &Value| name_is(interface, nic) && text(interface, "/state") != "absent";
    interfaces.iter().any(is_present) && list(guest, "/networks").iter().any(|network| name_is(network, nic))
}

/// Whether the guest still has the NIC. An entry without a source comes from a KubeVirt that reported only the domain.
pub(in crate::hotplug) fn is_in_domain(entry: &Value) -> bool {
    text(entry, "/infoSource").is_empty() || is_reported_by(entry, "domain")
}

/// Whether this source reports the NIC.
pub(in crate::hotplug) fn is_reported_by(entry: &Value, source: &str) -> bool {
    text(entry, "/infoSource").split(',').any(|reported| reported.trim() == source)
}

/// Returns the name of the NIC in the guest.
pub(in crate::hotplug) fn interface_in_guest(entry: Option<&Value>) -> String {
    let name = entry.map(|entry| text(entry, "/interfaceName")).unwrap_or_default();
    if name.is_empty() { "the guest has it".to_owned() } else { format!("the guest has it as {name:?}") }
}

/// Whether a pod runs or will run.
pub(in crate::hotplug) fn is_alive(pod: &Value) -> bool {
    let is_deleted = pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    !is_deleted && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Returns the status of a condition, and its message; its reason if the message is empty.
pub(in crate::hotplug) fn condition<'v>(object: &'v Value, kind: &str) -> Option<(&'v str, &'v str)> {
    let condition = list(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind)?;
    let message = text(condition, "/message");
    let why = if message.is_empty() { text(condition, "/reason") } else { message };
    Some((text(condition, "/status"), why))
}

/// Adds KubeVirt's error, if it cannot synchronize the guest.
pub(in crate::hotplug) fn with_sync_error(reason: &str, vmi: &Value) -> String {
    match condition(vmi, "Synchronized") {
        Some(("False", why)) if !why.is_empty() => format!("{reason}; KubeVirt reports{}", quoted(why)),
        _ => reason.to_owned(),
    }
}

/// Returns ` (text)`, on one line and cut to a maximum length; empty for an empty text.
pub(in crate::hotplug) fn quoted(why: &str) -> String {
    let line: String = why.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    match line.trim() {
        "" => String::new(),
        line if line.chars().count() <= MAX_QUOTED => format!(" ({line})"),
        line => format!(" ({}…)", line.chars().take(MAX_QUOTED).collect::<String>().trim_end()),
    }
}

pub(in crate::hotplug) fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(in crate::hotplug) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(in crate::hotplug) fn name_of(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(in crate::hotplug) fn name_is(entry: &Value, name: &str) -> bool {
    text(entry, "/name") == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_and_stays_on_one_line() {
        let quoted = quoted(&"x\n".repeat(300));
        assert!(quoted.chars().count() <= MAX_QUOTED + 5, "{quoted}");
        assert!(!quoted.contains('\n'));
    }
}
