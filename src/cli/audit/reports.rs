//! The audit as reports in the cluster: one for each guest with findings, as Kyverno writes them, so that none is large
//! and each is deleted with its guest. A comparison with the stored report shows whether a write is needed.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use serde_json::{Map, Value, json};

use super::evaluation::{AuditedGuest, Finding, Topic};
use crate::{cli::check::Level, k8s::resource::Resource};

/// The kinds of reports, in the order of preference. Their fields are the same.
pub(super) const KINDS: [Resource; 2] = [
    Resource { group: "openreports.io", version: "v1alpha1", kind: "Report", plural: "reports" },
    Resource { group: "wgpolicyk8s.io", version: "v1alpha2", kind: "PolicyReport", plural: "policyreports" },
];

/// The label of the reports that nicplug owns.
pub(super) const OWNED: (&str, &str) = ("app.kubernetes.io/managed-by", "nicplug");

/// The tool in each result.
const SOURCE: &str = "nicplug";

/// The longest list of results in a report, in bytes of JSON. etcd stores no object above 1.5 MiB by default.
const MAX_BYTES: usize = 512 * 1024;

/// The longest message of a result, in characters.
const MAX_MESSAGE: usize = 4096;

/// The fields of a result.
type Fields = Map<String, Value>;

/// A report as it must be, without the times of its results.
#[derive(Debug)]
pub(super) struct NewReport {
    pub(super) name: String,
    /// `metadata.ownerReferences`, `scope` and `summary`.
    frame: [Value; 3],
    results: Vec<Fields>,
}

/// What is kept of a report in the cluster.
#[derive(Debug)]
pub(super) struct StoredReport {
    pub(super) uid: String,
    /// The hash of [`NewReport::frame`].
    frame: u64,
    /// The hash of each result without its time, and that time.
    results: Vec<(u64, i64)>,
}

/// Returns the reports about a guest, whose kind the cluster serves in a group: none without findings, and several if one
/// would be too large.
pub(super) fn reports_of(guest: &AuditedGuest, group: &str, kubevirt_version: &str) -> Vec<NewReport> {
    let mut parts: Vec<Vec<Fields>> = Vec::new();
    let mut bytes = 0;
    for finding in &guest.findings {
        let result = result_of(finding, kubevirt_version);
        let length = text_of(&result).len();
        bytes += length;
        match parts.last_mut() {
            Some(results) if bytes <= MAX_BYTES => results.push(result),
            _ => {
                parts.push(vec![result]);
                bytes = length;
            }
        }
    }
    let parts = parts.into_iter().enumerate();
    parts.map(|(index, results)| NewReport::of(guest, group, index, results)).collect()
}

/// The values of `result`, in the order of the fields of `summary`.
const OUTCOMES: [&str; 5] = ["pass", "fail", "warn", "error", "skip"];

impl NewReport {
    fn of(guest: &AuditedGuest, group: &str, index: usize, results: Vec<Fields>) -> Self {
        let AuditedGuest { kind, namespace, name, uid, .. } = guest;
        let part = if index == 0 { String::new() } else { format!("-{}", index + 1) };
        let version = format!("{group}/v1");
        let owners = json!([{"apiVersion": version, "kind": kind, "name": name, "uid": uid}]);
        let scope = json!({"apiVersion": version, "kind": kind, "namespace": namespace, "name": name, "uid": uid});
        let count = |outcome: &str| {
            results.iter().filter(|fields| fields.get("result").is_some_and(|result| result == outcome)).count()
        };
        let summary: Map<String, Value> =
            OUTCOMES.into_iter().map(|outcome| (outcome.to_owned(), json!(count(outcome)))).collect();
        Self { name: format!("nicplug-{uid}{part}"), frame: [owners, scope, Value::Object(summary)], results }
    }

    /// Whether the stored report has the same content, whatever the times of its results are.
    pub(super) fn is_stored_as(&self, stored: &StoredReport) -> bool {
        hash(&json!(self.frame).to_string()) == stored.frame
            && self.results.len() == stored.results.len()
            && self.results.iter().zip(&stored.results).all(|(result, (stored, _))| hash(&text_of(result)) == *stored)
    }

