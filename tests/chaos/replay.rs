//! Replays requests by the library alone, and compares the answers.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use json_patch::Patch;
use nicplug::{
    admission::{Endpoint, Reviewer},
    api::network::NadRef,
    change::{Change, MigrationStart, NetworkChange},
    facts::{Fact, FactSource, Facts, Nads},
    rules,
    settings::Settings,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    history::{Contents, ELSEWHERE, History, NETWORK, Part, STATIC, State},
    request::Request,
};
use crate::support::{
    api_server::{crds::Kind, requests::Response},
    builders::annotations_of,
    cases::{Cause, store},
};

/// The most that facts may lag behind the cluster if the API server was not disturbed.
const LAG: Duration = Duration::from_secs(10);

/// nicplug reads the cluster again for so long before a denial.
const RECHECK: Duration = Duration::from_secs(2);

/// An answer of the API server, as far as nicplug decides it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Outcome {
    /// The message and the causes of a denial.
    denial: Option<(String, Vec<Cause>)>,
    pub(crate) warnings: Vec<String>,
    /// The spec and the annotations of the object of a request that was allowed.
    object: Option<(Value, Value)>,
}

impl Outcome {
    /// Returns what the API server answered.
    pub(crate) fn of(request: &Request, response: &Response) -> Self {
        let denial = (!response.is_ok()).then(|| {
            let message = response.message();
            let of_nicplug =
                message.strip_prefix(&format!("admission webhook \"{}\" denied the request: ", request.webhook()));
            let message = of_nicplug.filter(|_| response.code == 422);
            (
                message.map_or_else(
                    || format!("{} by the API server: {}", response.code, response.message()),
                    str::to_owned,
                ),
                response.causes(),
            )
        });
        let object = (response.is_ok() && request.kind != Kind::Nad).then(|| parts(&response.body));
        Self { denial, warnings: response.warnings.clone(), object }
    }

    pub(crate) fn is_denied(&self) -> bool {
        self.denial.is_some()
    }

    /// Returns it in a few lines.
    pub(crate) fn text(&self) -> String {
        let object = self.object.as_ref().map(|(spec, annotations)| format!("{annotations} {spec}"));
        format!("denial: {:?}\n  warnings: {:?}\n  object: {}", self.denial, self.warnings, object.unwrap_or_default())
    }

    /// Whether the object is another one than that of the request.
    pub(crate) fn is_patched(&self, request: &Request) -> bool {
        self.object.as_ref().is_some_and(|object| *object != parts(&request.after))
    }

    fn is_silent(&self) -> bool {
        self.denial.is_none() && self.warnings.is_empty()
    }
}

fn parts(object: &Value) -> (Value, Value) {
    (object["spec"].clone(), annotations_of(object).into())
}

/// How an answer agrees with the replays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Agreement {
    /// With the facts of that time; and whether other facts would give another answer.
    Current { depends_on_facts: bool },
    /// With facts that were replaced this long before the request was sent, and their part.
    Lagging(Duration, Part),
    /// With some facts being unknown.
    Unknown,
    /// With the object as it was sent: the API server could not call the webhook whose failure is ignored.
    Ignored,
    /// With no replay.
    Wrong,
}

/// What happened around the time of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disturbance {
    /// Since when nicplug could not read the API server, if it could not; facts may be of before, or unknown.
    pub(crate) facts: Option<Instant>,
    /// Whether calls of the webhooks may have failed.
    pub(crate) calls: bool,
}

/// The facts that are unknown to a replay.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Hidden(u16);

