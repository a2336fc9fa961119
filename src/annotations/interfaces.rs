//! Requests by annotation: `nicplug.io/add-interfaces` and `nicplug.io/remove-interfaces` on a VirtualMachine.
//!
//! A request counts only in the update that sets it: an annotation that an earlier update stored must not block later
//! changes of the VM. A request is applied as a whole or not at all, and only the VM decides that. Whether a NIC can be
//! plugged is checked by the rules, as for any other NIC.

mod parse;
pub mod status;

use std::str::FromStr;

pub use self::parse::{Addition, Additions, Removals, RequestSyntaxError, check_addition, check_removal, parse_names};
use crate::{
    api::{metadata::Annotations, network::NadRef, quote::quote},
    change::{Change, Nic, ObjectView},
};

/// The name of the NIC that KubeVirt gives to a guest without any.
pub const DEFAULT_NIC: &str = "default";

/// The two kinds of requests, each with its annotation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestKind {
    /// `nicplug.io/add-interfaces`.
    Add,
    /// `nicplug.io/remove-interfaces`.
    Remove,
}

impl RequestKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Add, Self::Remove];

    /// Returns the key of the annotation.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Add => "nicplug.io/add-interfaces",
            Self::Remove => "nicplug.io/remove-interfaces",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }

    fn text<'r>(self, annotations: &'r Annotations<'r>) -> Option<&'r str> {
        match self {
            Self::Add => annotations.add_interfaces.as_deref(),
            Self::Remove => annotations.remove_interfaces.as_deref(),
        }
    }
}

/// The changes of a VM that its annotations request, if they can be applied.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct InterfaceChanges<'r> {
    /// The kinds of the annotations that the update sets.
    pub requests: Vec<RequestKind>,
    /// NICs that the template does not have yet.
    pub add: Vec<Addition>,
    /// Names of NICs to add again, which the template has with `state: absent`.
    pub restore: Vec<&'r str>,
    /// Names of NICs to remove from the template.
    pub remove: Vec<&'r str>,
}

/// A request that cannot be applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RejectedRequest {
    /// The kind, and so the annotation.
    pub kind: RequestKind,
    /// What is wrong with it.
    pub error: RequestError,
}

/// What is wrong with a request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// Its text is malformed.
    #[error(transparent)]
    Malformed(RequestSyntaxError),
    /// Another NIC has the name.
    #[error("{name} already exists, {existing}", name = quote(.name))]
    NameInUse {
        /// The name.
        name: String,
        /// Describes the NIC that has the name.
        existing: String,
    },
    /// The same update adds and removes the name.
    #[error("{} is also in nicplug.io/remove-interfaces", quote(.0))]
    AddedAndRemoved(String),
    /// The VM has no domain that NICs could be added to.
    #[error("spec.template.spec.domain is missing")]
    NoDomain,
}

impl RequestError {
    /// Returns the error for a NIC with the name of KubeVirt's default NIC.
    fn default_nic() -> Self {
        let existing = "on the pod network: KubeVirt gives it to a VM without NICs".to_owned();
        Self::NameInUse { name: DEFAULT_NIC.to_owned(), existing }
    }
}

/// Returns the requests that an earlier update stored and that the change keeps as they are.
pub fn stale_requests(change: &Change) -> impl Iterator<Item = RequestKind> {
    let is_stale = |kind: &RequestKind| text_of(&change.after, *kind).is_some() && new_text(change, *kind).is_none();
    RequestKind::ALL.into_iter().filter(is_stale)
}

/// Returns what the annotations that a change of a VM sets request; nothing if it sets none.
///
/// # Errors
/// All requests that cannot be applied; then none of them is.
pub fn requested_changes<'r>(change: &Change<'r>) -> Result<InterfaceChanges<'r>, Vec<RejectedRequest>> {
    let mut changes = InterfaceChanges::default();
    if !change.requests_nics() {
        return Ok(changes);
    }
    let mut rejected = Vec::new();
    let additions: Option<Additions> = parse(change, RequestKind::Add, &mut changes, &mut rejected);
    let removals: Option<Removals> = parse(change, RequestKind::Remove, &mut changes, &mut rejected);
    if !changes.requests.is_empty() && !change.after.guest.domain.is_present {
        let no_domain = |&kind: &RequestKind| RejectedRequest { kind, error: RequestError::NoDomain };
        rejected.extend(changes.requests.iter().map(no_domain));
        return Err(rejected);
    }
    let nics = change.after.nics();
    for addition in additions.iter().flat_map(Additions::iter) {
        let is_removed_too = removals.iter().flat_map(Removals::iter).any(|name| name == addition.name);
        let nic = nics.get(addition.name.as_str());
        let error = if is_removed_too {
            Some(RequestError::AddedAndRemoved(addition.name.clone()))
        } else if addition.name == DEFAULT_NIC && change.after.guest.gets_default_nic() {
            Some(RequestError::default_nic())
        } else {
            nic.and_then(|nic| conflict(nic, addition, change.subject.namespace))
        };
        match (error, nic) {
            (Some(error), _) => rejected.push(RejectedRequest { kind: RequestKind::Add, error }),
            (None, Some(nic)) if nic.is_absent() => changes.restore.push(nic.name),
            (None, Some(_)) => {}
            (None, None) => changes.add.push(addition.clone()),
        }
    }
    let removed = removals.iter().flat_map(Removals::iter).filter_map(|name| nics.get(name));
    changes.remove = removed.map(|nic| nic.name).collect();
    if rejected.is_empty() { Ok(changes) } else { Err(rejected) }
}

/// Parses an annotation that the change sets.
fn parse<T: FromStr<Err = RequestSyntaxError>>(
    change: &Change,
    kind: RequestKind,
    changes: &mut InterfaceChanges,
    rejected: &mut Vec<RejectedRequest>,
) -> Option<T> {
    let text = new_text(change, kind)?;
    changes.requests.push(kind);
    match text.parse() {
        Ok(request) => Some(request),
        Err(error) => {
            rejected.push(RejectedRequest { kind, error: RequestError::Malformed(error) });
            None
        }
    }
}

/// Returns the text of an annotation that the change adds or modifies.
fn new_text<'r>(change: &Change<'r>, kind: RequestKind) -> Option<&'r str> {
    let before = change.before.and_then(|before| text_of(&before, kind));
    text_of(&change.after, kind).filter(|text| before != Some(text))
}

fn text_of<'r>(view: &ObjectView<'r>, kind: RequestKind) -> Option<&'r str> {
    view.annotation(|annotations| kind.text(annotations))
}

/// Returns an error if a NIC is not the one to add. A request does not name the binding, so that may differ.
fn conflict(nic: &Nic, addition: &Addition, namespace: &str) -> Option<RequestError> {
    let existing = match (nic.interface, nic.network) {
        (Some(_), None) => "without its network".to_owned(),
        (None, Some(_)) => "without its interface".to_owned(),
        _ => match nic.network_name() {
            None => "without a NetworkAttachmentDefinition".to_owned(),
            Some(network) if NadRef::parse(network, namespace) == NadRef::parse(&addition.network_name, namespace) => {
                return None;
            }
            Some(network) => format!("on network {network}", network = quote(network)),
        },
    };
    Some(RequestError::NameInUse { name: addition.name.clone(), existing })
}
