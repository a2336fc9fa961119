//! Words that no user-facing text may have.

/// Words that readers of plain technical English should not meet.
const BANNED: [&str; 7] = ["whoever", "nobody", "somebody", "mend", "mended", "mends", "shall"];
/// How many words before and after a banned one are shown.
const CONTEXT: usize = 4;

/// Returns each banned word of a text with the words around it. Case and line breaks do not matter.
///
/// The phrase "is no" is banned as well, in favour of "is not a". "there is no" and "is no longer" are allowed.
pub(crate) fn banned_words(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_banned = |(index, word): (usize, &&str)| {
        let is_phrase = |phrase: [&str; 2]| {
            // Punctuation between the two words ends a phrase.
            let next = words.get(index + 1).map(|next| next.to_lowercase());
            word.to_lowercase().trim_start_matches(is_punctuation) == phrase[0]
                && next.is_some_and(|next| next.trim_end_matches(is_punctuation) == phrase[1])
        };
        let has_banned_part = word.to_lowercase().split(is_punctuation).any(|part| {
            let part = part.strip_suffix("'s").unwrap_or(part);
            BANNED.contains(&part)
        });
        let is_there = index > 0 && words[index - 1].to_lowercase().ends_with("there");
        let is_no_longer = words.get(index + 2).is_some_and(|word| word.to_lowercase().starts_with("longer"));
        has_banned_part || (is_phrase(["is", "no"]) && !is_there && !is_no_longer)
    };
    let found = words.iter().enumerate().filter(|word| is_banned(*word));
    found
        .map(|(index, _)| words[index.saturating_sub(CONTEXT)..words.len().min(index + CONTEXT + 1)].join(" "))
        .collect()
}

fn is_punctuation(letter: char) -> bool {
    !letter.is_alphanumeric() && !['_', '-', '\''].contains(&letter)
}
