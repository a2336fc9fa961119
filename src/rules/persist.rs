//! NP114.

use std::collections::BTreeSet;

use super::{Case, CauseType, Finding, rule};
use crate::{
    annotations::persist::{KEY, PersistRequest},
    api::{network::NadRef, review::ObjectKind},
    change::{Nic, ObjectView},
    facts::{Fact, FactKind, Vm, nic::GuestNic},
};

rule! {
    /// A VMI asks for NICs to be kept (`nicplug.io/persist`) that its VM's template cannot take.
    ///
    /// ## Why
    /// nicplug mirrors the NICs of a running guest that `nicplug.io/persist` names into the template of its VM, so that
    /// they are there after a restart. That needs a VM, and a name that the template does not have for another network:
    /// nothing is ever overwritten. Asked for all the same it would fail later, in an event that nobody looks for.
    ///
    /// ## Example
    /// The VM's template has `dyniface1` on `net-b`, and its VMI gets another NIC of that name:
    /// ```yaml
    /// metadata:
    ///   annotations:
    ///     nicplug.io/persist: dyniface1
    /// spec:
    ///   networks:
    ///   - name: dyniface1
    ///     multus:
    ///       networkName: new-fancy-net
    /// ```
    NP114, "persist", Persist, Deny,
    field: "metadata.annotations",
    fix: "take the annotation away, or name NICs that the VM's template can take",
}

fn check(case: &Case) -> Vec<Finding> {
    let change = case.change;
    let Some(text) = written(&change.after) else { return Vec::new() };
    let before = change.before.as_ref().and_then(written);
    if change.subject.kind == ObjectKind::Vm {
        return if before == Some(text) { Vec::new() } else { vec![on_machine()] };
    }
    let findings = match text.parse::<PersistRequest>() {
        Ok(request) => evaluate(case, &request, before.and_then(|before| before.parse().ok()).as_ref()),
        Err(_) if before == Some(text) => Vec::new(),
        Err(malformed) => {
            vec![fault(
                CauseType::Invalid,
                malformed.to_string(),
                "write NAME[,NAME], or * for every NIC that is added",
            )]
        }
    };
    // What was put into a template must not keep its guests from starting.
    let is_made_from_template = case.is_new() && !change.after.metadata.owner_references.is_empty();
    findings.into_iter().map(|finding| if is_made_from_template { finding.into_advice() } else { finding }).collect()
}

/// A VM keeps what it is given.
fn on_machine() -> Finding {
    let what = format!("{KEY} belongs on a VMI: a NIC that is added to the VM itself stays anyway");
    RULE.advice(field(), what)
}

/// Judges what the change brings in: names that were not asked for before, and NICs that are added under the wish.
fn evaluate(case: &Case, request: &PersistRequest, before: Option<&PersistRequest>) -> Vec<Finding> {
    let was_asked = |name: &str| before.is_some_and(|before| before.covers(name));
    let mut names: BTreeSet<&str> =
        request.names().iter().map(String::as_str).filter(|name| !was_asked(name)).collect();
    names.extend(case.change.nics.added.iter().map(|nic| nic.name).filter(|name| request.covers(name)));
    if names.is_empty() && (*request != PersistRequest::All || before == Some(request)) {
        return Vec::new();
    }
    let owners = &case.change.after.metadata.owner_references;
    let Some(owner) = owners.iter().find(|owner| owner.kind.as_str() == "VirtualMachine") else {
        let what = "no VirtualMachine owns this VMI, so there is no template to keep a NIC in".to_owned();
        let fix = "take the annotation away, or make a VirtualMachine of it";
        return vec![fault(CauseType::Invalid, what, fix)];
    };
    let vm = match &case.facts.vm {
        Fact::Known(vm) => vm,
        Fact::Absent => {
            let what =
                format!("the VirtualMachine {:?} is not there, and with it no template to keep a NIC in", &*owner.name);
            return vec![fault(CauseType::NotFound, what, "take the annotation away")];
        }
        Fact::Unknown => {
            return vec![RULE.unknown(FactKind::Vm, "whether the VM's template can keep the NIC was not checked")];
        }
    };
    let nics = case.change.after.nics();
    names.iter().filter_map(|name| judge_nic(nics.get(name)?, vm, case.change.subject.namespace)).collect()
}

/// Judges a NIC that the guest has; one that is still to come is judged when it comes.
fn judge_nic(nic: &Nic, vm: &Vm, namespace: &str) -> Option<Finding> {
    if nic.is_absent() {
        let what = format!("{:?} is being unplugged, and is not kept in the VM's template", nic.name);
        return Some(RULE.advice(field(), what));
    }
    let there = vm.nics.iter().find(|there| &*there.name == nic.name)?;
    let why = if !is_same_network(nic, there, namespace) {
        match &there.network {
            Some(network) => format!("on network {network:?}"),
            None => "on no network of a NetworkAttachmentDefinition".to_owned(),
        }
    } else if there.is_absent {
        "with state \"absent\"".to_owned()
    } else {
        return None;
    };
    let what = format!("the VM's template has {:?} {why}", nic.name);
    Some(fault(CauseType::Duplicate, what, "choose another name, or take that NIC out of the template"))
}

