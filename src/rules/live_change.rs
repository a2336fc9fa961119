//! NP108.

pub(super) mod forecast;
mod next_boot;
mod pool;
pub(super) mod timing;

use self::forecast::{Difference, Forecast, NETWORK_NAME, Restart, Swap};
use super::{
    AtRestart, Case, CauseType, Finding,
    attachment_path::{changed_address, shut_down},
    rule,
};
use crate::{
    annotations::interfaces::DEFAULT_NIC,
    api::network::Network,
    api::quote::quote,
    change::{Change, Nic},
    facts::{
        Expansion, Fact, FactKind, Vmi,
        kubevirt::{AutoMigration, KubeVirt},
        nic::{HotplugMethod, NetworkRole},
        vmi::Migratable,
    },
};

rule! {
    /// A NIC of a running VM is removed or changed in a way that needs a restart.
    ///
    /// ## Why
    /// KubeVirt adds NICs to a running guest, unplugs those with `state: absent`, and sets links up and down. Every
    /// other change waits for the next restart; until then the VM has the condition RestartRequired, which keeps back
    /// changes of CPUs and memory, but not of NICs. Such a change is often a mistake: `interfaces` and `networks` are
    /// atomic lists, so applying an outdated manifest replaces both lists and removes a NIC that was plugged in the
    /// meantime. Where a removal has to unplug the NIC, as under GitOps, annotate the VM with `nicplug.io/unplug: dropped`:
    /// nicplug then writes the NIC back with `state: absent`.
    ///
    /// KubeVirt compares the template with the running guest, not with the template before, and letter by letter:
    /// writing `model: virtio` where none stood asks for a restart, and writing back what the guest has removes the
    /// condition. `networkInterfaceMultiqueue` and `autoattachPodInterface` are compared too. It applies the preference of
    /// the VM first, to the template and not to a plugged NIC: under a preferred model, a plugged NIC without `model`
    /// asks for a restart, and one with `model: virtio` does not.
    ///
    /// A changed `networkName` is applied by live migration, with the feature gate LiveUpdateNADRef of KubeVirt 1.8 or
    /// since 1.9. KubeVirt copies the name at once, even if another field of the NIC waits. The name of the default
    /// network is copied and takes effect at the next boot. If the guest cannot migrate, also for want of another node
    /// that it may run on, it keeps the condition MigrationRequired. If those nodes are cordoned or do not offer the
    /// resource of the network, or if a ResourceQuota has no room for a second pod, the migration waits. As for NP112,
    /// KubeVirt may evict the guest instead, and the migration may change the address of another NIC.
    ///
    /// If a VM, running or stopped, has no NIC in its template, KubeVirt gives it one on the pod network, unless
    /// `autoattachPodInterface` is false. The first NIC in the template removes this default NIC at the next boot, and a
    /// template that loses its last NIC gets it.
    ///
    /// KubeVirt removes an entry with `state: absent` if the guest does not have the NIC, so a tool that applies the same
    /// manifest again and KubeVirt undo each other's change. A link that is set down under a liveness or readiness probe
    /// by TCP or HTTP makes the probe fail: after a failed liveness probe KubeVirt kills the guest.
    ///
    /// An update of a VirtualMachinePool restarts its guests: KubeVirt deletes each guest whose VM differs from the template
    /// of the pool, at most `maxUnavailable` together (by default all), and its VM starts it anew. With `updateStrategy`
    /// `opportunistic` the pool changes its VMs only, and with `unmanaged` nothing.
    ///
    /// ## Example
    /// A manifest without `dyniface1` is applied to a VM that runs with this NIC:
    /// ```yaml
    /// interfaces:
    /// - name: defaultnetwork
    ///   masquerade: {}
    /// ```
    NP108, "live-change", Hotplug, Warn,
    field: "domain.devices.interfaces[]",
    fix: "unplug with state: absent, add the removed NIC again, or restart the VM",
}

fn check(case: &Case) -> Vec<Finding> {
    if let Some(pool) = case.change.after.pool {
        return pool::check(case, pool).into_iter().collect();
    }
    // Only KubeVirt changes a VMI, and it changes only what it can apply.
    if case.change.after.vm.is_none() {
        return Vec::new();
    }
    let mut findings = if case.is_new() { Vec::new() } else { evaluate_update(case) };
    findings.extend(next_boot::check(case));
    findings
}

