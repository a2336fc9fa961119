//! Settings that change while the server runs, and the page that describes them.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod cluster_support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use cluster_support::{
    Folder,
    apiserver::{self, ApiServer},
    crds::Kind,
    eventually,
    request::{self, Answer, Run},
    webhook::{FailurePolicy, Webhook},
};
use hyper::http::Method;
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};
use nicplug::{rules, settings::Settings};
use serde_json::{Value, json};

// === The page ===

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md")).unwrap()
}

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(text, &rules::ids()).map_err(|error| error.to_string())
}

/// The keys below a section, as the reader of the file names them when it meets another; none where it is no section.
fn keys_of_code(section: &[&str]) -> Vec<String> {
    let mut text = "{no-such-key: 1}".to_owned();
    for key in section.iter().rev() {
        text = format!("{{{key}: {text}}}");
    }
    let error = parse(&text).unwrap_err();
    let Some((_, expected)) = error.split_once("unknown field `no-such-key`, expected ") else { return Vec::new() };
    let expected = expected.trim_start_matches("one of ").split(", ");
    expected.map(|key| key.trim_matches('`').to_owned()).collect()
}

/// Every key of the code, with its section before it.
fn paths_of_code() -> Vec<String> {
    let mut paths = Vec::new();
    for key in keys_of_code(&[]) {
        match keys_of_code(&[&key]).as_slice() {
            [] => paths.push(key),
            inner => paths.extend(inner.iter().map(|inner| format!("{key}.{inner}"))),
        }
    }
    paths
}

/// The rows of the page's table: key, values, default.
fn rows_of_page() -> Vec<[String; 3]> {
    let page = page();
    let (_, table) = page.split_once("| key | values | default | what it is |\n| --- | --- | --- | --- |\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        [cells[0].replace('`', ""), cells[1].to_owned(), cells[2].replace('`', "")]
    })
    .collect()
}

#[test]
fn the_page_lists_every_key_of_the_file_in_its_order() {
    let keys: Vec<String> = rows_of_page().into_iter().map(|[key, ..]| key).collect();
    assert_eq!(keys, paths_of_code());
}

#[test]
fn the_page_shows_the_whole_file_with_the_defaults_of_the_code() {
    let page = page();
    let example = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    // No ports are reserved in both ways of saying so.
    let said = parse(example).unwrap();
    assert_eq!(Settings { reserve_ports: None, ..said.clone() }, Settings::default());
    assert_eq!(said.reserve_ports, Some(0));
    let example: Value = serde_saphyr::from_str(example).unwrap();
    for [key, _, default] in rows_of_page() {
        let value = key.split('.').fold(&example, |value, part| &value[part]);
        let default: Value = serde_saphyr::from_str(&default).unwrap();
        assert_eq!(*value, default, "{key}");
    }
}

#[test]
fn each_value_of_the_page_is_taken_and_no_other_word() {
    for [key, values, _] in rows_of_page() {
        let words: Vec<&str> = values.split('`').skip(1).step_by(2).collect();
        let with = |word: &str| {
            let value = if key == "rules" { format!("{{NP103: {word}}}") } else { word.to_owned() };
            parse(&key.rsplit('.').fold(value, |value, part| format!("{{{part}: {value}}}")))
        };
        for word in words {
            assert!(with(word).is_ok(), "{key}: {word}: {:?}", with(word));
        }
        assert!(with("no-such-word").is_err(), "{key}");
    }
}

// === At the start ===

