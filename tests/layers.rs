//! The map of the house: which module may use which, and what the pure ones may not name.
//!
//! The source is read as tokens, so that a path is found in a macro too, and none in a comment or a string. What
//! stands under `#[cfg(test)]` is free. A module that is not on the map fails the test: a new room is put on it here.

use std::{
    fs, io,
    iter::Peekable,
    path::{Path, PathBuf},
};

/// The modules at the top of `src`, from the ground up: each may use itself, its children and what it names.
const MAP: &[Room] = &[
    Room::pure("api", &[]),
    Room::pure("kubevirt", &[]),
    Room::pure("pci", &["api", "kubevirt"]),
    Room::pure("change", &["api"]),
    Room::pure("settings", &[]),
    Room::pure("facts", &["api", "kubevirt", "pci", "change", "settings"]),
    Room::pure("reservation", &["api", "change", "facts", "settings"]),
    Room::pure("requests", &["api", "change"]),
    Room::pure("patch", &["api", "change"]),
    Room::pure("persist", &["api", "kubevirt", "requests", "patch"]),
    Room::pure(
        "rules",
        &["api", "kubevirt", "pci", "change", "facts", "settings", "reservation", "requests", "persist"],
    ),
    Room::pure("verdict", &["api", "facts", "rules", "settings", "change"]),
    Room::pure(
        "mutations",
        &["api", "kubevirt", "pci", "change", "facts", "settings", "reservation", "requests", "patch"],
    ),
    Room::pure("admission", EVERYTHING_ABOVE),
    Room::pure("stages", &["kubevirt", "facts"]),
    Room::pure("edit", EVERYTHING_ABOVE),
    Room::open("random", &[]),
    Room::open("certificates", &[]),
    Room::open(
        "cluster",
        &["api", "kubevirt", "pci", "change", "facts", "settings", "patch", "persist", "random", "certificates"],
    ),
    Room::open("telemetry", &["random"]),
    Room::open(
        "server",
        &[
            "api",
            "change",
            "facts",
            "settings",
            "rules",
            "verdict",
            "admission",
            "cluster",
            "telemetry",
            "random",
            "certificates",
        ],
    ),
    Room::open("cli", EVERYTHING_ABOVE),
    Room::open("lib", EVERYTHING_ABOVE),
    Room::open("main", EVERYTHING_ABOVE),
];

/// Stands for all rooms that the map lists before this one.
const EVERYTHING_ABOVE: &[&str] = &["*"];

/// What a pure module may not name: the runtime, the network, the clock, the disk, the process.
const OUTSIDE: &[&[&str]] = &[
    &["tokio"],
    &["tokio_rustls"],
    &["axum"],
    &["http_body_util"],
    &["hyper"],
    &["hyper_util"],
    &["rustls"],
    &["kube"],
    &["std", "fs"],
    &["std", "env"],
    &["std", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
];

struct Room {
    name: &'static str,
    uses: &'static [&'static str],
    pure: bool,
}

impl Room {
    const fn pure(name: &'static str, uses: &'static [&'static str]) -> Self {
        Self { name, uses, pure: true }
    }

    const fn open(name: &'static str, uses: &'static [&'static str]) -> Self {
        Self { name, uses, pure: false }
    }

    fn may_use(&self, name: &str) -> bool {
        let is_above = || MAP.iter().take_while(|room| room.name != self.name).any(|room| room.name == name);
        self.name == name || self.uses.contains(&name) || (self.uses == EVERYTHING_ABOVE && is_above())
    }
}

#[test]
fn each_module_uses_only_what_the_map_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&src).unwrap();
    assert!(files.contains(&src.join("lib.rs")), "no src/lib.rs among {files:?}");

