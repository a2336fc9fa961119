//! The audit as text: a summary, and then the findings by topic; equal findings of several guests are shown once.

use super::{AuditReport, AuditedGuest, Finding, count};
use crate::cli::{check::Level, status::Printout, terminal::Colour};

/// How many guests an equal finding names.
const MAX_NAMES: usize = 8;

/// Renders the report.
pub(super) fn render(report: &AuditReport, mut page: Printout) -> String {
    let levels = [Level::Error, Level::Warning, Level::Note].map(|level| (report.count_level(level), level));
    let found: Vec<String> =
        levels.iter().filter(|(number, _)| *number > 0).map(|(number, level)| count(*number, level.as_str())).collect();
    let found = if found.is_empty() { "nothing found".to_owned() } else { found.join(", ") };
    let guests = count(report.guests.len(), "guest");
    let headline = format!("{found} in {guests} of {}, KubeVirt {}", report.scope, report.version);
    let worst = levels.iter().find(|(number, _)| *number > 0).map(|(_, level)| *level);
    page.paragraph(Some(worst.map_or(Colour::Green, colour)), "", "  ", &headline);
    for (topic, number) in report.topics() {
        page.paragraph(None, "", "        ", &format!("{number:>6}  {}", topic.title()));
    }
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
    let notes: Vec<String> = report.unchecked().into_iter().chain(report.notes.iter().cloned()).collect();
    if !notes.is_empty() {
        page.verbatim("", "\n");
    }
    for note in notes {
        page.paragraph(Some(Colour::Dim), "", "  ", &note);
    }
    page.into_text()
}

fn is_equal(one: &Finding, other: &Finding) -> bool {
    (one.topic, one.id(), &one.what, &one.fix, one.is_new)
        == (other.topic, other.id(), &other.what, &other.fix, other.is_new)
}

fn add(page: &mut Printout, equal: &[(&AuditedGuest, &Finding)], finding: &Finding) {
    let rule = finding.rule.map(|rule| format!(" [{}]", rule.id)).unwrap_or_default();
    let new = if finding.is_new { " (new with this version)" } else { "" };
    page.paragraph(Some(colour(finding.level)), "  ", "    ", &format!("{}{rule}{new}", finding.what));
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

fn colour(level: Level) -> Colour {
    match level {
        Level::Error => Colour::Red,
        Level::Warning => Colour::Yellow,
        Level::Note => Colour::Cyan,
    }
}
