//! Sets of rules and of fact kinds, as bits: a decision carries them without an allocation.

use std::iter;

use crate::{
    facts::FactKind,
    rules::{RULES, Rule},
};

/// A set of rules.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RuleSet(u64);

impl RuleSet {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// The number of rules that a set can hold.
    pub const CAPACITY: usize = 64;

    /// Adds a rule.
    pub(crate) fn insert(&mut self, rule: &Rule) {
        let index = RULES.iter().position(|known| known.id == rule.id);
        self.0 |= index.and_then(|index| 1_u64.checked_shl(u32::try_from(index).ok()?)).unwrap_or(0);
    }

    /// Whether the set has no rules.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the indices of the rules in [`RULES`], in order.
    pub fn indices(self) -> impl Iterator<Item = usize> {
        bits(self.0)
    }

    /// Returns the ids of the rules, in order.
    pub fn ids(self) -> impl Iterator<Item = &'static str> {
        self.indices().filter_map(|index| RULES.get(index).map(|rule| rule.id))
    }

    /// Returns the rules of both sets.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A set of the kinds of objects that facts are about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FactSet(u64);

impl FactSet {
    /// The empty set.
    pub const NONE: Self = Self(0);

    pub(crate) fn extend(&mut self, kinds: impl IntoIterator<Item = FactKind>) {
        for kind in kinds {
            self.0 |= 1 << kind as u32;
        }
    }

    /// Returns the kinds, in order.
    pub fn kinds(self) -> impl Iterator<Item = FactKind> {
        bits(self.0).filter_map(|index| FactKind::ALL.get(index).copied())
    }
}

/// Returns the indices of the bits that are set, from the lowest to the highest.
fn bits(mut rest: u64) -> impl Iterator<Item = usize> {
    iter::from_fn(move || {
        let index = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (index < u64::BITS).then_some(index as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_own_bit() {
        assert!(RULES.len() <= RuleSet::CAPACITY);
        let mut all = RuleSet::default();
        for rule in RULES {
            all.insert(rule);
        }
        assert!(all.ids().eq(RULES.iter().map(|rule| rule.id)));
        assert!(!all.is_empty() && RuleSet::NONE.is_empty() && RuleSet::NONE.union(all) == all);
    }

    #[test]
    fn every_kind_of_fact_has_its_own_bit() {
        for kind in FactKind::ALL {
            let mut one = FactSet::default();
            one.extend([kind]);
            assert!(one.kinds().eq([kind]), "{kind:?}");
        }
        assert_eq!(FactSet::NONE.kinds().count(), 0);
    }
}
