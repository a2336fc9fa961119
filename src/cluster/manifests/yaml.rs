//! A YAML document as an object with the place of each field.

use std::{borrow::Cow, collections::HashMap, mem};

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{
    Chunk, ManifestError, scalar,
    tree::{Content, Entry, Fields, Position, Tree},
};

/// How many values the aliases of a document may repeat. A document written by hand repeats a few hundred.
const MAX_REPEATED: usize = 100_000;

/// The prefix of the tags that YAML defines.
const CORE: &str = "tag:yaml.org,2002:";

/// Reads the documents of a chunk: usually one, and more if a `...` line separates them.
pub(super) fn read<'t>(chunk: &Chunk<'t>) -> Result<Vec<Tree<'t>>, ManifestError> {
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
struct Frame<'t> {
    value: Open<'t>,
    at: Position,
    anchor: usize,
    /// [`Builder::count`] at the start.
    count: usize,
}

enum Open<'t> {
    List(Vec<Tree<'t>>),
    Object(OpenObject<'t>),
}

#[derive(Default)]
struct OpenObject<'t> {
    fields: Fields<'t>,
    next: Next<'t>,
    /// The values of `<<`.
    merged: Vec<Tree<'t>>,
}

/// What the next value of an object is.
#[derive(Default)]
enum Next<'t> {
    #[default]
    Key,
    /// The value of a key.
    Value(Cow<'t, str>, Position),
    /// The value of `<<`.
    Merged,
}

impl<'t> OpenObject<'t> {
    fn close(mut self) -> Result<Content<'t>, ManifestError> {
        self.merged.into_iter().try_for_each(|tree| merge(tree, &mut self.fields))?;
        Ok(self.fields.into())
    }
}

/// Copies the keys of a merged object, or of each of a list of them, that the object does not have.
fn merge<'t>(tree: Tree<'t>, fields: &mut Fields<'t>) -> Result<(), ManifestError> {
    match tree.content {
        Content::Object(entries) => {
            for Entry { key, at, value } in entries {
                if fields.find(&key).is_none() {
                    fields.push(key, at, value);
                }
            }
            Ok(())
        }
        Content::List(trees) if trees.iter().all(|tree| matches!(tree.content, Content::Object(_))) => {
            trees.into_iter().try_for_each(|tree| merge(tree, fields))
        }
        _ => Err(error(tree.at, "`<<` merges an object or a list of objects; write `<<: *name` of such an anchor")),
    }
}

/// Makes trees out of events.
struct Builder<'c, 't> {
    chunk: &'c Chunk<'t>,
    frames: Vec<Frame<'t>>,
    /// The values with an anchor, and how many values are in each.
    anchors: HashMap<usize, (Tree<'t>, usize)>,
    /// How many values were read, with those that aliases repeat.
    count: usize,
    /// How many of them aliases repeat.
    repeated: usize,
    documents: Vec<Tree<'t>>,
}

impl<'c, 't> Builder<'c, 't> {
    fn new(chunk: &'c Chunk<'t>) -> Self {
        Self { chunk, frames: Vec::new(), anchors: HashMap::new(), count: 0, repeated: 0, documents: Vec::new() }
    }

    fn add(&mut self, event: Event<'t>, span: &Span) -> Result<(), ManifestError> {
        let at = self.chunk.position(span.start.line(), span.start.col(), length(span));
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_merge = style == ScalarStyle::Plain && text == "<<" && tag.is_none();
                let content =
                    content_of(text, style, tag.as_deref()).map_err(|message| ManifestError { at, message })?;
                self.count += 1;
                self.finish(Tree { at, content }, anchor, 1, is_merge)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(Open::List(Vec::new()), at, anchor);
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(Open::Object(OpenObject::default()), at, anchor);
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Frame { value, at, anchor, count }) = self.frames.pop() else { return Ok(()) };
                let content = match value {
                    Open::List(entries) => Content::List(entries),
                    Open::Object(object) => object.close()?,
                };
                self.finish(Tree { at, content }, anchor, self.count - count, false)
            }
            Event::Alias(anchor) => {
                let Some((tree, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(error(at, "the alias is inside the value that it repeats; write the value out"));
                };
                self.repeated += size;
                if self.repeated > MAX_REPEATED {
                    let message = format!("the aliases repeat more than {MAX_REPEATED} values; write them out");
                    return Err(ManifestError { at, message });
                }
                self.count += size;
                self.finish(tree, 0, size, false)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                self.repeated = 0;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, value: Open<'t>, at: Position, anchor: usize) {
        self.frames.push(Frame { value, at, anchor, count: self.count });
        self.count += 1;
    }

    /// Puts a complete value where it belongs.
    fn finish(&mut self, tree: Tree<'t>, anchor: usize, size: usize, is_merge: bool) -> Result<(), ManifestError> {
        if anchor != 0 {
            self.anchors.insert(anchor, (tree.clone(), size));
        }
        match self.frames.last_mut().map(|frame| &mut frame.value) {
            None => self.documents.push(tree),
            Some(Open::List(entries)) => entries.push(tree),
            Some(Open::Object(object)) => match mem::take(&mut object.next) {
                Next::Key if is_merge => object.next = Next::Merged,
                Next::Key => object.next = Next::Value(key_of(tree.content, tree.at)?, tree.at),
                Next::Value(key, at) => {
                    object.fields.check(&key, at)?;
                    object.fields.push(key, at, tree);
                }
                Next::Merged => object.merged.push(tree),
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

fn key_of(content: Content<'_>, at: Position) -> Result<Cow<'_, str>, ManifestError> {
    match content {
        Content::Text(key) => Ok(key),
        Content::Bool(value) => Ok(Cow::Owned(value.to_string())),
        Content::Number(number) => Ok(Cow::Owned(number.to_string())),
        Content::Null => Err(error(at, "the key is empty; write its name before the colon")),
        Content::List(_) | Content::Object(_) => {
            Err(error(at, "the key is a list or an object; write a name, and put a text with braces in quotes"))
        }
    }
}

fn content_of<'t>(text: Cow<'t, str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Content<'t>, String> {
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain { scalar::resolve(text) } else { Content::Text(text) });
    };
    let name = format!("{}{}", tag.handle(), tag.suffix());
    match name.strip_prefix(CORE).unwrap_or(&name) {
        "str" | "!" | "binary" => Ok(Content::Text(text)),
        "bool" | "float" | "int" | "null" => Ok(scalar::resolve(text)),
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
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => {
            return format!("there is the control character {character:?}; remove it, or write it as in \"\\x1b\"");
        }
        ErrorKind::UnexpectedCharacter { character } => {
            return format!("a text cannot begin with {character:?}; put it in quotes");
        }
        ErrorKind::BomInsideDocument => "a byte order mark is inside the document; remove it",
        ErrorKind::RecursionLimitExceeded => "the values are nested more than 255 levels deep; make them flatter",
        other => return format!("{other}; correct the line"),
    };
    text.to_owned()
}
