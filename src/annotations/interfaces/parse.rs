//! The two texts: `name=nad[,name=namespace/nad]` (or a JSON list) to add, `name[,name]` to remove.

use std::{
    borrow::Cow,
    fmt::{self, Display},
    str::FromStr,
};

use serde::Deserialize;

use super::Kind;
use crate::api;

/// More NICs than any guest has room for.
const ENTRIES_AT_MOST: usize = 255;

/// The longest DNS label (RFC 1123), which a namespace is, and by KubeVirt's API the name of a NIC.
const LABEL_AT_MOST: usize = 63;

/// The longest DNS subdomain, which the name of a NetworkAttachmentDefinition is.
const SUBDOMAIN_AT_MOST: usize = 253;

/// How much of an entry a message quotes, in characters.
const QUOTED_AT_MOST: usize = 40;

/// A NIC to add.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Addition {
    /// Of interface and network.
    pub name: String,
    /// `multus.networkName`: `nad` or `namespace/nad`.
    pub network_name: String,
}

/// The NICs to add: at least one, each name once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Additions(Vec<Addition>);

/// The names of the NICs to remove: at least one, each once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Removals(Vec<String>);

impl Additions {
    /// In the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = &Addition> {
        self.0.iter()
    }
}

impl Removals {
    /// In the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromStr for Additions {
    type Err = Malformed;

    /// # Errors
    /// The first thing that is wrong, and its place.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let entries = if text.trim_start().starts_with('[') { json_entries(text)? } else { text_entries(text)? };
        let mut additions: Vec<Addition> = Vec::new();
        for (place, addition) in entries {
            match additions.iter().find(|known| known.name == addition.name) {
                Some(known) if known.network_name == addition.network_name => {}
                Some(known) => {
                    let Addition { name, network_name } = known;
                    return Err(place.fault(format!("{name:?} was named before, with network {network_name:?}")));
                }
                None => additions.push(addition),
            }
        }
        check_count(additions.len(), Kind::Add.verb())?;
        Ok(Self(additions))
    }
}

impl Display for Additions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Addition { name, network_name }) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(formatter, "{comma}{name}={network_name}")?;
        }
        Ok(())
    }
}

impl FromStr for Removals {
    type Err = Malformed;

    /// # Errors
    /// The first thing that is wrong, and its place.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        names(text, Kind::Remove.verb()).map(Self)
    }
}

/// Reads `name[,name]`, the names of NICs to do something with: at least one, each once, in the order in which they are
/// written. The verb says what is to be done, in a message about a text that names none.
///
/// # Errors
/// The first thing that is wrong, and its place.
pub fn names(text: &str, verb: &str) -> Result<Vec<String>, Malformed> {
    let mut names: Vec<String> = Vec::new();
    for entry in pieces(text, verb)? {
        check_name(entry.piece).map_err(|fault| fault.of(&entry))?;
        if !names.iter().any(|name| name == entry.piece.text) {
            names.push(entry.piece.text.to_owned());
        }
    }
    Ok(names)
}

/// Checks a name and a network that were written apart.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_addition(name: &str, network_name: &str) -> Result<(), String> {
    let whole = |text| Piece { text, start: 0 };
    check_name(whole(name)).and_then(|()| check_network_name(whole(network_name))).map_err(|fault| fault.what)
}

/// Checks the name of a NIC to remove.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_removal(name: &str) -> Result<(), String> {
    check_name(Piece { text: name, start: 0 }).map_err(|fault| fault.what)
}

impl Display for Removals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(","))
    }
}

/// A request that cannot be read: `entry 2 ("=x"), column 14: the name is empty`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}{what}")]
pub struct Malformed {
    place: Place,
    what: String,
}

impl Malformed {
    /// What is wrong, without its place.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }
}

/// Where in the text: nowhere when all of it is meant.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Place {
    /// The number of the entry, from 1, and its text.
    entry: Option<(usize, String)>,
    /// The line, from 1; told only of a text of several.
    line: usize,
    /// The character of the line, from 1.
    column: Option<usize>,
}

impl Place {
    fn fault(self, what: impl Into<String>) -> Malformed {
        Malformed { place: self, what: what.into() }
    }
}

impl Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some((number, text)) = &self.entry {
            parts.push(if text.is_empty() { format!("entry {number}") } else { format!("entry {number} ({text:?})") });
        }
        if self.line > 1 {
            parts.push(format!("line {}", self.line));
        }
        if let Some(column) = self.column {
            parts.push(format!("column {column}"));
        }
        if parts.is_empty() { Ok(()) } else { write!(formatter, "{}: ", parts.join(", ")) }
    }
}

