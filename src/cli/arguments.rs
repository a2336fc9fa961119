//! The words of the command line: flags that stand before the command, and the name by which the program was called.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
};

use clap::{Arg, Command};

/// Whether kubectl runs the program as a plugin, which it does by the name `kubectl-nicplug`.
pub(super) fn is_plugin() -> bool {
    env::args_os().next().as_deref().is_some_and(|program| has_name(program, "kubectl-nicplug"))
}

/// Returns the program as the user called it, for a command that is printed.
pub(super) fn program() -> &'static str {
    if is_plugin() { "kubectl nicplug" } else { "nicplug" }
}

/// Returns a word as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@=,".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Whether a path ends with this name, and perhaps an extension.
pub(super) fn has_name(program: &OsStr, name: &str) -> bool {
    Path::new(program).file_stem().is_some_and(|stem| stem == name)
}

/// Moves flags that stand before the command behind it, as kubectl accepts both: `nicplug -n demo status` becomes
/// `nicplug status -n demo`.
///
/// # Errors
/// The command has no such flag. The message names both.
pub(super) fn flags_after_command(words: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, String> {
    let Some((chosen, position)) = find_command(&words, command) else { return Ok(words) };
    // clap suggests a command for an unknown first word.
    let Some(chosen) = chosen else {
        return Ok([words.get(..1), words.get(position..)].into_iter().flatten().flatten().cloned().collect());
    };
    let Some(before) = words.get(1..position).filter(|before| !before.is_empty()) else { return Ok(words) };
    if let Some(flag) = before.iter().filter_map(|word| flag_of(word)).find(|flag| find_flag(chosen, flag).is_none()) {
        // A flag of the program itself, such as --help.
        if find_flag(command, &flag).is_some() || is_built_in(&flag) {
            return Ok(words);
        }
        return Err(format!("the command {} has no flag {flag}", chosen.get_name()));
    }
    let (head, rest) = words.split_at(position);
    let (program, before) = head.split_at(1);
    let (name, after) = rest.split_at(1);
    Ok([program, name, before, after].concat())
}

/// Returns the command that the words name, if it exists, and its position; `None` if no word is a command.
fn find_command<'c>(words: &[OsString], command: &'c Command) -> Option<(Option<&'c Command>, usize)> {
    let mut position = 1;
    while let Some(word) = words.get(position) {
        let Some(flag) = flag_of(word) else {
            let name = word.to_str()?;
            return Some((command.get_subcommands().find(|sub| sub.get_name() == name), position));
        };
        // The same flag takes a value in each command that has it.
        let all = command.get_subcommands().find_map(|sub| find_flag(sub, &flag));
        let takes_next = all.is_some_and(|argument| takes_next_word(argument, word, &flag));
        position += if takes_next { 2 } else { 1 };
    }
    None
}

/// Returns a flag without its value; `None` for another word.
fn flag_of(word: &OsStr) -> Option<String> {
    let word = word.to_str()?;
    if word.starts_with("--") {
        return Some(word.split('=').next().unwrap_or(word).to_owned()).filter(|flag| flag != "--");
    }
    let letter = word.strip_prefix('-')?.chars().next()?;
    Some(format!("-{letter}"))
}

fn is_built_in(flag: &str) -> bool {
    ["-h", "--help", "-V", "--version"].contains(&flag)
}

fn find_flag<'c>(command: &'c Command, flag: &str) -> Option<&'c Arg> {
    let has_long = |argument: &Arg, name: &str| {
        argument.get_long() == Some(name) || argument.get_all_aliases().unwrap_or_default().contains(&name)
    };
    command.get_arguments().find(|argument| match flag.strip_prefix("--") {
        Some(name) => has_long(argument, name),
        None => argument.get_short() == flag.chars().nth(1),
    })
}

/// Whether the value of a flag is the next word, and not in the same one.
fn takes_next_word(argument: &Arg, word: &OsStr, flag: &str) -> bool {
    argument.get_action().takes_values() && !argument.is_require_equals_set() && word.len() == flag.len()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Args;

    fn moved(line: &str) -> Result<String, String> {
        let words = line.split(' ').map(OsString::from).collect();
        let words = flags_after_command(words, &Args::command())?;
        Ok(words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn flags_before_the_command_are_moved_behind_it() {
        for (line, expected) in [
            ("nicplug status -n demo", "nicplug status -n demo"),
            ("nicplug -n demo status web", "nicplug status -n demo web"),
            ("nicplug -ndemo status", "nicplug status -ndemo"),
            ("nicplug --namespace=demo --as jane why web", "nicplug why --namespace=demo --as jane web"),
            ("nicplug -n status status", "nicplug status -n status"),
            ("nicplug -A -l app=web audit", "nicplug audit -A -l app=web"),
            ("nicplug --wait removeinterface web --name a", "nicplug removeinterface --wait web --name a"),
            ("nicplug --nad net addinterface web --name a", "nicplug addinterface --nad net web --name a"),
            ("nicplug --help", "nicplug --help"),
            ("nicplug --version", "nicplug --version"),
            ("nicplug -n demo", "nicplug -n demo"),
            ("nicplug -n demo stauts web", "nicplug stauts web"),
        ] {
            assert_eq!(moved(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_flag_that_the_command_lacks_is_an_error_that_names_both() {
        for (line, expected) in [
            ("nicplug -n demo rules", "the command rules has no flag -n"),
            ("nicplug --as jane version", "the command version has no flag --as"),
            ("nicplug -A plan web", "the command plan has no flag -A"),
        ] {
            assert_eq!(moved(line), Err(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn the_commands_that_connect_to_a_cluster_have_the_same_flags() {
        let command = Args::command();
        let connecting =
            ["addinterface", "audit", "check", "explain", "plan", "probe", "removeinterface", "slots", "status", "why"];
        for sub in command.get_subcommands() {
            let is_expected = connecting.contains(&sub.get_name());
            for flag in ["--as", "--as-group"] {
                assert_eq!(find_flag(sub, flag).is_some(), is_expected, "{} {flag}", sub.get_name());
            }
            for flag in ["-n", "--context", "--kubeconfig", "--request-timeout"].iter().filter(|_| is_expected) {
                assert!(find_flag(sub, flag).is_some(), "{} {flag}", sub.get_name());
            }
        }
    }

    #[test]
    fn a_word_is_quoted_if_a_shell_would_change_it() {
        for (word, expected) in [("infra/net", "infra/net"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''")] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn the_name_of_the_program_shows_that_kubectl_runs_it() {
        for (program, is_expected) in
            [("kubectl-nicplug", true), ("/usr/local/bin/kubectl-nicplug", true), ("nicplug", false), ("", false)]
        {
            assert_eq!(has_name(OsStr::new(program), "kubectl-nicplug"), is_expected, "{program:?}");
        }
    }
}