fn evaluate_update(case: &Case) -> Vec<Finding> {
    let nics = &case.change.nics;
    let needs_guest = !nics.removed.is_empty() || !nics.modified.is_empty();
    match case.live() {
        // An entry of status.interfaceRequests changes no template yet.
        Fact::Known(vmi) if case.change.requests.is_none() => evaluate_live(case, vmi),
        Fact::Unknown if needs_guest => case.if_live(&RULE, |_| Vec::new()),
        _ => evaluate_first(case.change).into_iter().collect(),
    }
}

/// Evaluates the update of a VM that runs: at most one finding per NIC and reason.
fn evaluate_live(case: &Case, vmi: &Vmi) -> Vec<Finding> {
    let forecast = Forecast::of(case, vmi);
    let is_in_request = |difference: &&Difference| is_of_request(case.change, difference);
    let differences = &forecast.differences;
    let of_request: Vec<&Difference> = differences.iter().filter(is_in_request).collect();
    let mut findings: Vec<Finding> =
        forecast.swapped.iter().filter_map(|swap| evaluate_swap(case, vmi, swap, &forecast)).collect();
    findings.extend(evaluate_consequences(case, vmi, &forecast));
    let is_reported = |difference: &&&Difference| match difference {
        Difference::Field(nic, _) => !is_reported_with_swap(vmi, nic, &forecast),
        _ => true,
    };
    match forecast.restart {
        Restart::New if of_request.is_empty() => {
            // The start of the guest is unknown here, or an earlier difference counts only now.
            findings.extend(differences.iter().map(|difference| evaluate_earlier(case, difference)));
        }
        Restart::New => {
            let evaluate = |difference: &&Difference| evaluate_difference(case, vmi, difference);
            findings.extend(of_request.iter().filter(is_reported).map(evaluate));
        }
        Restart::Standing => findings.extend(of_request.iter().map(|difference| evaluate_standing(case, difference))),
        Restart::None | Restart::Withdrawn => {
            findings.extend(of_request.iter().filter_map(|difference| evaluate_dropped(case, difference)));
        }
    }
    let is_unknown = |expansion: &Expansion| matches!(expansion.preference, Fact::Unknown);
    if case.change.changes_preference() && case.facts.expansion().is_some_and(is_unknown) {
        findings.push(RULE.unchecked("what the new preference changes was not checked: it cannot be read"));
    }
    findings
}

/// Returns whether the request itself makes a difference to the guest, rather than an earlier one.
fn is_of_request(change: &Change, difference: &Difference) -> bool {
    let nics = &change.nics;
    let mut new = nics.modified.iter().map(|(_, nic)| nic).chain(&nics.set_absent).chain(&nics.added);
    match difference {
        Difference::Dropped(guest) => {
            let is_automatic = change.before.is_some_and(|before| before.guest.gets_default_nic());
            is_automatic || nics.removed.iter().any(|nic| *nic.name == *guest.name)
        }
        Difference::Field(nic, _) | Difference::NoModel(nic, _) => {
            change.changes_preference() || new.any(|changed| changed.name == nic.name)
        }
        Difference::PodNetwork(_) => !nics.is_empty(),
        Difference::Devices(_) => change.changes_all_nics(),
    }
}

/// Returns whether the finding about the new network of a NIC names its waiting field too.
fn is_reported_with_swap(vmi: &Vmi, nic: &Nic, forecast: &Forecast) -> bool {
    let is_swapped = |swap: &Swap| swap.nic.name == nic.name && swap.guest.role == NetworkRole::Additional;
    vmi.migratable == Migratable::Yes && forecast.swapped.iter().any(is_swapped)
}

/// How to keep the default NIC beside the first one of a template.
const KEEP_DEFAULT_NIC: &str =
    "add that NIC too (a network with pod: {}), or set autoattachPodInterface: false to remove it";

/// Evaluates the first NIC of a template, which replaces the default NIC that KubeVirt gives to a guest without any
/// (`pkg/network/vmispec/defaults.go`).
fn evaluate_first(change: &Change) -> Option<Finding> {
    let after = change.after.guest;
    let had_default = change.before.is_some_and(|before| before.guest.gets_default_nic());
    let is_intended = after.domain.devices.autoattach_pod_interface == Some(false);
    if !had_default || is_intended || after.networks.iter().any(Network::is_default) {
        return None;
    }
    let nic = change.nics.added.iter().find(|nic| !nic.is_absent())?;
    let what = format!("adding {} removes the default pod-network NIC at the next boot", quote(nic.name));
    Some(RULE.fault(CauseType::Invalid, change.nic_field(nic), what).with_fix(KEEP_DEFAULT_NIC.to_owned()))
}

