//! `nicplug review`: answers AdmissionReviews with the same bytes as the server.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;

use super::facts::ReviewerArgs;
use crate::admission::{Decision, Endpoint, Reviewer};

/// Answer AdmissionReviews from files or standard input, as the server would.
///
/// Input is one AdmissionReview, or NDJSON with one per line. Output is one answer per line, in the same order. A line
/// that is not an AdmissionReview gets the answer {"error": …}; the command continues, and exits with status 2.
#[derive(Args, Debug)]
pub(super) struct ReviewArgs {
    #[command(flatten)]
    reviewer: ReviewerArgs,

    /// Answer like /mutate instead of /validate.
    #[arg(long)]
    mutate: bool,

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
        let mut is_clean = true;
        let inputs = if self.files.is_empty() { vec![PathBuf::from("-")] } else { self.files };
        for path in &inputs {
            is_clean &= answer_all(&reviewer, endpoint, open(path)?, &mut output)
                .with_context(|| format!("{}", path.display()))?;
        }
        output.flush()?;
        Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Answers one input; returns false if a part of it was not an AdmissionReview.
fn answer_all(
    reviewer: &Reviewer,
    endpoint: Endpoint,
    mut input: Box<dyn BufRead>,
    output: &mut impl Write,
) -> io::Result<bool> {
    let mut line = Vec::new();
    let mut is_clean = true;
    while input.read_until(b'\n', &mut line)? > 0 {
        if starts_a_document(&line) {
            // One document over several lines, not NDJSON.
            input.read_to_end(&mut line)?;
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            let answer = reviewer.review(endpoint, &line);
            is_clean &= answer.decision != Decision::Malformed;
            output.write_all(&answer.body)?;
            output.write_all(b"\n")?;
        }
        line.clear();
    }
    Ok(is_clean)
}

/// Whether a line is only the start of an object, as in pretty-printed JSON.
fn starts_a_document(line: &[u8]) -> bool {
    line.trim_ascii() == b"{"
}
