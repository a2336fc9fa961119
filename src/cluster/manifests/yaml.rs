//! A YAML document as an object with the place of each field.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    mem,
};

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::{Map, Value};

use super::{
    Chunk, ManifestError,
    places::{Children, Places, Position},
    scalar,
};

/// How many values the aliases of a document may repeat. A document written by hand repeats a few hundred.
const MAX_REPEATED: usize = 100_000;

/// The prefix of the tags that YAML defines.
const CORE: &str = "tag:yaml.org,2002:";

/// An object and the places of its fields.
type Node = (Value, Places);

/// Reads the documents of a chunk: usually one, and more if a `...` line separates them.
pub(super) fn read(chunk: &Chunk) -> Result<Vec<Node>, ManifestError> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut builder = Builder::new(chunk);
    for event in Parser::new_from_str_with_options(chunk.text, options) {
        let (event, span) = event.map_err(|error| explain(&error, chunk))?;
        builder.add(event, &span).map_err(|error| {
            let line = chunk.line(error.at.line + 1 - chunk.line);
            ManifestError { message: fault_of_line(line).map_or(error.message, str::to_owned), ..error }
        })?;
    }
    Ok(builder.documents)
}

/// Returns the comments of a chunk with their lines, and whether each has its line for itself.
pub(super) fn comments(chunk: &Chunk) -> Vec<(usize, bool, String)> {
    let mut options = Options::default();
    options.max_buffered_comment_events = usize::MAX;
    let lines: Vec<&str> = chunk.text.lines().collect();
    let mut comments = Vec::new();
    for event in Parser::new_from_str_with_options(chunk.text, options) {
        // The reader of the document reports the error.
        let Ok((event, span)) = event else { break };
        if let Event::Comment(text, _) = event {
            let line = span.start.line();
            let source = lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
            let is_alone = source.chars().take(span.start.col()).all(char::is_whitespace);
            comments.push((chunk.position(line, 0, 1).line, is_alone, text.into_owned()));
        }
    }
    comments
}

/// A list or an object that is not complete.
struct Frame {
    value: Open,
    at: Position,
    anchor: usize,
    /// [`Builder::count`] at the start.
    count: usize,
}

enum Open {
    List(Vec<Value>, Vec<Places>),
    Object {
        entries: Map<String, Value>,
        places: BTreeMap<String, (Position, Places)>,
        key: Option<(String, Position)>,
        /// The values of `<<`.
        merged: Vec<Node>,
    },
}

/// Makes objects out of events.
struct Builder<'c> {
    chunk: &'c Chunk<'c>,
    frames: Vec<Frame>,
    /// The values with an anchor, and how many values are in each.
    anchors: HashMap<usize, (Node, usize)>,
    /// How many values were read, with those that aliases repeat.
    count: usize,
    /// How many of them aliases repeat.
    repeated: usize,
    documents: Vec<Node>,
}

impl<'c> Builder<'c> {
    fn new(chunk: &'c Chunk<'c>) -> Self {
        Self { chunk, frames: Vec::new(), anchors: HashMap::new(), count: 0, repeated: 0, documents: Vec::new() }
    }

