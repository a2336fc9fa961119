//! Properties of every review, for generated objects and facts.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, sync::Arc};

use nicplug::{
    admission::{Endpoint, Reviewer},
    change::Change,
    cluster::store::Store,
    facts::{Fact, FactSource, Facts},
    rules,
    settings::{Enforcement, OverridePolicy, Settings},
};
use proptest::{prelude::*, sample::select};
use serde_json::{Map, Value, json};
use support::{
    builders::{GUEST_KINDS, GuestKind, object, review},
    cases::{Answer, every_rule, patch_for, store, text_and_rules},
};

/// An interface and its network, without the name.
type Nic = (Value, Value);

const VM: GuestKind = GUEST_KINDS[0];
const VMI: GuestKind = GUEST_KINDS[1];

/// NICs that are invalid with every guest and in every cluster.
fn faulty_nic() -> impl Strategy<Value = Nic> {
    let pod = json!({"pod": {}});
    let multus = json!({"multus": {"networkName": "net"}});
    select(vec![
        (json!({"bridge": {}}), json!({})),
        (json!({"bridge": {}}), json!({"multus": {}})),
        (json!({"sriov": {}}), json!({"pod": {}, "multus": {"networkName": "net"}})),
        (json!({}), multus.clone()),
        (json!({"bridge": {}, "sriov": {}}), multus.clone()),
        (json!({"slirp": {}}), pod.clone()),
        (json!({"masquerade": {}}), multus.clone()),
        (json!({"passtBinding": {}}), multus.clone()),
        (json!({"masquerade": {}, "state": "absent"}), pod.clone()),
        (json!({"bridge": {}, "state": "gone"}), multus.clone()),
        (json!({"sriov": {}, "state": "up"}), multus.clone()),
        (json!({"bridge": {}, "model": "vmxnet3"}), multus.clone()),
        (json!({"bridge": {}, "macAddress": "x"}), multus.clone()),
        (json!({"bridge": {}, "pciAddress": "x"}), multus.clone()),
        (json!({"bridge": {}, "dhcpOptions": {"ntpServers": ["x"]}}), multus.clone()),
        (json!({"bridge": {}, "dhcpOptions": {"privateOptions": [{"option": 1}]}}), multus),
        (json!({"masquerade": {}, "ports": [{"port": 80}, {"port": 0}]}), pod),
    ])
}

fn sound_nic() -> impl Strategy<Value = Nic> {
    let multus = json!({"multus": {"networkName": "net"}});
    select(vec![
        (json!({"bridge": {}}), multus.clone()),
        (json!({"sriov": {}}), multus.clone()),
        (json!({"binding": {"name": "x"}}), multus.clone()),
        (json!({"bridge": {}, "state": "absent"}), multus.clone()),
        (json!({"bridge": {}, "macAddress": "02:00:00:00:00:01"}), multus),
        (json!({"bridge": {}}), json!({"multus": {"networkName": "other/net"}})),
        (json!({"sriov": {}}), json!({"multus": {"networkName": "fast"}})),
        (json!({"masquerade": {}}), json!({"pod": {}})),
        (json!({"bridge": {}}), json!({"pod": {}})),
        (json!({"sriov": {}}), json!({"resourceClaim": {"claimName": "c", "requestName": "r"}})),
        (json!({"teleport": {}}), json!({"carrierPigeon": {}})),
    ])
}

/// NICs that can boot and cannot be hotplugged.
fn boot_nic() -> impl Strategy<Value = Nic> {
    let multus = json!({"multus": {"networkName": "net"}});
    select(vec![
        (json!({"bridge": {}, "model": "e1000e"}), multus.clone()),
        (json!({"binding": {"name": "x"}}), multus),
        (json!({"bridge": {}}), json!({"multus": {"networkName": "net", "default": true}})),
        (json!({"bridge": {}}), json!({"multus": {"networkName": "no-such-net"}})),
        (json!({"bridge": {}}), json!({"multus": {"networkName": "broken"}})),
        (json!({"masquerade": {}}), json!({"pod": {}})),
    ])
}