fn is_same_network(nic: &Nic, there: &GuestNic, namespace: &str) -> bool {
    let reference = |name| NadRef::parse(name, namespace);
    nic.network_name().map(reference) == there.network.as_deref().map(reference)
}

fn written<'r>(view: &ObjectView<'r>) -> Option<&'r str> {
    view.annotation(|annotations| annotations.persist.as_deref())
}

fn fault(cause: CauseType, what: String, fix: &str) -> Finding {
    RULE.fault(cause, field(), what).with_fix(fix.to_owned())
}

fn field() -> String {
    format!("metadata.annotations[{KEY}]")
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::{Fact, Facts},
        rules::testing::{self, Expect, Hotplug},
    };

    const FAULT: Expect = Expect::Faults(&["metadata.annotations[nicplug.io/persist]"]);
    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const ABSENT: &str = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;

    /// The NIC `dyniface1` is added to a VMI that is annotated so.
    fn asking(annotation: &str) -> Hotplug {
        Hotplug::of(NIC).annotated(&format!(r#""nicplug.io/persist": {annotation:?}"#))
    }

    fn on(hotplug: Hotplug, interface: &str, network: &str) -> Hotplug {
        let network = format!(r#"[{{"name": "dyniface1", {network}}}]"#);
        hotplug.on_vmi_of(&format!("[{interface}]"), &network)
    }

    #[test]
    fn a_template_that_lacks_the_nic_or_has_the_same_can_keep_it() {
        for annotation in ["dyniface1", "*", "dyniface1,later", "later"] {
            asking(annotation).on_vmi_of("[]", "[]").expect(&RULE, &Expect::Silent);
        }
        for network in ["new-fancy-net", "demo/new-fancy-net"] {
            let network = format!(r#""multus": {{"networkName": "{network}"}}"#);
            on(asking("dyniface1"), NIC, &network).expect(&RULE, &Expect::Silent);
        }
    }

    #[test]
    fn a_template_with_another_nic_of_the_name_cannot() {
        for annotation in ["dyniface1", "*", "x,dyniface1"] {
            for network in [
                r#""multus": {"networkName": "net-b"}"#,
                r#""multus": {"networkName": "x/new-fancy-net"}"#,
                r#""pod": {}"#,
            ] {
                on(asking(annotation), NIC, network).expect(&RULE, &FAULT);
            }
            on(asking(annotation), ABSENT, r#""multus": {"networkName": "new-fancy-net"}"#).expect(&RULE, &FAULT);
        }
        on(asking("later"), NIC, r#""pod": {}"#).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_vmi_without_a_vm_has_nothing_to_keep_a_nic_in() {
        for annotation in ["dyniface1", "*", "later"] {
            asking(annotation).on_vmi().expect(&RULE, &FAULT);
            asking(annotation).on_vmi().owned_by("VirtualMachineInstanceReplicaSet").expect(&RULE, &FAULT);
            asking(annotation).on_vmi().owned_by("VirtualMachine").expect(&RULE, &FAULT);
            let unknown =
                asking(annotation).on_vmi().owned_by("VirtualMachine").facts(|facts| facts.vm = Fact::Unknown);
            unknown.expect(&RULE, &Expect::Unchecked);
        }
        Hotplug::of(NIC).on_vmi().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_place() {
        for annotation in ["", "*,a", "a,", "a b", "a=net"] {
            asking(annotation).on_vmi_of("[]", "[]").expect(&RULE, &FAULT);
            asking(annotation).on_vmi().facts(|facts| *facts = Facts::default()).expect(&RULE, &FAULT);
        }
    }

    #[test]
    fn what_leaves_is_not_kept() {
        let leaving = Hotplug::of(ABSENT).annotated(r#""nicplug.io/persist": "dyniface1""#);
        leaving.on_vmi_of("[]", "[]").expect(&RULE, &Expect::Advice);
    }

    #[test]
    fn a_guest_that_is_made_from_a_template_starts_all_the_same() {
        asking("a,").on_vmi().owned_by("VirtualMachine").created().expect(&RULE, &Expect::Advice);
        asking("a,").on_vmi().created().expect(&RULE, &FAULT);
    }

    #[test]
    fn only_what_the_update_brings_in_is_judged() {
        let vmi = |annotation: &str, label: &str| {
            let annotations =
                if annotation.is_empty() { String::new() } else { format!(r#""nicplug.io/persist": "{annotation}""#) };
            format!(
                r#"{{"metadata": {{"annotations": {{{annotations}}}, "labels": {{"a": "{label}"}}}}, "spec": {{}}}}"#
            )
        };
        for (old, new, count) in [
            ("a", "a", 0),
            ("a,b", "b", 0),
            ("*", "a,b", 0),
            ("a", "a,b", 1),
            ("a", "*", 1),
            ("*", "*", 0),
            ("", "a", 1),
            ("?", "?", 0),
        ] {
            let findings = testing::findings_of_vmi_update(&RULE, &vmi(old, "x"), &vmi(new, "y"));
            assert_eq!(findings.len(), count, "{old} → {new}: {findings:?}");
        }
    }

    #[test]
    fn a_vm_keeps_what_it_is_given_anyway() {
        asking("dyniface1").expect(&RULE, &Expect::Advice);
    }
}
