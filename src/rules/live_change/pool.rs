//! What the update of a VirtualMachinePool does to the guests of the pool.
//!
//! A guest whose VM differs from the pool's template is outdated: KubeVirt deletes it, at most `maxUnavailable` guests
//! together, and the VM starts it again (`pkg/virt-controller/watch/pool/pool.go`).

use super::RULE;
use crate::{
    api::quote::quote,
    api::vm::{IntOrString, PoolSpec},
    rules::{Case, CauseType, Finding},
};

/// Returns a finding about what the new NICs in the template do to the guests of the pool.
pub(super) fn check(case: &Case, pool: &PoolSpec) -> Option<Finding> {
    let change = case.change;
    if change.after.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let what = effect(change.subject.name, pool)?;
    let field = format!("{}.domain.devices.interfaces", change.after.path);
    let fix = "raise or lower spec.maxUnavailable, or set spec.updateStrategy, before the update".to_owned();
    Some(RULE.fault(CauseType::Invalid, field, what).with_fix(fix))
}

fn effect(name: &str, pool: &PoolSpec) -> Option<String> {
    let strategy = &pool.update_strategy;
    let guests = u64::try_from(pool.replicas.unwrap_or(1)).unwrap_or(0);
    if guests == 0 || strategy.unmanaged.is_some() {
        return None;
    }
    if strategy.opportunistic.is_some() {
        return Some(format!(
            "pool {name} writes the NICs into its VMs: running guests change as their VMs do",
            name = quote(name)
        ));
    }
    if guests == 1 {
        return Some(format!(
            "the guest of pool {name} restarts: KubeVirt deletes it and starts it anew",
            name = quote(name)
        ));
    }
    let together = max_unavailable(pool, guests);
    let which = if strategy.selects_guests() { "guests".to_owned() } else { format!("all {guests} guests") };
    Some(format!(
        "{which} of pool {name} restart: KubeVirt deletes them, {together} at a time, and starts them anew",
        name = quote(name)
    ))
}

/// Returns how many guests KubeVirt deletes together: a percentage is rounded down, and at least one is deleted.
fn max_unavailable(pool: &PoolSpec, guests: u64) -> u64 {
    let count = match &pool.max_unavailable {
        None => guests,
        Some(IntOrString::Int(count)) => u64::try_from(*count).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|percent| percent.parse::<u64>().ok());
            percent.map_or(guests, |percent| guests.saturating_mul(percent) / 100)
        }
    };
    count.clamp(1, guests)
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::{Fact, Facts},
        rules::{
            RULES, Scope,
            testing::{findings_under, review_of_kind},
        },
        settings::Settings,
    };

    fn pool(fields: &str, interfaces: &str) -> String {
        format!(
            r#"{{"metadata": {{"name": "vm-fedora", "namespace": "demo"}}, "spec": {{{fields} "virtualMachineTemplate":
                {{"spec": {{"template": {{"spec": {{"domain": {{"devices": {{"interfaces": [{interfaces}]}}}},
                "networks": [{{"name": "a", "pod": {{}}}}]}}}}}}}}}}}}"#
        )
    }

    fn update(fields: &str) -> String {
        let (old, new) =
            (r#"{"name": "a", "masquerade": {}}"#, r#"{"name": "a", "masquerade": {}, "model": "e1000e"}"#);
        review_of_kind("VirtualMachinePool", "UPDATE", &pool(fields, new), &pool(fields, old))
    }

    #[test]
    fn an_update_of_a_pool_tells_how_many_guests_restart() {
        let all = |together: u64| {
            format!(
                r#"all 3 guests of pool "vm-fedora" restart: KubeVirt deletes them, {together} at a time, and starts them anew"#
            )
        };
        for (fields, what) in [
            (r#""replicas": 3,"#, Some(all(3))),
            (r#""replicas": 3, "maxUnavailable": 2,"#, Some(all(2))),
            (r#""replicas": 3, "maxUnavailable": "50%","#, Some(all(1))),
            (r#""replicas": 3, "maxUnavailable": "10%","#, Some(all(1))),
            (r#""replicas": 3, "maxUnavailable": 9,"#, Some(all(3))),
            (r#""replicas": 3, "maxUnavailable": null, "updateStrategy": null,"#, Some(all(3))),
            ("", Some(r#"the guest of pool "vm-fedora" restarts: KubeVirt deletes it and starts it anew"#.to_owned())),
            (r#""replicas": 0,"#, None),
            (r#""replicas": 3, "updateStrategy": {"unmanaged": {}},"#, None),
            (
                r#""replicas": 3, "updateStrategy": {"opportunistic": {}},"#,
                Some(
                    r#"pool "vm-fedora" writes the NICs into its VMs: running guests change as their VMs do"#
                        .to_owned(),
                ),
            ),
            (
                r#""replicas": 3, "updateStrategy": {"proactive": {"selectionPolicy": {"selectors": {}}}},"#,
                Some(
                    r#"guests of pool "vm-fedora" restart: KubeVirt deletes them, 3 at a time, and starts them anew"#
                        .to_owned(),
                ),
            ),
        ] {
            let findings = findings_under(&RULE, &update(fields), &Facts::default(), &Settings::default());
            assert_eq!(findings.into_iter().next().map(|finding| finding.what), what, "{fields}");
        }
    }

    #[test]
    fn no_other_hotplug_rule_judges_a_pool() {
        for vmi in [Fact::Absent, Fact::Unknown] {
            let facts = Facts { vmi, ..Facts::default() };
            for rule in RULES.iter().filter(|rule| rule.scope == Scope::Hotplug && rule.id != RULE.id) {
                let findings = findings_under(rule, &update(r#""replicas": 3,"#), &facts, &Settings::default());
                assert!(findings.is_empty(), "{findings:?}");
            }
        }
    }
}
