//! `/metrics`: numbers that are kept elsewhere, written down when somebody asks.
//!
//! Every label has a few values that are known beforehand, and its series are there before anything happens: an alert
//! can tell "never" from "not asked". Names and namespaces are no labels: there may be a hundred thousand of them.
//! docs/metrics.md has all of them.

mod process;

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};
use tokio::sync::watch;

use self::process::Process;
use super::{
    counts::{Counts, Histogram, Refusal, Series},
    in_flight::InFlight,
    recheck::{RecheckCounts, RecheckResult},
    reload::settings::Tally,
    tls::CertResolver,
};
use crate::{
    admission::Endpoint,
    cluster::{
        cache::Cache,
        watch::{WatchError, WatchState, WatchStatuses},
    },
    controllers::{
        persist::{PersistStatus, ReconcileError},
        webhook_activation::Activation,
    },
    facts::FactKind,
    k8s::events::{self, EventQueue},
    rules::RULES,
    telemetry::spans::{DropReason, Spans},
};

/// OpenMetrics, which every Prometheus since 2.5 reads.
pub(super) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a server.
#[derive(Debug)]
pub(super) struct Metrics {
    own: Registry,
    /// Those that every program may have, under the names that all of them use.
    common: Registry,
}

/// None.
impl Default for Metrics {
    fn default() -> Self {
        Self { own: Registry::with_prefix("nicplug"), common: Registry::default() }
    }
}

impl Metrics {
    /// The metrics that every server has.
    pub(super) fn new(counts: Counts, in_flight: Arc<InFlight>, shown: CertResolver) -> Self {
        let Self { mut own, mut common } = Self::default();
        own.register_collector(Box::new(Build));
        own.register_collector(Box::new(Requests { counts: counts.clone(), in_flight }));
        own.register_collector(Box::new(Findings(counts.clone())));
        own.register_collector(Box::new(Connections(counts)));
        own.register_collector(Box::new(Certificates(shown)));
        common.register_collector(Box::new(Process::new(SystemTime::now())));
        Self { own, common }
    }

    /// Adds those of the watches of a cluster.
    pub(super) fn add_facts(&mut self, cache: Arc<Cache>, status: WatchStatuses) {
        self.own.register_collector(Box::new(Facts { cache, status }));
    }

    /// Adds those of denials that were checked at the cluster.
    pub(super) fn add_recheck_counts(&mut self, recheck_counts: RecheckCounts) {
        self.own.register_collector(Box::new(recheck_counts));
    }

    /// Adds those of the mirroring of NICs.
    pub(super) fn add_mirroring(&mut self, status: PersistStatus) {
        self.own.register_collector(Box::new(Mirroring(status)));
    }

    /// Adds that of the API server's calls.
    pub(super) fn add_calls(&mut self, called: watch::Receiver<Activation>) {
        self.own.register_collector(Box::new(Calls(called)));
    }

    /// Adds those of the spans that go to a collector.
    pub(super) fn add_spans(&mut self, spans: Spans) {
        self.own.register_collector(Box::new(spans));
    }

    /// Adds those of events.
    pub(super) fn add_events(&mut self, queue: EventQueue) {
        self.own.register_collector(Box::new(queue));
    }

    /// Adds those of a settings file.
    pub(super) fn add_settings(&mut self, tally: Tally) {
        self.own.register_collector(Box::new(tally));
    }

    /// All of them, as Prometheus reads them.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode_registry(&mut text, &self.own);
        let _ = text::encode_registry(&mut text, &self.common);
        let _ = text::encode_eof(&mut text);
        text
    }
}

/// A metric that is made when it is asked for: one value for each set of labels.
pub(super) fn family<'v, M, L>(
    encoder: &mut DescriptorEncoder,
    (name, help): (&str, &str),
    kind: MetricType,
    values: impl IntoIterator<Item = (L, M)>,
) -> fmt::Result
where
    M: EncodeMetric,
    L: AsRef<[(&'static str, &'v str)]>,
{
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        value.encode(metric.encode_family(&labels.as_ref())?)?;
    }
    Ok(())
}

/// A metric without labels.
pub(super) fn single(
    encoder: &mut DescriptorEncoder,
    (name, help): (&str, &str),
    kind: MetricType,
    value: &impl EncodeMetric,
) -> fmt::Result {
    value.encode(encoder.encode_descriptor(name, help, None, kind)?)
}

