//! NP120.

use super::{Case, Finding, rule};
use crate::annotations::keys::{self, Written};

rule! {
    /// An annotation of nicplug has an unknown name or value, so that it has no effect.
    ///
    /// ## Why
    /// Kubernetes accepts any annotation, so a typo in one of nicplug's is stored and does nothing: a NIC that
    /// `nicplug.io/add-interface` requests never comes, and a change under `nicplug.io/apply: onrestart` is denied as
    /// before. The rule compares the keys that begin with `nicplug.io/` with those that nicplug reads, on VMs, on their
    /// templates and on VMIs, and names the most similar one. A typo in `nicplug.io/rules` on a Namespace is reported
    /// with each request in that namespace to which nicplug responds.
    ///
    /// ## Example
    /// ```yaml
    /// metadata:
    ///   annotations:
    ///     nicplug.io/add-interface: dyniface1=new-fancy-net   # the key is nicplug.io/add-interfaces
    /// ```
    NP120, "annotation", Request, Warn,
    field: "metadata.annotations",
    fix: "correct the annotation, or remove it",
}

fn check(case: &Case) -> Vec<Finding> {
    if case.facts.by_controller {
        // virt-controller copies what a user wrote, and the answer to that user reported it.
        return Vec::new();
    }
    keys::without_effect(case.change).into_iter().map(finding).collect()
}

fn finding(written: Written) -> Finding {
    let Written { field, what, fix } = written;
    let fix = fix.as_deref().unwrap_or(RULE.fix);
    RULE.advice(field, format!("{what}: {fix}"))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::Facts,
        rules::{
            FindingKind,
            testing::{Hotplug, findings_of_update_with, findings_of_vmi_update_with},
        },
    };

    /// Returns an object with these annotations.
    fn annotated(annotations: &str) -> String {
        format!(r#"{{"metadata": {{"annotations": {{{annotations}}}}}, "spec": {{}}}}"#)
    }

    /// Returns what the rule says of a VM whose annotations change.
    fn says(before: &str, after: &str) -> Vec<String> {
        let findings = findings_of_update_with(&RULE, &annotated(before), &annotated(after), &Facts::default());
        assert!(findings.iter().all(|finding| finding.kind == FindingKind::Advice), "{findings:?}");
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_typo_is_reported_with_the_right_word() {
        for (annotation, expected) in [
            (
                r#""nicplug.io/add-interface": "a=b""#,
                "annotation nicplug.io/add-interface has no effect: write nicplug.io/add-interfaces",
            ),
            (
                r#""nicplug.io/Unplug": "dropped""#,
                "annotation nicplug.io/Unplug has no effect: write nicplug.io/unplug",
            ),
            (
                r#""nicplug.io/reserved-port": "2""#,
                "annotation nicplug.io/reserved-port has no effect: write nicplug.io/reserve-ports",
            ),
            (r#""nicplug.io/apply": "onrestart""#, "nicplug.io/apply \"onrestart\" has no effect: write on-restart"),
            (r#""nicplug.io/rule": "NP103=warn""#, "annotation nicplug.io/rule has no effect: write nicplug.io/rules"),
            (
                r#""nicplug.io/rules": "NP103=warn""#,
                "annotation nicplug.io/rules has no effect: set it on the Namespace",
            ),
            (
                r#""nicplug.io/colour": "red""#,
                "annotation nicplug.io/colour has no effect: correct the annotation, or remove it",
            ),
        ] {
            assert_eq!(says("", annotation), [expected]);
            assert!(says(annotation, annotation).is_empty(), "it was reported when it was written: {annotation}");
        }
    }

    #[test]
    fn known_annotations_and_those_of_others_are_not_reported() {
        for annotation in [
            r#""nicplug.io/apply": "on-restart""#,
            r#""nicplug.io/persist": "*", "nicplug.io/reserve-ports": "2", "nicplug.io/unplug": "dropped""#,
            r#""nicplug.io.example.com/add-interface": "a=b", "example.com/nicplug.io/x": "y""#,
        ] {
            assert!(says("", annotation).is_empty(), "{annotation}");
        }
    }

    #[test]
    fn vmis_templates_and_new_vms_are_checked_too() {
        let typo = r#""nicplug.io/persists": "*""#;
        let findings = findings_of_vmi_update_with(&RULE, &annotated(""), &annotated(typo), &Facts::default());
        assert_eq!(findings.len(), 1, "{findings:?}");
        let template = |annotations: &str| {
            format!(r#"{{"spec": {{"template": {{"metadata": {{"annotations": {{{annotations}}}}}}}}}}}"#)
        };
        let findings = findings_of_update_with(&RULE, &template(""), &template(typo), &Facts::default());
        assert_eq!(findings[0].field, "spec.template.metadata.annotations[nicplug.io/persists]");
        let created = Hotplug::of(r#"{"name": "dyniface1", "bridge": {}}"#).annotated(typo).created();
        assert_eq!(created.findings(&RULE).len(), 1);
        let by_controller = Facts { by_controller: true, ..Facts::default() };
        assert!(findings_of_vmi_update_with(&RULE, &annotated(""), &annotated(typo), &by_controller).is_empty());
    }

    #[test]
    fn a_long_list_of_long_keys_is_cut() {
        let keys: Vec<String> =
            (0..40).map(|number| format!(r#""nicplug.io/{}{number}": "x""#, "y".repeat(60))).collect();
        let says = says("", &keys.join(","));
        assert!(says.len() <= 8 && says.iter().all(|what| what.chars().count() <= 112), "{says:?}");
    }
}
