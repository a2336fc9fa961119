//! `metadata` of the objects that a request carries.

use super::{Empty, Present, Sparse, Text, fields::fields};

/// `metadata` of any object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata<'a> {
    /// `name`.
    pub name: Text<'a>,
    /// `namespace`.
    pub namespace: Text<'a>,
    /// `uid`.
    pub uid: Text<'a>,
    /// `generation`: 0 if missing.
    pub generation: i64,
    /// `annotations`: `None` if a patch has to create the map first.
    pub annotations: Option<Sparse<Annotations<'a>>>,
    /// `deletionTimestamp`: set while the object is being deleted.
    pub deletion_timestamp: Option<Present>,
    /// `ownerReferences[]`.
    pub owner_references: Vec<OwnerReference<'a>>,
}

fields! {
    Metadata {
        "name" => name: nullable,
        "namespace" => namespace: nullable,
        "uid" => uid: nullable,
        "generation" => generation: nullable,
        "annotations" => annotations: optional,
        "deletionTimestamp" => deletion_timestamp: value,
        "ownerReferences" => owner_references: objects,
    }
}

/// The prefix of the annotations that belong to nicplug.
pub const PREFIX: &str = "nicplug.io/";

/// The annotations that nicplug reads; all others are skipped.
///
/// `null` is an empty text: the API server stores it so, and sends `null` to webhooks in a server-side apply.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Annotations<'a> {
    /// `nicplug.io/add-interfaces`: NICs to add to a VM's template.
    pub add_interfaces: Option<Text<'a>>,
    /// `nicplug.io/remove-interfaces`: names of NICs to remove from a VM's template.
    pub remove_interfaces: Option<Text<'a>>,
    /// `nicplug.io/apply`: with `on-restart`, a change of a live VM waits for the next restart.
    pub apply: Option<Text<'a>>,
    /// `nicplug.io/persist`: names of NICs (or `*`) to persist in the VM's template.
    pub persist: Option<Text<'a>>,
    /// `nicplug.io/reserve-ports`: how many hotplug ports have to be free after every boot.
    pub reserve_ports: Option<Text<'a>>,
    /// `nicplug.io/unplug`: with `dropped`, a NIC that an update drops from the template is unplugged.
    pub unplug: Option<Text<'a>>,
    /// `nicplug.io/boot-slots`: nicplug's record of the PCI topology at boot.
    pub boot_slots: Option<Text<'a>>,
    /// `kubevirt.io/pci-interface-slot-count`: the number of interfaces that KubeVirt provides ports for.
    pub slot_count: Option<Text<'a>>,
    /// `kubevirt.io/pci-topology-version`: the PCI topology that KubeVirt keeps for the guest.
    pub topology_version: Option<Text<'a>>,
    /// `kubevirt.io/placePCIDevicesOnRootComplex`: with `true` there are no hotplug ports.
    pub root_complex: Option<Text<'a>>,
    /// `hooks.kubevirt.io/hookSidecars`: sidecars of the guest's pod, which may rewrite the domain.
    pub hook_sidecars: Option<Text<'a>>,
    /// The first other keys that begin with [`PREFIX`]: nicplug knows none of them.
    pub unknown: Vec<Text<'a>>,
}

fields! {
    Annotations {
        "nicplug.io/add-interfaces" => add_interfaces: annotation,
        "nicplug.io/remove-interfaces" => remove_interfaces: annotation,
        "nicplug.io/apply" => apply: annotation,
        "nicplug.io/persist" => persist: annotation,
        "nicplug.io/reserve-ports" => reserve_ports: annotation,
        "nicplug.io/unplug" => unplug: annotation,
        "nicplug.io/boot-slots" => boot_slots: annotation,
        "kubevirt.io/pci-interface-slot-count" => slot_count: annotation,
        "kubevirt.io/pci-topology-version" => topology_version: annotation,
        "kubevirt.io/placePCIDevicesOnRootComplex" => root_complex: annotation,
        "hooks.kubevirt.io/hookSidecars" => hook_sidecars: annotation,
        others PREFIX => unknown,
    }
}

impl Empty for Annotations<'_> {
    fn empty<'v>() -> &'v Self
    where
        Self: 'v,
    {
        const {
            &Annotations {
                add_interfaces: None,
                remove_interfaces: None,
                apply: None,
                persist: None,
                reserve_ports: None,
                unplug: None,
                boot_slots: None,
                slot_count: None,
                topology_version: None,
                root_complex: None,
                hook_sidecars: None,
                unknown: Vec::new(),
            }
        }
    }
}

/// `metadata.ownerReferences[]`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnerReference<'a> {
    /// `kind`.
    pub kind: Text<'a>,
    /// `name`.
    pub name: Text<'a>,
    /// `uid`.
    pub uid: Text<'a>,
}

fields! {
    OwnerReference {
        "kind" => kind: nullable,
        "name" => name: nullable,
        "uid" => uid: nullable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_that_is_null_is_an_empty_text_as_the_api_server_stores_it() {
        let read = |text: &'static str| serde_json::from_str::<Annotations>(text).unwrap();
        let annotations = read(r#"{"nicplug.io/add-interfaces": null, "nicplug.io/persist": "lan"}"#);
        assert_eq!(annotations.add_interfaces.as_deref(), Some(""));
        assert_eq!(annotations.persist.as_deref(), Some("lan"));
        assert_eq!(annotations.remove_interfaces, None);
        assert!(serde_json::from_str::<Annotations>(r#"{"nicplug.io/persist": 5}"#).is_err());
    }
}
