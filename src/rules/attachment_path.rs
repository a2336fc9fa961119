//! NP112.

mod injector;

use super::{AtRestart, Case, CauseType, Finding, FindingKind, rule};
use crate::{
    api::quote::{QUOTED_AT_MOST, cut, quote},
    change::Nic,
    facts::{
        Fact, FactKind, Facts, Vmi,
        attachment::{InPlace, ReadyNodes},
        kubevirt::{AutoMigration, KubeVirt},
        migration::{Obstacle, missing_on_own_node},
        nic::HotplugMethod,
        vmi::Migratable,
    },
    kubevirt::Version,
    settings::DynamicNetworks,
};

rule! {
    /// A NIC is plugged into a running VM, but the cluster cannot attach it, or only by a live migration.
    ///
    /// ## Why
    /// A NIC reaches a running guest in one of two ways. In place: Multus as a daemon and its dynamic-networks
    /// controller attach the NIC to the pod. By live migration: the target pod is created with the NIC; SR-IOV always
    /// uses this way. If neither is possible, the NIC waits forever, and nothing reports it. Since KubeVirt 1.6 the
    /// migration starts automatically, but only with `LiveMigrate` in the `workloadUpdateMethods` of the KubeVirt
    /// resource; `vmRolloutStrategy` does not matter. Before 1.6 a user has to create a VirtualMachineInstanceMigration.
    ///
    /// With `Evict` among these methods KubeVirt evicts a guest that it does not migrate, because `LiveMigrate` is not listed
    /// or the guest cannot migrate. Its eviction strategy decides what that does: `None` shuts it down.
    ///
    /// Since KubeVirt 1.9, or with the feature gate ExternalNetResourceInjection, KubeVirt does not read which device-plugin
    /// resource a network names: the network-resources-injector, a mutating webhook for pods, adds it. Without that
    /// webhook an SR-IOV NIC gets no device, and a guest on another network with a resource may start on a node that
    /// does not have it. The rule warns if none of the MutatingWebhookConfigurations is the injector's, by its usual
    /// names.
    ///
    /// Without Multus not even a new guest gets the NIC, so the rule also warns about the creation of a VM with a
    /// multus network if none of the cluster's DaemonSets is Multus, or none of its pods is ready. If Multus runs in no
    /// DaemonSet, set `attachment.dynamicNetworks: yes`. A migration may change the address of a NIC that IPAM of type
    /// host-local, whereabouts or dhcp assigns, or OVN-Kubernetes without `allowPersistentIPs`; the rule names one.
    ///
    /// A migration also needs another node. KubeVirt keeps the target pod off the guest's own node, with the
    /// guest's `nodeSelector` and node affinity; the condition LiveMigratable does not consider them. So a guest that
    /// only its own node fits can never migrate. If the nodes that fit are cordoned, or offer none of the device-plugin
    /// resource that the network names (`k8s.v1.cni.cncf.io/resourceName`), the NIC waits. Taints are not judged.
    ///
    /// The setting `attachment.neverInPlace` names CNI plugins that attach a NIC only while a pod is created, and
    /// `attachment.neverByMigration` those with which a guest does not migrate.
    ///
    /// During a migration the guest has two pods: if a ResourceQuota of the namespace has no room for the second one,
    /// the NIC waits too.
    ///
    /// In place nothing looks for a node: bridge-marker and ovs-cni offer a resource on each node that has the bridge.
    /// If the guest's own node does not offer it, the NIC cannot be attached there.
    ///
    /// ## Example
    /// A NIC is added to a running VM in a cluster without a dynamic-networks controller, and the VM has a disk that
    /// only its own node can access:
    /// ```yaml
    /// kind: VirtualMachineInstance
    /// status:
    ///   conditions:
    ///   - type: LiveMigratable
    ///     status: "False"
    ///     reason: DisksNotLiveMigratable
    /// ```
    NP112, "attachment-path", Hotplug, Deny,
    field: "domain.devices.interfaces[]",
    fix: "deploy the dynamic-networks controller of Multus, make the VM live-migratable, or stop it first",
}

