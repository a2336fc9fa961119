//! `/metrics`: values that other modules hold, encoded for each scrape.
//!
//! Each label has a few values that are known in advance, and its series exist from the start: an alert can tell a
//! value of 0 from a missing one. Names and namespaces are not labels, because a cluster can have a hundred thousand of
//! them; only denials can have a limited number of namespaces. docs/metrics.md describes all metrics.
//!
//! Each file of this folder has the collector of one subject.

mod activation;
mod build;
mod certificates;
mod connections;
mod denials;
mod events;
mod facts;
mod findings;
mod leader;
mod log;
mod pending;
mod persist;
mod process;
mod rechecks;
mod requests;
mod settings;
mod spans;

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use tokio::sync::watch;

use self::{
    activation::ActivationCollector, build::BuildCollector, certificates::CertificateCollector,
    connections::ConnectionCollector, facts::FactCollector, findings::FindingCollector, leader::LeaderCollector,
    pending::PendingCollector, persist::PersistCollector, process::ProcessCollector, requests::RequestCollector,
};
use super::{
    body::BodyBudget, counts::Counts, denials::DenialCounts, in_flight::InFlight, recheck::RecheckCounts,
    reload::settings::ReloadCounts, tls::CertResolver,
};
use crate::{
    cluster::{cache::Cache, watch::WatchStatuses},
    controllers::{pending::PendingCounts, persist::PersistStatus, webhook_activation::Activation},
    k8s::events::EventQueue,
    telemetry::{LogQueue, spans::Spans},
};

/// The content type of OpenMetrics, which Prometheus reads since version 2.5.
pub(super) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a server.
#[derive(Debug)]
pub(super) struct Metrics {
    own: Registry,
    /// The metrics that every program can have, under their usual names without a prefix.
    common: Registry,
}

/// Has no metrics.
impl Default for Metrics {
    fn default() -> Self {
        Self { own: Registry::with_prefix("nicplug"), common: Registry::default() }
    }
}

impl Metrics {
    /// Returns the metrics that every server has.
    pub(super) fn new(
        counts: Counts,
        in_flight: Arc<InFlight>,
        bodies: Arc<BodyBudget>,
        certificates: CertResolver,
        connection_limit: usize,
    ) -> Self {
        let Self { mut own, mut common } = Self::default();
        own.register_collector(Box::new(BuildCollector));
        own.register_collector(Box::new(RequestCollector { counts: counts.clone(), in_flight, bodies }));
        own.register_collector(Box::new(FindingCollector(counts.clone())));
        own.register_collector(Box::new(ConnectionCollector { counts, limit: connection_limit }));
        own.register_collector(Box::new(CertificateCollector(certificates)));
        common.register_collector(Box::new(ProcessCollector::new(SystemTime::now())));
        Self { own, common }
    }

    /// Adds the metric of denials.
    pub(super) fn add_denials(&mut self, denials: DenialCounts) {
        self.own.register_collector(Box::new(denials));
    }

    /// Adds the metrics of the watches of a cluster.
    pub(super) fn add_facts(&mut self, cache: Arc<Cache>, status: WatchStatuses) {
        self.own.register_collector(Box::new(FactCollector { cache, status }));
    }

    /// Adds the metrics of rechecks.
    pub(super) fn add_rechecks(&mut self, counts: RecheckCounts) {
        self.own.register_collector(Box::new(counts));
    }

    /// Adds the metrics of the queue of log lines.
    pub(super) fn add_log(&mut self, queue: LogQueue) {
        self.own.register_collector(Box::new(queue));
    }

    /// Adds the metrics of the persist controller.
    pub(super) fn add_persist(&mut self, status: PersistStatus) {
        self.own.register_collector(Box::new(PersistCollector(status)));
    }

    /// Adds the metric of the leader election.
    pub(super) fn add_leader(&mut self, is_leader: watch::Receiver<bool>) {
        self.own.register_collector(Box::new(LeaderCollector(is_leader)));
    }

    /// Adds the metric of pending NICs.
    pub(super) fn add_pending(&mut self, counts: PendingCounts) {
        self.own.register_collector(Box::new(PendingCollector(counts)));
    }

    /// Adds the metric of the webhook activation.
    pub(super) fn add_activation(&mut self, activation: watch::Receiver<Activation>) {
        self.own.register_collector(Box::new(ActivationCollector(activation)));
    }

    /// Adds the metrics of the export of spans.
    pub(super) fn add_spans(&mut self, spans: Spans) {
        self.own.register_collector(Box::new(spans));
    }

    /// Adds the metrics of Events.
    pub(super) fn add_events(&mut self, queue: EventQueue) {
        self.own.register_collector(Box::new(queue));
    }

