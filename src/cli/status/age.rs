//! The age of something, as kubectl prints it.

use jiff::Timestamp;

/// Returns the time since a moment in RFC 3339, such as `45s`, `12m`, `3h` or `2d`; `None` for another text.
pub(in crate::cli) fn age(since: &str, now: Timestamp) -> Option<String> {
    let since: Timestamp = since.parse().ok()?;
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0);
    Some(match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        for (since, expected) in [
            ("2026-11-27T11:59:15Z", Some("45s")),
            ("2026-11-27T11:47:59.5Z", Some("12m")),
            ("2026-11-27T09:00:00Z", Some("3h")),
            ("2026-11-20T12:00:00Z", Some("7d")),
            ("2026-11-27T12:00:09Z", Some("0s")),
            ("soon", None),
        ] {
            assert_eq!(age(since, now).as_deref(), expected, "{since}");
        }
    }
}