    /// Returns the object to write. A result that is stored keeps the time at which it was found.
    pub(super) fn object(self, kind: &Resource, stored: Option<&StoredReport>, now: i64) -> Value {
        let known = stored.map(|stored| stored.results.as_slice()).unwrap_or_default();
        let with_time = |mut result: Fields| {
            let hash = hash(&text_of(&result));
            let seconds = known.iter().find(|(known, _)| *known == hash).map_or(now, |(_, seconds)| *seconds);
            result.insert("timestamp".to_owned(), json!({"seconds": seconds, "nanos": 0}));
            result
        };
        let [owners, scope, summary] = self.frame;
        json!({
            "apiVersion": kind.api_version(),
            "kind": kind.kind,
            "metadata": {"name": self.name, "labels": {OWNED.0: OWNED.1}, "ownerReferences": owners},
            "scope": scope,
            "summary": summary,
            "results": self.results.into_iter().map(with_time).collect::<Vec<_>>(),
        })
    }
}

impl StoredReport {
    /// Keeps what a comparison needs.
    pub(super) fn of(object: &mut Value) -> Self {
        let mut part = |pointer: &str| object.pointer_mut(pointer).map(Value::take).unwrap_or_default();
        let [uid, owners, scope, summary, results] =
            ["/metadata/uid", "/metadata/ownerReferences", "/scope", "/summary", "/results"].map(&mut part);
        let frame = json!([owners, scope, summary]);
        let results = if let Value::Array(results) = results { results } else { Vec::new() };
        let without_time = |mut result: Value| {
            let time = result.as_object_mut().and_then(|fields| fields.remove("timestamp")).unwrap_or_default();
            (hash(&result.to_string()), time.get("seconds").and_then(Value::as_i64).unwrap_or_default())
        };
        Self {
            uid: uid.as_str().unwrap_or_default().to_owned(),
            frame: hash(&frame.to_string()),
            results: results.into_iter().map(without_time).collect(),
        }
    }
}

/// Returns the JSON text, which is the same for equal values: the fields are sorted.
fn text_of(result: &Fields) -> String {
    json!(result).to_string()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn result_of(finding: &Finding, kubevirt_version: &str) -> Fields {
    let fix = if finding.fix.is_empty() { String::new() } else { format!("; to do: {}", finding.fix) };
    let message: String = format!("{}{fix}", finding.what).chars().take(MAX_MESSAGE).collect();
    let mut properties = Map::new();
    let only_with = if finding.is_new { kubevirt_version } else { "" };
    for (key, value) in [
        ("topic", finding.topic.id()),
        ("nic", &finding.nic),
        ("field", &finding.field),
        ("onlyWithKubeVirt", only_with),
    ] {
        if !value.is_empty() {
            properties.insert(key.to_owned(), json!(value));
        }
    }
    let fields = [
        ("source", json!(SOURCE)),
        ("policy", json!(finding.id())),
        ("rule", json!(finding.rule.map(|rule| rule.name))),
        ("category", json!(finding.topic.title())),
        ("severity", json!(severity(finding.topic))),
        ("result", json!(outcome(finding))),
        ("scored", json!(finding.level != Level::Note)),
        ("message", json!(message)),
        ("properties", Value::Object(properties)),
    ];
    fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.to_owned(), value)).collect()
}

fn outcome(finding: &Finding) -> &'static str {
    match (finding.topic, finding.level) {
        (Topic::NotJudged, _) => "error",
        (Topic::NotChecked, _) => "skip",
        (_, Level::Error) => "fail",
        (_, Level::Warning | Level::Note) => "warn",
    }
}