    /// Adds the metrics of a settings file.
    pub(super) fn add_settings(&mut self, counts: ReloadCounts) {
        self.own.register_collector(Box::new(counts));
    }

    /// Returns all metrics in the text format of OpenMetrics.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode_registry(&mut text, &self.own);
        let _ = text::encode_registry(&mut text, &self.common);
        let _ = text::encode_eof(&mut text);
        text
    }
}

/// Encodes a metric with one value for each set of labels.
fn family<'v, M, L>(
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

/// Encodes a metric without labels.
fn single(
    encoder: &mut DescriptorEncoder,
    (name, help): (&str, &str),
    kind: MetricType,
    value: &impl EncodeMetric,
) -> fmt::Result {
    value.encode(encoder.encode_descriptor(name, help, None, kind)?)
}

/// Returns a gauge with a number of things.
fn gauge(count: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Returns a time as seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
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
        admission::{Decision, Endpoint, Evaluator, parse},
        certificates::{self, Host},
        cluster::{
            persist_queue::{ObjectRef, PersistQueue},
            store::Store,
        },
        controllers::persist::PersistStats,
        facts::NoFacts,
        server::{counts::RefusalReason, tls::CertKeyPair},
        settings::Settings,
        telemetry::spans,
    };

    /// An update of a VM that uses the name of a NIC twice; no facts are known.
    const REVIEW: &str = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "operation": "UPDATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"}, "name": "vm",
        "object": {"spec": {"template": {"spec": {"networks": [{"name": "a", "pod": {}}],
            "domain": {"devices": {"interfaces": [{"name": "a", "bridge": {}}, {"name": "a", "bridge": {}}]}}}}}},
        "oldObject": {"spec": {"template": {"spec": {"networks": [{"name": "a", "pod": {}}],
            "domain": {"devices": {"interfaces": [{"name": "a", "bridge": {}}]}}}}}}}}"#;

    struct AllMetrics {
        metrics: Metrics,
        counts: Counts,
        in_flight: Arc<InFlight>,
        pending: PersistQueue,
    }

    /// A server with every metric.
    fn all_metrics() -> AllMetrics {
        let (counts, in_flight, pending) = (Counts::default(), Arc::new(InFlight::new(2)), PersistQueue::default());
        let made = certificates::generate(&Host::local().unwrap(), UNIX_EPOCH + Duration::from_hours(24)).unwrap();
        let chain = format!("{}{}", made.server, made.ca);
        let pair = CertKeyPair::from_pem(chain.as_bytes(), made.server_key.as_bytes()).unwrap();
        let mut metrics =
            Metrics::new(counts.clone(), Arc::clone(&in_flight), Arc::new(BodyBudget::new(1000)), pair.into(), 1000);
        metrics.add_denials(DenialCounts::new(1));
        let status = WatchStatuses::default();
        status.iter().for_each(|record| record.touch());
        metrics.add_facts(Arc::new(Cache::new(Store::default()).0), status);
        metrics.add_rechecks(RecheckCounts::default());
        metrics.add_leader(watch::Sender::new(true).subscribe());
        metrics.add_pending(PendingCounts::default());
        metrics.add_persist(PersistStatus { queue: pending.clone(), stats: PersistStats::default() });
        metrics.add_events(EventQueue::without_sender());
        metrics.add_log(LogQueue::without_writer());
        metrics.add_settings(ReloadCounts::default());
        metrics.add_activation(watch::Sender::new(Activation::Active).subscribe());
        metrics.add_spans(spans::queue("http://127.0.0.1:1".parse().unwrap(), Vec::new()).0);
        AllMetrics { metrics, counts, in_flight, pending }
    }

    #[track_caller]
    fn assert_has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }

    #[test]
    fn every_series_exists_from_the_start() {
        let text = all_metrics().metrics.text();
        for line in [
            "# TYPE nicplug_requests counter",
            "nicplug_requests_total{endpoint=\"validate\",kind=\"VirtualMachine\",operation=\"UPDATE\",\
             decision=\"denied\"} 0",
            "nicplug_requests_total{endpoint=\"mutate\",kind=\"other\",operation=\"DELETE\",decision=\"unhandled\"} 0",
            "nicplug_requests_total{endpoint=\"mutate\",kind=\"other\",operation=\"other\",decision=\"malformed\"} 0",
            "# TYPE nicplug_request_duration_seconds histogram",
            "nicplug_request_duration_seconds_count{endpoint=\"mutate\"} 0",
            "nicplug_requests_refused_total{reason=\"overload\"} 0",
            "nicplug_findings_total{rule=\"NP106\",enforcement=\"deny\"} 0",
            "nicplug_unknown_facts_total{kind=\"NetworkAttachmentDefinition\"} 0",
            "nicplug_facts_state{kind=\"Node\",state=\"starting\"} 1",
            "nicplug_facts_state{kind=\"Node\",state=\"synced\"} 0",
            "nicplug_facts_objects{kind=\"VirtualMachine\"} 0",
            "nicplug_facts_errors_total{kind=\"KubeVirt\",error=\"expired\"} 0",
            "nicplug_rechecks_total{result=\"confirmed\"} 0",
            "nicplug_persist_failures_total{reason=\"refused\"} 0",
            "nicplug_connections 0",
            "nicplug_connections_opened_total 0",
            "nicplug_handshake_failures_total 0",
            "nicplug_certificate_load_failures_total 0",
            "# EOF",
        ] {
            assert_has(&text, line);
        }
    }

    #[test]
    fn each_value_appears_in_its_metric() {
        let AllMetrics { metrics, counts, in_flight, pending } = all_metrics();
        let (body, settings) = (parse(REVIEW.as_bytes()), Settings::default());
        let evaluation = Evaluator::new(&NoFacts, &settings).evaluate(Endpoint::Validate, &body);
        assert_eq!(evaluation.decision(), Decision::Denied);
        counts.add(evaluation.labels(), Duration::from_micros(30));
        counts.add_refused(RefusalReason::BodyLate);
        counts.add_failed_handshake();
        let _open = counts.add_connection();
        let _permit = in_flight.enter();
        pending.set(ObjectRef::vm("demo", "vm"), true);
        let text = metrics.text();
        for line in [
            "nicplug_requests_total{endpoint=\"validate\",kind=\"VirtualMachine\",operation=\"UPDATE\",\
             decision=\"denied\"} 1",
            "nicplug_request_duration_seconds_bucket{le=\"0.000025\",endpoint=\"validate\"} 0",
            "nicplug_request_duration_seconds_bucket{le=\"0.00005\",endpoint=\"validate\"} 1",
            "nicplug_request_duration_seconds_bucket{le=\"+Inf\",endpoint=\"validate\"} 1",
            "nicplug_request_duration_seconds_sum{endpoint=\"validate\"} 0.00003",
            "nicplug_requests_in_flight 1",
            "nicplug_requests_refused_total{reason=\"body_late\"} 1",
            "nicplug_findings_total{rule=\"NP002\",enforcement=\"deny\"} 1",
            "nicplug_handshake_failures_total 1",
            "nicplug_connections 1",
            "nicplug_connections_opened_total 1",
            "nicplug_persist_pending 1",
            "nicplug_leader 1",
            "nicplug_denials_total{requester=\"user\",resource_namespace=\"_other\"} 0",
        ] {
            assert_has(&text, line);
        }
    }

    #[test]
    fn the_expiry_of_certificates_is_exported() {
        let text = all_metrics().metrics.text();
        let end = |life: Duration| (Duration::from_hours(24) + life).as_secs_f64();
        for (certificate, end) in
            [("server", end(certificates::SERVER_LIFETIME)), ("ca", end(certificates::CA_LIFETIME))]
        {
            let name = format!("nicplug_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
            assert!((value.parse::<f64>().unwrap() - end).abs() < 600.0, "{certificate}: {value}, not {end}");
        }
    }

    /// Returns the name of each series and its labels, without those of the exposition format.
    fn exported(text: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut exported = BTreeMap::<String, BTreeSet<String>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.strip_suffix('}').map_or((series, ""), |it| it.split_once('{').unwrap());
            let parts = ["_bucket", "_sum", "_count"].into_iter().find_map(|part| name.strip_suffix(part));
            let name = parts.filter(|name| name.ends_with("_seconds")).unwrap_or(name);
            let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            exported.entry(name.to_owned()).or_default().extend(labels.filter(|label| label != "le"));
        }
        exported
    }

    /// Returns the first two columns of the tables in docs/metrics.md: the name, and the labels.
    fn documented(page: &str) -> BTreeMap<String, BTreeSet<String>> {
        let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.map(|row| row.split('|').skip(1).map(str::trim).collect::<Vec<_>>());
        cells.map(|cells| (words(cells[0])[0].clone(), words(cells[1]).into_iter().collect())).collect()
    }

    #[test]
    fn the_page_of_metrics_has_all_metrics_and_no_others() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        assert_eq!(documented(&page), exported(&all_metrics().metrics.text()));
    }

    #[test]
    fn each_family_has_its_own_name() {
        let text = all_metrics().metrics.text();
        let names: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let unique: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), unique.len(), "{names:?}");
    }
}
