//! Text for a terminal: its width, and colours only if the output is a terminal.

use std::{
    env,
    io::{self, IsTerminal},
};

use crate::telemetry::colours::wants_colours;

/// The usual smallest width of a terminal.
const WIDTH: usize = 80;

/// Colours the text for one output, if that is a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Painter {
    is_coloured: bool,
}

/// A colour, with its number in the SGR escape sequence.
#[derive(Clone, Copy)]
pub(super) enum Colour {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

impl Painter {
    /// Without colours.
    pub(super) const PLAIN: Self = Self { is_coloured: false };

    /// For standard output: coloured if it is a terminal and the environment does not say otherwise.
    pub(super) fn for_stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    /// For standard error, by the same conditions.
    pub(super) fn for_stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    fn of(is_terminal: bool) -> Self {
        Self { is_coloured: wants_colours(is_terminal) }
    }

    /// Returns the text with each line coloured separately.
    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        if !self.is_coloured {
            return text.to_owned();
        }
        let paint = |line: &str| format!("\u{1b}[{}m{line}\u{1b}[0m", colour as u8);
        text.lines().map(paint).collect::<Vec<_>>().join("\n")
    }
}

/// Whether the terminal only prints, so that nothing can be redrawn on it.
pub(super) fn is_dumb() -> bool {
    env::var("TERM").as_deref() == Ok("dumb")
}

/// Returns the width of the terminal; `None` if standard output is not one, where lines are not broken.
pub(super) fn stdout_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(columns)
}

/// As [`stdout_width`], for standard error.
pub(super) fn stderr_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stderr()).map(columns)
}

fn columns((terminal_size::Width(width), _): (terminal_size::Width, terminal_size::Height)) -> usize {
    // A terminal that does not know its size says 0.
    if width == 0 { WIDTH } else { usize::from(width).max(40) }
}

/// Returns the width of a page on standard output: that of `COLUMNS`, else that of the terminal.
pub(super) fn page_width() -> Option<usize> {
    let columns = env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|&width| width > 0);
    columns.or_else(stdout_width)
}

/// As [`wrap_to`], for a width; without one the text is not broken.
pub(super) fn wrap_in(width: Option<usize>, text: &str, first: &str, next: &str) -> String {
    width.map_or_else(|| format!("{first}{text}"), |width| wrap_to(width, text, first, next))
}

/// Breaks a text at its blanks; `first` and `next` begin the first and each further line. A word that is longer than a
/// line is not broken, so that it can be copied.
pub(super) fn wrap_to(width: usize, text: &str, first: &str, next: &str) -> String {
    let mut lines = String::from(first);
    let mut column = first.chars().count();
    let mut is_empty = true;
    for word in text.split(' ') {
        let length = word.chars().count();
        if !is_empty && column + 1 + length > width {
            lines.push('\n');
            lines.push_str(next);
            column = next.chars().count();
            is_empty = true;
        }
        if !is_empty {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
        is_empty = false;
    }
    lines
}

/// Returns the lines of a text, broken between words; a word that is longer than a line gets one of its own.
pub(super) fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_broken_at_blanks_and_long_words_are_not_broken() {
        let text = format!("one two {} three", "x".repeat(90));
        assert_eq!(wrap_to(80, &text, "* ", "  "), format!("* one two\n  {}\n  three", "x".repeat(90)));
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(broken("one two three", 7), ["one two", "three"]);
        assert_eq!(broken("a-very-long-word b", 5), ["a-very-long-word", "b"]);
        assert!(broken("", 5).is_empty());
    }

    #[test]
    fn text_is_coloured_only_for_a_terminal() {
        assert_eq!(Painter { is_coloured: false }.paint(Colour::Red, "x"), "x");
        assert_eq!(
            Painter { is_coloured: true }.paint(Colour::Red, "x\ny"),
            "\u{1b}[31mx\u{1b}[0m\n\u{1b}[31my\u{1b}[0m"
        );
    }
}
