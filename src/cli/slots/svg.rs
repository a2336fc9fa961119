//! The PCI bus as an SVG drawing for documents: without scripts, fonts and links, in light and dark colours.

mod cards;
mod font;

use std::fmt::Write;

use self::{
    cards::{Card, Tone, cards, sum},
    font::Font,
};
use super::view::{Availability, BusView, NowView};

/// The width of a column of cards, in pixels like all lengths here.
const COLUMN: u32 = 400;
const MARGIN: u32 = 28;
const GUTTER: u32 = 28;
const CARD: u32 = 40;
const CARD_GAP: u32 = 6;
const HEADING: u32 = 34;
/// The left edge of a card, right of the bus line.
const CARD_LEFT: u32 = 58;
/// The horizontal position of the bus line.
const BUS: u32 = 22;
/// The height of all cards above which there are more than two columns.
const COLUMN_HEIGHT: u32 = 16 * (CARD + CARD_GAP) + HEADING;
/// The distance of the text in a box from its edges.
const PADDING: u32 = 12;

const TITLE: Font = Font { size: 20, is_bold: true };
const SUBTITLE: Font = Font { size: 13, is_bold: false };
const HEADLINE: Font = Font { size: 14, is_bold: true };
const BODY: Font = Font { size: 12, is_bold: false };
const GROUP: Font = Font { size: 12, is_bold: true };
const NAME: Font = Font { size: 13, is_bold: true };
const SMALL: Font = Font { size: 11, is_bold: false };
const PORT: Font = Font { size: 11, is_bold: true };

/// The colours. Each rule of the dark ones replaces one of the light ones; custom properties would be shorter, but
/// programs other than browsers do not know them.
const STYLE: &str = "\
.page{fill:#fff;stroke:#e5e7eb}.ink{fill:#1f2937}.muted{fill:#5b6472}.wire{stroke:#cbd5e1;fill:none}\
.card{fill:#f8fafc;stroke:#e2e8f0}.open{fill:#f0fdf4;stroke:#22c55e;stroke-dasharray:5 4}\
.nic{fill:#2563eb}.disk{fill:#d97706}.host{fill:#7c3aed}.other{fill:#64748b}\
.port{fill:#475569}.spare{fill:#15803d}.number{fill:#fff}\
.free{fill:#166534}.free-box{fill:#dcfce7}.full{fill:#b91c1c}.full-box{fill:#fee2e2}.plain-box{fill:#f1f5f9}\
@media(prefers-color-scheme:dark){\
.page{fill:#0f172a;stroke:#334155}.ink{fill:#e5e7eb}.muted{fill:#9aa5b5}.wire{stroke:#475569}\
.card{fill:#1e293b;stroke:#334155}.open{fill:#052e16;stroke:#22c55e}\
.nic{fill:#60a5fa}.disk{fill:#fbbf24}.host{fill:#a78bfa}.other{fill:#94a3b8}\
.port{fill:#64748b}\
.free{fill:#86efac}.free-box{fill:#14361f}.full{fill:#fca5a5}.full-box{fill:#451a1a}.plain-box{fill:#1e293b}}";

/// Renders the drawing.
pub(super) fn render(view: &BusView) -> String {
    let columns = distribute(view);
    let count = u32::try_from(columns.len()).unwrap_or(u32::MAX).clamp(2, 64);
    let width = 2 * MARGIN + count * COLUMN + (count - 1) * GUTTER;
    let mut body = String::new();
    let top = header(&mut body, view, width);
    for (column, left) in columns.iter().zip((MARGIN..).step_by((COLUMN + GUTTER) as usize)) {
        draw_column(&mut body, column, left, top);
    }
    let cards = columns.iter().map(|column| column.height).max().unwrap_or(0);
    let bottom = legend(&mut body, &columns, top + cards + 8);
    let height = footnote(&mut body, view, width, bottom) + MARGIN;
    let title = escape(&format!("{}: {}", view.title, view.headline));
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"
  role="img" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif">
<title>{title}</title>
<style>{STYLE}</style>
<rect class="page" x="0.5" y="0.5" width="{}" height="{}" rx="10"/>
{body}</svg>
"#,
        width - 1,
        height - 1,
    )
}

