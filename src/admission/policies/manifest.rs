//! The manifests: policies and their bindings as YAML, with comments on what they do not cover.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    Check, EXPRESSED, Mutating, NOT_EXPRESSED, Policy, Scope,
    mutation::{self, PATCH, STABLE_SINCE, UNBOUND},
    variables::{self, MatchCondition, Variable},
    version::KubernetesVersion,
};
use crate::{
    admission::verdict::WAIT_ADVICE,
    rules::{Rule, find},
    settings::{Enforcement, KubeVirtGroup, LiveChanges, NamespaceEntry, OverridePolicy, Settings},
};

/// The longest line of a comment.
const COLUMNS: usize = 100;

/// What to export.
#[derive(Clone, Debug)]
pub struct Options {
    /// The enforcement of rules, and what they depend on.
    pub settings: Settings,
    /// The oldest version of Kubernetes that the manifests are for.
    pub kubernetes: KubernetesVersion,
    /// Whether the default binding is exported.
    pub mutating: Mutating,
    /// The namespaces that the policies do not cover.
    pub excluded_namespaces: Vec<String>,
    /// Whether the policies cover only namespaces with the label `nicplug.io/review=enabled`.
    pub opt_in: bool,
}

/// The manifests, and what they cover.
#[derive(Clone, Debug)]
pub struct Export {
    /// YAML documents with comments.
    pub yaml: String,
    /// The number of rules in them.
    pub rules: usize,
    /// Whether the default binding is in them.
    pub has_default_binding: bool,
}

/// Returns the manifests of all rules that are not off.
#[must_use]
pub fn export(options: &Options) -> Export {
    let policies = EXPRESSED.iter().filter_map(|policy| EnforcedPolicy::of(policy, &options.settings));
    let (enforced, off): (Vec<_>, Vec<_>) = policies.partition(EnforcedPolicy::is_on);
    let default_binding = default_binding(options);
    let mut yaml = header(options);
    for EnforcedPolicy { rule, .. } in &off {
        comment(&mut yaml, &format!("{} {}: off in the settings.", rule.id, rule.name));
    }
    if let Err(reason) = default_binding {
        comment(&mut yaml, &format!("The default binding: {reason}."));
    }
    notes(&mut yaml, &options.settings);
    for policy in &enforced {
        add_policy(&mut yaml, policy.policy, policy.rule, options);
        add_bindings(&mut yaml, policy, options);
    }
    if let Ok(version) = default_binding {
        add_default_binding(&mut yaml, version, options);
    }
    Export { yaml, rules: enforced.len(), has_default_binding: default_binding.is_ok() }
}

/// A policy, and how strictly its rule is enforced.
struct EnforcedPolicy<'p> {
    policy: &'p Policy,
    rule: &'p Rule,
    /// The enforcement in all namespaces but the others.
    enforcement: Enforcement,
    /// The namespaces with another enforcement.
    others: Vec<(String, Enforcement)>,
}

impl<'p> EnforcedPolicy<'p> {
    /// Returns the enforcement by the settings; `None` if no rule has its id.
    fn of(policy: &'p Policy, settings: &Settings) -> Option<Self> {
        let rule = find(policy.rule)?;
        let of_namespace = |namespace: &str| {
            let enforcement = settings.enforcement(rule.id, namespace).unwrap_or(rule.enforcement);
            let live_changes = settings.live_changes("", Vec::<String>::new, namespace);
            let waits = policy.scope == Scope::Hotplug && live_changes == LiveChanges::Warn;
            if waits && enforcement == Enforcement::Deny { Enforcement::Warn } else { enforcement }
        };
        // No namespace has this name, so only a pattern for all matches it.
        let enforcement = of_namespace("");
        let names = settings.namespaces.iter().filter_map(|(pattern, _)| pattern.name());
        let others = names.map(|name| (name.to_owned(), of_namespace(name)));
        Some(Self { policy, rule, enforcement, others: others.filter(|(_, other)| *other != enforcement).collect() })
    }

    fn is_on(&self) -> bool {
        self.enforcement != Enforcement::Off || self.others.iter().any(|(_, other)| *other != Enforcement::Off)
    }
}

