//! Fields of an object that no rule reads cost no allocation.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;

use allocation_counter::measure;
use nicplug::{
    admission::{Decision, Endpoint, Reviewer, parse},
    api::review::ParsedRequest,
    cluster::{manifests, store::Store},
    facts::NoFacts,
    settings::Settings,
};
use serde_json::{Value, json};
use support::cases::data;

const REVIEWS: [&str; 3] = ["vm-update-merge-patch-add-nic", "vmi-update-status-heartbeat", "vmi-create"];

/// Adds entries to the lists of a review that no rule reads.
fn with_unread_entries(review: &Value, count: usize) -> Vec<u8> {
    let mut review = review.clone();
    let fields = json!({"manager": "other", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {}}}});
    for side in ["object", "oldObject"] {
        let object = &mut review["request"][side];
        if object.is_null() {
            continue;
        }
        object["metadata"]["managedFields"] = vec![fields.clone(); count].into();
        object["metadata"]["finalizers"] = vec![json!("example.com/one"); count].into();
        object["status"]["guestOSInfo"] = vec![json!({"name": "a \"quoted\" name", "id": 1.5}); count].into();
        let guest = match object["kind"].as_str() {
            Some("VirtualMachine") => &mut object["spec"]["template"]["spec"],
            _ => &mut object["spec"],
        };
        guest["volumes"] = vec![json!({"name": "disk", "containerDisk": {"image": "example.com/disk"}}); count].into();
        guest["accessCredentials"] =
            vec![json!({"sshPublicKey": {"source": {"secret": {"secretName": "key"}}}}); count].into();
    }
    serde_json::to_vec(&review).unwrap()
}

#[test]
fn a_hundred_times_as_many_unread_entries_cost_no_further_allocation() {
    let reviewer = Reviewer::new(Arc::new(NoFacts), Settings::default());
    for name in REVIEWS {
        let text = std::fs::read(data("reviews").join(name).with_extension("json")).unwrap();
        let review: Value = serde_json::from_slice(&text).unwrap();
        for endpoint in Endpoint::ALL {
            let allocations = |count| {
                let body = with_unread_entries(&review, count);
                let mut decision = None;
                let counted = measure(|| decision = Some(reviewer.review(endpoint, &body).decision));
                assert_ne!(decision, Some(Decision::Malformed), "{name}");
                counted.count_total
            };
            // The first review allocates what is allocated once.
            allocations(1);
            assert_eq!(allocations(1), allocations(100), "{name} {endpoint:?}");
        }
    }
}

// === The bytes of one request ===

/// The bytes that the review of a body may allocate in total, at `/validate` and at `/mutate`, with the facts of a
/// cluster. The bodies have 6.0 to 6.6 KiB without blanks, and are not part of these numbers.
const REVIEW_BYTES: [(&str, [u64; 2]); 3] = [
    ("vm-update-merge-patch-add-nic", [4_000, 3_640]),
    ("vm-update-server-side-apply-dry-run", [4_096, 3_780]),
    ("vmi-update-status-heartbeat", [570, 570]),
];

#[test]
fn a_review_allocates_few_bytes() {
    let facts = std::fs::read_to_string(data("facts-default.yaml")).unwrap();
    let mut store = Store::complete();
    for manifest in manifests::read(&facts).unwrap() {
        store.insert(&manifest.object).unwrap();
    }
    let reviewer = Reviewer::new(Arc::new(store), Settings::default());
    for (name, limits) in REVIEW_BYTES {
        let text = std::fs::read(data("reviews").join(name).with_extension("json")).unwrap();
        let body = serde_json::to_vec(&serde_json::from_slice::<Value>(&text).unwrap()).unwrap();
        for (endpoint, limit) in Endpoint::ALL.into_iter().zip(limits) {
            let review = || drop(reviewer.review(endpoint, &body));
            // The first review allocates what is allocated once.
            review();
            let counted = measure(review);
            let bytes = counted.bytes_total;
            assert!(bytes <= limit, "{name} {endpoint:?}: {bytes} bytes for a body of {}", body.len());
        }
    }
}

// === Bodies of an attacker ===

