//! The explanation of a rule for a terminal: its Markdown as paragraphs, lists and examples.

use crate::{
    cli::{status::Printout, terminal::Colour},
    rules::Rule,
};

/// Returns the explanation of a rule.
pub(super) fn render(rule: &Rule, mut page: Printout) -> String {
    let Rule { id, name, scope, enforcement, .. } = rule;
    let title = format!("{id} {name} ({}, {} by default)", scope.as_str(), enforcement.as_str());
    page.paragraph(Some(Colour::Bold), "", "  ", &title);
    blank(&mut page);
    markdown(&rule.doc(), &mut page);
    blank(&mut page);
    page.paragraph(None, "Field: ", "       ", &plain(rule.field));
    page.paragraph(Some(Colour::Green), "Fix:   ", "       ", &plain(rule.fix));
    page.into_text()
}

/// Adds a text of paragraphs, headings, lists and fenced blocks.
fn markdown(text: &str, page: &mut Printout) {
    let mut block = Block::default();
    let mut is_example = false;
    for line in text.lines() {
        if line.starts_with("```") {
            block.end(page);
            is_example = !is_example;
        } else if is_example {
            page.verbatim("    ", line);
        } else if let Some(heading) = line.strip_prefix("## ") {
            block.end(page);
            page.paragraph(Some(Colour::Bold), "", "", heading);
        } else if line.trim().is_empty() {
            block.end(page);
            blank(page);
        } else if let Some(item) = line.strip_prefix("- ") {
            block.end(page);
            block = Block { is_item: true, text: item.to_owned() };
        } else {
            block.add(line.trim());
        }
    }
    block.end(page);
}

/// A paragraph or an item of a list, whose lines are joined.
#[derive(Default)]
struct Block {
    is_item: bool,
    text: String,
}

impl Block {
    fn add(&mut self, line: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(line);
    }

    /// Adds the block to the page, and begins a new one.
    fn end(&mut self, page: &mut Printout) {
        let Self { is_item, text } = std::mem::take(self);
        if !text.is_empty() {
            let (first, next) = if is_item { ("- ", "  ") } else { ("", "") };
            page.paragraph(None, first, next, &plain(&text));
        }
    }
}

fn blank(page: &mut Printout) {
    page.verbatim("", "\n");
}

/// Returns a text without the marks of code.
fn plain(text: &str) -> String {
    text.replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{self, RULES};

    #[test]
    fn markdown_becomes_paragraphs_lists_and_examples() {
        let mut page = Printout::of(Some(30));
        let text = "One `word` and\nanother.\n\n## Why\nIt says\n- a first item that is\n  longer\n- b\n\n```yaml\na: `b`\n```";
        markdown(text, &mut page);
        let expected = "One word and another.\n\nWhy\nIt says\n- a first item that is longer\n- b\n\n    a: `b`\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn every_rule_fits_eighty_columns_but_for_its_example() {
        for rule in RULES {
            let text = render(rule, Printout::of(Some(80)));
            let long = text.lines().find(|line| line.chars().count() > 80 && !line.starts_with("    "));
            assert_eq!(long, None, "{}", rule.id);
            assert!(!text.contains("```") && !text.contains("## "), "{text}");
        }
        let text = render(rules::find("NP103").unwrap(), Printout::of(None));
        assert!(text.starts_with("NP103 hotplug-model (hotplug, deny by default)\n\n"), "{text}");
        assert!(text.ends_with("\nFix:   set model: virtio, or omit model\n"), "{text}");
    }
}
