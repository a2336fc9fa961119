//! What a check found, with its place.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
};

use serde_json::Value;

use super::location::Locations;
use crate::{api::hash::sha256, cli::terminal::Colour, cluster::manifests::Position, facts::FactKind, rules::Rule};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::cli) enum Level {
    /// The cluster would deny the object, or the file cannot be read.
    Error,
    /// The cluster would allow the object with a warning.
    Warning,
    /// Something was not checked.
    Note,
}

impl Level {
    pub(in crate::cli) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }

    pub(in crate::cli) fn colour(self) -> Colour {
        match self {
            Self::Error => Colour::Red,
            Self::Warning => Colour::Yellow,
            Self::Note => Colour::Cyan,
        }
    }
}

/// Returns how many problems of each level there are, as in `1 error, 2 notes`.
pub(in crate::cli) fn summary(count_level: impl Fn(Level) -> usize) -> String {
    let counts = [Level::Error, Level::Warning, Level::Note].map(|level| (count_level(level), level));
    let found: Vec<String> =
        counts.iter().filter(|(number, _)| *number > 0).map(|(number, level)| count(*number, level.as_str())).collect();
    if found.is_empty() { "nothing found".to_owned() } else { found.join(", ") }
}

/// Returns a number with its noun.
pub(in crate::cli) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The facts that were not known, each with the rules that need it.
pub(in crate::cli) type UnknownFacts = BTreeMap<&'static str, BTreeSet<&'static str>>;

/// Returns what was not checked, in one line for each missing kind of object.
pub(in crate::cli) fn unchecked(unknown: &UnknownFacts) -> Vec<String> {
    let line = |(kind, rules): (&&str, &BTreeSet<&str>)| {
        let rules: Vec<&str> = rules.iter().copied().collect();
        format!("without a {kind}: {}", rules.join(", "))
    };
    unknown.iter().map(line).collect()
}

/// Where a problem comes from.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) enum Origin {
    /// A line of the baseline or of an ignore.
    Ignore,
    /// The file or the object cannot be read.
    Manifest,
    /// The annotation of the namespace.
    Namespace,
    Rule(&'static Rule),
    /// What `nicplug audit` observes in a cluster: a short name, and a sentence about it.
    Audit {
        id: &'static str,
        text: &'static str,
    },
}

impl Origin {
    /// Returns the id in outputs.
    pub(in crate::cli) fn id(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Manifest => "manifest",
            Self::Namespace => "namespace",
            Self::Rule(rule) => rule.id,
            Self::Audit { id, .. } => id,
        }
    }

    /// Returns the rule.
    pub(in crate::cli) fn rule(self) -> Option<&'static Rule> {
        match self {
            Self::Rule(rule) => Some(rule),
            _ => None,
        }
    }
}

/// One problem.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Problem {
    pub(in crate::cli) file: String,
    pub(in crate::cli) at: Position,
    pub(in crate::cli) level: Level,
    pub(in crate::cli) origin: Origin,
    /// The object, as in `VirtualMachine shop/web`; empty if no object can be read.
    pub(in crate::cli) object: String,
    /// The path of the field; empty if the problem is not about a field.
    pub(in crate::cli) field: String,
    /// The path with names of list entries instead of indices, which stays the same when an entry is inserted.
    pub(in crate::cli) stable_field: String,
    pub(in crate::cli) what: String,
    pub(in crate::cli) fix: String,
    /// The line of the file.
    pub(in crate::cli) source: String,
    /// Identifies the problem when its line has moved.
    pub(in crate::cli) fingerprint: String,
    /// Whether the file could not be judged.
    pub(in crate::cli) is_unreadable: bool,
}

impl Problem {
    /// Returns a problem of a file that is not about an object.
    pub(in crate::cli) fn of_file(file: &str, at: Position, level: Level, origin: Origin, what: &str) -> Self {
        let (what, fix) = what.split_once("; ").unwrap_or((what, ""));
        Self {
            file: file.to_owned(),
            at,
            level,
            origin,
            object: String::new(),
            field: String::new(),
            stable_field: String::new(),
            what: what.to_owned(),
            fix: fix.to_owned(),
            source: String::new(),
            fingerprint: String::new(),
            is_unreadable: false,
        }
    }

    /// Returns what is wrong and how to fix it, in one line.
    pub(in crate::cli) fn message(&self) -> String {
        if self.fix.is_empty() { self.what.clone() } else { format!("{}; {}", self.what, self.fix) }
    }
}

/// An object that was checked.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Checked {
    pub(in crate::cli) file: String,
    pub(in crate::cli) object: String,
}