/// The memory that a review may take besides four times its body.
const FIXED: u64 = 2 << 20;

/// The longest answer, in bytes.
const ANSWER: usize = 64 << 10;

/// Returns the body of a review that creates or updates an object.
fn body_of(kind: &str, object: &str, old: Option<&str>) -> String {
    let group = if kind == "VirtualMachinePool" { "pool.kubevirt.io" } else { "kubevirt.io" };
    let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
    let old = old.unwrap_or("null");
    format!(
        r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
        "kind": {{"group": "{group}", "version": "v1", "kind": "{kind}"}}, "operation": "{operation}",
        "namespace": "demo", "name": "vm", "userInfo": {{"username": "alice"}},
        "object": {object}, "oldObject": {old}}}}}"#
    )
}

/// Reviews a body at both endpoints, and checks the memory that it takes and the length of the answer.
#[track_caller]
fn assert_bounded(tag: &str, body: &str) {
    let reviewer = Reviewer::new(Arc::new(NoFacts), Settings::default());
    for endpoint in Endpoint::ALL {
        let mut answer = None;
        let counted = measure(|| answer = Some(reviewer.review(endpoint, body.as_bytes())));
        let (answer, limit) = (answer.unwrap(), 4 * body.len() as u64 + FIXED);
        assert!(
            counted.bytes_max <= limit,
            "{tag} {endpoint:?}: {} bytes for a body of {}",
            counted.bytes_max,
            body.len()
        );
        let length = answer.body.len();
        assert!(length <= ANSWER, "{tag} {endpoint:?}: an answer of {length} bytes");
    }
}

/// Every list of a guest's view, as the text before its entries. The brackets are closed after them.
const GUEST_LISTS: &[&str] = &[
    r#"{"networks": ["#,
    r#"{"volumes": ["#,
    r#"{"resourceClaims": ["#,
    r#"{"domain": {"devices": {"interfaces": ["#,
    r#"{"domain": {"devices": {"disks": ["#,
    r#"{"domain": {"devices": {"filesystems": ["#,
    r#"{"domain": {"devices": {"gpus": ["#,
    r#"{"domain": {"devices": {"hostDevices": ["#,
    r#"{"domain": {"devices": {"inputs": ["#,
    r#"{"domain": {"devices": {"interfaces": [{"name": "a", "ports": ["#,
    r#"{"domain": {"devices": {"interfaces": [{"name": "a", "portRanges": ["#,
    r#"{"domain": {"devices": {"interfaces": [{"dhcpOptions": {"privateOptions": ["#,
];

/// Every list of an object's view outside its guest.
const OBJECT_LISTS: &[&str] = &[
    r#"{"metadata": {"ownerReferences": ["#,
    r#"{"status": {"interfaceRequests": ["#,
    r#"{"status": {"interfaces": ["#,
    r#"{"status": {"conditions": ["#,
];

/// Returns the brackets that close those of a text.
fn closing(text: &str) -> String {
    let open = text.chars().filter_map(|letter| match letter {
        '{' => Some('}'),
        '[' => Some(']'),
        _ => None,
    });
    open.rev().collect()
}

