//! Parses the texts of the annotations: `name=nad[,name=namespace/nad]` (or a JSON list) to add, `name[,name]` to
//! remove.

use std::{
    borrow::Cow,
    fmt::{self, Display},
    str::FromStr,
};

use serde::Deserialize;

use super::RequestKind;
use crate::{api, api::quote::quote};

/// The longest list; no guest has room for that many NICs.
const ENTRIES_AT_MOST: usize = 255;

/// The longest DNS label (RFC 1123), the form of a namespace and, in KubeVirt's API, of the name of a NIC.
const LABEL_AT_MOST: usize = 63;

/// The longest DNS subdomain, the form of the name of a NetworkAttachmentDefinition.
const SUBDOMAIN_AT_MOST: usize = 253;

/// The longest part of an entry that a message quotes, in characters.
const QUOTED_AT_MOST: usize = 40;

/// A NIC to add.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Addition {
    /// The name of its interface and network.
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
    /// Returns the NICs in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &Addition> {
        self.0.iter()
    }
}

impl Removals {
    /// Returns the names in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromStr for Additions {
    type Err = RequestSyntaxError;

    /// # Errors
    /// The first error, with its location.
    fn from_str(text: &str) -> Result<Self, RequestSyntaxError> {
        let entries = if text.trim_start().starts_with('[') { json_entries(text)? } else { text_entries(text)? };
        let mut additions: Vec<Addition> = Vec::new();
        for (location, addition) in entries {
            match additions.iter().find(|known| known.name == addition.name) {
                Some(known) if known.network_name == addition.network_name => {}
                Some(known) => {
                    let Addition { name, network_name } = known;
                    return Err(location.error(format!(
                        "{name} is already listed, with network {network_name}",
                        name = quote(name),
                        network_name = quote(network_name)
                    )));
                }
                None => additions.push(addition),
            }
        }
        check_count(additions.len(), RequestKind::Add.verb())?;
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
    type Err = RequestSyntaxError;

    /// # Errors
    /// The first error, with its location.
    fn from_str(text: &str) -> Result<Self, RequestSyntaxError> {
        parse_names(text, RequestKind::Remove.verb()).map(Self)
    }
}

/// Parses `name[,name]`, the names of NICs: at least one, each once, in the order of the text. The verb says what to do
/// with the NICs, in the message about a text without any name.
///
/// # Errors
/// The first error, with its location.
pub fn parse_names(text: &str, verb: &str) -> Result<Vec<String>, RequestSyntaxError> {
    let mut names: Vec<String> = Vec::new();
    for entry in entries_of(text, verb)? {
        check_name(entry.token).map_err(|error| error.of(&entry))?;
        if !names.iter().any(|name| name == entry.token.text) {
            names.push(entry.token.text.to_owned());
        }
    }
    Ok(names)
}

/// Checks a name and a network that are separate values.
///
/// # Errors
/// The first error.
pub fn check_addition(name: &str, network_name: &str) -> Result<(), String> {
    let whole = |text| Token { text, start: 0 };
    check_name(whole(name)).and_then(|()| check_network_name(whole(network_name))).map_err(|error| error.what)
}

/// Checks the name of a NIC to remove.
///
/// # Errors
/// The first error.
pub fn check_removal(name: &str) -> Result<(), String> {
    check_name(Token { text: name, start: 0 }).map_err(|error| error.what)
}

impl Display for Removals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(","))
    }
}

/// A request that cannot be parsed: `entry 2 ("=x"), column 14: the name is empty`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{location}{what}")]
pub struct RequestSyntaxError {
    location: Location,
    what: String,
}

impl RequestSyntaxError {
    /// Returns what is wrong, without the location.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }
}

/// Where the error is in the text; empty if the whole text is wrong.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Location {
    /// The number of the entry, from 1, and its text.
    entry: Option<(usize, String)>,
    /// The line, from 1; shown only for a text of several lines.
    line: usize,
    /// The character of the line, from 1.
    column: Option<usize>,
}

impl Location {
    fn error(self, what: impl Into<String>) -> RequestSyntaxError {
        RequestSyntaxError { location: self, what: what.into() }
    }
}

impl Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some((number, text)) = &self.entry {
            parts.push(if text.is_empty() {
                format!("entry {number}")
            } else {
                format!("entry {number} ({text})", text = quote(text))
            });
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

/// A part of the text, without the blanks around it.
#[derive(Clone, Copy)]
struct Token<'t> {
    text: &'t str,
    /// The number of characters before it.
    start: usize,
}

impl Token<'_> {
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

/// What is wrong with a token, and at which character of the whole text.
struct TokenError {
    start: usize,
    what: String,
}

impl TokenError {
    fn at(start: usize, what: impl Into<String>) -> Self {
        Self { start, what: what.into() }
    }

    fn of(self, entry: &ListEntry) -> RequestSyntaxError {
        let text = entry.token.text;
        Location { entry: Some((entry.number, quoted(text))), line: 1, column: Some(self.start + 1) }.error(self.what)
    }
}