/// The first version that hotplugs SR-IOV NICs.
const SRIOV_SINCE: Version = Version::new(1, 1, 0);

/// The longest message of a condition that a finding quotes, in characters.
const MESSAGE_AT_MOST: usize = 160;

fn check(case: &Case) -> Vec<Finding> {
    if case.is_new() {
        return evaluate_new(case).into_iter().chain(injector::check(case)).collect();
    }
    let mut findings = evaluate_hotplug(case);
    if findings.iter().all(|finding| finding.kind == FindingKind::Advice) {
        findings.extend(evaluate_address(case));
    }
    findings.extend(evaluate_eviction(case));
    findings.extend(injector::check(case));
    findings
}

/// Evaluates the creation of a guest with a multus network. One finding is enough: it is the same for all its NICs.
fn evaluate_new(case: &Case) -> Option<Finding> {
    let reason = missing_multus(case)?;
    let is_multus = |nic: &&Nic| nic.network_name().is_some() && !nic.is_absent();
    let nic = case.change.nics.added.iter().find(is_multus)?;
    let what = format!("{} cannot be attached and the guest cannot start: {reason}", quote(nic.name));
    Some(RULE.advice(case.change.nic_field(nic), what).with_fix("deploy Multus".to_owned()))
}

/// Returns why Multus can attach no NIC at all. `dynamicNetworks: yes` in the settings vouches for a Multus that runs
/// in no DaemonSet.
fn missing_multus(case: &Case) -> Option<String> {
    if case.settings.attachment.dynamic_networks == DynamicNetworks::Yes {
        return None;
    }
    match case.facts.attachment.known()?.multus {
        Fact::Absent => Some("the cluster runs no Multus DaemonSet".to_owned()),
        Fact::Known(ReadyNodes { ready: 0, desired }) => Some(format!("Multus is ready on 0 of {desired} nodes")),
        Fact::Known(_) | Fact::Unknown => None,
    }
}

/// Evaluates whether the migration that attaches a NIC keeps the addresses of the guest.
fn evaluate_address(case: &Case) -> Option<Finding> {
    let what = changed_address(case.facts, |_| true)?;
    Some(RULE.advice(case.change.nic_field(plugged_by_migration(case)?), what))
}

/// Returns what a migration does to the address of a NIC of the guest; see [`Facts::unstable_address`]. NP108 uses this
/// too.
pub(super) fn changed_address(facts: &Facts, is_kept: impl Fn(&str) -> bool) -> Option<String> {
    let (nic, assigned_by) = facts.unstable_address(is_kept)?;
    Some(format!(
        "a migration may change the address of {nic}: {assigned_by} keeps none (no persistent IPs)",
        nic = quote(nic)
    ))
}

/// Evaluates whether KubeVirt evicts the guest instead of migrating it. A guest that can migrate has a finding already.
fn evaluate_eviction(case: &Case) -> Option<Finding> {
    let vmi = *case.live().known()?;
    let kubevirt = case.facts.kubevirt.known().filter(|_| vmi.migratable != Migratable::Yes)?;
    let nic = plugged_by_migration(case)?;
    (kubevirt.auto_migration(vmi) == AutoMigration::ShutDown)
        .then(|| RULE.advice(case.change.nic_field(nic), shut_down(nic.name, kubevirt)))
}

/// Returns what an eviction instead of a migration does. NP108 uses this too.
pub(super) fn shut_down(name: &str, kubevirt: &KubeVirt) -> String {
    if kubevirt.updates_by_migration {
        format!(
            "{name} needs a migration, which the guest cannot do: with Evict KubeVirt shuts it down",
            name = quote(name)
        )
    } else {
        format!(
            "{name} needs a migration; with Evict and without LiveMigrate KubeVirt shuts the guest down",
            name = quote(name)
        )
    }
}

/// Returns the first plugged NIC that only a migration attaches.
fn plugged_by_migration<'c>(case: &Case<'c>) -> Option<&'c Nic<'c>> {
    case.plugged(*case.live().known()?).find(|nic| is_by_migration(case, nic))
}

