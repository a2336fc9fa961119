//! Values that were skipped once and can come again.

use super::{
    scan::{after_blanks, after_number, from_special},
    skip,
};

/// The first long values that were skipped, with their first bytes to find them by.
///
/// `oldObject` repeats most of `object` byte for byte, so what was walked once need only be compared. The comparison
/// never looks further than the walk would: up to where two texts differ, both are the same unfinished value.
#[derive(Default)]
pub(super) struct SkippedValues<'de> {
    values: [([u8; HEAD], &'de [u8]); 16],
    count: usize,
}

/// How many bytes a value is found by.
const HEAD: usize = 8;

impl<'de> SkippedValues<'de> {
    /// Shorter values are walked as quickly as they are found.
    const LENGTH_AT_LEAST: usize = 128;

    /// What follows a value, which begins at once; `None` if it has no end. The entries of a list are remembered one by
    /// one: of `managedFields` the last one changes.
    pub(super) fn after_value(&mut self, text: &'de [u8]) -> Option<&'de [u8]> {
        match text {
            [b'[', b'{', ..] => self.after_list(text.get(1..)?),
            _ => self.after_entry(text),
        }
    }

    fn after_list(&mut self, mut rest: &'de [u8]) -> Option<&'de [u8]> {
        loop {
            match after_blanks(self.after_entry(rest)?) {
                [b',', tail @ ..] => rest = after_blanks(tail),
                [b']', tail @ ..] => return Some(tail),
                _ => return None,
            }
        }
    }

    /// What follows a value, which is remembered if it costs more to walk it than to find it: an object, or a string
    /// with escapes, such as JSON in an annotation. Both say themselves where they end, as `12` does not.
    #[inline]
    fn after_entry(&mut self, text: &'de [u8]) -> Option<&'de [u8]> {
        match text {
            [b'"', inside @ ..] => match from_special(inside)? {
                [b'"', tail @ ..] => Some(tail),
                _ => self.after_delimited(text),
            },
            [b'{', b'}', tail @ ..]
            | [b'[', b']', tail @ ..]
            | [b't', b'r', b'u', b'e', tail @ ..]
            | [b'f', b'a', b'l', b's', b'e', tail @ ..]
            | [b'n', b'u', b'l', b'l', tail @ ..] => Some(tail),
            [b'{', ..] => self.after_delimited(text),
            [b'[', ..] => skip::after_brackets(text),
            number => after_number(number),
        }
    }

    #[inline(never)]
    fn after_delimited(&mut self, text: &'de [u8]) -> Option<&'de [u8]> {
        let Some(head) = text.first_chunk().copied() else { return after_delimited(text) };
        let mut known = self.values.iter().take(self.count).filter(|(known, _)| *known == head);
        if let Some(tail) = known.find_map(|(_, value)| text.strip_prefix(*value)) {
            return Some(tail);
        }
        let tail = after_delimited(text)?;
        let value = text.get(..text.len() - tail.len())?;
        if value.len() >= Self::LENGTH_AT_LEAST
            && let Some(free) = self.values.get_mut(self.count)
        {
            *free = (head, value);
            self.count += 1;
        }
        Some(tail)
    }
}

/// What follows an object or a string.
fn after_delimited(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'"', inside @ ..] => skip::after_string(inside),
        _ => skip::after_brackets(text),
    }
}