/// An entry of a comma-separated list.
struct ListEntry<'t> {
    number: usize,
    token: Token<'t>,
}

fn quoted(text: &str) -> String {
    if text.chars().count() <= QUOTED_AT_MOST {
        return text.to_owned();
    }
    let kept: String = text.chars().take(QUOTED_AT_MOST).collect();
    format!("{kept}...")
}

/// Returns the entries between the commas.
fn entries_of<'t>(text: &'t str, verb: &str) -> Result<Vec<ListEntry<'t>>, RequestSyntaxError> {
    let count = if text.trim().is_empty() { 0 } else { text.split(',').take(ENTRIES_AT_MOST + 1).count() };
    check_count(count, verb)?;
    let mut start = 0;
    let entries = text.split(',').enumerate().map(|(index, text)| {
        let token = Token { text, start }.trimmed();
        start += text.chars().count() + 1;
        ListEntry { number: index + 1, token }
    });
    Ok(entries.collect())
}

fn text_entries(text: &str) -> Result<Vec<(Location, Addition)>, RequestSyntaxError> {
    let entries = entries_of(text, RequestKind::Add.verb())?;
    entries.iter().map(|entry| addition(entry).map_err(|error| error.of(entry))).collect()
}

fn addition(entry: &ListEntry) -> Result<(Location, Addition), TokenError> {
    let end = entry.token.start + entry.token.text.chars().count();
    let (name, network) = entry.token.split_once('=').ok_or_else(|| {
        let what = if entry.token.text.is_empty() { "the entry is empty" } else { "= and the network are missing" };
        TokenError::at(end, what)
    })?;
    let (name, network) = (name.trimmed(), network.trimmed());
    check_name(name)?;
    check_network_name(network)?;
    let location = Location {
        entry: Some((entry.number, quoted(entry.token.text))),
        line: 1,
        column: Some(entry.token.start + 1),
    };
    Ok((location, Addition { name: name.text.to_owned(), network_name: network.text.to_owned() }))
}

/// An entry in the form of KubeVirt's `AddInterfaceOptions`.
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

fn json_entries(text: &str) -> Result<Vec<(Location, Addition)>, RequestSyntaxError> {
    let JsonList(list) = serde_json::from_str(text).map_err(|error| of_json(&error))?;
    check_count(list.len(), RequestKind::Add.verb())?;
    list.into_iter().enumerate().map(|(index, entry)| json_addition(index + 1, entry)).collect()
}

fn json_addition(number: usize, entry: JsonEntry) -> Result<(Location, Addition), RequestSyntaxError> {
    let location = || Location { entry: Some((number, String::new())), ..Location::default() };
    check_addition(&entry.name, &entry.network_attachment_definition_name).map_err(|what| location().error(what))?;
    let addition =
        Addition { name: entry.name.into_owned(), network_name: entry.network_attachment_definition_name.into_owned() };
    Ok((location(), addition))
}

fn of_json(error: &serde_json::Error) -> RequestSyntaxError {
    let text = error.to_string();
    let at = format!(" at line {} column {}", error.line(), error.column());
    let what = text.strip_suffix(&at).unwrap_or(&text);
    Location { line: error.line(), column: Some(error.column()), ..Location::default() }.error(quoted_error(what))
}

/// Limits an error of the JSON parser, which quotes values of any length.
fn quoted_error(what: &str) -> String {
    const ERROR_AT_MOST: usize = 120;
    what.chars().take(ERROR_AT_MOST).collect()
}

fn check_count(count: usize, verb: &str) -> Result<(), RequestSyntaxError> {
    match count {
        0 => Err(Location::default().error(format!("the annotation names no NIC to {verb}"))),
        1..=ENTRIES_AT_MOST => Ok(()),
        _ => Err(Location::default().error(format!("there are more than {ENTRIES_AT_MOST} entries"))),
    }
}

/// Checks an interface name by KubeVirt's rules: letters, digits, `-` and `_`.
fn check_name(name: Token) -> Result<(), TokenError> {
    let is_valid = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    check_token("the name", name, LABEL_AT_MOST, is_valid)
}

/// Checks `nad` or `namespace/nad`.
fn check_network_name(written: Token) -> Result<(), TokenError> {
    let Some((namespace, name)) = written.split_once('/') else { return check_nad(written) };
    let is_valid = |letter: char| is_dns_letter(letter) && letter != '.';
    check_token("the network's namespace", namespace, LABEL_AT_MOST, is_valid)?;
    check_ends("the network's namespace", namespace)?;
    check_nad(name)
}

/// Checks a DNS subdomain: labels with dots between them.
fn check_nad(name: Token) -> Result<(), TokenError> {
    check_token("the network's name", name, SUBDOMAIN_AT_MOST, is_dns_letter)?;
    let mut start = name.start;
    for text in name.text.split('.') {
        check_ends("the network's name", Token { text, start })?;
        start += text.chars().count() + 1;
    }
    Ok(())
}

fn is_dns_letter(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '.')
}