    let faults: Vec<String> = files
        .iter()
        .flat_map(|file| faults(file.strip_prefix(&src).unwrap(), &fs::read_to_string(file).unwrap()))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// All `*.rs` files below `folder`, sorted.
fn rust_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What the file names and may not, one line each. `file` is relative to `src`.
fn faults(file: &Path, source: &str) -> Vec<String> {
    let module: Vec<String> =
        file.with_extension("").iter().map(|segment| segment.to_string_lossy().into_owned()).collect();
    let module: Vec<&str> = module.iter().map(String::as_str).collect();
    let name = module.first().copied().unwrap_or_default();
    let file = file.display();
    let Some(room) = MAP.iter().find(|room| room.name == name) else {
        return vec![format!("{file}: the module `{name}` is not on the map in tests/layers.rs")];
    };

    let here = if matches!(name, "lib" | "main") { &[] } else { module.as_slice() };
    let tokens = without_tests(&tokens(source));
    let mut faults = Vec::new();
    for path in paths(&tokens) {
        let text = path.join("::");
        match target(&path, here) {
            Target::Crate(used) if !room.may_use(used) => faults.push(format!("{file}: `{name}` may not use `{text}`")),
            Target::Outside if room.pure && is_outside(&path) => {
                faults.push(format!("{file}: `{name}` is pure and may not name `{text}`"));
            }
            Target::Crate(_) | Target::Outside => {}
        }
    }
    if room.pure && tokens.contains(&Token::Word("async")) {
        faults.push(format!("{file}: `{name}` is pure and may not be async"));
    }
    faults
}

#[derive(Debug, PartialEq)]
enum Target<'a> {
    /// A module of this crate, or another name at its root: empty for the root itself.
    Crate(&'a str),
    Outside,
}

/// Where a path leads that stands in module `here`.
///
/// `super` counts from the file's module: in an inline module that is one too few, and the test errs on the strict side.
fn target<'a>(path: &[&'a str], here: &[&'a str]) -> Target<'a> {
    let (Some(first), rest) = (path.first(), path.get(1..).unwrap_or_default()) else { return Target::Outside };
    let (supers, base) = match *first {
        "crate" | "nicplug" => (0, &[][..]),
        "self" => (0, here),
        "super" => (path.iter().take_while(|segment| **segment == "super").count(), here),
        _ => return Target::Outside,
    };
    let base = base.get(..base.len().saturating_sub(supers)).unwrap_or_default();
    let rest = rest.get(supers.saturating_sub(1)..).unwrap_or_default();
    Target::Crate(base.iter().chain(rest).next().copied().unwrap_or_default())
}

/// Whether the path is one of [`OUTSIDE`], leads into one, or imports a parent of one (`use std::time;`).
fn is_outside(path: &[&str]) -> bool {
    let path = path.strip_suffix(&["*"]).unwrap_or(path);
    OUTSIDE.iter().any(|outside| path.starts_with(outside) || outside.starts_with(path))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    /// An identifier, a keyword or a number.
    Word(&'a str),
    /// `::`
    Colons,
    /// Any other character that is not blank.
    Mark(char),
}

/// The tokens of Rust source, without comments, strings and characters.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest).unwrap_or_else(|| {
            let (length, token) = token(rest, first);
            tokens.push(token);
            length
        });
        rest = rest.get(length..).unwrap_or_default();
    }
    tokens
}

/// The length of the token that `text` starts with, and the token.
fn token(text: &str, first: char) -> (usize, Token<'_>) {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    if text.starts_with("::") {
        return (2, Token::Colons);
    }
    if !is_word(first) {
        return (first.len_utf8(), Token::Mark(first));
    }
    let word = text.split(|character| !is_word(character)).next().unwrap_or_default();
    (word.len(), Token::Word(word))
}

