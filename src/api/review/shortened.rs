//! A JSON text with short strings only, in which serde_json looks for a field of a wrong type: its message quotes the
//! value, and its path holds the key, however long they are.

use std::borrow::Cow;

use crate::api::split_value;

/// A shorter text costs little in any case.
const SHORT_TEXT: usize = 64 << 10;

/// The longest string that stays as it is, in bytes with its quotes.
const SHORT_STRING: usize = 256;

/// How many bytes of a longer string are kept.
const KEPT: usize = 64;

/// Returns a text with the same values of the same types, in which the beginnings of long strings stand for them.
pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= SHORT_TEXT {
        return Cow::Borrowed(text);
    }
    let mut copy = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, string)) = rest.find('"').and_then(|quote| rest.split_at_checked(quote)) {
        copy.push_str(before);
        let length = split_value(string.as_bytes()).map_or(string.len(), |(value, _)| value.len());
        let (value, tail) = string.split_at_checked(length).unwrap_or((string, ""));
        if value.len() <= SHORT_STRING {
            copy.push_str(value);
        } else {
            let plain = value.get(1..).and_then(|inside| inside.split('\\').next()).unwrap_or_default();
            copy.push('"');
            copy.push_str(&plain[..plain.floor_char_boundary(KEPT)]);
            copy.push_str("…\"");
        }
        rest = tail;
    }
    copy.push_str(rest);
    Cow::Owned(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_strings_of_a_long_text_are_shortened() {
        let short = r#"{"a":"b\\","c":[1,"d\"e"]}"#;
        assert_eq!(shortened(short), short);
        let padding = r#","f":"g""#.repeat(SHORT_TEXT / 8);
        let text = |key: &str, value: &str| format!(r#"{{"a":"b\\","{key}":"{value}","h":5{padding}}}"#);
        let same = text("c", &"é".repeat(127));
        assert_eq!(shortened(&same), same);
        for (long, kept) in [
            ("x".repeat(300), format!("{}…", "x".repeat(64))),
            ("é".repeat(300), format!("{}…", "é".repeat(32))),
            (format!("ab\\u0063{}", "x".repeat(300)), "ab…".to_owned()),
            (format!("\\\"{}", "x".repeat(300)), "…".to_owned()),
        ] {
            assert_eq!(shortened(&text(&long, "d")), text(&kept, "d"));
            assert_eq!(shortened(&text("c", &long)), text("c", &kept));
        }
        let open = format!(r#"{padding}"{}"#, "x".repeat(300));
        assert!(shortened(&open).ends_with("xxx…\""), "a string without an end");
    }
}
