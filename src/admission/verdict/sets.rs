//! Which rules spoke, and which facts they missed: one bit for each, so that an answer can carry them without a list.

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
    /// How many rules a set has room for.
    pub const ROOM: usize = 64;

    /// Adds a rule.
    pub(crate) fn insert(&mut self, rule: &Rule) {
        let place = RULES.iter().position(|known| known.id == rule.id);
        self.0 |= place.and_then(|place| 1_u64.checked_shl(u32::try_from(place).ok()?)).unwrap_or(0);
    }

    /// Whether there is no rule in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The places of its rules in [`RULES`], in order.
    pub fn places(self) -> impl Iterator<Item = usize> {
        bits(self.0)
    }

    /// The ids of its rules, in order.
    pub fn ids(self) -> impl Iterator<Item = &'static str> {
        self.places().filter_map(|place| RULES.get(place).map(|rule| rule.id))
    }

    /// The rules of both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A set of kinds of objects that facts are about.
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

    /// Its kinds, in order.
    pub fn kinds(self) -> impl Iterator<Item = FactKind> {
        bits(self.0).filter_map(|place| FactKind::ALL.get(place).copied())
    }
}

/// The places of the bits that are set, from the lowest on.
fn bits(mut rest: u64) -> impl Iterator<Item = usize> {
    iter::from_fn(move || {
        let place = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (place < u64::BITS).then_some(place as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_place() {
        assert!(RULES.len() <= RuleSet::ROOM);
        let mut all = RuleSet::default();
        for rule in RULES {
            all.insert(rule);
        }
        assert!(all.ids().eq(RULES.iter().map(|rule| rule.id)));
        assert!(!all.is_empty() && RuleSet::NONE.is_empty() && RuleSet::NONE.and(all) == all);
    }

    #[test]
    fn every_kind_of_fact_has_its_place() {
        for kind in FactKind::ALL {
            let mut one = FactSet::default();
            one.extend([kind]);
            assert!(one.kinds().eq([kind]), "{kind:?}");
        }
        assert_eq!(FactSet::NONE.kinds().count(), 0);
    }
}