/// The length of what `text` starts with, if that is a blank, a comment, a string or a character.
fn skipped(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    match first {
        _ if first.is_whitespace() => Some(first.len_utf8()),
        '/' if text.starts_with("//") => Some(text.find('\n').unwrap_or(text.len())),
        '/' if text.starts_with("/*") => Some(block_comment(text)),
        '"' => Some(quoted(text, '"')),
        '\'' => Some(character_or_tick(text)),
        'b' | 'c' | 'r' => raw_string(text),
        _ => None,
    }
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

/// The length of a literal between `quote`s in which a backslash escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            _ if character == quote => return at + character.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal, or of the tick alone that starts a lifetime.
fn character_or_tick(text: &str) -> usize {
    let mut characters = text.chars().skip(1);
    match (characters.next(), characters.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(text, '\''),
        _ => 1,
    }
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` or `cr"…"`.
fn raw_string(text: &str) -> Option<usize> {
    let after_prefix = ["r", "br", "cr"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let body = after_prefix.trim_start_matches('#');
    let hashes = "#".repeat(after_prefix.len() - body.len());
    let body = body.strip_prefix('"')?;
    let end = format!("\"{hashes}");
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(text.len() - body.len() + length)
}

/// The tokens without each item that `#[cfg(test)]` stands before.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    use Token::{Mark, Word};
    const CFG_TEST: [Token<'_>; 7] = [Mark('#'), Mark('['), Word("cfg"), Mark('('), Word("test"), Mark(')'), Mark(']')];

    let mut kept = Vec::new();
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first() {
        if let Some(item) = rest.strip_prefix(&CFG_TEST) {
            rest = item.get(item_length(item)..).unwrap_or_default();
        } else {
            kept.push(*first);
            rest = after;
        }
    }
    kept
}

/// The number of tokens up to the end of the item: its `;`, or the `}` of its body.
fn item_length(tokens: &[Token<'_>]) -> usize {
    let decisive = tokens.iter().find(|token| matches!(token, Token::Word("use") | Token::Mark('{' | ';')));
    let is_import = decisive == Some(&Token::Word("use"));
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark('{' | '(' | '[') => depth += 1,
            Token::Mark('}' | ')' | ']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        let is_end = match token {
            Token::Mark(';') => true,
            Token::Mark('}') => !is_import,
            _ => false,
        };
        if depth == 0 && is_end {
            return at + 1;
        }
    }
    tokens.len()
}

/// Every path of two and more segments, and every path that is imported, with nested imports spelt out.
fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut tokens = tokens.iter().copied().peekable();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word("use") => imported(&mut tokens, &[], &mut found),
            Token::Word(first) if tokens.peek() == Some(&Token::Colons) => found.push(path(first, &mut tokens)),
            _ => {}
        }
    }
    found
}

/// The path that begins with `first`, up to its last plain segment.
fn path<'a>(first: &'a str, tokens: &mut Peekable<impl Iterator<Item = Token<'a>>>) -> Vec<&'a str> {
    let mut path = vec![first];
    while tokens.next_if_eq(&Token::Colons).is_some() {
        match tokens.next_if(|token| matches!(token, Token::Word(_))) {
            Some(Token::Word(segment)) => path.push(segment),
            _ => break,
        }
    }
    path
}

/// Adds the paths of an import tree: `a::{b, c::*} as d`.
fn imported<'a, I>(tokens: &mut Peekable<I>, prefix: &[&'a str], found: &mut Vec<Vec<&'a str>>)
where
    I: Iterator<Item = Token<'a>>,
{
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.next_if(|token| !matches!(token, Token::Mark(',' | '}' | ';' | '<'))) {
        match token {
            Token::Word("as") => drop(tokens.next()),
            Token::Word("self") if !path.is_empty() => {}
            Token::Word(segment) => path.push(segment),
            Token::Mark('*') => path.push("*"),
            Token::Mark('{') => return branches(tokens, &path, found),
            Token::Colons | Token::Mark(_) => {}
        }
    }
    if !path.is_empty() {
        found.push(path);
    }
}

/// Adds the paths of what stands between the braces of an import tree.
fn branches<'a, I>(tokens: &mut Peekable<I>, prefix: &[&'a str], found: &mut Vec<Vec<&'a str>>)
where
    I: Iterator<Item = Token<'a>>,
{
    while tokens.peek().is_some() {
        if tokens.next_if_eq(&Token::Mark('}')).is_some() {
            return;
        }
        imported(tokens, prefix, found);
        tokens.next_if_eq(&Token::Mark(','));
    }
}

#[test]
fn the_map_points_one_way() {
    for (at, room) in MAP.iter().enumerate() {
        for used in room.uses.iter().filter(|used| **used != "*") {
            assert!(
                MAP[..at].iter().any(|above| above.name == *used),
                "{} uses {used}, which is not above it",
                room.name
            );
        }
    }
}

