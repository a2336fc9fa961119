//! Text for people: at most 80 columns, colours on a terminal only.

use std::{
    env,
    io::{self, IsTerminal},
};

/// Readable on the narrowest terminal that people have.
const WIDTH: usize = 80;

/// Colours what is written to one place, or does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Painter {
    is_coloured: bool,
}

/// A colour, by its number in SGR.
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
    /// Coloured where standard output is a terminal whose user has not asked for none (no-color.org).
    pub(super) fn for_stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    /// The same for standard error.
    pub(super) fn for_stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    fn of(is_terminal: bool) -> Self {
        let is_wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { is_coloured: is_wanted && is_terminal }
    }

    /// The text, each of its lines coloured by itself.
    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        if !self.is_coloured {
            return text.to_owned();
        }
        let paint = |line: &str| format!("\u{1b}[{}m{line}\u{1b}[0m", colour as u8);
        text.lines().map(paint).collect::<Vec<_>>().join("\n")
    }
}

/// Breaks a text at its blanks. A word that is longer than a line stays whole, so that it can be copied.
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
    fn a_text_is_broken_at_blanks_and_long_words_stay_whole() {
        let text = format!("one two {} three", "x".repeat(90));
        assert_eq!(wrap(&text, "* ", "  "), format!("* one two\n  {}\n  three", "x".repeat(90)));
    }

    #[test]
    fn nothing_is_painted_where_nobody_looks() {
        assert_eq!(Painter { is_coloured: false }.paint(Colour::Red, "x"), "x");
        assert_eq!(
            Painter { is_coloured: true }.paint(Colour::Red, "x\ny"),
            "\u{1b}[31mx\u{1b}[0m\n\u{1b}[31my\u{1b}[0m"
        );
    }
}
