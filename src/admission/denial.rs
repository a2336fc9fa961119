//! A denial, for whoever tells it to somebody else than the one who made the request.

use serde_json::Value;

use super::{Answer, Decision};
use crate::{
    api::review::{self, ParsedRequest},
    change::Change,
};

/// A change that was denied.
#[derive(Debug)]
pub struct Denial<'d, 'r> {
    /// The change.
    pub change: &'d Change<'r>,
    answer: &'d Answer,
}

impl Denial<'_, '_> {
    /// Asks about a denial of the body's request; `None` when the answer is another one, or when the request is no
    /// change that rules judge. Reads the body again, so it costs nothing where it is not called.
    pub fn of<T>(body: &[u8], answer: &Answer, ask: impl FnOnce(&Denial) -> T) -> Option<T> {
        if answer.decision != Decision::Denied {
            return None;
        }
        let ParsedRequest::Valid(request) = review::read(body).ok()? else { return None };
        let change = Change::of(&request)?;
        Some(ask(&Denial { change: &change, answer }))
    }

    /// All causes in one text.
    #[must_use]
    pub fn message(&self) -> String {
        let answer: Value = serde_json::from_slice(&self.answer.body).unwrap_or_default();
        answer.pointer("/response/status/message").and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        admission::{Endpoint, Reviewer},
        facts::NoFacts,
        settings::Settings,
    };

    /// The user and the message of a denial.
    fn told(networks: &str) -> Option<(String, String)> {
        let review = format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
                "operation": "CREATE", "kind": {{"group": "kubevirt.io", "kind": "VirtualMachineInstance"}},
                "userInfo": {{"username": "alice"}}, "object": {{"spec": {{"networks": {networks}}}}}}}}}"#
        );
        let answer =
            Reviewer::new(Arc::new(NoFacts), Settings::default()).review(Endpoint::Validate, review.as_bytes());
        Denial::of(review.as_bytes(), &answer, |denial| (denial.change.user.to_owned(), denial.message()))
    }

    #[test]
    fn a_denial_says_who_was_denied_what() {
        let (user, message) = told(r#"[{"name": "a", "pod": {}}]"#).unwrap();
        assert_eq!(user, "alice");
        assert!(message.starts_with("spec.networks[0]") && message.ends_with("[NP004]"), "{message}");
        assert_eq!(told("[]"), None, "it is allowed");
        assert_eq!(told("5"), None, "it cannot be read");
    }
}
