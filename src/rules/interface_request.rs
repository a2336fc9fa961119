//! NP115.

use super::{Case, CauseType, Finding, rule};
use crate::annotations::interfaces::{
    self, Kind, Plan, Refusal, Why,
    status::{self, Fault},
};

rule! {
    /// A request to add or remove NICs is malformed, contradicts the VM, or was not granted.
    ///
    /// ## Why
    /// `nicplug.io/add-interfaces` and `nicplug.io/remove-interfaces` are granted, and taken away, before the VM is
    /// judged. One that is still there could not be granted: it cannot be read, its name belongs to another NIC, or
    /// nicplug's mutating webhook was not asked. Stored as it is it would do nothing, and nobody would tell. A name has
    /// letters, digits, `-` and `_`; a network is `NAD` or `NAMESPACE/NAD`. The same goes for `status.interfaceRequests`,
    /// which `virtctl addinterface` of KubeVirt up to 1.0 writes.
    ///
    /// ## Example
    /// ```yaml
    /// metadata:
    ///   annotations:
    ///     nicplug.io/add-interfaces: dyniface1=new-fancy-net,=net-b
    /// ```
    NP115, "interface-request", Request, Deny,
    field: "metadata.annotations",
    fix: "name what is to change, or remove the annotation",
}

fn check(case: &Case) -> Vec<Finding> {
    if case.change.requests.is_some() {
        return status::refusals(case.change).into_iter().map(refused_status).collect();
    }
    let mut findings = match interfaces::plan(case.change) {
        Ok(plan) => not_granted(&plan),
        Err(refusals) => refusals.iter().map(refused).collect(),
    };
    findings.extend(interfaces::left_behind(case.change).map(left_behind));
    findings
}

fn refused(refusal: &Refusal) -> Finding {
    let Refusal { kind, why } = refusal;
    let (cause, fix) = match (why, kind) {
        (Why::Malformed(_), Kind::Add) => (
            CauseType::Invalid,
            "write NAME=NAD[,NAME=NAMESPACE/NAD], or a JSON list of {name, networkAttachmentDefinitionName}",
        ),
        (Why::Malformed(_), Kind::Remove) => (CauseType::Invalid, "write NAME[,NAME]"),
        (Why::Taken { .. }, _) => {
            (CauseType::Duplicate, "choose another name, or remove that NIC while the VM is stopped")
        }
        (Why::Contradiction(_), _) => (CauseType::Invalid, "name it in one of the two"),
        (Why::NoDomain, _) => (CauseType::Required, "write the VM's domain first"),
    };
    fault(*kind, cause, why.to_string(), fix)
}

fn refused_status(refusal: status::Refusal) -> Finding {
    let (cause, fix) = match &refusal.fault {
        Fault::NotOne(_) => (CauseType::Required, "write one of the two"),
        Fault::Malformed(_) => (
            CauseType::Invalid,
            "write name and networkAttachmentDefinitionName (to remove: name), NAD or NAMESPACE/NAD",
        ),
        Fault::Taken(_) => (CauseType::Duplicate, "choose another name, or remove that NIC while the VM is stopped"),
    };
    RULE.fault(cause, refusal.field, refusal.fault.to_string()).with_fix(fix.to_owned())
}

/// The requests are in order, and yet they are there.
fn not_granted(plan: &Plan) -> Vec<Finding> {
    let what = "the request was not carried out: nicplug's mutating webhook was not asked";
    let fix = "see that the MutatingWebhookConfiguration names nicplug and that it answers, and apply again; or edit \
               interfaces and networks of the template";
    plan.asked.iter().map(|&kind| fault(kind, CauseType::Invalid, what.to_owned(), fix)).collect()
}

fn left_behind(kind: Kind) -> Finding {
    let what = format!("{} was stored before and does nothing: remove it, then ask again", kind.key());
    RULE.advice(field_of(kind), what)
}

fn fault(kind: Kind, cause: CauseType, what: String, fix: &str) -> Finding {
    RULE.fault(cause, field_of(kind), what).with_fix(fix.to_owned())
}