/// Returns the version of the API for the default binding, or why it is not exported.
fn default_binding(options: &Options) -> Result<&'static str, &'static str> {
    let version = mutation::api_version(options.kubernetes);
    match options.mutating {
        Mutating::Never => Err("not wanted (--mutating=never)"),
        Mutating::Auto if options.kubernetes < STABLE_SINCE => {
            Err("MutatingAdmissionPolicy is stable since Kubernetes 1.36; give the cluster's --kubernetes-version")
        }
        Mutating::Auto | Mutating::Always => version.ok_or("MutatingAdmissionPolicy exists since Kubernetes 1.32"),
    }
}

// === Comments ===

fn header(options: &Options) -> String {
    let mut yaml = String::new();
    let version = env!("CARGO_PKG_VERSION");
    comment(
        &mut yaml,
        &format!(
            "Rules of nicplug v{version} as admission policies for Kubernetes {} or newer, which the API server \
             evaluates without a webhook. `nicplug export-policy` writes this file.",
            options.kubernetes
        ),
    );
    yaml.push_str("#\n");
    comment(&mut yaml, "Each policy lists what it does not cover. Not in this file:");
    for rule in NOT_EXPRESSED {
        let name = find(rule.rule).map(|rule| rule.name).unwrap_or_default();
        comment(&mut yaml, &format!("{} {name}: {}.", rule.rule, rule.reason));
    }
    yaml
}

/// Lists the settings that no policy has.
fn notes(yaml: &mut String, settings: &Settings) {
    let live = &settings.live_changes;
    let mut namespaces = settings.namespaces.iter();
    for (is_set, text) in [
        (!live.users.is_empty(), "liveChanges.users"),
        (!live.groups.is_empty(), "liveChanges.groups"),
        (
            namespaces.any(|(pattern, entry)| pattern.is_partial() && *entry != NamespaceEntry::default()),
            "namespaces with a pattern: a policy selects namespaces by their whole names",
        ),
        (
            settings.namespace_override != OverridePolicy::Forbid,
            "namespaceOverride: the annotation nicplug.io/rules of a Namespace has no effect on policies",
        ),
    ] {
        if is_set {
            comment(yaml, &format!("Setting {text}."));
        }
    }
}

/// Adds a comment, wrapped; further lines are indented.
fn comment(yaml: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            yaml.push_str(&line);
            yaml.push('\n');
            "#  ".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    yaml.push_str(&line);
    yaml.push('\n');
}

// === Policies ===

fn name_of(rule: &Rule) -> String {
    format!("nicplug-{}-{}", rule.id.to_lowercase(), rule.name)
}

fn add_policy(yaml: &mut String, policy: &Policy, rule: &Rule, options: &Options) {
    yaml.push_str("---\n");
    comment(yaml, &format!("{} {}: {}", rule.id, rule.name, rule.summary()));
    for limit in policy.limits {
        comment(yaml, &format!("Limit: {limit}"));
    }
    let found = |check: &Check| check.found.replace("HOTPLUG_BINDINGS", &list(&options.settings.hotplug.bindings));
    add_head(yaml, "v1", "ValidatingAdmissionPolicy", &name_of(rule));
    yaml.push_str("  failurePolicy: Fail\n");
    add_constraints(yaml, policy.scope, &options.settings);
    add_conditions(yaml, policy.scope.match_conditions());
    yaml.push_str("  variables:\n");
    for Variable { name, expression } in variables::used_by(policy.checks.iter().map(|check| check.found)) {
        add_named(yaml, name, expression);
    }
    for check in policy.checks {
        add_named(yaml, check.name, &found(check));
    }
    yaml.push_str("  validations:\n");
    let advice = match policy.scope {
        Scope::Shape => "",
        Scope::Hotplug => WAIT_ADVICE,
    };
    for Check { name, fix, .. } in policy.checks {
        // Writing to a string cannot fail.
        let _ = writeln!(yaml, "  - expression: variables.{name}.size() == 0");
        let end = if advice.is_empty() { String::new() } else { format!("' +\n  '{advice}") };
        let message = format!("variables.{name}[0] +\n  '; {fix}{end} [{}]'", rule.id);
        add_block(yaml, 4, "messageExpression", &message);
        // Kubernetes uses it if the expression fails.
        let summary = rule.summary();
        add_block(yaml, 4, "message", &format!("{}; {fix}{advice} [{}]", summary.trim_end_matches('.'), rule.id));
        yaml.push_str("    reason: Invalid\n");
    }
}

