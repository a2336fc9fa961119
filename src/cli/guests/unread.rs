//! The objects that could not be read, by reason.

use std::{collections::BTreeSet, fmt};

use crate::k8s::api_error::ApiError;

/// What could not be read.
#[derive(Debug, Default)]
pub(in crate::cli) struct Unread {
    /// Objects without permission.
    pub(in crate::cli) forbidden: BTreeSet<String>,
    /// Objects with another error, and the error.
    pub(in crate::cli) failed: BTreeSet<String>,
}

impl Unread {
    pub(super) fn add(&mut self, what: &impl fmt::Display, error: &ApiError) {
        if error.is_forbidden() {
            self.forbidden.insert(what.to_string());
        } else {
            self.failed.insert(format!("{what}: {error}"));
        }
    }

    /// Returns a sentence for each reason.
    pub(in crate::cli) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.forbidden.is_empty() {
            let all: Vec<&str> = self.forbidden.iter().map(String::as_str).collect();
            notes.push(format!("Not read, no permission: {}", all.join(", ")));
        }
        notes.extend(self.failed.iter().map(|failed| format!("Not read: {failed}")));
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_listed_by_its_reason() {
        let mut unread = Unread::default();
        unread.add(&"Pods", &ApiError::Forbidden("no".to_owned()));
        unread.add(&"Events", &ApiError::Forbidden("no".to_owned()));
        unread.add(&"KubeVirts", &ApiError::Refused("odd".to_owned()));
        let notes = unread.notes();
        assert_eq!(notes[0], "Not read, no permission: Events, Pods");
        assert!(notes[1].starts_with("Not read: KubeVirts: ") && notes.len() == 2, "{notes:?}");
    }
}
