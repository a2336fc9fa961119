//! Skips a list, an object or a string without reading it.
//!
//! Sixty-four bytes are examined together: each class of bytes (quotes, brackets, …) becomes a bit mask with one bit
//! per byte, the first byte lowest. Six shifts then find the bytes inside strings, and counting bits counts brackets.
//! The idea is from Langdale and Lemire, "Parsing gigabytes of JSON per second" (2019), section 3.

use std::mem;

use wide::u8x16;

/// Returns the text after a list or an object that begins here; `None` if it has no end.
///
/// Square and curly brackets count alike, and any text may stand between them: `[1 2}` is skipped.
#[inline(never)]
pub(super) fn after_brackets(text: &[u8]) -> Option<&[u8]> {
    let (mut strings, mut brackets) = (Strings::default(), Brackets::default());
    after(text, |block| {
        let [quotes, backslashes, opening, closing] = block.marks(|bytes| {
            // A square bracket differs from the curly one of its side in one bit, which other bytes may have too.
            let curly = bytes | u8x16::splat(b'[' ^ b'{');
            [is(bytes, b'"'), is(bytes, b'\\'), is(curly, b'{'), is(curly, b'}')]
        });
        let outside = !strings.inside(quotes, backslashes);
        brackets.end(opening & outside, closing & outside)
    })
}

/// Returns the text after a string whose opening quote was consumed; `None` if it has no end.
#[inline(never)]
pub(super) fn after_string(text: &[u8]) -> Option<&[u8]> {
    let mut strings = Strings::default();
    after(text, |block| {
        let [quotes, backslashes] = block.marks(|bytes| [is(bytes, b'"'), is(bytes, b'\\')]);
        first(quotes & !strings.escaped(backslashes))
    })
}

/// Returns the text after the byte that `find` finds in one of the blocks. The last block is padded with spaces.
#[inline]
fn after(text: &[u8], mut find: impl FnMut(Block) -> Option<usize>) -> Option<&[u8]> {
    let (blocks, last) = text.as_chunks::<64>();
    for (number, block) in blocks.iter().enumerate() {
        if let Some(place) = find(Block(block)) {
            return text.get(number * 64 + place + 1..);
        }
    }
    let mut block = [b' '; 64];
    block.get_mut(..last.len())?.copy_from_slice(last);
    last.get(find(Block(&block))? + 1..)
}

/// Returns which of the bytes equal `byte`.
#[inline]
fn is(bytes: u8x16, byte: u8) -> u8x16 {
    bytes.simd_eq(u8x16::splat(byte))
}

/// Bytes that are examined together.
#[derive(Clone, Copy)]
struct Block<'t>(&'t [u8; 64]);

impl Block<'_> {
    /// Returns `N` bit masks. `classes` computes them for sixteen bytes at a time.
    #[inline]
    fn marks<const N: usize>(self, classes: impl Fn(u8x16) -> [u8x16; N]) -> [u64; N] {
        let mut marks = [0; N];
        for (number, chunk) in self.0.as_chunks::<16>().0.iter().enumerate() {
            for (marks, class) in marks.iter_mut().zip(classes(u8x16::new(*chunk))) {
                *marks |= u64::from(class.to_bitmask()) << (number * 16);
            }
        }
        marks
    }
}

/// The state of strings from block to block.
#[derive(Default)]
struct Strings {
    /// All bits set if a string continues in the next block.
    is_open: u64,
    /// One if the first byte of the next block is escaped.
    is_escaped: u64,
}

impl Strings {
    /// Returns the bytes inside strings, including opening quotes and excluding closing ones.
    #[inline]
    fn inside(&mut self, quotes: u64, backslashes: u64) -> u64 {
        let mut inside = quotes & !self.escaped(backslashes);
        // Each bit becomes the parity of all bits up to it.
        for distance in [1, 2, 4, 8, 16, 32] {
            inside ^= inside << distance;
        }
        inside ^= self.is_open;
        self.is_open = if inside >> 63 == 1 { u64::MAX } else { 0 };
        inside
    }

