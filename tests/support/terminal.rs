//! A command on a pseudo-terminal, as a user runs it.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::wait::LONG;

/// The variables that decide about colours and widths. A test sets those that it needs.
const ENVIRONMENT: [&str; 6] = ["CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "KUBECONFIG", "NO_COLOR", "TERM"];

/// A command whose standard streams are a terminal; killed when it is dropped.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    chunks: Receiver<Vec<u8>>,
    /// What the terminal has shown, with escape sequences.
    shown: Vec<u8>,
}

/// What a command has written, and its exit status.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) code: Option<i32>,
    /// All that was written, without the carriage returns that the terminal adds.
    pub(crate) text: String,
}

impl Terminal {
    /// Starts a command on a terminal of this width.
    pub(crate) fn start(mut command: Command, columns: u16) -> Self {
        let (terminal, side) = pair(columns);
        let stream = || Stdio::from(side.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        Self::spawn(command, terminal)
    }

    /// As [`start`](Self::start); standard output is no terminal, and is dropped.
    pub(crate) fn start_without_output(mut command: Command, columns: u16) -> Self {
        let (terminal, side) = pair(columns);
        let stream = || Stdio::from(side.try_clone().unwrap());
        command.stdin(stream()).stdout(Stdio::null()).stderr(stream());
        Self::spawn(command, terminal)
    }

    fn spawn(mut command: Command, terminal: OwnedFd) -> Self {
        let child = command.spawn().unwrap();
        // The side of the command is open in this process as long as `command` is. Then the end of the command is the
        // end of the output.
        drop(command);
        let mut screen = File::from(terminal.try_clone().unwrap());
        let (sender, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Linux reports an error when no process has the other side open any more.
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keyboard: File::from(terminal), chunks, shown: Vec::new() }
    }

    /// Waits until the terminal has shown a text.
    pub(crate) fn wait_for(&mut self, part: &str) {
        let begin = Instant::now();
        while !self.text().contains(part) {
            let left = LONG.saturating_sub(begin.elapsed());
            let Ok(chunk) = self.chunks.recv_timeout(left) else {
                panic!("the terminal does not show {part:?}:\n{}", self.text());
            };
            self.shown.extend(chunk);
        }
    }

    /// Types a line.
    pub(crate) fn enter(&mut self, line: &str) {
        writeln!(self.keyboard, "{line}").unwrap();
    }

    /// Waits for the end of the command.
    pub(crate) fn end(mut self) -> Session {
        let begin = Instant::now();
        while let Ok(chunk) = self.chunks.recv_timeout(LONG.saturating_sub(begin.elapsed())) {
            self.shown.extend(chunk);
        }
        assert!(begin.elapsed() < LONG, "the command does not end:\n{}", self.text());
        Session { code: self.child.wait().unwrap().code(), text: self.text() }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).replace("\r\n", "\n")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended if the test has finished.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    /// Returns the lines without escape sequences, as a terminal leaves them: what was redrawn is not among them.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.text.lines().map(|line| plain(line.rsplit('\r').next().unwrap_or_default())).collect()
    }
}

/// Returns a text without escape sequences.
fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| letter.is_ascii_alphabetic()).map_or(part.len(), |end| end + 1);
        plain.push_str(&part[end..]);
    }
    plain
}

/// Runs a command on a terminal to its end.
pub(crate) fn session(command: Command, columns: u16) -> Session {
    Terminal::start(command, columns).end()
}

/// Returns a command with only these variables of those that decide about colours and widths.
pub(crate) fn nicplug(args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command.args(args);
    prepare(&mut command, variables);
    command
}

/// As [`nicplug`], for a command that a helper has made.
pub(crate) fn prepare(command: &mut Command, variables: &[(&str, &str)]) {
    for name in ENVIRONMENT {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color").envs(variables.iter().copied());
}

/// Opens a terminal: the side of the user, and that of the command.
fn pair(columns: u16) -> (OwnedFd, OwnedFd) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    tcsetwinsize(&terminal, Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let side = open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (terminal, side)
}
