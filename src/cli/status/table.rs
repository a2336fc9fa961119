//! The table of NICs.

use jiff::Timestamp;

use super::age;
use crate::{
    cli::terminal::{Colour, Painter, broken},
    hotplug::{
        place::{GuestReport, Need, NicReport},
        progress::Direction,
    },
};

/// The smallest width of the last column; with less space it gets lines of its own.
const REASON_AT_LEAST: usize = 40;

/// The indentation of a reason on lines of its own.
const INDENT: usize = 4;

/// How the table is laid out.
pub(super) struct Layout {
    pub(super) has_namespace: bool,
    pub(super) is_wide: bool,
    /// The width of the terminal; `None` for a pipe, where no line is broken.
    pub(super) width: Option<usize>,
    pub(super) now: Timestamp,
}

/// A line of the table.
#[derive(Clone)]
pub(super) struct NicRow {
    /// Namespace, VM and NIC.
    pub(super) key: String,
    /// What --watch compares: all but the ages.
    pub(super) state: String,
    cells: Vec<String>,
    why: String,
    colour: Option<Colour>,
}

/// Renders the table of all NICs.
pub(super) fn render(reports: &[GuestReport], layout: &Layout, painter: Painter) -> String {
    lines(&rows(reports, layout), layout, true, painter)
}

/// Returns the rows of all guests.
pub(super) fn rows(reports: &[GuestReport], layout: &Layout) -> Vec<NicRow> {
    reports.iter().flat_map(|guest| rows_of(guest, layout)).collect()
}

fn rows_of(guest: &GuestReport, layout: &Layout) -> Vec<NicRow> {
    let ports = format!("{}/{}", guest.ports.now.short(), guest.ports.after_restart.short());
    if guest.nics.is_empty() {
        let cells = cells(guest, "-", ["-", "-", "-", "-"], "-", "-", &ports, layout);
        let key = format!("{}/{}", guest.namespace, guest.name);
        return vec![NicRow { key, state: ports, cells, why: "has no NIC in its template".to_owned(), colour: None }];
    }
    guest.nics.iter().map(|nic| row(guest, nic, &ports, layout)).collect()
}

fn row(guest: &GuestReport, nic: &NicReport, ports: &str, layout: &Layout) -> NicRow {
    let place = place_of(nic);
    let since = nic.since.as_deref().and_then(|since| age(since, layout.now));
    let mac = nic.mac.as_deref().unwrap_or("-");
    let details = [nic.network.as_str(), nic.binding.as_str(), nic.model.as_str(), mac];
    let cells = cells(guest, &nic.name, details, &place, since.as_deref().unwrap_or("-"), ports, layout);
    let why = match nic.fix.as_str() {
        "" => nic.why.clone(),
        fix => format!("{}. To do: {fix}", nic.why),
    };
    let state = format!("{place} {ports} {why} {mac}");
    let colour = match nic.need {
        Need::Nothing => None,
        Need::Time => Some(Colour::Yellow),
        Need::Action => Some(Colour::Red),
    };
    NicRow { key: format!("{}/{}/{}", guest.namespace, guest.name, nic.name), state, cells, why, colour }
}

/// Returns where a NIC is, and whether it leaves.
pub(in crate::cli) fn place_of(nic: &NicReport) -> String {
    match nic.direction {
        Direction::Attach => nic.place.as_str().to_owned(),
        Direction::Detach => format!("{} (leaves)", nic.place.as_str()),
    }
}

fn cells(
    guest: &GuestReport,
    nic: &str,
    [network, binding, model, mac]: [&str; 4],
    place: &str,
    since: &str,
    ports: &str,
    layout: &Layout,
) -> Vec<String> {
    let mut cells = Vec::new();
    if layout.has_namespace {
        cells.push(guest.namespace.as_str());
    }
    cells.extend([guest.name.as_str(), nic, network]);
    if layout.is_wide {
        cells.extend([binding, model, mac]);
    }
    cells.extend([place, since, ports]);
    let printable = |cell: &str| {
        let text: String = cell.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect();
        if text.is_empty() { "-".to_owned() } else { text }
    };
    cells.into_iter().map(printable).collect()
}

fn head(layout: &Layout) -> Vec<&'static str> {
    let mut head = Vec::new();
    if layout.has_namespace {
        head.push("NAMESPACE");
    }
    head.extend(["VM", "NIC", "NETWORK"]);
    if layout.is_wide {
        head.extend(["BINDING", "MODEL", "MAC"]);
    }
    head.extend(["WHERE", "SINCE", "PORTS"]);
    head
}