/// A count of things that are there now.
fn gauge(count: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A moment, in seconds since 1970.
fn seconds(moment: SystemTime) -> f64 {
    match moment.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

#[derive(Debug)]
struct Build;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // The house builds with the one toolchain that the package names.
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("rust", env!("CARGO_PKG_RUST_VERSION"))];
        let about = ("build", "What this program is, and the Rust that it was built with");
        single(&mut encoder, about, MetricType::Info, &Info::new(labels))
    }
}

#[derive(Debug)]
struct Requests {
    counts: Counts,
    in_flight: Arc<InFlight>,
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let answers = Series::all().map(|series| (series, self.counts.of_series(series)));
        // What nobody expects is shown if it comes to pass all the same.
        let answers = answers.filter(|(series, count)| series.is_expected() || *count > 0);
        let answers = answers.map(|(series, count)| {
            let labels = [
                ("endpoint", series.endpoint.as_str()),
                ("kind", series.kind.as_str()),
                ("operation", series.operation.as_str()),
                ("verdict", series.decision.as_str()),
            ];
            (labels, ConstCounter::new(count))
        });
        let about = ("requests", "Reviews answered, by what was asked and what was said");
        family(&mut encoder, about, MetricType::Counter, answers)?;

        let durations = Endpoint::ALL.map(|endpoint| {
            let labels = [("endpoint", endpoint.as_str())];
            (labels, self.counts.durations(endpoint))
        });
        let about =
            ("request_duration_seconds", "From the header of a review to its answer, the way of the body included");
        family(&mut encoder, about, MetricType::Histogram, durations)?;

        let about = ("requests_in_flight", "Reviews that are being read or judged");
        single(&mut encoder, about, MetricType::Gauge, &gauge(self.in_flight.count()))?;

        let refused = Refusal::ALL
            .map(|refusal| ([("reason", refusal.as_str())], ConstCounter::new(self.counts.refused(refusal))));
        let about = ("requests_refused", "Requests that were refused before they were judged, by the reason");
        family(&mut encoder, about, MetricType::Counter, refused)
    }
}

impl EncodeMetric for &Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let classes: Vec<(f64, u64)> = self.classes().collect();
        // The sum of the classes, and no number of its own: both are the same then, whatever is counted meanwhile.
        let count = classes.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum(), count, &classes, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[derive(Debug)]
struct Findings(Counts);

impl Collector for Findings {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let findings = RULES.iter().enumerate().flat_map(|(place, rule)| {
            [("deny", self.0.denied_by(place)), ("warn", self.0.warned_by(place))].map(|(enforcement, count)| {
                ([("rule", rule.id), ("enforcement", enforcement)], ConstCounter::new(count))
            })
        });
        let about = ("findings", "Answers that a rule denied or warned in: once each, however much it found");
        family(&mut encoder, about, MetricType::Counter, findings)?;

        let unknown = FactKind::ALL.map(|kind| ([("kind", kind.as_str())], ConstCounter::new(self.0.unknown(kind))));
        let about = ("unknown_facts", "Answers with a warning of what was not checked, by the kind that was not known");
        family(&mut encoder, about, MetricType::Counter, unknown)
    }
}

#[derive(Debug)]
struct Connections(Counts);

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (opened, ended) = self.0.connections();
        let open = ConstGauge::new(i64::try_from(opened.saturating_sub(ended)).unwrap_or(i64::MAX));
        single(&mut encoder, ("connections", "Connections that are open"), MetricType::Gauge, &open)?;
        // As a counter it would be of the family `connections`, which is the gauge: OpenMetrics has no two of a name.
        let all = ConstGauge::new(i64::try_from(opened).unwrap_or(i64::MAX));
        let about = ("connections_total", "Connections that were opened since the start");
        single(&mut encoder, about, MetricType::Unknown, &all)?;

        let failed = ConstCounter::new(self.0.handshakes_failed());
        let about = ("handshake_failures", "Connections that came to no TLS handshake, those of port checks included");
        single(&mut encoder, about, MetricType::Counter, &failed)
    }
}

