//! What a VM names for KubeVirt to expand it with.

use crate::{
    api::vm::{Matcher, VirtualMachine},
    k8s::{kind::Kind, request::ObjectPath},
};

/// What a VM names, an instancetype or a preference, and where it is stored.
#[derive(Debug)]
pub(super) struct Reference<'r> {
    /// What the spec of the VM names.
    pub(super) matcher: &'r Matcher<'r>,
    /// The kinds of the object: of a namespace, and of the cluster.
    kinds: [Kind; 2],
    /// `controllerRevisionRef.name` of the status; empty if there is none.
    stored: Box<str>,
}

impl<'r> Reference<'r> {
    /// Returns the references of a VM to its instancetype and its preference.
    pub(super) fn both(vm: &'r VirtualMachine<'r>) -> [Option<Self>; 2] {
        let (spec, status) = (&vm.spec, &vm.status);
        let instancetype = [Kind::Instancetype, Kind::ClusterInstancetype];
        let preference = [Kind::Preference, Kind::ClusterPreference];
        [
            (&spec.instancetype, &status.instancetype_ref, instancetype),
            (&spec.preference, &status.preference_ref, preference),
        ]
        .map(|(matcher, stored, kinds)| {
            let matcher = matcher.as_ref()?;
            let stored = stored.read().ok().flatten().unwrap_or_default();
            Some(Self { matcher, kinds, stored: stored.controller_revision_ref.name.as_str().into() })
        })
    }

    /// Returns the name of the ControllerRevision that applies instead of the object; empty if there is none.
    pub(super) fn revision(&self) -> &str {
        let of_spec = self.matcher.revision_name.as_str();
        if of_spec.is_empty() { &self.stored } else { of_spec }
    }

    /// Whether a ControllerRevision of an object with this name applies. The one of the status does not if the VM names
    /// another object meanwhile.
    pub(super) fn accepts(&self, object: &str) -> bool {
        !self.matcher.revision_name.is_empty() || object == self.matcher.name.as_str()
    }

    /// Returns the kind of the object; `None` if the VM names a kind that KubeVirt does not know.
    pub(super) fn kind(&self) -> Option<Kind> {
        let [_, of_cluster] = self.kinds;
        let text = &*self.matcher.kind;
        if text.is_empty() {
            return Some(of_cluster);
        }
        let is_named = |kind: &Kind| text.eq_ignore_ascii_case(kind.kind()) || text.eq_ignore_ascii_case(kind.plural());
        self.kinds.into_iter().find(is_named)
    }

    /// Returns the object, and the ControllerRevision that applies instead of it.
    pub(super) fn paths(&self, namespace: &str) -> Vec<ObjectPath> {
        let [_, of_cluster] = self.kinds;
        let object = self
            .kind()
            .map(|kind| ObjectPath::one(kind, if kind == of_cluster { "" } else { namespace }, &self.matcher.name));
        let revision = Some(self.revision()).filter(|name| !name.is_empty());
        object.into_iter().chain(revision.map(|name| ObjectPath::one(Kind::Revision, namespace, name))).collect()
    }
}