#[test]
fn a_file_that_cannot_be_used_ends_the_program_with_its_line() {
    let folder = Folder::new("settings");
    let file = folder.path().join("settings.yaml");
    fs::write(&file, "rules:\n  NP103: loud\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command
        .args(["serve", "--facts", "none", "--tls-cert", "tls.crt", "--tls-key", "tls.key", "--settings"])
        .arg(&file);
    let output = command.output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    let expected =
        format!("{}: line 2 column 10: unknown variant `loud`, expected one of deny, warn, off", file.display());
    assert!(words.contains(&expected), "{words}");
    assert_eq!(output.status.code(), Some(2), "{words}");
}

// === On a cluster ===

/// A volume as the kubelet mounts a ConfigMap: the file is a link to `..data/settings.yaml`, and `..data` one to a folder.
struct Volume {
    folder: Folder,
    swaps: usize,
}

impl Volume {
    fn holding(text: &str) -> Self {
        let folder = Folder::new("settings");
        symlink("..data/settings.yaml", folder.path().join("settings.yaml")).unwrap();
        let mut volume = Self { folder, swaps: 0 };
        volume.swap(text);
        volume
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("settings.yaml")
    }

    /// A new folder, a new link in the place of the old one, and the old folder is gone.
    fn swap(&mut self, text: &str) {
        let path = self.folder.path();
        let before = fs::read_link(path.join("..data"));
        self.swaps += 1;
        let data = format!("..2026_11_25_{}", self.swaps);
        fs::create_dir(path.join(&data)).unwrap();
        fs::write(path.join(&data).join("settings.yaml"), text).unwrap();
        symlink(&data, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        if let Ok(before) = before {
            fs::remove_dir_all(path.join(before)).unwrap();
        }
    }
}

/// Makes a VM whose network has no interface (NP004), for show.
async fn make(api: &ApiServer, namespace: &str) -> Answer {
    make_as(&api.admin(), namespace).await
}

async fn make_as(client: &Client, namespace: &str) -> Answer {
    let guest = json!({"domain": {"devices": {}}, "networks": [{"name": "blue", "multus": {"networkName": "blue"}}]});
    let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "vm"},
        "spec": {"runStrategy": "Halted", "template": {"spec": guest}}});
    request::create(client, Kind::Vm, namespace, &vm, Run::Dry).await
}

/// Writes, or takes away, what a namespace asks for.
async fn annotate(client: &Client, namespace: &str, rules: Value) -> Answer {
    let body = json!({"metadata": {"annotations": {"nicplug.io/rules": rules}}}).to_string();
    let path = format!("/api/v1/namespaces/{namespace}");
    request::send(client, Method::PATCH, &path, "application/merge-patch+json", body).await
}

/// The events on a pod of a name: type, reason and note, in the order of their times.
async fn events_on(api: &ApiServer, namespace: &str, pod: &Value) -> Vec<[String; 3]> {
    let events: Api<Event> = Api::namespaced(api.admin(), namespace);
    let mut events = events.list(&ListParams::default()).await.unwrap().items;
    events.retain(|event| serde_json::to_value(&event.regarding).unwrap() == *pod);
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    let told = |event: Event| [event.type_, event.reason, event.note].map(Option::unwrap_or_default);
    events.into_iter().map(told).collect()
}

