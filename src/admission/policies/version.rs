//! Versions of Kubernetes.

use std::{fmt, str::FromStr};

use crate::api::quote::quote;

/// A minor release of Kubernetes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KubernetesVersion {
    major: u16,
    minor: u16,
}

/// The text is not a version of Kubernetes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{} is not a Kubernetes version; write it as 1.37", quote(text))]
pub struct KubernetesVersionError {
    text: String,
}

impl KubernetesVersion {
    /// Returns a version of two numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }
}

impl FromStr for KubernetesVersion {
    type Err = KubernetesVersionError;

    /// Reads `1.37`, `v1.37.2` and `1.37.2-gke.100`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let mut parts = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
            let (major, minor) = (parts.next()?, parts.next()?);
            // Some distributions report the minor version as `37+`.
            let minor = minor.split(['+', '-']).next()?;
            Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
        };
        read().ok_or_else(|| KubernetesVersionError { text: text.to_owned() })
    }
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_notations_are_read() {
        for text in ["1.37", "v1.37", "v1.37.2", "1.37+", "1.37.2-gke.100", "v1.37.2+k3s1"] {
            assert_eq!(text.parse(), Ok(KubernetesVersion::new(1, 37)), "{text}");
        }
        for text in ["", "1", "v1", "1.x", "latest", "37"] {
            assert!(text.parse::<KubernetesVersion>().is_err(), "{text}");
        }
    }
}