#[derive(Debug)]
struct Certificates(CertResolver);

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let server = self.0.validity().map(|validity| validity.not_after);
        let ends = [("server", server), ("authority", self.0.authority_end())];
        let ends = ends
            .into_iter()
            .filter_map(|(whose, end)| Some(([("certificate", whose)], ConstGauge::new(seconds(end?)))));
        let about =
            ("certificate_expiry_timestamp_seconds", "When the certificate that is shown, or its authority, ends");
        family(&mut encoder, about, MetricType::Gauge, ends)?;

        let faults = ConstCounter::new(self.0.faults());
        let about = ("certificate_faults", "Certificates that were refused while the one before stayed");
        single(&mut encoder, about, MetricType::Counter, &faults)
    }
}

#[derive(Debug)]
struct Mirroring(PersistStatus);

impl Collector for Mirroring {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let PersistStatus { queue, stats, is_leader } = &self.0;
        let about = ("persist_pending", "Objects that ask for a NIC to be kept in the template of a VM");
        single(&mut encoder, about, MetricType::Gauge, &gauge(queue.len()))?;
        let done = ConstCounter::new(stats.persisted());
        let about = ("persist_done", "NICs that were written into a template");
        single(&mut encoder, about, MetricType::Counter, &done)?;
        let failed = ReconcileError::ALL
            .map(|reason| ([("reason", reason.as_str())], ConstCounter::new(stats.failures(reason))));
        let about =
            ("persist_failed", "Visits of an object that asks which did not do what they were for, by the reason");
        family(&mut encoder, about, MetricType::Counter, failed)?;
        let about = ("persist_leading", "Whether this replica is the one that writes NICs into templates: 1 if so");
        single(&mut encoder, about, MetricType::Gauge, &gauge(usize::from(*is_leader.borrow())))
    }
}

#[derive(Debug)]
struct Calls(watch::Receiver<Activation>);

impl Collector for Calls {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let is_called = *self.0.borrow() == Activation::Active;
        let about = ("called", "Whether the API server calls the webhooks: 1 if so");
        single(&mut encoder, about, MetricType::Gauge, &gauge(usize::from(is_called)))
    }
}

impl Collector for Spans {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let exported = ConstCounter::new(self.exported());
        let about = ("spans_exported", "Spans of requests that the collector has taken");
        single(&mut encoder, about, MetricType::Counter, &exported)?;
        let lost = DropReason::ALL.map(|loss| ([("reason", loss.as_str())], ConstCounter::new(self.lost(loss))));
        let about = ("spans_lost", "Spans of requests that were lost, by the reason");
        family(&mut encoder, about, MetricType::Counter, lost)
    }
}

impl Collector for EventQueue {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let about = ("events_sent", "Events written on guests and on the own pod");
        single(&mut encoder, about, MetricType::Counter, &ConstCounter::new(self.sent()))?;
        let dropped =
            events::DropReason::ALL.map(|loss| ([("reason", loss.as_str())], ConstCounter::new(self.dropped(loss))));
        let about = ("events_dropped", "Events that were not written, by reason");
        family(&mut encoder, about, MetricType::Counter, dropped)
    }
}

impl Collector for RecheckCounts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let values =
            RecheckResult::ALL.map(|result| ([("result", result.as_str())], ConstCounter::new(self.of(result))));
        let about =
            ("second_looks", "Answers that were checked at the cluster before they were given, by what came of it");
        family(&mut encoder, about, MetricType::Counter, values)
    }
}

#[derive(Debug)]
struct Facts {
    cache: Arc<Cache>,
    status: WatchStatuses,
}

