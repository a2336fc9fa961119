//! Text in paragraphs: broken at the width of a terminal, and not at all in a pipe or where it is to be copied.

use crate::cli::terminal::{Colour, Painter, broken, page_width};

/// The lines of an output.
pub(in crate::cli) struct Printout {
    width: Option<usize>,
    painter: Painter,
    lines: Vec<String>,
}

impl Printout {
    /// A page for standard output.
    pub(in crate::cli) fn for_stdout() -> Self {
        Self::of(page_width())
    }

    /// A page of a width, or one whose lines are not broken.
    pub(in crate::cli) fn of(width: Option<usize>) -> Self {
        Self { width, painter: Painter::for_stdout(), lines: Vec::new() }
    }

    /// Adds a paragraph. `first` and `next` begin the first and each further line.
    pub(in crate::cli) fn paragraph(&mut self, colour: Option<Colour>, first: &str, next: &str, text: &str) {
        let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        let parts = match self.width {
            Some(width) => broken(&text, width.saturating_sub(next.chars().count().max(first.chars().count()))),
            None => vec![text],
        };
        for (number, part) in parts.iter().enumerate() {
            let line = format!("{}{part}", if number == 0 { first } else { next });
            self.lines.push(colour.map_or_else(|| line.clone(), |colour| self.painter.paint(colour, &line)));
        }
    }

    /// Adds lines that are not broken, so that they can be copied.
    pub(in crate::cli) fn verbatim(&mut self, indent: &str, text: &str) {
        self.lines.extend(text.lines().map(|line| format!("{indent}{line}")));
    }

    /// Returns the text.
    pub(in crate::cli) fn into_text(self) -> String {
        let mut text = self.lines.join("\n");
        text.push('\n');
        text
    }
}
