//! The commands of the program.

mod addinterface;
mod arguments;
mod audit;
mod certs;
mod check;
mod demo;
mod explain;
mod export_policy;
mod facts;
mod guests;
mod interface;
mod kubeconfig;
mod namespace;
mod plan;
mod probe;
mod progress;
mod reference;
mod removeinterface;
mod review;
mod rules;
mod serve;
mod slots;
mod status;
mod terminal;
mod values;
mod version;
mod why;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, builder::StyledStr, error::ErrorKind};
use tokio::runtime::Builder;

use crate::certificates::crypto;

/// An admission webhook that makes network-interface hotplug of KubeVirt virtual machines fail early and clearly.
#[derive(Debug, Parser)]
#[command(name = "nicplug", version, max_term_width = 100)]
#[command(after_help = "Flags may stand before the command too:
  nicplug -n demo status

Exit status:
  0  the command did what was asked, and found nothing
  1  something was found, or a change was denied, refused or has not arrived
  2  the command could not judge or failed, or was called with wrong arguments")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(name = "addinterface")]
    AddInterface(Box<addinterface::AddInterfaceArgs>),
    Audit(Box<audit::AuditArgs>),
    Certs(certs::CertsArgs),
    Check(Box<check::CheckArgs>),
    Completion(reference::CompletionArgs),
    Demo(demo::DemoArgs),
    Explain(explain::ExplainArgs),
    ExportPolicy(export_policy::ExportPolicyArgs),
    Man(reference::ManArgs),
    Plan(Box<plan::PlanArgs>),
    Probe(probe::ProbeArgs),
    #[command(name = "removeinterface")]
    RemoveInterface(Box<removeinterface::RemoveInterfaceArgs>),
    Review(review::ReviewArgs),
    Rules(rules::RulesArgs),
    // Boxed because it is much larger than the others.
    Serve(Box<serve::ServeArgs>),
    Slots(slots::SlotsArgs),
    Status(Box<status::StatusArgs>),
    Version(version::VersionArgs),
    Why(Box<why::WhyArgs>),
}

/// Runs the command that the arguments name.
///
/// The exit status is 0 if the command did what was asked and found nothing, 1 if something was found or a change was
/// denied or has not arrived, 2 if the command could not judge or failed. It never depends on the output format.
#[must_use]
pub fn main() -> ExitCode {
    if env::args_os().next().is_some_and(|program| arguments::has_name(&program, "kubectl_complete-nicplug")) {
        let words: Vec<String> = env::args().skip(1).collect();
        // kubectl shows no error of a completion.
        let _ = io::stdout().write_all(reference::complete(&Args::command(), &words).as_bytes());
        return ExitCode::SUCCESS;
    }
    if cfg!(feature = "fips") {
        crypto::install();
    }
    let result = match parse().command {
        Command::AddInterface(args) => args.run(),
        Command::Audit(args) => args.run(&mut io::stdout().lock()),
        Command::Certs(args) => args.run(&mut io::stdout().lock()),
        Command::Check(args) => args.run(),
        Command::Completion(args) => args.run(Args::command(), &mut io::stdout().lock()),
        Command::Demo(args) => args.run(),
        Command::Explain(args) => args.run(&mut io::stdout().lock()),
        Command::ExportPolicy(args) => args.run(&mut io::stdout().lock()),
        Command::Probe(args) => args.run(&mut io::stdout().lock()),
        Command::Man(args) => args.run(&Args::command(), &mut io::stdout().lock()),
        Command::Plan(args) => args.run(&mut io::stdout().lock()),
        Command::RemoveInterface(args) => args.run(),
        Command::Review(args) => args.run(),
        Command::Rules(args) => args.run(&mut io::stdout().lock()),
        Command::Serve(args) => args.run(),
        Command::Slots(args) => args.run(&mut io::stdout().lock()),
        Command::Version(args) => args.run(&mut io::stdout().lock()),
        Command::Status(args) => args.run(&mut io::stdout().lock()),
        Command::Why(args) => args.run(&mut io::stdout().lock()),
    };
    result.unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            // The reader of the output has closed it, as in `nicplug rules | head -1`.
            return ExitCode::SUCCESS;
        }
        // If standard error is closed, the error cannot be reported.
        let _ = writeln!(io::stderr(), "nicplug: {error:#}");
        ExitCode::from(2)
    })
}

