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
        page.paragraph(None, "", "        ", &format!("{number:>6}  {}", topic.title()));
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