/// Whether only a migration attaches a plugged NIC.
fn is_by_migration(case: &Case, nic: &Nic) -> bool {
    match case.plug_of(nic) {
        HotplugMethod::None => false,
        HotplugMethod::Sriov => !is_too_old_for_sriov(case),
        HotplugMethod::Bridge => {
            let is_in_place = !matches!(case.in_place(), Fact::Known(InPlace::No) | Fact::Absent);
            missing_multus(case).is_none() && (!is_in_place || plugin_without_hotplug(case, nic).is_some())
        }
    }
}

fn evaluate_hotplug(case: &Case) -> Vec<Finding> {
    case.each_plugged(&RULE, |nic, vmi| match case.plug_of(nic) {
        // NP102 and NP104 report NICs that cannot be hotplugged at all.
        HotplugMethod::None => None,
        HotplugMethod::Sriov if is_too_old_for_sriov(case) => None,
        HotplugMethod::Sriov => Some(evaluate_migration(case, nic, vmi, &Blocked::SRIOV)),
        HotplugMethod::Bridge => evaluate_bridge(case, nic, vmi),
    })
}

fn is_too_old_for_sriov(case: &Case) -> bool {
    case.version().is_some_and(|version| version < SRIOV_SINCE)
}

fn evaluate_bridge(case: &Case, nic: &Nic, vmi: &Vmi) -> Option<Finding> {
    let name = nic.name;
    if let Some(plugin) = plugin_without_hotplug(case, nic) {
        let because = format!("{plugin} attaches no NIC in place");
        return Some(evaluate_migration(case, nic, vmi, &Blocked { because: &because, ..Blocked::SRIOV }));
    }
    match case.in_place() {
        // The pod runs already, so nothing looks for a node that has the bridge.
        Fact::Known(InPlace::Yes) => {
            missing_on_own_node(case.facts, vmi, nic, case.change.subject.namespace).map(|resource| {
                let what = format!(
                    "{name} cannot be attached on {}: it does not offer {resource}",
                    vmi.node,
                    name = quote(name)
                );
                RULE.advice(case.change.nic_field(nic), what)
            })
        }
        Fact::Known(InPlace::SomeNodes { ready, desired }) => {
            let what = format!(
                "{name} may have to wait: the dynamic-networks controller is ready on {ready} of {desired} nodes",
                name = quote(name)
            );
            Some(RULE.advice(case.change.nic_field(nic), what))
        }
        Fact::Known(InPlace::No) | Fact::Absent => Some(match missing_multus(case) {
            Some(reason) => evaluate_without_multus(case, nic, vmi, &reason),
            None => evaluate_migration(case, nic, vmi, &Blocked::NO_CONTROLLER),
        }),
        Fact::Unknown => Some(RULE.unknown(
            FactKind::DaemonSet,
            format!("how {name} reaches the guest was not checked: DaemonSets are not known", name = quote(name)),
        )),
    }
}

/// Returns the plugin of a network that, by the settings, attaches a NIC only while the pod is created.
pub(super) fn plugin_without_hotplug<'c>(case: &Case<'c>, nic: &Nic) -> Option<&'c str> {
    let never = &case.settings.attachment.never_in_place;
    if never.is_empty() {
        return None;
    }
    let nad = case.facts.known_nad(nic, case.change.subject.namespace)?;
    let plugins = &nad.network.plugins;
    never.iter().map(String::as_str).find(|never| plugins.iter().any(|plugin| &**plugin == *never))
}

/// Evaluates a NIC that not even a migration attaches, since the target pod needs Multus too.
fn evaluate_without_multus(case: &Case, nic: &Nic, vmi: &Vmi, reason: &str) -> Finding {
    let fix = "deploy Multus and its dynamic-networks controller";
    let finding =
        evaluate_migration(case, nic, vmi, &Blocked { because: reason, fix, fix_on_one_node: fix, fix_if_pinned: fix });
    if matches!(finding.kind, FindingKind::Fault(_)) {
        // A Multus that is not ready may be ready then.
        let is_missing = case.facts.attachment.known().is_some_and(|attachment| attachment.multus == Fact::Absent);
        return if is_missing { finding.at_restart(AtRestart::Fails) } else { finding };
    }
    RULE.advice(case.change.nic_field(nic), format!("{} cannot be attached: {reason}", quote(nic.name)))
}