/// Guests with up to four NICs, some of them without the interface or the network. Names may repeat.
fn guest_of(nic: impl Strategy<Value = Nic>) -> impl Strategy<Value = Value> {
    let nics = prop::collection::vec((0..5u8, nic, 0..8u8), 0..5);
    let multiqueue = prop_oneof![3 => Just(json!({})), 1 => Just(json!({"domain": {"cpu": {"cores": 40},
        "devices": {"networkInterfaceMultiqueue": true}}}))];
    (multiqueue, nics).prop_map(|(guest, nics)| {
        nics.into_iter().fold(guest, |guest, (name, (interface, network), half)| {
            let name = format!("n{name}");
            let guest =
                if half == 0 { guest } else { with_entry(guest, "/domain/devices/interfaces", &name, interface) };
            if half == 1 { guest } else { with_entry(guest, "/networks", &name, network) }
        })
    })
}

fn any_guest() -> impl Strategy<Value = Value> {
    guest_of(prop_oneof![3 => sound_nic(), 1 => boot_nic(), 1 => faulty_nic()])
}

/// Guests with few faults, so that many changes are allowed.
fn sound_guest() -> impl Strategy<Value = Value> {
    let one_pod_network = json!({"domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}]}},
        "networks": [{"name": "default", "pod": {}}]});
    let nic = select(vec![
        (json!({"bridge": {}}), json!({"multus": {"networkName": "net"}})),
        (json!({"bridge": {}, "state": "absent"}), json!({"multus": {"networkName": "net"}})),
        (json!({"bridge": {}, "macAddress": "02:00:00:00:00:01"}), json!({"multus": {"networkName": "other/net"}})),
        (json!({"sriov": {}}), json!({"multus": {"networkName": "fast"}})),
        (json!({}), json!({"multus": {"networkName": "net"}})),
    ]);
    prop::collection::btree_map(0..5u8, nic, 0..4).prop_map(move |nics| {
        nics.into_iter().fold(one_pod_network.clone(), |guest, (name, nic)| with_nic(guest, &format!("n{name}"), nic))
    })
}

fn with_nic(guest: Value, name: &str, (interface, network): Nic) -> Value {
    with_entry(with_entry(guest, "/domain/devices/interfaces", name, interface), "/networks", name, network)
}

fn with_entry(mut guest: Value, list: &str, name: &str, mut entry: Value) -> Value {
    entry["name"] = json!(name);
    let mut place = &mut guest;
    for key in list.split('/').skip(1) {
        place = &mut place[key];
    }
    match place {
        Value::Array(entries) => entries.push(entry),
        empty => *empty = json!([entry]),
    }
    guest
}

fn kubevirt() -> impl Strategy<Value = Value> {
    let version = select(vec!["v1.9.0", "v1.9.0", "v1.6.4", "v1.3.1", "v1.0.0", "v0.59.2", ""]);
    let strategy = select(vec!["", "LiveUpdate", "Stage"]);
    let gates = prop::sample::subsequence(vec!["HotplugNICs", "NetworkDevicesWithDRA", "PortRangesSpec"], 0..=3);
    (version, strategy, gates, any::<bool>()).prop_map(|(version, strategy, gates, permits)| {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
            "spec": {"configuration": {"developerConfiguration": {"featureGates": gates},
                "network": {"permitBridgeInterfaceOnPodNetwork": permits}, "vmRolloutStrategy": strategy},
                "workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}},
            "status": {"observedKubeVirtVersion": version}})
    })
}

fn networks() -> Vec<Value> {
    let nad = |namespace: &str, name: &str, config: &str, resource: Value| {
        json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"namespace": namespace, "name": name, "annotations": resource}, "spec": {"config": config}})
    };
    let bridge = r#"{"cniVersion": "0.3.1", "type": "bridge"}"#;
    let resource = json!({"k8s.v1.cni.cncf.io/resourceName": "example.com/fast"});
    vec![
        nad("demo", "net", bridge, json!({})),
        nad("other", "net", bridge, json!({})),
        nad("demo", "fast", r#"{"cniVersion": "0.3.1", "type": "sriov"}"#, resource),
        nad("demo", "broken", "{not json", json!({})),
    ]
}

