//! Past a list, an object or a string without reading it.
//!
//! Sixty-four bytes are looked at together: for each question about them (which are quotes, which are brackets …) there
//! is a number with one bit a byte, the first byte lowest. So what lies within strings is found by six shifts, and
//! brackets are counted by counting bits. The idea is from Langdale and Lemire, "Parsing gigabytes of JSON per second"
//! (2019), section 3.

use std::mem;

use wide::u8x16;

/// What follows a list or an object, which begins at once; `None` if it has no end.
///
/// Brackets are counted and not told apart, and what stands between them may be anything that is none: `[1 2}` is walked
/// past.
#[inline(never)]
pub(super) fn after_brackets(text: &[u8]) -> Option<&[u8]> {
    let (mut strings, mut brackets) = (Strings::default(), Brackets::default());
    after(text, |block| {
        let [quotes, backslashes, opening, closing] = block.marks(|bytes| {
            // A square bracket and the curly one of its side differ in one bit, which other letters may have.
            let curly = bytes | u8x16::splat(b'[' ^ b'{');
            [is(bytes, b'"'), is(bytes, b'\\'), is(curly, b'{'), is(curly, b'}')]
        });
        let outside = !strings.inside(quotes, backslashes);
        brackets.end(opening & outside, closing & outside)
    })
}

/// What follows a string, of which the opening quote was taken; `None` if it has no end.
#[inline(never)]
pub(super) fn after_string(text: &[u8]) -> Option<&[u8]> {
    let mut strings = Strings::default();
    after(text, |block| {
        let [quotes, backslashes] = block.marks(|bytes| [is(bytes, b'"'), is(bytes, b'\\')]);
        first(quotes & !strings.escaped(backslashes))
    })
}

/// What follows the byte that `find` finds in one of the blocks. The last block is filled up with blanks.
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

/// Which of the bytes are this one.
#[inline]
fn is(bytes: u8x16, byte: u8) -> u8x16 {
    bytes.simd_eq(u8x16::splat(byte))
}

/// Bytes that are looked at together.
#[derive(Clone, Copy)]
struct Block<'t>(&'t [u8; 64]);

impl Block<'_> {
    /// The answers to `N` questions, which are asked of sixteen bytes at a time.
    #[inline]
    fn marks<const N: usize>(self, questions: impl Fn(u8x16) -> [u8x16; N]) -> [u64; N] {
        let mut marks = [0; N];
        for (number, chunk) in self.0.as_chunks::<16>().0.iter().enumerate() {
            for (marks, answer) in marks.iter_mut().zip(questions(u8x16::new(*chunk))) {
                *marks |= u64::from(answer.to_bitmask()) << (number * 16);
            }
        }
        marks
    }
}

/// Where strings are, from block to block.
#[derive(Default)]
struct Strings {
    /// All bits, if a string goes on into the next block.
    is_open: u64,
    /// One, if the first byte of the next block is escaped.
    is_escaped: u64,
}

impl Strings {
    /// The bytes within strings: the opening quotes among them, the closing ones not.
    #[inline]
    fn inside(&mut self, quotes: u64, backslashes: u64) -> u64 {
        let mut inside = quotes & !self.escaped(backslashes);
        // Each bit becomes the parity of all up to it.
        for distance in [1, 2, 4, 8, 16, 32] {
            inside ^= inside << distance;
        }
        inside ^= self.is_open;
        self.is_open = if inside >> 63 == 1 { u64::MAX } else { 0 };
        inside
    }

    /// The bytes that stand behind a backslash which is not escaped itself.
    #[inline]
    fn escaped(&mut self, backslashes: u64) -> u64 {
        let carried = mem::take(&mut self.is_escaped);
        let backslashes = backslashes & !carried;
        if backslashes == 0 {
            return carried;
        }
        // Of a run of backslashes the first one escapes, the third, the fifth. What they escape are the odd bytes up to
        // the one behind the run, if the run begins at an even byte, and the even ones otherwise.
        let first = backslashes & !(backslashes << 1);
        let (of_even, _) = runs(backslashes, first & EVEN);
        let (of_odd, reaches_next) = runs(backslashes, first & !EVEN);
        self.is_escaped = u64::from(reaches_next);
        carried | of_even & !EVEN | of_odd & EVEN
    }
}

/// Every second bit, from the lowest on.
const EVEN: u64 = u64::MAX / 3;

/// The runs of ones that begin at `first`, each with the bit behind it; and whether there is none behind the last one.
#[inline]
fn runs(ones: u64, first: u64) -> (u64, bool) {
    // Added to its first bit, a run turns to zeros and the bit behind it to one. Other runs stay.
    let (sum, overflows) = ones.overflowing_add(first);
    (sum ^ ones, overflows)
}

/// How many brackets are open.
#[derive(Default)]
struct Brackets {
    open: usize,
}

impl Brackets {
    /// Where the last open bracket is closed, if it is in this block.
    #[inline]
    fn end(&mut self, opening: u64, closing: u64) -> Option<usize> {
        let (opens, closes) = (opening.count_ones() as usize, closing.count_ones() as usize);
        // Only a block that closes as many as are open needs to be looked at bracket by bracket.
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

/// The place of the lowest bit.
#[inline]
fn first(bits: u64) -> Option<usize> {
    (bits != 0).then(|| bits.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As [`after_string`], byte by byte.
    fn after_string_slowly(text: &[u8]) -> Option<&[u8]> {
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
    fn after_brackets_slowly(text: &[u8]) -> Option<&[u8]> {
        let (mut rest, mut depth) = (text, 0);
        while let [byte, tail @ ..] = rest {
            rest = tail;
            match byte {
                b'"' => rest = after_string_slowly(rest)?,
                // Outside of a string it is no JSON, and escapes a quote all the same.
                b'\\' if matches!(rest, [b'"' | b'\\', ..]) => rest = &rest[1..],
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth == 1 => return Some(rest),
                b']' | b'}' => depth -= 1,
                _ => {}
            }
        }
        None
    }

    /// Longer than a few blocks, of what matters and of what must not.
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
        fn brackets_end_where_they_end(text in text(), opening in "[\\[{]{1,70}") {
            let text = opening + &text;
            prop_assert_eq!(after_brackets(text.as_bytes()), after_brackets_slowly(text.as_bytes()));
        }

        #[test]
        fn a_string_ends_where_it_ends(text in text()) {
            prop_assert_eq!(after_string(text.as_bytes()), after_string_slowly(text.as_bytes()));
        }
    }

    #[test]
    fn a_run_of_backslashes_is_counted_across_blocks() {
        for before in 0..70 {
            for count in 0..140 {
                let text = format!("{}{}\"\"tail", "a".repeat(before), "\\".repeat(count));
                assert_eq!(after_string(text.as_bytes()), after_string_slowly(text.as_bytes()), "{text}");
            }
        }
    }
}