/// Why a NIC cannot be attached in place, and how to fix that.
struct Blocked<'s> {
    because: &'s str,
    fix: &'static str,
    /// The fix in a cluster with a single node.
    fix_on_one_node: &'static str,
    /// The fix for a guest that may run on its own node only.
    fix_if_pinned: &'static str,
}

impl Blocked<'static> {
    const NO_CONTROLLER: Self = Self {
        because: "no dynamic-networks controller is ready",
        fix: RULE.fix,
        fix_on_one_node: "deploy the dynamic-networks controller of Multus, add a node, or stop the VM first",
        fix_if_pinned: "deploy the dynamic-networks controller of Multus, let the VM run on other nodes, or stop it \
                        first",
    };
    const SRIOV: Self = Self {
        because: "an SR-IOV NIC needs a live migration",
        fix: "make the VM live-migratable, or stop it first",
        fix_on_one_node: "add a node, or stop the VM first",
        fix_if_pinned: "let the VM run on other nodes, or stop it first",
    };
}

/// Evaluates a NIC that only a migration can attach.
fn evaluate_migration(case: &Case, nic: &Nic, vmi: &Vmi, blocked: &Blocked) -> Finding {
    let Blocked { because, fix, fix_on_one_node, fix_if_pinned } = blocked;
    let name = nic.name;
    let field = case.change.nic_field(nic);
    if let Migratable::No { reason, message } = &vmi.migratable {
        let quoted = in_parentheses(reason, message);
        let what =
            format!("{name} cannot be attached: {because}, and the VM cannot migrate{quoted}", name = quote(name));
        return RULE.fault(CauseType::Invalid, field, what).with_fix((*fix).to_owned());
    }
    match case.obstacle(vmi, nic) {
        Some(Obstacle::OneNode) => {
            let what =
                format!("{name} cannot be attached: {because}, and the cluster has only one node", name = quote(name));
            return RULE.fault(CauseType::Invalid, field, what).with_fix((*fix_on_one_node).to_owned());
        }
        Some(obstacle) if obstacle.is_lasting() => {
            let what = format!("{name} cannot be attached: {because}, and {obstacle}", name = quote(name));
            let fix = if matches!(obstacle, Obstacle::Plugin { .. }) { fix } else { fix_if_pinned };
            return RULE.fault(CauseType::Invalid, field, what).with_fix((*fix).to_owned());
        }
        Some(obstacle) => {
            return RULE
                .advice(field, format!("{name} waits: it needs a live migration, and {obstacle}", name = quote(name)));
        }
        None => {}
    }
    match &vmi.migratable {
        Migratable::No { .. } | Migratable::Unknown => {
            let what = format!(
                "{name} needs a live migration, and the VM has no LiveMigratable condition yet",
                name = quote(name)
            );
            RULE.advice(field, what)
        }
        Migratable::Yes => match &case.facts.kubevirt {
            Fact::Known(kubevirt) => RULE.advice(field, wait_for_migration(name, kubevirt, vmi)),
            Fact::Absent | Fact::Unknown => RULE.unknown(
                FactKind::KubeVirt,
                format!("{name} waits for a migration; whether one starts was not checked", name = quote(name)),
            ),
        },
    }
}

fn wait_for_migration(name: &str, kubevirt: &KubeVirt, vmi: &Vmi) -> String {
    match kubevirt.auto_migration(vmi) {
        AutoMigration::ShutDown => shut_down(name, kubevirt),
        AutoMigration::On => {
            format!("{name} is attached by a live migration, which KubeVirt starts automatically", name = quote(name))
        }
        AutoMigration::Off(setting) => {
            format!("{name} waits: no migration starts, as KubeVirt lacks {setting}", name = quote(name))
        }
        AutoMigration::TooOld(_) => {
            format!("{name} waits until you create a VirtualMachineInstanceMigration", name = quote(name))
        }
        AutoMigration::Unknown => {
            format!("{name} waits for a migration: before KubeVirt 1.6 you have to create it", name = quote(name))
        }
    }
}