/// The result of a check.
#[derive(Debug, Default)]
pub(in crate::cli) struct Report {
    /// In the order of the files, and of the lines in each.
    pub(in crate::cli) problems: Vec<Problem>,
    /// The objects that were checked.
    pub(in crate::cli) checked: Vec<Checked>,
    /// The facts that were not known, each with the rules that need it.
    pub(in crate::cli) unknown: UnknownFacts,
    /// What the check took for granted.
    pub(in crate::cli) assumptions: Vec<String>,
    pub(in crate::cli) files: usize,
    /// The names of all files, if there is a baseline.
    pub(in crate::cli) names: Vec<String>,
    pub(in crate::cli) documents: usize,
    /// How many problems an ignore or the baseline has hidden.
    pub(in crate::cli) ignored: usize,
    /// Where the files are in their repository.
    pub(in crate::cli) locations: Locations,
}

impl Report {
    /// Notes that a rule needs a fact that is not known.
    pub(in crate::cli) fn add_unknown(&mut self, missing: FactKind, origin: Origin) {
        self.unknown.entry(missing.as_str()).or_default().insert(origin.id());
    }

    pub(in crate::cli) fn count(&self, level: Level) -> usize {
        self.problems.iter().filter(|problem| problem.level == level).count()
    }

    /// Finds where the files of the problems are in their repository, and all in `names`; with `all` also those of the
    /// other objects.
    pub(super) fn locate_files(&mut self, all: bool) {
        let checked = self.checked.iter().filter(|_| all).map(|checked| &checked.file);
        let names = self.problems.iter().map(|problem| &problem.file).chain(&self.names).chain(checked);
        self.locations = Locations::of(names.map(String::as_str));
    }

    /// Makes each warning an error.
    pub(super) fn raise_warnings(&mut self) {
        for problem in self.problems.iter_mut().filter(|problem| problem.level == Level::Warning) {
            problem.level = Level::Error;
        }
    }

    /// Gives each problem its fingerprint: of its file, object, rule and field, and a number if these are equal.
    pub(in crate::cli) fn add_fingerprints(&mut self) {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let Self { problems, locations, .. } = self;
        for problem in problems {
            let Problem { file, object, stable_field, .. } = &*problem;
            let file = locations.path(file);
            let mut identity = format!("{file}\n{object}\n{}\n{stable_field}", problem.origin.id());
            if problem.origin.rule().is_none() {
                let _ = write!(identity, "\n{}", problem.what);
            }
            let count = seen.entry(identity.clone()).or_default();
            *count += 1;
            if *count > 1 {
                let _ = write!(identity, "\n{count}");
            }
            problem.fingerprint = hex(&identity);
        }
    }
}

/// Returns the first 128 bits of the hash of a text, in hexadecimal digits.
fn hex(text: &str) -> String {
    sha256(text.as_bytes()).iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Returns a path with the names of list entries, as in `spec.networks[name=blue].multus`.
pub(in crate::cli) fn stable_field(object: &Value, field: &str) -> String {
    let mut stable = String::new();
    let mut value = Some(object);
    for (number, part) in field.split('[').enumerate() {
        let (index, keys) = match part.split_once(']') {
            Some((index, keys)) if number > 0 => (Some(index), keys),
            _ => (None, part),
        };
        if let Some(index) = index {
            value = match index.parse::<usize>() {
                Ok(index) => value.and_then(|list| list.get(index)),
                Err(_) => value.and_then(|object| object.get(index)),
            };
            let name = value.and_then(|entry| entry.get("name")).and_then(Value::as_str);
            let _ = match name {
                Some(name) => write!(stable, "[name={name}]"),
                None => write!(stable, "[{index}]"),
            };
        }
        for key in keys.split('.').filter(|key| !key.is_empty()) {
            value = value.and_then(|object| object.get(key));
        }
        stable.push_str(keys);
    }
    stable
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_entry_is_known_by_its_name() {
        let object = json!({"spec": {"networks": [{"name": "a"}, {"name": "b", "multus": {}}, {"x": 1}]}});
        for (field, expected) in [
            ("spec.networks[1].multus.networkName", "spec.networks[name=b].multus.networkName"),
            ("spec.networks[2].x", "spec.networks[2].x"),
            ("spec.networks[9]", "spec.networks[9]"),
            ("metadata.annotations[a.b/c]", "metadata.annotations[a.b/c]"),
            ("", ""),
        ] {
            assert_eq!(stable_field(&object, field), expected);
        }
    }
}
