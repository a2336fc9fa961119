//! The type of a plain YAML scalar, as kubectl reads it (YAML 1.1, in `sigs.k8s.io/yaml`).

use std::borrow::Cow;

use serde_json::Number;

use super::tree::Content;

/// Returns the value of a plain scalar: null, a boolean, a number, else the text itself.
pub(super) fn resolve(text: Cow<'_, str>) -> Content<'_> {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Content::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Content::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Content::Bool(false),
        _ => number(&text).map_or(Content::Text(text), Content::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let first = text.strip_prefix(['+', '-']).unwrap_or(text).chars().next()?;
    if !first.is_ascii_digit() && first != '.' {
        return None;
    }
    let plain = text.replace('_', "");
    let (is_negative, digits) = match plain.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    if let Some(magnitude) = whole(digits) {
        return match i64::try_from(magnitude) {
            Ok(magnitude) if is_negative => Some(Number::from(-magnitude)),
            _ if is_negative => Number::from_f64(format!("-{magnitude}").parse().ok()?),
            _ => Some(Number::from(magnitude)),
        };
    }
    // Rust also reads `inf`, `nan` and `1.e5`; the first two do not begin with a digit.
    let is_decimal =
        digits.chars().all(|letter| letter.is_ascii_digit() || matches!(letter, '.' | 'e' | 'E' | '+' | '-'));
    let has_digit = digits.chars().any(|letter| letter.is_ascii_digit());
    if is_decimal && has_digit { Number::from_f64(plain.parse().ok()?) } else { None }
}

/// Returns a whole number with the prefixes of Go: `0x`, `0o`, `0b`, and `0` for octal.
fn whole(digits: &str) -> Option<u64> {
    let lower = digits.to_ascii_lowercase();
    let (radix, rest) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, lower.get(2..)?),
        [b'0', b'o', ..] => (8, lower.get(2..)?),
        [b'0', b'b', ..] => (2, lower.get(2..)?),
        [b'0', _, ..] => (8, lower.get(1..)?),
        _ => (10, lower.as_str()),
    };
    if rest.starts_with('+') {
        return None;
    }
    u64::from_str_radix(rest, radix).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::tree::{Position, Tree},
        *,
    };

    #[test]
    fn a_scalar_has_the_type_that_kubectl_sends() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("on", json!(true)),
            ("No", json!(false)),
            ("7", json!(7)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("1_000", json!(1000)),
            ("0x1F", json!(31)),
            ("012", json!(10)),
            ("0o12", json!(10)),
            ("0b101", json!(5)),
            ("08", json!(8.0)),
            ("1.10", json!(1.1)),
            ("1e3", json!(1000.0)),
            ("18446744073709551615", json!(u64::MAX)),
            ("v1", json!("v1")),
            ("1.2.3", json!("1.2.3")),
            ("2027-01-31", json!("2027-01-31")),
            ("02:00:00:00:00:01", json!("02:00:00:00:00:01")),
            ("1Gi", json!("1Gi")),
            ("-", json!("-")),
            (".", json!(".")),
            (".inf", json!(".inf")),
            ("nan", json!("nan")),
            ("0x", json!("0x")),
            ("++1", json!("++1")),
        ] {
            let tree = Tree { at: Position::start(), content: resolve(text.into()) };
            assert_eq!(tree.to_value(), expected, "{text:?}");
        }
    }
}
