//! The commands of the program.

mod addinterface;
mod certs;
mod demo;
mod facts;
mod interface;
mod kubeconfig;
mod probe;
mod removeinterface;
mod review;
mod rules;
mod serve;
mod slots;
mod terminal;
mod values;

use std::{
    env,
    ffi::OsStr,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// An admission webhook that makes network-interface hotplug of KubeVirt virtual machines fail early and clearly.
#[derive(Debug, Parser)]
#[command(name = "nicplug", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(name = "addinterface")]
    AddInterface(Box<addinterface::AddInterfaceArgs>),
    Certs(certs::CertsArgs),
    Demo(demo::DemoArgs),
    Probe(probe::ProbeArgs),
    #[command(name = "removeinterface")]
    RemoveInterface(Box<removeinterface::RemoveInterfaceArgs>),
    Review(review::ReviewArgs),
    Rules(rules::RulesArgs),
    // Boxed because it is much larger than the others.
    Serve(Box<serve::ServeArgs>),
    Slots(slots::SlotsArgs),
}

/// Runs the command that the arguments name.
///
/// The exit status is 0 if the command succeeded, 1 if a change was denied or has not arrived, 2 if the command failed.
#[must_use]
pub fn main() -> ExitCode {
    let result = match parse(env::args_os().next().as_deref()).command {
        Command::AddInterface(args) => args.run(),
        Command::Certs(args) => args.run(&mut io::stdout().lock()),
        Command::Demo(args) => args.run(),
        Command::Probe(args) => args.run(&mut io::stdout().lock()),
        Command::RemoveInterface(args) => args.run(),
        Command::Review(args) => args.run(),
        Command::Rules(args) => args.run(&mut io::stdout().lock()),
        Command::Serve(args) => args.run(),
        Command::Slots(args) => args.run(&mut io::stdout().lock()),
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

/// Reads the arguments. kubectl runs a plugin by the name `kubectl-nicplug`: the usage then shows `kubectl nicplug`.
fn parse(program: Option<&OsStr>) -> Args {
    let name = if is_plugin(program) { "kubectl nicplug" } else { "nicplug" };
    let matches = Args::command().bin_name(name).get_matches();
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn is_plugin(program: Option<&OsStr>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_stem());
    name.is_some_and(|name| name == "kubectl-nicplug")
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
    fn the_name_of_the_program_shows_that_kubectl_runs_it() {
        for (program, is_expected) in [
            (Some("kubectl-nicplug"), true),
            (Some("/usr/local/bin/kubectl-nicplug"), true),
            (Some("nicplug"), false),
            (None, false),
        ] {
            assert_eq!(is_plugin(program.map(OsStr::new)), is_expected, "{program:?}");
        }
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
        for flags in [&["--wait", "90s"][..], &["--wait=soon"], &["--dry-run=maybe"], &["-o", "wide"]] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }
}
