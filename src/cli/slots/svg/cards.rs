//! The cards of a drawing: a device or a free port each, and equal disks together.

use super::{
    super::view::{Availability, BusView, Group, Row},
    font::Font,
};

/// A device, several equal disks, or a free port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Card {
    /// The first and the last root port.
    pub(super) ports: Option<(u64, u64)>,
    pub(super) name: String,
    /// The kind of the device; empty if the name is the same.
    pub(super) kind: &'static str,
    /// What stands below the name: of a NIC its network.
    pub(super) detail: String,
    /// What stands after it and is not cut: of a NIC its MAC address.
    pub(super) suffix: String,
    pub(super) tone: Tone,
}

/// The kinds of cards, which have colours and a place in the legend.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Tone {
    Nic,
    Disk,
    HostDevice,
    Other,
    Free,
}

impl Tone {
    /// The name in the legend.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Nic => "NIC",
            Self::Disk => "disk or filesystem",
            Self::HostDevice => "device of the host",
            Self::Other => "other device",
            Self::Free => "free for hotplug",
        }
    }

    /// The class in the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Nic => "nic",
            Self::Disk => "disk",
            Self::HostDevice => "host",
            Self::Other => "other",
            Self::Free => "open",
        }
    }

    fn of(row: &Row) -> Self {
        if row.is_free {
            return Self::Free;
        }
        match if row.kind.is_empty() { row.name.as_str() } else { row.kind } {
            "interface" | "sriov" => Self::Nic,
            "disk" | "filesystem" => Self::Disk,
            "gpu" | "hostDevice" => Self::HostDevice,
            _ => Self::Other,
        }
    }
}

impl Card {
    fn of(row: &Row) -> Self {
        let Row { port, name, kind, why, network, mac, .. } = row;
        let after = |text: &str| if text.is_empty() { String::new() } else { format!(" · {text}") };
        let (detail, suffix) = match network.as_str() {
            "" => (why.clone(), String::new()),
            network => (network.to_owned(), format!("{}{}", after(mac), after(why.trim_start_matches("model ")))),
        };
        Self { ports: port.map(|port| (port, port)), name: name.clone(), kind, detail, suffix, tone: Tone::of(row) }
    }

    /// Whether the next card is an equal disk, in the next port if they have one.
    fn continues(&self, next: &Self) -> bool {
        let is_next = match (self.ports, next.ports) {
            (Some((_, last)), Some((port, _))) => port == last + 1,
            (None, None) => true,
            _ => false,
        };
        self.tone == Tone::Disk && is_next && self.kind == next.kind && self.detail == next.detail
    }

    /// Returns the line below the name, which is cut to a width without its end.
    pub(super) fn line(&self, font: Font, width: u32) -> String {
        let rest = width.saturating_sub(font.width(&self.suffix));
        font.fit(&format!("{}{}", font.fit(&self.detail, rest), self.suffix), width)
    }

    /// Returns the whole text.
    pub(super) fn text(&self) -> String {
        format!("{}: {}{}", self.name, self.detail, self.suffix)
    }
}

/// Returns the cards of a group, with equal disks that follow one another in one card.
pub(super) fn cards(group: &Group) -> Vec<Card> {
    let mut runs: Vec<(Card, Vec<String>)> = Vec::new();
    for card in group.rows.iter().map(Card::of) {
        match runs.last_mut() {
            Some((last, names)) if last.continues(&card) => {
                if let (Some((_, end)), Some((_, port))) = (&mut last.ports, card.ports) {
                    *end = port;
                }
                names.push(card.name);
            }
            _ => {
                let names = vec![card.name.clone()];
                runs.push((card, names));
            }
        }
    }
    let finish = |(card, names): (Card, Vec<String>)| match names.len() {
        1 => card,
        count => Card { name: format!("{count} disks: {}", names.join(", ")), ..card },
    };
    runs.into_iter().map(finish).collect()
}

/// Returns how many root ports the devices use, as in `12 root ports = 4 NICs + 3 disks + 5 free`.
pub(super) fn sum(view: &BusView) -> Option<String> {
    if view.availability == Availability::CannotBoot {
        return None;
    }
    let rows = || view.groups.iter().flat_map(|group| &group.rows).filter(|row| row.port.is_some());
    let count = |tone| rows().filter(|row| Tone::of(row) == tone).count();
    let total = rows().count();
    let parts: Vec<String> = [
        (Tone::Nic, "NIC", "NICs"),
        (Tone::Disk, "disk", "disks"),
        (Tone::HostDevice, "host device", "host devices"),
        (Tone::Other, "other", "others"),
        (Tone::Free, "free", "free"),
    ]
    .into_iter()
    .filter_map(|(tone, one, many)| match count(tone) {
        0 if tone != Tone::Free => None,
        1 => Some(format!("1 {one}")),
        number => Some(format!("{number} {many}")),
    })
    .collect();
    (total > 0).then(|| format!("{total} root port{} = {}", if total == 1 { "" } else { "s" }, parts.join(" + ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(port: Option<u64>, name: &str, kind: &'static str, why: &str) -> Row {
        let (network, mac) = (String::new(), String::new());
        Row { port, name: name.to_owned(), kind, why: why.to_owned(), network, mac, is_free: kind.is_empty() }
    }

    #[test]
    fn equal_disks_that_follow_one_another_are_one_card() {
        let rows = vec![
            row(Some(1), "a", "disk", "bus virtio"),
            row(Some(2), "b", "disk", "bus virtio"),
            row(Some(4), "c", "disk", "bus virtio"),
            row(Some(5), "d", "disk", "hotplugged"),
            row(Some(6), "e", "interface", "model virtio"),
            row(Some(7), "f", "interface", "model virtio"),
            row(None, "g", "disk", "bus sata"),
            row(None, "h", "disk", "bus sata"),
        ];
        let found: Vec<_> =
            cards(&Group { heading: String::new(), rows }).into_iter().map(|card| (card.name, card.ports)).collect();
        let expected = [
            ("2 disks: a, b", Some((1, 2))),
            ("c", Some((4, 4))),
            ("d", Some((5, 5))),
            ("e", Some((6, 6))),
            ("f", Some((7, 7))),
            ("2 disks: g, h", None),
        ];
        assert_eq!(found, expected.map(|(name, ports)| (name.to_owned(), ports)));
    }

    #[test]
    fn a_long_network_is_cut_and_the_address_is_not() {
        let nic = Row {
            network: "production-infrastructure/storage-backend-vlan".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            ..row(Some(1), "blue", "interface", "model virtio")
        };
        let font = Font { size: 11, is_bold: false };
        let line = Card::of(&nic).line(font, 300);
        assert!(line.starts_with("production") && line.ends_with("… · 02:00:00:00:00:01 · virtio"), "{line}");
        assert!(font.width(&line) <= 300);
    }
}
