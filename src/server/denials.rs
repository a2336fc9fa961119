//! How many requests were denied, to whom and, if a server is configured so, in which namespace.
//!
//! Of the namespaces, only a limited number has counters of its own, in the order in which they have a denial first. A
//! client of the webhook writes the namespace of its review, so the number of series must not depend on it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    admission::{Decision, Evaluation},
    k8s::{SERVICE_ACCOUNT, request::is_valid_name},
};

/// The most namespaces that can have counters of their own.
pub const MAX_NAMESPACES: u16 = 1000;

/// The longest name of a namespace: a DNS label.
const LONGEST_NAMESPACE: usize = 63;

/// Stands for all namespaces without counters of their own. No namespace can have this name.
pub(super) const OTHER_NAMESPACES: &str = "_other";

/// Who made a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Requester {
    /// A component of KubeVirt.
    KubeVirt,
    /// Another service account: a controller, a console or Argo CD.
    ServiceAccount,
    /// Anyone else: a person, or a component of Kubernetes.
    User,
}

impl Requester {
    pub(super) const ALL: [Self; 3] = [Self::KubeVirt, Self::ServiceAccount, Self::User];

    fn of(user: &str, is_of_kubevirt: bool) -> Self {
        if is_of_kubevirt {
            Self::KubeVirt
        } else if user.starts_with(SERVICE_ACCOUNT) {
            Self::ServiceAccount
        } else {
            Self::User
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::KubeVirt => "kubevirt",
            Self::ServiceAccount => "serviceaccount",
            Self::User => "user",
        }
    }
}

/// The numbers of one namespace, by requester.
type Numbers = [u64; Requester::ALL.len()];

/// The counters of denials. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct DenialCounts {
    /// How many namespaces may have counters of their own; 0 counts all namespaces together.
    max_namespaces: usize,
    numbers: Arc<Mutex<AllNumbers>>,
}

#[derive(Debug, Default)]
struct AllNumbers {
    namespaces: BTreeMap<Box<str>, Numbers>,
    others: Numbers,
}

impl DenialCounts {
    pub(super) fn new(max_namespaces: usize) -> Self {
        Self { max_namespaces: max_namespaces.min(MAX_NAMESPACES.into()), numbers: Arc::default() }
    }

    /// Whether namespaces are told apart.
    pub(super) fn has_namespaces(&self) -> bool {
        self.max_namespaces > 0
    }

    /// Counts an answer, if it is a denial.
    pub(super) fn add(&self, evaluation: &Evaluation, is_of_kubevirt: impl FnOnce(&str) -> bool) {
        if evaluation.decision() != Decision::Denied {
            return;
        }
        let Some(request) = evaluation.request() else { return };
        let user = &*request.user_info.username;
        self.count(Requester::of(user, is_of_kubevirt(user)), &request.namespace);
    }

    fn count(&self, requester: Requester, namespace: &str) {
        let mut all = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let AllNumbers { namespaces, others } = &mut *all;
        let has_room = namespaces.len() < self.max_namespaces;
        if has_room && namespace.len() <= LONGEST_NAMESPACE && is_valid_name(namespace) {
            namespaces.entry(namespace.into()).or_default();
        }
        let numbers = namespaces.get_mut(namespace).unwrap_or(others);
        if let Some(number) = numbers.get_mut(requester as usize) {
            *number += 1;
        }
    }

    /// Returns the number of denials of each namespace and requester; the last namespace stands for all others.
    pub(super) fn numbers(&self) -> Vec<(String, Requester, u64)> {
        let all = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.namespaces.iter().map(|(name, numbers)| (name.to_string(), *numbers));
        let rows = own.chain([(OTHER_NAMESPACES.to_owned(), all.others)]);
        rows.flat_map(|(name, numbers)| {
            Requester::ALL.into_iter().zip(numbers).map(move |(requester, number)| (name.clone(), requester, number))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the numbers that are not 0.
    fn counted(counts: &DenialCounts) -> Vec<(String, &'static str, u64)> {
        let numbers = counts.numbers().into_iter().filter(|(_, _, number)| *number > 0);
        numbers.map(|(namespace, requester, number)| (namespace, requester.as_str(), number)).collect()
    }

    #[test]
    fn a_requester_is_kubevirt_a_service_account_or_a_user() {
        let account = "system:serviceaccount:kubevirt:kubevirt-controller";
        for (user, is_of_kubevirt, expected) in [
            (account, true, Requester::KubeVirt),
            (account, false, Requester::ServiceAccount),
            ("system:admin", false, Requester::User),
            ("alice", false, Requester::User),
        ] {
            assert_eq!(Requester::of(user, is_of_kubevirt), expected, "{user}");
        }
    }

    #[test]
    fn the_first_namespaces_are_told_apart_and_no_others() {
        let counts = DenialCounts::new(2);
        for namespace in ["a", "a", "b", "c", "a", "d", ""] {
            counts.count(Requester::User, namespace);
        }
        counts.count(Requester::KubeVirt, "b");
        let text = |text: &str| text.to_owned();
        let expected =
            [(text("a"), "user", 3), (text("b"), "kubevirt", 1), (text("b"), "user", 1), (text("_other"), "user", 3)];
        assert_eq!(counted(&counts), expected);
        assert_eq!(counts.numbers().len(), 3 * 3, "three requesters in two namespaces and in the others");
        let none = DenialCounts::default();
        none.count(Requester::User, "a");
        assert_eq!((counted(&none), none.numbers().len()), (vec![(text("_other"), "user", 1)], 3));
    }

    #[test]
    fn what_no_namespace_is_called_has_no_counter_and_the_limit_has_a_limit() {
        let counts = DenialCounts::new(usize::MAX);
        for namespace in ["A", "_other", "a\"b", &"a".repeat(64)] {
            counts.count(Requester::User, namespace);
        }
        assert_eq!(counted(&counts), [("_other".to_owned(), "user", 4)]);
        for number in 0..usize::from(MAX_NAMESPACES) + 5 {
            counts.count(Requester::User, &format!("n{number}"));
        }
        assert_eq!(counts.numbers().len(), Requester::ALL.len() * (usize::from(MAX_NAMESPACES) + 1));
    }
}
