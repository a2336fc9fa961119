//! The versions of KubeVirt and their feature gates.

pub mod gates;

use std::{fmt, str::FromStr};

/// The newest release that nicplug was checked against. A newer one is treated like this one.
pub const NEWEST_KNOWN: Version = Version::new(1, 9, 0);

/// A release of KubeVirt. A pre-release counts as its release: it has the same gates and topology.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// 1 in `v1.9.0`.
    pub major: u16,
    /// 9 in `v1.9.0`.
    pub minor: u16,
    /// 0 in `v1.9.0`.
    pub patch: u16,
}

impl Version {
    /// Returns a version of three numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Whether this is `major.minor.0` or later.
    #[must_use]
    pub fn is_at_least(self, major: u16, minor: u16) -> bool {
        self >= Self::new(major, minor, 0)
    }

    /// Whether the minor version is newer than the newest known one. Patch versions do not count.
    #[must_use]
    pub fn is_newer_than_known(self) -> bool {
        self.is_at_least(NEWEST_KNOWN.major, NEWEST_KNOWN.minor + 1)
    }
}

/// The text is not a version such as `v1.9.0`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a KubeVirt version; write it as v1.9.0 or 1.9")]
pub struct VersionError {
    text: String,
}

impl FromStr for Version {
    type Err = VersionError;

    /// Reads `v1.9.0`, `1.9.0`, `1.9` and `v1.9.0-rc.1+build`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || VersionError { text: text.to_owned() };
        let numbers = text.strip_prefix('v').unwrap_or(text);
        let numbers = numbers.split(['-', '+']).next().unwrap_or(numbers);
        let mut parts = numbers.split('.').map(|part| part.parse::<u16>().ok());
        let (major, minor, patch) = (parts.next().flatten(), parts.next().flatten(), parts.next());
        match (major, minor, patch, parts.next()) {
            (Some(major), Some(minor), None, None) => Ok(Self::new(major, minor, 0)),
            (Some(major), Some(minor), Some(Some(patch)), None) => Ok(Self::new(major, minor, patch)),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_usual_notations_of_a_version_are_read() {
        for (text, version) in [
            ("v1.9.0", Version::new(1, 9, 0)),
            ("1.9", Version::new(1, 9, 0)),
            ("v0.59.2", Version::new(0, 59, 2)),
            ("v1.3.1-rc.0", Version::new(1, 3, 1)),
            ("v1.10.0-beta.0+abc", Version::new(1, 10, 0)),
        ] {
            assert_eq!(text.parse(), Ok(version), "{text}");
        }
    }

    #[test]
    fn the_error_of_an_invalid_version_quotes_it() {
        for text in ["", "v", "1", "devel", "1.x", "1.2.3.4", "v1.9.-1"] {
            let error = text.parse::<Version>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn only_a_newer_minor_version_is_newer_than_known() {
        assert!(Version::new(1, 10, 0).is_newer_than_known());
        assert!(Version::new(2, 0, 0).is_newer_than_known());
        assert!(!Version::new(1, 9, 7).is_newer_than_known());
    }

    #[test]
    fn ten_comes_after_nine() {
        assert!(Version::new(1, 10, 0) > Version::new(1, 9, 9));
        assert!(Version::new(1, 10, 0).is_at_least(1, 9));
        assert!(!Version::new(0, 59, 0).is_at_least(1, 0));
    }
}
