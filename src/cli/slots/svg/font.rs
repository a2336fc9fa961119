//! The width of texts, so that none is longer than its place. A drawing does not know the fonts of its reader, so the
//! widths are those of DejaVu Sans, which is wider than the other fonts of the list.

/// The size of a text in pixels, and whether it is bold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Font {
    pub(super) size: u32,
    pub(super) is_bold: bool,
}

impl Font {
    /// Returns the width of a text, rounded up.
    pub(super) fn width(self, text: &str) -> u32 {
        let per_mille: u32 = text.chars().map(per_mille).sum();
        let bold = if self.is_bold { 118 } else { 100 };
        (per_mille * self.size * bold).div_ceil(100_000)
    }

    /// Returns the text, cut to a width with an ellipsis at the end.
    pub(super) fn fit(self, text: &str, width: u32) -> String {
        if self.width(text) <= width {
            return text.to_owned();
        }
        let mut cut = String::from("…");
        for (at, letter) in text.char_indices() {
            let longer = format!("{}…", text.get(..at + letter.len_utf8()).unwrap_or_default());
            if self.width(&longer) > width {
                break;
            }
            cut = longer;
        }
        cut
    }

    /// Breaks a text between words into lines of a width; a longer word is cut.
    pub(super) fn wrap(self, text: &str, width: u32) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            if let Some(line) = lines.last_mut() {
                let longer = format!("{line} {word}");
                if self.width(&longer) <= width {
                    *line = longer;
                    continue;
                }
            }
            lines.push(self.fit(word, width));
        }
        lines
    }
}

/// The widths of the letters from space to tilde, in thousandths of the size of the font.
#[rustfmt::skip]
const WIDTHS: [u32; 95] = [
    318, 401, 460, 838, 637, 951, 780, 275, 391, 391, 500, 838, 318, 361, 318, 337, 637, 637, 637, 637, 637, 637, 637,
    637, 637, 637, 337, 337, 838, 838, 838, 531, 1000, 685, 687, 699, 771, 632, 576, 775, 752, 295, 295, 656, 558, 863,
    749, 788, 604, 788, 695, 635, 611, 732, 685, 989, 686, 611, 686, 391, 337, 391, 838, 500, 500, 613, 635, 550, 635,
    616, 353, 635, 634, 278, 278, 580, 278, 975, 634, 612, 635, 635, 412, 521, 393, 634, 592, 818, 592, 592, 525, 637,
    337, 637, 838,
];

/// Returns at least the width of a letter, in thousandths of the size of the font.
fn per_mille(letter: char) -> u32 {
    let index = u32::from(letter).checked_sub(u32::from(' ')).and_then(|index| usize::try_from(index).ok());
    match (index.and_then(|index| WIDTHS.get(index)), letter) {
        (Some(&width), _) => width,
        (None, '·') => 380,
        (None, '–') => 500,
        // Letters of other scripts are at most as wide as high, and pictures are wider.
        (None, letter) if u32::from(letter) < 0x1_0000 => 1005,
        _ => 1400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FONT: Font = Font { size: 10, is_bold: false };

    #[test]
    fn a_text_that_is_too_long_ends_with_an_ellipsis() {
        assert_eq!(FONT.fit("abc", 30), "abc");
        assert_eq!(FONT.fit("abcdefgh", 30), "abc…");
        assert_eq!(FONT.fit("äöü", 1), "…");
        assert!(Font { is_bold: true, ..FONT }.width("abc") > FONT.width("abc"));
    }

    #[test]
    fn a_text_is_broken_between_words() {
        assert_eq!(FONT.wrap("one two three", 60), ["one two", "three"]);
        assert_eq!(FONT.wrap("abcdefgh ij", 30), ["abc…", "ij"]);
    }
}
