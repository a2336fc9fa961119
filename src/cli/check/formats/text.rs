//! Text for people: each problem with its line, and a summary.

use std::fmt::Write as _;

use super::super::problem::{self, Level, Problem, Report, count, unchecked};
use crate::cli::terminal::{Colour, Painter, stdout_width, wrap_in};

/// How the text is written.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Style {
    painter: Painter,
    /// The width of the terminal; `None` if lines are not broken.
    width: Option<usize>,
}

impl Style {
    /// Without colours, and with each text on one line.
    pub(in super::super) const PLAIN: Self = Self { painter: Painter::PLAIN, width: None };

    /// As standard output can show it.
    pub(in super::super) fn of_stdout() -> Self {
        Self { painter: Painter::for_stdout(), width: stdout_width() }
    }

    /// Returns a text in lines of the width.
    fn wrap(self, text: &str, first: &str, next: &str) -> String {
        wrap_in(self.width, text, first, next)
    }
}

pub(super) fn render(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        add_problem(&mut text, problem, style);
        text.push('\n');
    }
    for note in &report.assumptions {
        text.push_str(&style.wrap(note, "note: ", "      "));
        text.push('\n');
    }
    let unchecked = unchecked(&report.unknown);
    if !unchecked.is_empty() {
        let what = format!("not checked, because --facts does not say it: {}", unchecked.join("; "));
        text.push_str(&style.wrap(&what, "note: ", "      "));
        text.push('\n');
    }
    text.push_str(&style.painter.paint(summary_colour(report), &summary(report)));
    text.push('\n');
    text
}

fn add_problem(text: &mut String, problem: &Problem, style: Style) {
    let Problem { file, at, level, source, object, .. } = problem;
    let painter = style.painter;
    let colour = level.colour();
    let (file, object, source) = (printable(file), printable(object), printable(source));
    let place = painter.paint(Colour::Bold, &format!("{file}:{}:{}:", at.line, at.column));
    let kind = painter.paint(colour, &format!("{}[{}]", level.as_str(), problem.origin.id()));
    let object = if object.is_empty() { String::new() } else { format!(" {object}") };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{place} {kind}{object}");
    text.push_str(&style.wrap(&problem.what, "  ", "  "));
    text.push('\n');
    if !source.is_empty() {
        let number = at.line.to_string();
        let blank = " ".repeat(number.len());
        let carets = "^".repeat(at.length.min(source.chars().count().saturating_sub(at.column - 1)).max(1));
        let bar = |text: &str| painter.paint(Colour::Dim, text);
        let _ = writeln!(text, "  {} {source}", bar(&format!("{number} |")));
        let before = " ".repeat(at.column - 1);
        let _ = writeln!(text, "  {} {before}{}", bar(&format!("{blank} |")), painter.paint(colour, &carets));
    }
    if !problem.fix.is_empty() {
        text.push_str(&style.wrap(&problem.fix, "  fix: ", "       "));
        text.push('\n');
    }
}

/// Returns a text without the characters that control a terminal, and of the same length: a tab is a space.
fn printable(text: &str) -> String {
    let show = |letter: char| match letter {
        '\t' => ' ',
        letter if letter.is_control() => char::REPLACEMENT_CHARACTER,
        letter => letter,
    };
    text.chars().map(show).collect()
}

/// Returns how many of what were found.
fn summary(report: &Report) -> String {
    let (objects, files) = (report.checked.len(), report.files);
    let scope = format!("{} in {}", count(objects, "object"), count(files, "file"));
    if report.checked.is_empty() && report.problems.is_empty() {
        let documents = count(report.documents, "document");
        return format!("nothing to check: {documents} in {} and no object with a guest", count(files, "file"));
    }
    let found = problem::summary(|level| report.count(level));
    let ignored = if report.ignored > 0 { format!(", {} ignored", report.ignored) } else { String::new() };
    format!("{found} in {scope}{ignored}")
}

fn summary_colour(report: &Report) -> Colour {
    if report.count(Level::Error) > 0 {
        Colour::Red
    } else if report.count(Level::Warning) > 0 {
        Colour::Yellow
    } else {
        Colour::Green
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::report, *};

    #[test]
    fn the_text_is_broken_at_the_width_and_not_without_one() {
        let expected = "\
./deploy/vm.yaml:9:18: error[NP103] VirtualMachine shop/web
  model \"e1000e\" cannot be plugged into the running guest <web>
  9 |           model: e1000e
    |                  ^^^^^^
  fix: set model to virtio, or stop the VM first, change the model, and start it
       again afterwards

./deploy/vm.yaml:20:18: warning[NP110] VirtualMachine shop/web
  the guest has 0 free ports, 100%
  20 | kind: VirtualMachine
     |                  ^

./deploy/vm.yaml:21:18: note[NP105] VirtualMachine shop/web
  not counted

note: not checked, because --facts does not say it: without a KubeVirt: NP101,
      NP106
1 error, 1 warning, 1 note in 2 objects in 2 files
";
        let of_width = |width| render(&report(), Style { width, ..Style::PLAIN });
        assert_eq!(of_width(Some(80)), expected);
        let joined =
            expected.replace("start it\n       again", "start it again").replace("NP101,\n      NP106", "NP101, NP106");
        assert_eq!(of_width(Some(120)), joined);
        assert_eq!(of_width(None), joined);
    }

    #[test]
    fn what_controls_a_terminal_is_not_printed() {
        let mut report = report();
        let problem = &mut report.problems[0];
        (problem.source, problem.object) =
            ("\tmodel: \u{1b}[31me1000e".to_owned(), "VirtualMachine \u{1b}c/a".to_owned());
        let text = render(&report, Style::PLAIN);
        assert!(text.contains("  9 |  model: \u{fffd}[31me1000e\n"), "{text}");
        assert!(text.contains("VirtualMachine \u{fffd}c/a\n"), "{text}");
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
    }

    #[test]
    fn the_summary_says_that_nothing_was_found_or_that_nothing_was_there() {
        let mut report = Report { files: 1, documents: 2, ..Report::default() };
        assert_eq!(summary(&report), "nothing to check: 2 documents in 1 file and no object with a guest");
        report.checked.extend(super::super::testing::report().checked);
        assert_eq!(summary(&report), "nothing found in 2 objects in 1 file");
        report.ignored = 1;
        assert_eq!(summary(&report), "nothing found in 2 objects in 1 file, 1 ignored");
    }
}
