//! Objects in YAML or JSON text, with the place of each field.
//!
//! The one reader of manifests: the files of `--file`, of `--facts` and of `--settings` are read alike. It reads what
//! kubectl reads, with the same types of values, and refuses two equal keys, which kubectl refuses too.

mod json;
mod scalar;
mod tree;
mod yaml;

use serde_json::Value;

use self::tree::Content;
pub use self::tree::{Position, Tree, segments};

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The line where it begins, counted from 1.
    pub line: usize,
    /// The object.
    pub object: Value,
    /// The places of its fields.
    pub places: Tree<'static>,
}

impl From<Tree<'_>> for Manifest {
    fn from(tree: Tree<'_>) -> Self {
        Self { line: tree.at.line, object: tree.to_value(), places: tree.into_owned() }
    }
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

    /// Returns `metadata.namespace`; empty if it is missing.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata("namespace")
    }

    /// Returns `metadata.name`, or `metadata.generateName`; empty if both are missing.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.metadata("name") {
            "" => self.metadata("generateName"),
            name => name,
        }
    }

    fn text(&self, key: &str) -> &str {
        self.object.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn metadata(&self, key: &str) -> &str {
        self.object.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The text is neither YAML nor JSON.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {} column {}: {message}", at.line, at.column)]
pub struct ManifestError {
    /// The place of the error.
    pub at: Position,
    /// What is wrong, and what to do.
    pub message: String,
}

/// A comment of a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Comment {
    /// Its line, counted from 1.
    pub line: usize,
    /// Whether the line has nothing else.
    pub is_alone: bool,
    /// The text after `#`.
    pub text: String,
}

/// Reads all objects of a text: YAML documents, JSON objects one after another, or a `List` of either.
///
/// # Errors
/// The first document that cannot be read, with its line.
pub fn read(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for document in documents(text) {
        manifests.extend(document.read()?);
    }
    Ok(manifests)
}

/// Splits a text into its documents, which can be read one by one.
pub fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    split(text).map(|chunk| Document { chunk })
}

/// Where a document is in a text.
#[derive(Clone, Copy, Debug)]
pub struct DocumentPlace {
    /// The first byte.
    start: usize,
    length: usize,
    line: usize,
    column: usize,
}

/// A part of a text between two `---` lines.
#[derive(Clone, Copy, Debug)]
pub struct Document<'t> {
    chunk: Chunk<'t>,
}

impl<'t> Document<'t> {
    /// Returns the document of a place in a text.
    #[must_use]
    pub fn at(text: &'t str, place: DocumentPlace) -> Self {
        let DocumentPlace { start, length, line, column } = place;
        Self { chunk: Chunk { text: text.get(start..start + length).unwrap_or_default(), start, line, column } }
    }

    /// Returns the place, to read the document again.
    #[must_use]
    pub fn place(&self) -> DocumentPlace {
        let Chunk { text, start, line, column } = self.chunk;
        DocumentPlace { start, length: text.len(), line, column }
    }

    /// Returns the text.
    #[must_use]
    pub fn text(&self) -> &'t str {
        self.chunk.text
    }

    /// Returns the text with blank lines and columns before it, so that its places are those of the file.
    #[must_use]
    pub fn text_in_place(&self) -> String {
        let Chunk { text, line, column, .. } = self.chunk;
        format!("{}{}{text}", "\n".repeat(line - 1), " ".repeat(column))
    }

    /// Reads the objects.
    ///
    /// # Errors
    /// The text is neither YAML nor JSON.
    pub fn read(&self) -> Result<Vec<Manifest>, ManifestError> {
        Ok(self.trees()?.into_iter().map(Manifest::from).collect())
    }

    /// Reads the objects without copies of their texts: usually one, more of a `List` or of JSON objects that follow
    /// one another.
    ///
    /// # Errors
    /// The text is neither YAML nor JSON.
    pub fn trees(&self) -> Result<Vec<Tree<'t>>, ManifestError> {
        let mut trees = Vec::new();
        for tree in self.documents()? {
            expand(tree, &mut trees);
        }
        Ok(trees)
    }

    /// Returns the comments.
    #[must_use]
    pub fn comments(&self) -> Vec<Comment> {
        let comments = yaml::comments(&self.chunk).into_iter();
        comments.map(|(line, is_alone, text)| Comment { line, is_alone, text }).collect()
    }

    fn documents(&self) -> Result<Vec<Tree<'t>>, ManifestError> {
        let text = self.chunk.text.trim_start();
        let Some(inside) = text.strip_prefix('{') else { return yaml::read(&self.chunk) };
        // An object in braces can be YAML too, where keys have no quotes and comments are allowed.
        json::read(&self.chunk).or_else(|error| {
            let is_json = inside.trim_start().starts_with(['"', '}']);
            yaml::read(&self.chunk).map_err(|other| if is_json { error } else { other })
        })
    }
}

