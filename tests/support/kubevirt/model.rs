//! What virt-controller computes from stored objects, written from KubeVirt's code at v1.6.6, v1.8.4 and v1.9.0 and
//! independent of nicplug's own forecast:
//!
//! | here | in KubeVirt |
//! | --- | --- |
//! | [`Model::sync`] | `sync` in `pkg/virt-controller/watch/vm/vm.go`, `Sync` in `pkg/network/controllers/vm.go` |
//! | [`Model::requires_restart`] | `syncRestartRequired` in `vm.go`, `pkg/network/vmliveupdate/restart.go` |
//! | [`Model::needed_migration`] | `pkg/network/migration/evaluator.go` |
//! | [`Model::new_guest`] | `SetDefaultNetworkInterface` in `pkg/network/vmispec/defaults.go` |
//! | [`expand`] | `pkg/instancetype/preference/apply/{interface,device}.go` |
//!
//! Objects are plain JSON. `tests/kubevirt_double.rs` replays what real control planes were seen to do.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A KubeVirt of one version and configuration.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    version: (u32, u32),
    /// Whether a changed `multus.networkName` reaches the guest without a restart.
    copies_network_names: bool,
    default_binding: String,
}

/// What virt-controller makes of a VM and its guest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Synced {
    /// `spec.template.spec` of the VM.
    pub(crate) template: Value,
    /// `spec` of the VMI; `None` without one.
    pub(crate) guest: Option<Value>,
    /// Whether the VM has the condition `RestartRequired`.
    pub(crate) requires_restart: bool,
}

/// Whether the guest has to migrate for its NICs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NeededMigration {
    None,
    /// Unless the dynamic-networks controller attaches the NIC within the grace period.
    AfterGracePeriod,
    AtOnce,
}

/// The NetworkAttachmentDefinition, as `namespace/name`, that the pod has for a NIC, by the name of the NIC.
pub(crate) type PodNetworks = BTreeMap<String, String>;

impl Model {
    /// Returns the KubeVirt of a KubeVirt resource.
    pub(crate) fn of(resource: &Value) -> Self {
        let configuration = &resource["spec"]["configuration"];
        let lists_gate = |list: &str| {
            let gates = list_of(&configuration["developerConfiguration"][list]);
            gates.iter().any(|gate| gate == "LiveUpdateNADRef")
        };
        let mut model = Self::of_version(resource["status"]["observedKubeVirtVersion"].as_str().unwrap());
        model.copies_network_names |= model.version.1 == 8 && lists_gate("featureGates");
        if let Some(binding) = configuration["network"]["defaultNetworkInterface"].as_str() {
            binding.clone_into(&mut model.default_binding);
        }
        model
    }

    /// Returns the KubeVirt of a version with the default configuration.
    pub(crate) fn of_version(version: &str) -> Self {
        let mut numbers = version.trim_start_matches('v').split('.').map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        // LiveUpdateNADRef is generally available since 1.9, and off unless listed in 1.8.
        Self { version, copies_network_names: version >= (1, 9), default_binding: "bridge".to_owned() }
    }

    /// Returns the `spec` of the VMI that a VM is started with.
    pub(crate) fn new_guest(&self, template: &Value, preference: Option<&Value>) -> Value {
        let mut guest = expand(template, preference);
        let has_no_nic = interfaces(&guest).is_empty() && networks(&guest).is_empty();
        if has_no_nic && guest["domain"]["devices"]["autoattachPodInterface"] != false {
            let binding = &self.default_binding;
            set_nics(
                &mut guest,
                vec![json!({"name": "default", binding: {}})],
                vec![json!({"name": "default", "pod": {}})],
            );
        }
        guest
    }

    /// Returns the state after as many reconciliations as change something. `start` is the template with which the guest
    /// was started.
    pub(crate) fn sync(&self, vm: &Value, vmi: Option<&Value>, start: &Value, preference: Option<&Value>) -> Synced {
        let mut state = Synced {
            template: vm["spec"]["template"]["spec"].clone(),
            guest: vmi.map(|vmi| vmi["spec"].clone()),
            requires_restart: condition(vm, "RestartRequired") == Some("True"),
        };
        for _ in 0..8 {
            let next = self.reconcile(vm, vmi, &state, start, preference);
            if next == state {
                return state;
            }
            state = next;
        }
        panic!("no fixed point: {state:#?}");
    }

