//! How the story looks: at most 80 columns, colours on a terminal only.

use std::{fmt::Write as _, net::SocketAddr};

use serde_json::Value;

use super::steps::Step;
use crate::cli::terminal::{Colour, Painter, wrap};

/// Writes the parts of the story.
pub(super) struct Printer {
    painter: Painter,
}

impl Printer {
    pub(super) fn for_stdout() -> Self {
        Self { painter: Painter::for_stdout() }
    }

    pub(super) fn introduction(address: &SocketAddr) -> String {
        let text = format!(
            "nicplug demo: a real server on https://{address}, an example cluster, and the running VM vmi-fedora with \
             one NIC on its default network. Each step applies a change of it, as with kubectl apply; shown are the \
             NICs besides that one."
        );
        format!("{}\n", wrap(&text, "", ""))
    }

    pub(super) fn step(&self, number: usize, step: &Step) -> String {
        let mut text = format!("\n{}\n", self.painter.paint(Colour::Bold, &format!("{number}. {}", step.title)));
        if !step.tell.is_empty() {
            text.push_str(&wrap(&step.tell, "   ", "   "));
            text.push('\n');
        }
        for (annotation, value) in &step.annotate {
            // Writing to a string cannot fail.
            let line = format!("     annotations: {{{annotation}: {value:?}}}");
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Cyan, &line));
        }
        for line in step.apply.lines() {
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Cyan, &format!("     {line}")));
        }
        text
    }

    /// What kubectl prints, and the patch that was applied before.
    pub(super) fn verdict(&self, step: &Step, answer: &Value, patch: Option<&Value>) -> String {
        let mut text = String::new();
        for operation in patch.and_then(Value::as_array).into_iter().flatten() {
            let part = |key: &str| operation.get(key).map_or(String::new(), Value::to_string);
            let line = format!("patch: {} {} {}", part("op"), part("path"), part("value")).replace('"', "");
            let line = wrap(line.trim_end(), "   ", "          ");
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Dim, &line));
        }
        let response = answer.get("response").unwrap_or(&Value::Null);
        for warning in response.get("warnings").and_then(Value::as_array).into_iter().flatten() {
            let line = wrap(&format!("Warning: {}", warning.as_str().unwrap_or_default()), "   ", "   ");
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Yellow, &line));
        }
        let (colour, line) = match kubectl_error(step.kind(), response) {
            Some(error) => (Colour::Red, error),
            None => (Colour::Green, format!("   {}.kubevirt.io/vmi-fedora configured", step.kind().to_lowercase())),
        };
        let _ = writeln!(text, "{}", self.painter.paint(colour, &line));
        text
    }

    pub(super) fn end(&self, steps: usize) -> String {
        let line = format!("{steps} changes judged over TLS, each as the story says.");
        format!("\n{}\n", self.painter.paint(Colour::Bold, &line))
    }

    pub(super) fn curl_lines(address: &SocketAddr, review: &Value) -> String {
        let mut text = String::from("\nThe server stays up; Ctrl-C ends it. Try it:\n");
        for path in ["mutate", "validate"] {
            // Writing to a string cannot fail.
            let _ = write!(text, "\ncurl --insecure --json @- https://{address}/{path} <<'EOF'\n{review}\nEOF\n");
        }
        text
    }
}

/// `The KIND "x" is invalid: FIELD: MESSAGE`; several causes as a list, as kubectl has it.
fn kubectl_error(kind: &str, response: &Value) -> Option<String> {
    let causes = response.pointer("/status/details/causes")?.as_array()?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let lines: Vec<String> =
        causes.iter().map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message"))).collect();
    let head = format!("The {kind} \"vmi-fedora\" is invalid:");
    Some(match lines.as_slice() {
        [line] => wrap(&format!("{head} {line}"), "   ", "   "),
        lines => {
            let list: Vec<String> = lines.iter().map(|line| wrap(line, "   * ", "     ")).collect();
            format!("   {head}\n{}", list.join("\n"))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_cause_is_a_line_and_several_are_a_list() {
        let cause = |field: &str| json!({"field": field, "message": "wrong"});
        let response = |causes: Value| json!({"status": {"details": {"causes": causes}}});
        assert_eq!(
            kubectl_error("VirtualMachine", &response(json!([cause("a")]))).unwrap(),
            "   The VirtualMachine \"vmi-fedora\" is invalid: a: wrong"
        );
        assert!(
            kubectl_error("VirtualMachine", &response(json!([cause("a"), cause("b")])))
                .unwrap()
                .ends_with(":\n   * a: wrong\n   * b: wrong")
        );
        assert!(kubectl_error("VirtualMachine", &json!({"allowed": true})).is_none());
    }
}
