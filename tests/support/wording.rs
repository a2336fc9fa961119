//! Words that no user-facing text may have.

/// Words that make a sentence hard to understand for readers of plain English.
const BANNED: [&str; 7] = ["whoever", "nobody", "somebody", "mend", "mended", "mends", "shall"];
/// A phrase, in the place of "is not a".
const BANNED_PHRASE: [&str; 2] = ["is", "no"];

/// Returns the banned words and phrases in a text. Case and line breaks do not matter.
pub(crate) fn banned_words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let is_inner = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-' || letter == '\'';
    let mut found = Vec::new();
    let mut before = "";
    for word in text.split_whitespace() {
        let parts = word.split(|letter| !is_inner(letter)).map(|part| part.trim_end_matches("'s"));
        found.extend(parts.clone().filter(|part| BANNED.contains(part)).map(str::to_owned));
        // Punctuation between the two words ends a phrase.
        if [before, word.trim_end_matches(|letter| !is_inner(letter))] == BANNED_PHRASE {
            found.push("is no".to_owned());
        }
        before = word.trim_start_matches(|letter| !is_inner(letter));
    }
    found
}
