//! The audit as text: a summary, and then the findings by topic; equal findings of several guests are shown once.

use super::{AuditReport, AuditedGuest, Finding, Published, reports::OWNED};
use crate::cli::{
    check::{Level, count, summary},
    status::Printout,
    terminal::Colour,
};

/// How many guests an equal finding names.
const MAX_NAMES: usize = 8;

/// Renders the report.
pub(super) fn render(report: &AuditReport, mut page: Printout) -> String {
    add_summary(&mut page, report);
    let findings = report.findings();
    let mut rest = findings.as_slice();
    let mut topic = None;
    while let Some((_, first)) = rest.first() {
        let same = rest.iter().take_while(|(_, other)| is_equal(first, other)).count();
        let (equal, later) = rest.split_at(same);
        rest = later;
        if topic != Some(first.topic) {
            topic = Some(first.topic);
            page.verbatim("", "\n");
            page.paragraph(Some(Colour::Bold), "", "  ", first.topic.title());
        }
        add(&mut page, equal, first);
    }
    add_remarks(&mut page, report);
    page.into_text()
}

/// Renders what was written into the cluster. The findings are in the reports.
pub(super) fn render_published(report: &AuditReport, published: &Published, mut page: Printout) -> String {
    add_summary(&mut page, report);
    page.verbatim("", "\n");
    let Published { resource, created, changed, unchanged, removed, failures } = published;
    let counts = format!("{resource}: {created} created, {changed} changed, {unchanged} unchanged, {removed} removed");
    page.paragraph(None, "", "  ", &counts);
    let number = failures.len();
    for failure in failures.iter().take(MAX_NAMES) {
        page.paragraph(Some(Colour::Red), "  ", "    ", failure);
    }
    if let more @ 1.. = number.saturating_sub(MAX_NAMES) {
        page.paragraph(Some(Colour::Red), "  ", "    ", &format!("and {more} more"));
    }
    if created + changed + unchanged > 0 {
        let (label, value) = OWNED;
        page.verbatim("", &format!("To show them: kubectl get {resource} -A -o wide -l {label}={value}"));
    }
    add_remarks(&mut page, report);
    page.into_text()
}

fn add_summary(page: &mut Printout, report: &AuditReport) {
    let found = summary(|level| report.count_level(level));
    let guests = count(report.guests.len(), "guest");
    let headline = format!("{found} in {guests} of {}, KubeVirt {}", report.scope, report.version);
    let worst = [Level::Error, Level::Warning, Level::Note].into_iter().find(|level| report.count_level(*level) > 0);
    page.paragraph(Some(worst.map_or(Colour::Green, Level::colour)), "", "  ", &headline);
    for (topic, number) in report.topics() {
        page.paragraph(None, &format!("{number:>6}  "), "        ", topic.title());
    }
}

fn add_remarks(page: &mut Printout, report: &AuditReport) {
    let remarks = report.remarks();
    if !remarks.is_empty() {
        page.verbatim("", "\n");
    }
    for remark in remarks {
        page.paragraph(Some(Colour::Dim), "", "  ", &remark);
    }
}

fn is_equal(one: &Finding, other: &Finding) -> bool {
    (one.topic, one.id(), &one.what, &one.fix, one.is_new)
        == (other.topic, other.id(), &other.what, &other.fix, other.is_new)
}

fn add(page: &mut Printout, equal: &[(&AuditedGuest, &Finding)], finding: &Finding) {
    let rule = finding.rule.map(|rule| format!(" [{}]", rule.id)).unwrap_or_default();
    let new = if finding.is_new { " (new with this version)" } else { "" };
    page.paragraph(Some(finding.level.colour()), "  ", "    ", &format!("{}{rule}{new}", finding.what));
    let names: Vec<String> =
        equal.iter().take(MAX_NAMES).map(|(guest, _)| format!("{}/{}", guest.namespace, guest.name)).collect();
    let more = match equal.len().saturating_sub(MAX_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more (all with -o json)"),
    };
    page.paragraph(None, "    ", "      ", &format!("{}{more}", names.join(", ")));
    if !finding.fix.is_empty() {
        page.paragraph(None, "    ", "      ", &format!("To do: {}", finding.fix));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::evaluation::Topic, *};
    use crate::rules::{FreePorts, PortCount, find};

    fn guest(name: &str, findings: Vec<Finding>) -> AuditedGuest {
        AuditedGuest {
            kind: "VirtualMachine",
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: String::new(),
            runs: Some(true),
            ports: FreePorts { now: PortCount::Unlimited, details: String::new(), after_restart: PortCount::Unlimited },
            nics: Vec::new(),
            findings,
            bus: None,
        }
    }

    fn report() -> AuditReport {
        let waits = "\"blue\" waits for a live migration, which a user must start (KubeVirt lacks workloadUpdateMethods \
            LiveMigrate)";
        let stuck = Finding::of(Topic::NicStuck, waits.to_owned(), "start a live migration");
        let what = "NetworkAttachmentDefinition \"blu-net\" does not exist in namespace \"shop\"";
        let fix = "create it, or use \"shop/blue-net\", which exists";
        let warned = Finding { rule: find("NP105"), ..Finding::of(Topic::Warned, what.to_owned(), fix) };
        let many = (0..10).map(|number| guest(&format!("web-{number}"), vec![warned.clone()]));
        AuditReport {
            scope: "namespace \"shop\"".to_owned(),
            version: "v1.9.0".to_owned(),
            guests: [guest("db", vec![stuck])].into_iter().chain(many).collect(),
            notes: vec!["Not read, no permission: Pods of namespace \"shop\", Events of namespace \"shop\"".to_owned()],
            ..AuditReport::default()
        }
    }

    #[test]
    fn the_audit_fits_eighty_columns() {
        assert_eq!(
            render(&report(), Printout::of(Some(80))),
            "\
1 error, 10 warnings in 11 guests of namespace \"shop\", KubeVirt v1.9.0
     1  NIC waits for a user
    10  Would draw a warning if created now

NIC waits for a user
  \"blue\" waits for a live migration, which a user must start (KubeVirt lacks
    workloadUpdateMethods LiveMigrate)
    shop/db
    To do: start a live migration

Would draw a warning if created now
  NetworkAttachmentDefinition \"blu-net\" does not exist in namespace \"shop\"
    [NP105]
    shop/web-0, shop/web-1, shop/web-2, shop/web-3, shop/web-4, shop/web-5,
      shop/web-6, shop/web-7 and 2 more (all with -o json)
    To do: create it, or use \"shop/blue-net\", which exists

Not read, no permission: Pods of namespace \"shop\", Events of namespace \"shop\"
"
        );
    }

    #[test]
    fn the_audit_uses_a_hundred_and_twenty_columns() {
        assert_eq!(
            render(&report(), Printout::of(Some(120))),
            "\
1 error, 10 warnings in 11 guests of namespace \"shop\", KubeVirt v1.9.0
     1  NIC waits for a user
    10  Would draw a warning if created now

NIC waits for a user
  \"blue\" waits for a live migration, which a user must start (KubeVirt lacks workloadUpdateMethods LiveMigrate)
    shop/db
    To do: start a live migration

Would draw a warning if created now
  NetworkAttachmentDefinition \"blu-net\" does not exist in namespace \"shop\" [NP105]
    shop/web-0, shop/web-1, shop/web-2, shop/web-3, shop/web-4, shop/web-5, shop/web-6, shop/web-7 and 2 more (all
      with -o json)
    To do: create it, or use \"shop/blue-net\", which exists

Not read, no permission: Pods of namespace \"shop\", Events of namespace \"shop\"
"
        );
    }
}
