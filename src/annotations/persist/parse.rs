//! The annotation's text: `name[,name]` or `*`.

use std::str::FromStr;

use crate::annotations::interfaces::{self, Malformed};

/// The annotation.
pub const KEY: &str = "nicplug.io/persist";

/// Which NICs of a VMI are to be mirrored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PersistRequest {
    /// `*`: those that the template has no name of, as soon as there are any.
    All,
    /// These names, each once, in the order in which they are written.
    Names(Vec<String>),
}

impl PersistRequest {
    /// Whether a NIC of the name is asked for.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|known| known == name),
        }
    }

    /// The names that are written: none for `*`.
    #[must_use]
    pub fn names(&self) -> &[String] {
        match self {
            Self::All => &[],
            Self::Names(names) => names,
        }
    }
}

impl FromStr for PersistRequest {
    type Err = Malformed;

    /// # Errors
    /// The first thing that is wrong, and its place.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        interfaces::names(text, "keep").map(Self::Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_a_star_are_read() {
        let names = |text: &str| text.parse::<PersistRequest>().unwrap().names().join(" ");
        assert_eq!(" * ".parse(), Ok(PersistRequest::All));
        for (text, read) in [("a", "a"), ("b, a", "b a"), ("a,b,a", "a b")] {
            assert_eq!(names(text), read, "{text}");
        }
        assert!(PersistRequest::All.covers("a") && !PersistRequest::Names(vec!["b".to_owned()]).covers("a"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, told) in [
            ("", "the annotation names no NIC to keep"),
            ("a,", "entry 2, column 3: the name is empty"),
            ("*,a", "entry 1 (\"*\"), column 1: the name has the character '*'"),
            ("a b", "entry 1 (\"a b\"), column 2: the name has the character ' '"),
        ] {
            assert_eq!(text.parse::<PersistRequest>().unwrap_err().to_string(), told);
        }
    }
}
