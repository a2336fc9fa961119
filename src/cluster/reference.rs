//! What a VM names for KubeVirt to expand it with.

use crate::{
    api::vm::{Matcher, VirtualMachine},
    k8s::{kind::Kind, request::ObjectPath},
};

/// What a VM names, an instancetype or a preference, and where it is stored.
#[derive(Debug)]
pub(super) struct Reference<'r> {
    /// What the spec of the VM names.
    matcher: &'r Matcher<'r>,
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

    /// Returns the object; `None` if the VM names a kind that KubeVirt does not know.
    pub(super) fn object(&self, namespace: &str) -> Option<ObjectPath> {
        let [of_namespace, of_cluster] = self.kinds;
        let text = &*self.matcher.kind;
        let is_named = |kind: Kind| text.eq_ignore_ascii_case(kind.kind()) || text.eq_ignore_ascii_case(kind.plural());
        let name = &self.matcher.name;
        if text.is_empty() || is_named(of_cluster) {
            return Some(ObjectPath::one(of_cluster, "", name));
        }
        is_named(of_namespace).then(|| ObjectPath::one(of_namespace, namespace, name))
    }

    /// Returns the object, and the ControllerRevision that applies instead of it.
    pub(super) fn paths(&self, namespace: &str) -> impl Iterator<Item = ObjectPath> {
        let revision = Some(self.revision()).filter(|name| !name.is_empty());
        let revision = revision.map(|name| ObjectPath::one(Kind::Revision, namespace, name));
        self.object(namespace).into_iter().chain(revision)
    }
}