fn add_default_binding(yaml: &mut String, version: &str, options: &Options) {
    const NAME: &str = "nicplug-default-binding";
    yaml.push_str("---\n");
    comment(
        yaml,
        "Sets bridge: {} on a NIC without a binding that an update adds to a network other than the pod network: the \
         only binding that can be hotplugged in every cluster.",
    );
    add_head(yaml, version, "MutatingAdmissionPolicy", NAME);
    yaml.push_str("  failurePolicy: Ignore\n  reinvocationPolicy: IfNeeded\n");
    yaml.push_str("  matchConstraints:\n    matchPolicy: Equivalent\n    resourceRules:\n");
    let guests = ["virtualmachines", "virtualmachineinstances"];
    add_resources(yaml, KubeVirtGroup::KubeVirt, &["v1", "v1alpha3"], &["UPDATE"], &guests, &options.settings);
    add_conditions(yaml, Scope::Shape.match_conditions());
    let (name, expression) = UNBOUND;
    yaml.push_str("  variables:\n");
    for Variable { name, expression } in variables::used_by([expression, PATCH].into_iter()) {
        add_named(yaml, name, expression);
    }
    add_named(yaml, name, expression);
    yaml.push_str("  mutations:\n  - patchType: JSONPatch\n    jsonPatch:\n");
    add_block(yaml, 6, "expression", PATCH);
    yaml.push_str("---\n");
    add_head(yaml, version, "MutatingAdmissionPolicyBinding", NAME);
    // Writing to a string cannot fail.
    let _ = writeln!(yaml, "  policyName: {NAME}");
    add_namespaces(yaml, options, &Names::Except(&[]));
}

fn add_head(yaml: &mut String, version: &str, kind: &str, name: &str) {
    let _ = write!(
        yaml,
        "apiVersion: admissionregistration.k8s.io/{version}\nkind: {kind}\nmetadata:\n  name: {name}\n  labels:\n    \
         app.kubernetes.io/name: nicplug\n    app.kubernetes.io/component: policy\nspec:\n"
    );
}

fn add_constraints(yaml: &mut String, scope: Scope, settings: &Settings) {
    yaml.push_str("  matchConstraints:\n    matchPolicy: Equivalent\n    resourceRules:\n");
    let versions = ["v1", "v1alpha3"];
    match scope {
        Scope::Shape => {
            let writes = ["CREATE", "UPDATE"];
            let guests = ["virtualmachines", "virtualmachineinstances", "virtualmachineinstancereplicasets"];
            add_resources(yaml, KubeVirtGroup::KubeVirt, &versions, &writes, &guests, settings);
            let versions = ["v1alpha1", "v1beta1"];
            add_resources(yaml, KubeVirtGroup::Pool, &versions, &writes, &["virtualmachinepools"], settings);
        }
        Scope::Hotplug => {
            add_resources(yaml, KubeVirtGroup::KubeVirt, &versions, &["UPDATE"], &["virtualmachines"], settings);
        }
    }
}

/// Adds a resource rule for a group of KubeVirt and the groups of its forks.
fn add_resources(
    yaml: &mut String,
    group: KubeVirtGroup,
    versions: &[&str],
    operations: &[&str],
    resources: &[&str],
    settings: &Settings,
) {
    let forks = settings.api.groups.get(&group).into_iter().flatten().map(String::as_str);
    let groups: Vec<&str> = [group.as_str()].into_iter().chain(forks).collect();
    // The versions of a fork are its own.
    let all = ["*"];
    let versions = if groups.len() > 1 { &all } else { versions };
    let _ = write!(
        yaml,
        "    - apiGroups: {}\n      apiVersions: {}\n      operations: {}\n      resources: {}\n",
        flow(&groups),
        flow(versions),
        flow(operations),
        flow(resources)
    );
}

