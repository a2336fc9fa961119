//! Objects in YAML or JSON text, each with its line.

use serde_json::Value;

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The line where it begins, counted from 1.
    pub line: usize,
    /// The object.
    pub object: Value,
}

impl Manifest {
    /// Returns `apiVersion`; empty if it is missing.
    #[must_use]
    pub fn api_version(&self) -> &str {
        self.text("apiVersion")
    }

    /// Returns `kind`; empty if it is missing.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("kind")
    }

    fn text(&self, key: &str) -> &str {
        self.object.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The text is neither YAML nor JSON.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ManifestError {
    /// The line, counted from 1.
    pub line: usize,
    /// The parser's message.
    pub message: String,
}

/// Reads all objects of a text: YAML documents, JSON objects one after another, or a `List` of either.
///
/// # Errors
/// The first document that cannot be read, with its line.
pub fn read(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let documents = if text.trim_start().starts_with('{') { read_json(text)? } else { read_yaml(text)? };
    Ok(documents.into_iter().flat_map(expand).collect())
}

fn read_json(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    loop {
        let start = stream.byte_offset();
        let line = line_of(text, start + leading_space(text.get(start..).unwrap_or_default()));
        match stream.next() {
            None => return Ok(documents),
            Some(Ok(object)) => documents.push(Manifest { line, object }),
            Some(Err(error)) => return Err(ManifestError { line: error.line().max(1), message: error.to_string() }),
        }
    }
}

/// Returns the length of the leading white space.
fn leading_space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

fn read_yaml(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let mut options = serde_saphyr::Options::default();
    // The user chose the file, and a dump of a large cluster may be large.
    options.budget = None;
    let mut documents = Vec::new();
    for (line, document) in split(text) {
        let object: Value = serde_saphyr::from_str_with_options(document, options.clone()).map_err(|error| {
            let within =
                error.location().map_or(0, |place| usize::try_from(place.line()).unwrap_or(1).saturating_sub(1));
            ManifestError { line: line + within, message: error.without_snippet().to_string() }
        })?;
        if !object.is_null() {
            documents.push(Manifest { line, object });
        }
    }
    Ok(documents)
}

/// Splits a YAML stream into documents with their first lines. A line that starts with `---` always ends a document
/// (YAML 1.2, section 9.1), so each is read by itself and has its own errors.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        offset += line.len();
        if is_marker {
            let before = offset - line.len();
            documents.push((start_line, text.get(start..before).unwrap_or_default()));
            // Content may follow the marker on its line.
            let rest = line.get(3..).unwrap_or_default();
            let has_content = !rest.trim().is_empty() && !rest.trim_start().starts_with('#');
            (start, start_line) = if has_content { (before + 3, number + 1) } else { (offset, number + 2) };
        }
    }
    documents.push((start_line, text.get(start..).unwrap_or_default()));
    documents.retain(|(_, document)| document.lines().any(has_content));
    documents
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && line != "..."
}

/// Returns the items of a `List`, or the object itself.
fn expand(manifest: Manifest) -> Vec<Manifest> {
    let Manifest { line, object } = manifest;
    match object {
        Value::Object(mut list) if is_list(&list) => match list.remove("items") {
            Some(Value::Array(items)) => items.into_iter().map(|object| Manifest { line, object }).collect(),
            _ => Vec::new(),
        },
        object => vec![Manifest { line, object }],
    }
}

fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    kind.ends_with("List") && object.get("items").is_some_and(Value::is_array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(usize, String)> {
        read(text).unwrap().iter().map(|manifest| (manifest.line, manifest.kind().to_owned())).collect()
    }

    fn expected(pairs: &[(usize, &str)]) -> Vec<(usize, String)> {
        pairs.iter().map(|&(line, kind)| (line, kind.to_owned())).collect()
    }

    #[test]
    fn yaml_documents_know_their_lines() {
        let text = "# a comment\nkind: A\n---\n---\nkind: B\n--- # another\nkind: C\n...\n---\n# nothing\n";
        assert_eq!(kinds(text), expected(&[(1, "A"), (5, "B"), (7, "C")]));
    }

    #[test]
    fn json_objects_may_follow_one_another() {
        let text = "\n{\"kind\": \"A\"}\n\n{\"kind\":\n\"B\"} {\"kind\": \"C\"}";
        assert_eq!(kinds(text), expected(&[(2, "A"), (4, "B"), (5, "C")]));
    }

    #[test]
    fn a_list_is_replaced_by_its_items() {
        let text = "kind: List\nitems:\n- kind: A\n- kind: B\n";
        assert_eq!(kinds(text), expected(&[(1, "A"), (1, "B")]));
        assert_eq!(kinds("kind: VirtualMachineList\nitems: []\n"), expected(&[]));
    }

    #[test]
    fn a_broken_document_is_reported_with_its_line() {
        assert_eq!(read("kind: A\n---\nkind: B\nspec: {a: [}\n").unwrap_err().line, 4);
        assert_eq!(read("{\"kind\": \"A\"}\n{\"kind\": }").unwrap_err().line, 2);
    }

    #[test]
    fn a_marker_inside_a_block_scalar_is_text() {
        let text = "kind: A\nspec: |\n  first\n  --- \n  last\n";
        assert_eq!(kinds(text).len(), 1);
    }
}
