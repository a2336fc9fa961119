//! The deadline of a request, and the syntax of durations in Go.

use std::time::Duration;

/// The longest part of the API server's timeout that is reserved for the transfer of the answer.
const LONGEST_MARGIN: Duration = Duration::from_millis(500);

/// Returns the time in which a request must be read and answered.
///
/// The API server sends its timeout in the query: `?timeout=5s`. A tenth of it, at most half a second, is reserved so
/// that the answer arrives in time. `limit` is the upper bound, and the value for a request without a timeout.
pub(super) fn answer_within(query: Option<&str>, limit: Duration) -> Duration {
    let timeout = query
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("timeout=")))
        .and_then(parse_duration)
        .filter(|timeout| !timeout.is_zero());
    match timeout {
        Some(timeout) => limit.min(timeout.saturating_sub((timeout / 10).min(LONGEST_MARGIN))),
        None => limit,
    }
}

/// Reads a duration in the syntax of Go's `time.ParseDuration`, such as `10s`, `1m30s`, `1.5h` or `500ms`.
///
/// Returns `None` for another syntax, for a negative duration and for more than about 584 years.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = parse_part(rest)?;
        nanos = nanos.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(Duration::from_nanos(nanos))
}

/// Reads a number and its unit. Returns the nanoseconds and the rest of the text.
fn parse_part(text: &str) -> Option<(u64, &str)> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at_checked(end)?;
    let unit = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanos = whole.checked_mul(unit)?.checked_add(fraction_of(fraction, unit))?;
    Some((nanos, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Returns the nanoseconds of the digits after the point, rounded down.
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let (mut nanos, mut scale) = (0, unit);
    for digit in digits.bytes() {
        // The division is exact while `scale` is positive: every unit is a power of ten times 1, 60 or 3600.
        nanos += scale * u64::from(digit - b'0') / 10;
        scale /= 10;
    }
    nanos
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("10s", 10_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1h0m0s", 3_600_000_000_000),
            ("500ms", 500_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("2.s", 2_000_000_000),
            ("0.25h", 900_000_000_000),
            ("1.123456789123s", 1_123_456_789),
            ("100us", 100_000),
            ("100µs", 100_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_nanos(nanos)), "{text:?}");
        }
        for text in
            ["", "5", "s", "-5s", "+", "5 s", "5d", ".s", "1.2.3s", "5sec", "99999999999999999999s", "600000h60000000h"]
        {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_time_to_answer_is_shorter_than_the_timeout_of_the_api_server() {
        let limit = Duration::from_secs(30);
        for (query, millis) in [
            (Some("timeout=5s"), 4_500),
            (Some("timeout=1s"), 900),
            (Some("dryRun=All&timeout=10s"), 9_500),
            (Some("timeout=1h"), 30_000),
            (Some("timeout=0s"), 30_000),
            (Some("timeout=soon"), 30_000),
            (Some("timeouts=5s"), 30_000),
            (Some(""), 30_000),
            (None, 30_000),
        ] {
            assert_eq!(answer_within(query, limit), Duration::from_millis(millis), "{query:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_rejected(text in "[0-9.smhnuµ+-]{0,24}") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn a_duration_that_rust_prints_is_read_back(millis in 0_u64..10_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format!("{duration:?}")), Some(duration));
        }
    }
}