    /// Returns the bytes after a backslash that is not escaped itself.
    #[inline]
    fn escaped(&mut self, backslashes: u64) -> u64 {
        let carried = mem::take(&mut self.is_escaped);
        let backslashes = backslashes & !carried;
        if backslashes == 0 {
            return carried;
        }
        // In a run of backslashes the first, the third, the fifth … escape the next byte. If the run begins at an even
        // byte, the escaped bytes are the odd ones up to the byte after the run, otherwise the even ones.
        let first = backslashes & !(backslashes << 1);
        let (of_even, _) = runs(backslashes, first & EVEN);
        let (of_odd, reaches_next) = runs(backslashes, first & !EVEN);
        self.is_escaped = u64::from(reaches_next);
        carried | of_even & !EVEN | of_odd & EVEN
    }
}

/// Every second bit, from the lowest on.
const EVEN: u64 = u64::MAX / 3;

/// Returns the runs of ones that begin at `first`, each with the bit after it, and whether the last run reaches the
/// end.
#[inline]
fn runs(ones: u64, first: u64) -> (u64, bool) {
    // Adding the first bit of a run turns the run to zeros and the bit after it to one. Other runs stay.
    let (sum, overflows) = ones.overflowing_add(first);
    (sum ^ ones, overflows)
}

/// Counts open brackets.
#[derive(Default)]
struct Brackets {
    open: usize,
}

impl Brackets {
    /// Returns the offset at which the last open bracket is closed, if that is in this block.
    #[inline]
    fn end(&mut self, opening: u64, closing: u64) -> Option<usize> {
        let (opens, closes) = (opening.count_ones() as usize, closing.count_ones() as usize);
        // Only a block that closes at least as many brackets as are open has to be examined bracket by bracket.
        if self.open > closes {
            self.open = self.open + opens - closes;
            return None;
        }
        let mut left = opening | closing;
        while let Some(place) = first(left) {
            if opening >> place & 1 == 1 {
                self.open += 1;
            } else if self.open <= 1 {
                return Some(place);
            } else {
                self.open -= 1;
            }
            left &= left - 1;
        }
        None
    }
}

/// Returns the index of the lowest bit.
#[inline]
fn first(bits: u64) -> Option<usize> {
    (bits != 0).then(|| bits.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As [`after_string`], byte by byte.
    fn after_string_simple(text: &[u8]) -> Option<&[u8]> {
        let mut is_escaped = false;
        let end = text.iter().position(|byte| match byte {
            b'\\' => {
                is_escaped = !is_escaped;
                false
            }
            b'"' if !is_escaped => true,
            _ => {
                is_escaped = false;
                false
            }
        });
        Some(&text[end? + 1..])
    }

    /// As [`after_brackets`], byte by byte.
    fn after_brackets_simple(text: &[u8]) -> Option<&[u8]> {
        let (mut rest, mut depth) = (text, 0);
        while let [byte, tail @ ..] = rest {
            rest = tail;
            match byte {
                b'"' => rest = after_string_simple(rest)?,
                // Outside of a string this is not JSON, but it escapes a quote all the same.
                b'\\' if matches!(rest, [b'"' | b'\\', ..]) => rest = &rest[1..],
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth == 1 => return Some(rest),
                b']' | b'}' => depth -= 1,
                _ => {}
            }
        }
        None
    }

    /// Text of more than a few blocks, of significant and insignificant bytes.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[\\[\\]{}]{1,4}",
            2 => r#"[\\"]{1,5}"#,
            2 => r#""[a-z{}\[\]]{0,70}""#,
            1 => r#""([a-z]|\\\\|\\"){0,40}""#,
            2 => "[\u{0}-\u{7f}]{0,20}",
            1 => ".{0,20}",
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn brackets_end_as_in_the_simple_version(text in text(), opening in "[\\[{]{1,70}") {
            let text = opening + &text;
            prop_assert_eq!(after_brackets(text.as_bytes()), after_brackets_simple(text.as_bytes()));
        }

        #[test]
        fn a_string_ends_as_in_the_simple_version(text in text()) {
            prop_assert_eq!(after_string(text.as_bytes()), after_string_simple(text.as_bytes()));
        }
    }

    #[test]
    fn a_run_of_backslashes_is_counted_across_blocks() {
        for before in 0..70 {
            for count in 0..140 {
                let text = format!("{}{}\"\"tail", "a".repeat(before), "\\".repeat(count));
                assert_eq!(after_string(text.as_bytes()), after_string_simple(text.as_bytes()), "{text}");
            }
        }
    }
}
