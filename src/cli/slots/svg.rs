//! The PCI bus as an SVG drawing for documents: without scripts, fonts and links, readable on any background.

use std::fmt::Write;

use super::{
    text::cut,
    view::{Availability, BusView, Group, Row},
};
use crate::cli::terminal::broken;

/// The width of a column of cards, in pixels like all lengths here.
const COLUMN: u32 = 400;
const MARGIN: u32 = 28;
const GUTTER: u32 = 28;
const CARD: u32 = 40;
const CARD_GAP: u32 = 6;
const HEADING: u32 = 34;
const LINE: u32 = 20;
/// The left edge of a card, right of the bus line.
const CARD_LEFT: u32 = 52;
/// The horizontal position of the bus line.
const BUS: u32 = 18;
/// The height of all cards above which there are more than two columns.
const COLUMN_HEIGHT: u32 = 16 * (CARD + CARD_GAP) + HEADING;

/// Renders the drawing.
pub(super) fn render(view: &BusView) -> String {
    let columns = distribute(view);
    let count = u32::try_from(columns.len()).unwrap_or(u32::MAX).clamp(2, 64);
    let width = 2 * MARGIN + count * COLUMN + (count - 1) * GUTTER;
    let header = header(view, width);
    let cards = columns.iter().map(|column| column.height).max().unwrap_or(0);
    let footer = footer(view, width, header.bottom + cards + 14);
    let height = footer.bottom + MARGIN;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"
  role="img" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="13" fill="#1f2937">
<title>{}</title>
<rect width="{width}" height="{height}" rx="10" fill="#ffffff" stroke="#e5e7eb"/>
"##,
        escape(&format!("{}: {}", view.title, view.headline)),
    );
    svg.push_str(&header.svg);
    for (column, left) in columns.iter().zip((MARGIN..).step_by((COLUMN + GUTTER) as usize)) {
        svg.push_str(&draw_column(column, left, header.bottom));
    }
    svg.push_str(&footer.svg);
    svg.push_str("</svg>\n");
    svg
}

/// A part of the drawing, and its lower edge.
struct Band {
    svg: String,
    bottom: u32,
}

fn header(view: &BusView, width: u32) -> Band {
    let (ink, paper) = colours(view.availability);
    let lines = broken(&view.headline, (width - 2 * MARGIN) as usize / 9);
    let box_height = 10 + LINE * u32::try_from(lines.len()).unwrap_or(1);
    let mut svg = format!(
        r#"<text x="{MARGIN}" y="38" font-size="20" font-weight="600">{}</text>
<text x="{MARGIN}" y="60" fill="{MUTED}">{}</text>
<rect x="{MARGIN}" y="74" width="{}" height="{box_height}" rx="6" fill="{paper}"/>
"#,
        escape(&cut(&view.title, width as usize / 12)),
        escape(&view.subtitle),
        width - 2 * MARGIN,
    );
    for (line, baseline) in lines.iter().zip((94..).step_by(LINE as usize)) {
        let x = MARGIN + 12;
        let text = escape(line);
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{baseline}\" font-size=\"14\" font-weight=\"600\" fill=\"{ink}\">{text}</text>"
        );
    }
    Band { svg, bottom: 74 + box_height + 8 }
}

const MUTED: &str = "#6b7280";

fn colours(availability: Availability) -> (&'static str, &'static str) {
    match availability {
        Availability::Free => ("#166534", "#dcfce7"),
        Availability::Full => ("#92400e", "#fef3c7"),
        Availability::CannotBoot => ("#991b1b", "#fee2e2"),
    }
}

/// An element of a column.
enum Item<'b> {
    Heading(String),
    Card(&'b Row),
}

impl Item<'_> {
    fn height(&self) -> u32 {
        match self {
            Self::Heading(_) => HEADING,
            Self::Card(_) => CARD + CARD_GAP,
        }
    }
}

#[derive(Default)]
struct Column<'b> {
    items: Vec<Item<'b>>,
    height: u32,
}

impl<'b> Column<'b> {
    fn push(&mut self, item: Item<'b>) {
        self.height += item.height();
        self.items.push(item);
    }
}

