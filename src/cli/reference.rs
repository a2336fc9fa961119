//! What is generated from the command line: the completion of shells, the manual pages and docs/cli.md.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::{Arg, Args, Command};
use clap_complete::{Shell, generate};
use clap_mangen::{Man, generate_to};

/// Print a script for your shell that completes commands and flags.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  source <(nicplug completion bash)\n  nicplug completion zsh > ~/.zfunc/_nicplug\n  \
    nicplug completion fish > ~/.config/fish/completions/nicplug.fish\n\nFor kubectl nicplug, link the program as \
    kubectl_complete-nicplug into a folder of PATH."
)]
pub(super) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionArgs {
    /// Prints the script.
    pub(super) fn run(&self, mut command: Command, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "nicplug", &mut script);
        output.write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Print the manual page, or write all manual pages into a folder, or print the reference in Markdown.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Write the page of nicplug and one of each command into this folder.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,

    /// Print the page docs/cli.md instead.
    #[arg(long, conflicts_with = "directory")]
    markdown: bool,
}

impl ManArgs {
    /// Prints or writes the pages.
    pub(super) fn run(&self, command: &Command, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        if self.markdown {
            output.write_all(markdown(command).as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let Some(folder) = &self.directory else {
            output.write_all(&page(command.clone())?)?;
            return Ok(ExitCode::SUCCESS);
        };
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
        generate_to(command.clone(), folder).with_context(|| format!("{} cannot be written", folder.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}

/// Returns the commands without `help`.
fn commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
}

/// Returns docs/cli.md.
fn markdown(command: &Command) -> String {
    let mut text = String::from(
        "# Commands\n\nThis page is printed by `nicplug man --markdown`. Each command prints its help with `--help`, and \
         can be called as\n`kubectl nicplug` too, if the program is installed as `kubectl-nicplug`. Flags may stand \
         before the command\n\
         too, as in `nicplug -n demo status`.\n\n\
         | exit status | meaning |\n| --- | --- |\n\
         | 0 | The command did what was asked, and found nothing. |\n\
         | 1 | Something was found, or a change was denied, refused or has not arrived. |\n\
         | 2 | The command could not judge or failed, or was called with wrong arguments. |\n\nThe exit status \
         never depends on the output format.\n\n\
         | command | what it does |\n| --- | --- |\n",
    );
    for sub in commands(command) {
        let name = sub.get_name();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| [{name}](#{name}) | {} |", about(sub));
    }
    for sub in commands(command) {
        add_command(&mut text, sub);
    }
    text
}

fn add_command(text: &mut String, command: &Command) {
    let name = command.get_name();
    let mut shown = command.clone().bin_name(format!("nicplug {name}"));
    let usage = shown.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let long = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = write!(text, "\n## {name}\n\n{}\n\n```text\n{usage}\n```\n", wrapped(&long));
    let arguments: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set() && is_own(arg)).collect();
    if !arguments.is_empty() {
        text.push_str("\n| argument | meaning |\n| --- | --- |\n");
        for argument in arguments {
            let _ = writeln!(text, "| {} | {} |", notation(argument), meaning(argument));
        }
    }
}

fn is_own(argument: &Arg) -> bool {
    !["help", "version"].contains(&argument.get_id().as_str())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default().replace('|', "\\|")
}

/// Returns a flag with its value, as in `-f`, `--file FILE`.
fn notation(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default().join(" ");
    let takes_value = argument.get_action().takes_values();
    if argument.is_positional() {
        return format!("`{values}`");
    }
    let mut names: Vec<String> = argument.get_short().map(|short| format!("`-{short}`")).into_iter().collect();
    if let Some(long) = argument.get_long() {
        let separator = if argument.is_require_equals_set() { "=" } else { " " };
        let value = if takes_value { format!("{separator}{}", values.replace('|', "\\|")) } else { String::new() };
        names.push(format!("`--{long}{value}`"));
        names.extend(argument.get_visible_aliases().unwrap_or_default().iter().map(|alias| format!("`--{alias}`")));
    }
    names.join(", ")
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    // clap removes the full stop of a help text.
    let mut sentences = vec![help.replace('\n', " ").replace('|', "\\|")];
    let values: Vec<_> = argument.get_possible_values().into_iter().filter(|value| !value.is_hide_set()).collect();
    if argument.get_action().takes_values() && !values.is_empty() {
        let names: Vec<String> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        sentences.push(format!("One of {}", names.join(", ")));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() && !argument.is_hide_default_value_set() {
        sentences.push(format!("Default: {}", defaults.join(", ")));
    }
    if let Some(variable) = argument.get_env() {
        sentences.push(format!("Variable: `{}`", variable.to_string_lossy()));
    }
    if sentences.len() == 1 { sentences.concat() } else { sentences.join(". ") + "." }
}

/// Breaks each paragraph into lines of a document.
fn wrapped(text: &str) -> String {
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| super::terminal::wrap_to(120, &paragraph.replace('\n', " "), "", ""))
        .collect();
    paragraphs.join("\n\n")
}

/// Returns what kubectl may complete after these words, one a line with its help, as its plugins print it
/// (`kubectl_complete-nicplug`); the last line tells kubectl whether file names fit too.
pub(super) fn complete(command: &Command, words: &[String]) -> String {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let chosen = before.iter().find_map(|word| commands(command).find(|sub| sub.get_name() == word));
    let mut text = String::new();
    if let Some(chosen) = chosen {
        for argument in chosen.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let long = argument.get_long().map(|long| format!("--{long}")).unwrap_or_default();
            if !long.is_empty() && last.starts_with('-') && long.starts_with(last) {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let _ = writeln!(text, "{long}\t{}", help.lines().next().unwrap_or_default());
            }
        }
    } else {
        for sub in commands(command).filter(|sub| sub.get_name().starts_with(last)) {
            let _ = writeln!(text, "{}\t{}", sub.get_name(), about(sub).replace('\n', " "));
        }
    }
    // 4: no file names; 0: kubectl decides.
    let directive = if chosen.is_none() || last.starts_with('-') { 4 } else { 0 };
    let _ = writeln!(text, ":{directive}");
    text
}
