//! Finds rules, fields and objects in a message as a user copies it: from kubectl, a console, an Event or a log.

use crate::{
    k8s::request::is_valid_name,
    rules::{self, Rule},
};

/// The kinds of objects that messages name before a quoted name.
const KINDS: [&str; 6] = [
    "VirtualMachine",
    "VirtualMachineInstance",
    "VirtualMachineInstanceMigration",
    "VirtualMachineInstanceReplicaSet",
    "VirtualMachinePool",
    "NetworkAttachmentDefinition",
];

/// The characters around a field or a name that do not belong to it.
const MARKS: &[char] = &['"', '\'', '`', ',', ';', ':', '(', ')', '*', '\u{201c}', '\u{201d}'];

/// What a message holds.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// The object that was refused.
    pub(super) object: Option<Object>,
    /// What each rule says, in the order of the message.
    pub(super) faults: Vec<Fault>,
}

/// An object that a message names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Object {
    pub(super) kind: &'static str,
    pub(super) name: String,
}

/// What one rule says.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) rule: &'static Rule,
    /// The path of the field; empty if the message names none, as a warning.
    pub(super) field: String,
    /// What is wrong and what to do, as the message has it.
    pub(super) what: String,
}

impl Message {
    /// Reads a message.
    pub(super) fn parse(text: &str) -> Self {
        let text = clean(text);
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let mut message = Self { object: object_of(&words), faults: Vec::new() };
        let mut start = 0;
        for (position, word) in words.iter().enumerate() {
            let Some(rule) = rule_of(word) else { continue };
            let part = words.get(start..position).unwrap_or_default();
            let fault = fault_of(rule, part);
            start = position + 1;
            let is_known = |other: &Fault| other.rule.id == rule.id && other.field == fault.field;
            if !message.faults.iter().any(is_known) {
                message.faults.push(fault);
            }
        }
        message
    }
}

/// Returns the text without escape sequences of terminals, with plain quotes and in one line.
fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => {
                // A control sequence ends with a letter.
                if letters.next_if_eq(&'[').is_some() {
                    while letters.next().is_some_and(|letter| !letter.is_ascii_alphabetic()) {}
                }
            }
            // In JSON, in a log and in a shell the message is quoted once more.
            '\\' => match letters.next_if(|next| matches!(next, 'n' | 'r' | 't' | '"' | '\'' | '\\')) {
                Some('n' | 'r' | 't') => cleaned.push(' '),
                Some(quote) => cleaned.push(quote),
                None => cleaned.push('\\'),
            },
            '\u{201c}' | '\u{201d}' => cleaned.push('"'),
            letter if letter.is_whitespace() || letter.is_control() => cleaned.push(' '),
            letter => cleaned.push(letter),
        }
    }
    cleaned
}

fn rule_of(word: &str) -> Option<&'static Rule> {
    let id = word.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    rules::find(id)
}

/// Returns the object that is named by its kind and its quoted name.
fn object_of(words: &[&str]) -> Option<Object> {
    words.windows(2).find_map(|pair| {
        let [kind, name] = pair else { return None };
        let kind = kind.trim_matches(MARKS);
        let kind = KINDS.into_iter().find(|known| *known == kind)?;
        let name = name.trim_start_matches('\'').strip_prefix('"')?;
        let (name, _) = name.split_once('"')?;
        Some(Object { kind, name: name.rsplit('/').next().unwrap_or(name).to_owned() })
    })
}

/// Returns what the words before a rule id say: the last field in them begins it.
fn fault_of(rule: &'static Rule, words: &[&str]) -> Fault {
    let field_at = words.iter().rposition(|word| is_field(word));
    let (field, rest) = match field_at {
        Some(at) => {
            let field = words.get(at).map(|word| word.trim_matches(MARKS).to_owned()).unwrap_or_default();
            (field, words.get(at + 1..).unwrap_or_default())
        }
        None => (String::new(), words),
    };
    let mut rest: Vec<&str> = rest.iter().copied().skip_while(|word| matches!(*word, "Warning:" | "*")).collect();
    // A warning begins with the name of its object.
    if field_at.is_none() && rest.first().is_some_and(|word| word.strip_suffix(':').is_some_and(is_valid_name)) {
        rest.remove(0);
    }
    Fault { rule, field, what: rest.join(" ").trim_end_matches([';', ',']).to_owned() }
}

