//! NP114.

use std::collections::BTreeSet;

use super::{Case, CauseType, Finding, rule};
use crate::{
    annotations::persist::{KEY, PersistRequest},
    api::quote::quote,
    api::{network::NadRef, review::ObjectKind},
    change::{Nic, ObjectView},
    facts::{Fact, FactKind, Vm, nic::GuestNic},
};

rule! {
    /// A VMI asks to persist NICs (`nicplug.io/persist`) that cannot be added to its VM's template.
    ///
    /// ## Why
    /// nicplug persists the NICs of a running guest that `nicplug.io/persist` names: it writes them into the template
    /// of the VM, so that the VM has them after a restart. That needs a VM, and a name that the template does not use
    /// for another network, because nicplug never overwrites a NIC. Without this rule the request would fail later, and
    /// only an Event would report that.
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
    fix: "remove the annotation, or name NICs that can be added to the VM's template",
}

fn check(case: &Case) -> Vec<Finding> {
    let change = case.change;
    let Some(text) = annotation(&change.after) else { return Vec::new() };
    let before = change.before.as_ref().and_then(annotation);
    if change.subject.kind == ObjectKind::Vm {
        return if before == Some(text) { Vec::new() } else { vec![on_vm()] };
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
    // An annotation in a template must not prevent its guests from starting.
    let is_made_from_template = case.is_new() && !change.after.metadata.owner_references.is_empty();
    findings.into_iter().map(|finding| if is_made_from_template { finding.into_advice() } else { finding }).collect()
}

fn on_vm() -> Finding {
    let what = format!("{KEY} belongs on a VMI: a NIC that is added to the VM persists anyway");
    RULE.advice(field(), what)
}

/// Evaluates only what is new: names that the annotation did not cover before, and added NICs that it covers.
fn evaluate(case: &Case, request: &PersistRequest, before: Option<&PersistRequest>) -> Vec<Finding> {
    let was_covered = |name: &str| before.is_some_and(|before| before.covers(name));
    let mut names: BTreeSet<&str> =
        request.names().iter().map(String::as_str).filter(|name| !was_covered(name)).collect();
    names.extend(case.change.nics.added.iter().map(|nic| nic.name).filter(|name| request.covers(name)));
    if names.is_empty() && (*request != PersistRequest::All || before == Some(request)) {
        return Vec::new();
    }
    let owners = &case.change.after.metadata.owner_references;
    let Some(owner) = owners.iter().find(|owner| owner.kind.as_str() == "VirtualMachine") else {
        let what = "no VirtualMachine owns this VMI, so its NICs cannot be persisted".to_owned();
        let fix = "remove the annotation, or create a VirtualMachine instead of a VMI";
        return vec![fault(CauseType::Invalid, what, fix)];
    };
    let vm = match &case.facts.vm {
        Fact::Known(vm) => vm,
        Fact::Absent => {
            let what = format!("VirtualMachine {} does not exist, so NICs cannot be persisted", quote(&owner.name));
            return vec![fault(CauseType::NotFound, what, "remove the annotation")];
        }
        Fact::Unknown => {
            return vec![
                RULE.unknown(FactKind::Vm, "whether the NIC can be persisted was not checked: the VM is not known"),
            ];
        }
    };
    let nics = case.change.after.nics();
    names.iter().filter_map(|name| evaluate_nic(nics.get(name)?, vm, case.change.subject.namespace)).collect()
}

/// Evaluates a NIC that the guest has; one that is added later is evaluated then.
fn evaluate_nic(nic: &Nic, vm: &Vm, namespace: &str) -> Option<Finding> {
    if nic.is_absent() {
        let what = format!("{} is being unplugged, and is not persisted", quote(nic.name));
        return Some(RULE.advice(field(), what));
    }
    let existing = vm.nics.iter().find(|existing| &*existing.name == nic.name)?;
    let difference = if !is_same_network(nic, existing, namespace) {
        match &existing.network {
            Some(network) => format!("on network {network}", network = quote(network)),
            None => "without a NetworkAttachmentDefinition".to_owned(),
        }
    } else if existing.is_absent {
        "with state \"absent\"".to_owned()
    } else {
        return None;
    };
    let what = format!("the VM's template already has {}, {difference}", quote(nic.name));
    Some(fault(CauseType::Duplicate, what, "choose another name, or remove that NIC from the template"))
}

fn is_same_network(nic: &Nic, existing: &GuestNic, namespace: &str) -> bool {
    let reference = |name| NadRef::parse(name, namespace);
    nic.network_name().map(reference) == existing.network.as_deref().map(reference)
}

fn annotation<'r>(view: &ObjectView<'r>) -> Option<&'r str> {
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

    /// Returns a change that adds the NIC `dyniface1` and sets the annotation.
    fn persist(annotation: &str) -> Hotplug {
        Hotplug::of(NIC).annotated(&format!(r#""nicplug.io/persist": {annotation:?}"#))
    }

    fn on(hotplug: Hotplug, interface: &str, network: &str) -> Hotplug {
        let network = format!(r#"[{{"name": "dyniface1", {network}}}]"#);
        hotplug.on_vmi_of(&format!("[{interface}]"), &network)
    }

    #[test]
    fn a_nic_can_be_persisted_if_the_template_lacks_it_or_has_the_same() {
        for annotation in ["dyniface1", "*", "dyniface1,later", "later"] {
            persist(annotation).on_vmi_of("[]", "[]").expect(&RULE, &Expect::Silent);
        }
        for network in ["new-fancy-net", "demo/new-fancy-net"] {
            let network = format!(r#""multus": {{"networkName": "{network}"}}"#);
            on(persist("dyniface1"), NIC, &network).expect(&RULE, &Expect::Silent);
        }
    }

    #[test]
    fn a_nic_cannot_be_persisted_over_another_one_of_its_name() {
        for annotation in ["dyniface1", "*", "x,dyniface1"] {
            for network in [
                r#""multus": {"networkName": "net-b"}"#,
                r#""multus": {"networkName": "x/new-fancy-net"}"#,
                r#""pod": {}"#,
            ] {
                on(persist(annotation), NIC, network).expect(&RULE, &FAULT);
            }
            on(persist(annotation), ABSENT, r#""multus": {"networkName": "new-fancy-net"}"#).expect(&RULE, &FAULT);
        }
        on(persist("later"), NIC, r#""pod": {}"#).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn nics_of_a_vmi_without_a_vm_cannot_be_persisted() {
        for annotation in ["dyniface1", "*", "later"] {
            persist(annotation).on_vmi().expect(&RULE, &FAULT);
            persist(annotation).on_vmi().owned_by("VirtualMachineInstanceReplicaSet").expect(&RULE, &FAULT);
            persist(annotation).on_vmi().owned_by("VirtualMachine").expect(&RULE, &FAULT);
            let unknown =
                persist(annotation).on_vmi().owned_by("VirtualMachine").facts(|facts| facts.vm = Fact::Unknown);
            unknown.expect(&RULE, &Expect::Unchecked);
        }
        Hotplug::of(NIC).on_vmi().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_malformed_annotation_is_rejected() {
        for annotation in ["", "*,a", "a,", "a b", "a=net"] {
            persist(annotation).on_vmi_of("[]", "[]").expect(&RULE, &FAULT);
            persist(annotation).on_vmi().facts(|facts| *facts = Facts::default()).expect(&RULE, &FAULT);
        }
    }

    #[test]
    fn a_nic_that_is_being_unplugged_is_not_persisted() {
        let unplugged = Hotplug::of(ABSENT).annotated(r#""nicplug.io/persist": "dyniface1""#);
        unplugged.on_vmi_of("[]", "[]").expect(&RULE, &Expect::Advice);
    }

    #[test]
    fn a_guest_that_is_created_from_a_template_starts_anyway() {
        persist("a,").on_vmi().owned_by("VirtualMachine").created().expect(&RULE, &Expect::Advice);
        persist("a,").on_vmi().created().expect(&RULE, &FAULT);
    }

    #[test]
    fn only_new_names_are_checked() {
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
    fn the_annotation_on_a_vm_causes_a_warning() {
        persist("dyniface1").expect(&RULE, &Expect::Advice);
    }
}