/// Evaluates a difference that the request makes and for which KubeVirt asks for a restart.
fn evaluate_difference(case: &Case, vmi: &Vmi, difference: &Difference) -> Finding {
    let change = case.change;
    let is_automatic =
        |name: &str| name == DEFAULT_NIC && change.before.is_some_and(|before| before.guest.gets_default_nic());
    let what = match difference {
        Difference::Dropped(guest) if is_automatic(&guest.name) => {
            let first = change.nics.added.first().map_or("", |nic| nic.name);
            format!(
                "with {first} the guest loses its automatic pod NIC {} at the next restart",
                quote(&guest.name),
                first = quote(first)
            )
        }
        Difference::Dropped(guest) if guest.is_absent => {
            format!("{} was dropped before it is unplugged: KubeVirt asks for a restart", quote(&guest.name))
        }
        Difference::Dropped(guest) => {
            format!("{} was dropped without state: absent: the guest keeps it until a restart", quote(&guest.name))
        }
        Difference::Field(nic, _) if is_automatic(nic.name) => {
            format!("the automatic pod NIC {} changes at the next restart: the VM is running", quote(nic.name))
        }
        Difference::Field(nic, NETWORK_NAME) => {
            let name = nic.name;
            if case.facts.kubevirt.known().is_none() {
                let what = format!(
                    "how the network of {name} changes was not checked: no KubeVirt resource is known",
                    name = quote(name)
                );
                return RULE.unknown(FactKind::KubeVirt, what);
            }
            format!("the network of {name} changes at the next restart: LiveUpdateNADRef is off", name = quote(name))
        }
        Difference::Field(nic, field) => {
            format!("{field} of {} changes at the next restart: the VM is running", quote(nic.name))
        }
        Difference::PodNetwork(Some(nic)) => {
            format!("{} comes at the next restart: the running guest has no pod network", quote(nic.name))
        }
        Difference::PodNetwork(None) => {
            "the pod network comes at the next restart: the running guest has none".to_owned()
        }
        Difference::NoModel(nic, model) => {
            let what = match *model {
                "virtio" => format!(
                    "{} has no model: KubeVirt compares none with the preference's \"virtio\" and asks for a restart",
                    quote(nic.name)
                ),
                model => format!(
                    "{} has no model: the preference's {model} differs from its virtio device and asks for a \
                     restart",
                    quote(nic.name),
                    model = quote(model)
                ),
            };
            return fault(case, difference, what).with_fix("write model: virtio".to_owned());
        }
        Difference::Devices(field) => format!("{field} changes at the next restart: the VM is running"),
    };
    let finding = fault(case, difference, what);
    match difference {
        Difference::Dropped(guest) if is_automatic(&guest.name) => finding.with_fix(KEEP_DEFAULT_NIC.to_owned()),
        Difference::Dropped(_) => finding,
        Difference::Field(nic, _)
            if vmi.nic(nic.name).is_some_and(|nic| case.plug_of_guest(nic) != HotplugMethod::None) =>
        {
            finding
        }
        _ => finding.with_fix("undo the change, or restart the VM".to_owned()),
    }
}

/// Evaluates a difference of an earlier request, for which KubeVirt asks for a restart now.
fn evaluate_earlier(case: &Case, difference: &Difference) -> Finding {
    let what = match difference {
        Difference::Dropped(guest) => {
            format!("the guest has {}, the template does not: it takes a restart", quote(&guest.name))
        }
        Difference::Field(nic, field) => {
            format!("{field} of {} differs from the guest's: it takes effect at the next restart", quote(nic.name))
        }
        Difference::NoModel(nic, _) => {
            format!("model of {} differs from its device's until a restart", quote(nic.name))
        }
        Difference::PodNetwork(_) => "the guest gets the pod network of the template at the next restart".to_owned(),
        Difference::Devices(field) => format!("{field} differs from the guest's: it takes effect at the next restart"),
    };
    fault(case, difference, what)
}

