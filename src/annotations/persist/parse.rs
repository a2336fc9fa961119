//! Parses the text of the annotation: `name[,name]` or `*`.

use std::str::FromStr;

use crate::annotations::interfaces::{self, RequestSyntaxError};

/// The key of the annotation.
pub const KEY: &str = "nicplug.io/persist";

/// The NICs of a VMI to persist.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PersistRequest {
    /// `*`: all NICs whose names the template does not have, as soon as there is one.
    All,
    /// The NICs with these names, each once, in the order of the text.
    Names(Vec<String>),
}

impl PersistRequest {
    /// Returns whether the request covers a NIC with this name.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|known| known == name),
        }
    }

    /// Returns the names in the text: none for `*`.
    #[must_use]
    pub fn names(&self) -> &[String] {
        match self {
            Self::All => &[],
            Self::Names(names) => names,
        }
    }
}

impl FromStr for PersistRequest {
    type Err = RequestSyntaxError;

    /// # Errors
    /// The first error, with its location.
    fn from_str(text: &str) -> Result<Self, RequestSyntaxError> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        interfaces::parse_names(text, "persist").map(Self::Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_a_star_are_accepted() {
        let names = |text: &str| text.parse::<PersistRequest>().unwrap().names().join(" ");
        assert_eq!(" * ".parse(), Ok(PersistRequest::All));
        for (text, read) in [("a", "a"), ("b, a", "b a"), ("a,b,a", "a b")] {
            assert_eq!(names(text), read, "{text}");
        }
        assert!(PersistRequest::All.covers("a") && !PersistRequest::Names(vec!["b".to_owned()]).covers("a"));
    }

    #[test]
    fn a_malformed_text_is_reported_with_the_location() {
        for (text, message) in [
            ("", "the annotation names no NIC to persist"),
            ("a,", "entry 2, column 3: the name is empty"),
            ("*,a", "entry 1 (\"*\"), column 1: the name contains the invalid character '*'"),
            ("a b", "entry 1 (\"a b\"), column 2: the name contains the invalid character ' '"),
        ] {
            assert_eq!(text.parse::<PersistRequest>().unwrap_err().to_string(), message);
        }
    }
}
