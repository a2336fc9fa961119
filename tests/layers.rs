//! Which module may use which, and which names a pure module may not use.
//!
//! The sources are parsed with `syn`, so a path is found inside a macro and ignored in a comment or a string. Items under
//! `#[cfg(test)]` are not checked. A module that is missing from [`MODULES`] fails the test: add it there with its edges.

// Helpers of tests fail as tests do.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ExprAsync, File, ImplItem, Item, ItemMod, ItemUse, Macro, Signature, UseTree,
    visit::{self, Visit},
};

/// The modules at the top of `src`, each after those that it uses.
const MODULES: &[Module] = &[
    Module::pure("api", &[]),
    Module::pure("kubevirt", &[]),
    Module::pure("pci", &["api", "kubevirt"]),
    Module::pure("change", &["api"]),
    Module::pure("settings", &[]),
    Module::pure("facts", &["api", "kubevirt", "pci", "change", "settings"]),
    Module::pure("annotations", &["api", "kubevirt", "change", "facts", "settings"]),
    Module::pure("rules", &["api", "kubevirt", "pci", "change", "facts", "settings", "annotations"]),
    Module::pure("mutations", &["api", "kubevirt", "pci", "change", "facts", "settings", "annotations"]),
    Module::pure("admission", ALL_BEFORE),
    Module::pure("hotplug", ALL_BEFORE),
    Module::open("certificates", &[]),
    Module::open("k8s", &["api"]),
    Module::open("cluster", &["api", "kubevirt", "pci", "change", "facts", "settings", "annotations", "k8s"]),
    Module::open(
        "controllers",
        &[
            "api",
            "annotations",
            "certificates",
            "facts",
            "settings",
            "hotplug::place",
            "hotplug::progress::Direction",
            "k8s",
            "cluster::cache",
            "cluster::persist_queue",
        ],
    ),
    Module::open("telemetry", &[]),
    Module::open(
        "server",
        &[
            "api",
            "change",
            "facts",
            "settings",
            "rules",
            "admission",
            "hotplug::place",
            "cluster",
            "controllers",
            "k8s",
            "telemetry",
            "certificates",
        ],
    ),
    Module::open("cli", ALL_BEFORE),
    Module::open("lib", ALL_BEFORE),
    Module::open("main", ALL_BEFORE),
];

/// Stands for every module that the list has before this one.
const ALL_BEFORE: &[&str] = &["*"];

/// What a pure module may not use: the runtime, the network, the clock, the disk, the process.
const FORBIDDEN: &[&[&str]] = &[
    &["tokio"],
    &["tokio_rustls"],
    &["axum"],
    &["http_body_util"],
    &["hyper"],
    &["hyper_util"],
    &["rustls"],
    &["kube"],
    &["std", "fs"],
    &["std", "env"],
    &["std", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
];

struct Module {
    name: &'static str,
    /// Modules, or paths of modules: `cluster::persist_queue` allows that one and nothing else of `cluster`.
    uses: &'static [&'static str],
    is_pure: bool,
}