/// Distributes the cards of all groups over columns of about the same height. Each column begins with a heading, and
/// none ends with one.
fn distribute(view: &BusView) -> Vec<Column<'_>> {
    let rows: usize = view.groups.iter().map(|group| group.rows.len()).sum();
    let headings = u32::try_from(view.groups.len()).unwrap_or(0) * HEADING;
    let total = headings + u32::try_from(rows).unwrap_or(0) * (CARD + CARD_GAP);
    let count = total.div_ceil(COLUMN_HEIGHT).max(2);
    let limit = (total + (count - 1) * HEADING).div_ceil(count) + CARD;
    let mut columns: Vec<Column> = Vec::new();
    let mut column = Column::default();
    for Group { heading, rows } in &view.groups {
        let continued = format!("{heading}, continued");
        let mut next_heading = heading;
        let mut is_headed = false;
        for row in rows {
            let needed = if is_headed { 0 } else { HEADING } + CARD + CARD_GAP;
            if column.height + needed > limit && !column.items.is_empty() {
                columns.push(std::mem::take(&mut column));
                is_headed = false;
            }
            if !is_headed {
                column.push(Item::Heading(next_heading.clone()));
                is_headed = true;
                next_heading = &continued;
            }
            column.push(Item::Card(row));
        }
    }
    if !column.items.is_empty() {
        columns.push(column);
    }
    columns
}

fn draw_column(column: &Column<'_>, left: u32, top: u32) -> String {
    let mut svg = bus_line(column, left, top);
    let mut top = top;
    for item in &column.items {
        match item {
            Item::Heading(heading) => {
                let (baseline, heading) = (top + 22, escape(heading));
                let _ = writeln!(
                    svg,
                    "<text x=\"{left}\" y=\"{baseline}\" font-size=\"12\" font-weight=\"600\" \
                     fill=\"{MUTED}\">{heading}</text>"
                );
            }
            Item::Card(row) => svg.push_str(&card(row, left, top)),
        }
        top += item.height();
    }
    svg
}

/// Draws the line that connects the ports of a column.
fn bus_line(column: &Column<'_>, left: u32, top: u32) -> String {
    let mut top = top;
    let mut ends: Option<(u32, u32)> = None;
    for item in &column.items {
        if matches!(item, Item::Card(row) if row.port.is_some()) {
            let middle = top + CARD / 2;
            ends = Some((ends.map_or(middle, |(first, _)| first), middle));
        }
        top += item.height();
    }
    let x = left + BUS;
    ends.map_or(String::new(), |(first, last)| {
        format!("<path d=\"M{x} {first}V{last}\" stroke=\"#cbd5e1\" stroke-width=\"3\" stroke-linecap=\"round\"/>\n")
    })
}

fn card(row: &Row, left: u32, top: u32) -> String {
    let (x, width) = (left + CARD_LEFT, COLUMN - CARD_LEFT);
    let middle = top + CARD / 2;
    let paint = if row.is_free {
        "fill=\"#f0fdf4\" stroke=\"#22c55e\" stroke-dasharray=\"5 4\"".to_owned()
    } else {
        format!("fill=\"{}\" stroke=\"#e2e8f0\"", "#f8fafc")
    };
    let mut svg = format!("<g>\n<rect x=\"{x}\" y=\"{top}\" width=\"{width}\" height=\"{CARD}\" rx=\"6\" {paint}/>\n");
    if let Some(port) = row.port {
        let (bus, fill, ink) =
            if row.is_free { (left + BUS, "#22c55e", "#ffffff") } else { (left + BUS, "#475569", "#ffffff") };
        let _ = write!(
            svg,
            "<path d=\"M{bus} {middle}H{x}\" stroke=\"#cbd5e1\" stroke-width=\"2\"/>\n\
             <circle cx=\"{bus}\" cy=\"{middle}\" r=\"13\" fill=\"{fill}\"/>\n\
             <text x=\"{bus}\" y=\"{}\" font-size=\"11\" font-weight=\"600\" fill=\"{ink}\" \
             text-anchor=\"middle\">{port}</text>\n",
            middle + 4
        );
    }
    if !row.is_free {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"4\" height=\"{}\" rx=\"2\" fill=\"{}\"/>",
            top + 7,
            CARD - 14,
            tone(row)
        );
    }
    let name_ink = if row.is_free { "#166534" } else { "#1f2937" };
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" font-weight=\"600\" fill=\"{name_ink}\">{}</text>\n\
         <text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"{MUTED}\" text-anchor=\"end\">{}</text>\n\
         <text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"{MUTED}\">{}</text>\n</g>\n",
        x + 14,
        top + 17,
        escape(&cut(&row.name, 30)),
        x + width - 12,
        top + 17,
        row.kind,
        x + 14,
        top + 32,
        escape(&cut(&row.why, 58)),
    );
    svg
}

