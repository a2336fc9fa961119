//! The keys that begin with `nicplug.io/`: those that nicplug reads, and those that look like one of them.

use crate::{
    api::{
        Text,
        metadata::{Metadata, PREFIX},
        quote::{cut, quote},
        review::ObjectKind,
    },
    change::{Change, ObjectView},
    settings::overrides::ANNOTATION,
};

/// The keys that nicplug reads, on any object.
const KEYS: [&str; 8] = [
    "add-interfaces",
    "remove-interfaces",
    "apply",
    "persist",
    "reserve-ports",
    "unplug",
    "boot-slots",
    // On a Namespace.
    "rules",
];

/// The only value of `nicplug.io/apply`.
pub const ON_RESTART: &str = "on-restart";

/// The most characters of a key or a value in a message.
const MAX_EXCERPT: usize = 36;

/// An annotation without effect that a change writes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Written {
    /// The path of the annotation.
    pub field: String,
    /// What is wrong.
    pub what: String,
    /// How to fix it, if that is known.
    pub fix: Option<String>,
}

/// Returns the annotations without effect that a change writes on a VM, its template, or a VMI.
#[must_use]
pub fn without_effect(change: &Change) -> Vec<Written> {
    if !matches!(change.subject.kind, ObjectKind::Vm | ObjectKind::Vmi) || change.requests.is_some() {
        return Vec::new();
    }
    let (before, after) = (change.before, change.after);
    let mut written: Vec<Written> =
        new_keys(before.map(|view| view.metadata), after.metadata).map(|key| unknown("metadata", key)).collect();
    if after.vmi.is_none() {
        let of_template = new_keys(before.map(|view| view.guest_metadata), after.guest_metadata);
        written.extend(of_template.map(|key| unknown("spec.template.metadata", key)));
    }
    written.extend(new_apply(change));
    written
}

/// Returns the unknown keys that only the new object has.
fn new_keys<'r>(before: Option<&'r Metadata<'r>>, after: &'r Metadata<'r>) -> impl Iterator<Item = &'r str> {
    let keys = |metadata: &'r Metadata<'r>| metadata.annotations.iter().flat_map(|known| known.unknown.as_slice());
    let was_there = move |key: &str| before.is_some_and(|before| keys(before).any(|known| known.as_str() == key));
    keys(after).map(Text::as_str).filter(move |key| !was_there(key))
}

fn unknown(parent: &str, key: &str) -> Written {
    let shown = cut(key, MAX_EXCERPT);
    Written {
        field: format!("{parent}.annotations[{shown}]"),
        what: format!("annotation {shown} has no effect"),
        fix: if key == ANNOTATION {
            Some("set it on the Namespace".to_owned())
        } else {
            similar(key).map(|known| format!("write {PREFIX}{known}"))
        },
    }
}

/// Returns the annotation `nicplug.io/apply` if a change gives it a value that is not [`ON_RESTART`].
fn new_apply(change: &Change) -> Option<Written> {
    let text = apply(&change.after).filter(|text| *text != ON_RESTART)?;
    if change.before.as_ref().and_then(apply) == Some(text) {
        return None;
    }
    Some(Written {
        field: format!("metadata.annotations[{PREFIX}apply]"),
        what: format!("{PREFIX}apply {} has no effect", quote(text)),
        fix: Some(format!("write {ON_RESTART}")),
    })
}

fn apply<'r>(view: &ObjectView<'r>) -> Option<&'r str> {
    view.annotation(|annotations| annotations.apply.as_deref())
}

/// Returns the known key that an unknown one resembles: at most a third of its letters differ.
fn similar(key: &str) -> Option<&'static str> {
    let name = cut(key.strip_prefix(PREFIX)?, MAX_EXCERPT).to_ascii_lowercase();
    let distances = KEYS.iter().map(|&known| (strsim::osa_distance(&name, known), known));
    let (distance, known) = distances.min()?;
    (distance <= known.len() / 3).then_some(known)
}