fn check_token(what: &str, token: Token, at_most: usize, is_valid: impl Fn(char) -> bool) -> Result<(), TokenError> {
    if token.text.is_empty() {
        return Err(TokenError::at(token.start, format!("{what} is empty")));
    }
    if let Some((index, letter)) = token.text.chars().enumerate().find(|(_, letter)| !is_valid(*letter)) {
        return Err(TokenError::at(token.start + index, format!("{what} contains the invalid character {letter:?}")));
    }
    let count = token.text.chars().count();
    if count > at_most {
        return Err(TokenError::at(
            token.start + at_most,
            format!("{what} has {count} characters, more than {at_most}"),
        ));
    }
    Ok(())
}

/// Checks that a DNS label starts and ends with a letter or digit.
fn check_ends(what: &str, label: Token) -> Result<(), TokenError> {
    let is_letter = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    if !is_letter(label.text.chars().next()) {
        return Err(TokenError::at(
            label.start,
            format!("{what} has a part that does not start with a letter or digit"),
        ));
    }
    if !is_letter(label.text.chars().next_back()) {
        let last = label.start + label.text.chars().count() - 1;
        return Err(TokenError::at(last, format!("{what} has a part that does not end with a letter or digit")));
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

    fn error(text: &str) -> String {
        text.parse::<Additions>().unwrap_err().to_string()
    }

    #[test]
    fn both_forms_are_equivalent() {
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
    fn a_malformed_text_is_reported_with_the_location() {
        for (text, message) in [
            ("", "the annotation names no NIC to add"),
            ("  ", "the annotation names no NIC to add"),
            ("dyniface1=net,=x", r#"entry 2 ("=x"), column 15: the name is empty"#),
            ("a=net,", "entry 2, column 7: the entry is empty"),
            ("a", r#"entry 1 ("a"), column 2: = and the network are missing"#),
            ("a=", r#"entry 1 ("a="), column 3: the network's name is empty"#),
            ("é=net", r#"entry 1 ("é=net"), column 1: the name contains the invalid character 'é'"#),
            ("é=n,b c=n", r#"entry 1 ("é=n"), column 1: the name contains the invalid character 'é'"#),
            ("a=n, b c=n", r#"entry 2 ("b c=n"), column 7: the name contains the invalid character ' '"#),
            ("a=Net", r#"entry 1 ("a=Net"), column 3: the network's name contains the invalid character 'N'"#),
            ("a=b=c", r#"entry 1 ("a=b=c"), column 4: the network's name contains the invalid character '='"#),
            ("a=x/y/z", r#"entry 1 ("a=x/y/z"), column 6: the network's name contains the invalid character '/'"#),
            ("a=x /y", r#"entry 1 ("a=x /y"), column 4: the network's namespace contains the invalid character ' '"#),
            ("a=/y", r#"entry 1 ("a=/y"), column 3: the network's namespace is empty"#),
            ("a=x.y/z", r#"entry 1 ("a=x.y/z"), column 4: the network's namespace contains the invalid character '.'"#),
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
            ("a=n,a=m", r#"entry 2 ("a=m"), column 5: "a" is already listed, with network "n""#),
            ("[]", "the annotation names no NIC to add"),
            ("[{\"name\": \"a\"}]", "entry 1: the network's name is empty"),
            ("[{\"name\": \"a\"]", "column 14: expected `,` or `}`"),
            ("[\n{\"name\": 7}]", "line 2, column 10: invalid type: integer `7`, expected a string"),
            ("[[\"a\", \"n\"]]", "column 1: invalid type: sequence, expected an object"),
        ] {
            assert_eq!(error(text), message, "{text}");
        }
        assert!(error(r#"[{"name": "a", "macAddress": "x"}]"#).contains("unknown field `macAddress`"));
        let removal = |text: &str| text.parse::<Removals>().unwrap_err().to_string();
        assert_eq!(removal(""), "the annotation names no NIC to remove");
        assert_eq!(removal("a,b=c"), r#"entry 2 ("b=c"), column 4: the name contains the invalid character '='"#);
    }

    #[test]
    fn names_and_lists_are_bounded() {
        let name = "a".repeat(LABEL_AT_MOST);
        assert_eq!(added(&format!("{name}=n")).len(), 1);
        assert!(error(&format!("{name}a=n")).ends_with("column 64: the name has 64 characters, more than 63"));
        assert!(error(&format!("a={}", "n".repeat(254))).contains("more than 253"));
        let list = |count: usize| (0..count).map(|number| format!("n{number}=n")).collect::<Vec<_>>().join(",");
        assert_eq!(added(&list(255)).len(), 255);
        assert_eq!(error(&list(256)), "there are more than 255 entries");
        assert!(error(&format!("{}=n", "?".repeat(100_000))).len() < 200);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_rejected(text in any::<String>(), list in "[\\[{}\"name:,=/a-z ]{0,40}") {
            for text in [text, list] {
                if let Err(error) = text.parse::<Additions>() {
                    prop_assert!(error.to_string().chars().count() < 400, "{}", error);
                }
                let _ = text.parse::<Removals>();
            }
        }

        #[test]
        fn a_written_list_is_parsed_to_the_same_list(
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