    fn reconcile(
        &self,
        vm: &Value,
        vmi: Option<&Value>,
        state: &Synced,
        start: &Value,
        preference: Option<&Value>,
    ) -> Synced {
        if is_being_deleted(vm) || vmi.is_some_and(is_gone) {
            return state.clone();
        }
        let mut next = state.clone();
        let status = vmi.map_or(Value::Null, |vmi| vmi["status"].clone());
        if let Some(guest) = &state.guest {
            next.requires_restart = self.requires_restart(&state.template, guest, start, preference);
            next.guest = Some(self.sync_guest(&state.template, guest, &status));
        }
        let in_guest = next.guest.as_ref().map(interfaces).unwrap_or_default();
        let in_status = list_of(&status["interfaces"]);
        let is_kept = |interface: &Value| {
            !is_absent(interface) || by_name(&in_guest, interface).is_some() || by_name(&in_status, interface).is_some()
        };
        let kept: Vec<Value> = interfaces(&state.template).into_iter().filter(is_kept).collect();
        let networks = networks_of(&kept, networks(&state.template));
        set_nics(&mut next.template, kept, networks);
        next
    }

    /// Returns the guest after virt-controller has copied to it what it can.
    fn sync_guest(&self, template: &Value, guest: &Value, status: &Value) -> Value {
        let (mut nics, mut nets) = (interfaces(guest), networks(guest));
        let is_ordinal = has_ordinal_names(&nets, status);
        for wanted in interfaces(template) {
            let bindings = [&wanted["bridge"], &wanted["sriov"]];
            match nics.iter_mut().find(|nic| nic["name"] == wanted["name"]) {
                None if !is_absent(&wanted) && bindings.iter().any(|binding| !binding.is_null()) => {
                    nets.extend(by_name(&networks(template), &wanted).cloned());
                    nics.push(wanted);
                }
                Some(nic)
                    if text(&nic["state"]) != text(&wanted["state"])
                        && !is_absent(nic)
                        && !(is_ordinal && is_absent(&wanted)) =>
                {
                    match text(&wanted["state"]) {
                        "" => drop(nic.as_object_mut().unwrap().remove("state")),
                        state => nic["state"] = state.into(),
                    }
                }
                _ => {}
            }
        }
        let in_status = list_of(&status["interfaces"]);
        nics.retain(|nic| !is_absent(nic) || by_name(&in_status, nic).is_some());
        let mut nets = networks_of(&nics, nets);
        if self.copies_network_names {
            for net in &mut nets {
                let wanted =
                    by_name(&networks(template), net).map(|wanted| wanted["multus"].clone()).unwrap_or_default();
                if wanted.is_object() && net["multus"].is_object() {
                    net["multus"]["networkName"] = wanted["networkName"].clone();
                }
            }
        }
        let mut guest = guest.clone();
        set_nics(&mut guest, nics, nets);
        guest
    }

    /// Returns whether a VM with this template needs a restart of its guest: a field differs from the start, and it is
    /// not one that reaches the guest while it runs.
    fn requires_restart(&self, template: &Value, guest: &Value, start: &Value, preference: Option<&Value>) -> bool {
        let (new, mut last) = (expand(template, preference), expand(start, preference));
        for field in ["nodeSelector", "affinity", "tolerations", "volumes"] {
            last[field] = new[field].clone();
        }
        for field in ["cpu", "memory", "firmware", "devices"] {
            if !last["domain"][field].is_object() {
                last["domain"][field] = json!({});
            }
        }
        last["domain"]["cpu"]["sockets"] = new["domain"]["cpu"]["sockets"].clone();
        last["domain"]["memory"]["guest"] = new["domain"]["memory"]["guest"].clone();
        last["domain"]["firmware"]["uuid"] = new["domain"]["firmware"]["uuid"].clone();
        last["domain"]["devices"]["disks"] = new["domain"]["devices"]["disks"].clone();
        if !self.nics_require_restart(&new, guest) {
            set_nics(&mut last, interfaces(&new), networks(&new));
        }
        without_empty(&new) != without_empty(&last)
    }