impl Hidden {
    const MACS: u16 = 1;
    const GUEST: u16 = 2;
    const VM: u16 = 4;
    const KUBEVIRT: u16 = 8;
    const MIGRATION: u16 = 16;
    const USERS: u16 = 32;
    const ATTACHMENT: u16 = 64;
    const ISOLATION: u16 = 128;
    /// The networks, each by its own bit.
    const NETWORKS: [(&'static str, u16); 4] =
        [(STATIC, 256), (NETWORK, Self::NETWORK), ("flipp", Self::NETWORK), (ELSEWHERE, 1024)];
    /// Also the network whose name is similar, because a message names the other one.
    const NETWORK: u16 = 512;
    const END: u16 = 2048;
    /// The facts that are not listed here.
    const REST: u16 = !(Self::END - 1);
    const ALL: u16 = u16::MAX;

    fn hides(self, what: u16) -> bool {
        self.0 & what != 0
    }

    /// Returns what may be unknown if the API server does not answer: all that is read again before a denial, or, if it
    /// answers some requests, one or two of the facts.
    fn sets() -> Vec<Self> {
        let again = Self::ALL & !(Self::USERS | Self::ATTACHMENT | Self::ISOLATION | Self::MACS | Self::REST);
        let all = [again, again | Self::MACS, again | Self::USERS, Self::ALL & !Self::REST];
        let bits = || std::iter::successors(Some(1), |bit| Some(bit * 2)).take_while(|bit| *bit < Self::END);
        let pairs = bits().flat_map(|one| bits().take_while(move |other| *other <= one).map(move |other| one | other));
        all.into_iter().chain(pairs).map(Self).collect()
    }
}

/// Facts without some of them.
struct Without {
    facts: Arc<dyn FactSource>,
    hidden: Hidden,
    namespace: String,
}

impl Without {
    fn hide(&self, facts: Facts) -> Facts {
        if self.hidden.0 == Hidden::ALL {
            let (overrides, by_controller) = (facts.overrides, facts.by_controller);
            return Facts { overrides, by_controller, ..Facts::default() };
        }
        let mut nads = Nads::default();
        for (name, bit) in Hidden::NETWORKS {
            if !self.hidden.hides(bit) {
                let name = NadRef { namespace: &self.namespace, name };
                nads.insert(name, facts.nads.lookup(name));
            }
        }
        let hides = |bit| self.hidden.hides(bit);
        Facts {
            nads,
            mac_users: or_unknown(facts.mac_users, hides(Hidden::MACS)),
            vmi: or_unknown(facts.vmi, hides(Hidden::GUEST)),
            revision: or_unknown(facts.revision, hides(Hidden::GUEST)),
            vm: or_unknown(facts.vm, hides(Hidden::VM)),
            kubevirt: or_unknown(facts.kubevirt, hides(Hidden::KUBEVIRT)),
            migration: or_unknown(facts.migration, hides(Hidden::MIGRATION)),
            network_users: or_unknown(facts.network_users, hides(Hidden::USERS)),
            attachment: or_unknown(facts.attachment, hides(Hidden::ATTACHMENT)),
            isolation: or_unknown(facts.isolation, hides(Hidden::ISOLATION)),
            ..facts
        }
    }
}

fn or_unknown<T>(fact: Fact<T>, is_hidden: bool) -> Fact<T> {
    if is_hidden { Fact::Unknown } else { fact }
}

impl FactSource for Without {
    fn reads_group(&self, group: &str, of: &str) -> bool {
        self.facts.reads_group(group, of)
    }

    fn facts_for(&self, change: &Change) -> Facts {
        self.hide(self.facts.facts_for(change))
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.hide(self.facts.facts_for_migration(start))
    }

    fn facts_for_network(&self, change: &NetworkChange) -> Facts {
        self.hide(self.facts.facts_for_network(change))
    }
}

/// The library, with the settings of the replicas.
pub(crate) struct Replay {
    settings: Settings,
    stores: Mutex<HashMap<State, Arc<dyn FactSource>>>,
}

impl Replay {
    pub(crate) fn new(settings: &str) -> Self {
        Self { settings: Settings::parse(settings, &rules::ids()).unwrap(), stores: Mutex::default() }
    }

    /// Compares an answer with the replays by each state of the facts that it may have been given by.
    pub(crate) fn judge(
        &self,
        history: &History,
        request: &Request,
        (sent, answered): (Instant, Instant),
        outcome: &Outcome,
        disturbance: Disturbance,
    ) -> Agreement {
        let of = |since| history.contents(since, answered);
        let current = of(sent);
        let replay = Replays { replay: self, history, request, outcome, known: RefCell::default() };
        if replay.agrees(&current, &current, Hidden::default()) {
            return Agreement::Current { depends_on_facts: replay.depends_on_facts(&current) };
        }
        let earliest = disturbance.facts.map_or(sent, |begin| begin.min(sent)) - LAG;
        let old = of(earliest);
        if disturbance.calls && request.kind == Kind::Nad && outcome.is_silent() {
            return Agreement::Ignored;
        }
        let replacements = history.replacements(earliest, sent);
        let is_newer = |(since, _): &(Instant, Part)| !replay.agrees(&current, &of(*since), Hidden::default());
        if let Some((since, part)) = replacements.get(replacements.partition_point(is_newer)) {
            return Agreement::Lagging(sent - *since, *part);
        }
        // The VM with the address may be gone when nicplug reads it again; then it reads no other VM.
        let macs = Hidden(Hidden::MACS);
        if old[Part::Holder as usize].len() > 1 && replay.agrees(&current, &old, macs) {
            return Agreement::Unknown;
        }
        if disturbance.calls && replay.agrees_unmutated(&old) {
            return Agreement::Ignored;
        }
        let may_be_unknown = disturbance.facts.is_some() || answered - sent >= RECHECK;
        if may_be_unknown && Hidden::sets().into_iter().any(|hidden| replay.agrees(&current, &old, hidden)) {
            return Agreement::Unknown;
        }
        Agreement::Wrong
    }

    /// Returns the replays by the facts of the time of a request.
    pub(crate) fn expected(&self, history: &History, request: &Request, since: Instant, to: Instant) -> Vec<Outcome> {
        let all = states(&history.contents(since, to));
        all.into_iter().map(|state| self.outcome(history, request, (state, state), Hidden::default())).collect()
    }

    /// Returns the outcome of both webhooks, each by its state of the facts.
    fn outcome(&self, history: &History, request: &Request, states: (State, State), hidden: Hidden) -> Outcome {
        let (object, warnings) = self.mutate(history, request, states.0, hidden);
        self.validate(history, request, &object, warnings, states.1, hidden)
    }

    /// Returns the object after the mutating webhook, and its warnings.
    fn mutate(&self, history: &History, request: &Request, state: State, hidden: Hidden) -> (Value, Vec<String>) {
        let mut object = request.after.clone();
        if !request.is_mutated() {
            return (object, Vec::new());
        }
        let response = self.answer(history, Endpoint::Mutate, request, &object, state, hidden);
        if let Some(patch) = response["patch"].as_str() {
            let patch: Patch = serde_json::from_slice(&BASE64.decode(patch).unwrap()).unwrap();
            json_patch::patch(&mut object, &patch).unwrap();
            // The API server keeps no empty map.
            if annotations_of(&object).is_empty() {
                object["metadata"].as_object_mut().unwrap().remove("annotations");
            }
        }
        (object, texts(&response["warnings"]))
    }

    fn validate(
        &self,
        history: &History,
        request: &Request,
        object: &Value,
        mut warnings: Vec<String>,
        state: State,
        hidden: Hidden,
    ) -> Outcome {
        let response = self.answer(history, Endpoint::Validate, request, object, state, hidden);
        warnings.extend(texts(&response["warnings"]));
        let status = &response["status"];
        let is_denied = response["allowed"] == false;
        let message = || status["message"].as_str().unwrap_or_default().to_owned();
        let is_returned = !is_denied && request.kind != Kind::Nad;
        Outcome {
            denial: is_denied.then(|| (message(), Cause::all_of(status))),
            warnings,
            object: is_returned.then(|| parts(object)),
        }
    }

    fn answer(
        &self,
        history: &History,
        endpoint: Endpoint,
        request: &Request,
        object: &Value,
        state: State,
        hidden: Hidden,
    ) -> Value {
        let reviewer = self.reviewer(history, state, hidden);
        let answer = reviewer.review(endpoint, &request.review(object));
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        body["response"].clone()
    }

    fn reviewer(&self, history: &History, state: State, hidden: Hidden) -> Reviewer {
        let mut stores = self.stores.lock().unwrap();
        let facts = stores.entry(state).or_insert_with(|| {
            let contents = Part::ALL.into_iter().zip(state);
            let written = contents.filter_map(|(part, content)| history.content(part, content));
            let objects: Vec<Value> = history.fixed.iter().cloned().chain(written).collect();
            Arc::new(store(&objects))
        });
        let (facts, namespace) = (Arc::clone(facts), history.namespace.clone());
        let facts = if hidden == Hidden::default() { facts } else { Arc::new(Without { facts, hidden, namespace }) };
        Reviewer::new(facts, self.settings.clone())
    }
}

/// The replays of one request.
struct Replays<'r> {
    replay: &'r Replay,
    history: &'r History,
    request: &'r Request,
    outcome: &'r Outcome,
    /// Whether the answer is that to an object, after warnings of the mutation, by a state of the facts.
    known: RefCell<HashMap<(String, State, Hidden), bool>>,
}

impl Replays<'_> {
    /// Whether the answer is that of one state of the facts. Those in memory may be old. A denial has read the networks
    /// and the guest again, unless one of its causes is the same without any facts.
    fn agrees(&self, current: &Contents, old: &Contents, hidden: Hidden) -> bool {
        let Self { replay, history, request, outcome, .. } = self;
        let mut objects: Vec<(Value, Vec<String>)> = Vec::new();
        // Of all that changes, a mutation depends on the guest alone.
        for guest in &old[Part::Guest as usize] {
            let mut state = current.each_ref().map(|contents| contents[0]);
            state[Part::Guest as usize] = *guest;
            let is_checked = self.drops_nic_by_old_facts(*guest, current);
            let facts = [Some(Hidden::default()).filter(|_| !is_checked), Some(hidden).filter(|_| request.removes())];
            for hidden in facts.into_iter().flatten() {
                let object = replay.mutate(history, request, state, hidden);
                if !objects.contains(&object) {
                    objects.push(object);
                }
            }
        }
        objects.into_iter().any(|(object, warnings)| {
            let may_be_old = !outcome.is_denied() || self.has_cause_of_request(&object, old);
            let mut contents = old.clone();
            for part in [Part::Network, Part::Guest] {
                if !may_be_old {
                    contents[part as usize].clone_from(&current[part as usize]);
                }
            }
            let agrees = |hidden| self.agrees_with(&object, &warnings, &contents, hidden);
            // What the mutating webhook could not read again, the other one may know, or may not need.
            agrees(hidden) || request.removes() && agrees(Hidden::default())
        })
    }

