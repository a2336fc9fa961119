//! The output of the demo: broken at the width of a terminal, and colours only on one.

use std::{fmt::Write as _, net::SocketAddr};

use serde_json::Value;

use super::{arrival::ArrivalLine, steps::Step};
use crate::cli::{
    arguments::{program, quoted},
    terminal::{Colour, Painter, page_width, wrap_in},
};

/// The width of what the user runs, which is indented.
const INPUT_WIDTH: usize = 75;

/// Formats the output of the demo.
pub(super) struct Printer {
    painter: Painter,
    /// The width of the terminal; `None` if lines are not broken.
    width: Option<usize>,
}

impl Printer {
    pub(super) fn for_stdout() -> Self {
        Self { painter: Painter::for_stdout(), width: page_width() }
    }

    pub(super) fn introduction(&self, address: &SocketAddr) -> String {
        let text = format!(
            "nicplug demo: a real webhook server on https://{address}, an example cluster, and its running VM \
             vmi-fedora with one NIC. Each step changes the VM; the output shows what kubectl prints."
        );
        format!("{}\n", wrap_in(self.width, &text, "", ""))
    }

    /// Formats the change; `number` is that of its title.
    pub(super) fn step(&self, number: usize, step: &Step) -> String {
        let mut text = String::from("\n");
        if !step.title.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Bold, &format!("{number}. {}", step.title)));
        }
        if !step.note.is_empty() {
            text.push_str(&wrap_in(self.width, &step.note, "   ", "   "));
            text.push('\n');
        }
        for line in input(step).lines() {
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Cyan, &format!("     {line}")));
        }
        text
    }

    /// Formats the patch of the mutating webhook, and the result as kubectl prints it.
    pub(super) fn verdict(&self, step: &Step, answer: &Value, patch: Option<&Value>) -> String {
        let mut text = String::new();
        let response = answer.get("response").unwrap_or(&Value::Null);
        let error = kubectl_error(step.kind(), response, self.width);
        // The patch of a denied change is not stored.
        let patch = patch.filter(|_| error.is_none());
        for operation in patch.and_then(Value::as_array).into_iter().flatten() {
            let part = |key: &str| operation.get(key).map_or(String::new(), Value::to_string);
            let line = format!("patch: {} {} {}", part("op"), part("path"), part("value")).replace('"', "");
            let line = wrap_in(self.width, line.trim_end(), "   ", "          ");
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Dim, &line));
        }
        for warning in response.get("warnings").and_then(Value::as_array).into_iter().flatten() {
            let line = wrap_in(self.width, &format!("Warning: {}", warning.as_str().unwrap_or_default()), "   ", "   ");
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Yellow, &line));
        }
        let (colour, line) = match error {
            Some(error) => (Colour::Red, error),
            None if !step.delete.is_empty() => {
                let kind = "network-attachment-definition.k8s.cni.cncf.io";
                (Colour::Green, format!("   {kind} {:?} deleted", step.delete))
            }
            None => (Colour::Green, success(step)),
        };
        let _ = writeln!(text, "{}", self.painter.paint(colour, &line));
        text
    }

    /// Formats the result of a change that nothing has reviewed.
    pub(super) fn unreviewed(&self, step: &Step) -> String {
        let mut text = format!("{}\n", self.painter.paint(Colour::Green, &success(step)));
        for line in step.then.lines() {
            let _ = writeln!(text, "   {line}");
        }
        text
    }

    /// Formats the lines of a NIC on its way.
    pub(super) fn arrival(&self, lines: &[ArrivalLine]) -> String {
        lines.iter().fold(String::new(), |mut text, line| {
            let colour = if line.is_reached { Colour::Green } else { Colour::Dim };
            let next = " ".repeat(line.head.chars().count());
            let _ =
                writeln!(text, "{}", self.painter.paint(colour, &wrap_in(self.width, &line.note, &line.head, &next)));
            text
        })
    }

    pub(super) fn end(&self, reviewed: usize, knows_flags: bool) -> String {
        let line = format!("{reviewed} changes reviewed over TLS, all with the expected result.");
        let mut text = format!("\n{}\n", self.painter.paint(Colour::Bold, &line));
        if !knows_flags {
            let _ =
                writeln!(text, "{} demo --all shows every rule, --curl lets you send requests yourself.", program());
        }
        text
    }

    pub(super) fn curl_lines(address: &SocketAddr, review: &Value) -> String {
        let mut text = String::from("\nThe server keeps running until you press Ctrl-C. Send it a request:\n");
        for path in ["mutate", "validate"] {
            // Writing to a string cannot fail.
            let _ = write!(text, "\ncurl --insecure --json @- https://{address}/{path} <<'EOF'\n{review}\nEOF\n");
        }
        text
    }
}

/// Returns what the user runs or applies.
fn input(step: &Step) -> String {
    if !step.command.is_empty() {
        return format!("$ {}", step.command);
    }
    if step.is_annotation() {
        let words = step.annotate.iter().map(|(annotation, value)| format!("{annotation}={}", quoted(value)));
        let words: Vec<String> = words.collect();
        let (command, words) = ("$ kubectl annotate vm vmi-fedora", words.join(" "));
        let fits = command.len() + words.len() < INPUT_WIDTH;
        return if fits { format!("{command} {words}") } else { format!("{command} \\\n    {words}") };
    }
    if !step.delete.is_empty() {
        return format!("$ kubectl delete network-attachment-definitions {}", step.delete);
    }
    let annotations =
        step.annotate.iter().map(|(annotation, value)| format!("annotations: {{{annotation}: {value:?}}}\n"));
    annotations.chain([step.apply.clone()]).collect()
}

/// Returns what kubectl or nicplug prints for a change that is stored.
fn success(step: &Step) -> String {
    let verb = match (step.is_annotation(), step.command.is_empty()) {
        (true, _) => "annotated",
        (false, true) => "configured",
        (false, false) => "patched",
    };
    format!("   {}.kubevirt.io/vmi-fedora {verb}", step.kind().to_lowercase())
}

/// Formats a denial like kubectl: `The KIND "x" is invalid: FIELD: MESSAGE`, with several causes as a list.
fn kubectl_error(kind: &str, response: &Value, width: Option<usize>) -> Option<String> {
    let causes = response.pointer("/status/details/causes")?.as_array()?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let lines: Vec<String> =
        causes.iter().map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message"))).collect();
    let head = format!("The {kind} \"vmi-fedora\" is invalid:");
    Some(match lines.as_slice() {
        [line] => wrap_in(width, &format!("{head} {line}"), "   ", "   "),
        lines => {
            let list: Vec<String> = lines.iter().map(|line| wrap_in(width, line, "   * ", "     ")).collect();
            format!("   {head}\n{}", list.join("\n"))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_cause_is_on_one_line_and_several_are_a_list() {
        let cause = |field: &str| json!({"field": field, "message": "wrong"});
        let response = |causes: Value| json!({"status": {"details": {"causes": causes}}});
        assert_eq!(
            kubectl_error("VirtualMachine", &response(json!([cause("a")])), None).unwrap(),
            "   The VirtualMachine \"vmi-fedora\" is invalid: a: wrong"
        );
        assert!(
            kubectl_error("VirtualMachine", &response(json!([cause("a"), cause("b")])), None)
                .unwrap()
                .ends_with(":\n   * a: wrong\n   * b: wrong")
        );
        assert!(kubectl_error("VirtualMachine", &json!({"allowed": true}), None).is_none());
    }
}
