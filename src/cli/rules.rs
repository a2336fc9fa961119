//! `nicplug rules`: lists and explains the rules.

mod page;

use std::{fmt::Write as _, io::Write, process::ExitCode};

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{arguments::program, status::Printout, terminal};
use crate::rules::{RULES, Rule, find};

/// List all rules, or explain one rule.
#[derive(Args, Debug)]
pub(super) struct RulesArgs {
    /// The rule to explain, such as NP103.
    #[arg(value_name = "ID")]
    id: Option<String>,

    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A table for a terminal.
    Table,
    /// JSON for programs.
    Json,
    /// The page docs/rules.md.
    Markdown,
}

impl RulesArgs {
    /// Prints the rules.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let text = match &self.id {
            None => list(self.output),
            Some(id) => match find(id) {
                Some(rule) => explain(rule, self.output),
                None => bail!("unknown rule {id:?}; `{} rules` lists all rules", program()),
            },
        };
        writeln!(output, "{}", text.trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn list(format: Format) -> String {
    match format {
        Format::Table => {
            let next = " ".repeat(14);
            let rows = RULES.iter().map(|rule| {
                let first = format!("{:7}{:7}", rule.id, rule.enforcement.as_str());
                let text = format!("{}: {}", rule.name, rule.summary().replace('`', ""));
                terminal::wrap_in(terminal::page_width(), &text, &first, &next) + "\n"
            });
            format!("{:7}{:7}NAME: WHAT IT CATCHES\n{}", "ID", "", rows.collect::<String>())
        }
        Format::Json => pretty(&Value::Array(RULES.iter().map(|rule| as_json(rule)).collect())),
        Format::Markdown => markdown(),
    }
}

fn explain(rule: &Rule, format: Format) -> String {
    match format {
        Format::Table => page::render(rule, Printout::for_stdout()),
        Format::Json => pretty(&as_json(rule)),
        Format::Markdown => section(rule),
    }
}

fn as_json(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "name": rule.name,
        "scope": rule.scope.as_str(),
        "enforcement": rule.enforcement.as_str(),
        "summary": rule.summary(),
        "field": rule.field,
        "fix": rule.fix,
        "doc": rule.doc(),
    })
}

fn pretty(value: &Value) -> String {
    // Serializing a `Value` to a string cannot fail.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn markdown() -> String {
    let mut text = String::from(
        "# Rules\n\nThis page is printed by `nicplug rules -o markdown`. Each rule is enforced as `deny`, `warn` \
         or `off`: the default is in the table,\nand settings change it (`rules: {NP103: warn}`).\n\n",
    );
    text.push_str(&table());
    for rule in RULES {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}", section(rule));
    }
    text
}

/// Returns the table of all rules, which the README and docs/rules.md show.
fn table() -> String {
    let mut text = String::from("| id | name | default | what it catches |\n| --- | --- | --- | --- |\n");
    for rule in RULES {
        let _ = writeln!(text, "| {} | {} | {} | {} |", rule.id, rule.name, rule.enforcement.as_str(), rule.summary());
    }
    text
}

fn section(rule: &Rule) -> String {
    // The page has one title, so the sections of a rule go one level down.
    let doc = rule.doc().replace("\n## ", "\n### ");
    format!("## {} {}\n\n{}\n\n### Fix\nField `{}`: {}.\n", rule.id, rule.name, doc, rule.field, rule.fix)
}
