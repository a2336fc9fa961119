//! An API server from the programs `etcd` and `kube-apiserver` of kubebuilder, for machines without Go.
//!
//! It has the same flags and file names as `tests/apiserver`.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use kube::{Client, Config, config::Kubeconfig};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::{
    super::{folder::Folder, wait::eventually},
    process::{Announcement, Process},
};

/// Flags of kube-apiserver, one a line.
const FLAGS: &str = include_str!("../../apiserver/flags.txt");

/// Flags of etcd, one a line.
const STORE_FLAGS: &str = "
    --data-dir=etcd
    --listen-client-urls=unix://etcd.sock
    --advertise-client-urls=unix://etcd.sock
    --listen-peer-urls=unix://etcd-peers.sock
    --initial-advertise-peer-urls=unix://etcd-peers.sock
    --initial-cluster=default=unix://etcd-peers.sock
    --unsafe-no-fsync
    --log-level=error";

/// Runs both until standard input closes: `sh -c SCRIPT sh ASSETS PORT IS_KEPT`, in the folder of the data.
const SCRIPT: &str = r#"
"$1/etcd" $STORE_FLAGS & etcd=$!
"$1/kube-apiserver" $FLAGS --secure-port="$2" & server=$!
cat >/dev/null
kill $server; wait $server
kill $etcd; wait $etcd
[ "$3" = true ] || rm -rf "$PWD"
"#;

/// Starts both and waits until the API server is ready.
pub(super) fn start(assets: &Path, dir: Option<&Path>, port: Option<u16>, flags: &[&str]) -> (Process, Announcement) {
    // The script removes a folder that is not kept.
    let folder = dir.map_or_else(|| Folder::new("kubebuilder").keep(), Path::to_owned);
    let port = port.unwrap_or_else(free_port);
    let token = token(&folder);
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "sh"]).arg(assets).arg(port.to_string()).arg(dir.is_some().to_string());
    command.env("FLAGS", format!("{FLAGS} {}", flags.join(" "))).env("STORE_FLAGS", STORE_FLAGS).current_dir(&folder);
    let process = Process::start(command);
    let wait = ready(folder, format!("https://127.0.0.1:{port}"), &token);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    (process, runtime.block_on(wait))
}

/// Creates the files that the API server reads at its start, unless they exist; returns the token of the admin.
fn token(folder: &Path) -> String {
    let (tokens, key) = (folder.join("tokens.csv"), folder.join("service-accounts.key"));
    if !tokens.exists() {
        // The public key of a new pair is a random value.
        let secret = BASE64.encode(&KeyPair::generate().unwrap().public_key_raw()[1..]);
        fs::write(&tokens, format!("{secret},admin,admin,system:masters\n")).unwrap();
        // The file contains the key that signs tokens and the one that verifies them.
        let pair = KeyPair::generate().unwrap();
        fs::write(&key, pair.serialize_pem() + &pair.public_key_pem()).unwrap();
    }
    fs::read_to_string(tokens).unwrap().split(',').next().unwrap().to_owned()
}

async fn ready(folder: PathBuf, address: String, token: &str) -> Announcement {
    let ca = folder.join("certs/apiserver.crt");
    let kubeconfig = folder.join("admin.kubeconfig");
    eventually("the API server creates its certificate", async || ca.exists().then_some(())).await;
    fs::write(&kubeconfig, admin_kubeconfig(&address, &ca, token).to_string()).unwrap();
    let config = Config::try_from(Kubeconfig::read_from(&kubeconfig).unwrap()).unwrap();
    let client = Client::try_from(config).unwrap();
    let get = |path: &str| client.request_text(hyper::http::Request::get(path).body(Vec::new()).unwrap());
    for path in ["/readyz", "/api/v1/namespaces/default", "/api/v1/namespaces/kube-system"] {
        eventually(path, async || get(path).await.ok()).await;
    }
    let version = client.apiserver_version().await.unwrap().git_version;
    Announcement { address, ca, kubeconfig, version }
}

/// Returns the kubeconfig of the admin.
fn admin_kubeconfig(address: &str, ca: &Path, token: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "admin",
        "clusters": [{"name": "admin", "cluster": {"server": address, "certificate-authority": ca}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "admin", "context": {"cluster": "admin", "user": "admin"}}]})
}

/// Returns a port that is free now. kube-apiserver cannot inherit a socket, so another process may take the port first.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
