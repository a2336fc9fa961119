//! The registry of rules, the command that prints it, and the pages that are generated from it.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, env, fs, path::Path, process::Command};

use nicplug::rules::RULES;
use serde_json::Value;

#[test]
fn a_file_of_rules_and_the_registry_name_the_same_rules() {
    let files: BTreeSet<String> = fs::read_dir(root().join("src/rules"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().replace('_', "-"))
        .filter(|name| name != "mod")
        .collect();
    let names: BTreeSet<String> = RULES.iter().map(|rule| rule.name.to_owned()).collect();
    assert_eq!(files, names);
}

#[test]
fn the_page_of_rules_is_what_the_command_prints() {
    let page = root().join("docs/rules.md");
    let printed = nicplug(&["rules", "-o", "markdown"]);
    update(&page, || printed.clone());
    assert_eq!(fs::read_to_string(&page).unwrap(), printed, "UPDATE_DOCS=1 cargo test --test rules rewrites it");
}

#[test]
fn the_page_of_commands_is_what_the_command_prints() {
    let page = root().join("docs/cli.md");
    let printed = nicplug(&["man", "--markdown"]);
    update(&page, || printed.clone());
    assert_eq!(fs::read_to_string(&page).unwrap(), printed, "UPDATE_DOCS=1 cargo test --test rules rewrites it");
}

#[test]
fn the_table_of_the_readme_is_the_table_of_the_page() {
    let page = nicplug(&["rules", "-o", "markdown"]);
    let table: String = page.split_inclusive('\n').filter(|line| line.starts_with('|')).collect();
    let readme = root().join("README.md");
    let text = fs::read_to_string(&readme).unwrap();
    let (before, rest) = text.split_once("<!-- rules: begin -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- rules: end -->").unwrap();
    let expected = format!("{before}<!-- rules: begin -->\n{table}<!-- rules: end -->{after}");
    update(&readme, || expected.clone());
    assert_eq!(fs::read_to_string(&readme).unwrap(), expected, "UPDATE_DOCS=1 cargo test --test rules rewrites it");
}

#[test]
fn the_command_lists_every_rule_in_every_format() {
    let json: Value = serde_json::from_str(&nicplug(&["rules", "-o", "json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), RULES.len());
    let table = nicplug(&["rules"]);
    for rule in RULES {
        assert!(table.contains(rule.id) && table.contains(rule.name), "{table}");
        let one = nicplug(&["rules", rule.id]);
        assert!(one.contains("\nWhy\n") && one.contains(&rule.fix.replace('`', "")), "{one}");
    }
}

#[test]
fn the_error_about_an_unknown_rule_names_the_command_that_lists_them() {
    let output = Command::new(env!("CARGO_BIN_EXE_nicplug")).args(["rules", "NP999"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("NP999") && error.contains("nicplug rules"), "{error}");
}

fn nicplug(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_nicplug")).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn update(page: &Path, text: impl FnOnce() -> String) {
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(page, text()).unwrap();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