/// Runs the requests of a command to their end.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(work)
}

/// Reads the arguments. kubectl runs a plugin by the name `kubectl-nicplug`: the usage and the examples then show
/// `kubectl nicplug`.
fn parse() -> Args {
    let command = if arguments::is_plugin() { as_plugin(Args::command()) } else { Args::command().bin_name("nicplug") };
    let words = arguments::flags_after_command(env::args_os().collect(), &command);
    let words = words.unwrap_or_else(|message| {
        let message = format!("{message}; `{} --help` lists what each command has", arguments::program());
        command.clone().error(ErrorKind::UnknownArgument, message).exit()
    });
    Args::from_arg_matches(&command.get_matches_from(words)).unwrap_or_else(|error| error.exit())
}

/// Returns the command line as kubectl runs it: each text that names a command names it so.
fn as_plugin(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = with_program(command.bin_name("kubectl nicplug"));
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_program))
}

fn with_program(command: clap::Command) -> clap::Command {
    let renamed = |text: Option<&StyledStr>| {
        let mut text = text?.to_string();
        for before in ["  ", "| ", "`", "<("] {
            text = text.replace(&format!("{before}nicplug "), &format!("{before}kubectl nicplug "));
        }
        Some(text)
    };
    let (about, long, after) = (command.get_about(), command.get_long_about(), command.get_after_help());
    let texts = (renamed(about), renamed(long), renamed(after));
    let mut command = command.mut_args(|argument| {
        let (help, long) = (renamed(argument.get_help()), renamed(argument.get_long_help()));
        let argument = help.into_iter().fold(argument, clap::Arg::help);
        long.into_iter().fold(argument, clap::Arg::long_help)
    });
    command = texts.0.into_iter().fold(command, clap::Command::about);
    command = texts.1.into_iter().fold(command, clap::Command::long_about);
    texts.2.into_iter().fold(command, clap::Command::after_help)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_of_virtctl_are_accepted() {
        for line in [
            "nicplug addinterface vmi-fedora --network-attachment-definition-name new-fancy-net --name dyniface1",
            "nicplug addinterface vmi-fedora --network-attachment-definition-name new-fancy-net --name dyniface1 --persist",
            "nicplug removeinterface vmi-fedora --name dyniface1 --persist",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_examples_of_the_plugin_run_the_plugin() {
        let mut command = as_plugin(Args::command());
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in names {
            let sub = command.find_subcommand_mut(&name).unwrap();
            let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(!examples.lines().any(|line| line.trim_start().starts_with("nicplug ")), "{name}: {examples}");
            let help = sub.render_long_help().to_string();
            let words: Vec<&str> = help.split_whitespace().collect();
            assert!(!words.join(" ").contains("`nicplug "), "{name}: {help}");
        }
        let help = command.render_long_help().to_string();
        assert!(help.contains("  kubectl nicplug -n demo status"), "{help}");
        let check = command.find_subcommand_mut("check").unwrap().render_long_help().to_string();
        assert!(check.contains("\n  kubectl nicplug check -f vm.yaml"), "{check}");
        assert!(check.contains("| kubectl nicplug check -f -"), "{check}");
    }

    #[test]
    fn kubectl_completes_commands_and_flags() {
        let complete = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            reference::complete(&Args::command(), &words)
        };
        assert!(complete(&["ch"]).starts_with("check\tCheck manifests"), "{}", complete(&["ch"]));
        assert!(complete(&["check", "--out"]).contains("--output-file\t"));
        assert!(complete(&["check", ""]).ends_with(":0\n"));
        assert!(complete(&[]).ends_with(":4\n"));
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_optional_value_of_a_flag_needs_an_equals_sign() {
        let parse = |flags: &[&str]| {
            Args::try_parse_from([&["nicplug", "removeinterface", "vm", "--name", "a"], flags].concat())
        };
        for flags in [&["--wait"][..], &["--wait=90s"], &["--wait=1m30s", "--dry-run"], &["--dry-run=server", "-oyaml"]]
        {
            assert!(parse(flags).is_ok(), "{flags:?}");
        }
        for flags in [&["--wait=soon"][..], &["--dry-run=maybe"], &["-o", "wide"]] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }
}
