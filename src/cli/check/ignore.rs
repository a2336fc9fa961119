//! What a check ignores: lines with a comment, and objects that a file names. None of it changes what the webhook does.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::problem::{Checked, Level, Origin, Problem};
use crate::{
    cli::arguments::program,
    cluster::manifests::{Comment, Position},
    facts::nad::closest_name,
    rules::{find, ids},
};

/// The beginning of a comment that ignores findings.
pub(super) const MARKER: &str = "nicplug:ignore";

/// Findings that are ignored, with a reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ignore {
    file: String,
    /// Where it is written.
    line: usize,
    rules: Vec<String>,
    until: Option<Date>,
    target: Target,
    is_used: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Target {
    /// A line of the same file.
    Line(usize),
    /// The objects whose kind, namespace and name match, as in `VirtualMachine shop/web-*`.
    Objects(String),
}

/// All ignores of a check.
#[derive(Debug, Default)]
pub(super) struct Ignores {
    ignores: Vec<Ignore>,
    /// Why some of them have no effect.
    problems: Vec<Problem>,
}

impl Ignores {
    /// Adds the comments of a document. A comment that has a line for itself is about the next line.
    /// `text_line` returns a line of the file by its number.
    pub(super) fn add_comments<'t>(
        &mut self,
        file: &str,
        comments: &[Comment],
        text_line: impl Fn(usize) -> Option<&'t str>,
    ) {
        for Comment { line, is_alone, text } in comments {
            let Some(rest) = text.trim_start().strip_prefix(MARKER) else { continue };
            let target = if *is_alone { next_line(&text_line, *line) } else { *line };
            self.add(file, *line, rest, Target::Line(target));
        }
    }

    /// Adds the lines of a file: rules, a pattern of objects, and a reason.
    pub(super) fn add_file(&mut self, file: &str, text: &str) {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(4, char::is_whitespace);
            let (Some(rules), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                let what = "the line names no object; write a rule, a kind, a namespace/name and a reason";
                self.fault(file, number, what);
                continue;
            };
            let rest = format!("{rules} {}", words.next().unwrap_or_default());
            self.add(file, number, &rest, Target::Objects(format!("{kind} {name}")));
        }
    }

    /// Returns whether a problem is ignored, and notes which ignore did it.
    pub(super) fn covers(&mut self, problem: &Problem) -> bool {
        let id = problem.origin.id();
        let covers = |ignore: &&mut Ignore| {
            let is_target = match &ignore.target {
                Target::Line(line) => ignore.file == problem.file && *line == problem.at.line,
                Target::Objects(pattern) => !problem.object.is_empty() && matches(pattern, &problem.object),
            };
            is_target && ignore.rules.iter().any(|rule| rule == id)
        };
        match self.ignores.iter_mut().find(covers) {
            Some(ignore) => {
                ignore.is_used = true;
                true
            }
            None => false,
        }
    }

    /// Returns the ignores that have expired, are written wrongly, or match nothing. A pattern that matches no checked
    /// object is only noted: a commit hook checks some of the files.
    pub(super) fn into_problems(self, checked: &[Checked]) -> Vec<Problem> {
        let unused = self.ignores.into_iter().filter(|ignore| !ignore.is_used);
        let unused = unused.map(|Ignore { file, line, rules, target, .. }| match target {
            Target::Objects(pattern) if !checked.iter().any(|checked| matches(&pattern, &checked.object)) => {
                let what = format!("no checked object is {pattern}; remove the line if there is none in any file");
                Problem { level: Level::Note, ..problem(&file, line, &what) }
            }
            _ => problem(&file, line, &format!("nothing of {} is ignored here; remove it", rules.join(", "))),
        });
        self.problems.into_iter().chain(unused).collect()
    }

    fn add(&mut self, file: &str, line: usize, text: &str, target: Target) {
        let mut words = text.split_whitespace().peekable();
        let rules: Vec<String> = words.next().unwrap_or_default().split(',').map(str::to_owned).collect();
        if let Some(unknown) = rules.iter().find(|rule| find(rule).is_none_or(|known| known.id != **rule)) {
            let what = match closest_rule(unknown) {
                Some(near) => format!("unknown rule {unknown:?}; write {near}"),
                None => format!("unknown rule {unknown:?}; `{} rules` lists the ids", program()),
            };
            return self.fault(file, line, &what);
        }
        let mut until = None;
        if let Some(date) = words.peek().and_then(|word| word.strip_prefix("until=")) {
            match date.parse::<Date>() {
                Ok(date) => until = Some(date),
                Err(_) => return self.fault(file, line, &format!("{date:?} is not a date; write it as 2027-01-31")),
            }
            words.next();
        }
        if words.next().is_none() {
            return self.fault(file, line, "the ignore has no reason and no effect; write the reason after the rule");
        }
        if let Some(date) = until.filter(|date| *date < today()) {
            let what = format!("the ignore has expired on {date}; fix the finding or write another date");
            return self.fault(file, line, &what);
        }
        self.ignores.push(Ignore { file: file.to_owned(), line, rules, until, target, is_used: false });
    }

    fn fault(&mut self, file: &str, line: usize, what: &str) {
        self.problems.push(problem(file, line, what));
    }
}