/// Evaluates a difference to a guest whose VM requires a restart already: the request does not change that.
fn evaluate_standing(case: &Case, difference: &Difference) -> Finding {
    let what = match difference {
        Difference::Dropped(guest) => {
            format!("the removal of {} waits for the next boot as the earlier changes do", quote(&guest.name))
        }
        Difference::Field(nic, field) => {
            format!("{field} of {} waits for the next boot as the earlier changes do", quote(nic.name))
        }
        Difference::NoModel(nic, _) => {
            format!("model of {} waits for the next boot as the earlier changes do", quote(nic.name))
        }
        Difference::PodNetwork(_) => "the pod network waits for the next boot as the earlier changes do".to_owned(),
        Difference::Devices(field) => format!("{field} waits for the next boot as the earlier changes do"),
    };
    fault(case, difference, what)
}

/// Evaluates a NIC that a request drops although KubeVirt asks for no restart: the template is as at the start again.
fn evaluate_dropped(case: &Case, difference: &Difference) -> Option<Finding> {
    match difference {
        Difference::Dropped(guest) if !guest.is_absent => {
            let what = format!(
                "{} was dropped and stays in the guest until it powers off; KubeVirt reports nothing",
                quote(&guest.name)
            );
            Some(fault(case, difference, what))
        }
        _ => None,
    }
}

fn fault(case: &Case, difference: &Difference, what: String) -> Finding {
    let path = case.change.after.path;
    let field = match difference {
        Difference::Field(nic, _) | Difference::NoModel(nic, _) | Difference::PodNetwork(Some(nic)) => {
            case.change.nic_field(nic)
        }
        Difference::Devices(field) => format!("{path}.domain.devices.{field}"),
        Difference::Dropped(_) => format!("{path}.domain.devices.interfaces"),
        Difference::PodNetwork(None) => format!("{path}.networks"),
    };
    RULE.fault(CauseType::Invalid, field, what)
}

/// Evaluates a changed network, whose name KubeVirt copies to the guest at once.
fn evaluate_swap(case: &Case, vmi: &Vmi, swap: &Swap, forecast: &Forecast) -> Option<Finding> {
    let Swap { nic, guest, network } = swap;
    let name = nic.name;
    let kubevirt = case.facts.kubevirt.known().filter(|_| swap.is_of_request(case))?;
    let field = case.change.nic_field(nic);
    if guest.role != NetworkRole::Additional {
        // Only where RestartRequired is newly set does a text of this rule have the word in small letters.
        let what = format!(
            "{network} for default network {name} is stored and sets no RestartRequired: next boot",
            network = quote(network),
            name = quote(name)
        );
        return Some(RULE.fault(CauseType::Invalid, field, what));
    }
    let reason = match &vmi.migratable {
        Migratable::Yes if nic.is_absent() => {
            let what = format!(
                "{name} is being unplugged, and asks for a live migration to {network} all the same",
                name = quote(name),
                network = quote(network)
            );
            return Some(RULE.advice(field, what));
        }
        Migratable::Yes => return Some(evaluate_migration(case, vmi, swap, forecast, kubevirt)),
        Migratable::No { reason, .. } => &**reason,
        // KubeVirt treats a VM without the condition as one that cannot migrate.
        Migratable::Unknown => "not LiveMigratable yet",
    };
    let what = format!(
        "{name} needs a live migration to {network}, which the guest cannot do ({reason})",
        name = quote(name),
        network = quote(network)
    );
    Some(RULE.fault(CauseType::Invalid, field, what).with_fix(NO_TARGET.to_owned()))
}

/// Evaluates a changed network of a guest that can migrate, as far as its condition says.
fn evaluate_migration(case: &Case, vmi: &Vmi, swap: &Swap, forecast: &Forecast, kubevirt: &KubeVirt) -> Finding {
    let Swap { nic, network, .. } = swap;
    let name = nic.name;
    let field = case.change.nic_field(nic);
    match case.obstacle(vmi, nic) {
        Some(obstacle) if obstacle.is_lasting() => {
            let what = format!(
                "{name} needs a live migration to {network}, and {obstacle}",
                name = quote(name),
                network = quote(network)
            );
            return RULE.fault(CauseType::Invalid, field, what).with_fix(NO_TARGET.to_owned());
        }
        Some(obstacle) => {
            return RULE
                .advice(field, format!("{name} waits: it needs a live migration, and {obstacle}", name = quote(name)));
        }
        None => {}
    }
    match forecast.waiting_field(name).filter(|_| forecast.restart == Restart::New) {
        None => RULE.advice(field, by_migration(name, kubevirt, vmi)),
        Some(waits) if is_bridge_on_sriov(case, swap) => {
            let what = format!(
                "{waits} of {name} waits for the restart, but a live migration puts its bridge NIC",
                name = quote(name)
            );
            RULE.fault(CauseType::Invalid, field, format!("{what} on SR-IOV {network} now", network = quote(network)))
        }
        Some(waits) => {
            let what = format!(
                "{name} moves to {network} now by a live migration, while {waits} waits",
                name = quote(name),
                network = quote(network)
            );
            RULE.fault(CauseType::Invalid, field, format!("{what} for the restart"))
                .at_restart(AtRestart::AppliedAtOnce)
        }
    }
}

