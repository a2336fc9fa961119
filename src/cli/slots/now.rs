//! The ports of the running guest: how many are free now, and which NICs were plugged after the boot.

use serde_json::{Value, json};

use super::{
    text,
    view::{Availability, NowLine, NowView},
};
use crate::{
    admission::Weight,
    cli::{
        plan::{notes, unchecked},
        status::value_of_ports,
    },
    hotplug::{
        place::{GuestReport, Place},
        plan::Plan,
        progress::Direction,
    },
    rules::{self, PortCount},
};

/// The ports of a running guest, and what NICs of `--what-if` would need.
pub(super) struct Now<'n> {
    pub(super) report: &'n GuestReport,
    pub(super) plan: Option<&'n Plan>,
}

impl Now<'_> {
    /// Returns the content for a drawing.
    pub(super) fn view(&self) -> NowView {
        let (headline, availability) = self.headline();
        NowView { headline, availability, lines: self.lines() }
    }

    /// Returns the lines for a width.
    pub(super) fn text(&self, width: Option<usize>) -> String {
        let headline = NowLine { text: self.headline().0, is_indented: false, is_bad: false };
        let mut all = String::new();
        for line in std::iter::once(headline).chain(self.lines()) {
            let indent = if line.is_indented { "  " } else { "" };
            for part in text::in_lines(&line.text, indent, width) {
                all.push_str(&part);
                all.push('\n');
            }
        }
        all
    }

    /// Adds the fields of the running guest to the JSON output.
    pub(super) fn add_to(&self, output: &mut serde_json::Map<String, Value>) {
        let (plugged, waiting) = self.later();
        let what_if =
            self.plan.map(|plan| json!({"isRefused": plan.is_refused(), "freeAfterChange": plan.free_after()}));
        output.insert("now".to_owned(), value_of_ports(&self.report.ports.now));
        output.insert("details".to_owned(), self.report.ports.details.clone().into());
        output.insert("pluggedLater".to_owned(), plugged.into());
        output.insert("onTheWay".to_owned(), waiting.into());
        output.insert("whatIf".to_owned(), what_if.unwrap_or_default());
    }

    /// Returns the names of the NICs that were plugged after the boot, and of those that are on their way.
    fn later(&self) -> (Vec<&str>, Vec<&str>) {
        let attached = || self.report.nics.iter().filter(|nic| nic.direction == Direction::Attach);
        // Without the VMI it is not known where a NIC is.
        let is_running = matches!(self.report.ports.now, PortCount::Free { .. } | PortCount::Unlimited);
        let plugged = attached().filter(|nic| nic.place == Place::Guest && nic.is_of_boot == Some(false));
        let waiting = attached().filter(|nic| is_running && nic.place < Place::Guest);
        (plugged.map(|nic| nic.name.as_str()).collect(), waiting.map(|nic| nic.name.as_str()).collect())
    }

    fn headline(&self) -> (String, Availability) {
        match &self.report.ports.now {
            PortCount::Free { free, at_boot, name, estimate } => {
                let about = if estimate.is_some() { "about " } else { "" };
                let ports = if *free == 1 { format!("{name} is") } else { format!("{name}s are") };
                let availability = if *free == 0 { Availability::Full } else { Availability::Free };
                (format!("Now: {about}{free} {ports} free, of {at_boot} at boot"), availability)
            }
            PortCount::Unlimited => ("Now: ports do not limit the number of NICs".to_owned(), Availability::Free),
            PortCount::NotRunning => ("Now: no guest runs".to_owned(), Availability::Unknown),
            PortCount::Unknown(why) => (format!("Now: the free ports are not known: {why}"), Availability::Unknown),
        }
    }

    fn lines(&self) -> Vec<NowLine> {
        let line = |text: String| NowLine { text, is_indented: false, is_bad: false };
        let indented = |text: String| NowLine { is_indented: true, ..line(text) };
        let ports = &self.report.ports;
        let mut lines = Vec::new();
        if !ports.details.is_empty() {
            lines.push(indented(ports.details.clone()));
        }
        if let PortCount::Free { estimate: Some(why), .. } = ports.now {
            lines.push(indented(format!("an estimate: {why}")));
        }
        if let (PortCount::Free { free: 0, .. }, Some(rule)) = (&ports.now, rules::find("NP106")) {
            lines.push(NowLine { is_bad: true, ..indented(format!("fix: {}", rule.fix)) });
        }
        let (plugged, waiting) = self.later();
        for (what, names) in [("Plugged after the boot", plugged), ("On the way, each with a port", waiting)] {
            if !names.is_empty() {
                lines.push(line(format!("{what}: {}", names.join(", "))));
            }
        }
        let Some(plan) = self.plan else { return lines };
        for (nic, why) in plan.impossible.iter().chain(&plan.unchanged) {
            lines.push(line(format!("What if {nic}: {why}")));
        }
        let Some(outlook) = &plan.outlook else { return lines };
        for nic in &outlook.nics {
            let is_denied = nic.denials().next().is_some();
            lines.push(NowLine { is_bad: is_denied, ..line(format!("What if {}: {}", nic.name, nic.sentence())) });
            lines.extend(nic.denials().map(|reason| indented(format!("to do: {}", reason.fix))));
            lines.extend(notes(nic).map(indented));
        }
        let others = outlook.others.iter().filter(|reason| reason.weight != Weight::Unchecked);
        lines.extend(others.map(|reason| NowLine {
            is_bad: reason.weight == Weight::Denied,
            ..line(format!("{} [{}]", reason.what, reason.rule))
        }));
        lines.extend(unchecked(outlook).into_iter().map(line));
        if let (Some(free), false) = (plan.free_after(), plan.is_refused()) {
            let are = if free == 1 { "is" } else { "are" };
            lines.push(line(format!("With them {free} {are} free now")));
        }
        lines
    }
}