impl Module {
    const fn pure(name: &'static str, uses: &'static [&'static str]) -> Self {
        Self { name, uses, is_pure: true }
    }

    const fn open(name: &'static str, uses: &'static [&'static str]) -> Self {
        Self { name, uses, is_pure: false }
    }

    /// Whether a path of the crate may be used here.
    fn may_use(&self, path: &[String]) -> bool {
        let Some(first) = path.first() else { return self.uses == ALL_BEFORE };
        let is_before = || MODULES.iter().take_while(|module| module.name != self.name).any(|it| it.name == first);
        let is_listed = |listed: &&str| {
            path.iter().map(String::as_str).zip(listed.split("::")).all(|(a, b)| a == b)
                && path.len() >= listed.split("::").count()
        };
        self.name == first || self.uses.iter().any(is_listed) || (self.uses == ALL_BEFORE && is_before())
    }
}

#[test]
fn each_module_uses_only_what_its_edges_allow() {
    let faults: Vec<String> = sources().iter().flat_map(|source| faults(&source.module, &source.text)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A parent uses its children and a child the items of its parent; every other circle is a fault.
#[test]
fn no_two_files_use_each_other() {
    let sources = sources();
    let modules: BTreeSet<&[String]> = sources.iter().map(|source| source.module.as_slice()).collect();
    let mut edges: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
    for source in &sources {
        for path in Paths::of(&source.module, &source.text).in_crate {
            let used = (1..=path.len()).rev().find_map(|length| modules.get(path.get(..length)?).copied());
            if let Some(used) =
                used.filter(|used| !used.starts_with(&source.module) && !source.module.starts_with(used))
            {
                edges.entry(&source.module).or_default().insert(used);
            }
        }
    }
    let circles: Vec<String> = modules.iter().filter_map(|module| circle(module, &edges)).collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// The shortest way from a module back to itself, if its modules are on a circle; told once, by the first of them.
fn circle(start: &[String], edges: &BTreeMap<&[String], BTreeSet<&[String]>>) -> Option<String> {
    let mut ways: Vec<Vec<&[String]>> = vec![vec![start]];
    let mut seen: BTreeSet<&[String]> = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in edges.get(way.last()?).into_iter().flatten() {
                if *next == start {
                    let is_first = way.iter().all(|module| start <= *module);
                    let names: Vec<String> = way.iter().chain([next]).map(|module| module.join("::")).collect();
                    return is_first.then(|| names.join(" → "));
                }
                if seen.insert(next) {
                    longer.push(way.iter().copied().chain([*next]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The items at the top of `src` are few enough to be read at once, and each of them is a module with edges.
#[test]
fn the_top_of_src_is_short() {
    let entries = fs::read_dir(root()).unwrap().count();
    assert!(entries < 21, "src has {entries} entries");
}

/// A file has at most 500 lines without its tests, or its head says why it is longer.
#[test]
fn no_file_is_too_long() {
    const LONGEST: usize = 500;
    let too_long: Vec<String> = sources()
        .iter()
        .filter(|source| !source.text.contains("//! This file is long because"))
        .filter_map(|source| {
            let code = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().count();
            (code > LONGEST).then(|| format!("{}: {code} lines of code", source.module.join("::")))
        })
        .collect();
    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
}

/// A file of `src`, with the path of its module: `["cluster", "store"]`.
struct Source {
    module: Vec<String>,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let files = rust_files(&root());
    let sources: Vec<Source> = files
        .iter()
        .map(|file| Source {
            module: module_of(file.strip_prefix(root()).unwrap()),
            text: fs::read_to_string(file).unwrap(),
        })
        .collect();
    assert!(sources.iter().any(|source| source.module == ["lib"]), "no src/lib.rs among {files:?}");
    sources
}

/// All `*.rs` files below `folder`, sorted.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// `cluster/mod.rs` is `cluster`, `cluster/store.rs` is `cluster::store`.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").iter().map(|segment| segment.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// What the file uses and may not, one line each.
fn faults(module: &[String], source: &str) -> Vec<String> {
    let name = module.first().map_or("", String::as_str);
    let file = module.join("::");
    let Some(rules) = MODULES.iter().find(|module| module.name == name) else {
        return vec![format!("{file}: the module `{name}` is missing from MODULES in tests/layers.rs")];
    };
    let paths = Paths::of(module, source);
    let mut faults: BTreeSet<String> = BTreeSet::new();
    for path in paths.in_crate.iter().filter(|path| !rules.may_use(path)) {
        faults.insert(format!("{file}: `{name}` may not use `crate::{}`", path.join("::")));
    }
    for path in paths.elsewhere.iter().filter(|path| rules.is_pure && is_forbidden(path)) {
        faults.insert(format!("{file}: `{name}` is pure and may not use `{}`", path.join("::")));
    }
    if rules.is_pure && paths.is_async {
        faults.insert(format!("{file}: `{name}` is pure and may not be async"));
    }
    faults.into_iter().collect()
}

/// Whether the path is one of [`FORBIDDEN`], leads into one, or imports a parent of one (`use std::time;`).
fn is_forbidden(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).filter(|segment| *segment != "*").collect();
    FORBIDDEN.iter().any(|forbidden| path.starts_with(forbidden) || forbidden.starts_with(&path))
}

/// The paths that a file uses outside of its tests.
#[derive(Default)]
struct Paths {
    /// The module that is being read, inline modules included.
    here: Vec<String>,
    /// From the root of the crate; empty for the root itself.
    in_crate: BTreeSet<Vec<String>>,
    /// Of other crates, imported or written with two and more segments.
    elsewhere: BTreeSet<Vec<String>>,
    is_async: bool,
}

impl Paths {
    fn of(module: &[String], source: &str) -> Self {
        let mut file: File = syn::parse_file(source).unwrap_or_else(|error| panic!("{module:?}: {error}"));
        file.items.retain(|item| !is_of_tests(attributes(item)));
        let here =
            if matches!(module, [root] if root == "lib" || root == "main") { Vec::new() } else { module.to_vec() };
        let mut paths = Self { here, ..Self::default() };
        paths.visit_file(&file);
        paths
    }

    fn add(&mut self, path: &[String]) {
        let Some(first) = path.first() else { return };
        let supers = path.iter().take_while(|segment| *segment == "super").count();
        let target = match first.as_str() {
            "crate" | "nicplug" => path.get(1..).unwrap_or_default().to_vec(),
            "self" => [&self.here, path.get(1..).unwrap_or_default()].concat(),
            "super" => {
                let base = self.here.get(..self.here.len().saturating_sub(supers)).unwrap_or_default();
                [base, path.get(supers..).unwrap_or_default()].concat()
            }
            _ => {
                self.elsewhere.insert(path.to_vec());
                return;
            }
        };
        self.in_crate.insert(target);
    }

    fn add_tree(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |segment: String| [prefix, &[segment]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) if name.ident == "self" => self.add(prefix),
            UseTree::Name(name) => self.add(&with(name.ident.to_string())),
            UseTree::Rename(rename) if rename.ident == "self" => self.add(prefix),
            UseTree::Rename(rename) => self.add(&with(rename.ident.to_string())),
            UseTree::Glob(_) => self.add(&with("*".to_owned())),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.add_tree(prefix, item)),
        }
    }

    /// Adds the paths of a macro's tokens: every identifier that `::` and another one follow.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_path(&mut path);
                    }
                    path.push(ident.to_string());
                    self.is_async |= ident == "async";
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
                other => {
                    self.end_path(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<String>) {
        if path.len() > 1 {
            self.add(path);
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_of_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => &[],
        };
        if !is_of_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.here.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.here.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.add(&segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.add_tokens(item.tokens.clone());
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        self.is_async |= signature.asyncness.is_some();
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, _: &'ast ExprAsync) {
        self.is_async = true;
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

#[test]
fn the_edges_point_one_way() {
    for (at, module) in MODULES.iter().enumerate() {
        for used in module.uses.iter().filter(|used| **used != "*") {
            let used = used.split("::").next().unwrap();
            assert!(
                MODULES.iter().take(at).any(|before| before.name == used),
                "{} uses {used}, which is not listed before it",
                module.name
            );
        }
    }
}

#[test]
fn pure_modules_use_pure_modules_only() {
    for module in MODULES.iter().filter(|module| module.is_pure) {
        for used in MODULES.iter().filter(|used| module.may_use(&[used.name.to_owned()])) {
            assert!(used.is_pure, "{} is pure and uses {}", module.name, used.name);
        }
    }
}

/// Each test source stands in the module `rules` or in the one that is named.
fn faults_in(module: &str, source: &str) -> Vec<String> {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    faults(&module, source)
}

#[test]
fn a_forbidden_edge_is_found_however_it_is_written() {
    for source in [
        "use crate::cluster;",
        "use crate::cluster::Files as Source;",
        "pub(crate) use crate::{api, cluster};",
        "use crate::{api::{self, vm}, cluster::files};",
        "use {std::fmt, crate::{cluster::{files::*}, api}};",
        "use nicplug::cluster::Files;",
        "use super::cluster::Files;",
        "mod inner { use super::super::cluster::Files; }",
        "use ::nicplug::{api::vm, cluster::Files};",
        "fn f(files: &crate::cluster::Files) {}",
        "macro_rules! m { () => { $crate::cluster::files() } }",
        "fn f() { assert!(crate::cluster::files()); }",
        "const A: &str = \"\\\"\"; const B: char = '\"'; use crate::cluster::Files;",
        "fn f<'a>(text: &'a str) -> crate::cluster::Files<'a> {}",
        "#[cfg(test)] use crate::{server, telemetry}; use crate::cluster::Files;",
        "#[cfg(test)] mod tests { use super::*; } use crate::cluster::Files;",
        "#[cfg(test)] fn f() -> [u8; 2] { [0; 2] } use crate::cluster::Files;",
    ] {
        let found = faults_in("rules", source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        assert!(found.iter().all(|it| it.starts_with("rules: `rules` may not use `crate::cluster")), "{found:?}");
    }
}

#[test]
fn a_path_below_a_module_can_be_allowed_alone() {
    assert_eq!(faults_in("controllers::persist", "use crate::cluster::persist_queue::Queue;"), Vec::<String>::new());
    for source in ["use crate::cluster;", "use crate::cluster::store::Store;", "use crate::cluster::*;"] {
        assert_eq!(faults_in("controllers::persist", source).len(), 1, "{source}");
    }
}

#[test]
fn a_child_has_the_edges_of_its_parent() {
    let child = "rules::feature_gate";
    assert_eq!(faults_in(child, "use super::Rule; use crate::rules::Finding; use self::helper;"), Vec::<String>::new());
    assert_eq!(faults_in(child, "use super::super::{facts::Facts, admission::verdict::Verdict};").len(), 1);
    assert_eq!(faults_in(child, "use crate::admission::Reviewer;").len(), 1);
}

#[test]
fn the_root_of_the_crate_does_not_lead_around_the_edges() {
    for source in ["use crate::*;", "use crate::Reviewer;", "use crate as root;", "use crate::{self as root};"] {
        assert_eq!(faults_in("rules", source).len(), 1, "{source}");
    }
}

#[test]
fn tests_comments_and_strings_are_not_checked() {
    let source = r##"
        //! crate::server::run is elsewhere; /* use crate::cluster;
        /* use crate::server; /* nested */ use std::fs; */
        const TEXT: &str = "use crate::server;";
        const RAW: &str = r#"" use crate::server; "#;
        const TICK: (char, char) = ('\'', '"'); // "
        #[cfg(test)]
        use crate::{cluster, server};
        impl Text { #[cfg(test)] fn read(server: crate::server::Server) {} }
        #[cfg(test)]
        mod tests {
            use crate::{cluster::Files, server::Server};
            fn read() { std::fs::read("x").unwrap(); }
        }
    "##;
    assert_eq!(faults_in("rules", source), Vec::<String>::new());
}

#[test]
fn a_pure_module_does_not_use_what_is_forbidden() {
    for source in [
        "use tokio::spawn;",
        "use std::{fmt, fs};",
        "use std::{collections::BTreeMap, time::{Duration, Instant}};",
        "use std::time;",
        "use std::time::*;",
        "fn f() { let now = ::std::time::SystemTime::now(); }",
        "fn f() { std::env::var(\"HOME\"); }",
        "fn f() { println!(\"{:?}\", std::env::var(\"HOME\")); }",
        "async fn f() {}",
    ] {
        assert_eq!(faults_in("admission", source).len(), 1, "{source}");
    }
    assert_eq!(faults_in("admission", "use std::time::Duration; use std::fmt::Write;"), Vec::<String>::new());
    assert_eq!(faults_in("server", "use std::{fs, time::Instant}; async fn f() {}"), Vec::<String>::new());
}

#[test]
fn a_module_without_edges_is_a_fault() {
    let found = faults_in("helpers::strings", "");
    assert_eq!(found, ["helpers::strings: the module `helpers` is missing from MODULES in tests/layers.rs"]);
}

#[test]
fn the_way_around_a_circle_is_named_once() {
    let [one, other, third] = ["a", "b", "c"].map(|name| vec![name.to_owned()]);
    let edges = BTreeMap::from([
        (one.as_slice(), BTreeSet::from([other.as_slice(), third.as_slice()])),
        (other.as_slice(), BTreeSet::from([one.as_slice()])),
    ]);
    assert_eq!(circle(&one, &edges).as_deref(), Some("a → b → a"));
    assert_eq!(circle(&other, &edges), None);
    assert_eq!(circle(&third, &edges), None);
}