/// The text of a document, and where it begins in its file.
#[derive(Clone, Copy, Debug)]
struct Chunk<'t> {
    text: &'t str,
    /// The first byte of it in its file.
    start: usize,
    line: usize,
    /// How many columns of the first line are before the text: those of `---`.
    column: usize,
}

impl<'t> Chunk<'t> {
    /// Returns the place in the file of a line, counted from 1, and a column, counted from 0, of this text.
    fn position(&self, line: usize, column: usize, length: usize) -> Position {
        let before = if line <= 1 { self.column } else { 0 };
        Position { line: self.line + line.saturating_sub(1), column: before + column + 1, length }
    }

    /// Returns a line of this text, counted from 1.
    fn line(&self, number: usize) -> &'t str {
        self.text.lines().nth(number.saturating_sub(1)).unwrap_or_default()
    }
}

/// Splits a text into documents with their first lines. A line that starts with `---` always ends a document (YAML 1.2,
/// section 9.1), and cannot be inside a JSON string, so each document is read by itself and has its own errors.
fn split(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let first = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = Some(first);
    let (mut start, mut line, mut column) = (text.len() - first.len(), 1, 0);
    let chunks = std::iter::from_fn(move || {
        let text = rest?;
        let chunk = Chunk { text: text.get(..marker_in(text)).unwrap_or_default(), start, line, column };
        line += chunk.text.bytes().filter(|&byte| byte == b'\n').count();
        column = "---".len();
        // Content may follow the marker on its line.
        rest = text.get(chunk.text.len() + column..);
        start += chunk.text.len() + column;
        Some(chunk)
    });
    chunks.filter(|chunk| chunk.text.lines().any(has_content)).map(without_blank_start)
}

/// Returns where the next `---` line is; the length of the text if there is none.
fn marker_in(text: &str) -> usize {
    let mut start = 0;
    while let Some(found) = text.get(start..).and_then(|rest| rest.find("---")) {
        let at = start + found;
        let is_first = at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n');
        let is_alone = text.as_bytes().get(at + 3).is_none_or(|next| b" \t\r\n".contains(next));
        if is_first && is_alone {
            return at;
        }
        start = at + 1;
    }
    text.len()
}

