//! What the commands print: the result on standard output, and everything else there too or, if a program reads the
//! result, on standard error.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{self, IsTerminal, Write},
    rc::Rc,
    time::Duration,
};

use crate::cli::{
    progress::Progress,
    terminal::{Colour, Painter, page_width, stderr_width, wrap_in},
};

/// Prints to the user.
pub(super) struct Console {
    /// Whether standard output is only for the object.
    is_reserved: bool,
    output: Output,
    diagnostics: Output,
    /// The VM that the texts are about, if the command changes several.
    vm: Option<String>,
    shared: Rc<Shared>,
}

/// How text is printed on standard output or on standard error.
#[derive(Clone, Copy)]
struct Output {
    painter: Painter,
    /// `None` if lines are not broken.
    width: Option<usize>,
}

/// What the consoles of several VMs share.
#[derive(Default)]
struct Shared {
    /// The diagnostics so far: a change that is tried again prints none of them twice.
    printed: RefCell<BTreeSet<String>>,
    progress: RefCell<Option<Progress>>,
}

impl Console {
    pub(super) fn new(is_reserved: bool) -> Self {
        let diagnostics = Output { painter: Painter::for_stderr(), width: stderr_width() };
        let stdout = Output { painter: Painter::for_stdout(), width: page_width() };
        let output = if is_reserved { diagnostics } else { stdout };
        Self { is_reserved, output, diagnostics, vm: None, shared: Rc::default() }
    }

    /// Returns a console for one of several VMs: each text begins with its name, and stages are not printed.
    pub(super) fn of_vm(&self, name: &str) -> Self {
        Self { vm: Some(name.to_owned()), shared: Rc::clone(&self.shared), ..*self }
    }

    /// Whether the command changes several VMs.
    pub(super) fn is_of_several(&self) -> bool {
        self.vm.is_some()
    }

    /// Shows progress on a terminal until [`end_progress`](Self::end_progress).
    pub(super) fn begin_progress(&self, text: &str) {
        self.end_progress();
        *self.shared.progress.borrow_mut() = Some(Progress::start(text));
    }

    /// As [`begin_progress`](Self::begin_progress), with the elapsed time and its limit instead of a text.
    pub(super) fn begin_limited(&self, limit: Duration) {
        if self.is_of_several() {
            return;
        }
        self.end_progress();
        *self.shared.progress.borrow_mut() = Some(Progress::with_limit(limit));
    }

    pub(super) fn set_progress(&self, text: &str) {
        if let Some(progress) = self.shared.progress.borrow().as_ref() {
            progress.set_text(text);
        }
    }

    pub(super) fn end_progress(&self) {
        if self.is_of_several() {
            return;
        }
        self.shared.progress.borrow_mut().take();
    }

    /// Prints the object on standard output, unchanged.
    pub(super) fn object(text: &str) -> io::Result<()> {
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes())?;
        output.flush()
    }

    /// Prints what happened or will happen.
    pub(super) fn info(&self, text: &str) -> io::Result<()> {
        self.write(&wrap_in(self.output.width, &self.about_vm(text), "", "  "))
    }

    /// Prints lines without breaking them, so that they can be copied.
    pub(super) fn verbatim(&self, text: &str) -> io::Result<()> {
        self.write(text.trim_end())
    }

    /// Prints a line of a table: a head, and a text that is broken to the right of `margin`.
    pub(super) fn row(&self, colour: Option<Colour>, head: &str, margin: usize, text: &str) -> io::Result<()> {
        let line = wrap_in(self.output.width, text, head, &" ".repeat(margin));
        match colour {
            Some(colour) => self.write(&self.output.painter.paint(colour, &line)),
            None => self.write(&line),
        }
    }

    /// Prints a remark on standard error.
    pub(super) fn note(&self, text: &str) -> io::Result<()> {
        self.diagnose(Colour::Dim, &self.broken(&self.about_vm(text), ""))
    }

    pub(super) fn warn(&self, text: &str) -> io::Result<()> {
        self.diagnose(Colour::Yellow, &self.broken(&format!("Warning: {}", self.about_vm(text)), ""))
    }

    /// Prints the reason for which something was not done.
    pub(super) fn error(&self, text: &str) -> io::Result<()> {
        self.diagnose(Colour::Red, &self.broken(&self.about_vm(text), ""))
    }

    /// Like [`error`](Self::error), for several reasons.
    pub(super) fn errors(&self, head: &str, texts: &[String]) -> io::Result<()> {
        let list: Vec<String> = texts.iter().map(|text| self.broken(text, "* ")).collect();
        self.diagnose(Colour::Red, &format!("{head}\n{}", list.join("\n")))
    }

    /// Asks on the terminal, and returns whether the answer is yes.
    pub(super) fn confirms(&self, question: &str) -> io::Result<bool> {
        self.end_progress();
        let mut terminal = io::stderr().lock();
        write!(terminal, "{question} [y/N] ")?;
        terminal.flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    fn about_vm(&self, text: &str) -> String {
        self.vm.as_ref().map_or_else(|| text.to_owned(), |vm| format!("{vm}: {text}"))
    }

    /// Breaks a text for standard error.
    fn broken(&self, text: &str, first: &str) -> String {
        wrap_in(self.diagnostics.width, text, first, "  ")
    }

    fn write(&self, text: &str) -> io::Result<()> {
        self.suspend(|| {
            if self.is_reserved {
                return writeln!(io::stderr().lock(), "{text}");
            }
            let mut output = io::stdout().lock();
            writeln!(output, "{text}")?;
            output.flush()
        })
    }

    fn diagnose(&self, colour: Colour, text: &str) -> io::Result<()> {
        if !self.shared.printed.borrow_mut().insert(text.to_owned()) {
            return Ok(());
        }
        self.suspend(|| writeln!(io::stderr().lock(), "{}", self.diagnostics.painter.paint(colour, text)))
    }

    /// Writes while no progress is shown.
    fn suspend(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match self.shared.progress.borrow().as_ref() {
            Some(progress) => progress.suspend(write),
            None => write(),
        }
    }
}

/// Whether the user can be asked.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
