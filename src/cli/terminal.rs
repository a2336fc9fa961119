//! Text for a terminal: at most 80 columns, and colours only if the output is a terminal.

use std::{
    env,
    io::{self, IsTerminal},
};

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
    /// For standard output: coloured if it is a terminal and `NO_COLOR` is not set (no-color.org).
    pub(super) fn for_stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    /// For standard error, by the same conditions.
    pub(super) fn for_stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    fn of(is_terminal: bool) -> Self {
        let is_allowed = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { is_coloured: is_allowed && is_terminal }
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

/// Breaks a text at its blanks; `first` and `next` begin the first and each further line. A word that is longer than a
/// line is not broken, so that it can be copied.
pub(super) fn wrap(text: &str, first: &str, next: &str) -> String {
    let mut lines = String::from(first);
    let mut column = first.chars().count();
    let mut is_empty = true;
    for word in text.split(' ') {
        let length = word.chars().count();
        if !is_empty && column + 1 + length > WIDTH {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_broken_at_blanks_and_long_words_are_not_broken() {
        let text = format!("one two {} three", "x".repeat(90));
        assert_eq!(wrap(&text, "* ", "  "), format!("* one two\n  {}\n  three", "x".repeat(90)));
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