/// Returns the chunk without the rest of the marker's line, so that its first line is that of its first content.
fn without_blank_start(chunk: Chunk<'_>) -> Chunk<'_> {
    match chunk.text.split_once('\n') {
        Some((first, rest)) if !has_content(first) => {
            Chunk { text: rest, start: chunk.start + first.len() + 1, line: chunk.line + 1, column: 0 }
        }
        _ => chunk,
    }
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with(['#', '%']) && line != "..."
}

/// Adds the items of a `List`, or the object itself. An empty document adds nothing.
fn expand<'t>(tree: Tree<'t>, trees: &mut Vec<Tree<'t>>) {
    match tree.into_items() {
        Ok(items) => items.into_iter().for_each(|item| expand(item, trees)),
        Err(tree) if matches!(tree.content, Content::Null) => {}
        Err(tree) => trees.push(tree),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::json;

    use super::*;

    fn kinds(text: &str) -> Vec<(usize, String)> {
        read(text).unwrap().iter().map(|manifest| (manifest.line, manifest.kind().to_owned())).collect()
    }

    fn expected(pairs: &[(usize, &str)]) -> Vec<(usize, String)> {
        pairs.iter().map(|&(line, kind)| (line, kind.to_owned())).collect()
    }

    fn object(text: &str) -> Value {
        read(text).unwrap().remove(0).object
    }

    /// The line and column of a field of the first object.
    fn place(text: &str, path: &str) -> (usize, usize, usize) {
        let at = read(text).unwrap().first().unwrap().places.find(path);
        (at.line, at.column, at.length)
    }

    /// The line, the column and the message of an error.
    fn fault(text: &str) -> (usize, usize, String) {
        let ManifestError { at, message } = read(text).unwrap_err();
        (at.line, at.column, message)
    }

    #[test]
    fn yaml_documents_know_their_lines() {
        let text = "# a comment\nkind: A\n---\n---\nkind: B\n--- # another\nkind: C\n...\n---\n# nothing\n";
        assert_eq!(kinds(text), expected(&[(2, "A"), (5, "B"), (7, "C")]));
        assert_eq!(
            kinds("%YAML 1.2\n---\nkind: A\n...\n--- {kind: B}\n--- \nkind: C"),
            expected(&[(3, "A"), (5, "B"), (7, "C")])
        );
        assert_eq!(kinds("kind: A\n...\nkind: B\n"), expected(&[(1, "A"), (3, "B")]));
        assert_eq!(kinds(""), []);
        assert_eq!(kinds("---\n"), []);
    }

    #[test]
    fn json_objects_may_follow_one_another() {
        let text = "\n{\"kind\": \"A\"}\n\n{\"kind\":\n\"B\"} {\"kind\": \"C\"}";
        assert_eq!(kinds(text), expected(&[(2, "A"), (4, "B"), (5, "C")]));
    }

    #[test]
    fn json_and_yaml_may_be_in_one_file() {
        let text = "{\"kind\": \"A\"}\n---\n{\"kind\": \"B\"}\n---\nkind: C\n---\n{kind: D, spec: {a: 1}} # YAML\n";
        assert_eq!(kinds(text), expected(&[(1, "A"), (3, "B"), (5, "C"), (7, "D")]));
    }

    #[test]
    fn the_columns_of_a_long_line_count_letters() {
        let text =
            "{'kind': 'VirtualMachine', 'é': '日本', 'a': {'b': ['ü', 1]}, 'c':\n 'é', 'd': null}".replace('\'', "\"");
        for (path, expected) in [("a", (1, 39, 3)), ("a.b[0]", (1, 51, 3)), ("a.b[1]", (1, 56, 1)), ("d", (2, 12, 4))] {
            assert_eq!(place(&text, path), expected, "{path}");
        }
    }

    #[test]
    fn a_list_is_replaced_by_its_items() {
        let text = "kind: List\nitems:\n- kind: A\n- kind: BList\n  items: [{kind: B}]\n";
        assert_eq!(kinds(text), expected(&[(3, "A"), (5, "B")]));
        assert_eq!(kinds("kind: VirtualMachineList\nitems: []\n"), expected(&[]));
    }

    #[test]
    fn a_field_is_at_its_value_and_a_missing_one_at_its_parent() {
        let yaml = "# first\nspec:\n  nics:\n  - name: \"a\"\n    binding: {name: x}\n  - name: bé  # c\nmetadata:\n  annotations:\n    a.b/c: d\n";
        let json = "{\"spec\": {\n  \"nics\": [{\"name\": \"a\"},\n {\"name\": 5}]}}";
        for (text, path, expected) in [
            (yaml, "", (2, 1, 1)),
            (yaml, "spec.nics[0].name", (4, 11, 3)),
            (yaml, "spec.nics[1].name", (6, 11, 2)),
            (yaml, "spec.nics[0].binding", (5, 5, 7)),
            (yaml, "spec.nics[0].binding.name", (5, 21, 1)),
            (yaml, "spec.nics[1]", (6, 5, 1)),
            (yaml, "spec.nics[1].model", (6, 5, 1)),
            (yaml, "spec.nics[7]", (3, 3, 4)),
            (yaml, "spec.networks[0].name", (2, 1, 4)),
            (yaml, "metadata.annotations[a.b/c]", (9, 12, 1)),
            (json, "", (1, 1, 1)),
            (json, "spec.nics[1].name", (3, 11, 1)),
            (json, "spec.nics[0].name", (2, 21, 3)),
            (json, "spec.nics", (2, 3, 6)),
        ] {
            let (line, column, length) = place(text, path);
            let length = if expected.2 == 1 { 1 } else { length };
            assert_eq!((line, column, length), expected, "{path} of {text}");
        }
    }

    #[test]
    fn anchors_aliases_and_merge_keys_are_resolved() {
        let text = "base: &base {model: virtio, mac: x}\nother: &other {state: up}\nnics:\n- <<: *base\n  mac: z\n- <<: [*base, *other]\n- *base\n- \"<<\": 1\n";
        let nics = object(text)["nics"].take();
        let expected = json!([
            {"model": "virtio", "mac": "z"},
            {"model": "virtio", "mac": "x", "state": "up"},
            {"model": "virtio", "mac": "x"},
            {"<<": 1},
        ]);
        assert_eq!(nics, expected);
        assert_eq!(place(text, "nics[0].model"), (1, 21, 6));
        assert_eq!(place(text, "nics[0].mac"), (5, 8, 1));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            writeln!(text, "a{level}: &a{level} [{list}]").unwrap();
        }
        assert!(fault(&text).2.starts_with("the aliases repeat more than"));
        assert!(fault("a: &a [*a]").2.starts_with("the alias is inside the value"));
    }

    #[test]
    fn scalars_have_the_types_that_kubectl_sends() {
        let text = "a: on\nb: 'on'\nc: 1.10\nd: !!str 5\ne: |\n  x\nf:\n7: 0x10\n";
        let expected = json!({"a": true, "b": "on", "c": 1.1, "d": "5", "e": "x\n", "f": null, "7": 16});
        assert_eq!(object(text), expected);
    }

    #[test]
    fn windows_text_is_read_like_other_text() {
        assert_eq!(object("\u{feff}kind: A\r\nspec:\r\n  a: b\r\n"), json!({"kind": "A", "spec": {"a": "b"}}));
        assert_eq!(kinds("kind: A\r\n---\r\nkind: B\r\n"), expected(&[(1, "A"), (3, "B")]));
        assert_eq!(place("\u{feff}kind: A\r\nspec:\r\n  a: b\r\n", "spec.a"), (3, 6, 1));
        assert_eq!(kinds("\u{feff}{\"kind\": \"A\"}\r\n"), expected(&[(1, "A")]));
    }

    #[test]
    fn an_error_names_its_place_and_what_to_do() {
        for (text, line, column, parts) in [
            ("kind: A\n---\nkind: B\nspec: {a: [}\n", 4, 0, "closes what"),
            ("{\"kind\": \"A\"}\n{\"kind\": }", 2, 10, "a value was expected"),
            ("{\"kind\": \"A\",, \"b\": 1}", 1, 14, "remove a comma"),
            ("{\"kind\": \"A\"", 1, 13, "a comma or `}`"),
            ("{\"kind\": \"A\nb}", 1, 10, "closing quote"),
            ("{\"kind\": \"A\"} x", 1, 15, "begin it with `{`"),
            ("a: 1\nb: 2\na: 3\n", 3, 1, "the key \"a\" is in line 1 already"),
            ("{\"a\": 1,\n \"a\": 2}", 2, 2, "the key \"a\" is in line 1 already"),
            ("a: 1\n---\nb: {c: 1, c: 2}\n", 3, 11, "the key \"c\" is in line 3 already"),
            ("spec:\n\tname: a\n", 2, 0, "indented with a tab"),
            ("spec:\n  a: b\n\tc: d\n", 3, 1, "indented with a tab"),
            ("spec:\n  name: {{ .Values.name }}\n", 2, 0, "helm template"),
            ("spec:\n<<<<<<< HEAD\n  a: 1\n", 2, 1, "merge conflict"),
            ("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> x\n", 1, 1, "merge conflict"),
            ("a: *b\n", 1, 0, "no anchor of this name"),
            ("a: \"b\n", 0, 0, "closing quote"),
            ("a: b: c\n", 1, 0, "in quotes"),
            ("a: [b\n", 0, 0, "closing `]`"),
            ("a: 1\n  b: 2\n", 2, 0, "indent"),
            ("a: @b\n", 1, 4, "in quotes"),
            ("a: !Ref b\n", 1, 0, "YAML tag"),
            ("? [a]\n: b\n", 1, 0, "the key is a list"),
            ("<<: 5\n", 1, 0, "merges an object"),
            ("a: \0b\n", 1, 0, ""),
        ] {
            let (found_line, found_column, message) = fault(text);
            assert!(message.contains(parts), "{text:?}: {message}");
            assert!(line == 0 || found_line == line, "{text:?}: line {found_line}");
            assert!(column == 0 || found_column == column, "{text:?}: column {found_column}");
        }
        let deep = "[".repeat(100_000);
        assert!(fault(&format!("a: {deep}")).2.contains("nested"));
        assert!(fault(&format!("{{\"a\": {deep}")).2.contains("nested"));
    }

    #[test]
    fn a_marker_inside_a_block_scalar_is_text() {
        let text = "kind: A\nspec: |\n  first\n  --- \n  last\n";
        assert_eq!(kinds(text).len(), 1);
    }

    #[test]
    fn comments_are_found_outside_of_texts() {
        let text = "a: 'x' # one\n---\n  # two\nb: |\n  # text\n";
        let comments: Vec<_> = documents(text).flat_map(|document| document.comments()).collect();
        let comment = |line, is_alone, text: &str| Comment { line, is_alone, text: text.to_owned() };
        assert_eq!(comments, [comment(1, false, " one"), comment(3, true, " two")]);
    }
}
