//! The place of one NIC.

use serde_json::Value;

use super::{
    Diagnosis, Direction, Fact, GuestView, HotplugMethod, MigrationNeed, Need, NicReport, PendingReason, Place,
    Progress, Stage, State, Target, entries, events, has_nic, is_in_domain, judgement, list, name_is, name_of, network,
    progress, since, text,
};
use crate::admission::Weight;

/// The KubeVirt API's names of bindings.
const BINDINGS: &[&str] = &["bridge", "masquerade", "sriov", "passt", "slirp", "macvtap"];

impl GuestView<'_> {
    pub(super) fn nics(&self) -> Vec<NicReport> {
        let template = self.snapshot.vm.and_then(|vm| vm.pointer("/spec/template/spec"));
        let spec = self.snapshot.vmi.and_then(|vmi| vmi.get("spec"));
        let mut reports: Vec<NicReport> = Vec::new();
        for (name, interface, network) in entries(template) {
            let is_absent = text(interface, "/state") == "absent";
            let finding = if is_absent { self.detached(name) } else { self.attached(name) };
            let direction = if is_absent { Direction::Detach } else { Direction::Attach };
            reports.push(self.report(name, (interface, network), direction, finding));
        }
        for (name, interface, network) in entries(spec) {
            if reports.iter().any(|report| report.name == name) {
                continue;
            }
            let (direction, finding) = self.not_in_template(name, interface);
            reports.push(self.report(name, (interface, network), direction, finding));
        }
        reports
    }

    fn report(
        &self,
        name: &str,
        (interface, network): (&Value, Option<&Value>),
        direction: Direction,
        finding: Diagnosis,
    ) -> NicReport {
        let seen = self.status_entry(name).map(|entry| text(entry, "/mac")).filter(|mac| !mac.is_empty());
        let written = Some(text(interface, "/macAddress")).filter(|mac| !mac.is_empty());
        let model = text(interface, "/model");
        let mut report = NicReport {
            name: name.to_owned(),
            network: network_of(network),
            binding: binding_of(interface),
            model: if model.is_empty() { "virtio" } else { model }.to_owned(),
            mac: seen.or(written).map(str::to_owned),
            place: finding.place,
            direction,
            since: self.since(name, finding.place),
            is_of_boot: self.is_of_boot(name),
            need: finding.need,
            reason: finding.reason,
            why: finding.why,
            fix: finding.fix,
            needs_migration: finding.needs_migration,
            unread: Vec::new(),
        };
        if report.need != Need::Nothing {
            self.add_warning(&mut report);
            report.unread = self.unread();
        }
        report
    }

    /// Adds a warning of another program; with one, the NIC needs more than time.
    fn add_warning(&self, report: &mut NicReport) {
        let pod_interface = self.pod_interface(&report.name);
        if let Some(warning) = events::warning(self, &report.name, &pod_interface, report.since.as_deref()) {
            report.why = format!("{}; {warning}", report.why);
            if report.need == Need::Time {
                report.reason = Some(PendingReason::Event);
            }
            report.need = Need::Action;
            if report.fix.is_empty() {
                "fix what the Event reports".clone_into(&mut report.fix);
            }
        }
    }

    /// Returns the name of the NIC's interface in the pod: that of the status, else KubeVirt's default.
    fn pod_interface(&self, name: &str) -> String {
        let reported = self.status_entry(name).map(|entry| text(entry, "/podInterfaceName"));
        let reported = reported.filter(|reported| !reported.is_empty()).map(str::to_owned);
        reported.unwrap_or_else(|| progress::pod_interface(name))
    }

    /// Returns the objects that might say more and that the user cannot read.
    fn unread(&self) -> Vec<&'static str> {
        let kinds = [
            (self.around.vmi == Fact::Unknown, "the VirtualMachineInstance"),
            (self.around.pods.is_none(), "pods"),
            (self.around.migrations.is_none(), "VirtualMachineInstanceMigrations"),
            (self.around.events.is_none(), "Events"),
        ];
        kinds.into_iter().filter(|(is_unread, _)| *is_unread).map(|(_, name)| name).collect()
    }

    fn status_entry(&self, name: &str) -> Option<&Value> {
        list(self.snapshot.vmi?, "/status/interfaces").iter().find(|entry| name_is(entry, name))
    }

    fn observe(&self, name: &str, direction: Direction) -> Progress {
        let vm = self.snapshot.vm.map(name_of).unwrap_or_default().to_owned();
        let target = Target { vm, nic: name.to_owned(), direction };
        progress::observe(&target, &self.snapshot, &self.judgement.cluster_info)
    }

    /// Evaluates a NIC of the template.
    fn attached(&self, name: &str) -> Diagnosis {
        if self.around.vmi == Fact::Unknown {
            let why = "is in the template; whether the guest has it is not known";
            return Diagnosis::because(Place::Template, Need::Time, why, "");
        }
        let phase = self.snapshot.vmi.map(|vmi| text(vmi, "/status/phase")).unwrap_or_default();
        let is_in_spec = self.snapshot.vmi.is_some_and(|vmi| has_nic(vmi.get("spec"), name));
        if is_in_spec && phase != "Running" && !matches!(phase, "Succeeded" | "Failed") {
            let phase = if phase.is_empty() { "not set yet" } else { phase };
            let why = format!("waits for the guest to run; its phase is {phase}");
            return Diagnosis::because(Place::Vmi, Need::Time, &why, "");
        }
        // KubeVirt plugs no such NIC into a running guest, so it was there at boot.
        let is_of_boot = is_in_spec && self.plugs.get(name) == Some(&HotplugMethod::None) && phase == "Running";
        if is_of_boot || self.status_entry(name).is_some_and(is_in_domain) {
            let change = network::change(self, name, &self.pod_interface(name));
            return change.unwrap_or_else(|| Diagnosis::settled(Place::Guest));
        }
        let progress = self.observe(name, Direction::Attach);
        let place = place_of(&progress);
        match &progress.state {
            State::Done | State::Waiting { stage: Stage::Agent, .. } => Diagnosis::settled(Place::Guest),
            State::Stopped(_) if self.snapshot.vmi.is_none() => {
                Diagnosis::because(Place::Template, Need::Nothing, "comes at the next start: the VM does not run", "")
            }
            State::Stopped(reason) => {
                Diagnosis::because(Place::Template, Need::Nothing, &format!("stays: {reason}"), "")
            }
            State::Waiting { reason, .. } => self.waiting(name, place, reason, progress.migration),
        }
    }

    fn waiting(&self, name: &str, place: Place, reason: &str, migration: MigrationNeed) -> Diagnosis {
        let obstacles = judgement::obstacles(self.around, name, place);
        // KubeVirt names a guest that cannot migrate in its own words, which the rule quotes too.
        let is_told = reason.contains("cannot migrate") || reason.starts_with("a restart");
        let mut why = format!("waits for {reason}");
        let is_quoted = |weight| is_told && matches!(weight, Weight::Denied | Weight::Postponed);
        for obstacle in obstacles.iter().filter(|obstacle| !is_quoted(obstacle.weight)) {
            why.push_str("; ");
            why.push_str(&obstacle.what);
        }
        let fix = obstacles.iter().find(|obstacle| !obstacle.fix.is_empty()).map(|obstacle| obstacle.fix.as_str());
        let is_blocked = is_told || obstacles.iter().any(|obstacle| obstacle.weight != Weight::Unchecked);
        let needs_migration = migration == MigrationNeed::Manual && !reason.contains("cannot migrate");
        let need = if is_blocked || migration == MigrationNeed::Manual { Need::Action } else { Need::Time };
        let fix = match fix {
            Some(fix) => fix.to_owned(),
            None if needs_migration => "start a live migration".to_owned(),
            None if reason.contains("cannot migrate") => "make the guest live-migratable, or restart the VM".to_owned(),
            None if need == Need::Action => "remove that obstacle, or restart the VM".to_owned(),
            None => String::new(),
        };
        let reason = PendingReason::of(reason, place, &obstacles, migration);
        Diagnosis { place, need, reason: Some(reason), why, fix, needs_migration }
    }

    /// Evaluates a NIC that is absent in the template.
    fn detached(&self, name: &str) -> Diagnosis {
        if self.around.vmi == Fact::Unknown {
            let why = "is absent in the template; whether the guest still has it is not known";
            return Diagnosis::because(Place::Template, Need::Time, why, "");
        }
        let progress = self.observe(name, Direction::Detach);
        let place = match self.status_entry(name) {
            Some(entry) if is_in_domain(entry) => Place::Guest,
            Some(_) => Place::Pod,
            None => Place::Template,
        };
        match &progress.state {
            State::Done => {
                Diagnosis::because(Place::Template, Need::Nothing, "is absent: the guest does not have it", "")
            }
            State::Stopped(reason) => Diagnosis::because(place, Need::Nothing, &format!("stays: {reason}"), ""),
            State::Waiting { reason, .. } => {
                let needs_migration = progress.migration == MigrationNeed::Manual;
                let need = if needs_migration { Need::Action } else { Need::Time };
                let fix = if needs_migration { "start a live migration" } else { "" };
                let why = format!("is being removed, and waits for {reason}");
                let reason = Some(PendingReason::of(reason, place, &[], progress.migration));
                Diagnosis { reason, needs_migration, ..Diagnosis::because(place, need, &why, fix) }
            }
        }
    }

    /// Evaluates a NIC that the guest has and the template does not.
    fn not_in_template(&self, name: &str, interface: &Value) -> (Direction, Diagnosis) {
        let place = if self.status_entry(name).is_some_and(is_in_domain) { Place::Guest } else { Place::Vmi };
        let template = self.snapshot.vm.and_then(|vm| vm.pointer("/spec/template/spec"));
        let is_automatic = list(template.unwrap_or(&Value::Null), "/domain/devices/interfaces").is_empty();
        if self.snapshot.vm.is_none() || is_automatic {
            // A VMI without a VM has no template, and the default NIC of a VM without NICs is in none.
            let is_of_boot = self.plugs.get(name) == Some(&HotplugMethod::None);
            let place = if is_of_boot { Place::Guest } else { place };
            return (Direction::Attach, Diagnosis::settled(place));
        }
        if text(interface, "/state") == "absent" {
            let why = "is being removed, and waits for the guest to release it";
            return (Direction::Detach, Diagnosis::because(place, Need::Time, why, ""));
        }
        let why = "is not in the template any more without state: absent; the guest keeps it until the VM restarts";
        let fix = "add it to the template again to keep it, or restart the VM to remove it";
        (Direction::Detach, Diagnosis::because(place, Need::Action, why, fix))
    }

    fn since(&self, name: &str, place: Place) -> Option<String> {
        let vmi = self.snapshot.vmi;
        match place {
            Place::Template => {
                let path = ["spec", "template", "spec", "domain", "devices", "interfaces"];
                since::last_write(self.snapshot.vm?, &path)
            }
            Place::Vmi => {
                let required = since::condition_time(vmi?, "MigrationRequired");
                required.or_else(|| since::last_write(vmi?, &["spec", "domain", "devices", "interfaces"]))
            }
            Place::Pod => since::last_write(vmi?, &["spec", "domain", "devices", "interfaces"]),
            Place::Guest => since::start(vmi?).filter(|_| self.is_of_boot(name) == Some(true)),
        }
    }

    /// Whether the guest booted with a NIC: KubeVirt appends the NICs that it plugs later.
    fn is_of_boot(&self, name: &str) -> Option<bool> {
        let vmi = self.snapshot.vmi?;
        let position = list(vmi, "/spec/domain/devices/interfaces").iter().position(|nic| name_is(nic, name));
        let Some(position) = position else { return Some(false) };
        if self.plugs.get(name) == Some(&HotplugMethod::None) {
            return Some(true);
        }
        self.boot_nics.map(|count| (position as u64) < count)
    }
}

fn place_of(progress: &Progress) -> Place {
    match progress.reached.last().map(|(stage, _)| *stage) {
        None | Some(Stage::Template) => Place::Template,
        Some(Stage::Spec | Stage::Annotation) => Place::Vmi,
        Some(Stage::Multus) => Place::Pod,
        Some(Stage::Domain | Stage::Agent | Stage::Status) => Place::Guest,
    }
}

fn network_of(network: Option<&Value>) -> String {
    match network {
        Some(network) if network.get("pod").is_some() => "pod".to_owned(),
        Some(network) => text(network, "/multus/networkName").to_owned(),
        None => String::new(),
    }
}

fn binding_of(interface: &Value) -> String {
    let plugin = text(interface, "/binding/name");
    let named = || BINDINGS.iter().find(|name| interface.get(**name).is_some());
    if plugin.is_empty() { named().copied().unwrap_or_default().to_owned() } else { plugin.to_owned() }
}
