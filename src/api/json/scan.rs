//! Finds the ends of strings, whitespace and numbers.

use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x16};

/// Splits a string without escapes from the text after it; `None` if the text does not begin with such a string.
#[inline]
pub(super) fn split_plain_string(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let tail = from_special(inside.as_bytes())?;
    let (text, tail) = inside.split_at_checked(inside.len() - tail.len())?;
    Some((text, tail.strip_prefix('"')?))
}

/// Splits a key without escapes, and the colon, from the text after them; `None` if whitespace stands around the key. A
/// comma comes before each key but the first.
///
/// By [`split_plain_string`] a heartbeat would take a twentieth more instructions: here each end is one comparison.
#[inline]
pub(super) fn split_compact_key(text: &str, is_first: bool) -> Option<(&str, &str)> {
    let inside = if is_first { text.strip_prefix('"') } else { text.strip_prefix(",\"") }?;
    let tail = from_special(inside.as_bytes())?;
    let (key, tail) = inside.split_at_checked(inside.len() - tail.len())?;
    Some((key, tail.strip_prefix("\":")?))
}

/// Returns the text after leading whitespace. The API server writes none, so the common case is one comparison.
#[inline]
pub(super) fn after_whitespace(text: &[u8]) -> &[u8] {
    match text {
        [(..=b' '), ..] => after_first_whitespace(text),
        _ => text,
    }
}

#[cold]
fn after_first_whitespace(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t', tail @ ..] = text {
        text = tail;
    }
    text
}

/// As [`after_whitespace`], for a `str`.
#[inline]
pub(super) fn trim_start(text: &str) -> &str {
    match text.as_bytes() {
        [(..=b' '), ..] => text.trim_start_matches([' ', '\n', '\r', '\t']),
        _ => text,
    }
}

/// Returns the text after a prefix; `None` if it begins with something else.
///
/// `strip_prefix` calls `memcmp`. That of musl, which the image's binary has, compares byte by byte: for the values that
/// `oldObject` repeats it would take as many instructions as the rest of a heartbeat.
#[inline]
pub(super) fn strip_long_prefix<'t>(text: &'t [u8], prefix: &[u8]) -> Option<&'t [u8]> {
    let (start, tail) = text.split_at_checked(prefix.len())?;
    let is_same = match (start.last_chunk::<BLOCK>(), prefix.last_chunk::<BLOCK>()) {
        (Some(last), Some(last_of_prefix)) => {
            let mut blocks = start.as_chunks::<BLOCK>().0.iter().zip(prefix.as_chunks::<BLOCK>().0);
            last == last_of_prefix && blocks.all(|(block, block_of_prefix)| block == block_of_prefix)
        }
        _ => start == prefix,
    };
    is_same.then_some(tail)
}

/// The bytes that [`strip_long_prefix`] compares at once: so many are compared without a call.
const BLOCK: usize = 32;

/// Returns the text from the first quote, backslash or control character on.
#[inline]
pub(super) fn from_special(mut text: &[u8]) -> Option<&[u8]> {
    while let Some((chunk, tail)) = text.split_first_chunk() {
        let specials = specials(*chunk);
        if specials != 0 {
            return text.get(specials.trailing_zeros() as usize..);
        }
        text = tail;
    }
    from_special_near_the_end(text)
}

#[cold]
fn from_special_near_the_end(text: &[u8]) -> Option<&[u8]> {
    let is_special = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\');
    text.get(text.iter().position(is_special)?..)
}

/// Returns which of sixteen bytes are quotes, backslashes or control characters: one bit each, the first byte lowest.
#[inline]
fn specials(bytes: [u8; 16]) -> u64 {
    // A text is too short to choose a level at run time.
    dispatch!(Level::baseline(), simd => specials_with(simd, bytes))
}

#[allow(clippy::inline_always, reason = "the instructions of a level exist in its context only")]
#[inline(always)]
fn specials_with<S: Simd>(simd: S, bytes: [u8; 16]) -> u64 {
    let bytes: u8x16<S> = bytes.simd_into(simd);
    let is_control = bytes.min(0x1f).simd_eq(bytes);
    let is_delimiter = bytes.simd_eq(b'"') | bytes.simd_eq(b'\\');
    (is_control | is_delimiter).to_bitmask()
}