/// Objects that may exist: the dynamic-networks controller, Multus, a migration, nodes, a VM with a MAC address, and
/// namespace isolation.
fn surroundings() -> impl Strategy<Value = Vec<Value>> {
    let controller = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "dynamic-networks-controller-ds", "namespace": "kube-system"},
        "spec": {"template": {"spec": {"containers": [{"name": "dynamic-networks-controller",
            "image": "ghcr.io/k8snetworkplumbingwg/multus-dynamic-networks-controller:latest"}]}}},
        "status": {"numberReady": 3, "desiredNumberScheduled": 3}});
    let multus = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-multus-ds", "namespace": "kube-system"},
        "spec": {"template": {"spec": {"containers": [{"name": "kube-multus",
            "image": "ghcr.io/k8snetworkplumbingwg/multus-cni:snapshot-thick"}]}}},
        "status": {"numberReady": 3, "desiredNumberScheduled": 3}});
    let migration = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "move", "namespace": "demo"}, "spec": {"vmiName": "vm-fedora"},
        "status": {"phase": "Running"}});
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let twin = with_nic(
        json!({}),
        "a",
        (json!({"bridge": {}, "macAddress": "02-00-00-00-00-01"}), json!({"multus": {"networkName": "net"}})),
    );
    let mut other = object(VM, &twin);
    other["metadata"]["name"] = json!("vm-other");
    let isolation = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "multus-daemon-config", "namespace": "kube-system"},
        "data": {"daemon-config.json": r#"{"namespaceIsolation": true}"#}});
    let all = vec![controller, multus, migration, node("one"), node("two"), other, isolation];
    let count = all.len();
    prop::sample::subsequence(all, 0..=count)
}

/// VMIs of a guest, with different statuses.
fn vmi_of(guest: &Value) -> impl Strategy<Value = Value> + use<> {
    let guest = guest.clone();
    let phase = select(vec!["Running", "Running", "Running", "Scheduling", "Succeeded"]);
    let migratable = select(vec!["True", "False", "Unknown"]);
    let pod_interface = select(vec!["pod123", "net1"]);
    let seen = prop::sample::subsequence(vec!["n0", "n1", "n2", "n3", "n4"], 0..=5);
    (phase, migratable, pod_interface, seen).prop_map(move |(phase, migratable, pod_interface, seen)| {
        let mut vmi = object(VMI, &guest);
        let seen: Vec<Value> = seen
            .iter()
            .map(|name| json!({"name": name, "podInterfaceName": pod_interface, "infoSource": "domain"}))
            .collect();
        let condition = json!({"type": "LiveMigratable", "status": migratable, "reason": "DisksNotLiveMigratable"});
        vmi["status"] = json!({"phase": phase, "conditions": [condition], "interfaces": seen});
        vmi
    })
}

/// A cluster, and a request to it.
#[derive(Clone, Debug)]
struct Request {
    cluster: Vec<Value>,
    kind: GuestKind,
    /// Null for a creation.
    old: Value,
    new: Value,
}

impl Request {
    fn store(&self) -> Store {
        store(&self.cluster)
    }

    fn reviewer(&self, settings: Settings) -> Reviewer {
        Reviewer::new(Arc::new(self.store()), settings)
    }

    fn review(&self) -> Value {
        review(self.kind, &self.old, &self.new)
    }

    fn answer(&self, settings: Settings) -> Answer {
        Answer::to(&self.reviewer(settings), &self.review())
    }

    /// Returns the same request in a namespace with an annotation that changes the enforcement.
    fn with_overrides(&self, overrides: &[(&str, Enforcement)]) -> Self {
        let entries = overrides.iter().map(|(id, enforcement)| format!("{id}={}", enforcement.as_str()));
        let annotation = entries.collect::<Vec<_>>().join(", ");
        let mut request = self.clone();
        request.cluster.push(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "demo", "annotations": {"nicplug.io/rules": annotation}}}));
        request
    }
}