/// A piece of the text, without the blanks around it.
#[derive(Clone, Copy)]
struct Piece<'t> {
    text: &'t str,
    /// How many characters stand before it.
    start: usize,
}

impl Piece<'_> {
    fn trimmed(self) -> Self {
        let text = self.text.trim_start();
        let blanks = self.text.chars().count() - text.chars().count();
        Self { text: text.trim_end(), start: self.start + blanks }
    }

    fn split_once(self, mark: char) -> Option<(Self, Self)> {
        let (before, after) = self.text.split_once(mark)?;
        let after = Self { text: after, start: self.start + before.chars().count() + 1 };
        Some((Self { text: before, start: self.start }, after))
    }
}

/// What is wrong with a piece, and at which character of the whole text.
struct Fault {
    start: usize,
    what: String,
}

impl Fault {
    fn at(start: usize, what: impl Into<String>) -> Self {
        Self { start, what: what.into() }
    }

    fn of(self, entry: &Entry) -> Malformed {
        let text = entry.piece.text;
        Place { entry: Some((entry.number, quoted(text))), line: 1, column: Some(self.start + 1) }.fault(self.what)
    }
}

/// An entry of a text with commas.
struct Entry<'t> {
    number: usize,
    piece: Piece<'t>,
}

fn quoted(text: &str) -> String {
    if text.chars().count() <= QUOTED_AT_MOST {
        return text.to_owned();
    }
    let kept: String = text.chars().take(QUOTED_AT_MOST).collect();
    format!("{kept}...")
}

/// The entries between commas.
fn pieces<'t>(text: &'t str, verb: &str) -> Result<Vec<Entry<'t>>, Malformed> {
    let count = if text.trim().is_empty() { 0 } else { text.split(',').take(ENTRIES_AT_MOST + 1).count() };
    check_count(count, verb)?;
    let mut start = 0;
    let entries = text.split(',').enumerate().map(|(index, text)| {
        let piece = Piece { text, start }.trimmed();
        start += text.chars().count() + 1;
        Entry { number: index + 1, piece }
    });
    Ok(entries.collect())
}

fn text_entries(text: &str) -> Result<Vec<(Place, Addition)>, Malformed> {
    let entries = pieces(text, Kind::Add.verb())?;
    entries.iter().map(|entry| addition(entry).map_err(|fault| fault.of(entry))).collect()
}

fn addition(entry: &Entry) -> Result<(Place, Addition), Fault> {
    let end = entry.piece.start + entry.piece.text.chars().count();
    let (name, network) = entry.piece.split_once('=').ok_or_else(|| {
        let what = if entry.piece.text.is_empty() { "the entry is empty" } else { "there is no = and no network" };
        Fault::at(end, what)
    })?;
    let (name, network) = (name.trimmed(), network.trimmed());
    check_name(name)?;
    check_network_name(network)?;
    let place =
        Place { entry: Some((entry.number, quoted(entry.piece.text))), line: 1, column: Some(entry.piece.start + 1) };
    Ok((place, Addition { name: name.text.to_owned(), network_name: network.text.to_owned() }))
}

