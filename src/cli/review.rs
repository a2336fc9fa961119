//! `nicplug review`: AdmissionReviews in, answers out, byte for byte what the server would answer.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;

use super::facts::JudgeArgs;
use crate::admission::{Decision, Endpoint, Reviewer};

/// Answer AdmissionReviews from files or standard input, as the server would.
///
/// Input is one AdmissionReview, or NDJSON: one a line. Output is one answer a line, in the same order. A line that is
/// no AdmissionReview gets an answer too, {"error": …}, and the rest goes on; the exit status is then 2.
#[derive(Args, Debug)]
pub(super) struct ReviewArgs {
    #[command(flatten)]
    judge: JudgeArgs,

    /// Answer as /mutate does, not as /validate.
    #[arg(long)]
    mutate: bool,

    /// Files to read; standard input when there is none, or for `-`.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl ReviewArgs {
    /// Answers everything; fails only where a file cannot be read or the output cannot be written.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let reviewer = self.judge.reviewer()?;
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

/// Answers one input; false when some of it was no AdmissionReview.
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
            // Not NDJSON but one document over many lines.
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

/// Whether a line is only the beginning of an object, as pretty-printed JSON has it.
fn starts_a_document(line: &[u8]) -> bool {
    line.trim_ascii() == b"{"
}