/// Returns the colour for a kind of device.
fn tone(row: &Row) -> &'static str {
    match if row.kind.is_empty() { row.name.as_str() } else { row.kind } {
        "interface" | "sriov" => "#2563eb",
        "disk" | "filesystem" => "#d97706",
        "gpu" | "hostDevice" => "#7c3aed",
        "bridge" => "#0f172a",
        _ => "#64748b",
    }
}

/// Draws the calculation and the notes.
fn footer(view: &BusView, width: u32, top: u32) -> Band {
    let letters = (width - 2 * MARGIN) as usize / 7;
    let sentences = view.calculation.iter().cloned().chain(view.notes.iter().map(|note| format!("Note: {note}")));
    let lines: Vec<String> = sentences.flat_map(|sentence| broken(&sentence, letters)).collect();
    if lines.is_empty() {
        return Band { svg: String::new(), bottom: top.saturating_sub(LINE) };
    }
    let mut svg = format!("<path d=\"M{MARGIN} {top}H{}\" stroke=\"#e5e7eb\"/>\n", width - MARGIN);
    let mut baseline = top + 6;
    for line in &lines {
        baseline += LINE;
        let _ = writeln!(svg, "<text x=\"{MARGIN}\" y=\"{baseline}\" fill=\"#374151\">{}</text>", escape(line));
    }
    Band { svg, bottom: baseline }
}

/// Escapes text for XML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 does not allow control characters, escaped or not.
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ports: u64) -> BusView {
        let row = |port| Row {
            port: Some(port),
            name: format!("<nic {port}>"),
            kind: "interface",
            why: "a & b".to_owned(),
            is_free: port % 2 == 0,
        };
        BusView {
            title: "VirtualMachine a/b".to_owned(),
            subtitle: "q35".to_owned(),
            headline: "1 of 2 root ports free".to_owned(),
            availability: Availability::Free,
            groups: vec![Group { heading: "root ports".to_owned(), rows: (1..=ports).map(row).collect() }],
            calculation: vec!["1 + 1 = 2".to_owned()],
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn every_port_is_drawn_once_and_every_free_one_is_dashed() {
        for ports in [1, 2, 15, 16, 40, 228] {
            let svg = render(&view(ports));
            let count = |part: &str| svg.matches(part).count() as u64;
            assert_eq!(count("<circle "), ports);
            assert_eq!(count("stroke-dasharray"), ports / 2);
            assert_eq!(count("<g>"), count("</g>"));
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        }
    }

    #[test]
    fn names_cannot_break_the_drawing() {
        let svg = render(&view(1));
        assert!(svg.contains("&lt;nic 1&gt;") && svg.contains("a &amp; b") && !svg.contains("<nic"));
        assert_eq!(escape("a\u{0}\u{1b}\"b"), "a\u{fffd}\u{fffd}&quot;b");
    }

    #[test]
    fn columns_have_about_the_same_height_and_begin_with_a_heading() {
        let view = view(33);
        let columns = distribute(&view);
        assert_eq!(columns.len(), 3);
        for column in &columns {
            assert!(matches!(column.items.first(), Some(Item::Heading(_))));
            assert!(column.height <= COLUMN_HEIGHT + HEADING + CARD);
        }
    }
}
