//! What the commands print: the result on standard output, and everything else there too or, if a program reads the
//! result, on standard error.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{self, Write},
};

use crate::cli::terminal::{Colour, Painter, wrap};

/// Prints to the user.
pub(super) struct Console {
    /// Whether standard output is only for the object.
    is_reserved: bool,
    /// The diagnostics so far: a change that is tried again prints none of them twice.
    printed: RefCell<BTreeSet<String>>,
    output: Painter,
    diagnostics: Painter,
}

impl Console {
    pub(super) fn new(is_reserved: bool) -> Self {
        let diagnostics = Painter::for_stderr();
        let output = if is_reserved { diagnostics } else { Painter::for_stdout() };
        Self { is_reserved, printed: RefCell::default(), output, diagnostics }
    }

    /// Prints the object on standard output, unchanged.
    pub(super) fn object(text: &str) -> io::Result<()> {
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes())?;
        output.flush()
    }

    /// Prints what happened or will happen.
    pub(super) fn info(&self, text: &str) -> io::Result<()> {
        self.write(&wrap(text, "", "  "))
    }

    /// Prints lines without breaking them, so that they can be copied.
    pub(super) fn verbatim(&self, text: &str) -> io::Result<()> {
        self.write(text.trim_end())
    }

    /// Prints a line of a table, which is broken already.
    pub(super) fn row(&self, colour: Option<Colour>, text: &str) -> io::Result<()> {
        match colour {
            Some(colour) => self.write(&self.output.paint(colour, text)),
            None => self.write(text),
        }
    }

    /// Prints a remark on standard error.
    pub(super) fn note(&self, text: &str) -> io::Result<()> {
        self.diagnose(Colour::Dim, &wrap(text, "", "  "))
    }

    pub(super) fn warn(&self, text: &str) -> io::Result<()> {
        self.diagnose(Colour::Yellow, &wrap(&format!("Warning: {text}"), "", "  "))
    }

    /// Prints the reason for which something was not done.
    pub(super) fn error(&self, text: &str) -> io::Result<()> {
        self.diagnose(Colour::Red, &wrap(text, "", "  "))
    }

    /// Like [`error`](Self::error), for several reasons.
    pub(super) fn errors(&self, head: &str, texts: &[String]) -> io::Result<()> {
        let list: Vec<String> = texts.iter().map(|text| wrap(text, "* ", "  ")).collect();
        self.diagnose(Colour::Red, &format!("{head}\n{}", list.join("\n")))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        if self.is_reserved {
            return writeln!(io::stderr().lock(), "{text}");
        }
        let mut output = io::stdout().lock();
        writeln!(output, "{text}")?;
        output.flush()
    }

    fn diagnose(&self, colour: Colour, text: &str) -> io::Result<()> {
        if !self.printed.borrow_mut().insert(text.to_owned()) {
            return Ok(());
        }
        writeln!(io::stderr().lock(), "{}", self.diagnostics.paint(colour, text))
    }
}
