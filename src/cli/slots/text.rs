//! The PCI bus as text for a terminal of 80 columns.

use super::view::{BusView, Group, Row};
use crate::cli::terminal::broken;

/// The width of a terminal, in columns.
pub(super) const WIDTH: usize = 80;

/// The maximum length of a name; a longer one is cut.
const NAME: usize = 20;

/// The width of the column for the kind.
const KIND: usize = 13;

/// Renders the text.
pub(super) fn render(view: &BusView) -> String {
    let title = if view.when.is_empty() { view.title.clone() } else { format!("{}, {}", view.title, view.when) };
    let mut lines = vec![title, view.subtitle.clone(), String::new()];
    for group in &view.groups {
        lines.extend(group_lines(group));
        lines.push(String::new());
    }
    lines.extend(broken(&view.headline, WIDTH));
    if !view.fix.is_empty() {
        lines.extend(broken(&format!("fix: {}", view.fix), WIDTH - 2).iter().map(|line| format!("  {line}")));
    }
    for sentence in &view.calculation {
        lines.extend(broken(sentence, WIDTH - 2).iter().map(|line| format!("  {line}")));
    }
    for note in &view.notes {
        lines.extend(broken(&format!("note: {note}"), WIDTH));
    }
    let mut text = String::new();
    for line in &lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn group_lines(group: &Group) -> Vec<String> {
    let heading = format!("── {} ", group.heading);
    let rule = "─".repeat(WIDTH.saturating_sub(heading.chars().count()));
    let mut lines = vec![format!("{heading}{rule}")];
    lines.extend(group.rows.iter().flat_map(row_lines));
    lines
}

fn row_lines(row: &Row) -> Vec<String> {
    let port = row.port.map_or(String::new(), |port| port.to_string());
    let mark = if row.is_free { '□' } else { '■' };
    let head = format!("{port:>4} {mark} {:NAME$} {:KIND$} ", cut(&row.name, NAME), row.kind);
    let indent = head.chars().count();
    let mut lines = Vec::new();
    for (number, part) in broken(&row.why, WIDTH - indent).into_iter().enumerate() {
        lines.push(if number == 0 { format!("{head}{part}") } else { format!("{:indent$}{part}", "") });
    }
    if lines.is_empty() { vec![head] } else { lines }
}

/// Returns the text, cut to a maximum length with an ellipsis at the end.
fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("äöü", 3), "äöü");
    }
}