#[test]
fn pure_rooms_use_pure_rooms_only() {
    for room in MAP.iter().filter(|room| room.pure) {
        for used in MAP.iter().filter(|used| room.may_use(used.name)) {
            assert!(used.pure, "{} is pure and uses {}", room.name, used.name);
        }
    }
}

#[test]
fn a_forbidden_edge_is_found_however_it_is_written() {
    for source in [
        "use crate::cluster;",
        "use crate::cluster::Files as Source;",
        "pub(crate) use crate::{api, cluster};",
        "use crate::{api::{self, vm}, cluster::files};",
        "use {std::fmt, crate::{cluster::{files::*}, api}};",
        "use nicplug::cluster::Files;",
        "use super::cluster::Files;",
        "use ::nicplug::{api::vm, cluster::Files};",
        "fn f(files: &crate::cluster::Files) {}",
        "macro_rules! m { () => { $crate::cluster::files() } }",
        "const A: &str = \"\\\"\"; const B: char = '\"'; use crate::cluster::Files;",
        "fn f<'a>(text: &'a str) -> crate::cluster::Files<'a> {}",
        "#[cfg(test)] use crate::{server, telemetry}; use crate::cluster::Files;",
        "#[cfg(test)] mod tests { use super::*; } use crate::cluster::Files;",
        "#[cfg(test)] fn f() -> [u8; 2] { [0; 2] } use crate::cluster::Files;",
    ] {
        let found = faults(Path::new("rules.rs"), source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        assert!(found[0].starts_with("rules.rs: `rules` may not use `") && found[0].contains("cluster"), "{found:?}");
    }
}

#[test]
fn a_child_has_the_edges_of_its_parent() {
    let child = Path::new("rules/feature_gate.rs");
    assert_eq!(faults(child, "use super::Rule; use crate::rules::Finding; use self::helper;"), Vec::<String>::new());
    assert_eq!(faults(child, "use super::super::{facts::Facts, verdict::Verdict};").len(), 1);
    assert_eq!(faults(child, "use crate::admission::Reviewer;").len(), 1);
}

#[test]
fn the_root_of_the_crate_is_no_way_round_the_map() {
    for source in ["use crate::*;", "use crate::Reviewer;", "use crate as root;", "use crate::{self as root};"] {
        assert_eq!(faults(Path::new("rules.rs"), source).len(), 1, "{source}");
    }
}

#[test]
fn tests_comments_and_strings_are_free() {
    let source = r##"
        //! crate::server::run is one floor up; /* use crate::cluster;
        /* use crate::server; /* nested */ use std::fs; */
        const TEXT: &str = "use crate::server;";
        const RAW: &str = r#"" use crate::server; "#;
        const TICK: (char, char) = ('\'', '"'); // "
        #[cfg(test)]
        use crate::{cluster, server};
        #[cfg(test)]
        mod tests {
            use crate::{cluster::Files, server::Server};
            fn read() { std::fs::read("x").unwrap(); }
        }
    "##;
    assert_eq!(faults(Path::new("rules.rs"), source), Vec::<String>::new());
}

#[test]
fn a_pure_module_does_not_name_the_outside() {
    for source in [
        "use tokio::spawn;",
        "use std::{fmt, fs};",
        "use std::{collections::BTreeMap, time::{Duration, Instant}};",
        "use std::time;",
        "use std::time::*;",
        "fn f() { let now = ::std::time::SystemTime::now(); }",
        "fn f() { std::env::var(\"HOME\"); }",
        "async fn f() {}",
    ] {
        assert_eq!(faults(Path::new("admission.rs"), source).len(), 1, "{source}");
    }
    assert_eq!(
        faults(Path::new("admission.rs"), "use std::time::Duration; use std::fmt::Write;"),
        Vec::<String>::new()
    );
    assert_eq!(faults(Path::new("server.rs"), "use std::{fs, time::Instant}; async fn f() {}"), Vec::<String>::new());
}

#[test]
fn a_module_that_is_not_on_the_map_is_a_fault() {
    let found = faults(Path::new("helpers/strings.rs"), "");
    assert_eq!(found, ["helpers/strings.rs: the module `helpers` is not on the map in tests/layers.rs"]);
}