/// Renders rows, with the head of the table or without.
pub(super) fn lines(rows: &[NicRow], layout: &Layout, has_head: bool, painter: Painter) -> String {
    let head = head(layout);
    let length = |text: &str| text.chars().count();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.cells.get(column)).map(|cell| length(cell));
            cells.chain([length(title)]).max().unwrap_or_default()
        })
        .collect();
    let join = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ")
    };
    let margin = widths.iter().sum::<usize>() + 2 * widths.len();
    let own_lines = layout.width.is_some_and(|width| width < margin + REASON_AT_LEAST);
    let mut text = String::new();
    let mut add = |line: &str| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    if has_head {
        let titles: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
        let last = if own_lines { "" } else { "  WHY NOT FURTHER" };
        add(&painter.paint(Colour::Bold, format!("{}{last}", join(&titles)).trim_end()));
    }
    for row in rows {
        let first = join(&row.cells);
        let paint = |line: &str| row.colour.map_or_else(|| line.to_owned(), |colour| painter.paint(colour, line));
        match layout.width {
            _ if row.why.is_empty() => add(&paint(first.trim_end())),
            None => add(&paint(&format!("{first}  {}", row.why))),
            Some(width) if own_lines => {
                add(&paint(first.trim_end()));
                for line in broken(&row.why, width.saturating_sub(INDENT)) {
                    add(&paint(&format!("{:INDENT$}{line}", "")));
                }
            }
            Some(width) => {
                let parts = broken(&row.why, width - margin);
                for (number, part) in parts.iter().enumerate() {
                    let line = if number == 0 { format!("{first}  {part}") } else { format!("{:margin$}{part}", "") };
                    add(&paint(&line));
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::Fact,
        hotplug::place::Place,
        rules::{FreePorts, PortCount},
    };

    fn nic(name: &str, place: Place, need: Need, why: &str, fix: &str) -> NicReport {
        NicReport {
            name: name.to_owned(),
            network: "new-fancy-net".to_owned(),
            binding: "bridge".to_owned(),
            model: "virtio".to_owned(),
            mac: Some("02:00:00:00:00:01".to_owned()),
            place,
            direction: Direction::Attach,
            since: Some("2026-11-27T11:00:00Z".to_owned()),
            is_of_boot: None,
            need,
            reason: None,
            why: why.to_owned(),
            fix: fix.to_owned(),
            needs_migration: false,
            unread: Vec::new(),
        }
    }

    fn guest() -> GuestReport {
        let why =
            "waits for a live migration, which a user must start (KubeVirt lacks workloadUpdateMethods LiveMigrate)";
        GuestReport {
            namespace: "demo".to_owned(),
            name: "vm-fedora".to_owned(),
            has_vm: true,
            runs: Fact::Known(()),
            nics: vec![
                nic("default", Place::Guest, Need::Nothing, "", ""),
                nic("dyniface1", Place::Vmi, Need::Action, why, "start a live migration"),
            ],
            ports: FreePorts {
                now: PortCount::Free {
                    free: 2,
                    at_boot: 4,
                    name: "hotplug port",
                    estimate: Some("the guest booted before"),
                },
                details: String::new(),
                after_restart: PortCount::Free { free: 3, at_boot: 3, name: "hotplug port", estimate: None },
            },
        }
    }

    fn table(width: Option<usize>, is_wide: bool, has_namespace: bool) -> String {
        let now = "2026-11-27T12:00:00Z".parse().unwrap();
        render(&[guest()], &Layout { has_namespace, is_wide, width, now }, Painter::for_stdout())
    }

    #[test]
    fn at_eighty_columns_a_reason_is_below_its_nic() {
        assert_eq!(
            table(Some(80), false, false),
            "\
VM         NIC        NETWORK        WHERE  SINCE  PORTS
vm-fedora  default    new-fancy-net  guest  60m    ~2/3
vm-fedora  dyniface1  new-fancy-net  vmi    60m    ~2/3
    waits for a live migration, which a user must start (KubeVirt lacks
    workloadUpdateMethods LiveMigrate). To do: start a live migration
"
        );
    }

    #[test]
    fn at_a_hundred_and_twenty_columns_a_reason_is_beside_its_nic() {
        assert_eq!(
            table(Some(120), false, false),
            "\
VM         NIC        NETWORK        WHERE  SINCE  PORTS  WHY NOT FURTHER
vm-fedora  default    new-fancy-net  guest  60m    ~2/3
vm-fedora  dyniface1  new-fancy-net  vmi    60m    ~2/3   waits for a live migration, which a user must start (KubeVirt
                                                          lacks workloadUpdateMethods LiveMigrate). To do: start a live
                                                          migration
"
        );
    }

    #[test]
    fn in_a_pipe_each_nic_is_one_line() {
        let text = table(None, true, true);
        assert_eq!(text.lines().count(), 3, "{text}");
        let line = text.lines().nth(2).unwrap();
        let start =
            "demo       vm-fedora  dyniface1  new-fancy-net  bridge   virtio  02:00:00:00:00:01  vmi    60m    ~2/3   ";
        assert!(line.starts_with(start), "{text}");
        assert!(line.ends_with("To do: start a live migration"), "{text}");
    }

    #[test]
    fn a_name_cannot_change_the_state_of_a_terminal() {
        let mut guest = guest();
        guest.nics[0].network = "\u{1b}[31m".to_owned();
        let layout = Layout { has_namespace: false, is_wide: false, width: None, now: Timestamp::UNIX_EPOCH };
        assert!(!render(&[guest], &layout, Painter::for_stdout()).contains('\u{1b}'));
    }
}