#[test]
fn a_list_of_a_million_empty_objects_takes_at_most_four_times_its_text() {
    let entries = vec!["{}"; 300_000].join(",");
    for (kind, guest) in [
        ("VirtualMachine", r#"{"spec": {"template": {"spec": "#),
        ("VirtualMachineInstance", r#"{"spec": "#),
        ("VirtualMachinePool", r#"{"spec": {"virtualMachineTemplate": {"spec": {"template": {"spec": "#),
    ] {
        let lists = GUEST_LISTS.iter().map(|list| format!("{guest}{list}"));
        for start in lists.chain(OBJECT_LISTS.iter().map(|list| (*list).to_owned())) {
            let end = closing(&start);
            let object = format!("{start}{entries}{end}");
            assert_bounded(&format!("{kind} {start}"), &body_of(kind, &object, None));
            let old = format!("{start}{entries},{{}}{end}");
            assert_bounded(&format!("{kind} update {start}"), &body_of(kind, &object, Some(&old)));
        }
    }
}

#[test]
fn the_lists_of_many_interfaces_take_at_most_four_times_their_text() {
    let lists = [
        format!(r#""ports": [{}]"#, vec!["{}"; 1000].join(",")),
        format!(r#""portRanges": [{}]"#, vec!["{}"; 1000].join(",")),
        format!(r#""dhcpOptions": {{"ntpServers": [{}]}}"#, vec![r#""""#; 1000].join(",")),
        format!(r#""dhcpOptions": {{"privateOptions": [{}]}}"#, vec!["{}"; 1000].join(",")),
    ];
    for list in lists {
        let interfaces = vec![format!(r#"{{"name": "a", {list}}}"#); 255].join(",");
        let object = format!(r#"{{"spec": {{"domain": {{"devices": {{"interfaces": [{interfaces}]}}}}}}}}"#);
        assert_bounded(&list[..20], &body_of("VirtualMachineInstance", &object, None));
    }
}

#[test]
fn a_long_text_is_not_multiplied() {
    let name = "n".repeat(100_000);
    let ports = vec![r#"{"name": "http", "port": 80}"#; 10_000].join(",");
    let duplicates = format!(
        r#"{{"spec": {{"domain": {{"devices": {{"interfaces": [{{"name": "{name}", "masquerade": {{}}, "ports": [{ports}]}}]}}}},
        "networks": [{{"name": "{name}", "pod": {{}}}}]}}}}"#
    );
    assert_bounded("duplicate ports", &body_of("VirtualMachineInstance", &duplicates, None));

    // Each NIC has a long text in each field that a message may quote.
    let text = "é\\\"x".repeat(2_500);
    let interface = format!(
        r#"{{"name": "{text}", "model": "{text}", "macAddress": "{text}", "pciAddress": "{text}", "state": "{text}",
        "binding": {{"name": "{text}"}}, "slirp": {{}}, "tag": "{text}", "ports": [{{"name": "{text}", "protocol": "{text}"}}],
        "dhcpOptions": {{"bootFileName": "{text}", "ntpServers": ["{text}"]}}}}"#
    );
    let network = format!(r#"{{"name": "{text}", "multus": {{"networkName": "{text}/{text}"}}, "pod": {{}}}}"#);
    let guest = format!(
        r#"{{"domain": {{"devices": {{"interfaces": [{}], "disks": [{{"name": "{text}", "disk": {{"bus": "{text}"}}}}]}},
        "machine": {{"type": "{text}"}}, "memory": {{"guest": "{text}"}}}}, "architecture": "{text}",
        "networks": [{}]}}"#,
        vec![interface; 100].join(","),
        vec![network; 100].join(",")
    );
    assert_bounded("guest", &body_of("VirtualMachineInstance", &format!(r#"{{"spec": {guest}}}"#), None));
    let vm = format!(
        r#"{{"metadata": {{"annotations": {{"nicplug.io/add-interfaces": "{text}", "nicplug.io/persist": "{text}",
        "nicplug.io/reserve-ports": "{text}"}}}}, "spec": {{"runStrategy": "Always", "template": {{"spec": {guest}}}}}}}"#
    );
    for old in [None, Some("{}")] {
        assert_bounded("vm", &body_of("VirtualMachine", &vm, old));
    }
}