fn problem(file: &str, line: usize, what: &str) -> Problem {
    Problem::of_file(file, Position { line, column: 1, length: 1 }, Level::Warning, Origin::Ignore, what)
}

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

fn closest_rule(id: &str) -> Option<&'static str> {
    closest_name(&id.to_uppercase(), ids().into_iter())
}

/// Returns the next line that is not empty and not a comment.
fn next_line<'t>(text_line: impl Fn(usize) -> Option<&'t str>, line: usize) -> usize {
    let mut following = (line + 1..).map_while(|number| Some((number, text_line(number)?.trim())));
    following.find(|(_, text)| !text.is_empty() && !text.starts_with('#')).map_or(line, |(number, _)| number)
}

/// Whether a text matches a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_at(line: usize, object: &str) -> Problem {
        let rule = Origin::Rule(find("NP105").unwrap());
        let at = Position { line, column: 1, length: 1 };
        Problem { object: object.to_owned(), ..Problem::of_file("a.yaml", at, Level::Error, rule, "x") }
    }

    fn lines<'t>(all: &'t [&'t str]) -> impl Fn(usize) -> Option<&'t str> {
        |number| all.get(number - 1).copied()
    }

    fn of_comment(text: &str) -> Ignores {
        let mut ignores = Ignores::default();
        let comment = Comment { line: 2, is_alone: false, text: text.to_owned() };
        ignores.add_comments("a.yaml", &[comment], lines(&["a", "b", "c"]));
        ignores
    }

    #[test]
    fn a_comment_ignores_its_line_for_its_rules() {
        let mut ignores = of_comment(" nicplug:ignore NP103,NP105 until=9999-01-31 created by the platform team");
        assert!(ignores.covers(&problem_at(2, "")));
        assert!(!ignores.covers(&problem_at(3, "")));
        assert!(ignores.into_problems(&[]).is_empty());
        let mut ignores = of_comment(" nicplug:ignore NP103 later");
        assert!(!ignores.covers(&problem_at(2, "")));
    }

    #[test]
    fn a_comment_alone_is_about_the_next_line_with_content() {
        let mut ignores = Ignores::default();
        let comment = Comment { line: 1, is_alone: true, text: "nicplug:ignore NP105 known".to_owned() };
        ignores.add_comments("a.yaml", &[comment], lines(&["# nicplug:ignore NP105 known", "", "# more", "  a: b"]));
        assert!(ignores.covers(&problem_at(4, "")));
    }

    #[test]
    fn an_ignore_without_effect_is_reported() {
        for (text, expected) in [
            ("nicplug:ignore NP105", "no reason"),
            ("nicplug:ignore NP105 until=2020-01-01 old", "expired on 2020-01-01"),
            ("nicplug:ignore NP105 until=soon old", "not a date"),
            ("nicplug:ignore NP999 why", "unknown rule \"NP999\"; `nicplug rules`"),
            ("nicplug:ignore np105 why", "write NP105"),
            ("nicplug:ignore", "unknown rule \"\""),
            ("nicplug:ignore NP105 matches nothing", "nothing of NP105 is ignored"),
        ] {
            let mut ignores = of_comment(text);
            assert!(!ignores.covers(&problem_at(3, "")));
            let problems: Vec<String> = ignores.into_problems(&[]).iter().map(Problem::message).collect();
            assert!(matches!(problems.as_slice(), [one] if one.contains(expected)), "{text}: {problems:?}");
        }
        assert!(of_comment("another comment").into_problems(&[]).is_empty());
    }

    #[test]
    fn a_file_ignores_objects_by_pattern() {
        let mut ignores = Ignores::default();
        let text =
            "# comment\n\nNP105 VirtualMachine shop/web-* until=9999-01-31 the NADs come later\nNP105 VirtualMachine\n";
        ignores.add_file("ignores", text);
        assert!(ignores.covers(&problem_at(7, "VirtualMachine shop/web-1")));
        assert!(!ignores.covers(&problem_at(7, "VirtualMachine other/web-1")));
        assert!(!ignores.covers(&problem_at(7, "")));
        assert_eq!(ignores.into_problems(&[]).len(), 1, "the last line is incomplete");
    }

    #[test]
    fn a_pattern_without_a_finding_is_a_warning_and_one_without_an_object_a_note() {
        for (checked, level, part) in [
            ("VirtualMachine shop/web-1", Level::Warning, "nothing of NP105 is ignored"),
            ("VirtualMachine shop/db", Level::Note, "no checked object is VirtualMachine shop/web-*"),
        ] {
            let mut ignores = Ignores::default();
            ignores.add_file("ignores", "NP105 VirtualMachine shop/web-* the NADs come later\n");
            let checked = Checked { file: "a.yaml".to_owned(), object: checked.to_owned() };
            let problems = ignores.into_problems(&[checked]);
            assert!(matches!(problems.as_slice(), [one] if one.level == level && one.message().contains(part)));
        }
    }

    #[test]
    fn a_star_matches_any_characters() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("*", "", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
