//! `nicplug review`: answers AdmissionReviews with the same bytes as the server.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;

use super::{arguments::program, facts::ReviewerArgs};
use crate::admission::{Decision, Endpoint, Reviewer};

/// Answer AdmissionReviews from files or standard input, as the server would.
///
/// Input is one AdmissionReview, or NDJSON with one per line. Output is one answer per line, in the same order. A line
/// that is not an AdmissionReview gets the answer {"error": …}, and the command continues.
///
/// The exit status is 0 if all was allowed, 1 if something was denied, 2 if a part of the input was not an
/// AdmissionReview or there was none.
#[derive(Args, Debug)]
pub(super) struct ReviewArgs {
    #[command(flatten)]
    reviewer: ReviewerArgs,

    /// Answer like /mutate instead of /validate.
    #[arg(long)]
    mutate: bool,

    /// Exit with status 0 if something was denied.
    #[arg(long)]
    exit_zero: bool,

    /// Files to read; `-` is standard input [default: -].
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl ReviewArgs {
    /// Answers all input; fails only if a file cannot be read or the output cannot be written.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let reviewer = self.reviewer.reviewer()?;
        let endpoint = if self.mutate { Endpoint::Mutate } else { Endpoint::Validate };
        let mut output = BufWriter::new(io::stdout().lock());
        let mut counts = Counts::default();
        let inputs = if self.files.is_empty() { vec![PathBuf::from("-")] } else { self.files };
        for path in &inputs {
            answer_all(&reviewer, endpoint, open(path)?, &mut output, &mut counts)
                .with_context(|| format!("{}", path.display()))?;
        }
        output.flush()?;
        if counts.answers == 0 {
            bail!("the input has no AdmissionReview; is the command before the pipe right?");
        }
        Ok(ExitCode::from(match counts {
            Counts { malformed, .. } if malformed > 0 => 2,
            Counts { denied, .. } if denied > 0 && !self.exit_zero => 1,
            _ => 0,
        }))
    }
}

/// How many answers there were.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    answers: usize,
    denied: usize,
    malformed: usize,
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Answers one input, and counts the answers.
fn answer_all(
    reviewer: &Reviewer,
    endpoint: Endpoint,
    mut input: Box<dyn BufRead>,
    output: &mut impl Write,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        if starts_a_document(&line) {
            // One document over several lines, not NDJSON.
            input.read_to_end(&mut line)?;
        }
        if is_yaml(&line) {
            bail!("these are YAML manifests and not AdmissionReviews; use {} check", program());
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            let answer = reviewer.review(endpoint, &line);
            counts.answers += 1;
            counts.denied += usize::from(answer.decision == Decision::Denied);
            counts.malformed += usize::from(answer.decision == Decision::Malformed);
            output.write_all(&answer.body)?;
            output.write_all(b"\n")?;
        }
        line.clear();
    }
    Ok(())
}

/// Whether a line is one with which manifests in YAML begin.
fn is_yaml(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    line == b"---" || [&b"apiVersion:"[..], b"kind:", b"metadata:"].iter().any(|key| line.starts_with(key))
}

/// Whether a line is only the start of an object, as in pretty-printed JSON.
fn starts_a_document(line: &[u8]) -> bool {
    line.trim_ascii() == b"{"
}
