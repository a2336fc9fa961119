//! The documents are correct: their links, commands, flags, recipes, files and tests exist, and their wording is plain.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nicplug::{
    kubevirt::{
        Version,
        gates::{Gate, GateLists},
    },
    pci::Scheme,
};
use support::wording::banned_words;

/// Folders without documents of this repository.
const SKIPPED_FOLDERS: &[&str] = &["target", ".git"];

/// Documents that name a test for each claim.
const WITH_TESTS: &[&str] = &["docs/good-practices.md", "docs/security.md"];

/// Flags of other programs in sentences: of kubectl, of Helm, of the benchmarks.
const FOREIGN_FLAGS: &[&str] = &["--dry-run", "--kube-version", "--tracing-config-file", "--unique", "--wire"];

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut faults = Vec::new();
    let mut links = 0;
    for (path, text) in documents() {
        for link in links_of(&prose(&text)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            links += 1;
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            if !target.exists() {
                faults.push(format!("{}: there is no file {file:?}", name(&path)));
            } else if let Some(anchor) = anchor
                && !anchors_of(&fs::read_to_string(&target).unwrap()).contains(anchor)
            {
                faults.push(format!("{}: {link:?} has no such heading", name(&path)));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    assert!(links > 50, "{links} links: are they still found?");
}

/// A link such as [`Cache::apply`](../src/cluster/cache.rs) names an item that the file defines.
#[test]
fn every_item_that_a_link_to_the_code_names_is_in_that_file() {
    let mut faults = Vec::new();
    let mut links = 0;
    for (path, text) in documents() {
        for (item, file) in code_links_of(&prose(&text)) {
            links += 1;
            let target = path.parent().unwrap().join(&file);
            let item = item.rsplit("::").next().unwrap();
            let source = fs::read_to_string(&target).unwrap_or_default();
            if !defines(&source, item) && target.file_stem().is_none_or(|module| module != item) {
                faults.push(format!("{}: {file} does not define `{item}`", name(&path)));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    assert!(links > 20, "{links} links to code: are they still found?");
}

#[test]
fn the_program_has_every_command_and_flag_of_a_command_line() {
    let help = Help::read();
    let mut faults = Vec::new();
    let mut commands = 0;
    for (path, text) in documents() {
        let spans = code_spans(&prose(&text));
        for line in command_lines(&text).into_iter().chain(spans) {
            let Some(arguments) = arguments_of_nicplug(&line) else { continue };
            commands += 1;
            if let Err(fault) = help.check(&arguments) {
                faults.push(format!("{}: {line}: {fault}", name(&path)));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    assert!(commands > 30, "{commands} commands: are they still found?");
}

#[test]
fn the_program_has_every_command_in_the_manifest_of_the_plugin() {
    let help = Help::read();
    let manifest = fs::read_to_string(root().join("deploy/krew.yaml")).unwrap();
    let lines = command_lines(&format!("```sh\n{manifest}\n```"));
    let commands: Vec<_> = lines.iter().filter_map(|line| arguments_of_nicplug(line)).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    for arguments in commands {
        assert_eq!(help.check(&arguments), Ok(()));
    }
}

#[test]
fn the_program_has_every_flag_of_a_sentence() {
    let help = Help::read();
    let known: BTreeSet<&str> =
        help.flags.values().flatten().map(String::as_str).chain(FOREIGN_FLAGS.iter().copied()).collect();
    let mut faults = Vec::new();
    for (path, text) in documents() {
        for span in code_spans(&prose(&text)) {
            let flag = span.split([' ', '=', '[']).next().unwrap();
            if flag.starts_with("--") && flag.len() > 2 && !known.contains(flag) {
                faults.push(format!("{}: no command has {span:?}", name(&path)));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_recipe_is_in_the_justfile() {
    let recipes = fs::read_to_string(root().join("justfile")).unwrap();
    let recipes: BTreeSet<&str> = recipes
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
        .filter_map(|line| line.split([' ', ':']).next())
        .collect();
    let mut named = BTreeSet::new();
    for (path, text) in documents() {
        for line in command_lines(&text).into_iter().chain(code_spans(&prose(&text))) {
            let recipe = line.strip_prefix("just ").and_then(|rest| rest.split_whitespace().next());
            // `just` without a recipe lists them.
            if let Some(recipe) = recipe.filter(|word| !word.starts_with('#')) {
                assert!(recipes.contains(recipe), "{}: there is no recipe {recipe:?}", name(&path));
                named.insert(recipe.to_owned());
            }
        }
    }
    assert!(named.contains("bench-server"), "{named:?}");
}

#[test]
fn every_file_of_the_repository_that_is_named_exists() {
    let folders = ["benches", "certs", "charts", "deploy", "docs", "examples", "fuzz", "image", "src", "tests"];
    for (path, text) in documents() {
        for span in code_spans(&prose(&text)) {
            let is_path = folders.iter().any(|folder| span.starts_with(&format!("{folder}/")));
            // A name in capitals is a placeholder.
            let is_pattern = span.contains([' ', '*', '{', '…', ':']) || span.chars().any(char::is_uppercase);
            if is_path && !is_pattern {
                // A module may be named by its path.
                let exists = [span.clone(), format!("{span}.rs")].iter().any(|path| root().join(path).exists());
                assert!(exists, "{}: there is no {span:?}", name(&path));
            }
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    for document in WITH_TESTS {
        let mut named = 0;
        for span in code_spans(&fs::read_to_string(root().join(document)).unwrap()) {
            let Some((file, test)) = span.split_once("::") else { continue };
            if file.contains(' ') {
                continue;
            }
            named += 1;
            let places = [format!("tests/{file}.rs"), format!("tests/chart/{file}.py"), format!("{file}.rs")];
            let source = places.iter().find_map(|place| fs::read_to_string(root().join(place)).ok());
            let source = source.unwrap_or_else(|| panic!("{document}: there is no file of tests {file:?}"));
            let declared = [format!("fn {test}("), format!("def {test}(self)")];
            assert!(declared.iter().any(|words| source.contains(words)), "{document}: {file:?} has no test {test:?}");
        }
        assert!(named > 10, "{document} names {named} tests");
    }
}

#[test]
fn the_table_of_versions_agrees_with_the_code() {
    let page = fs::read_to_string(root().join("docs/compatibility.md")).unwrap();
    let yes = |is: bool, no: &str| if is { "yes".to_owned() } else { no.to_owned() };
    let mut versions = 0;
    for line in page.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (7, Ok(version)) = (cells.len(), cells[0].parse::<Version>()) else { continue };
        versions += 1;
        let gate = GateLists::default().is_on(Gate::HotplugNics, Some(version));
        let scheme = Scheme::of(version);
        assert_eq!(cells[1], yes(gate, "with gate `HotplugNICs`"), "{line}");
        assert_eq!(cells[5], scheme.as_str(), "{line}");
        assert_eq!(cells[6], yes(scheme.reads_slot_count(), "no"), "{line}");
    }
    assert!(versions > 10, "{versions} versions");
}

#[test]
fn the_index_names_every_document() {
    let index = fs::read_to_string(root().join("docs/README.md")).unwrap();
    let linked = links_of(&prose(&index));
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&file).extension().is_some_and(|extension| extension == "md") && file != "README.md" {
            assert!(linked.contains(&file), "docs/README.md does not lead to {file}");
        }
    }
}

#[test]
fn the_picture_of_the_demo_shows_what_the_demo_prints() {
    let picture = fs::read_to_string(root().join("docs/images/demo.svg")).unwrap();
    let output = nicplug(&["demo", "--once"]);
    let printed: BTreeSet<&str> = output.lines().collect();
    let mut lines = 0;
    for line in picture.lines().filter_map(|line| line.strip_prefix("<text ")?.strip_suffix("</text>")) {
        let text = line.split_once('>').unwrap().1;
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        if text != "$ nicplug demo --once" && text != "…" {
            assert!(printed.contains(text.as_str()), "run `just session`: the demo does not print {text:?}");
            lines += 1;
        }
    }
    assert!(lines > 20, "{lines} lines");
}

#[test]
fn each_direct_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut needed: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut purpose = None;
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            purpose = if table.contains("dev-dependencies]") {
                Some("tests")
            } else {
                table.contains("dependencies]").then_some("program")
            };
        } else if let (Some(purpose), Some((name, _))) = (purpose, line.split_once(" = ")) {
            needed.insert((purpose, name));
        }
    }
    assert!(needed.contains(&("program", "mimalloc")) && needed.contains(&("tests", "syn")), "{needed:?}");
    let page = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let mut explained = BTreeSet::new();
    let mut purpose = "";
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            purpose = title.strip_prefix("Dependencies of the ").unwrap_or_default();
        } else if let Some(row) = line.strip_prefix("| `") {
            let (name, reason) = row.split_once("` | ").unwrap();
            assert!(reason.len() > 10, "{line}");
            explained.insert((purpose, name));
        }
    }
    assert_eq!(explained, needed);
}

/// Folders whose documents nicplug's users read, and single ones.
const USER_DOCUMENTS: &[&str] =
    &["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/", "charts/nicplug/"];

#[test]
fn no_document_for_users_has_a_banned_word() {
    let is_for_users = |path: &str| {
        USER_DOCUMENTS.iter().any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == *place })
    };
    let mut texts: Vec<(String, String)> = documents().into_iter().map(|(path, text)| (name(&path), text)).collect();
    texts.retain(|(path, _)| is_for_users(path));
    assert!(texts.len() > 15, "{} documents", texts.len());
    let values = "charts/nicplug/values.yaml";
    texts.push((values.to_owned(), fs::read_to_string(root().join(values)).unwrap()));
    let mut found = Vec::new();
    for (path, text) in &texts {
        let words = banned_words(&without_code(&prose(text)));
        found.extend(words.into_iter().map(|words| format!("{path}: {words}")));
    }
    assert!(found.is_empty(), "{} texts:\n{}", found.len(), found.join("\n"));
}

// === The help of the program ===

/// The flags of each command.
struct Help {
    flags: BTreeMap<String, BTreeSet<String>>,
}

impl Help {
    fn read() -> Self {
        let all = nicplug(&["--help"]);
        let commands = all.split_once("Commands:\n").unwrap().1.split("\n\n").next().unwrap();
        // A command is the first word of a line with an indent of two; a larger indent continues the line before.
        let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        let flags_of = |command: &str| {
            let help = nicplug(&[command, "--help"]);
            let starts = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
            let aliases = help.lines().filter_map(|line| line.split_once("[alias")).map(|(_, aliases)| aliases);
            let words = starts.chain(aliases).flat_map(|line| line.split([' ', '=', '[', ',', ']']));
            words.filter(|word| word.starts_with("--")).map(ToOwned::to_owned).collect()
        };
        let mut flags: BTreeMap<_, BTreeSet<String>> = names.map(|name| (name.to_owned(), flags_of(name))).collect();
        assert!(flags.contains_key("serve"), "{flags:?}");
        flags.insert("help".to_owned(), BTreeSet::new());
        Self { flags }
    }

    /// Returns an error if the program does not have the command or a flag. Without arguments there is nothing to
    /// check.
    fn check(&self, arguments: &[&str]) -> Result<(), String> {
        let Some((command, rest)) = arguments.split_first() else { return Ok(()) };
        if *command == "-n" {
            // The namespace before the command.
            return self.check(rest.get(1..).unwrap_or_default());
        }
        if command.starts_with("--") {
            let own = ["--help", "--version"];
            return if own.contains(command) { Ok(()) } else { Err(format!("no flag {command:?}")) };
        }
        let flags = self.flags.get(*command).ok_or_else(|| format!("no command {command:?}"))?;
        for word in rest {
            let flag = word.split(['=', '[']).next().unwrap();
            if flag.starts_with("--") && flag.len() > 2 && !flags.contains(flag) {
                return Err(format!("{command:?} has no flag {flag:?}"));
            }
        }
        Ok(())
    }
}

fn nicplug(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    let output = command.args(arguments).env("COLUMNS", "80").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the arguments of a command line that runs nicplug as a program, as kubectl's plugin, or by cargo.
fn arguments_of_nicplug(line: &str) -> Option<Vec<&str>> {
    let line = line.split(" | ").next().unwrap();
    let line = line.split(" # ").next().unwrap();
    let rest =
        ["kubectl nicplug ", "nicplug ", "target/dist/nicplug "].iter().find_map(|start| line.strip_prefix(start));
    let rest = rest.or_else(|| line.strip_prefix("cargo run").and_then(|rest| Some(rest.split_once(" -- ")?.1)))?;
    Some(rest.split_whitespace().collect())
}

// === Markdown ===

/// Returns path and text of every document in the repository.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !path.is_symlink() {
                if !SKIPPED_FOLDERS.contains(&name) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 10);
    found
}

/// Returns a text without its fenced blocks.
fn prose(text: &str) -> String {
    let lines = parts(text).filter(|(language, _)| language.is_none()).map(|(_, line)| line);
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the command lines of a text: the lines of `sh` blocks, and those of `console` blocks with a prompt. Lines
/// that end with a backslash are joined.
fn command_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for (language, line) in parts(text) {
        let line = match language {
            Some("sh") => line,
            Some("console") if !begun.is_empty() => line,
            Some("console") => line.strip_prefix("$ ").unwrap_or_default(),
            _ => continue,
        };
        begun.push_str(line.trim_start());
        if let Some(half) = begun.strip_suffix('\\') {
            begun = half.to_owned();
        } else {
            lines.push(std::mem::take(&mut begun));
        }
    }
    lines
}

/// Returns each line with the language of its fenced block; the fences are left out.
fn parts(text: &str) -> impl Iterator<Item = (Option<&str>, &str)> {
    let mut language = None;
    text.lines().filter_map(move |line| {
        if let Some(word) = line.trim_start().strip_prefix("```") {
            language = if language.is_none() { Some(word) } else { None };
            return None;
        }
        Some((language, line))
    })
}

/// Returns the texts between backticks, with line breaks as blanks.
fn code_spans(prose: &str) -> Vec<String> {
    let pieces = prose.split('`').skip(1).step_by(2);
    pieces.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|span| !span.is_empty()).collect()
}

/// Returns a text with each code span replaced by a word.
fn without_code(prose: &str) -> String {
    prose.split('`').step_by(2).collect::<Vec<_>>().join("code")
}

/// Returns the targets of links outside of code.
fn links_of(prose: &str) -> Vec<String> {
    let without_code = without_code(prose);
    let ends = without_code.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    ends.map(|link| link.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

/// Returns the links to Rust files whose text is code: the text and the file.
fn code_links_of(prose: &str) -> Vec<(String, String)> {
    let links = prose.split("[`").skip(1).filter_map(|rest| rest.split_once("`]("));
    let links = links.filter_map(|(item, rest)| Some((item, rest.split_once(')')?.0)));
    links
        .filter(|(_, file)| Path::new(file).extension().is_some_and(|extension| extension == "rs"))
        .map(|(item, file)| (item.to_owned(), file.to_owned()))
        .collect()
}

/// Whether Rust source defines an item of this name.
fn defines(source: &str, item: &str) -> bool {
    ["fn", "struct", "enum", "trait", "mod", "const", "type"].iter().any(|keyword| {
        let start = format!("{keyword} {item}");
        source.match_indices(&start).any(|(at, _)| {
            let next = source[at + start.len()..].chars().next();
            next.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_')
        })
    })
}

/// Returns the anchors of the headings, as GitHub creates them.
fn anchors_of(text: &str) -> BTreeSet<String> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for line in prose(text).lines() {
        let Some(title) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')) else { continue };
        let Some(title) = title.strip_prefix(' ') else { continue };
        let kept = title.trim().chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
        let anchor = kept.flat_map(char::to_lowercase).collect::<String>().replace(' ', "-");
        let before = times.entry(anchor.clone()).or_default();
        anchors.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
        *before += 1;
    }
    anchors
}

/// Returns a path relative to the repository.
fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

// === Tests of the helpers ===

#[test]
fn headings_have_the_anchors_of_github() {
    let anchors =
        anchors_of("# `self`: nicplug makes it\n## Which, and why?\n## Twice\n## Twice\n```\n# no heading\n```\n#no");
    let expected = ["self-nicplug-makes-it", "twice", "twice-1", "which-and-why"];
    assert_eq!(anchors, expected.map(ToOwned::to_owned).into());
}

#[test]
fn command_lines_are_found_in_blocks_and_joined() {
    let text = "```sh\nnicplug serve \\\n  --tls-key K\n```\n```console\n$ nicplug rules | head -1\nnicplug answers\n\
                ```\n```yaml\nnicplug no\n```";
    let lines = command_lines(text);
    let arguments: Vec<_> = lines.iter().filter_map(|line| arguments_of_nicplug(line)).collect();
    assert_eq!(arguments, [vec!["serve", "--tls-key", "K"], vec!["rules"]]);
}

#[test]
fn an_unknown_command_or_flag_is_an_error() {
    let help = Help::read();
    assert_eq!(help.check(&["serve", "--tls-cert", "C"]), Ok(()));
    assert_eq!(help.check(&["serf"]), Err("no command \"serf\"".to_owned()));
    assert_eq!(help.check(&["rules", "--tls-cert=C"]), Err("\"rules\" has no flag \"--tls-cert\"".to_owned()));
}

#[test]
fn banned_words_are_found_in_every_form_and_only_as_whole_words() {
    for (text, expected) in [
        ("Whoever\nasks", &["Whoever asks"][..]),
        ("one for nobody; two (somebody's)", &["one for nobody; two (somebody's)"; 2]),
        ("it is\nno name", &["it is no name"]),
        ("recommend, marshall, is not, is none, there is no, is no longer, that is; no", &[]),
    ] {
        assert_eq!(banned_words(text), expected, "{text:?}");
    }
}
