//! Where the commands speak: results on standard output, and what goes with them there or, where a program reads the
//! output, on standard error.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{self, Write},
};

use crate::cli::terminal::{Colour, Painter, wrap};

/// Speaks to the user.
pub(super) struct Talk {
    /// Whether standard output is for the object alone.
    is_reserved: bool,
    /// What was complained of: when a change is made anew, nothing is said twice.
    told: RefCell<BTreeSet<String>>,
    speech: Painter,
    complaints: Painter,
}

impl Talk {
    pub(super) fn new(is_reserved: bool) -> Self {
        let complaints = Painter::for_stderr();
        let speech = if is_reserved { complaints } else { Painter::for_stdout() };
        Self { is_reserved, told: RefCell::default(), speech, complaints }
    }

    /// The result itself, as it is.
    pub(super) fn result(text: &str) -> io::Result<()> {
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes())?;
        output.flush()
    }

    /// One thing that happened, or will happen.
    pub(super) fn say(&self, text: &str) -> io::Result<()> {
        self.write(&wrap(text, "", "  "))
    }

    /// Lines that are to be copied: none is broken.
    pub(super) fn block(&self, text: &str) -> io::Result<()> {
        self.write(text.trim_end())
    }

    /// A line of a table, already broken; of two colours the one that fits its meaning.
    pub(super) fn line(&self, colour: Option<Colour>, text: &str) -> io::Result<()> {
        match colour {
            Some(colour) => self.write(&self.speech.paint(colour, text)),
            None => self.write(text),
        }
    }

    /// Something that the user might like to know.
    pub(super) fn note(&self, text: &str) -> io::Result<()> {
        self.complain(Colour::Dim, &wrap(text, "", "  "))
    }

    pub(super) fn warn(&self, text: &str) -> io::Result<()> {
        self.complain(Colour::Yellow, &wrap(&format!("Warning: {text}"), "", "  "))
    }

    /// Why something was not done.
    pub(super) fn fault(&self, text: &str) -> io::Result<()> {
        self.complain(Colour::Red, &wrap(text, "", "  "))
    }

    /// As [`fault`](Self::fault), for several reasons at once.
    pub(super) fn faults(&self, head: &str, texts: &[String]) -> io::Result<()> {
        let list: Vec<String> = texts.iter().map(|text| wrap(text, "* ", "  ")).collect();
        self.complain(Colour::Red, &format!("{head}\n{}", list.join("\n")))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        if self.is_reserved {
            return writeln!(io::stderr().lock(), "{text}");
        }
        let mut output = io::stdout().lock();
        writeln!(output, "{text}")?;
        output.flush()
    }

    fn complain(&self, colour: Colour, text: &str) -> io::Result<()> {
        if !self.told.borrow_mut().insert(text.to_owned()) {
            return Ok(());
        }
        writeln!(io::stderr().lock(), "{}", self.complaints.paint(colour, text))
    }
}