    /// Whether a mutation by this guest is checked again: it drops a NIC because no guest runs, and that was before.
    fn drops_nic_by_old_facts(&self, guest: usize, current: &Contents) -> bool {
        let runs = |vmi: Value| vmi["status"]["phase"] == "Running";
        self.request.removes()
            && !current[Part::Guest as usize].contains(&guest)
            && !self.history.content(Part::Guest, guest).is_some_and(runs)
    }

    /// Whether the answer is that to the object as it was sent.
    fn agrees_unmutated(&self, old: &Contents) -> bool {
        self.agrees_with(&self.request.after, &[], old, Hidden::default())
    }

    fn agrees_with(&self, object: &Value, warnings: &[String], contents: &Contents, hidden: Hidden) -> bool {
        let mut contents = contents.clone();
        for (part, bit) in [(Part::Network, Hidden::NETWORK), (Part::Guest, Hidden::GUEST)] {
            if hidden.hides(bit) {
                contents[part as usize].truncate(1);
            }
        }
        let text = format!("{object} {warnings:?}");
        states(&contents).into_iter().any(|state| {
            let Self { replay, history, request, outcome, known } = self;
            *known.borrow_mut().entry((text.clone(), state, hidden)).or_insert_with(|| {
                replay.validate(history, request, object, warnings.to_vec(), state, hidden) == **outcome
            })
        })
    }