fn add_conditions(yaml: &mut String, conditions: &[MatchCondition]) {
    yaml.push_str("  matchConditions:\n");
    for MatchCondition { name, expression } in conditions {
        add_named(yaml, name, expression);
    }
}

fn add_named(yaml: &mut String, name: &str, expression: &str) {
    let _ = writeln!(yaml, "  - name: {name}");
    add_block(yaml, 4, "expression", expression);
}

/// Adds a field with a text as block, which needs no escapes.
fn add_block(yaml: &mut String, indent: usize, key: &str, text: &str) {
    let _ = writeln!(yaml, "{:indent$}{key}: |-", "");
    for line in text.lines() {
        let _ = writeln!(yaml, "{:indent$}  {line}", "");
    }
}

/// Returns a list of names as YAML in one line.
fn flow(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| Value::from(*name).to_string()).collect();
    format!("[{}]", quoted.join(", "))
}

/// Returns a list of texts in CEL.
fn list(texts: &[String]) -> String {
    let quoted: Vec<String> =
        texts.iter().map(|text| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))).collect();
    format!("[{}]", quoted.join(", "))
}

// === Bindings ===

/// The namespaces of a binding, by name.
enum Names<'n> {
    Except(&'n [String]),
    Only(&'n [String]),
}

/// Adds the bindings of a policy: one for all namespaces, and one for those in which the settings deny instead of warning
/// or warn instead of denying.
fn add_bindings(yaml: &mut String, policy: &EnforcedPolicy, options: &Options) {
    let EnforcedPolicy { rule, enforcement, others, .. } = policy;
    let name = name_of(rule);
    if *enforcement != Enforcement::Off {
        let names: Vec<String> = others.iter().map(|(name, _)| name.clone()).collect();
        add_binding(yaml, &name, &name, *enforcement, options, &Names::Except(&names));
    }
    for enforcement in [Enforcement::Deny, Enforcement::Warn] {
        let names = others.iter().filter(|(_, other)| *other == enforcement);
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        if !names.is_empty() {
            let binding = format!("{name}-{}", enforcement.as_str());
            add_binding(yaml, &name, &binding, enforcement, options, &Names::Only(&names));
        }
    }
}

fn add_binding(
    yaml: &mut String,
    policy: &str,
    name: &str,
    enforcement: Enforcement,
    options: &Options,
    names: &Names,
) {
    yaml.push_str("---\n");
    add_head(yaml, "v1", "ValidatingAdmissionPolicyBinding", name);
    let action = if enforcement == Enforcement::Deny { "Deny" } else { "Warn" };
    let _ = writeln!(yaml, "  policyName: {policy}\n  validationActions: [{action}]");
    add_namespaces(yaml, options, names);
}

fn add_namespaces(yaml: &mut String, options: &Options, names: &Names) {
    let mut expressions = Vec::new();
    let mut add = |operator: &str, names: &[&str]| {
        if !names.is_empty() {
            let name = "kubernetes.io/metadata.name";
            expressions.push(format!("{{key: {name}, operator: {operator}, values: {}}}", flow(names)));
        }
    };
    let excluded = options.excluded_namespaces.iter();
    match names {
        Names::Except(names) => add("NotIn", &excluded.chain(*names).map(String::as_str).collect::<Vec<_>>()),
        Names::Only(names) => {
            add("In", &names.iter().map(String::as_str).collect::<Vec<_>>());
            add("NotIn", &excluded.map(String::as_str).collect::<Vec<_>>());
        }
    }
    if options.opt_in {
        expressions.push("{key: nicplug.io/review, operator: In, values: [\"enabled\"]}".to_owned());
    }
    if expressions.is_empty() {
        return;
    }
    yaml.push_str("  matchResources:\n    namespaceSelector:\n      matchExpressions:\n");
    for expression in expressions {
        let _ = writeln!(yaml, "      - {expression}");
    }
}