/// Writes a line of text; `at` is the left end of its baseline.
fn text(svg: &mut String, (x, y): (u32, u32), font: Font, class: &str, line: &str) {
    write_text(svg, (x, y), font, class, "start", line);
}

fn write_text(svg: &mut String, (x, y): (u32, u32), font: Font, class: &str, anchor: &str, line: &str) {
    let weight = if font.is_bold { " font-weight=\"600\"" } else { "" };
    let anchor = if anchor == "start" { String::new() } else { format!(" text-anchor=\"{anchor}\"") };
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{}\"{weight}{anchor} class=\"{class}\">{}</text>",
        font.size,
        escape(line)
    );
}

/// Draws the names and the results; returns the lower edge.
fn header(svg: &mut String, view: &BusView, width: u32) -> u32 {
    let inner = width - 2 * MARGIN;
    text(svg, (MARGIN, 38), TITLE, "ink", &TITLE.fit(&view.title, inner));
    text(svg, (MARGIN, 60), SUBTITLE, "muted", &SUBTITLE.fit(&view.subtitle, inner));
    let Some(now) = &view.now else {
        let result = Panel::of_boot(view, inner);
        result.draw(svg, MARGIN, 74, result.height);
        return 74 + result.height + 8;
    };
    let half = (inner - GUTTER) / 2;
    let panels = [Panel::of_now(now, half), Panel::of_boot(view, half)];
    let height = panels.iter().map(|panel| panel.height).max().unwrap_or(0);
    for (panel, left) in panels.iter().zip([MARGIN, MARGIN + half + GUTTER]) {
        panel.draw(svg, left, 74, height);
    }
    74 + height + 8
}

/// A box with a result.
struct Panel {
    width: u32,
    height: u32,
    availability: Availability,
    /// The lines, each with its font, its class and its distance from the line before.
    lines: Vec<(String, Font, &'static str)>,
}

impl Panel {
    fn of_now(now: &NowView, width: u32) -> Self {
        let mut panel = Self::new(&now.headline, now.availability, width);
        for line in &now.lines {
            panel.add(&line.text, BODY, if line.is_bad { "full" } else { "ink" });
        }
        panel
    }

    fn of_boot(view: &BusView, width: u32) -> Self {
        let headline = match view.when {
            "" => view.headline.clone(),
            when => format!("{}: {}", capitalized(when), view.headline),
        };
        let mut panel = Self::new(&headline, view.availability, width);
        if !view.fix.is_empty() {
            panel.add(&format!("fix: {}", view.fix), BODY, "full");
        }
        panel
    }

    fn new(headline: &str, availability: Availability, width: u32) -> Self {
        let mut panel = Self { width, height: 2 * PADDING, availability, lines: Vec::new() };
        panel.add(headline, HEADLINE, classes(availability).0);
        panel
    }

    fn add(&mut self, words: &str, font: Font, class: &'static str) {
        for line in font.wrap(words, self.width - 2 * PADDING) {
            self.height += font.size + 5;
            self.lines.push((line, font, class));
        }
    }

    fn draw(&self, svg: &mut String, left: u32, top: u32, height: u32) {
        let (width, class) = (self.width, classes(self.availability).1);
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>"
        );
        let mut baseline = top + PADDING;
        for (line, font, class) in &self.lines {
            baseline += font.size + 5;
            text(svg, (left + PADDING, baseline - 4), *font, class, line);
        }
    }
}

