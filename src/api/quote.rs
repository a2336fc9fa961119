//! Texts of a request in messages: quoted, and cut if they are long.
//!
//! A name is untrusted until the API server has checked it, and may be as long as the body. A message that quoted it
//! whole would multiply it: each finding and each cause holds the name again.

use std::{
    borrow::Cow,
    fmt::{self, Display, Write},
};

/// The most characters of a text that a message quotes.
pub(crate) const QUOTED_AT_MOST: usize = 64;

/// Returns a text in quotes and with escapes, as `{:?}` writes it, but at most its first [`QUOTED_AT_MOST`] characters.
pub(crate) fn quote(text: &str) -> Quoted<'_> {
    Quoted(text)
}

/// A text that is displayed in quotes; see [`quote`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted<'t>(&'t str);

impl Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match split_at_limit(self.0, QUOTED_AT_MOST) {
            None => write!(formatter, "{:?}", self.0),
            Some((kept, _)) => {
                formatter.write_char('"')?;
                write!(formatter, "{}", kept.escape_debug())?;
                formatter.write_str("…\"")
            }
        }
    }
}

/// Returns the first characters of a text, with `…` at the end if something is left out.
pub(crate) fn cut(text: &str, at_most: usize) -> Cow<'_, str> {
    match split_at_limit(text, at_most) {
        None => Cow::Borrowed(text),
        Some((kept, _)) => Cow::Owned(format!("{kept}…")),
    }
}

/// Returns a text of at most this many characters, with `…` in its middle if something is left out: long names differ
/// at their ends.
pub(crate) fn cut_inside(text: &str, at_most: usize) -> Cow<'_, str> {
    let count = text.chars().count();
    if count <= at_most {
        return Cow::Borrowed(text);
    }
    let end = at_most / 2;
    let start: String = text.chars().take(at_most.saturating_sub(end + 1)).collect();
    Cow::Owned(text.chars().skip(count - end).fold(start + "…", |cut, letter| cut + letter.encode_utf8(&mut [0; 4])))
}

/// Returns the text of a value, at most so many bytes, with `…` at the end if something is left out. The rest is not
/// even formatted.
pub(crate) fn written(value: impl Display, at_most: usize) -> String {
    struct Bounded {
        text: String,
        at_most: usize,
    }

    impl Write for Bounded {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = self.at_most.saturating_sub(self.text.len());
            self.text.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() <= room { Ok(()) } else { Err(fmt::Error) }
        }
    }

    let mut bounded = Bounded { text: String::new(), at_most };
    if write!(bounded, "{value}").is_err() {
        bounded.text.push('…');
    }
    bounded.text
}

/// Limits a message of serde: it may quote a value, whole and between its first and its last words.
pub(crate) fn cut_middle(message: String) -> String {
    /// Enough for the words before and after the value.
    const WORDS: usize = 128;
    let Some((start, rest)) = split_at_limit(&message, WORDS + QUOTED_AT_MOST) else { return message };
    let end = rest.char_indices().rev().nth(WORDS - 1).map_or(0, |(index, _)| index);
    // The words after the value: `, expected a string`.
    let end = rest.get(end..).and_then(|end| Some(end.split_at(end.rfind(", expected ")?).1));
    format!("{start}…{}", end.unwrap_or_default())
}

/// Splits a text after so many characters; `None` if it has no more.
fn split_at_limit(text: &str, at_most: usize) -> Option<(&str, &str)> {
    if text.len() <= at_most {
        return None;
    }
    let (end, _) = text.char_indices().nth(at_most)?;
    text.split_at_checked(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_quoted_as_a_string_literal() {
        for text in ["", "a", "quoted \"x\"", "it's", "é\n", &"é".repeat(QUOTED_AT_MOST)] {
            assert_eq!(quote(text).to_string(), format!("{text:?}"));
        }
    }

    #[test]
    fn a_long_value_is_written_up_to_its_bound() {
        for (text, at_most, expected) in
            [("", 0, ""), ("abc", 3, "abc"), ("abcd", 3, "abc…"), ("aéé", 4, "aé…"), ("é", 1, "…")]
        {
            assert_eq!(written(text, at_most), expected, "{text}");
        }
        assert_eq!(written(format_args!("{}{}", "ab", "cd"), 3), "abc…");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "é".repeat(QUOTED_AT_MOST + 1);
        assert_eq!(quote(&text).to_string(), format!("\"{}…\"", "é".repeat(QUOTED_AT_MOST)));
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "abc…");
    }

    #[test]
    fn a_message_of_serde_keeps_its_words_and_loses_the_long_value() {
        let error = |value: &str| serde_json::from_str::<u8>(value).unwrap_err().to_string();
        let short = error("\"x\"");
        assert_eq!(cut_middle(short.clone()), short);
        let long = cut_middle(error(&format!("\"{}\"", "x".repeat(100_000))));
        assert!(long.starts_with("invalid type: string \"xxx"), "{long}");
        assert!(long.contains("…, expected u8") && long.chars().count() < 400, "{long}");
        assert!(cut_middle("y".repeat(1000)).ends_with("y…"));
    }
}
