//! The annotation by which a namespace overrides the enforcement of rules.
//!
//! `nicplug.io/rules: "NP103=warn, NP104=off"`: entries between commas, with optional whitespace anywhere. An
//! annotation with an invalid entry is ignored as a whole, because applying a part of it could surprise the user.

use std::fmt;

use super::Enforcement;

/// The annotation of a Namespace. Users who may edit objects in a namespace usually may not edit the Namespace itself.
pub const ANNOTATION: &str = "nicplug.io/rules";

/// The maximum number of entries, far above the number of rules.
const MAX_ENTRIES: usize = 200;

/// The maximum length of an entry in a message, in characters.
const MAX_EXCERPT: usize = 24;

/// The overrides of an annotation, or the reason why it is invalid.
pub type ParsedOverrides = Result<Overrides, OverridesError>;

/// The enforcement that a namespace sets, by rule id. The ids may be unknown.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Overrides(Box<[(Box<str>, Enforcement)]>);

/// The reason why an annotation is invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OverridesError {
    /// An entry is not `RULE=ENFORCEMENT`.
    #[error("{0} is not RULE=ENFORCEMENT, such as NP103=warn")]
    InvalidEntry(Excerpt),
    /// There are too many entries.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// A rule has two entries.
    #[error("{0} has two entries")]
    DuplicateRule(Excerpt),
    /// The annotation has another key, which looks like a typo.
    #[error("its key is written {0}")]
    Misspelled(Excerpt),
    /// The enforcement does not exist.
    #[error("{0} is not one of deny, warn, off")]
    UnknownEnforcement(Excerpt),
}

/// The beginning of a text that a user wrote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Excerpt(Box<str>);

impl From<&str> for Excerpt {
    fn from(text: &str) -> Self {
        match text.char_indices().nth(MAX_EXCERPT) {
            Some((end, _)) => Self(format!("{}…", text.get(..end).unwrap_or_default()).into()),
            None => Self(text.into()),
        }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}

impl Overrides {
    /// Reads the value of an annotation. A blank one overrides nothing.
    ///
    /// # Errors
    /// An entry is invalid, there are too many entries, or a rule has two.
    pub fn parse(text: &str) -> ParsedOverrides {
        let mut rules: Vec<(Box<str>, Enforcement)> = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if rules.len() == MAX_ENTRIES {
                return Err(OverridesError::TooMany);
            }
            let (id, word) = entry.split_once('=').ok_or_else(|| OverridesError::InvalidEntry(entry.into()))?;
            let (id, word) = (id.trim_end(), word.trim_start());
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(OverridesError::InvalidEntry(entry.into()));
            }
            let enforcement =
                Enforcement::parse(word).ok_or_else(|| OverridesError::UnknownEnforcement(word.into()))?;
            if rules.iter().any(|(known, _)| **known == *id) {
                return Err(OverridesError::DuplicateRule(id.into()));
            }
            rules.push((id.into(), enforcement));
        }
        Ok(Self(rules.into()))
    }

    /// Whether nothing is overridden.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the enforcement of a rule, if it is overridden.
    #[must_use]
    pub fn enforcement(&self, rule: &str) -> Option<Enforcement> {
        self.iter().find(|(id, _)| *id == rule).map(|(_, enforcement)| enforcement)
    }

    /// Returns all overrides in the order of the annotation.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Enforcement)> {
        self.0.iter().map(|(id, enforcement)| (id.as_ref(), *enforcement))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overrides(text: &str) -> Vec<(String, &'static str)> {
        let overrides = Overrides::parse(text).unwrap();
        overrides.iter().map(|(id, enforcement)| (id.to_owned(), enforcement.as_str())).collect()
    }

    #[test]
    fn entries_stand_between_commas_with_blanks_anywhere() {
        let expected = [("NP103".to_owned(), "warn"), ("NP104".to_owned(), "off")];
        for text in ["NP103=warn,NP104=off", " NP103 = warn ,\n  NP104=off,\n", "NP103=warn, , NP104=off"] {
            assert_eq!(overrides(text), expected, "{text:?}");
        }
        for text in ["", "  ", ",", "\n"] {
            assert!(Overrides::parse(text).unwrap().is_empty(), "{text:?}");
        }
        let overrides = Overrides::parse("NP103=warn").unwrap();
        assert_eq!((overrides.enforcement("NP103"), overrides.enforcement("NP10")), (Some(Enforcement::Warn), None));
    }

    #[test]
    fn an_error_names_the_mistake() {
        for (text, fault) in [
            ("NP103", "\"NP103\" is not RULE=ENFORCEMENT, such as NP103=warn"),
            ("NP103:warn", "\"NP103:warn\" is not RULE=ENFORCEMENT, such as NP103=warn"),
            ("NP103=warn NP104=off", "\"warn NP104=off\" is not one of deny, warn, off"),
            ("=warn", "\"=warn\" is not RULE=ENFORCEMENT, such as NP103=warn"),
            ("NP103=Warn", "\"Warn\" is not one of deny, warn, off"),
            ("NP103=", "\"\" is not one of deny, warn, off"),
            ("NP103=warn,NP103=warn", "\"NP103\" has two entries"),
            ("NP\u{1b}103=warn", "\"NP\\u{1b}103=warn\" is not RULE=ENFORCEMENT, such as NP103=warn"),
        ] {
            assert_eq!(Overrides::parse(text).unwrap_err().to_string(), fault, "{text:?}");
        }
        let long = Overrides::parse(&"x".repeat(5000)).unwrap_err().to_string();
        assert!(long.starts_with("\"xxxxxxxxxxxxxxxxxxxxxxxx…\" is not"), "{long}");
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|number| format!("NP{number}=off")).collect();
        assert_eq!(Overrides::parse(&many.join(",")), Err(OverridesError::TooMany));
    }

    /// Text that resembles an annotation.
    fn near() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "NP[0-9]{3}",
            4 => "=(deny|warn|off)",
            3 => Just(",".to_owned()),
            1 => "[ \t\n]{1,2}",
            1 => "\\PC{0,3}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_in_one_short_line(text in prop_oneof![near(), any::<String>()]) {
            match Overrides::parse(&text) {
                // Writing and reading it again gives the same overrides.
                Ok(overrides) => {
                    let entries = overrides.iter().map(|(id, enforcement)| format!("{id}={}", enforcement.as_str()));
                    let again = entries.collect::<Vec<_>>().join(",");
                    prop_assert_eq!(Overrides::parse(&again), Ok(overrides));
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(!error.chars().any(char::is_control), "{}", error);
                    prop_assert!(error.chars().count() <= 400, "{}", error);
                }
            }
        }

        #[test]
        fn entries_in_the_right_form_are_read(
            wanted in prop::collection::btree_map("NP[0-9]{3}", prop::sample::select(&["deny", "warn", "off"][..]), 0..9),
            blank in "[ \t\n]{0,2}",
        ) {
            let entries = wanted.iter().map(|(id, word)| format!("{blank}{id}{blank}={blank}{word}{blank}"));
            let overrides = Overrides::parse(&entries.collect::<Vec<_>>().join(",")).unwrap();
            prop_assert_eq!(overrides.iter().count(), wanted.len());
            for (id, word) in wanted {
                prop_assert_eq!(overrides.enforcement(&id).map(Enforcement::as_str), Some(word));
            }
        }
    }
}
