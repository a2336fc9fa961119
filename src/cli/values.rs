//! Values of flags that people write with a unit: durations and sizes.

use std::{fmt, str::FromStr, time::Duration};

use crate::server::deadline::parse_duration;

/// A duration of the command line, in the syntax of Go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct HumanDuration(pub(super) Duration);

/// A number of bytes of the command line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct HumanSize(pub(super) usize);

/// The reason for which a value cannot be read.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("write a number and a unit, such as 500ms, 10s or 1m30s")]
    Duration,
    #[error("write a number of bytes, such as 8388608, 512KiB or 8MiB")]
    Size,
}

impl FromStr for HumanDuration {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        parse_duration(text).map(Self).ok_or(ValueError::Duration)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}

impl FromStr for HumanSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, shift) = match (text.strip_suffix("MiB"), text.strip_suffix("KiB")) {
            (Some(number), _) => (number, 20),
            (_, Some(number)) => (number, 10),
            _ => (text, 0),
        };
        let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or(ValueError::Size)
    }
}

impl fmt::Display for HumanSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes != 0 && bytes.is_multiple_of(1 << 20) => write!(formatter, "{}MiB", bytes >> 20),
            bytes if bytes != 0 && bytes.is_multiple_of(1 << 10) => write!(formatter, "{}KiB", bytes >> 10),
            bytes => write!(formatter, "{bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        for size in [HumanSize(0), HumanSize(1), HumanSize(1000), HumanSize(1024), HumanSize(8 << 20)] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for duration in [Duration::ZERO, Duration::from_millis(500), Duration::from_mins(2)].map(HumanDuration) {
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }

    #[test]
    fn a_size_without_a_known_unit_or_too_large_is_refused() {
        for text in ["", "8MB", "-1", "8 MiB", "99999999999999999999", "18446744073709551615MiB"] {
            assert_eq!(text.parse::<HumanSize>(), Err(ValueError::Size), "{text:?}");
        }
    }
}