/// The form that KubeVirt's `AddInterfaceOptions` has.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct JsonEntry<'t> {
    #[serde(borrow)]
    name: Cow<'t, str>,
    #[serde(borrow)]
    network_attachment_definition_name: Cow<'t, str>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct JsonList<'t>(#[serde(borrow, deserialize_with = "api::objects")] Vec<JsonEntry<'t>>);

fn json_entries(text: &str) -> Result<Vec<(Place, Addition)>, Malformed> {
    let JsonList(list) = serde_json::from_str(text).map_err(|error| of_json(&error))?;
    check_count(list.len(), Kind::Add.verb())?;
    list.into_iter().enumerate().map(|(index, entry)| json_addition(index + 1, entry)).collect()
}

fn json_addition(number: usize, entry: JsonEntry) -> Result<(Place, Addition), Malformed> {
    let place = || Place { entry: Some((number, String::new())), ..Place::default() };
    check_addition(&entry.name, &entry.network_attachment_definition_name).map_err(|what| place().fault(what))?;
    let addition =
        Addition { name: entry.name.into_owned(), network_name: entry.network_attachment_definition_name.into_owned() };
    Ok((place(), addition))
}

fn of_json(error: &serde_json::Error) -> Malformed {
    let text = error.to_string();
    let at = format!(" at line {} column {}", error.line(), error.column());
    let what = text.strip_suffix(&at).unwrap_or(&text);
    Place { line: error.line(), column: Some(error.column()), ..Place::default() }.fault(quoted_error(what))
}

/// The parser quotes what it met, however long that is.
fn quoted_error(what: &str) -> String {
    const ERROR_AT_MOST: usize = 120;
    what.chars().take(ERROR_AT_MOST).collect()
}

fn check_count(count: usize, verb: &str) -> Result<(), Malformed> {
    match count {
        0 => Err(Place::default().fault(format!("the annotation names no NIC to {verb}"))),
        1..=ENTRIES_AT_MOST => Ok(()),
        _ => Err(Place::default().fault(format!("there are more than {ENTRIES_AT_MOST} entries"))),
    }
}

/// As KubeVirt has interface names: letters, digits, `-` and `_`.
fn check_name(name: Piece) -> Result<(), Fault> {
    let is_valid = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    check_piece("the name", name, LABEL_AT_MOST, is_valid)
}

/// `nad` or `namespace/nad`.
fn check_network_name(written: Piece) -> Result<(), Fault> {
    let Some((namespace, name)) = written.split_once('/') else { return check_nad(written) };
    let is_valid = |letter: char| is_dns_letter(letter) && letter != '.';
    check_piece("the network's namespace", namespace, LABEL_AT_MOST, is_valid)?;
    check_ends("the network's namespace", namespace)?;
    check_nad(name)
}

/// A DNS subdomain: labels with dots between them.
fn check_nad(name: Piece) -> Result<(), Fault> {
    check_piece("the network's name", name, SUBDOMAIN_AT_MOST, is_dns_letter)?;
    let mut start = name.start;
    for text in name.text.split('.') {
        check_ends("the network's name", Piece { text, start })?;
        start += text.chars().count() + 1;
    }
    Ok(())
}

fn is_dns_letter(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '.')
}

fn check_piece(what: &str, piece: Piece, at_most: usize, is_valid: impl Fn(char) -> bool) -> Result<(), Fault> {
    if piece.text.is_empty() {
        return Err(Fault::at(piece.start, format!("{what} is empty")));
    }
    if let Some((index, letter)) = piece.text.chars().enumerate().find(|(_, letter)| !is_valid(*letter)) {
        return Err(Fault::at(piece.start + index, format!("{what} has the character {letter:?}")));
    }
    let count = piece.text.chars().count();
    if count > at_most {
        return Err(Fault::at(piece.start + at_most, format!("{what} has {count} characters, more than {at_most}")));
    }
    Ok(())
}

