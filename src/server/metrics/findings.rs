//! The metrics of rules.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::family;
use crate::{facts::FactKind, rules::RULES, server::counts::Counts};

#[derive(Debug)]
pub(super) struct FindingCollector(pub(super) Counts);

impl Collector for FindingCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let findings = RULES.iter().enumerate().flat_map(|(index, rule)| {
            [("deny", self.0.denied_by(index)), ("warn", self.0.warned_by(index))].map(|(enforcement, count)| {
                ([("rule", rule.id), ("enforcement", enforcement)], ConstCounter::new(count))
            })
        });
        let about = ("findings", "Answers that a rule denied or in which it warned, once per answer");
        family(&mut encoder, about, MetricType::Counter, findings)?;

        let failed = RULES
            .iter()
            .enumerate()
            .map(|(index, rule)| ([("rule", rule.id)], ConstCounter::new(self.0.failed(index))));
        let about =
            ("internal_errors", "Answers without the verdict of a rule, because the rule failed by an internal error");
        family(&mut encoder, about, MetricType::Counter, failed)?;

        let unknown = FactKind::ALL.map(|kind| ([("kind", kind.as_str())], ConstCounter::new(self.0.unknown(kind))));
        let about = (
            "unknown_facts",
            "Answers with a warning about something that was not checked, by the kind of the unknown object",
        );
        family(&mut encoder, about, MetricType::Counter, unknown)
    }
}