fn severity(topic: Topic) -> &'static str {
    match topic {
        Topic::WillNotBoot => "critical",
        Topic::NotJudged | Topic::NicStuck | Topic::Denied => "high",
        Topic::NicDropped | Topic::CannotMigrate | Topic::FullNow | Topic::Warned => "medium",
        Topic::FullLater => "low",
        Topic::NicPending | Topic::NotChecked => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::FreePorts;

    fn guest(findings: &[(Topic, &str)]) -> AuditedGuest {
        let finding = |(topic, what): &(Topic, &str)| Finding::of(*topic, (*what).to_owned(), "restart it");
        AuditedGuest {
            kind: "VirtualMachine",
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            runs: Some(true),
            ports: FreePorts::unknown("no test needs them"),
            nics: Vec::new(),
            findings: findings.iter().map(finding).collect(),
            bus: None,
        }
    }

    fn only_report(findings: &[(Topic, &str)]) -> NewReport {
        let mut reports = reports_of(&guest(findings), "kubevirt.example.com", "v1.9.0");
        assert_eq!(reports.len(), 1);
        reports.remove(0)
    }

    #[test]
    fn a_report_names_its_guest_and_counts_its_results() {
        let report = only_report(&[(Topic::WillNotBoot, "no ports"), (Topic::NicPending, "\"blue\" waits")]);
        let object = report.object(&KINDS[0], None, 7);
        assert_eq!((&object["apiVersion"], &object["kind"]), (&json!("openreports.io/v1alpha1"), &json!("Report")));
        assert_eq!(object["metadata"]["name"], "nicplug-u-1");
        assert_eq!(object["metadata"]["labels"], json!({"app.kubernetes.io/managed-by": "nicplug"}));
        assert_eq!(object["scope"]["namespace"], "shop");
        for reference in [&object["scope"], &object["metadata"]["ownerReferences"][0]] {
            assert_eq!(reference["apiVersion"], "kubevirt.example.com/v1");
        }
        assert_eq!(object["summary"], json!({"pass": 0, "fail": 1, "warn": 1, "error": 0, "skip": 0}));
        let [boot, pending] = object["results"].as_array().unwrap().as_slice() else { panic!("{object:#}") };
        assert_eq!((&boot["severity"], &boot["result"]), (&json!("critical"), &json!("fail")));
        assert_eq!(boot["message"], "no ports; to do: restart it");
        assert_eq!(boot["timestamp"], json!({"seconds": 7, "nanos": 0}));
        assert_eq!((&pending["result"], &pending["scored"]), (&json!("warn"), &json!(false)));
        assert!(reports_of(&guest(&[]), "kubevirt.io", "v1.9.0").is_empty());
    }

    #[test]
    fn a_report_is_unchanged_whatever_its_times_are_and_a_result_keeps_its_time() {
        let both = [(Topic::FullNow, "full"), (Topic::FullLater, "full later")];
        let mut stored = only_report(&both).object(&KINDS[1], None, 7);
        stored["metadata"]["uid"] = json!("r-1");
        let stored = StoredReport::of(&mut stored);
        assert_eq!(stored.uid, "r-1");
        assert!(only_report(&both).is_stored_as(&stored));
        let changed = [(Topic::FullNow, "full"), (Topic::FullLater, "still full")];
        let report = only_report(&changed);
        assert!(!report.is_stored_as(&stored) && !only_report(&both[..1]).is_stored_as(&stored));
        let object = report.object(&KINDS[1], Some(&stored), 9);
        let times: Vec<&Value> =
            object["results"].as_array().unwrap().iter().map(|result| &result["timestamp"]["seconds"]).collect();
        assert_eq!(times, [7, 9]);
    }

    #[test]
    fn many_results_are_split_and_a_long_message_is_cut() {
        let long = "x".repeat(3 * MAX_MESSAGE);
        let findings = [(Topic::Denied, long.as_str())].repeat(300);
        let reports = reports_of(&guest(&findings), "kubevirt.io", "v1.9.0");
        let names: Vec<&str> = reports.iter().map(|report| report.name.as_str()).collect();
        assert_eq!(names, ["nicplug-u-1", "nicplug-u-1-2", "nicplug-u-1-3"]);
        let mut count = 0;
        for report in reports {
            let object = report.object(&KINDS[0], None, 7);
            assert!(object.to_string().len() < MAX_BYTES + 64 * 1024);
            assert_eq!(object["summary"]["fail"], json!(object["results"].as_array().unwrap().len()));
            count += object["results"].as_array().unwrap().len();
        }
        assert_eq!(count, 300);
    }
}
