//! Requests by annotation: `nicplug.io/add-interfaces` and `nicplug.io/remove-interfaces` on a VirtualMachine.
//!
//! A request counts in the update that sets it, and in no later one: what somebody left behind must not stand in the way
//! of whoever changes the VM next. It is granted as a whole or not at all, by the VM alone: whether a NIC can be plugged
//! is for the rules to say, as of any other NIC.

mod parse;
pub mod status;

use std::str::FromStr;

pub use self::parse::{Addition, Additions, Malformed, Removals, check_addition, check_removal, names};
use crate::{
    api::{metadata::Annotations, network::NadRef},
    change::{Change, Nic, ObjectView},
};

/// What KubeVirt calls the NIC that it gives to a guest without any.
pub const DEFAULT_NIC: &str = "default";

/// The two annotations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `nicplug.io/add-interfaces`.
    Add,
    /// `nicplug.io/remove-interfaces`.
    Remove,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Add, Self::Remove];

    /// The key of the annotation.
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

/// What a change asks for and the VM can be given.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Plan<'r> {
    /// The annotations that the change sets.
    pub asked: Vec<Kind>,
    /// NICs that the template does not have.
    pub add: Vec<Addition>,
    /// Names of NICs that the template has with `state: absent`, and that are wanted back.
    pub restore: Vec<&'r str>,
    /// Names of NICs that the template has, and that are to go.
    pub remove: Vec<&'r str>,
}

/// Why a request cannot be granted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The annotation.
    pub kind: Kind,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Why {
    /// It cannot be read.
    #[error(transparent)]
    Malformed(Malformed),
    /// The name is there already, and is another NIC.
    #[error("{name:?} is there already, {what}")]
    Taken {
        /// The name.
        name: String,
        /// What the NIC of that name is.
        what: String,
    },
    /// The same update adds and removes the name.
    #[error("{0:?} is in nicplug.io/remove-interfaces too")]
    Contradiction(String),
    /// There is no place in the object to write to.
    #[error("spec.template.spec.domain is missing")]
    NoDomain,
}

impl Why {
    /// The name of the NIC that KubeVirt gives to a VM without any.
    fn of_default_nic() -> Self {
        let what = "on the pod network: KubeVirt gives it to a VM without NICs".to_owned();
        Self::Taken { name: DEFAULT_NIC.to_owned(), what }
    }
}

/// The requests that a change leaves as they were: annotations that it does not set, but has.
pub fn left_behind(change: &Change) -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| written(&change.after, *kind).is_some() && set_by(change, *kind).is_none())
}

/// What the annotations that a change of a VM sets come to; an empty plan when it sets none.
///
/// # Errors
/// All that stands against it; then nothing of it is done.
pub fn plan<'r>(change: &Change<'r>) -> Result<Plan<'r>, Vec<Refusal>> {
    let mut plan = Plan::default();
    if !change.requests_nics() {
        return Ok(plan);
    }
    let mut refusals = Vec::new();
    let additions: Option<Additions> = read(change, Kind::Add, &mut plan, &mut refusals);
    let removals: Option<Removals> = read(change, Kind::Remove, &mut plan, &mut refusals);
    if !plan.asked.is_empty() && !change.after.guest.domain.is_present {
        refusals.extend(plan.asked.iter().map(|&kind| Refusal { kind, why: Why::NoDomain }));
        return Err(refusals);
    }
    let nics = change.after.nics();
    for addition in additions.iter().flat_map(Additions::iter) {
        let is_contradicted = removals.iter().flat_map(Removals::iter).any(|name| name == addition.name);
        let nic = nics.get(addition.name.as_str());
        let why = if is_contradicted {
            Some(Why::Contradiction(addition.name.clone()))
        } else if addition.name == DEFAULT_NIC && change.after.guest.gets_default_nic() {
            Some(Why::of_default_nic())
        } else {
            nic.and_then(|nic| difference(nic, addition, change.subject.namespace))
        };
        match (why, nic) {
            (Some(why), _) => refusals.push(Refusal { kind: Kind::Add, why }),
            (None, Some(nic)) if nic.is_absent() => plan.restore.push(nic.name),
            (None, Some(_)) => {}
            (None, None) => plan.add.push(addition.clone()),
        }
    }
    let leaving = removals.iter().flat_map(Removals::iter).filter_map(|name| nics.get(name));
    plan.remove = leaving.map(|nic| nic.name).collect();
    if refusals.is_empty() { Ok(plan) } else { Err(refusals) }
}

/// Reads an annotation that the change sets.
fn read<T: FromStr<Err = Malformed>>(
    change: &Change,
    kind: Kind,
    plan: &mut Plan,
    refusals: &mut Vec<Refusal>,
) -> Option<T> {
    let text = set_by(change, kind)?;
    plan.asked.push(kind);
    match text.parse() {
        Ok(request) => Some(request),
        Err(malformed) => {
            refusals.push(Refusal { kind, why: Why::Malformed(malformed) });
            None
        }
    }
}

/// The text of an annotation that the change makes or changes.
fn set_by<'r>(change: &Change<'r>, kind: Kind) -> Option<&'r str> {
    let before = change.before.and_then(|before| written(&before, kind));
    written(&change.after, kind).filter(|text| before != Some(text))
}

fn written<'r>(view: &ObjectView<'r>, kind: Kind) -> Option<&'r str> {
    view.annotation(|annotations| kind.text(annotations))
}

/// In what a NIC is another one than what is asked for; how it is bound is not asked.
fn difference(nic: &Nic, addition: &Addition, namespace: &str) -> Option<Why> {
    let what = match (nic.interface, nic.network) {
        (Some(_), None) => "without its network".to_owned(),
        (None, Some(_)) => "without its interface".to_owned(),
        _ => match nic.network_name() {
            None => "on no network of a NetworkAttachmentDefinition".to_owned(),
            Some(there) if NadRef::parse(there, namespace) == NadRef::parse(&addition.network_name, namespace) => {
                return None;
            }
            Some(there) => format!("on network {there:?}"),
        },
    };
    Some(Why::Taken { name: addition.name.clone(), what })
}