    fn add(&mut self, event: Event, span: &Span) -> Result<(), ManifestError> {
        let at = self.chunk.position(span.start.line(), span.start.col(), length(span));
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = value_of(text, style, tag.as_deref()).map_err(|message| ManifestError { at, message })?;
                self.count += 1;
                let is_merge = style == ScalarStyle::Plain && value.as_str() == Some("<<");
                self.finish((value, Places { at, children: Children::None }), anchor, 1, is_merge)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(Open::List(Vec::new(), Vec::new()), at, anchor);
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                let (entries, places) = (Map::new(), BTreeMap::new());
                self.open(Open::Object { entries, places, key: None, merged: Vec::new() }, at, anchor);
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Frame { value, at, anchor, count }) = self.frames.pop() else { return Ok(()) };
                let node = close(value, at)?;
                self.finish(node, anchor, self.count - count, false)
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(error(at, "the alias is inside the value that it repeats; write the value out"));
                };
                self.repeated += size;
                if self.repeated > MAX_REPEATED {
                    let message = format!("the aliases repeat more than {MAX_REPEATED} values; write them out");
                    return Err(ManifestError { at, message });
                }
                self.count += size;
                self.finish(node, 0, size, false)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                self.repeated = 0;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, value: Open, at: Position, anchor: usize) {
        self.frames.push(Frame { value, at, anchor, count: self.count });
        self.count += 1;
    }

    /// Puts a complete value where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, size: usize, is_merge: bool) -> Result<(), ManifestError> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let (value, places) = node;
        match self.frames.last_mut().map(|frame| &mut frame.value) {
            None => self.documents.push((value, places)),
            Some(Open::List(values, all)) => {
                values.push(value);
                all.push(places);
            }
            Some(Open::Object { entries, places: all, key, merged }) => match key.take() {
                None if is_merge => *key = Some((String::from("<<"), Position::default())),
                None => *key = Some((key_of(value, places.at)?, places.at)),
                Some((_, at)) if at == Position::default() => merged.push((value, places)),
                Some((name, at)) => {
                    if let Some((first, _)) = all.get(&name) {
                        return Err(duplicate(&name, *first, at));
                    }
                    entries.insert(name.clone(), value);
                    all.insert(name, (at, places));
                }
            },
        }
        Ok(())
    }
}

/// Returns how long a scalar is, if it is on one line.
fn length(span: &Span) -> usize {
    if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()).max(1) } else { 1 }
}

fn error(at: Position, message: &str) -> ManifestError {
    ManifestError { at, message: message.to_owned() }
}

/// Two keys with one name: one of the values would be lost.
pub(super) fn duplicate(name: &str, first: Position, at: Position) -> ManifestError {
    ManifestError { at, message: format!("the key {name:?} is in line {} already; keep one of the two", first.line) }
}

fn close(value: Open, at: Position) -> Result<Node, ManifestError> {
    match value {
        Open::List(values, places) => Ok((Value::Array(values), Places { at, children: Children::Entries(places) })),
        Open::Object { mut entries, mut places, merged, .. } => {
            for node in merged {
                merge(node, &mut entries, &mut places)?;
            }
            Ok((Value::Object(entries), Places { at, children: Children::Fields(places) }))
        }
    }
}

/// Copies the keys of a merged object, or of each of a list of them, that the object does not have.
fn merge(
    (value, places): Node,
    entries: &mut Map<String, Value>,
    all: &mut BTreeMap<String, (Position, Places)>,
) -> Result<(), ManifestError> {
    match (value, places.children) {
        (Value::Object(merged), Children::Fields(mut places)) => {
            for (key, value) in merged {
                if let Some(place) = places.remove(&key).filter(|_| !entries.contains_key(&key)) {
                    entries.insert(key.clone(), value);
                    all.insert(key, place);
                }
            }
            Ok(())
        }
        (Value::Array(values), Children::Entries(places)) if values.iter().all(Value::is_object) => {
            values.into_iter().zip(places).try_for_each(|node| merge(node, entries, all))
        }
        _ => Err(error(places.at, "`<<` merges an object or a list of objects; write `<<: *name` of such an anchor")),
    }
}

fn key_of(value: Value, at: Position) -> Result<String, ManifestError> {
    match value {
        Value::String(key) => Ok(key),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null => Err(error(at, "the key is empty; write its name before the colon")),
        Value::Array(_) | Value::Object(_) => {
            Err(error(at, "the key is a list or an object; write a name, and put a text with braces in quotes"))
        }
    }
}

fn value_of(mut text: Cow<str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => scalar::resolve(&text),
            _ => Value::String(mem::take(&mut text).into_owned()),
        });
    };
    let name = format!("{}{}", tag.handle(), tag.suffix());
    match name.strip_prefix(CORE).unwrap_or(&name) {
        "str" | "!" | "binary" => Ok(Value::String(text.into_owned())),
        "bool" | "float" | "int" | "null" => Ok(scalar::resolve(&text)),
        other => Err(format!("Kubernetes does not know the YAML tag {other:?}; remove it")),
    }
}