/// Splits the value of a string from the text after it; `None` if the string has an escape of a character outside of
/// ASCII, or a fault. A body may consist of keys with escapes, and serde_json would read each of them as a document.
pub(super) fn split_ascii_escaped(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let place = rest.bytes().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'))?;
        let (plain, special) = rest.split_at_checked(place)?;
        value.push_str(plain);
        let (character, length) = match special.as_bytes() {
            [b'"', ..] => return Some((value, special.get(1..)?)),
            [b'\\', letter @ (b'"' | b'\\' | b'/'), ..] => (char::from(*letter), 2),
            [b'\\', b'b', ..] => ('\u{8}', 2),
            [b'\\', b'f', ..] => ('\u{c}', 2),
            [b'\\', b'n', ..] => ('\n', 2),
            [b'\\', b'r', ..] => ('\r', 2),
            [b'\\', b't', ..] => ('\t', 2),
            [b'\\', b'u', b'0', b'0', high @ b'0'..=b'7', low, ..] => {
                (char::from_u32(u32::from(high - b'0') << 4 | char::from(*low).to_digit(16)?)?, 6)
            }
            _ => return None,
        };
        value.push(character);
        rest = special.get(length..)?;
    }
}

/// Returns the text after a number.
pub(super) fn after_number(text: &[u8]) -> Option<&[u8]> {
    let mut rest = match text.strip_prefix(b"-").unwrap_or(text) {
        [b'0', tail @ ..] => tail,
        digits => after_digits(digits)?,
    };
    if let [b'.', tail @ ..] = rest {
        rest = after_digits(tail)?;
    }
    if let [b'e' | b'E', tail @ ..] = rest {
        rest = after_digits(tail.strip_prefix(b"+").or(tail.strip_prefix(b"-")).unwrap_or(tail))?;
    }
    Some(rest)
}

/// Returns the text after one digit or more.
fn after_digits(text: &[u8]) -> Option<&[u8]> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 { None } else { text.get(count..) }
}

/// Returns the number if it has only digits, and too few to overflow.
pub(super) fn short_whole_number(text: &str) -> Option<u64> {
    if text.len() > 18 {
        return None;
    }
    text.bytes().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_of_ascii_are_read_here() {
        let text = r#""a\"\\\/\b\f\n\r\t\u0041\u007f\u0000é": 1"#;
        let value = "a\"\\/\u{8}\u{c}\n\r\tA\u{7f}\0é";
        assert_eq!(split_ascii_escaped(text), Some((value.to_owned(), ": 1")));
        for other in [r#""\u00e9""#, r#""\ud83d\ude00""#, r#""\x""#, r#""\u004""#, r#""\""#, "\"\n\"", "\"a", "a"] {
            assert_eq!(split_ascii_escaped(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_string_is_unescaped_as_serde_json_does_it(
            text in r#""([ -!#-\[\]-~éä\n"]|\\["\\/bfnrtx]|\\u00[0-9a-fA-Fg]{2}|\\u[0-9a-f]{4}){0,8}"?"#
        ) {
            if let Some((value, tail)) = split_ascii_escaped(&text) {
                let string = &text[..text.len() - tail.len()];
                prop_assert_eq!(Some(value), serde_json::from_str(string).ok(), "{}", string);
            }
        }

        #[test]
        fn a_long_prefix_is_stripped_like_any_other(
            prefix in prop::collection::vec(0..3_u8, 0..100),
            tail in prop::collection::vec(0..3_u8, 0..10),
            change in any::<prop::sample::Index>(),
        ) {
            let mut text = [&prefix[..], &tail].concat();
            prop_assert_eq!(strip_long_prefix(&text, &prefix), Some(&tail[..]));
            prop_assert_eq!(strip_long_prefix(&prefix, &text), prefix.strip_prefix(&text[..]));
            if !prefix.is_empty() {
                text[change.index(prefix.len())] += 3;
                prop_assert_eq!(strip_long_prefix(&text, &prefix), None);
            }
        }
    }
}
