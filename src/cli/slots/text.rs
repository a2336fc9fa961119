//! The PCI bus as text: its lines are broken at the width of a terminal, and not at all without one.

use super::view::{BusView, Group, Row};
use crate::cli::terminal::broken;

/// The width of the headings without a terminal, in columns.
const WIDTH: usize = 80;

/// The smallest width: that of the columns of a device, with some of the last one.
const SMALLEST: usize = 60;

/// The maximum length of a name; a longer one is cut.
const NAME: usize = 20;

/// The width of the column for the kind.
const KIND: usize = 13;

/// Renders the text for a width.
pub(super) fn render(view: &BusView, width: Option<usize>) -> String {
    let title = if view.when.is_empty() { view.title.clone() } else { format!("{}, {}", view.title, view.when) };
    let mut lines = vec![title, view.subtitle.clone(), String::new()];
    for group in &view.groups {
        lines.extend(group_lines(group, width));
        lines.push(String::new());
    }
    lines.extend(in_lines(&view.headline, "", width));
    if !view.fix.is_empty() {
        lines.extend(in_lines(&format!("fix: {}", view.fix), "  ", width));
    }
    for sentence in &view.calculation {
        lines.extend(in_lines(sentence, "  ", width));
    }
    for note in &view.notes {
        lines.extend(in_lines(&format!("note: {note}"), "", width));
    }
    let mut text = String::new();
    for line in &lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Returns a text in indented lines of a width.
pub(super) fn in_lines(text: &str, indent: &str, width: Option<usize>) -> Vec<String> {
    match width {
        Some(width) => broken(text, width.max(SMALLEST).saturating_sub(indent.len())),
        None => vec![text.to_owned()],
    }
    .iter()
    .map(|line| format!("{indent}{line}"))
    .collect()
}

fn group_lines(group: &Group, width: Option<usize>) -> Vec<String> {
    let heading = format!("── {} ", group.heading);
    let rule = "─".repeat(width.unwrap_or(WIDTH).saturating_sub(heading.chars().count()));
    let mut lines = vec![format!("{heading}{rule}")];
    lines.extend(group.rows.iter().flat_map(|row| row_lines(row, width)));
    lines
}

fn row_lines(row: &Row, width: Option<usize>) -> Vec<String> {
    let port = row.port.map_or(String::new(), |port| port.to_string());
    let mark = if row.is_free { '□' } else { '■' };
    let head = format!("{port:>4} {mark} {:NAME$} {:KIND$} ", cut(&row.name, NAME), row.kind);
    let indent = " ".repeat(head.chars().count());
    let mut lines = in_lines(&row.why, &indent, width);
    match lines.first_mut() {
        Some(first) => first.replace_range(..indent.len(), &head),
        None => lines.push(head),
    }
    lines
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
