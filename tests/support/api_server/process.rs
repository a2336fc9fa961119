//! The program of the API server: where it is, how it is built, and its process.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::SystemTime,
};

use serde::Deserialize;

use super::kubebuilder;

/// What to do if there is none.
const ADVICE: &str = "install Go 1.26, or set KUBEBUILDER_ASSETS to a folder with the programs etcd and kube-apiserver";

/// A program that runs an API server.
#[derive(Debug)]
pub(super) enum Program {
    /// The program of `tests/apiserver`.
    Ours(PathBuf),
    /// A folder with `etcd` and `kube-apiserver`, and in most cases `kubectl`.
    Kubebuilder(PathBuf),
}

/// What an API server prints when it is ready.
#[derive(Debug, Deserialize)]
pub(super) struct Announcement {
    /// `https://127.0.0.1:PORT`.
    pub(super) address: String,
    /// The file of the CA certificates.
    pub(super) ca: PathBuf,
    /// The kubeconfig of the admin.
    pub(super) kubeconfig: PathBuf,
    /// The version of Kubernetes: `v1.37.2`.
    pub(super) version: String,
}

/// A running API server. It ends when its standard input closes: when this is dropped, and when the test process ends.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    /// Reads its standard error to the end.
    log: Option<JoinHandle<String>>,
}

impl Program {
    /// Returns the folder of `KUBEBUILDER_ASSETS` if that is set, and otherwise the program of `tests/apiserver`, which
    /// is built if necessary.
    ///
    /// # Errors
    /// There is neither; the text says what to do.
    ///
    /// # Panics
    /// The build failed, although there is a suitable Go.
    pub(super) fn find() -> Result<Self, String> {
        if let Some(folder) = env::var_os("KUBEBUILDER_ASSETS") {
            return Ok(Self::Kubebuilder(folder.into()));
        }
        // A Go that is too old for the module fails here, before it fetches anything.
        let go = Command::new("go").args(["list", "-m"]).current_dir(sources()).output();
        match go {
            Ok(output) if output.status.success() => Ok(Self::Ours(build())),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                Err(format!("{} ({ADVICE})", text.lines().next().unwrap_or_default()))
            }
            Err(_) => Err(format!("there is no Go ({ADVICE})")),
        }
    }

    /// Starts it with further flags of kube-apiserver and waits until it is ready. On a folder that was used before,
    /// the same API server runs again.
    pub(super) fn start(&self, dir: Option<&Path>, port: Option<u16>, flags: &[&str]) -> (Process, Announcement) {
        match self {
            Self::Ours(program) => {
                let mut command = Command::new(program);
                command.args(dir.map(|dir| format!("--dir={}", dir.display())));
                command.args(port.map(|port| format!("--port={port}")));
                command.arg("--").args(flags);
                let mut process = Process::start(command);
                let line = process.line();
                let announcement = serde_json::from_str(&line);
                (process, announcement.unwrap_or_else(|_| panic!("the API server ended before it was ready")))
            }
            Self::Kubebuilder(assets) => kubebuilder::start(assets, dir, port, flags),
        }
    }

    /// Returns a command that runs kubectl, if there is one.
    pub(super) fn kubectl(&self) -> Option<Command> {
        match self {
            Self::Ours(program) => {
                let mut command = Command::new(program);
                command.arg("kubectl");
                Some(command)
            }
            Self::Kubebuilder(assets) => {
                let kubectl = assets.join("kubectl");
                kubectl.exists().then(|| Command::new(kubectl))
            }
        }
    }
}

impl Process {
    /// Starts a program that ends when its standard input closes.
    pub(super) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stderr = child.stderr.take().unwrap();
        let log = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { input: child.stdin.take(), child, log: Some(log) }
    }

    /// Sends a signal to the program and to the programs that it has started.
    pub(super) fn signal(&self, name: &str) {
        let sent = self.try_signal(name);
        assert!(sent.as_ref().is_ok_and(ExitStatus::success), "kill -{name}: {sent:?}");
    }

    fn try_signal(&self, name: &str) -> io::Result<ExitStatus> {
        let id = self.child.id();
        let started = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let ids = started.split_whitespace().map(str::to_owned).chain([id.to_string()]);
        Command::new("kill").arg(format!("-{name}")).args(ids).status()
    }

    /// Reads the first line of its standard output, which is empty if it ended without one.
    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A suspended program does not see that its input is closed.
        if thread::panicking() {
            let _ = self.try_signal("CONT");
        }
        self.input = None;
        let _ = self.child.wait();
        let log = self.log.take().and_then(|log| log.join().ok()).unwrap_or_default();
        if thread::panicking() {
            println!("log of the API server:\n{log}");
        }
    }
}

/// Returns the folder with the source of the program.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver")
}

/// Builds the program unless it is newer than its source, and returns its path. Of several processes one builds, and
/// the others wait.
fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("apiserver");
    let program = folder.join("apiserver");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let built = fs::metadata(&program).and_then(|metadata| metadata.modified()).ok();
    if built.is_none_or(|built| built < newest(&sources())) {
        let script = sources().join("build.sh");
        let output = Command::new("bash").arg(script).arg(&program).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "the API server was not built:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    program
}

/// Returns when a file of a folder was last changed.
fn newest(folder: &Path) -> SystemTime {
    let times = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().modified().unwrap());
    times.max().unwrap()
}