/// The enforcements in the annotation of a namespace.
fn any_overrides() -> impl Strategy<Value = Vec<(&'static str, Enforcement)>> {
    let enforcement = select(&[Enforcement::Deny, Enforcement::Off, Enforcement::Warn][..]);
    prop::collection::btree_map(select(rules::ids()), enforcement, 0..12).prop_map(Vec::from_iter)
}

/// Changes from one of these guests to another, in most cases of a running VM.
fn request_of<G: Strategy<Value = Value> + 'static>(guest: fn() -> G) -> impl Strategy<Value = Request> {
    let kind = prop_oneof![4 => Just(VM), 1 => select(&GUEST_KINDS[..])];
    let guests = (guest(), guest(), 0..6u8);
    (kubevirt(), surroundings(), kind, guests).prop_flat_map(|(kubevirt, surroundings, kind, (old, new, case))| {
        vmi_of(&old).prop_map(move |vmi| {
            let (before, is_running) = (object(kind, &old), case > 0);
            let mut after = object(kind, &new);
            let mut cluster = networks();
            cluster.push(kubevirt.clone());
            cluster.extend(surroundings.clone());
            cluster.push(object(VM, &old));
            let before = if kind == VMI { vmi.clone() } else { before };
            if kind == VMI {
                after["status"] = vmi["status"].clone();
            }
            if is_running {
                cluster.push(vmi);
            }
            let old = if case == 1 { Value::Null } else { before };
            Request { cluster, kind, old, new: after }
        })
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    request_of(any_guest)
}

fn sound_request() -> impl Strategy<Value = Request> {
    request_of(sound_guest)
}

/// A cluster with some facts unknown.
struct Hidden {
    store: Store,
    is_hidden: [bool; 9],
}

impl FactSource for Hidden {
    fn facts_for(&self, change: &Change) -> Facts {
        let mut facts = self.store.facts_for(change);
        let [kubevirt, vmi, machine, nads, isolation, attachment, nodes, migration, macs] = self.is_hidden;
        hide(&mut facts.kubevirt, kubevirt);
        hide(&mut facts.vmi, vmi);
        hide(&mut facts.vm, machine);
        hide(&mut facts.isolation, isolation);
        hide(&mut facts.attachment, attachment);
        hide(&mut facts.nodes, nodes);
        hide(&mut facts.migration, migration);
        hide(&mut facts.mac_users, macs);
        if nads {
            facts.nads = nicplug::facts::Nads::default();
        }
        facts
    }
}

fn hide<T>(fact: &mut Fact<T>, is_hidden: bool) {
    if is_hidden {
        *fact = Fact::Unknown;
    }
}

/// Requests by annotation for NICs that exist, that do not exist, and that cannot be parsed.
fn interface_request() -> impl Strategy<Value = Option<String>> {
    let entry = "n[0-9]=((demo|other)/)?(net|fast)";
    let list = prop::collection::vec(entry, 1..4).prop_map(|entries| entries.join(","));
    let json = entry.prop_map(|entry| {
        let (name, network) = entry.split_once('=').unwrap();
        json!([{"name": name, "networkAttachmentDefinitionName": network}]).to_string()
    });
    let text = any::<String>();
    prop_oneof![1 => Just(None), 4 => list.prop_map(Some), 1 => json.prop_map(Some), 1 => text.prop_map(Some)]
}

/// JSON with some keys of a guest, and values of any type.
fn any_json() -> impl Strategy<Value = Value> {
    let keys = select(vec![
        "metadata",
        "annotations",
        "name",
        "spec",
        "template",
        "domain",
        "devices",
        "interfaces",
        "networks",
        "bridge",
        "multus",
        "networkName",
        "pod",
        "state",
        "status",
        "phase",
        "ports",
        "macAddress",
        "virtualMachineTemplate",
        "vmiName",
        "cpu",
        "cores",
        "conditions",
        "resourceClaim",
        "dhcpOptions",
        "kubevirt.io/x",
        "",
    ]);
    let key = prop_oneof![5 => keys.prop_map(str::to_owned), 1 => any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 5, move |inner| {
        let entries = prop::collection::vec((key.clone(), inner.clone()), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            entries.prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// An object in which one value is replaced by another one.
fn damaged_object() -> impl Strategy<Value = Value> {
    (select(&GUEST_KINDS[..]), any_guest(), any::<prop::sample::Index>(), any_json()).prop_map(
        |(kind, guest, place, instead)| {
            let mut object = object(kind, &guest);
            let mut pointers = Vec::new();
            collect_pointers(&object, String::new(), &mut pointers);
            *object.pointer_mut(place.get::<String>(&pointers)).unwrap() = instead;
            object
        },
    )
}

fn collect_pointers(value: &Value, path: String, pointers: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                collect_pointers(value, format!("{path}/{key}"), pointers);
            }
        }
        Value::Array(entries) => {
            for (index, value) in entries.iter().enumerate() {
                collect_pointers(value, format!("{path}/{index}"), pointers);
            }
        }
        _ => {}
    }
    pointers.push(path);
}

/// Returns whether a path is that of an annotation about the PCI layout of a VMI.
fn is_path_of_pci_annotation(path: &str) -> bool {
    let key = path.strip_prefix("/metadata/annotations");
    key.is_some_and(|key| ["", "/nicplug.io~1boot-slots", "/kubevirt.io~1pci-interface-slot-count"].contains(&key))
}

/// Returns whether a path is `…/domain/devices/interfaces/N/bridge`.
fn is_path_of_binding(path: &str) -> bool {
    let parts = path.strip_suffix("/bridge").and_then(|path| path.split_once("/domain/devices/interfaces/"));
    parts.is_some_and(|(_, index)| index.parse::<usize>().is_ok())
}

proptest! {
    #[test]
    fn the_review_of_an_unchanged_object_has_no_causes_and_no_warnings(
        request in any_request(),
        is_known in any::<bool>(),
    ) {
        let stored = if request.old.is_null() { &request.new } else { &request.old };
        let store = if is_known { request.store() } else { Store::default() };
        let reviewer = Reviewer::new(Arc::new(store), Settings::default());
        let mut labelled = stored.clone();
        labelled["metadata"]["labels"] = json!({"tier": "web"});
        for new in [stored, &labelled] {
            let review = review(request.kind, stored, new);
            let answer = Answer::to(&reviewer, &review);
            prop_assert!(answer.is_silent() && answer.is_allowed, "{answer:?}");
            prop_assert!(patch_for(&reviewer, &review).is_empty());
        }
    }

    #[test]
    fn a_namespace_cannot_loosen_rules_unless_settings_allow_it(
        request in any_request(),
        overrides in any_overrides(),
    ) {
        let before = request.answer(Settings::default());
        let after = request.with_overrides(&overrides).answer(Settings::default());
        let messages = |answer: &Answer| -> BTreeSet<String> {
            answer.causes.iter().map(|cause| cause.message.clone()).collect()
        };
        prop_assert!(messages(&before).is_subset(&messages(&after)), "{before:?} {after:?}");
    }

    #[test]
    fn overrides_that_settings_allow_have_the_effect_of_settings(
        request in any_request(),
        overrides in any_overrides(),
    ) {
        let settings = Settings { namespace_override: OverridePolicy::Allow, ..Settings::default() };
        let mut expected = settings.clone();
        for (id, enforcement) in &overrides {
            expected = expected.with_rule(id, *enforcement);
        }
        let answer = request.with_overrides(&overrides).answer(settings);
        prop_assert_eq!(format!("{answer:?}"), format!("{:?}", request.answer(expected)));
    }

    #[test]
    fn a_denied_request_is_also_denied_with_one_more_fault(
        request in any_request(),
        nic in prop_oneof![faulty_nic(), boot_nic()],
    ) {
        let before = request.answer(Settings::default());
        let guest = request.kind.2.split('.').fold(&request.new, |value, key| &value[key]).clone();
        let mut new = object(request.kind, &with_nic(guest, "more", nic));
        if let Some(status) = request.new.get("status") {
            new["status"] = status.clone();
        }
        let more = Request { new, ..request };
        prop_assert!(before.is_allowed || !more.answer(Settings::default()).is_allowed, "{}", more.new);
    }

    #[test]
    fn a_faulty_nic_is_denied_with_every_guest(
        request in any_request(),
        guest in any_guest(),
        nic in faulty_nic(),
        is_known in any::<bool>(),
    ) {
        let store = if is_known { request.store() } else { Store::default() };
        let reviewer = Reviewer::new(Arc::new(store), Settings::default());
        let new = object(request.kind, &with_nic(guest, "more", nic));
        prop_assert!(!Answer::to(&reviewer, &review(request.kind, &Value::Null, &new)).is_allowed, "{new}");
    }

    #[test]
    fn a_rule_warns_of_the_same_faults_that_it_denies(request in any_request()) {
        let denied = request.answer(every_rule(Enforcement::Deny));
        let warned = request.answer(every_rule(Enforcement::Warn));
        prop_assert!(warned.is_allowed && warned.causes.is_empty());
        prop_assert_eq!(denied.is_allowed, denied.causes.is_empty());
        // Both have the warnings of rules that cannot deny. The other warnings correspond to the causes; causes with
        // the same text are one warning, and a long text is cut.
        let more: Vec<&String> = warned.warnings.iter().filter(|warning| !denied.warnings.contains(warning)).collect();
        prop_assert_eq!(warned.warnings.len() - more.len(), denied.warnings.len());
        let is_same = |message: &str, warning: &str| {
            let ((message, ids), (text, warned)) = (text_and_rules(message), text_and_rules(warning));
            message.starts_with(text.trim_end_matches('…')) && ids.iter().all(|id| warned.contains(id))
        };
        for cause in &denied.causes {
            prop_assert!(more.iter().any(|warning| is_same(&cause.message, warning)), "{cause:?}: {more:#?}");
        }
        for warning in &more {
            let has_cause = denied.causes.iter().any(|cause| is_same(&cause.message, warning));
            prop_assert!(has_cause, "{warning}: {:#?}", denied.causes);
        }
        let ids = |messages: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
            messages.flat_map(|message| text_and_rules(message).1).map(str::to_owned).collect()
        };
        let found = ids(&mut denied.causes.iter().map(|cause| &cause.message).chain(&denied.warnings));
        prop_assert_eq!(found, ids(&mut warned.warnings.iter()));
    }

    #[test]
    fn a_patched_object_gets_no_second_patch(request in prop_oneof![any_request(), sound_request()]) {
        let reviewer = request.reviewer(Settings::default());
        let patch = patch_for(&reviewer, &request.review());
        let mut patched = request.clone();
        json_patch::patch(&mut patched.new, &json_patch::Patch(patch.clone())).unwrap();
        prop_assert_eq!(patch_for(&reviewer, &patched.review()), Vec::new());
        // If the added values are removed, the object is the original one.
        for operation in patch.iter().rev() {
            let operation = json!(operation);
            let path = operation["path"].as_str().unwrap();
            let is_ours = is_path_of_binding(path) || is_path_of_pci_annotation(path);
            prop_assert!(operation["op"] == "add" && is_ours, "{}", operation);
            prop_assert_eq!(request.new.pointer(path), None);
            let (parent, key) = path.rsplit_once('/').unwrap();
            patched.new.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        }
        prop_assert_eq!(patched.new, request.new);
    }

    #[test]
    fn a_request_by_annotation_is_carried_out_once_and_changes_nothing_else(
        request in prop_oneof![any_request(), sound_request()],
        add in interface_request(),
        remove in prop::option::of("n[0-5](,n[0-5])?"),
    ) {
        let mut annotations = json!({"other": "stays"});
        for (key, text) in [("nicplug.io/add-interfaces", &add), ("nicplug.io/remove-interfaces", &remove)] {
            if let Some(text) = text {
                annotations[key] = json!(text);
            }
        }
        let stored = if request.kind == VM { request.old.clone() } else { Value::Null };
        let guest = request.kind.2.split('.').fold(&request.new, |value, key| &value[key]).clone();
        let mut asked = object(VM, &guest);
        asked["metadata"]["annotations"] = annotations;
        let asked = Request { kind: VM, old: stored, new: asked, ..request };
        let reviewer = asked.reviewer(Settings::default());
        let mut granted = asked.clone();
        let patch = json_patch::Patch(patch_for(&reviewer, &asked.review()));
        json_patch::patch(&mut granted.new, &patch).unwrap();
        prop_assert_eq!(patch_for(&reviewer, &granted.review()), Vec::new());

        let is_left = |key: &str| granted.new["metadata"]["annotations"].get(key).is_some();
        let is_rejected = is_left("nicplug.io/add-interfaces") || is_left("nicplug.io/remove-interfaces");
        let answer = Answer::to(&reviewer, &granted.review());
        let has_cause = answer.causes.iter().any(|cause| text_and_rules(&cause.message).1.contains(&"NP115"));
        prop_assert_eq!(has_cause, is_rejected, "{:?}", answer);
        prop_assert_eq!(&granted.new["metadata"]["annotations"]["other"], &json!("stays"));

        // The same request again changes nothing.
        if !is_rejected {
            let mut again = granted.clone();
            again.old = granted.new.clone();
            again.new["metadata"]["annotations"] = asked.new["metadata"]["annotations"].clone();
            if again.old != again.new {
                let patch = json_patch::Patch(patch_for(&reviewer, &again.review()));
                json_patch::patch(&mut again.new, &patch).unwrap();
                prop_assert_eq!(again.new, granted.new);
            }
        }
    }

    #[test]
    fn the_same_request_gets_the_same_response_byte_by_byte(request in any_request()) {
        let body = request.review().to_string();
        for endpoint in [Endpoint::Validate, Endpoint::Mutate] {
            // Two stores, because the order of hash tables differs.
            let answer = || request.reviewer(Settings::default()).review(endpoint, body.as_bytes());
            let [one, other] = [answer(), answer()];
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn an_unknown_fact_never_causes_a_denial(
        request in prop_oneof![1 => any_request(), 4 => sound_request()],
        is_hidden in any::<[bool; 9]>(),
    ) {
        let known = request.answer(Settings::default());
        let hidden = Hidden { store: request.store(), is_hidden };
        let answer = Answer::to(&Reviewer::new(Arc::new(hidden), Settings::default()), &request.review());
        prop_assert!(answer.is_allowed || !known.is_allowed, "{answer:#?}");
    }

    #[test]
    fn the_response_has_the_uid_of_the_request_for_all_objects(
        uid in any::<String>().prop_map(|rest| format!("u{rest}")),
        objects in (prop_oneof![any_json(), damaged_object()], prop_oneof![any_json(), damaged_object()]),
        kind in select(&["VirtualMachine", "VirtualMachineInstance", "VirtualMachineInstanceMigration",
            "VirtualMachineInstanceReplicaSet", "VirtualMachinePool", "Pod"][..]),
        operation in select(&["CREATE", "UPDATE", "DELETE", "CONNECT", "OTHER"][..]),
        request in any_request(),
    ) {
        let group = if kind == "VirtualMachinePool" { "pool.kubevirt.io" } else { "kubevirt.io" };
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "kind": {"group": group, "version": "v1", "kind": kind}, "name": "vm-fedora", "namespace": "demo",
            "object": objects.0, "oldObject": objects.1, "operation": operation, "uid": uid}});
        let reviewer = request.reviewer(Settings::default());
        for endpoint in [Endpoint::Validate, Endpoint::Mutate] {
            let answer = reviewer.review(endpoint, review.to_string().as_bytes());
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            prop_assert_eq!(answer.status, 200, "{}", body);
            prop_assert_eq!(&body["response"]["uid"], &json!(uid));
            prop_assert!(body["response"]["allowed"].is_boolean());
        }
    }
}