/// Returns what the user can do about an error of the parser.
fn explain(error: &ScanError, chunk: &Chunk) -> ManifestError {
    let mark = error.marker();
    if matches!(error.kind(), ErrorKind::TabInPlainScalar)
        && let Some((line, column)) = next_tab(chunk, mark.line())
    {
        // The parser names the beginning of the text that the line with the tab would continue.
        return ManifestError { at: chunk.position(line, column, 1), message: TAB.to_owned() };
    }
    // The parser stops where the lines after the mark of a conflict do not fit.
    if let Some((number, _)) = (1..).zip(chunk.text.lines()).find(|(_, line)| line.starts_with("<<<<<<< ")) {
        return ManifestError { at: chunk.position(number, 0, 1), message: CONFLICT.to_owned() };
    }
    let message = fault_of_line(chunk.line(mark.line())).map_or_else(|| explain_kind(error.kind()), str::to_owned);
    ManifestError { at: chunk.position(mark.line(), mark.col(), 1), message }
}

/// Returns the first line after this one that is indented with a tab, and the column of the tab.
fn next_tab(chunk: &Chunk, line: usize) -> Option<(usize, usize)> {
    let lines = (1..).zip(chunk.text.lines()).skip(line);
    lines.map(|(number, text)| (number, text, text.find(|letter| letter != ' '))).find_map(|(number, text, start)| {
        let start = start?;
        (text.as_bytes().get(start) == Some(&b'\t')).then_some((number, start))
    })
}

const CONFLICT: &str = "a merge conflict is not resolved; choose one of the versions and remove the marks";

const TAB: &str = "the line is indented with a tab; YAML allows only spaces";

/// Returns the fault of a line that is not YAML at all.
fn fault_of_line(line: &str) -> Option<&'static str> {
    let indent = line.get(..line.len() - line.trim_start().len()).unwrap_or_default();
    if ["<<<<<<< ", "=======", ">>>>>>> "].iter().any(|mark| line.starts_with(mark)) {
        Some(CONFLICT)
    } else if line.contains("{{") {
        Some("this is a template and not a manifest; render it first, as with `helm template`")
    } else if indent.contains('\t') {
        Some(TAB)
    } else {
        None
    }
}

fn explain_kind(kind: &ErrorKind) -> String {
    let text = match kind {
        ErrorKind::UnknownAnchor => "the document has no anchor of this name before the alias; define it with `&name`",
        ErrorKind::UnclosedQuotedScalar => "the quoted text does not end; add the closing quote",
        ErrorKind::UnclosedFlowCollection { open: '{' } | ErrorKind::UnexpectedEofFlowMapping => {
            "the object does not end; add the closing `}`"
        }
        ErrorKind::UnclosedFlowCollection { .. } | ErrorKind::UnexpectedEofFlowSequence => {
            "the list does not end; add the closing `]`"
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            return format!("{close:?} closes what {open:?} opened; close it with the matching bracket");
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => {
            "a colon is not allowed here; indent the line as its neighbours, or put a text with a colon in quotes"
        }
        ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::BlockSequenceEntryNotAllowed
        | ErrorKind::MappingKeyNotAllowed
        | ErrorKind::ExpectedDocumentStart
        | ErrorKind::SimpleKeyExpected => {
            "the line does not fit the one before; write `key: value` or `- entry`, indented as its neighbours"
        }
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::InvalidBlockEntryWhitespace
        | ErrorKind::InvalidMappingValueWhitespace => "a tab is not allowed here; YAML allows only spaces",
        ErrorKind::UnexpectedCharacter { character: '\0' } => "there is a NUL byte; save the file as UTF-8 text",
        ErrorKind::UnexpectedCharacter { character } => {
            return format!("a text cannot begin with {character:?}; put it in quotes");
        }
        ErrorKind::BomInsideDocument => "a byte order mark is inside the document; remove it",
        ErrorKind::RecursionLimitExceeded => "the values are nested more than 255 levels deep; make them flatter",
        other => return format!("{other}; correct the line"),
    };
    text.to_owned()
}