fn capitalized(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Returns the classes of a result and of its box.
fn classes(availability: Availability) -> (&'static str, &'static str) {
    match availability {
        Availability::Free => ("free", "free-box"),
        Availability::Full | Availability::CannotBoot => ("full", "full-box"),
        Availability::Unknown => ("ink", "plain-box"),
    }
}

/// An element of a column.
enum Item {
    Heading(String),
    Card(Card),
}

impl Item {
    fn height(&self) -> u32 {
        match self {
            Self::Heading(_) => HEADING,
            Self::Card(_) => CARD + CARD_GAP,
        }
    }
}

#[derive(Default)]
struct Column {
    items: Vec<Item>,
    height: u32,
}

impl Column {
    fn push(&mut self, item: Item) {
        self.height += item.height();
        self.items.push(item);
    }

    fn cards(&self) -> impl Iterator<Item = &Card> {
        self.items.iter().filter_map(|item| match item {
            Item::Card(card) => Some(card),
            Item::Heading(_) => None,
        })
    }
}

/// Distributes the cards of all groups over columns of about the same height. Each column begins with a heading, and
/// none ends with one.
fn distribute(view: &BusView) -> Vec<Column> {
    let groups: Vec<(&str, Vec<Card>)> =
        view.groups.iter().map(|group| (group.heading.as_str(), cards(group))).collect();
    let all: usize = groups.iter().map(|(_, cards)| cards.len()).sum();
    let headings = u32::try_from(groups.len()).unwrap_or(0) * HEADING;
    let total = headings + u32::try_from(all).unwrap_or(0) * (CARD + CARD_GAP);
    let count = total.div_ceil(COLUMN_HEIGHT).max(2);
    let limit = (total + (count - 1) * HEADING).div_ceil(count) + CARD;
    let mut columns: Vec<Column> = Vec::new();
    let mut column = Column::default();
    for (heading, cards) in groups {
        let mut next_heading = heading.to_owned();
        let mut is_headed = false;
        for card in cards {
            let needed = if is_headed { 0 } else { HEADING } + CARD + CARD_GAP;
            if column.height + needed > limit && !column.items.is_empty() {
                columns.push(std::mem::take(&mut column));
                is_headed = false;
            }
            if !is_headed {
                column.push(Item::Heading(next_heading));
                is_headed = true;
                next_heading = format!("{heading}, continued");
            }
            column.push(Item::Card(card));
        }
    }
    if !column.items.is_empty() {
        columns.push(column);
    }
    columns
}

fn draw_column(svg: &mut String, column: &Column, left: u32, top: u32) {
    bus_line(svg, column, left, top);
    let mut top = top;
    for item in &column.items {
        match item {
            Item::Heading(heading) => text(svg, (left, top + 22), GROUP, "muted", &GROUP.fit(heading, COLUMN)),
            Item::Card(card) => draw_card(svg, card, left, top),
        }
        top += item.height();
    }
}

/// Draws the line that connects the ports of a column.
fn bus_line(svg: &mut String, column: &Column, left: u32, top: u32) {
    let mut top = top;
    let mut ends: Option<(u32, u32)> = None;
    for item in &column.items {
        if matches!(item, Item::Card(card) if card.ports.is_some()) {
            let middle = top + CARD / 2;
            ends = Some((ends.map_or(middle, |(first, _)| first), middle));
        }
        top += item.height();
    }
    if let Some((first, last)) = ends {
        let x = left + BUS;
        let _ = writeln!(
            svg,
            "<path class=\"wire\" d=\"M{x} {first}V{last}\" stroke-width=\"3\" stroke-linecap=\"round\"/>"
        );
    }
}

fn draw_card(svg: &mut String, card: &Card, left: u32, top: u32) {
    let (x, width) = (left + CARD_LEFT, COLUMN - CARD_LEFT);
    let is_free = card.tone == Tone::Free;
    let class = if is_free { "open" } else { "card" };
    let whole = escape(&card.text());
    let _ = writeln!(
        svg,
        "<g><title>{whole}</title>\n\
         <rect class=\"{class}\" x=\"{x}\" y=\"{top}\" width=\"{width}\" height=\"{CARD}\" rx=\"6\"/>"
    );
    if let Some(ports) = card.ports {
        draw_port(svg, ports, is_free, left + BUS, top + CARD / 2, x);
    }
    if !is_free {
        let (class, top, height) = (card.tone.class(), top + 7, CARD - 14);
        let _ =
            writeln!(svg, "<rect class=\"{class}\" x=\"{x}\" y=\"{top}\" width=\"4\" height=\"{height}\" rx=\"2\"/>");
    }
    let inner = width - 14 - PADDING;
    let beside = if card.kind.is_empty() { 0 } else { SMALL.width(card.kind) + 10 };
    let name_class = if is_free { "free" } else { "ink" };
    text(svg, (x + 14, top + 17), NAME, name_class, &NAME.fit(&card.name, inner - beside));
    if !card.kind.is_empty() {
        write_text(svg, (x + width - PADDING, top + 17), SMALL, "muted", "end", card.kind);
    }
    text(svg, (x + 14, top + 32), SMALL, "muted", &card.line(SMALL, inner));
    svg.push_str("</g>\n");
}

/// Draws the number of a port, or the numbers of several, on the bus line.
fn draw_port(svg: &mut String, (first, last): (u64, u64), is_free: bool, bus: u32, middle: u32, card: u32) {
    let number = if first == last { first.to_string() } else { format!("{first}–{last}") };
    let width = (PORT.width(&number) + 8).max(26);
    let class = if is_free { "spare" } else { "port" };
    let _ = writeln!(
        svg,
        "<path class=\"wire\" d=\"M{bus} {middle}H{card}\" stroke-width=\"2\"/>\n\
         <rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{width}\" height=\"26\" rx=\"13\"/>",
        bus - width / 2,
        middle - 13,
    );
    write_text(svg, (bus, middle + 4), PORT, "number", "middle", &number);
}

/// Draws what the colours mean; returns the lower edge.
fn legend(svg: &mut String, columns: &[Column], top: u32) -> u32 {
    let mut tones: Vec<Tone> = columns.iter().flat_map(Column::cards).map(|card| card.tone).collect();
    tones.sort_unstable();
    tones.dedup();
    let mut left = MARGIN;
    for tone in &tones {
        let class = tone.class();
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{}\" width=\"14\" height=\"14\" rx=\"3\"/>",
            top + 2
        );
        text(svg, (left + 20, top + 14), BODY, "muted", tone.label());
        left += 20 + BODY.width(tone.label()) + 18;
    }
    if tones.is_empty() { top } else { top + 28 }
}