    /// Returns whether a difference between the NICs of a template and those of the guest lasts until a restart.
    fn nics_require_restart(&self, template: &Value, guest: &Value) -> bool {
        let nics = interfaces(template);
        let differs = |nic: &Value| {
            let normal = |nic: &Value| {
                let mut nic = decoded(nic);
                nic.as_object_mut().unwrap().remove("state");
                nic
            };
            by_name(&nics, nic).is_none_or(|wanted| normal(wanted) != normal(nic))
        };
        let nets = networks(template);
        let net_differs = |net: &Value| {
            let normal = |net: &Value| {
                let mut net = decoded(net);
                if self.copies_network_names && net["multus"].is_object() {
                    net["multus"].as_object_mut().unwrap().remove("networkName");
                }
                net
            };
            by_name(&nets, net).is_none_or(|wanted| normal(wanted) != normal(net))
        };
        let has_pod = |nets: &[Value]| nets.iter().any(|net| !net["pod"].is_null());
        let running = networks(guest);
        interfaces(guest).iter().any(differs)
            || (self.version >= (1, 8) && has_pod(&nets) && !has_pod(&running))
            || running.iter().any(net_differs)
    }

    /// Returns whether the guest of a VMI has to migrate, by its spec, its status and the networks of its pod.
    pub(crate) fn needed_migration(&self, vmi: &Value, pod: &PodNetworks) -> NeededMigration {
        if self.version < (1, 6) {
            return NeededMigration::None;
        }
        let in_status = list_of(&vmi["status"]["interfaces"]);
        let nics = interfaces(&vmi["spec"]);
        for net in networks(&vmi["spec"]).iter().filter(|net| is_additional(net)) {
            let Some(nic) = by_name(&nics, net) else { continue };
            let seen = by_name(&in_status, net);
            let source = seen.map_or("", |seen| text(&seen["infoSource"]));
            match seen {
                None if !is_absent(nic) && !nic["sriov"].is_null() => return NeededMigration::AtOnce,
                None if !is_absent(nic) => return NeededMigration::AfterGracePeriod,
                Some(_) if is_absent(nic) && source.contains("multus-status") && !source.contains("domain") => {
                    return NeededMigration::AfterGracePeriod;
                }
                Some(seen) if self.version >= (1, 8) && !text(&seen["podInterfaceName"]).is_empty() => {
                    let wanted = qualified(net, text(&vmi["metadata"]["namespace"]));
                    if pod.get(text(&net["name"])).is_some_and(|attached| *attached != wanted) {
                        return NeededMigration::AtOnce;
                    }
                }
                _ => {}
            }
        }
        NeededMigration::None
    }
}

/// Returns the networks of the pod with which a guest was started or migrated.
pub(crate) fn pod_networks(guest: &Value, namespace: &str) -> PodNetworks {
    let nets = networks(guest);
    let nets = nets.iter().filter(|net| net["multus"].is_object());
    nets.map(|net| (text(&net["name"]).to_owned(), qualified(net, namespace))).collect()
}

/// Returns a template as the preference of the VM completes it: only fields that the template leaves out.
pub(crate) fn expand(template: &Value, preference: Option<&Value>) -> Value {
    let mut template = template.clone();
    let Some(preferred) = preference.map(|preference| &preference["devices"]) else { return template };
    let mut nics = interfaces(&template);
    let nets = networks(&template);
    for nic in &mut nics {
        if text(&nic["model"]).is_empty() && !preferred["preferredInterfaceModel"].is_null() {
            nic["model"] = preferred["preferredInterfaceModel"].clone();
        }
        let is_on_pod = by_name(&nets, nic).is_some_and(|net| !net["pod"].is_null());
        if is_on_pod && binding(nic).is_none() && !preferred["preferredInterfaceMasquerade"].is_null() {
            nic["masquerade"] = preferred["preferredInterfaceMasquerade"].clone();
        }
    }
    if !nics.is_empty() {
        set_nics(&mut template, nics, nets);
    }
    for (field, key) in [
        ("networkInterfaceMultiqueue", "preferredNetworkInterfaceMultiQueue"),
        ("autoattachPodInterface", "preferredAutoattachPodInterface"),
    ] {
        if template["domain"]["devices"][field].is_null() && !preferred[key].is_null() {
            template["domain"]["devices"][field] = preferred[key].clone();
        }
    }
    template
}

/// Returns the status of a condition of a VM or VMI.
pub(crate) fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}

/// Returns whether a VM stops its guest: it is halted or being deleted.
pub(crate) fn stops(vm: &Value) -> bool {
    is_being_deleted(vm) || vm["spec"]["runStrategy"] == "Halted" || vm["spec"]["running"] == false
}