/// A DNS label starts and ends with a letter or digit.
fn check_ends(what: &str, label: Piece) -> Result<(), Fault> {
    let is_letter = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    if !is_letter(label.text.chars().next()) {
        return Err(Fault::at(label.start, format!("{what} has a part that does not start with a letter or digit")));
    }
    if !is_letter(label.text.chars().next_back()) {
        let last = label.start + label.text.chars().count() - 1;
        return Err(Fault::at(last, format!("{what} has a part that does not end with a letter or digit")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn added(text: &str) -> Vec<(String, String)> {
        let additions: Additions = text.parse().unwrap();
        additions.iter().map(|addition| (addition.name.clone(), addition.network_name.clone())).collect()
    }

    fn fault(text: &str) -> String {
        text.parse::<Additions>().unwrap_err().to_string()
    }

    #[test]
    fn both_forms_say_the_same() {
        let expected = [("a".to_owned(), "net".to_owned()), ("b_2".to_owned(), "other/net.v1".to_owned())];
        for text in [
            "a=net,b_2=other/net.v1",
            " a = net , b_2 = other/net.v1 ",
            "a=net,b_2=other/net.v1,a=net",
            r#"[{"name": "a", "networkAttachmentDefinitionName": "net"},
                {"name": "b_2", "networkAttachmentDefinitionName": "other\/net.v1"}]"#,
        ] {
            assert_eq!(added(text), expected, "{text}");
        }
        assert_eq!(" a,b_2, a".parse::<Removals>().unwrap().iter().collect::<Vec<_>>(), ["a", "b_2"]);
    }

    #[test]
    fn what_is_malformed_is_told_with_its_place() {
        for (text, message) in [
            ("", "the annotation names no NIC to add"),
            ("  ", "the annotation names no NIC to add"),
            ("dyniface1=net,=x", r#"entry 2 ("=x"), column 15: the name is empty"#),
            ("a=net,", "entry 2, column 7: the entry is empty"),
            ("a", r#"entry 1 ("a"), column 2: there is no = and no network"#),
            ("a=", r#"entry 1 ("a="), column 3: the network's name is empty"#),
            ("é=net", r#"entry 1 ("é=net"), column 1: the name has the character 'é'"#),
            ("é=n,b c=n", r#"entry 1 ("é=n"), column 1: the name has the character 'é'"#),
            ("a=n, b c=n", r#"entry 2 ("b c=n"), column 7: the name has the character ' '"#),
            ("a=Net", r#"entry 1 ("a=Net"), column 3: the network's name has the character 'N'"#),
            ("a=b=c", r#"entry 1 ("a=b=c"), column 4: the network's name has the character '='"#),
            ("a=x/y/z", r#"entry 1 ("a=x/y/z"), column 6: the network's name has the character '/'"#),
            ("a=x /y", r#"entry 1 ("a=x /y"), column 4: the network's namespace has the character ' '"#),
            ("a=/y", r#"entry 1 ("a=/y"), column 3: the network's namespace is empty"#),
            ("a=x.y/z", r#"entry 1 ("a=x.y/z"), column 4: the network's namespace has the character '.'"#),
            (
                "a=-x",
                r#"entry 1 ("a=-x"), column 3: the network's name has a part that does not start with a letter or digit"#,
            ),
            (
                "a=x-/y",
                r#"entry 1 ("a=x-/y"), column 4: the network's namespace has a part that does not end with a letter or digit"#,
            ),
            (
                "a=x..y",
                r#"entry 1 ("a=x..y"), column 5: the network's name has a part that does not start with a letter or digit"#,
            ),
            ("a=n,a=m", r#"entry 2 ("a=m"), column 5: "a" was named before, with network "n""#),
            ("[]", "the annotation names no NIC to add"),
            ("[{\"name\": \"a\"}]", "entry 1: the network's name is empty"),
            ("[{\"name\": \"a\"]", "column 14: expected `,` or `}`"),
            ("[\n{\"name\": 7}]", "line 2, column 10: invalid type: integer `7`, expected a string"),
            ("[[\"a\", \"n\"]]", "column 1: invalid type: sequence, expected an object"),
        ] {
            assert_eq!(fault(text), message, "{text}");
        }
        assert!(fault(r#"[{"name": "a", "macAddress": "x"}]"#).contains("unknown field `macAddress`"));
        let removal = |text: &str| text.parse::<Removals>().unwrap_err().to_string();
        assert_eq!(removal(""), "the annotation names no NIC to remove");
        assert_eq!(removal("a,b=c"), r#"entry 2 ("b=c"), column 4: the name has the character '='"#);
    }

    #[test]
    fn names_and_lists_are_bounded() {
        let name = "a".repeat(LABEL_AT_MOST);
        assert_eq!(added(&format!("{name}=n")).len(), 1);
        assert!(fault(&format!("{name}a=n")).ends_with("column 64: the name has 64 characters, more than 63"));
        assert!(fault(&format!("a={}", "n".repeat(254))).contains("more than 253"));
        let list = |count: usize| (0..count).map(|number| format!("n{number}=n")).collect::<Vec<_>>().join(",");
        assert_eq!(added(&list(255)).len(), 255);
        assert_eq!(fault(&list(256)), "there are more than 255 entries");
        assert!(fault(&format!("{}=n", "?".repeat(100_000))).len() < 200);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_told_of(text in any::<String>(), list in "[\\[{}\"name:,=/a-z ]{0,40}") {
            for text in [text, list] {
                if let Err(error) = text.parse::<Additions>() {
                    prop_assert!(error.to_string().chars().count() < 400, "{}", error);
                }
                let _ = text.parse::<Removals>();
            }
        }

        #[test]
        fn what_is_written_is_read_back(
            entries in prop::collection::btree_map("[A-Za-z0-9_-]{1,12}", "([a-z0-9]{1,5}/)?[a-z0-9]{1,5}(\\.[a-z0-9]{1,4})?", 1..9),
        ) {
            let removals = Removals(entries.keys().cloned().collect());
            prop_assert_eq!(removals.to_string().parse::<Removals>(), Ok(removals));
            let entries = entries.into_iter().map(|(name, network_name)| Addition { name, network_name });
            let additions = Additions(entries.collect());
            prop_assert_eq!(additions.to_string().parse::<Additions>(), Ok(additions));
        }
    }
}
