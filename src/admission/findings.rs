//! The findings behind a decision, for commands that show the place of each.

use super::{
    Endpoint, Evaluator, ParsedBody,
    enforcement::EnforcementPolicy,
    verdict::{
        Cause,
        judged::{self, Judged},
    },
};
use crate::{
    api::review::ParsedRequest,
    change::MigrationStart,
    rules::{self, Case, CauseType},
};

impl Evaluator<'_> {
    /// Returns the findings that make the answer of `/validate` deny or warn, in the order of the document.
    #[must_use]
    pub fn findings(&self, body: &ParsedBody) -> Vec<Judged> {
        let Ok(ParsedRequest::Valid(request)) = body else { return self.causes(body) };
        if !self.judges(&request.kind) {
            return Vec::new();
        }
        if let Some(start) = MigrationStart::of(request) {
            let facts = self.facts_for_migration(request, &start);
            let policy = EnforcementPolicy::new(self.settings, &facts, start.namespace);
            let findings = rules::evaluate_migration(&start, &facts, self.settings, |rule| policy.is_off(rule));
            return judged::without_restart(&findings, &policy);
        }
        if let Some(change) = self.network_change_of(request) {
            let facts = self.facts.facts_for_network(&change);
            let policy = EnforcementPolicy::new(self.settings, &facts, change.namespace);
            let findings = rules::evaluate_network(&change, &facts, |rule| policy.is_off(rule));
            return judged::without_restart(&findings, &policy);
        }
        if request.is_unchanged {
            return Vec::new();
        }
        let Some(change) = self.change_of(request).filter(|change| !change.is_irrelevant()) else { return Vec::new() };
        if change.oversized().is_some() {
            return self.causes(body);
        }
        let facts = self.facts_for(&change);
        let policy = EnforcementPolicy::new(self.settings, &facts, change.subject.namespace);
        let case = Case::new(&change, &facts, self.settings);
        judged::of_change(&rules::evaluate(&case, |rule| policy.is_off(rule)), &change, &facts, &policy)
    }

    /// Returns the causes of a denial that no rule makes: the object cannot be read, or has too many NICs, or its request
    /// cannot be answered, because its name is too long.
    fn causes(&self, body: &ParsedBody) -> Vec<Judged> {
        if let Err(error) = body {
            let field = "metadata.name".to_owned();
            return judged::of_causes(&[Cause { reason: CauseType::Invalid, field, message: error.to_string() }]);
        }
        judged::of_causes(&self.evaluate(Endpoint::Validate, body).verdict.causes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        admission::{Severity, parse},
        change::{Change, NetworkChange},
        facts::{Fact, FactSource, Facts, NetworkUsers},
        settings::Settings,
    };

    /// A cluster where one guest runs, and uses every network.
    struct OneGuest;

    impl FactSource for OneGuest {
        fn facts_for(&self, _: &Change) -> Facts {
            Facts::default()
        }

        fn facts_for_migration(&self, _: &MigrationStart) -> Facts {
            Facts { vmi: Fact::Known(Arc::default()), ..Facts::default() }
        }

        fn facts_for_network(&self, _: &NetworkChange) -> Facts {
            let users = NetworkUsers { guests: vec!["demo/vm".to_owned()], count: 1 };
            Facts { network_users: Fact::Known(users), ..Facts::default() }
        }
    }

    /// Returns the rules and severities of the findings, after a comparison with the rules of the verdict.
    fn findings(kind: &str, request: &str) -> Vec<(&'static str, Severity)> {
        let settings = Settings::parse("api: {groups: {kubevirt.io: [kubevirt.example.com]}}", &[]).unwrap();
        let review = format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
                "namespace": "demo", "kind": {{{kind}}}, {request}}}}}"#
        );
        let body = parse(review.as_bytes());
        let evaluator = Evaluator::new(&OneGuest, &settings);
        let evaluation = evaluator.evaluate(Endpoint::Validate, &body);
        let findings = evaluator.findings(&body);
        let found: Vec<_> = findings.iter().filter_map(|judged| Some((judged.rule?.id, judged.severity))).collect();
        let rules: Vec<_> = found.iter().map(|&(rule, _)| rule).collect();
        assert_eq!(rules, evaluation.verdict.warned_by.ids().collect::<Vec<_>>(), "{review}");
        found
    }

    #[test]
    fn an_object_whose_request_cannot_be_answered_has_a_finding() {
        let name = "n".repeat(300);
        let review = format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
                "name": "{name}", "kind": {{"group": "kubevirt.io", "kind": "VirtualMachine"}}, "object": {{}}}}}}"#
        );
        let settings = Settings::default();
        let found = Evaluator::new(&OneGuest, &settings).findings(&parse(review.as_bytes()));
        assert!(matches!(&found[..], [judged] if judged.severity == Severity::Denied), "{found:?}");
        assert!(format!("{found:?}").contains("at most 253"), "{found:?}");
    }

    #[test]
    fn a_changed_network_and_the_migration_of_a_fork_have_the_findings_of_their_verdict() {
        let nad = |kind: &str| format!(r#"{{"metadata": {{"name": "blue"}}, "spec": {{"config": "{kind}"}}}}"#);
        let network = format!(r#""operation": "UPDATE", "object": {}, "oldObject": {}"#, nad("a"), nad("b"));
        let kind = r#""group": "k8s.cni.cncf.io", "kind": "NetworkAttachmentDefinition""#;
        assert_eq!(findings(kind, &network), [("NP119", Severity::Warned)]);

        let migration = r#""operation": "CREATE", "object": {"spec": {"vmiName": "vm"}}"#;
        let kind = |group: &str| format!(r#""group": "{group}", "kind": "VirtualMachineInstanceMigration""#);
        assert_eq!(findings(&kind("kubevirt.io"), migration), []);
        assert_eq!(findings(&kind("kubevirt.example.com"), migration), [("NP111", Severity::Unchecked)]);
    }
}
