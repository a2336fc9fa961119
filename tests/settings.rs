//! Settings that change while the server runs, and the page that describes them.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::{fs, path::Path, process::Command};

use hyper::http::Method;
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};
use nicplug::{rules, settings::Settings};
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::Kind,
        requests::{self, Response, Run},
        webhooks::FailurePolicy,
    },
    builders::bare_vm,
    folder::{Folder, Volume},
    replica::Deployment,
    wait::eventually,
};

// === The page ===

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md")).unwrap()
}

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(text, &rules::ids()).map_err(|error| error.to_string())
}

/// Returns the keys of a section, which the parser lists in its error about an unknown key; none for a key that has a
/// value.
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

/// Returns the path of every key that the parser knows.
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

/// Returns the rows of the page's table: key, values, default.
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
    // Zero and no value both reserve no ports.
    let settings = parse(example).unwrap();
    assert_eq!(Settings { reserve_ports: None, ..settings.clone() }, Settings::default());
    assert_eq!(settings.reserve_ports, Some(0));
    let example: Value = serde_saphyr::from_str(example).unwrap();
    for [key, _, default] in rows_of_page() {
        let value = key.split('.').fold(&example, |value, part| &value[part]);
        let default: Value = serde_saphyr::from_str(&default).unwrap();
        assert_eq!(*value, default, "{key}");
    }
}

#[test]
fn the_parser_accepts_each_value_of_the_page_and_no_other_word() {
    for [key, values, _] in rows_of_page() {
        let words: Vec<&str> = values.split('`').skip(1).step_by(2).collect();
        let with = |word: &str| {
            let value = if values.starts_with("map ") { format!("{{NP103: {word}}}") } else { word.to_owned() };
            parse(&key.rsplit('.').fold(value, |value, part| format!("{{{part}: {value}}}")))
        };
        for word in words {
            assert!(with(word).is_ok(), "{key}: {word}: {:?}", with(word));
        }
        // Any word may be a name.
        assert_eq!(with("no-such-word").is_ok(), values.starts_with("name"), "{key}");
    }
}

// === At the start ===

#[test]
fn an_invalid_file_ends_the_program_with_the_line_of_the_error() {
    let folder = Folder::new("settings");
    let file = folder.write("settings.yaml", "rules:\n  NP103: loud\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command
        .args(["serve", "--facts", "none", "--tls-cert", "tls.crt", "--tls-key", "tls.key", "--settings"])
        .arg(&file);
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = format!("{file}: line 2 column 10: unknown variant `loud`, expected one of deny, warn, off");
    assert!(error.contains(&expected), "{error}");
    assert_eq!(output.status.code(), Some(2), "{error}");
}

// === On a cluster ===

/// Mounts a settings file.
fn mount(text: &str) -> Volume {
    Volume::mount(&[("settings.yaml", text)])
}

/// Changes a mounted settings file.
fn update(volume: &mut Volume, text: &str) {
    volume.update(&[("settings.yaml", text)]);
}

/// Creates a VM whose network has no interface (NP004), by a dry run.
async fn create(api: &ApiServer, namespace: &str) -> Response {
    create_as(&api.admin(), namespace).await
}

async fn create_as(client: &Client, namespace: &str) -> Response {
    let vm = bare_vm("vm").network(json!({"name": "blue", "multus": {"networkName": "blue"}})).build();
    requests::create(client, Kind::Vm, namespace, &vm, Run::Dry).await
}

/// Writes or removes the annotation of a namespace.
async fn annotate(client: &Client, namespace: &str, rules: Value) -> Response {
    let body = json!({"metadata": {"annotations": {"nicplug.io/rules": rules}}}).to_string();
    let path = format!("/api/v1/namespaces/{namespace}");
    requests::send(client, Method::PATCH, &path, "application/merge-patch+json", body).await
}

/// Returns type, reason and note of the Events on a pod, ordered by time.
async fn events_on(api: &ApiServer, namespace: &str, pod: &Value) -> Vec<[String; 3]> {
    let events: Api<Event> = Api::namespaced(api.admin(), namespace);
    let mut events = events.list(&ListParams::default()).await.unwrap().items;
    events.retain(|event| serde_json::to_value(&event.regarding).unwrap() == *pod);
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    let texts = |event: Event| [event.type_, event.reason, event.note].map(Option::unwrap_or_default);
    events.into_iter().map(texts).collect()
}

#[tokio::test]
async fn a_change_is_reloaded_and_an_invalid_one_is_rejected_and_reported() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = api.namespace("settings").await;
    let mut volume = mount("rules: {NP004: deny}");
    let (file, kubeconfig) = (volume.file("settings.yaml"), api.kubeconfig().to_str().unwrap());
    let flags = ["--settings", file.to_str().unwrap(), "--settings-poll", "20ms"];
    let environment =
        [("KUBECONFIG", kubeconfig), ("POD_NAME", "nicplug-abc"), ("POD_NAMESPACE", &namespace), ("POD_UID", "0f1e")];
    let nicplug = Deployment::start(api, &namespace, FailurePolicy::Fail, &flags, &environment).await;
    let replica = &nicplug.replica;
    assert_eq!(create(api, &namespace).await.code, 422);

    update(&mut volume, "rules: {NP004: warn}");
    eventually("the change is in force", async || create(api, &namespace).await.is_ok().then_some(())).await;
    let has = async |series: &str| replica.page("/metrics").await.lines().any(|line| line == series);
    assert!(has("nicplug_settings_reloads_total{result=\"taken\"} 1").await);
    assert!(has("nicplug_settings_valid 1").await);

    update(&mut volume, "rules:\n  NP004: deny\n  NP999: deny\n");
    let error = format!("the previous settings stay in force: {}: line 3: unknown rule \"NP999\"", file.display());
    let report = format!("\n[+]settings ok: {error}");
    eventually("the error is reported", async || replica.page("/readyz?verbose").await.contains(&report).then_some(()))
        .await;
    assert!(replica.is_ready().await);
    assert!(has("nicplug_settings_reloads_total{result=\"refused\"} 1").await);
    assert!(has("nicplug_settings_valid 0").await);
    assert!(create(api, &namespace).await.is_ok(), "the previous settings are in force");

    update(&mut volume, "rules: {NP004: deny} # fixed\n");
    eventually("the fixed settings are in force", async || (create(api, &namespace).await.code == 422).then_some(()))
        .await;
    assert!(has("nicplug_settings_valid 1").await);

    let pod = json!({"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "nicplug-abc", "uid": "0f1e"});
    let events = eventually("there are three Events on the pod", async || {
        Some(events_on(api, &namespace, &pod).await).filter(|events| events.len() == 3)
    })
    .await;
    let [first, rejected, fixed] = [0, 1, 2].map(|index| events[index].each_ref().map(String::as_str));
    assert_eq!(first, ["Normal", "SettingsReloaded", "the settings of the file are in force"]);
    assert!(rejected[..2] == ["Warning", "SettingsRefused"] && rejected[2].starts_with(&error), "{rejected:?}");
    assert_eq!(fixed, first);

    let log = nicplug.replica.stop().await;
    let lines = log.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(&error)));
    assert_eq!(lines.count(), 1, "{log:?}");
}