#[test]
fn a_value_of_a_wrong_type_is_not_repeated_whole() {
    let text = "x".repeat(3 << 20);
    let object = format!(r#"{{"spec": {{"networks": "{text}"}}}}"#);
    assert_bounded("field", &body_of("VirtualMachineInstance", &object, None));
    let object = format!(r#"{{"spec": {{"domain": {{"devices": {{"disks": "{text}"}}}}}}}}"#);
    assert_bounded("deferred field", &body_of("VirtualMachineInstance", &object, None));
    let review = body_of("VirtualMachine", "{}", None);
    assert_bounded("uid", &review.replace(r#""uid": "u""#, &format!(r#""uid": "{text}""#)));
    assert_bounded("kind", &review.replace("AdmissionReview", &text));
    assert_bounded("user", &review.replace(r#"{"username": "alice"}"#, &format!(r#""{text}""#)));
    assert_bounded(
        "name",
        &body_of("VirtualMachine", r#"{"spec": 5}"#, None).replace(r#""vm""#, &format!(r#""{text}""#)),
    );
    assert_bounded("not JSON", &text);
    // A message escapes each of these characters by six.
    let text = "\u{7f}".repeat(3 << 20);
    for field in ["cpu", "resources"] {
        let object = format!(r#"{{"spec": {{"domain": {{"{field}": "{text}"}}}}}}"#);
        assert_bounded(field, &body_of("VirtualMachineInstance", "{}", Some(&object)));
    }
    assert_bounded("spec", &body_of("VirtualMachineInstance", &format!(r#"{{"spec": "{text}"}}"#), None));
    let number = format!(r#"{{"spec": {{"networks": [{{"{text}": 1e999}}]}}}}"#);
    assert_bounded("key", &body_of("VirtualMachineInstance", &number, None));
    let pool = format!(r#"{{"spec": {{"maxUnavailable": [{}]}}}}"#, vec!["0"; 300_000].join(","));
    assert_bounded("number", &body_of("VirtualMachinePool", &pool, None));
}

#[test]
fn texts_that_belong_to_all_nics_are_not_copied_for_each() {
    let nic = |index: usize| format!(r#"{{"name": "n{index}", "multus": {{"networkName": "net{index}"}}}}"#);
    let networks = (0..250).map(nic).collect::<Vec<_>>().join(",");
    let object = format!(r#"{{"spec": {{"networks": [{networks}]}}}}"#);
    let body = body_of("VirtualMachineInstance", &object, None);
    let text = "x".repeat(1 << 20);
    for (tag, written) in [("namespace", "demo"), ("name", "vm")] {
        assert_bounded(tag, &body.replace(&format!("\"{written}\""), &format!("\"{text}\"")));
    }
}

/// Fields that are read into maps and lists of their own.
#[test]
fn labels_and_requirements_of_a_placement_take_at_most_four_times_their_text() {
    let entries = (0..200_000).map(|index| format!(r#""{index:06}":"""#)).collect::<Vec<_>>().join(",");
    let labels = format!(r#"{{"metadata": {{"labels": {{{entries}}}, "annotations": {{{entries}}}}}}}"#);
    let body = body_of("NetworkAttachmentDefinition", &labels, Some("{}"));
    assert_bounded("labels", &body.replace(r#""group": "kubevirt.io""#, r#""group": "k8s.cni.cncf.io""#));
    let terms = vec![r#"{"matchExpressions":[{},{},{},{}]}"#; 40_000].join(",");
    let affinity = format!(r#"{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{terms}]}}}}"#);
    for guest in [
        format!(r#"{{"spec": {{"nodeSelector": {{{entries}}}}}}}"#),
        format!(r#"{{"spec": {{"affinity": {{"nodeAffinity": {affinity}}}}}}}"#),
    ] {
        assert_bounded(&guest[..30], &body_of("VirtualMachineInstance", "{}", Some(&guest)));
    }
}

#[test]
fn the_configuration_of_a_network_and_the_groups_of_a_user_take_at_most_four_times_their_text() {
    let nad = |entries: usize| {
        let config = format!(r#"{{"plugins": [{}]}}"#, vec!["[]"; entries].join(","));
        json!({"metadata": {"name": "vm"}, "spec": {"config": config}}).to_string()
    };
    for entries in [10_000, 300_000] {
        let body = body_of("NetworkAttachmentDefinition", &nad(entries), Some(&nad(entries + 1)));
        assert_bounded("configuration", &body.replace(r#""group": "kubevirt.io""#, r#""group": "k8s.cni.cncf.io""#));
    }
    // Only a fault of a running VM needs the groups, so they are read here.
    for entries in [2_000, 40_000, 300_000] {
        let groups = vec![r#""""#; entries].join(",");
        let user = format!(r#"{{"username": "alice", "groups": [{groups}]}}"#);
        let body = body_of("VirtualMachine", "{}", Some("{}")).replace(r#"{"username": "alice"}"#, &user);
        let parsed = parse(body.as_bytes());
        let Ok(ParsedRequest::Valid(request)) = &parsed else { panic!("{parsed:?}") };
        let counted =
            measure(|| assert_eq!(request.user_info.groups().len(), if entries == 2_000 { entries } else { 0 }));
        assert!(counted.bytes_max <= 4 * body.len() as u64 + FIXED, "{} bytes", counted.bytes_max);
    }
}

#[test]
fn a_json_list_of_requests_takes_at_most_four_times_its_text() {
    let list = vec!["{}"; 300_000].join(",");
    let object = format!(r#"{{"metadata": {{"annotations": {{"nicplug.io/add-interfaces": "[{list}]"}}}}}}"#);
    assert_bounded("JSON", &body_of("VirtualMachine", &object, Some("{}")));
    for list in [vec!["a=b"; 300_000].join(","), ",".repeat(1_000_000)] {
        for annotation in ["add-interfaces", "remove-interfaces", "persist"] {
            let object = format!(r#"{{"metadata": {{"annotations": {{"nicplug.io/{annotation}": "{list}"}}}}}}"#);
            assert_bounded(annotation, &body_of("VirtualMachine", &object, Some("{}")));
        }
    }
}

/// A patch is as long as what it writes: what it restores, and what it writes back.
#[test]
fn a_patch_that_would_be_long_is_not_made() {
    let text = "x".repeat(100_000);
    let vmi = |slots: &str| {
        let metadata = format!(r#"{{"name": "vm", "annotations": {{"nicplug.io/boot-slots": "{slots}"}}}}"#);
        format!(r#"{{"metadata": {metadata}, "spec": {{"domain": {{}}}}}}"#)
    };
    for (tag, object, old) in [("restored", vmi("{}"), vmi(&text)), ("changed", vmi(&text), vmi("{}"))] {
        assert_bounded(tag, &body_of("VirtualMachineInstance", &object, Some(&old)));
    }
    let nics: Vec<String> = (0..255).map(|index| format!(r#"{{"name": "n{index}"}}"#)).collect();
    let networks: Vec<String> =
        (0..255).map(|index| format!(r#"{{"name": "n{index}", "multus": {{"networkName": "net"}}}}"#)).collect();
    let vm = |nics: &[String], networks: &[String]| {
        format!(
            r#"{{"metadata": {{"name": "vm", "annotations": {{"nicplug.io/unplug": "dropped"}}}}, "spec": {{"template":
            {{"spec": {{"domain": {{"devices": {{"interfaces": [{}]}}}}, "networks": [{}]}}}}}}}}"#,
            nics.join(","),
            networks.join(",")
        )
    };
    assert_bounded("unbound", &body_of("VirtualMachine", &vm(&nics, &networks), Some(&vm(&[], &[]))));

    // A running guest, from whose template NICs with long texts are dropped.
    let mut store = Store::complete();
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"}, "status": {"observedKubeVirtVersion": "v1.9.0"}});
    let bridges: Vec<Value> = (0..255).map(|index| json!({"name": format!("n{index}"), "bridge": {}})).collect();
    let networks_of_vmi: Value = serde_json::from_str(&format!("[{}]", networks.join(","))).unwrap();
    let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "namespace": "demo"}, "status": {"phase": "Running"},
        "spec": {"domain": {"devices": {"interfaces": bridges}}, "networks": networks_of_vmi}});
    store.insert(&kubevirt).unwrap();
    store.insert(&vmi).unwrap();
    let reviewer = Reviewer::new(Arc::new(store), Settings::default());
    for (dropped, tag, decision) in [(10, "short", Decision::Patched), (255, &text[..400], Decision::Warned)] {
        let nics: Vec<String> =
            (0..dropped).map(|index| format!(r#"{{"name": "n{index}", "bridge": {{}}, "tag": "{tag}"}}"#)).collect();
        let body = body_of("VirtualMachine", &vm(&[], &[]), Some(&vm(&nics, &networks[..dropped])));
        let answer = reviewer.review(Endpoint::Mutate, body.as_bytes());
        assert_eq!(answer.decision, decision, "{dropped}: {}", String::from_utf8_lossy(&answer.body));
        assert!(answer.body.len() <= ANSWER, "{} bytes", answer.body.len());
    }
}
