//! NP115.

use super::{Case, CauseType, Finding, rule};
use crate::{
    annotations::{
        interfaces::{
            self, InterfaceChanges, RejectedRequest, RequestError, RequestKind,
            status::{self, RejectedStatusRequest, StatusRequestError},
        },
        unplug,
    },
    api::quote::quote,
};

rule! {
    /// A request to add or remove NICs is malformed, conflicts with the VM, or was not applied.
    ///
    /// ## Why
    /// nicplug's mutating webhook applies `nicplug.io/add-interfaces` and `nicplug.io/remove-interfaces` and removes
    /// them before the VM is validated. An annotation that is still there could not be applied: it is malformed, its
    /// name belongs to another NIC, the mutating webhook was not called, or its patch would be longer than 46 KiB, which
    /// it warns about. If the annotation were stored, it would have no effect, and nothing would report that. A name
    /// consists of letters, digits, `-` and `_`; a network is `NAD` or `NAMESPACE/NAD`. The rule also checks
    /// `status.interfaceRequests`, which `virtctl addinterface` of KubeVirt up to 1.0 writes. It warns if
    /// `nicplug.io/unplug` is neither `absent` nor `dropped`: the annotation then has no effect.
    ///
    /// ## Example
    /// ```yaml
    /// metadata:
    ///   annotations:
    ///     nicplug.io/add-interfaces: dyniface1=new-fancy-net,=net-b
    /// ```
    NP115, "interface-request", Request, Deny,
    field: "metadata.annotations",
    fix: "correct the request, or remove the annotation",
}

fn check(case: &Case) -> Vec<Finding> {
    if case.change.requests.is_some() {
        return status::rejected_requests(case.change).into_iter().map(rejected_status).collect();
    }
    let mut findings = match interfaces::requested_changes(case.change) {
        Ok(changes) => not_applied(&changes),
        Err(rejected) => rejected.iter().map(rejected_annotation).collect(),
    };
    findings.extend(interfaces::stale_requests(case.change).map(stale));
    findings.extend(unplug::new_unknown_value(case.change).map(unknown_policy));
    findings
}

fn rejected_annotation(rejected: &RejectedRequest) -> Finding {
    let RejectedRequest { kind, error } = rejected;
    let (cause, fix) = match (error, kind) {
        (RequestError::Malformed(_), RequestKind::Add) => (
            CauseType::Invalid,
            "write NAME=NAD[,NAME=NAMESPACE/NAD], or a JSON list of {name, networkAttachmentDefinitionName}",
        ),
        (RequestError::Malformed(_), RequestKind::Remove) => (CauseType::Invalid, "write NAME[,NAME]"),
        (RequestError::NameInUse { .. }, _) => {
            (CauseType::Duplicate, "choose another name, or remove that NIC while the VM is stopped")
        }
        (RequestError::AddedAndRemoved(_), _) => (CauseType::Invalid, "list it in only one of the two annotations"),
        (RequestError::NoDomain, _) => (CauseType::Required, "add the VM's domain first"),
    };
    fault(*kind, cause, error.to_string(), fix)
}

fn rejected_status(rejected: RejectedStatusRequest) -> Finding {
    let (cause, fix) = match &rejected.error {
        StatusRequestError::Neither | StatusRequestError::Both => (CauseType::Required, "set exactly one of the two"),
        StatusRequestError::Malformed(_) => (
            CauseType::Invalid,
            "write name and networkAttachmentDefinitionName (to remove: name), NAD or NAMESPACE/NAD",
        ),
        StatusRequestError::NameInUse(_) => {
            (CauseType::Duplicate, "choose another name, or remove that NIC while the VM is stopped")
        }
    };
    RULE.fault(cause, rejected.field, rejected.error.to_string()).with_fix(fix.to_owned())
}

/// Returns a fault for each valid request: the mutating webhook would have applied it and removed the annotation.
fn not_applied(changes: &InterfaceChanges) -> Vec<Finding> {
    let what = "the request was not applied: nicplug's mutating webhook was not called, or its patch was too long";
    let fix = "check that the MutatingWebhookConfiguration names nicplug and that nicplug responds, then apply again; \
               or edit interfaces and networks of the template";
    changes.requests.iter().map(|&kind| fault(kind, CauseType::Invalid, what.to_owned(), fix)).collect()
}

fn stale(kind: RequestKind) -> Finding {
    let what = format!("{} was stored earlier and has no effect: remove it, then set it again", kind.key());
    RULE.advice(field_of(kind), what)
}

fn unknown_policy(text: &str) -> Finding {
    let what = format!("{} has no effect: {text} is not absent or dropped", unplug::KEY, text = quote(text));
    RULE.advice(format!("metadata.annotations[{}]", unplug::KEY), what)
}

fn fault(kind: RequestKind, cause: CauseType, what: String, fix: &str) -> Finding {
    RULE.fault(cause, field_of(kind), what).with_fix(fix.to_owned())
}