/// Returns whether an object is being deleted.
pub(crate) fn is_being_deleted(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Returns whether a guest is being deleted or has ended.
pub(crate) fn is_gone(vmi: &Value) -> bool {
    let is_final = matches!(vmi["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    is_final || is_being_deleted(vmi)
}

/// Returns `domain.devices.interfaces[]` of a guest or template.
pub(crate) fn interfaces(guest: &Value) -> Vec<Value> {
    list_of(&guest["domain"]["devices"]["interfaces"])
}

/// Returns `networks[]` of a guest or template.
pub(crate) fn networks(guest: &Value) -> Vec<Value> {
    list_of(&guest["networks"])
}

/// Returns the binding of an interface.
pub(crate) fn binding(interface: &Value) -> Option<&str> {
    let fields = interface.as_object()?.iter();
    let mut bindings = fields.filter(|(key, value)| value.is_object() && *key != "dhcpOptions").map(|(key, _)| &**key);
    bindings.next()
}

/// Returns a text; empty if it is missing.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns a list; empty if it is missing.
pub(crate) fn list_of(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Writes both lists; an empty list is not written where there was none.
fn set_nics(guest: &mut Value, interfaces: Vec<Value>, networks: Vec<Value>) {
    if !interfaces.is_empty() || guest["domain"]["devices"]["interfaces"].is_array() {
        guest["domain"]["devices"]["interfaces"] = interfaces.into();
    }
    if !networks.is_empty() || guest["networks"].is_array() {
        guest["networks"] = networks.into();
    }
}

/// Returns the entry that has the name of another one.
fn by_name<'l>(list: &'l [Value], entry: &Value) -> Option<&'l Value> {
    list.iter().rfind(|other| other["name"] == entry["name"])
}

fn networks_of(nics: &[Value], nets: Vec<Value>) -> Vec<Value> {
    nets.into_iter().filter(|net| by_name(nics, net).is_some()).collect()
}

fn is_absent(interface: &Value) -> bool {
    interface["state"] == "absent"
}

fn is_additional(network: &Value) -> bool {
    network["multus"].is_object() && network["multus"]["default"] != true
}

fn qualified(network: &Value, namespace: &str) -> String {
    let name = text(&network["multus"]["networkName"]);
    if name.contains('/') { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// Returns whether KubeVirt takes the pod interfaces of a guest for ordinal ones: the first known name decides.
fn has_ordinal_names(networks: &[Value], status: &Value) -> bool {
    let in_status = list_of(&status["interfaces"]);
    let mut additional = networks.iter().filter(|net| is_additional(net)).peekable();
    let is_ordinal = |name: &str| {
        let number = name.strip_prefix("net").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    };
    let known = |net: &Value| by_name(&in_status, net).map(|seen| text(&seen["podInterfaceName"]).to_owned());
    additional.peek().is_some()
        && additional.filter_map(known).find(|name| !name.is_empty()).is_none_or(|name| is_ordinal(&name))
}

/// Returns a value as Go reads it into its types: an unset field is null, an empty text, `acpiIndex: 0` or
/// `default: false`.
fn decoded(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let is_unset = |key: &str, value: &Value| match key {
                "acpiIndex" if *value == json!(0) => true,
                "default" if *value == json!(false) => true,
                _ => value.is_null() || *value == json!(""),
            };
            let is_set = |key: &str, value: &Value| !is_unset(key, value);
            let fields = fields.iter().filter(|(key, value)| is_set(key, value));
            Value::Object(fields.map(|(key, value)| (key.clone(), decoded(value))).collect::<Map<_, _>>())
        }
        Value::Array(entries) => entries.iter().map(decoded).collect(),
        other => other.clone(),
    }
}

/// Returns a value as `equality.Semantic.DeepEqual` compares it: without empty lists, and without empty structs that are
/// not pointers, such as `resources`.
fn without_empty(value: &Value) -> Value {
    const STRUCTS: [&str; 8] =
        ["resources", "devices", "machine", "cpu", "memory", "firmware", "metadata", "nodeSelector"];
    match decoded(value) {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, without_empty(&value)));
            let is_set = |(key, value): &(String, Value)| {
                *value != json!([]) && !(STRUCTS.contains(&&**key) && *value == json!({}))
            };
            Value::Object(fields.filter(is_set).collect())
        }
        Value::Array(entries) => entries.iter().map(without_empty).collect(),
        other => other,
    }
}
