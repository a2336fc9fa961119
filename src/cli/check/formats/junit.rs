//! XML of JUnit: a suite a file, a case a finding, and a case for each object without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::super::problem::{Level, Problem, Report};

pub(super) fn render(report: &Report) -> String {
    let mut suites: BTreeMap<&str, (Vec<&str>, Vec<&Problem>)> = BTreeMap::new();
    for checked in &report.checked {
        suites.entry(report.locations.path(&checked.file)).or_default().0.push(&checked.object);
    }
    for problem in &report.problems {
        suites.entry(report.locations.path(&problem.file)).or_default().1.push(problem);
    }
    let mut cases = String::new();
    let (mut tests, mut failures) = (0, 0);
    for (file, (mut passed, problems)) in suites {
        let found: BTreeSet<&str> = problems.iter().map(|problem| problem.object.as_str()).collect();
        passed.retain(|object| !found.contains(object));
        let failed = problems.iter().filter(|problem| problem.level == Level::Error).count();
        let count = problems.len() + passed.len();
        (tests, failures) = (tests + count, failures + failed);
        // Writing to a string cannot fail.
        let _ = writeln!(
            cases,
            "  <testsuite name=\"{}\" tests=\"{count}\" failures=\"{failed}\" errors=\"0\">",
            escape(file)
        );
        for object in passed {
            let _ = writeln!(cases, "    <testcase classname=\"{}\" name=\"nicplug\"/>", escape(&class(file, object)));
        }
        for problem in problems {
            add_case(&mut cases, file, problem);
        }
        cases.push_str("  </testsuite>\n");
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"nicplug\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\">\n{cases}</testsuites>\n"
    )
}

fn class(file: &str, object: &str) -> String {
    if object.is_empty() { file.to_owned() } else { format!("{file} {object}") }
}

fn add_case(cases: &mut String, file: &str, problem: &Problem) {
    let Problem { object, at, .. } = problem;
    let class = escape(&class(file, object));
    let message = escape(&problem.message());
    let place = escape(&format!("{file}:{}:{}", at.line, at.column));
    let id = problem.origin.id();
    let _ = writeln!(cases, "    <testcase classname=\"{class}\" name=\"{id}\" file=\"{}\">", escape(file));
    let _ = match problem.level {
        Level::Error => {
            writeln!(cases, "      <failure type=\"{id}\" message=\"{message}\">{place}: {message}</failure>")
        }
        level => writeln!(cases, "      <system-out>{place}: {}: {message}</system-out>", level.as_str()),
    };
    cases.push_str("    </testcase>\n");
}

/// Returns a text for XML: markup is escaped, and characters that XML does not allow are replaced.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, letter| {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter if letter.is_control() && letter != '\t' => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::{super::testing::report, *};

    #[test]
    fn only_errors_are_failures_and_an_object_without_a_finding_passes() {
        let xml = render(&report());
        for part in [
            "<testsuites name=\"nicplug\" tests=\"4\" failures=\"1\" errors=\"0\">",
            "<testcase classname=\"deploy/vm.yaml VirtualMachine shop/db\" name=\"nicplug\"/>",
            "<testcase classname=\"deploy/vm.yaml VirtualMachine shop/web\" name=\"NP103\"",
            "model &quot;e1000e&quot; cannot be plugged into the running guest &lt;web&gt;",
            "<system-out>deploy/vm.yaml:20:18: warning: the guest",
        ] {
            assert!(xml.contains(part), "{part} is not in {xml}");
        }
    }

    #[test]
    fn characters_that_xml_does_not_allow_are_replaced() {
        assert_eq!(escape("a\u{1}\n<&\u{ffff}"), "a\u{fffd}\u{fffd}&lt;&amp;\u{fffd}");
    }
}