fn is_field(word: &str) -> bool {
    let begins = word.trim_start_matches(MARKS);
    word.ends_with(':') && (begins.starts_with("spec.") || begins.starts_with("metadata."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: &str =
        "\"dyniface1\" cannot be hotplugged with model \"e1000e\": only virtio can; set model: virtio, or omit model";
    const FIELD: &str = "spec.template.spec.domain.devices.interfaces[1].model";

    /// The id, the field and the text of a fault.
    type Parts = (&'static str, String, String);

    fn parts(text: &str) -> (Option<(&'static str, String)>, Vec<Parts>) {
        let message = Message::parse(text);
        let fault = |fault: Fault| (fault.rule.id, fault.field, fault.what);
        (message.object.map(|object| (object.kind, object.name)), message.faults.into_iter().map(fault).collect())
    }

    #[test]
    fn a_denial_is_found_however_it_is_copied() {
        let kubectl = format!("The VirtualMachine \"vm-fedora\" is invalid: {FIELD}: {WHAT} [NP103]");
        let expected =
            (Some(("VirtualMachine", "vm-fedora".to_owned())), vec![("NP103", FIELD.to_owned(), WHAT.to_owned())]);
        for text in [
            kubectl.clone(),
            format!("\u{1b}[31m{kubectl}\u{1b}[0m"),
            kubectl.replace('"', "\\\""),
            kubectl.replace(' ', "\n  "),
            kubectl.replace(' ', "\\n"),
            format!("'{kubectl}'"),
            kubectl.replace("is invalid: ", "is invalid: \n* "),
            format!(
                "Error from server: admission webhook \"validate.nicplug.io\" denied the request: {}",
                kubectl.replace("The VirtualMachine", "VirtualMachine")
            ),
            kubectl.replace("[NP103]", "[np103]."),
        ] {
            assert_eq!(parts(&text), expected, "{text}");
        }
    }

    #[test]
    fn several_faults_are_found_each_once() {
        let text = "The VirtualMachineInstance \"demo/a\" is invalid:\n* spec.networks[2].name: one [NP001]\n* \
            spec.domain.devices.interfaces[3].name: two [NP002]\n* spec.networks[2].name: one [NP001]";
        let (object, faults) = parts(text);
        assert_eq!(object, Some(("VirtualMachineInstance", "a".to_owned())));
        let expected =
            [("NP001", "spec.networks[2].name", "one"), ("NP002", "spec.domain.devices.interfaces[3].name", "two")];
        let faults: Vec<_> = faults.iter().map(|(id, field, what)| (*id, field.as_str(), what.as_str())).collect();
        assert_eq!(faults, expected);
    }

    #[test]
    fn a_warning_has_no_field_and_often_no_object() {
        let warning = "Warning: \"dyniface1\" waits: no migration starts, as KubeVirt lacks LiveMigrate [NP112]";
        let what = "\"dyniface1\" waits: no migration starts, as KubeVirt lacks LiveMigrate";
        for warning in [warning.to_owned(), warning.replace("Warning: ", "Warning: web-0: ")] {
            assert_eq!(parts(&warning), (None, vec![("NP112", String::new(), what.to_owned())]));
        }
        assert_eq!(parts("NP103"), (None, vec![("NP103", String::new(), String::new())]));
        for text in ["", "[NP999]", "denied the request: NP103x", "\u{1b}", "\u{1b}[", "\\", "[", "VirtualMachine \""] {
            assert_eq!(parts(text), (None, Vec::new()), "{text:?}");
        }
    }
}
