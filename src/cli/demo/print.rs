//! The output of the demo: at most 80 columns, and colours only on a terminal.

use std::{fmt::Write as _, net::SocketAddr};

use serde_json::Value;

use super::steps::Step;
use crate::cli::terminal::{Colour, Painter, wrap};

/// Formats the output of the demo.
pub(super) struct Printer {
    painter: Painter,
}

impl Printer {
    pub(super) fn for_stdout() -> Self {
        Self { painter: Painter::for_stdout() }
    }

    pub(super) fn introduction(address: &SocketAddr) -> String {
        let text = format!(
            "nicplug demo: a real server on https://{address}, the objects of an example cluster, and the running VM \
             vmi-fedora with one NIC on the default network. Each step changes the VM, like kubectl apply; the output \
             shows the other NICs."
        );
        format!("{}\n", wrap(&text, "", ""))
    }

    pub(super) fn step(&self, number: usize, step: &Step) -> String {
        let mut text = format!("\n{}\n", self.painter.paint(Colour::Bold, &format!("{number}. {}", step.title)));
        if !step.note.is_empty() {
            text.push_str(&wrap(&step.note, "   ", "   "));
            text.push('\n');
        }
        for (annotation, value) in &step.annotate {
            // Writing to a string cannot fail.
            let line = format!("     annotations: {{{annotation}: {value:?}}}");
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Cyan, &line));
        }
        if !step.delete.is_empty() {
            let line = format!("     kubectl delete network-attachment-definitions {}", step.delete);
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Cyan, &line));
        }
        for line in step.apply.lines() {
            let _ = writeln!(text, "{}", self.painter.paint(Colour::Cyan, &format!("     {line}")));
        }
        text
    }

    /// Formats the patch of the mutating webhook, and the result as kubectl prints it.
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
            None if !step.delete.is_empty() => {
                let kind = "network-attachment-definition.k8s.cni.cncf.io";
                (Colour::Green, format!("   {kind} {:?} deleted", step.delete))
            }
            None => (Colour::Green, format!("   {}.kubevirt.io/vmi-fedora configured", step.kind().to_lowercase())),
        };
        let _ = writeln!(text, "{}", self.painter.paint(colour, &line));
        text
    }

    pub(super) fn end(&self, steps: usize) -> String {
        let line = format!("{steps} changes reviewed over TLS, all with the expected result.");
        format!("\n{}\n", self.painter.paint(Colour::Bold, &line))
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

/// Formats a denial like kubectl: `The KIND "x" is invalid: FIELD: MESSAGE`, with several causes as a list.
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
    fn one_cause_is_on_one_line_and_several_are_a_list() {
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