#[tokio::test]
async fn a_change_is_taken_up_live_and_a_bad_one_is_refused_and_told() {
    let Some(api) = apiserver::shared().await else { return };
    let namespace = api.namespace("settings").await;
    let mut volume = Volume::holding("rules: {NP004: deny}");
    let (file, kubeconfig) = (volume.file(), api.kubeconfig().to_str().unwrap());
    let flags = ["--settings", file.to_str().unwrap(), "--settings-poll", "20ms"];
    let environment =
        [("KUBECONFIG", kubeconfig), ("POD_NAME", "nicplug-abc"), ("POD_NAMESPACE", &namespace), ("POD_UID", "0f1e")];
    let webhook = Webhook::start_with(&flags, &environment).await;
    webhook.register(api, &namespace, FailurePolicy::Fail).await;
    assert_eq!(make(api, &namespace).await.code, 422);

    volume.swap("rules: {NP004: warn}");
    eventually("the change is in force", async || make(api, &namespace).await.is_ok().then_some(())).await;
    let has = async |series: &str| webhook.get("/metrics").await.lines().any(|line| line == series);
    assert!(has("nicplug_settings_reloads_total{result=\"taken\"} 1").await);
    assert!(has("nicplug_settings_valid 1").await);

    volume.swap("rules:\n  NP004: deny\n  NP999: deny\n");
    let fault = format!("the settings of before stay in force: {}: line 3: there is no rule \"NP999\"", file.display());
    let report = format!("\n[+]settings ok: {fault}");
    eventually("the fault is told", async || webhook.get("/readyz?verbose").await.contains(&report).then_some(()))
        .await;
    assert!(webhook.get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(has("nicplug_settings_reloads_total{result=\"refused\"} 1").await);
    assert!(has("nicplug_settings_valid 0").await);
    assert!(make(api, &namespace).await.is_ok(), "the settings of before are in force");

    volume.swap("rules: {NP004: deny} # mended\n");
    eventually("what is mended is in force", async || (make(api, &namespace).await.code == 422).then_some(())).await;
    assert!(has("nicplug_settings_valid 1").await);

    let pod = json!({"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "nicplug-abc", "uid": "0f1e"});
    let events = eventually("all is told on the pod", async || {
        Some(events_on(api, &namespace, &pod).await).filter(|events| events.len() == 3)
    })
    .await;
    let [taken, refused, mended] = [0, 1, 2].map(|index| events[index].each_ref().map(String::as_str));
    assert_eq!(taken, ["Normal", "SettingsTaken", "the settings of the file are in force"]);
    assert!(refused[..2] == ["Warning", "SettingsRefused"] && refused[2].starts_with(&fault), "{refused:?}");
    assert_eq!(mended, taken);

    let log = webhook.stop().await;
    let lines = log.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(&fault)));
    assert_eq!(lines.count(), 1, "{log:?}");
}

#[tokio::test]
async fn a_namespace_asks_for_another_enforcement_and_gets_it_live_as_far_as_settings_let_it() {
    let Some(api) = apiserver::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("override").await);
    let mut volume = Volume::holding("namespaces: {override: allow}");
    let file = volume.file();
    let flags = ["--settings", file.to_str().unwrap(), "--settings-poll", "20ms"];
    let webhook = Webhook::start_with(&flags, &[("KUBECONFIG", api.kubeconfig().to_str().unwrap())]).await;
    webhook.register(api, &namespace, FailurePolicy::Fail).await;
    let report = webhook.get("/readyz?verbose").await;
    assert!(report.contains("[+]facts/Namespace ok\n"), "{report}");
    // Whether it is denied, and what is said of the annotation.
    let made = async || {
        let answer = make(api, &namespace).await;
        assert!(answer.is_ok() || answer.code == 422, "{answer:?}");
        let complaints = answer.warnings.iter().filter(|warning| warning.starts_with("namespace annotation"));
        (!answer.is_ok(), complaints.cloned().collect::<Vec<_>>())
    };
    assert_eq!(made().await, (true, vec![]));

    let told = |text: &str| format!("namespace annotation nicplug.io/rules {text}");
    for (rules, expected_denial, expected) in [
        (json!("NP004=warn"), false, None),
        (json!("NP004=warn, NP999=off"), true, Some(told("has no effect: there is no rule \"NP999\""))),
        (json!("NP004=off"), false, None),
        (json!("NP004"), true, Some(told("has no effect: \"NP004\" is not RULE=ENFORCEMENT, such as NP103=warn"))),
        (json!("NP004=warn"), false, None),
        (Value::Null, true, None),
    ] {
        annotate(&admin, &namespace, rules.clone()).await.granted();
        eventually(&format!("{rules} is in force"), async || {
            (made().await == (expected_denial, Vec::from_iter(expected.clone()))).then_some(())
        })
        .await;
    }

    // What is asked for stays, and settings change under it.
    annotate(&admin, &namespace, json!("NP004=warn")).await.granted();
    eventually("it is loosened", async || (!made().await.0).then_some(())).await;
    for (settings, expected) in [
        ("", told("may only tighten: NP004=warn has no effect")),
        ("namespaces: {override: forbid}", told("has no effect: the settings forbid it")),
    ] {
        volume.swap(settings);
        let expected = (true, vec![expected]);
        eventually(settings, async || (made().await == expected).then_some(())).await;
    }

    // Whoever may change all VMs of a namespace may not change what is asked for.
    let user = api.user("override-editor");
    api.let_edit("override-editor", &namespace).await;
    assert_eq!(make_as(&user, &namespace).await.code, 422);
    assert_eq!(annotate(&user, &namespace, json!("NP004=off")).await.code, 403);
}
