//! The facts on which a denial or a patch depends, so that a server can read them again.
//!
//! Facts from a watch are older than the cluster by a moment. If one of them is the reason for a denial, or for a patch
//! that would be wrong, then a server that can read the cluster does so and evaluates the request again.
//!
//! A denial with a cause that is the same without any facts stays a denial whatever the cluster holds, so it is sent at
//! once. KubeVirt's webhooks judge the same request at the same time, and the user reads only the first denial. The
//! other causes of that answer are those of the facts in memory.

use super::{
    Decision, Endpoint, Evaluation, Evaluator,
    evaluation::{Basis, decide, decide_migration, decide_network},
    verdict::Verdict,
};
use crate::{
    change::{Change, MigrationStart, NetworkChange},
    facts::{Fact, FactSource, Facts},
};

/// A decision that newer facts can change.
#[derive(Debug)]
pub enum Recheck<'d, 'r> {
    /// The decision on a change.
    Change {
        /// The change.
        change: &'d Change<'r>,
        /// The facts that were known.
        facts: &'d Facts,
        /// The facts about the whole cluster on which the decision depends.
        depends_on: FactDependencies,
    },
    /// The decision on the start of a migration.
    Migration {
        /// The start.
        start: &'d MigrationStart<'r>,
        /// The facts that were known.
        facts: &'d Facts,
        /// The facts about the whole cluster on which the decision depends.
        depends_on: FactDependencies,
    },
    /// The decision on a change of a network.
    Network {
        /// The change.
        change: &'d NetworkChange<'r>,
        /// The facts that were known.
        facts: &'d Facts,
    },
}

/// The facts on which a decision depends, of those that need a list of a whole cluster. Most denials depend on none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FactDependencies {
    /// How a NIC is attached to a running pod.
    pub attachment: bool,
    /// Multus' isolation of namespaces.
    pub isolation: bool,
    /// The number of nodes.
    pub nodes: bool,
}

impl<'e> Evaluator<'e> {
    /// Returns an evaluator with the same settings and other facts.
    #[must_use]
    pub fn with_facts<'f>(&self, facts: &'f dyn FactSource) -> Evaluator<'f>
    where
        'e: 'f,
    {
        Evaluator { facts, settings: self.settings }
    }

    /// Returns the part of an evaluation that newer facts can change; `None` if the decision does no harm, or is the
    /// same without any facts. Of a denial one cause that is the same without any facts is enough. It applies the rules
    /// again, so only a denial, and a warning instead of one, pays for it.
    #[must_use]
    pub fn recheck<'d, 'r>(&self, evaluation: &'d Evaluation<'r>) -> Option<Recheck<'d, 'r>> {
        let verdict = &evaluation.verdict;
        match (evaluation.endpoint, evaluation.decision, evaluation.basis.as_deref()?) {
            (Endpoint::Validate, Decision::Denied | Decision::Warned, Basis::Change(change, facts))
                if !verdict.causes.is_empty() || !verdict.postponed.is_empty() =>
            {
                let depends_on = dependencies(verdict, facts, |facts| decide(change, facts, self.settings))?;
                Some(Recheck::Change { change, facts, depends_on })
            }
            (Endpoint::Validate, Decision::Denied, Basis::Migration(start, facts)) => {
                let depends_on = dependencies(verdict, facts, |facts| decide_migration(start, facts, self.settings))?;
                Some(Recheck::Migration { start, facts, depends_on })
            }
            (Endpoint::Validate, Decision::Denied, Basis::Network(change, facts)) => {
                dependencies(verdict, facts, |facts| decide_network(change, facts, self.settings))?;
                Some(Recheck::Network { change, facts })
            }
            (Endpoint::Mutate, Decision::Patched, Basis::Change(change, facts)) => {
                drops_nic_of_stopped_vm(change, facts).then(|| Recheck::Change {
                    change,
                    facts,
                    depends_on: FactDependencies::default(),
                })
            }
            _ => None,
        }
    }
}

/// Whether the patch drops a NIC from the template because the VM does not run. If the VM has just been started, the
/// patch must unplug the NIC instead; no other patch depends on facts in this way.
fn drops_nic_of_stopped_vm(change: &Change, facts: &Facts) -> bool {
    let removes = change.after.annotation(|annotations| annotations.remove_interfaces.as_deref()).is_some();
    removes && change.before.is_some() && matches!(facts.live(), Fact::Absent)
}

/// Returns the facts on which the causes of a denial, or of a change that waits, depend; `None` if they are the same
/// without any facts, or if one cause of a denial is.
fn dependencies(denial: &Verdict, facts: &Facts, decide: impl Fn(&Facts) -> Verdict) -> Option<FactDependencies> {
    let differs = |other: &Verdict| (&other.causes, &other.postponed) != (&denial.causes, &denial.postponed);
    // The enforcement that the namespace asks for, and who the user is, are not read again.
    let (overrides, by_controller) = (facts.overrides.clone(), facts.by_controller);
    let without_facts = decide(&Facts { overrides, by_controller, ..Facts::default() });
    if !differs(&without_facts) || denial.causes.iter().any(|cause| without_facts.causes.contains(cause)) {
        return None;
    }
    let matters = |facts: &Facts| differs(&decide(facts));
    // A fact that is unknown already cannot be a reason, so the rules are not applied for it.
    Some(FactDependencies {
        attachment: !matches!(facts.attachment, Fact::Unknown)
            && matters(&Facts { attachment: Fact::Unknown, ..facts.clone() }),
        isolation: !matches!(facts.isolation, Fact::Unknown)
            && matters(&Facts { isolation: Fact::Unknown, ..facts.clone() }),
        nodes: !matches!(facts.nodes, Fact::Unknown) && matters(&Facts { nodes: Fact::Unknown, ..facts.clone() }),
    })
}