#[tokio::test]
async fn an_annotation_of_a_namespace_changes_the_enforcement_as_far_as_the_settings_allow() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("override").await);
    let mut volume = mount("namespaceOverride: allow");
    let file = volume.file("settings.yaml");
    let flags = ["--settings", file.to_str().unwrap(), "--settings-poll", "20ms"];
    let environment = [("KUBECONFIG", api.kubeconfig().to_str().unwrap())];
    let nicplug = Deployment::start(api, &namespace, FailurePolicy::Fail, &flags, &environment).await;
    let replica = &nicplug.replica;
    let report = replica.page("/readyz?verbose").await;
    assert!(report.contains("[+]facts/Namespace ok\n"), "{report}");
    // Whether the VM is denied, and the warnings about the annotation.
    let result = async || {
        let response = create(api, &namespace).await;
        assert!(response.is_ok() || response.code == 422, "{response:?}");
        let warnings = response.warnings.iter().filter_map(|warning| warning.split_once(": namespace "));
        (!response.is_ok(), warnings.map(|(_, text)| format!("namespace {text}")).collect::<Vec<_>>())
    };
    assert_eq!(result().await, (true, vec![]));

    let warning = |text: &str| format!("namespace annotation nicplug.io/rules {text}");
    for (rules, expected_denial, expected) in [
        (json!("NP004=warn"), false, None),
        (json!("NP004=warn, NP999=off"), true, Some(warning("has no effect: unknown rule \"NP999\""))),
        (json!("NP004=off"), false, None),
        (json!("NP004"), true, Some(warning("has no effect: \"NP004\" is not RULE=ENFORCEMENT, such as NP103=warn"))),
        (json!("NP004=warn"), false, None),
        (Value::Null, true, None),
    ] {
        annotate(&admin, &namespace, rules.clone()).await.granted();
        eventually(&format!("{rules} is in force"), async || {
            (result().await == (expected_denial, Vec::from_iter(expected.clone()))).then_some(())
        })
        .await;
    }

    // The annotation stays, and the settings change.
    annotate(&admin, &namespace, json!("NP004=warn")).await.granted();
    eventually("the annotation is in force", async || (!result().await.0).then_some(())).await;
    for (settings, expected) in [
        ("", warning("may only tighten: NP004=warn has no effect")),
        ("namespaceOverride: forbid", warning("has no effect: the settings forbid it")),
    ] {
        update(&mut volume, settings);
        let expected = (true, vec![expected]);
        eventually(settings, async || (result().await == expected).then_some(())).await;
    }

    // A user who can change all VMs of a namespace cannot change its annotation.
    let user = api.user("override-editor");
    api.let_edit("override-editor", &namespace).await;
    assert_eq!(create_as(&user, &namespace).await.code, 422);
    assert_eq!(annotate(&user, &namespace, json!("NP004=off")).await.code, 403);
}