/// Draws the sums, the calculation and the notes; returns the lower edge.
fn footnote(svg: &mut String, view: &BusView, width: u32, top: u32) -> u32 {
    let notes = view.notes.iter().map(|note| format!("Note: {note}"));
    let sentences = sum(view).into_iter().chain(view.calculation.iter().cloned()).chain(notes);
    let lines: Vec<String> = sentences.flat_map(|sentence| SMALL.wrap(&sentence, width - 2 * MARGIN)).collect();
    if lines.is_empty() {
        return top;
    }
    let _ = writeln!(svg, "<path class=\"wire\" d=\"M{MARGIN} {top}H{}\"/>", width - MARGIN);
    let mut baseline = top + 4;
    for line in &lines {
        baseline += 16;
        text(svg, (MARGIN, baseline), SMALL, "muted", line);
    }
    baseline
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
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{
        super::view::{Group, NowLine, Row},
        *,
    };

    fn view(ports: u64) -> BusView {
        let row = |port| Row {
            port: Some(port),
            name: format!("<nic {port}>"),
            kind: "interface",
            why: "a & b".to_owned(),
            network: String::new(),
            mac: String::new(),
            is_free: port % 2 == 0,
        };
        BusView {
            title: "VirtualMachine a/b".to_owned(),
            when: "",
            now: None,
            subtitle: "q35".to_owned(),
            headline: "1 of 2 root ports free".to_owned(),
            availability: Availability::Free,
            fix: "",
            groups: vec![Group { heading: "root ports".to_owned(), rows: (1..=ports).map(row).collect() }],
            calculation: vec!["1 + 1 = 2".to_owned()],
            notes: vec!["a note".to_owned()],
        }
    }

    /// Returns left end, right end, baseline and text of each line of a drawing.
    fn lines(svg: &str) -> Vec<(u32, u32, u32, String)> {
        let line = |line: &str| {
            let (head, rest) = line.strip_prefix("<text ")?.split_once('>')?;
            let attribute = |name: &str| {
                let (_, value) = head.split_once(&format!("{name}=\""))?;
                value.split_once('"').map(|(value, _)| value)
            };
            let number = |name: &str| attribute(name).and_then(|value| value.parse::<u32>().ok());
            let font = Font { size: number("font-size")?, is_bold: head.contains("font-weight") };
            let content = rest.strip_suffix("</text>")?;
            let content =
                content.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
            let (x, width) = (number(" x").or_else(|| number("x"))?, font.width(&content));
            let left = match attribute("text-anchor") {
                Some("end") => x - width,
                Some("middle") => x - width / 2,
                _ => x,
            };
            Some((left, left + width, number(" y")?, content))
        };
        svg.lines().filter_map(line).collect()
    }

    #[test]
    fn every_port_is_drawn_once_and_every_free_one_is_dashed() {
        for ports in [1, 2, 15, 16, 40, 228] {
            let svg = render(&view(ports));
            let count = |part: &str| svg.matches(part).count() as u64;
            assert_eq!(count("height=\"26\" rx=\"13\""), ports);
            let legend = u64::from(ports > 1);
            assert_eq!(count("class=\"open\""), ports / 2 + legend);
            assert_eq!(count("<g>"), count("</g>"));
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
            assert!(svg.contains("@media(prefers-color-scheme:dark)"));
        }
    }

    #[test]
    fn names_cannot_break_the_drawing() {
        let svg = render(&view(1));
        assert!(svg.contains("&lt;nic 1&gt;") && svg.contains("a &amp; b") && !svg.contains("<nic"));
        assert_eq!(escape("a\u{0}\u{1b}\"b\u{ffff}"), "a\u{fffd}\u{fffd}&quot;b\u{fffd}");
    }

    #[test]
    fn no_text_leaves_the_drawing_or_covers_another() {
        let long = "production-infrastructure-networks-of-the-storage-backend-".repeat(8);
        let words = "a sentence about ports that is not shortened yet ".repeat(9);
        let mut view = view(33);
        (view.title, view.subtitle, view.headline) = (long.clone(), words.clone(), words.clone());
        (view.when, view.calculation, view.notes) = ("after the next restart", vec![words.clone()], vec![long.clone()]);
        for (number, row) in view.groups.iter_mut().flat_map(|group| &mut group.rows).enumerate() {
            row.name.clone_from(&long);
            (row.network, row.mac) = (long.clone(), "02:00:00:00:00:01".to_owned());
            row.kind = if number < 5 { "disk" } else { "interface" };
        }
        let line = NowLine { text: words.clone(), is_indented: false, is_bad: true };
        view.now = Some(NowView { headline: words, availability: Availability::Full, lines: vec![line] });
        let svg = render(&view);
        let width = svg.split_once("width=\"").unwrap().1.split_once('"').unwrap().0.parse::<u32>().unwrap();
        let mut lines = lines(&svg);
        assert!(lines.len() > 60, "{}", lines.len());
        lines.sort_by_key(|(left, _, baseline, _)| (*baseline, *left));
        for pair in lines.windows(2) {
            let [(_, right, baseline, text), (next, _, next_baseline, next_text)] = pair else { unreachable!() };
            assert!(*right <= width - MARGIN, "{text:?} ends at {right} of {width}");
            let is_beside = baseline != next_baseline || right < next;
            assert!(is_beside, "{text:?} ends at {right}, and {next_text:?} begins at {next}");
        }
    }

    #[test]
    fn a_result_without_a_free_port_is_red_and_has_its_fix() {
        let full = BusView { availability: Availability::Full, fix: "annotate the VM", ..view(3) };
        let svg = render(&full);
        assert!(svg.contains("class=\"full-box\"") && svg.contains("class=\"full\">fix: annotate the VM"), "{svg}");
        let free = render(&view(3));
        assert!(!free.contains("class=\"full"), "{free}");
        assert!(free.contains(">3 root ports = 2 NICs + 1 free<"), "{free}");
    }

    #[test]
    fn the_legend_has_only_what_is_drawn() {
        let svg = render(&view(3));
        assert!(svg.contains(">NIC<") && svg.contains(">free for hotplug<") && !svg.contains(">device of the host<"));
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
