//! What an answer rests on that memory may not have seen yet.
//!
//! Facts are late by a moment. An answer that they have a part in, and that a user would suffer from, can be doubted:
//! whoever can look again does so, and has it judged anew.

use super::{Answer, Decision, Endpoint, Evaluator, evaluate_migration};
use crate::{
    admission::verdict::Verdict,
    api::review::{self, ParsedRequest, Request},
    change::{Change, MigrationStart},
    facts::{Fact, FactSource, Facts},
};

/// An answer that may be another one when its facts are looked at again.
#[derive(Debug)]
pub enum Recheck<'d, 'r> {
    /// To a change.
    Change {
        /// The change.
        change: &'d Change<'r>,
        /// What was known.
        facts: &'d Facts,
        /// Which facts about the whole cluster have a part in the answer.
        rests_on: FactDependencies,
    },
    /// To the start of a migration.
    Migration {
        /// The start.
        start: &'d MigrationStart<'r>,
        /// What was known.
        facts: &'d Facts,
        /// Which facts about the whole cluster have a part in the answer.
        rests_on: FactDependencies,
    },
}

/// Facts that it takes a list of a whole cluster to know, and which most denials have nothing to do with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FactDependencies {
    /// How a NIC reaches a pod that runs.
    pub attachment: bool,
    /// Multus' isolation of namespaces.
    pub isolation: bool,
    /// How many nodes there are.
    pub nodes: bool,
}

impl<'h> Evaluator<'h> {
    /// The same hearing with other facts.
    #[must_use]
    pub fn with_facts<'f>(&self, facts: &'f dyn FactSource) -> Evaluator<'f>
    where
        'h: 'f,
    {
        Evaluator { facts, settings: self.settings }
    }

    /// Asks with what may be doubted about an answer to the body; `None` when nothing is: it does no harm, or it would
    /// be the same without any facts. Reads the body again, so it costs nothing where it is not called.
    pub fn recheck<T>(
        &self,
        endpoint: Endpoint,
        body: &[u8],
        answer: &Answer,
        ask: impl FnOnce(&Recheck) -> T,
    ) -> Option<T> {
        let may_harm = match endpoint {
            Endpoint::Validate => answer.decision == Decision::Denied,
            Endpoint::Mutate => answer.decision == Decision::Patched,
        };
        let ParsedRequest::Valid(request) = review::read(body).ok().filter(|_| may_harm)? else { return None };
        match (endpoint, MigrationStart::of(&request)) {
            (Endpoint::Validate, Some(start)) => self.doubt_migration(&start, ask),
            (Endpoint::Validate, None) => self.doubt_denial(&request, ask),
            (Endpoint::Mutate, _) => self.doubt_patch(&request, ask),
        }
    }

    fn doubt_denial<T>(&self, request: &Request, ask: impl FnOnce(&Recheck) -> T) -> Option<T> {
        let change = Change::of(request).filter(|change| change.oversized_list().is_none())?;
        let facts = self.facts_for(&change);
        let evaluate = |facts: &Facts| super::evaluate(&change, facts, self.settings);
        let rests_on = dependencies(&facts, evaluate)?;
        Some(ask(&Recheck::Change { change: &change, facts: &facts, rests_on }))
    }

    fn doubt_migration<T>(&self, start: &MigrationStart, ask: impl FnOnce(&Recheck) -> T) -> Option<T> {
        let facts = self.facts.facts_for_migration(start);
        let evaluate = |facts: &Facts| evaluate_migration(start, facts, self.settings);
        let rests_on = dependencies(&facts, evaluate)?;
        Some(ask(&Recheck::Migration { start, facts: &facts, rests_on }))
    }

    /// The one patch that would be wrong for a guest which has just been started: a NIC that it has is dropped from
    /// the template, and not unplugged.
    fn doubt_patch<T>(&self, request: &Request, ask: impl FnOnce(&Recheck) -> T) -> Option<T> {
        let change = Change::of(request)?;
        let removes = change.after.annotation(|annotations| annotations.remove_interfaces.as_deref()).is_some();
        if !removes || change.before.is_none() {
            return None;
        }
        let facts = self.facts_for(&change);
        let is_stopped = matches!(facts.live(), Fact::Absent);
        is_stopped
            .then(|| ask(&Recheck::Change { change: &change, facts: &facts, rests_on: FactDependencies::default() }))
    }
}

/// What the causes of a denial rest on; `None` when they stand without any facts.
fn dependencies(facts: &Facts, evaluate: impl Fn(&Facts) -> Verdict) -> Option<FactDependencies> {
    let causes = evaluate(facts).causes;
    let matters = |facts: &Facts| evaluate(facts).causes != causes;
    // How strictly the namespace has it is no matter of doubt.
    if !matters(&Facts { overrides: facts.overrides.clone(), ..Facts::default() }) {
        return None;
    }
    Some(FactDependencies {
        attachment: matters(&Facts { attachment: Fact::Unknown, ..facts.clone() }),
        isolation: matters(&Facts { isolation: Fact::Unknown, ..facts.clone() }),
        nodes: matters(&Facts { nodes: Fact::Unknown, ..facts.clone() }),
    })
}