    /// Whether a cause of the denial depends on the request alone.
    fn has_cause_of_request(&self, object: &Value, all: &Contents) -> bool {
        let Some((_, causes)) = &self.outcome.denial else { return false };
        // The enforcement is known in any case.
        let mut contents = all.each_ref().map(|contents| vec![contents[0]]);
        contents[Part::Namespace as usize].clone_from(&all[Part::Namespace as usize]);
        states(&contents).into_iter().any(|state| {
            let Self { replay, history, request, .. } = self;
            let without = replay.validate(history, request, object, Vec::new(), state, Hidden(Hidden::ALL));
            without.denial.is_some_and(|(_, always)| always.iter().any(|cause| causes.contains(cause)))
        })
    }

    /// Whether the answer would be another one with another network or guest.
    fn depends_on_facts(&self, current: &Contents) -> bool {
        [Part::Network, Part::Guest].into_iter().any(|part| {
            let mut contents = current.each_ref().map(|contents| vec![contents[0]]);
            contents[part as usize] = self.history.all_contents(part);
            let Self { replay, history, request, outcome, .. } = self;
            let mut all = states(&contents).into_iter();
            all.any(|state| replay.outcome(history, request, (state, state), Hidden::default()) != **outcome)
        })
    }
}

/// Returns each combination of the contents.
fn states(contents: &Contents) -> Vec<State> {
    let mut states = vec![[0; Part::ALL.len()]];
    for part in Part::ALL {
        let with = |state: State| {
            contents[part as usize].iter().map(move |content| {
                let mut state = state;
                state[part as usize] = *content;
                state
            })
        };
        states = states.into_iter().flat_map(with).collect();
    }
    states
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}