/// Whether the migration moves a NIC that has bridge binding in the guest to a network of SR-IOV devices.
fn is_bridge_on_sriov(case: &Case, swap: &Swap) -> bool {
    let nad = case.facts.known_nad(&swap.nic, case.change.subject.namespace);
    swap.guest.hotplug == HotplugMethod::Bridge && nad.is_some_and(|nad| nad.network.is_sriov())
}

/// Evaluates what the migration that a changed network needs does beside it: it may change addresses of other NICs, and
/// KubeVirt may evict the guest instead.
fn evaluate_consequences(case: &Case, vmi: &Vmi, forecast: &Forecast) -> Option<Finding> {
    let is_swapped = |name: &str| forecast.swapped.iter().any(|swap| swap.nic.name == name);
    let swap = forecast.swapped.iter().find(|swap| swap.guest.role == NetworkRole::Additional)?;
    let nic = case.change.nic(swap.nic.name)?;
    let kubevirt = case.facts.kubevirt.known()?;
    let field = case.change.nic_field(nic);
    let shuts_down = kubevirt.auto_migration(vmi) == AutoMigration::ShutDown;
    if vmi.migratable != Migratable::Yes {
        return shuts_down.then(|| RULE.advice(field, shut_down(nic.name, kubevirt)));
    }
    let obstacle = case.obstacle(vmi, nic);
    if shuts_down || obstacle.is_some_and(|obstacle| obstacle.is_lasting()) {
        return None;
    }
    Some(RULE.advice(field, changed_address(case.facts, |name| !is_swapped(name))?))
}

const NO_TARGET: &str = "put the old network back, or change it while the VM is stopped";

