//! Long values that were skipped once and may be repeated.

use super::{
    scan::{after_number, after_whitespace, from_special, strip_long_prefix},
    skip,
};

/// The first long values that were skipped, with their first bytes as a key.
///
/// `oldObject` repeats most of `object` byte for byte, so a value that was skipped once only has to be compared. The
/// comparison never reads further than skipping would: up to the first difference, both texts are the same unfinished
/// value.
#[derive(Default)]
pub(super) struct SkippedValues<'de> {
    values: [([u8; KEY_LENGTH], &'de [u8]); 16],
    count: usize,
}

/// The length of the key, in bytes.
const KEY_LENGTH: usize = 8;

impl<'de> SkippedValues<'de> {
    /// Skipping a shorter value costs no more than finding it.
    const MIN_LENGTH: usize = 128;

    /// Returns the text after a value that begins here; `None` if it has no end. The entries of a list are remembered
    /// one by one, because only the last entry of `managedFields` changes.
    pub(super) fn after_value(&mut self, text: &'de [u8]) -> Option<&'de [u8]> {
        match text {
            [b'[', b'{', ..] => self.after_list(text.get(1..)?),
            _ => self.after_entry(text),
        }
    }

    fn after_list(&mut self, mut rest: &'de [u8]) -> Option<&'de [u8]> {
        loop {
            match after_whitespace(self.after_entry(rest)?) {
                [b',', tail @ ..] => rest = after_whitespace(tail),
                [b']', tail @ ..] => return Some(tail),
                _ => return None,
            }
        }
    }

    /// Returns the text after a value. Remembers the value if skipping it costs more than finding it: an object, or a
    /// string with escapes, such as JSON in an annotation. Both have an end mark, which a number does not.
    #[inline]
    fn after_entry(&mut self, text: &'de [u8]) -> Option<&'de [u8]> {
        after_value_by(text, |text| self.after_delimited(text))
    }

    #[inline(never)]
    fn after_delimited(&mut self, text: &'de [u8]) -> Option<&'de [u8]> {
        let Some(head) = text.first_chunk().copied() else { return after_delimited(text) };
        let mut known = self.values.iter().take(self.count).filter(|(known, _)| *known == head);
        if let Some(tail) = known.find_map(|(_, value)| strip_long_prefix(text, value)) {
            return Some(tail);
        }
        let tail = after_delimited(text)?;
        let value = text.get(..text.len() - tail.len())?;
        if value.len() >= Self::MIN_LENGTH
            && let Some(free) = self.values.get_mut(self.count)
        {
            *free = (head, value);
            self.count += 1;
        }
        Some(tail)
    }
}

/// Returns the text after a value that begins here; `None` if it has no end.
pub(super) fn after_value(text: &[u8]) -> Option<&[u8]> {
    after_value_by(text, after_delimited)
}

/// As [`after_value`]; a function skips an object, or a string with escapes.
#[inline]
fn after_value_by<'t>(text: &'t [u8], after_long: impl FnOnce(&'t [u8]) -> Option<&'t [u8]>) -> Option<&'t [u8]> {
    match text {
        [b'"', inside @ ..] => match from_special(inside)? {
            [b'"', tail @ ..] => Some(tail),
            _ => after_long(text),
        },
        [b'{', b'}', tail @ ..]
        | [b'[', b']', tail @ ..]
        | [b't', b'r', b'u', b'e', tail @ ..]
        | [b'f', b'a', b'l', b's', b'e', tail @ ..]
        | [b'n', b'u', b'l', b'l', tail @ ..] => Some(tail),
        [b'{', ..] => after_long(text),
        [b'[', ..] => skip::after_brackets(text),
        number => after_number(number),
    }
}

/// Returns the text after a list, an object or a string.
pub(super) fn after_delimited(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'"', inside @ ..] => skip::after_string(inside),
        _ => skip::after_brackets(text),
    }
}