/// Returns reason and message of a condition, in parentheses.
fn in_parentheses(reason: &str, message: &str) -> String {
    let reason = &*cut(reason, QUOTED_AT_MOST);
    match (reason, message) {
        ("", "") => String::new(),
        (reason, "") => format!(" ({reason})"),
        (reason, message) if message.chars().count() > MESSAGE_AT_MOST => format!(" ({reason})"),
        ("", message) => format!(" ({message:?})"),
        (reason, message) => format!(" ({reason}: {message:?})"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::RULE;
    use crate::{
        api::placement::Affinity,
        facts::{
            Fact, GuestNetwork, Nad, Placement, Quota,
            attachment::{Attachment, InPlace, ReadyNodes},
            vmi::{EvictionStrategy, Migratable},
        },
        rules::testing::{Expect, Hotplug},
        settings::Settings,
    };

    const BRIDGE: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const SRIOV: &str = r#"{"name": "dyniface1", "sriov": {}}"#;
    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]);

    fn not_migratable() -> Migratable {
        Migratable::No { reason: "DisksNotLiveMigratable".into(), message: "PVC data is not shared".into() }
    }

    #[test]
    fn a_bridge_nic_can_be_attached_in_place_and_an_sriov_nic_cannot() {
        Hotplug::of(BRIDGE).expect(&RULE, &Expect::Silent);
        Hotplug::of(r#"{"name": "dyniface1"}"#).in_place(InPlace::No).expect(&RULE, &Expect::Advice);
        Hotplug::of(SRIOV).expect(&RULE, &Expect::Advice);
        let immobile = || Hotplug::of(SRIOV).vmi(|vmi| vmi.migratable = not_migratable());
        immobile().expect(&RULE, &FAULT);
        immobile().kubevirt("v1.0.0", &["HotplugNICs"]).expect(&RULE, &Expect::Silent);
        Hotplug::of(BRIDGE).vmi(|vmi| vmi.migratable = not_migratable()).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_controller_on_some_nodes_is_reported_with_its_counts() {
        let findings = Hotplug::of(BRIDGE).in_place(InPlace::SomeNodes { ready: 2, desired: 3 }).findings(&RULE);
        assert!(findings[0].what.contains("2 of 3 nodes"), "{findings:?}");
    }

    #[test]
    fn the_message_quotes_why_the_vm_cannot_migrate() {
        let case = Hotplug::of(BRIDGE).in_place(InPlace::No).vmi(|vmi| vmi.migratable = not_migratable());
        case.expect(&RULE, &FAULT);
        let what = &case.findings(&RULE)[0].what;
        assert!(what.contains("DisksNotLiveMigratable") && what.contains("PVC data"), "{what}");
        Hotplug::of(BRIDGE).in_place(InPlace::No).nodes(&["{}"]).expect(&RULE, &FAULT);
        Hotplug::of(BRIDGE).nodes(&["{}"]).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_guest_that_no_other_node_can_take_is_reported() {
        const IN_A: &str = r#"{"metadata": {"labels": {"zone": "a"}}}"#;
        const IN_B: &str = r#"{"metadata": {"labels": {"zone": "b"}}}"#;
        const CORDONED: &str = r#"{"metadata": {"labels": {"zone": "a"}}, "spec": {"unschedulable": true}}"#;
        const LOST: &str = r#"{"metadata": {"labels": {"zone": "a", "kubevirt.io/schedulable": "false"}}}"#;
        const READY: &str = r#"{"metadata": {"labels": {"zone": "a", "kubevirt.io/schedulable": "true"}}}"#;
        for (nodes, expect, part) in [
            (&[IN_A, IN_B][..], FAULT, "no other node fits its nodeSelector"),
            (&[IN_A, IN_A], Expect::Advice, "starts automatically"),
            (&[IN_B, IN_A], Expect::Advice, "starts automatically"),
            (
                &[IN_A, CORDONED, CORDONED, IN_B],
                Expect::Advice,
                "migration, and the other nodes are cordoned (node-1 and 1 more)",
            ),
            (&[READY, LOST], Expect::Advice, "the other nodes are not schedulable (node-1)"),
            (&[IN_A], FAULT, "only one node"),
        ] {
            let selector = [("zone".to_owned(), "a".to_owned())].into();
            let placement = Placement::of(selector, Affinity::default()).map(Arc::new);
            let case = Hotplug::of(BRIDGE).in_place(InPlace::No).nodes(nodes).vmi(|vmi| vmi.placement = placement);
            case.expect(&RULE, &expect);
            let findings = case.findings(&RULE);
            assert!(findings[0].what.contains(part), "{findings:?}");
        }
    }

    #[test]
    fn a_guest_on_an_unknown_node_is_denied_only_if_one_node_fits() {
        let in_zone = |zone: &str| {
            let selector = [("zone".to_owned(), zone.to_owned())].into();
            let placement = Placement::of(selector, Affinity::default()).map(Arc::new);
            let nodes = [r#"{"metadata": {"labels": {"zone": "a"}}}"#; 2];
            let nodes = [nodes[0], nodes[1], r#"{"metadata": {"labels": {"zone": "b"}}}"#];
            Hotplug::of(SRIOV).nodes(&nodes).vmi(|vmi| {
                vmi.node = "".into();
                vmi.placement = placement;
            })
        };
        in_zone("a").expect(&RULE, &Expect::Advice);
        in_zone("b").expect(&RULE, &FAULT);
    }

    #[test]
    fn a_quota_without_room_for_a_second_pod_is_reported() {
        const QUOTA: &str = r#"{"metadata": {"name": "team"},
            "status": {"hard": {"requests.memory": "10Gi"}, "used": {"requests.memory": "9Gi"}}}"#;
        let quota = || Arc::new(Quota::of(&serde_json::from_str(QUOTA).unwrap()).unwrap());
        for (memory, part) in [
            (8 << 30, "it needs a live migration, and quota \"team\" has 1Gi of the 8Gi requests.memory"),
            (1 << 30, "starts automatically"),
        ] {
            let case = Hotplug::of(SRIOV).vmi(|vmi| vmi.memory = memory);
            let case = case.facts(|facts| facts.quotas = Fact::Known(vec![quota()]));
            case.expect(&RULE, &Expect::Advice);
            let findings = case.findings(&RULE);
            assert!(findings[0].what.contains(part), "{findings:?}");
        }
    }

    #[test]
    fn a_network_whose_resource_no_node_offers_is_reported() {
        const WITHOUT: &str = r#"{"status": {"allocatable": {"cpu": "16", "example.com/vf": "0"}}}"#;
        const WITH: &str = r#"{"status": {"allocatable": {"cpu": "16", "example.com/vf": "8"}}}"#;
        for (interface, nodes, part) in [
            (SRIOV, &[WITHOUT, WITH][..], "starts automatically"),
            (SRIOV, &[WITH, WITHOUT], "a live migration, and no other node offers example.com/vf"),
            (SRIOV, &["{}", "{}"], "starts automatically"),
            (BRIDGE, &[WITHOUT, WITH], "cannot be attached on node-0: it does not offer example.com/vf"),
        ] {
            let case = Hotplug::of(interface).sriov_nad("demo/new-fancy-net").nodes(nodes);
            case.expect(&RULE, &Expect::Advice);
            let findings = case.findings(&RULE);
            assert!(findings[0].what.contains(part), "{findings:?}");
        }
        Hotplug::of(BRIDGE).sriov_nad("demo/new-fancy-net").nodes(&[WITH]).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_migration_that_does_not_start_is_reported_with_the_missing_setting() {
        for (version, strategy, methods, part) in [
            ("v1.9.0", "", &["LiveMigrate"][..], "starts automatically"),
            ("v1.9.0", "LiveUpdate", &[], "workloadUpdateMethods LiveMigrate"),
            ("v1.9.0", "Stage", &["LiveMigrate"], "starts automatically"),
            ("v1.9.0", "Stage", &["Evict"], "with Evict and without LiveMigrate"),
            ("v1.5.0", "LiveUpdate", &["LiveMigrate"], "create a VirtualMachineInstanceMigration"),
            ("", "LiveUpdate", &["LiveMigrate"], "before KubeVirt 1.6"),
        ] {
            let case = Hotplug::of(BRIDGE).in_place(InPlace::No).kubevirt(version, &[]).rollout(strategy, methods);
            case.expect(&RULE, &Expect::Advice);
            let findings = case.findings(&RULE);
            assert!(findings[0].what.contains(part), "{findings:?}");
        }
    }

    #[test]
    fn a_setting_overrides_the_cluster() {
        for (word, shown, expect) in [
            ("yes", InPlace::No, Expect::Silent),
            ("no", InPlace::Yes, Expect::Advice),
            ("auto", InPlace::Yes, Expect::Silent),
        ] {
            let settings = Settings::parse(&format!("attachment: {{dynamicNetworks: {word}}}"), &[]).unwrap();
            Hotplug::of(BRIDGE).in_place(shown).settings(settings).expect(&RULE, &expect);
        }
    }

    #[test]
    fn a_setting_names_plugins_that_attach_nothing_in_place() {
        let settings = || Settings::parse("attachment: {neverInPlace: [kube-ovn]}", &[]).unwrap();
        let on = |kind: &str| {
            let config = format!(r#"{{"type": "{kind}"}}"#);
            Hotplug::of(BRIDGE).nad("demo/new-fancy-net", &config).settings(settings())
        };
        on("kube-ovn").expect(&RULE, &Expect::Advice);
        on("kube-ovn").vmi(|vmi| vmi.migratable = not_migratable()).expect(&RULE, &FAULT);
        on("bridge").expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn an_eviction_instead_of_a_migration_shuts_the_guest_down() {
        let bridge = || Hotplug::of(BRIDGE).in_place(InPlace::No);
        let says = |case: &Hotplug| {
            let findings = case.findings(&RULE);
            findings
                .iter()
                .filter(|finding| finding.what.contains("Evict"))
                .map(|it| it.what.clone())
                .collect::<Vec<_>>()
        };
        let immobile = |case: Hotplug| case.vmi(|vmi| vmi.migratable = not_migratable());
        let without =
            ["\"dyniface1\" needs a migration; with Evict and without LiveMigrate KubeVirt shuts the guest down"];
        let both = ["\"dyniface1\" needs a migration, which the guest cannot do: with Evict KubeVirt shuts it down"];
        for (case, expected) in [
            (bridge().rollout("", &["Evict"]), &without[..]),
            (bridge().rollout("", &["Evict", "LiveMigrate"]), &[]),
            (bridge().rollout("", &["LiveMigrate"]), &[]),
            (immobile(bridge().rollout("", &["Evict", "LiveMigrate"])), &both),
            (immobile(Hotplug::of(SRIOV).rollout("", &["Evict"])), &without),
            (immobile(bridge().rollout("", &["LiveMigrate"])), &[]),
            (Hotplug::of(BRIDGE).rollout("", &["Evict"]), &[]),
            (bridge().rollout("", &["Evict"]).stopped(), &[]),
        ] {
            assert_eq!(says(&case), expected);
        }
        let of_guest = bridge().rollout("", &["Evict"]).vmi(|vmi| {
            vmi.eviction_strategy = Some(EvictionStrategy::LiveMigrate);
        });
        assert_eq!(says(&of_guest), [""; 0]);
    }

    #[test]
    fn a_setting_names_plugins_with_which_no_guest_migrates() {
        let settings = || Settings::parse("attachment: {neverByMigration: [host-device]}", &[]).unwrap();
        let nad = |kind: &str| Nad::read(&format!(r#"{{"type": "{kind}"}}"#), "");
        let guest_network = |kind: &str| vec![GuestNetwork { nic: "dyniface2".into(), nad: Arc::new(nad(kind)) }];
        let case = |new: &str, other: &str, in_place| {
            let networks = guest_network(other);
            let case = Hotplug::of(BRIDGE).with_nad("demo/new-fancy-net", nad(new)).in_place(in_place);
            case.facts(|facts| facts.guest_networks = networks).settings(settings())
        };
        for (new, other, nic) in [("host-device", "bridge", "dyniface1"), ("bridge", "host-device", "dyniface2")] {
            case(new, other, InPlace::Yes).expect(&RULE, &Expect::Silent);
            let case = case(new, other, InPlace::No);
            case.expect(&RULE, &FAULT);
            let what = &case.findings(&RULE)[0].what;
            assert!(what.ends_with(&format!("and plugin host-device of {nic:?} does not migrate")), "{what}");
        }
        case("bridge", "bridge", InPlace::No).expect(&RULE, &Expect::Advice);
    }

    #[test]
    fn unknown_facts_are_reported_and_deny_nothing() {
        Hotplug::of(BRIDGE).facts(|facts| facts.attachment = Fact::Unknown).expect(&RULE, &Expect::Unchecked);
        Hotplug::of(BRIDGE).in_place(InPlace::No).kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        let without_condition = Hotplug::of(BRIDGE).in_place(InPlace::No);
        without_condition.vmi(|vmi| vmi.migratable = Migratable::Unknown).expect(&RULE, &Expect::Advice);
        Hotplug::of(BRIDGE).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }

    #[test]
    fn a_cluster_without_multus_attaches_nothing() {
        let with = |multus: Fact<ReadyNodes>| {
            let attachment = Attachment { in_place: InPlace::No, has_thick_multus: false, multus };
            Hotplug::of(BRIDGE).facts(|facts| facts.attachment = Fact::Known(attachment))
        };
        let none_ready = Fact::Known(ReadyNodes { ready: 0, desired: 3 });
        for (multus, part) in [
            (Fact::Absent, Some("the guest cannot start: the cluster runs no Multus DaemonSet")),
            (none_ready, Some("the guest cannot start: Multus is ready on 0 of 3 nodes")),
            (Fact::Known(ReadyNodes { ready: 1, desired: 3 }), None),
            (Fact::Unknown, None),
        ] {
            let created = with(multus).created();
            created.expect(&RULE, if part.is_some() { &Expect::Advice } else { &Expect::Silent });
            let findings = created.findings(&RULE);
            assert!(part.is_none_or(|part| findings[0].what.contains(part)), "{findings:?}");
        }
        let settings = Settings::parse("attachment: {dynamicNetworks: yes}", &[]).unwrap();
        with(Fact::Absent).settings(settings).created().expect(&RULE, &Expect::Silent);
        let findings = with(Fact::Absent).findings(&RULE);
        assert_eq!(findings[0].what, "\"dyniface1\" cannot be attached: the cluster runs no Multus DaemonSet");
        with(Fact::Absent).vmi(|vmi| vmi.migratable = not_migratable()).expect(&RULE, &FAULT);
    }

    #[test]
    fn a_migration_may_change_an_address_that_is_assigned_anew() {
        let unstable = |case: Hotplug| {
            let config = r#"{"type": "bridge", "ipam": {"type": "whereabouts"}}"#;
            let nad = Arc::new(Nad::read(config, ""));
            case.facts(|facts| facts.guest_networks = vec![GuestNetwork { nic: "dyniface2".into(), nad }])
        };
        for (case, count) in [
            (Hotplug::of(BRIDGE), 0),
            (Hotplug::of(BRIDGE).in_place(InPlace::No), 2),
            (Hotplug::of(SRIOV), 2),
            (Hotplug::of(SRIOV).vmi(|vmi| vmi.migratable = not_migratable()), 1),
            (Hotplug::of(SRIOV).stopped(), 0),
        ] {
            let findings = unstable(case).findings(&RULE);
            assert_eq!(findings.len(), count, "{findings:?}");
            assert!(count < 2 || findings[1].what.contains("the address of \"dyniface2\""), "{findings:?}");
        }
    }

    #[test]
    fn a_stopped_vm_is_not_checked() {
        Hotplug::of(BRIDGE).in_place(InPlace::No).stopped().expect(&RULE, &Expect::Silent);
    }
}
