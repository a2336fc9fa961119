//! Skips a list, an object or a string without reading it.
//!
//! Sixty-four bytes are examined together: each class of bytes (quotes, brackets, …) becomes a bit mask with one bit
//! per byte, the first byte lowest. Six shifts then find the bytes inside strings, and counting bits counts brackets.
//! The idea is from Langdale and Lemire, "Parsing gigabytes of JSON per second" (2019), section 3.
//!
//! The code is compiled for each level of SIMD that a processor may have, and the level is chosen at run time: with AVX2
//! it takes half as many instructions as with SSE2, which every x86-64 has.

#![allow(clippy::inline_always, reason = "see FindEnd")]

use std::mem;

use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x64};

/// Returns the text after a list or an object that begins here; `None` if it has no end.
///
/// Square and curly brackets count alike, and any text may stand between them: `[1 2}` is skipped.
#[inline(never)]
pub(super) fn after_brackets(text: &[u8]) -> Option<&[u8]> {
    dispatch!(Level::new(), simd => after(simd, text, Brackets::default()))
}

/// Returns the text after a string whose opening quote was consumed; `None` if it has no end.
#[inline(never)]
pub(super) fn after_string(text: &[u8]) -> Option<&[u8]> {
    dispatch!(Level::new(), simd => after(simd, text, Strings::default()))
}

/// Finds the end of a value.
///
/// Its methods, and all functions that they call, have to be inlined: the instructions of a level exist only in the
/// function that was compiled for the level. A closure would not be inlined.
trait FindEnd {
    /// Returns the offset of the last byte of the value, if it is in this block.
    fn end<S: Simd>(&mut self, bytes: u8x64<S>) -> Option<usize>;
}

/// Returns the text after the end of a value. The last block is padded with spaces.
#[inline(always)]
fn after<S: Simd>(simd: S, text: &[u8], mut value: impl FindEnd) -> Option<&[u8]> {
    let (blocks, last) = text.as_chunks::<64>();
    for (number, block) in blocks.iter().enumerate() {
        if let Some(place) = value.end(u8x64::from_slice(simd, block)) {
            return text.get(number * 64 + place + 1..);
        }
    }
    let mut block = [b' '; 64];
    block.get_mut(..last.len())?.copy_from_slice(last);
    last.get(value.end(u8x64::from_slice(simd, &block))? + 1..)
}

/// Returns which of the bytes equal `byte`: one bit each.
#[inline(always)]
fn marks<S: Simd>(bytes: u8x64<S>, byte: u8) -> u64 {
    bytes.simd_eq(byte).to_bitmask()
}

/// The state of strings from block to block.
#[derive(Default)]
struct Strings {
    /// All bits set if a string continues in the next block.
    is_open: u64,
    /// One if the first byte of the next block is escaped.
    is_escaped: u64,
}

impl FindEnd for Strings {
    #[inline(always)]
    fn end<S: Simd>(&mut self, bytes: u8x64<S>) -> Option<usize> {
        first(marks(bytes, b'"') & !self.escaped(marks(bytes, b'\\')))
    }
}

impl Strings {
    /// Returns the bytes inside strings, including opening quotes and excluding closing ones.
    #[inline(always)]
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
    #[inline(always)]
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
#[inline(always)]
fn runs(ones: u64, first: u64) -> (u64, bool) {
    // Adding the first bit of a run turns the run to zeros and the bit after it to one. Other runs stay.
    let (sum, overflows) = ones.overflowing_add(first);
    (sum ^ ones, overflows)
}

/// A list or an object, with the brackets that are open.
#[derive(Default)]
struct Brackets {
    strings: Strings,
    open: usize,
}

impl FindEnd for Brackets {
    #[inline(always)]
    fn end<S: Simd>(&mut self, bytes: u8x64<S>) -> Option<usize> {
        let outside = !self.strings.inside(marks(bytes, b'"'), marks(bytes, b'\\'));
        // A square bracket differs from the curly one of its side in one bit, which other bytes may have too.
        let curly = bytes | (b'[' ^ b'{');
        let (opening, closing) = (marks(curly, b'{') & outside, marks(curly, b'}') & outside);
        let (opens, closes) = (opening.count_ones() as usize, closing.count_ones() as usize);
        // Only a block that closes at least as many brackets as are open has to be examined bracket by bracket.
        if self.open <= closes {
            let (mut left, mut closed) = (closing, 0);
            while let Some(place) = first(left) {
                closed += 1;
                let opened = (opening & below(place)).count_ones() as usize;
                if self.open + opened <= closed {
                    return Some(place);
                }
                left &= left - 1;
            }
        }
        self.open = self.open + opens - closes;
        None
    }
}

/// Returns a mask of the bits below `place`.
#[inline(always)]
fn below(place: usize) -> u64 {
    (1 << place) - 1
}

/// Returns the index of the lowest bit.
#[inline(always)]
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