fn by_migration(name: &str, kubevirt: &KubeVirt, vmi: &Vmi) -> String {
    match kubevirt.auto_migration(vmi) {
        AutoMigration::ShutDown => shut_down(name, kubevirt),
        AutoMigration::Off(setting) => {
            format!("the network of {name} waits for a migration: KubeVirt lacks {setting}", name = quote(name))
        }
        AutoMigration::On | AutoMigration::TooOld(_) | AutoMigration::Unknown => {
            format!("the network of {name} is changed by a live migration of the VM", name = quote(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::RULE;
    use crate::{
        api::instancetype::PreferredDevices,
        facts::{
            Expansion, Expansions, Fact, GuestNetwork, Preference, nad::Nad, nic::hash_of_interface, vmi::Migratable,
        },
        rules::testing::{Expect, Hotplug, table, table_of_updates},
    };

    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]);
    const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
    const OTHER_NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "net-b"}}"#;
    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;

    #[test]
    fn a_removed_nic_is_named() {
        let removed = Hotplug::remove((NIC, NET));
        removed.expect(&RULE, &Expect::Faults(&["spec.template.spec.domain.devices.interfaces"]));
        assert!(removed.findings(&RULE)[0].what.contains("\"dyniface1\""));
    }

    #[test]
    fn a_nic_that_was_unplugged_before_may_be_removed() {
        let absent = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
        Hotplug::remove((absent, NET)).expect(&RULE, &Expect::Silent);
        Hotplug::remove((NIC, NET)).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_changed_field_needs_a_restart_and_a_link_state_does_not() {
        for (fields, expect) in [
            (r#""bridge": {}, "state": "down""#, Expect::Silent),
            (r#""bridge": {}, "state": "up""#, Expect::Silent),
            (r#""bridge": {}, "state": "absent""#, Expect::Silent),
            (r#""bridge": {}, "model": "virtio""#, FAULT),
            (r#""bridge": {}, "model": """#, Expect::Silent),
            (r#""bridge": {}, "ports": []"#, Expect::Silent),
            (r#""bridge": {}, "dhcpOptions": {}"#, FAULT),
            (r#""bridge": {}, "model": "e1000e""#, FAULT),
            (r#""bridge": {}, "macAddress": "02:00:00:00:00:01""#, FAULT),
            (r#""sriov": {}"#, FAULT),
        ] {
            let new = format!(r#"{{"name": "dyniface1", {fields}}}"#);
            Hotplug::modify((NIC, NET), (&new, NET)).expect(&RULE, &expect);
        }
        Hotplug::modify((NIC, NET), (NIC, r#"{"name": "dyniface1", "pod": {}}"#)).expect(&RULE, &FAULT);
    }

    #[test]
    fn a_network_is_changed_by_migration_if_the_vm_can_migrate() {
        let changed = || Hotplug::modify((NIC, NET), (NIC, OTHER_NET));
        changed().expect(&RULE, &Expect::Advice);
        changed().kubevirt("v1.5.0", &[]).expect(&RULE, &FAULT);
        changed().kubevirt("v1.8.4", &[]).expect(&RULE, &FAULT);
        changed().kubevirt("v1.8.4", &["LiveUpdateNADRef"]).expect(&RULE, &Expect::Advice);
        let no = Migratable::No { reason: "DisksNotLiveMigratable".into(), message: "".into() };
        changed().vmi(|vmi| vmi.migratable = no).expect(&RULE, &FAULT);
        changed().vmi(|vmi| vmi.migratable = Migratable::Unknown).expect(&RULE, &FAULT);
        changed().kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        let without_method = changed().rollout("Stage", &[]).findings(&RULE);
        assert!(without_method[0].what.contains("lacks workloadUpdateMethods"), "{without_method:?}");
    }

    #[test]
    fn the_migration_of_a_changed_network_may_change_addresses_or_be_an_eviction() {
        let swap = || Hotplug::modify((NIC, NET), (NIC, OTHER_NET));
        let with_address = |case: Hotplug, nic: &str| {
            let nad = Arc::new(Nad::read(r#"{"type": "bridge", "ipam": {"type": "dhcp"}}"#, ""));
            case.facts(|facts| facts.guest_networks = vec![GuestNetwork { nic: nic.into(), nad }])
        };
        let no = || Migratable::No { reason: "DisksNotLiveMigratable".into(), message: "".into() };
        for (case, count, part) in [
            (swap(), 1, "by a live migration"),
            (with_address(swap(), "lan"), 2, "a migration may change the address of \"lan\": dhcp keeps none"),
            (with_address(swap(), "dyniface1"), 1, "by a live migration"),
            (with_address(swap(), "lan").vmi(|vmi| vmi.migratable = no()), 1, "cannot do"),
            (with_address(swap(), "lan").nodes(&["{}"]), 1, "one node"),
            (swap().rollout("", &["Evict"]), 1, "without LiveMigrate KubeVirt shuts the guest down"),
            (swap().rollout("", &["Evict"]).vmi(|vmi| vmi.migratable = no()), 2, "KubeVirt shuts the guest down"),
        ] {
            let findings = case.findings(&RULE);
            assert_eq!(findings.len(), count, "{findings:?}");
            assert!(findings[count - 1].what.contains(part), "{findings:?}");
        }
    }

    #[test]
    fn the_same_network_by_another_name_changes_nothing() {
        let qualified = r#"{"name": "dyniface1", "multus": {"networkName": "demo/new-fancy-net"}}"#;
        let renamed = || Hotplug::modify((NIC, NET), (NIC, qualified));
        renamed().expect(&RULE, &Expect::Silent);
        renamed().kubevirt("v1.8.4", &[]).expect(&RULE, &FAULT);
    }

    #[test]
    fn a_network_is_copied_at_once_even_if_another_field_waits() {
        let new = r#"{"name": "dyniface1", "bridge": {}, "macAddress": "02:00:00:00:00:01"}"#;
        let both = || Hotplug::modify((NIC, NET), (new, OTHER_NET));
        both().expect(&RULE, &FAULT);
        let findings = both().findings(&RULE);
        let what = "\"dyniface1\" moves to \"net-b\" now by a live migration, while macAddress waits for the restart";
        assert_eq!(findings[0].what, what);
    }

    #[test]
    fn a_bridge_nic_that_a_migration_puts_on_an_sriov_network_is_named() {
        let sriov = r#"{"name": "dyniface1", "sriov": {}}"#;
        let config = r#"{"type": "sriov"}"#;
        let case =
            Hotplug::modify((NIC, NET), (sriov, OTHER_NET)).with_nad("demo/net-b", Nad::read(config, "example.com/vf"));
        let what = "the binding of \"dyniface1\" waits for the restart, but a live migration puts its bridge NIC on \
                    SR-IOV \"net-b\" now";
        // The nodes of the builder do not offer the resource.
        assert_eq!(case.facts(|facts| facts.nodes = Fact::Unknown).findings(&RULE)[0].what, what);
    }

    #[test]
    fn a_network_that_no_other_node_can_take_is_reported() {
        const CORDONED: &str = r#"{"spec": {"unschedulable": true}}"#;
        for (nodes, expect, part) in [
            (&["{}"][..], FAULT, "(one node)"),
            (&["{}", CORDONED], Expect::Advice, "migration, and the other nodes are cordoned (node-1)"),
            (&["{}", "{}"], Expect::Advice, "is changed by a live migration"),
        ] {
            let swapped = Hotplug::modify((NIC, NET), (NIC, OTHER_NET)).nodes(nodes);
            swapped.expect(&RULE, &expect);
            let findings = swapped.findings(&RULE);
            assert!(findings[0].what.contains(part), "{findings:?}");
        }
    }

    #[test]
    fn the_network_of_the_default_nic_waits_for_the_next_boot() {
        let [old, new] = ["new-fancy-net", "net-b"].map(|network| {
            format!(r#"{{"name": "dyniface1", "multus": {{"networkName": "{network}", "default": true}}}}"#)
        });
        let changed = Hotplug::modify((NIC, &old), (NIC, &new));
        changed.expect(&RULE, &FAULT);
        assert!(changed.findings(&RULE)[0].what.contains("next boot"));
    }

    #[test]
    fn the_text_of_a_mac_address_counts_and_a_return_to_the_guest_does_not() {
        let [lower, upper, other] = ["02:00:00:00:00:0a", "02-00-00-00-00-0A", "02:00:00:00:00:0b"]
            .map(|mac| format!(r#"{{"name": "dyniface1", "bridge": {{}}, "macAddress": "{mac}"}}"#));
        Hotplug::modify((&lower, NET), (&upper, NET)).expect(&RULE, &FAULT);
        let mac = "02:00:00:00:00:0a".parse().ok();
        let guest_has = |hotplug: Hotplug| hotplug.vmi(|vmi| vmi.macs = [None, mac].into());
        guest_has(Hotplug::modify((&other, NET), (&lower, NET))).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_nic_without_an_entry_in_the_guests_spec_is_compared_with_nothing() {
        let new = r#"{"name": "dyniface1", "bridge": {}, "model": "virtio"}"#;
        let not_copied = Hotplug::modify((NIC, NET), (new, NET));
        not_copied.vmi(|vmi| Arc::make_mut(&mut vmi.nics).truncate(1)).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn fields_of_all_nics_are_compared_with_the_guest() {
        const FIELD: &str = "spec.template.spec.domain.devices.networkInterfaceMultiqueue";
        // The builder writes the same devices before and after, so another NIC has to change.
        let down = r#"{"name": "dyniface1", "bridge": {}, "state": "down"}"#;
        let with_link = Hotplug::modify((NIC, NET), (down, NET)).vmi(|vmi| vmi.multiqueue = Some(true));
        with_link.expect(&RULE, &Expect::Faults(&[FIELD]));
    }

    #[test]
    fn under_a_preferred_model_a_plugged_nic_must_name_virtio() {
        let with = |fields: &str| format!(r#"{{"name": "dyniface1", "bridge": {{}}{fields}}}"#);
        let modify = |fields: &str| Hotplug::modify((NIC, NET), (&with(fields), NET));
        let model = |model: &str| format!(r#", "model": "{model}""#);
        let said = |hotplug: &Hotplug| -> Vec<String> {
            hotplug.findings(&RULE).into_iter().map(|finding| finding.what).collect()
        };
        for (change, preferred, expected) in [
            (Hotplug::of(NIC), "e1000e", Some("\"dyniface1\" has no model: the preference's \"e1000e\" differs")),
            (Hotplug::of(NIC), "virtio", Some("\"dyniface1\" has no model: KubeVirt compares none with")),
            (Hotplug::of(&with(&model("virtio"))), "e1000e", None),
            (Hotplug::of(NIC), "", None),
            // What the preference has set is written out, and changed.
            (modify(&model("e1000e")), "e1000e", None),
            (modify(&model("virtio")), "e1000e", Some("model of \"dyniface1\" changes at the next restart")),
            (modify(r#", "state": "down""#), "e1000e", None),
        ] {
            let read = change.preferring(&format!(r#""preferredInterfaceModel": "{preferred}""#));
            let what = said(&read);
            let is_expected = |what: &[String]| match expected {
                Some(expected) => what.len() == 1 && what[0].starts_with(expected),
                None => what.is_empty(),
            };
            assert!(is_expected(&what), "{preferred}: {what:?}");
            // Where it cannot be read, it is inferred from the running guest.
            let what = said(&read.unread());
            assert!(is_expected(&what), "{preferred}, not read: {what:?}");
        }
        let finding = Hotplug::of(NIC).preferring(r#""preferredInterfaceModel": "e1000e""#).findings(&RULE).remove(0);
        assert_eq!(finding.fix, "write model: virtio");
    }

    #[test]
    fn a_preferred_binding_is_no_difference() {
        let on_pod = r#"{"name": "dyniface1", "pod": {}}"#;
        let change = || {
            let unbound = r#"{"name": "dyniface1"}"#;
            let down = r#"{"name": "dyniface1", "state": "down"}"#;
            let bound = serde_json::from_str(r#"{"name": "dyniface1", "masquerade": {}}"#).unwrap();
            Hotplug::modify((unbound, on_pod), (down, on_pod))
                .vmi(|vmi| Arc::make_mut(&mut vmi.nics)[1].interface_hash = hash_of_interface(&bound))
        };
        let preferred = || change().preferring(r#""preferredInterfaceMasquerade": {}"#);
        preferred().expect(&RULE, &Expect::Silent);
        preferred().unread().expect(&RULE, &Expect::Silent);
        change().expect(&RULE, &FAULT);
    }

    #[test]
    fn another_preference_changes_the_nics_that_leave_a_field_to_it() {
        let none = || Expansion { instancetype: Fact::Absent, preference: Fact::Absent };
        let preferring = |model: &str| {
            let devices = PreferredDevices { interface_model: model.into(), ..PreferredDevices::default() };
            let preference = Preference { devices, ..Preference::default() };
            Expansion { preference: Fact::Known(Arc::new(preference)), ..none() }
        };
        let to = |after: Expansion| {
            let change = Hotplug::modify((NIC, NET), (NIC, NET)).spec(r#""preference": {"name": "other"}"#);
            change.facts(|facts| facts.expansions = Some(Box::new(Expansions { before: none(), after })))
        };
        let changed = to(preferring("e1000e")).findings(&RULE);
        let what: Vec<&str> = changed.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(what.len(), 2, "{what:?}");
        assert!(what.iter().all(|what| what.starts_with("model of ")), "{what:?}");
        to(preferring("")).expect(&RULE, &Expect::Silent);
        to(Expansion::default()).expect(&RULE, &Expect::Unchecked);
    }

    #[test]
    fn the_first_nic_removes_the_default_nic() {
        const DYNIFACE1: &str = r#"{"networks": [{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}],
            "domain": {"devices": {"interfaces": [{"name": "dyniface1", "bridge": {}}]}}}"#;
        const WITH_POD: &str = r#"{"networks": [{"name": "default", "pod": {}}, {"name": "a", "multus": {"networkName": "n"}}],
            "domain": {"devices": {"interfaces": [{"name": "default", "bridge": {}}, {"name": "a", "bridge": {}}]}}}"#;
        const INTENDED: &str = r#"{"networks": [{"name": "a", "multus": {"networkName": "n"}}], "domain": {"devices": {
            "autoattachPodInterface": false, "interfaces": [{"name": "a", "bridge": {}}]}}}"#;
        const FIELD: &str = "spec.template.spec.domain.devices.interfaces[0]";
        table_of_updates(
            &RULE,
            &[(DYNIFACE1, Expect::Faults(&[FIELD])), (WITH_POD, Expect::Silent), (INTENDED, Expect::Silent)],
        );
        table(&RULE, &[(DYNIFACE1, Expect::Silent)]);
    }

    #[test]
    fn an_unknown_vmi_is_reported() {
        Hotplug::remove((NIC, NET)).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
