//! JSON objects, one after another, with the place of each field.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    Chunk, ManifestError,
    tree::{Content, Fields, Position, Tree},
};

/// The deepest nesting: far more than an object of Kubernetes has, and little enough for the stack.
const MAX_DEPTH: usize = 128;

/// Reads the objects of a chunk.
pub(super) fn read<'t>(chunk: &Chunk<'t>) -> Result<Vec<Tree<'t>>, ManifestError> {
    let mut reader = Reader { chunk, rest: chunk.text, line: 1, column: 0, counted: chunk.text, depth: 0 };
    let mut documents = Vec::new();
    loop {
        reader.skip_space();
        if reader.rest.is_empty() {
            return Ok(documents);
        }
        if !reader.rest.starts_with('{') {
            return Err(reader.error("a JSON object was expected; begin it with `{`"));
        }
        documents.push(reader.value()?);
    }
}

struct Reader<'c, 't> {
    chunk: &'c Chunk<'t>,
    rest: &'t str,
    line: usize,
    /// The letters of the line before `counted`.
    column: usize,
    /// The text after these letters. Counting all letters of the line for each value would take long in a long line.
    counted: &'t str,
    depth: usize,
}

impl<'t> Reader<'_, 't> {
    fn value(&mut self) -> Result<Tree<'t>, ManifestError> {
        self.skip_space();
        match self.rest.chars().next() {
            Some('{') => self.nested(Self::object),
            Some('[') => self.nested(Self::list),
            Some('"') => {
                let (text, at) = self.string()?;
                Ok(Tree { at, content: Content::Text(text) })
            }
            Some(_) => self.word(),
            None => Err(self.error("the text ends inside an object; add the missing `}`")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Content<'t>, ManifestError>) -> Result<Tree<'t>, ManifestError> {
        let at = self.here(1);
        if self.depth == MAX_DEPTH {
            return Err(self.error("the values are nested more than 128 levels deep; make them flatter"));
        }
        self.depth += 1;
        self.advance(1);
        let content = read(self)?;
        self.depth -= 1;
        Ok(Tree { at, content })
    }

    fn object(&mut self) -> Result<Content<'t>, ManifestError> {
        let mut fields = Fields::default();
        self.skip_space();
        if self.take('}') {
            return Ok(fields.into());
        }
        loop {
            self.skip_space();
            if !self.rest.starts_with('"') {
                return Err(self.error("a key in double quotes was expected; remove a comma before `}`"));
            }
            let (key, at) = self.string()?;
            fields.check(&key, at)?;
            self.skip_space();
            if !self.take(':') {
                return Err(self.error("a colon was expected after the key"));
            }
            let value = self.value()?;
            fields.push(key, at, value);
            self.skip_space();
            if self.take('}') {
                return Ok(fields.into());
            }
            if !self.take(',') {
                return Err(self.error("a comma or `}` was expected after the value"));
            }
        }
    }

    fn list(&mut self) -> Result<Content<'t>, ManifestError> {
        let mut entries = Vec::new();
        self.skip_space();
        if self.take(']') {
            return Ok(Content::List(entries));
        }
        loop {
            entries.push(self.value()?);
            self.skip_space();
            if self.take(']') {
                return Ok(Content::List(entries));
            }
            if !self.take(',') {
                return Err(self.error("a comma or `]` was expected after the value"));
            }
        }
    }

    /// Reads a string; serde_json reads its escapes.
    fn string(&mut self) -> Result<(Cow<'t, str>, Position), ManifestError> {
        let mut is_escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        });
        let text = end.and_then(|end| self.rest.get(..end + 2));
        let Some(text) = text.filter(|text| !text.contains('\n')) else {
            return Err(self.error("the text in quotes does not end in this line; add the closing quote"));
        };
        let at = self.here(text.chars().count());
        let value = if text.contains('\\') {
            serde_json::from_str(text).map(Cow::Owned)
        } else {
            serde_json::from_str(text).map(Cow::Borrowed)
        };
        let value = value.map_err(|_| {
            self.error("the text in quotes has a wrong escape or a control character; write it as \\n or \\u0000")
        })?;
        self.advance(text.len());
        Ok((value, at))
    }

    /// Reads a number, `true`, `false` or `null`.
    fn word(&mut self) -> Result<Tree<'t>, ManifestError> {
        let end =
            self.rest.find(|letter: char| letter.is_whitespace() || matches!(letter, ',' | '}' | ']' | ':' | '"'));
        let word = self.rest.get(..end.unwrap_or(self.rest.len())).unwrap_or_default();
        let at = self.here(word.chars().count().max(1));
        let value = serde_json::from_str(word).map_err(|_| {
            self.error("a value was expected; put a text in double quotes, and remove a comma too many")
        })?;
        self.advance(word.len());
        let content = match value {
            Value::Bool(value) => Content::Bool(value),
            Value::Number(number) => Content::Number(number),
            // A word has no quotes and no brackets.
            _ => Content::Null,
        };
        Ok(Tree { at, content })
    }

    fn take(&mut self, expected: char) -> bool {
        let is_next = self.rest.starts_with(expected);
        if is_next {
            self.advance(1);
        }
        is_next
    }

    fn skip_space(&mut self) {
        loop {
            let line_end = self.rest.find(|letter: char| !matches!(letter, ' ' | '\t' | '\r'));
            self.rest = self.rest.get(line_end.unwrap_or(self.rest.len())..).unwrap_or_default();
            let Some(after) = self.rest.strip_prefix('\n') else { return };
            (self.rest, self.counted) = (after, after);
            (self.line, self.column) = (self.line + 1, 0);
        }
    }

    /// Advances by bytes of the same line.
    fn advance(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn here(&mut self, length: usize) -> Position {
        let before = self.counted.get(..self.counted.len() - self.rest.len()).unwrap_or_default();
        self.column += before.chars().count();
        self.counted = self.rest;
        self.chunk.position(self.line, self.column, length)
    }

    fn error(&mut self, message: &str) -> ManifestError {
        ManifestError { at: self.here(1), message: message.to_owned() }
    }
}