fn field_of(kind: RequestKind) -> String {
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

    /// Returns a change that sets annotations of a VM with the NICs `a` and `b` on `new-fancy-net`.
    fn annotate(annotations: &str) -> Hotplug {
        Hotplug::of(NIC).having(&["a", "b"]).annotated(annotations)
    }

    fn add(text: &str) -> Hotplug {
        annotate(&format!(r#""nicplug.io/add-interfaces": {text:?}"#))
    }

    fn remove(text: &str) -> Hotplug {
        annotate(&format!(r#""nicplug.io/remove-interfaces": {text:?}"#))
    }

    #[test]
    fn an_unknown_unplug_policy_is_reported_when_it_is_set() {
        for (text, expect) in [
            ("dropped", Expect::Silent),
            ("absent", Expect::Silent),
            ("drop", Expect::Advice),
            ("Dropped", Expect::Advice),
            ("", Expect::Advice),
        ] {
            annotate(&format!(r#""nicplug.io/unplug": {text:?}"#)).expect(&RULE, &expect);
        }
    }

    fn what_and_fix(hotplug: &Hotplug) -> (String, String) {
        let findings = hotplug.findings(&RULE);
        (findings[0].what.clone(), findings[0].fix.clone().into_owned())
    }

    #[test]
    fn a_malformed_request_is_rejected_with_its_location() {
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
    fn a_name_of_another_nic_is_rejected() {
        for (text, expected) in [
            ("a=net-b", r#""a" already exists, on network "new-fancy-net""#),
            ("a=other/new-fancy-net", r#""a" already exists, on network "new-fancy-net""#),
            ("defaultnetwork=net-b", r#""defaultnetwork" already exists, without a NetworkAttachmentDefinition"#),
        ] {
            add(text).expect(&RULE, &Expect::Faults(&[ADD]));
            assert_eq!(what_and_fix(&add(text)).0, expected);
        }
        let both = r#""nicplug.io/add-interfaces": "c=net-b", "nicplug.io/remove-interfaces": "c""#;
        annotate(both).expect(&RULE, &Expect::Faults(&[ADD]));
        assert!(what_and_fix(&annotate(both)).0.contains("also in nicplug.io/remove-interfaces"));
        let half = Hotplug::of(r#"{"name": "x", "bridge": {}}"#).annotated(r#""nicplug.io/add-interfaces": "x=net-b""#);
        assert!(what_and_fix(&half).0.ends_with("without its network"));
    }

    #[test]
    fn a_valid_request_that_was_not_applied_is_rejected() {
        // The mutating webhook removes every valid request, even one without any effect.
        for hotplug in [add("c=net-b"), add("a=new-fancy-net"), add("a=demo/new-fancy-net"), remove("a"), remove("z")] {
            assert!(what_and_fix(&hotplug).0.contains("was not called"));
            let findings = hotplug.findings(&RULE);
            assert!(matches!(findings.as_slice(), [Finding { kind: FindingKind::Fault(CauseType::Invalid), .. }]));
        }
    }

    #[test]
    fn unknown_facts_do_not_matter() {
        let unknown = |hotplug: Hotplug| hotplug.facts(|facts| *facts = Facts::default());
        unknown(add("")).expect(&RULE, &Expect::Faults(&[ADD]));
        unknown(add("c=net-b")).expect(&RULE, &Expect::Faults(&[ADD]));
        unknown(annotate("")).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_stale_request_causes_a_warning_and_blocks_no_other_change() {
        let vm = |annotation: &str, label: &str| {
            format!(
                r#"{{"metadata": {{"annotations": {{{annotation}}}, "labels": {{"a": "{label}"}}}},
                    "spec": {{"template": {{"spec": {{"domain": {{"devices": {{}}}}}}}}}}}}"#
            )
        };
        let findings = |old: &str, new: &str| testing::findings_of_update(&RULE, &vm(old, "b"), &vm(new, "c"));
        let stale = r#""nicplug.io/add-interfaces": "?""#;
        let kept = findings(stale, stale);
        assert!(matches!(kept.as_slice(), [Finding { kind: FindingKind::Advice, .. }]), "{kept:?}");
        let changed = findings(stale, r#""nicplug.io/add-interfaces": "!""#);
        assert!(matches!(changed.as_slice(), [Finding { kind: FindingKind::Fault(_), .. }]), "{changed:?}");
        assert!(findings(stale, "").is_empty());
    }

    #[test]
    fn only_new_requests_in_the_status_are_checked() {
        let vm = |requests: &str| {
            format!(
                r#"{{"metadata": {{"name": "vm-fedora", "annotations": {{"nicplug.io/add-interfaces": "stale"}}}},
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
        let messages = |old: &str, new: &str| {
            let findings = testing::findings_of_status(&RULE, &vm(old), &vm(new), &Facts::default());
            findings.iter().map(|finding| format!("{}: {}", finding.field, finding.what)).collect::<Vec<_>>().join("; ")
        };
        let both = format!("{},{}", add("b", "net"), remove("a"));
        for (new, expected) in [
            (both.clone(), ""),
            (add("a", "demo/net"), ""),
            (add("", "net"), "status.interfaceRequests[0].addInterfaceOptions: the name is empty"),
            (add("b", ""), "status.interfaceRequests[0].addInterfaceOptions: the network's name is empty"),
            (
                add("a", "other"),
                "status.interfaceRequests[0].addInterfaceOptions: \"a\" already exists, on network \"net\"",
            ),
            (
                remove("?"),
                "status.interfaceRequests[0].removeInterfaceOptions: the name contains the invalid character '?'",
            ),
            (
                "{}".to_owned(),
                "status.interfaceRequests[0]: the request has neither addInterfaceOptions nor removeInterfaceOptions",
            ),
        ] {
            assert_eq!(messages("", &new), expected, "{new}");
        }
        let old = remove("?");
        assert_eq!(messages(&old, &format!("{old},{both}")), "");
    }

    #[test]
    fn only_a_vm_is_checked() {
        add("").on_vmi().expect(&RULE, &Expect::Silent);
    }
}