impl Collector for Facts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let records = || self.status.iter();
        let states = records().flat_map(|record| {
            let (kind, current) = (record.kind.kind(), record.state().0.as_str());
            WatchState::NAMES
                .map(|name| ([("kind", kind), ("state", name)], ConstGauge::new(i64::from(name == current))))
        });
        let about = ("facts_state", "What the facts of a kind are worth: 1 for the state that it is in");
        family(&mut encoder, about, MetricType::Gauge, states)?;

        let objects = records().map(|record| ([("kind", record.kind.kind())], gauge(self.cache.count(record.kind))));
        family(&mut encoder, ("facts_objects", "Objects that are known"), MetricType::Gauge, objects)?;

        let silences = records().filter_map(|record| {
            let time_since_last_event = record.time_since_last_event()?.as_secs_f64();
            Some(([("kind", record.kind.kind())], ConstGauge::new(time_since_last_event)))
        });
        let about = ("facts_silence_seconds", "Since the API server was last heard of: an object or a bookmark");
        family(&mut encoder, about, MetricType::Gauge, silences)?;

        let mishaps = records().flat_map(|record| {
            let of = |mishap: WatchError| {
                let labels = [("kind", record.kind.kind()), ("error", mishap.as_str())];
                (labels, ConstCounter::new(record.error_count(mishap)))
            };
            WatchError::ALL.map(of)
        });
        let about = ("facts_errors", "What has happened to watches, by kind of object and of error");
        family(&mut encoder, about, MetricType::Counter, mishaps)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    use super::*;
    use crate::{
        admission::{Decision, Evaluator, parse},
        certificates::{self, Host},
        cluster::{
            persist_queue::{ObjectRef, PersistQueue},
            store::Store,
        },
        controllers::persist::PersistStats,
        facts::NoFacts,
        server::tls::Pair,
        settings::Settings,
        telemetry::spans,
    };

    /// The update of a VM that drops a network, of which no facts are known.
    const REVIEW: &str = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "operation": "UPDATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"}, "name": "vm",
        "object": {"spec": {"template": {"spec": {"networks": [{"name": "a", "pod": {}}],
            "domain": {"devices": {"interfaces": [{"name": "a", "bridge": {}}, {"name": "a", "bridge": {}}]}}}}}},
        "oldObject": {"spec": {"template": {"spec": {"networks": [{"name": "a", "pod": {}}],
            "domain": {"devices": {"interfaces": [{"name": "a", "bridge": {}}]}}}}}}}}"#;

    struct Everything {
        metrics: Metrics,
        counts: Counts,
        in_flight: Arc<InFlight>,
        pending: PersistQueue,
    }

    /// A server that has all that can be counted.
    fn everything() -> Everything {
        let (counts, in_flight, pending) = (Counts::default(), Arc::new(InFlight::new(2)), PersistQueue::default());
        let made = certificates::make(&Host::local().unwrap(), UNIX_EPOCH + Duration::from_hours(24)).unwrap();
        let chain = format!("{}{}", made.server, made.authority);
        let pair = Pair::from_pem(chain.as_bytes(), made.server_key.as_bytes()).unwrap();
        let mut metrics = Metrics::new(counts.clone(), Arc::clone(&in_flight), pair.into());
        let status = WatchStatuses::default();
        status.iter().for_each(|record| record.touch());
        metrics.add_facts(Arc::new(Cache::new(Store::default()).0), status);
        metrics.add_recheck_counts(RecheckCounts::default());
        let leads = watch::Sender::new(true).subscribe();
        metrics.add_mirroring(PersistStatus {
            queue: pending.clone(),
            stats: PersistStats::default(),
            is_leader: leads,
        });
        metrics.add_events(EventQueue::without_sender());
        metrics.add_settings(Tally::default());
        metrics.add_calls(watch::Sender::new(Activation::Active).subscribe());
        metrics.add_spans(spans::queue("http://127.0.0.1:1".parse().unwrap(), Vec::new()).0);
        Everything { metrics, counts, in_flight, pending }
    }

    #[track_caller]
    fn assert_has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }

    #[test]
    fn every_series_is_there_before_anything_happens() {
        let text = everything().metrics.text();
        for line in [
            "# TYPE nicplug_requests counter",
            "nicplug_requests_total{endpoint=\"validate\",kind=\"VirtualMachine\",operation=\"UPDATE\",verdict=\"denied\"} 0",
            "nicplug_requests_total{endpoint=\"mutate\",kind=\"other\",operation=\"DELETE\",verdict=\"unhandled\"} 0",
            "nicplug_requests_total{endpoint=\"mutate\",kind=\"other\",operation=\"other\",verdict=\"malformed\"} 0",
            "# TYPE nicplug_request_duration_seconds histogram",
            "nicplug_request_duration_seconds_count{endpoint=\"mutate\"} 0",
            "nicplug_requests_refused_total{reason=\"overload\"} 0",
            "nicplug_findings_total{rule=\"NP106\",enforcement=\"deny\"} 0",
            "nicplug_unknown_facts_total{kind=\"NetworkAttachmentDefinition\"} 0",
            "nicplug_facts_state{kind=\"Node\",state=\"starting\"} 1",
            "nicplug_facts_state{kind=\"Node\",state=\"synced\"} 0",
            "nicplug_facts_objects{kind=\"VirtualMachine\"} 0",
            "nicplug_facts_errors_total{kind=\"KubeVirt\",error=\"expired\"} 0",
            "nicplug_second_looks_total{result=\"upheld\"} 0",
            "nicplug_persist_failed_total{reason=\"refused\"} 0",
            "nicplug_connections 0",
            "nicplug_connections_total 0",
            "nicplug_handshake_failures_total 0",
            "nicplug_certificate_faults_total 0",
            "# EOF",
        ] {
            assert_has(&text, line);
        }
    }

    #[test]
    fn what_happens_is_shown_where_it_belongs() {
        let Everything { metrics, counts, in_flight, pending } = everything();
        let (body, settings) = (parse(REVIEW.as_bytes()), Settings::default());
        let evaluation = Evaluator::new(&NoFacts, &settings).evaluate(Endpoint::Validate, &body);
        assert_eq!(evaluation.decision(), Decision::Denied);
        counts.add(evaluation.labels(), Duration::from_micros(30));
        counts.refuse(Refusal::BodyLate);
        counts.fail_handshake();
        let _open = counts.open_connection();
        let _place = in_flight.enter();
        pending.set(ObjectRef::vm("demo", "vm"), true);
        let text = metrics.text();
        for line in [
            "nicplug_requests_total{endpoint=\"validate\",kind=\"VirtualMachine\",operation=\"UPDATE\",verdict=\"denied\"} 1",
            "nicplug_request_duration_seconds_bucket{le=\"0.000025\",endpoint=\"validate\"} 0",
            "nicplug_request_duration_seconds_bucket{le=\"0.00005\",endpoint=\"validate\"} 1",
            "nicplug_request_duration_seconds_bucket{le=\"+Inf\",endpoint=\"validate\"} 1",
            "nicplug_request_duration_seconds_sum{endpoint=\"validate\"} 0.00003",
            "nicplug_requests_in_flight 1",
            "nicplug_requests_refused_total{reason=\"body_late\"} 1",
            "nicplug_findings_total{rule=\"NP002\",enforcement=\"deny\"} 1",
            "nicplug_handshake_failures_total 1",
            "nicplug_connections 1",
            "nicplug_connections_total 1",
            "nicplug_persist_pending 1",
            "nicplug_persist_leading 1",
        ] {
            assert_has(&text, line);
        }
    }

    #[test]
    fn certificates_end_when_they_say() {
        let text = everything().metrics.text();
        let end = |life: Duration| (Duration::from_hours(24) + life).as_secs_f64();
        for (whose, end) in
            [("server", end(certificates::SERVER_LIFETIME)), ("authority", end(certificates::AUTHORITY_LIFETIME))]
        {
            let name = format!("nicplug_certificate_expiry_timestamp_seconds{{certificate=\"{whose}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
            assert!((value.parse::<f64>().unwrap() - end).abs() < 600.0, "{whose}: {value}, not {end}");
        }
    }

    /// The name of each series and its labels, with those of the exposition format left out.
    fn shown(text: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut shown = BTreeMap::<String, BTreeSet<String>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.strip_suffix('}').map_or((series, ""), |it| it.split_once('{').unwrap());
            let parts = ["_bucket", "_sum", "_count"].into_iter().find_map(|part| name.strip_suffix(part));
            let name = parts.filter(|name| name.ends_with("_seconds")).unwrap_or(name);
            let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            shown.entry(name.to_owned()).or_default().extend(labels.filter(|label| label != "le"));
        }
        shown
    }

    /// The first two columns of the tables in docs/metrics.md: `name`, and its labels as `label` or `label`: values.
    fn told(page: &str) -> BTreeMap<String, BTreeSet<String>> {
        let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.map(|row| row.split('|').skip(1).map(str::trim).collect::<Vec<_>>());
        cells.map(|cells| (words(cells[0])[0].clone(), words(cells[1]).into_iter().collect())).collect()
    }

    #[test]
    fn the_page_of_metrics_has_all_of_them_and_no_others() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        assert_eq!(told(&page), shown(&everything().metrics.text()));
    }

    #[test]
    fn no_two_families_have_one_name() {
        let text = everything().metrics.text();
        let names: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let unique: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), unique.len(), "{names:?}");
        // Of a family that ends like the counter of another a reader could not tell which it is.
        assert!(!text.contains("# TYPE nicplug_connections counter"), "{text}");
    }
}
