//! Which program is the API server, and how it comes to be there.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::{self, JoinHandle},
    time::SystemTime,
};

use serde::Deserialize;

use super::kubebuilder;

/// What a test can do where there is none.
const ADVICE: &str =
    "install Go 1.26, or set KUBEBUILDER_ASSETS to a folder that has the programs etcd and kube-apiserver";

/// A program that is an API server.
#[derive(Debug)]
pub(super) enum Program {
    /// The one of `tests/apiserver`.
    Ours(PathBuf),
    /// A folder of `etcd` and `kube-apiserver`, and mostly `kubectl`.
    Kubebuilder(PathBuf),
}

/// What a running API server tells of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Announcement {
    /// `https://127.0.0.1:PORT`.
    pub(super) address: String,
    /// The file of the certificates to trust.
    pub(super) ca: PathBuf,
    /// The file of the admin's kubeconfig.
    pub(super) kubeconfig: PathBuf,
    /// The version of Kubernetes: `v1.37.2`.
    pub(super) version: String,
}

/// A running API server. It ends when its input does: when this is dropped, or when this process ends in any way.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    /// Reads its standard error, to the end.
    log: Option<JoinHandle<String>>,
}

impl Program {
    /// The folder of `KUBEBUILDER_ASSETS` if that is set, else our own program, which is built if it has to be.
    ///
    /// # Errors
    /// Neither is to be had, and what to do about it.
    ///
    /// # Panics
    /// There is a Go that can build it, and building it failed.
    pub(super) fn find() -> Result<Self, String> {
        if let Some(folder) = env::var_os("KUBEBUILDER_ASSETS") {
            return Ok(Self::Kubebuilder(folder.into()));
        }
        // A Go that is too old for the module says so here, before it tries to fetch anything of it.
        let go = Command::new("go").args(["list", "-m"]).current_dir(sources()).output();
        match go {
            Ok(output) if output.status.success() => Ok(Self::Ours(build())),
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr);
                Err(format!("{} ({ADVICE})", words.lines().next().unwrap_or_default()))
            }
            Err(_) => Err(format!("there is no Go ({ADVICE})")),
        }
    }

    /// Starts it with further flags of kube-apiserver and waits until it is ready; on a folder that was used before it is
    /// the same API server again.
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

    /// kubectl, if it comes with this program; without arguments yet.
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
    /// Starts a program that ends when its standard input does.
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

    /// The first line of its standard output; empty when it ended without one.
    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
        let log = self.log.take().and_then(|log| log.join().ok()).unwrap_or_default();
        if thread::panicking() {
            println!("the API server said:\n{log}");
        }
    }
}

/// Where our program's source is.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver")
}

/// Builds our program unless it is newer than its source, and returns where it is. The first of several processes
/// builds, and the others wait for it.
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

/// When a file of a folder was changed last.
fn newest(folder: &Path) -> SystemTime {
    let times = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().modified().unwrap());
    times.max().unwrap()
}
