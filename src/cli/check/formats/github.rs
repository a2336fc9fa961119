//! Annotations of GitHub Actions, which shows ten of each level for a step.

use std::fmt::Write as _;

use super::{
    super::problem::{Level, Problem, Report, count, summary, unchecked},
    full_message,
};

/// How many annotations of a level GitHub shows.
const MAX_SHOWN: usize = 10;

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut left_out = Vec::new();
    for (level, command) in [(Level::Error, "error"), (Level::Warning, "warning"), (Level::Note, "notice")] {
        let problems: Vec<&Problem> = report.problems.iter().filter(|problem| problem.level == level).collect();
        for problem in problems.iter().take(MAX_SHOWN) {
            let Problem { at, .. } = problem;
            let (file, title) = (property(report.locations.path(&problem.file)), property(&title(problem)));
            let end = at.column + at.length;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "::{command} file={file},line={},col={},endColumn={end},title={title}::{}",
                at.line,
                at.column,
                data(&full_message(problem))
            );
        }
        if problems.len() > MAX_SHOWN {
            left_out.push(count(problems.len() - MAX_SHOWN, level.as_str()));
        }
    }
    for what in unchecked(&report.unknown) {
        let _ = writeln!(text, "not checked {what}");
    }
    let (found, objects) = (summary(|level| report.count(level)), count(report.checked.len(), "object"));
    let shown = if left_out.is_empty() { String::new() } else { format!("; not shown: {}", left_out.join(", ")) };
    let _ = writeln!(text, "nicplug: {found} in {objects}{shown}");
    text
}

fn title(problem: &Problem) -> String {
    match problem.origin.rule() {
        Some(rule) => format!("{} {}", rule.id, rule.name),
        None => problem.origin.id().to_owned(),
    }
}

/// Returns a text for the message of a command of a workflow.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Returns a text for a property of a command of a workflow.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::{super::testing::report, *};

    #[test]
    fn an_annotation_names_the_place_and_escapes_its_text() {
        let text = render(&report());
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with(
                "::error file=deploy/vm.yaml,line=9,col=18,endColumn=24,title=NP103 hotplug-model::VirtualMachine shop/web: model"
            ),
            "{}",
            lines[0]
        );
        assert!(lines[1].contains("::warning ") && lines[1].contains("100%25"), "{}", lines[1]);
        assert_eq!(lines.last(), Some(&"nicplug: 1 error, 1 warning, 1 note in 2 objects"));
    }

    #[test]
    fn ten_of_each_level_are_shown_and_the_rest_is_counted() {
        let mut report = report();
        let problem = report.problems[0].clone();
        report.problems.extend(vec![problem; 14]);
        let text = render(&report);
        assert_eq!(text.lines().filter(|line| line.starts_with("::error ")).count(), 10);
        assert!(text.ends_with("15 errors, 1 warning, 1 note in 2 objects; not shown: 5 errors\n"), "{text}");
    }
}