fn field_of(kind: Kind) -> String {
    format!("metadata.annotations[{}]", kind.key())
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::Facts,
        rules::{
            CauseType, Finding, FindingKind,
            testing::{self, Expect, Hotplug},
        },
    };

    const ADD: &str = "metadata.annotations[nicplug.io/add-interfaces]";
    const REMOVE: &str = "metadata.annotations[nicplug.io/remove-interfaces]";
    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;

    /// A change of a VM that has the NICs `a` and `b` on `new-fancy-net`, annotated so.
    fn asking(annotations: &str) -> Hotplug {
        Hotplug::of(NIC).having(&["a", "b"]).annotated(annotations)
    }

    fn add(text: &str) -> Hotplug {
        asking(&format!(r#""nicplug.io/add-interfaces": {text:?}"#))
    }

    fn remove(text: &str) -> Hotplug {
        asking(&format!(r#""nicplug.io/remove-interfaces": {text:?}"#))
    }

    fn what_and_fix(hotplug: &Hotplug) -> (String, String) {
        let findings = hotplug.findings(&RULE);
        (findings[0].what.clone(), findings[0].fix.clone().into_owned())
    }

    #[test]
    fn a_malformed_request_is_refused_with_the_place() {
        for text in ["", "dyn 1=net", "dyn1", "dyn1=", "=net", "dyn1=Net", "dyn1=net,", "[{]", "[{\"name\": \"x\"}]"] {
            add(text).expect(&RULE, &Expect::Faults(&[ADD]));
        }
        for text in ["", "dyn 1", "a,", "a=b"] {
            remove(text).expect(&RULE, &Expect::Faults(&[REMOVE]));
        }
        let (what, fix) = what_and_fix(&add("dyniface9=net,=x"));
        assert_eq!(what, r#"entry 2 ("=x"), column 15: the name is empty"#);
        assert!(fix.starts_with("write NAME=NAD"), "{fix}");
    }

    #[test]
    fn a_name_that_is_another_nic_is_refused() {
        for (text, said) in [
            ("a=net-b", r#""a" is there already, on network "new-fancy-net""#),
            ("a=other/new-fancy-net", r#""a" is there already, on network "new-fancy-net""#),
            (
                "defaultnetwork=net-b",
                r#""defaultnetwork" is there already, on no network of a NetworkAttachmentDefinition"#,
            ),
        ] {
            add(text).expect(&RULE, &Expect::Faults(&[ADD]));
            assert_eq!(what_and_fix(&add(text)).0, said);
        }
        let both = r#""nicplug.io/add-interfaces": "c=net-b", "nicplug.io/remove-interfaces": "c""#;
        asking(both).expect(&RULE, &Expect::Faults(&[ADD]));
        assert!(what_and_fix(&asking(both)).0.contains("remove-interfaces too"));
        let half = Hotplug::of(r#"{"name": "x", "bridge": {}}"#).annotated(r#""nicplug.io/add-interfaces": "x=net-b""#);
        assert!(what_and_fix(&half).0.ends_with("without its network"));
    }

    #[test]
    fn a_request_that_nobody_carried_out_is_refused() {
        // Granted requests are gone before a VM is judged; so is one that was granted before.
        for hotplug in [add("c=net-b"), add("a=new-fancy-net"), add("a=demo/new-fancy-net"), remove("a"), remove("z")] {
            assert!(what_and_fix(&hotplug).0.contains("was not asked"));
            let told = hotplug.findings(&RULE);
            assert!(matches!(told.as_slice(), [Finding { kind: FindingKind::Fault(CauseType::Invalid), .. }]));
        }
    }

    #[test]
    fn nothing_unknown_changes_what_is_refused() {
        let unknown = |hotplug: Hotplug| hotplug.facts(|facts| *facts = Facts::default());
        unknown(add("")).expect(&RULE, &Expect::Faults(&[ADD]));
        unknown(add("c=net-b")).expect(&RULE, &Expect::Faults(&[ADD]));
        unknown(asking("")).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn whoever_changes_something_else_is_told_of_what_was_left_behind() {
        let vm = |annotation: &str, label: &str| {
            format!(
                r#"{{"metadata": {{"annotations": {{{annotation}}}, "labels": {{"a": "{label}"}}}},
                    "spec": {{"template": {{"spec": {{"domain": {{"devices": {{}}}}}}}}}}}}"#
            )
        };
        let findings = |old: &str, new: &str| testing::findings_of_update(&RULE, &vm(old, "b"), &vm(new, "c"));
        let left = r#""nicplug.io/add-interfaces": "?""#;
        let told = findings(left, left);
        assert!(matches!(told.as_slice(), [Finding { kind: FindingKind::Advice, .. }]), "{told:?}");
        let changed = findings(left, r#""nicplug.io/add-interfaces": "!""#);
        assert!(matches!(changed.as_slice(), [Finding { kind: FindingKind::Fault(_), .. }]), "{changed:?}");
        assert!(findings(left, "").is_empty());
    }

    #[test]
    fn a_request_in_the_status_is_judged_where_it_is_new() {
        let vm = |requests: &str| {
            format!(
                r#"{{"metadata": {{"name": "vm-fedora", "annotations": {{"nicplug.io/add-interfaces": "left behind"}}}},
                    "spec": {{"template": {{"spec": {{"domain": {{"devices": {{"interfaces": [{{"name": "a", "bridge": {{}}}}]}}}},
                    "networks": [{{"name": "a", "multus": {{"networkName": "net"}}}}]}}}}}},
                    "status": {{"interfaceRequests": [{requests}]}}}}"#
            )
        };
        let add = |name: &str, network: &str| {
            format!(
                r#"{{"addInterfaceOptions": {{"name": "{name}", "networkAttachmentDefinitionName": "{network}"}}}}"#
            )
        };
        let remove = |name: &str| format!(r#"{{"removeInterfaceOptions": {{"name": "{name}"}}}}"#);
        let said = |old: &str, new: &str| {
            let findings = testing::findings_of_status(&RULE, &vm(old), &vm(new), &Facts::default());
            findings.iter().map(|finding| format!("{}: {}", finding.field, finding.what)).collect::<Vec<_>>().join("; ")
        };
        let both = format!("{},{}", add("b", "net"), remove("a"));
        for (new, told) in [
            (both.clone(), ""),
            (add("a", "demo/net"), ""),
            (add("", "net"), "status.interfaceRequests[0].addInterfaceOptions: the name is empty"),
            (add("b", ""), "status.interfaceRequests[0].addInterfaceOptions: the network's name is empty"),
            (
                add("a", "other"),
                "status.interfaceRequests[0].addInterfaceOptions: \"a\" is there already, on network \"net\"",
            ),
            (remove("?"), "status.interfaceRequests[0].removeInterfaceOptions: the name has the character '?'"),
            (
                "{}".to_owned(),
                "status.interfaceRequests[0]: the request has none of addInterfaceOptions and removeInterfaceOptions",
            ),
        ] {
            assert_eq!(said("", &new), told, "{new}");
        }
        let old = remove("?");
        assert_eq!(said(&old, &format!("{old},{both}")), "");
    }

    #[test]
    fn only_a_vm_is_asked() {
        add("").on_vmi().expect(&RULE, &Expect::Silent);
    }
}
