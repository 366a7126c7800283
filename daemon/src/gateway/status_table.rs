//! What `minivpn status` prints for people: a few sentences and a table that fits the terminal. Pure: a snapshot and a
//! width in, lines out.

use super::status::{ClientRow, Snapshot};
use crate::observe::console::{bits, bytes};

/// The narrowest and the widest table, in columns.
pub const WIDTHS: std::ops::RangeInclusive<usize> = 80..=120;

/// What separates columns.
const GAP: usize = 2;

/// One column of the table.
struct Column {
    head: &'static str,
    /// Numbers stand on the right.
    right: bool,
    /// Columns with the highest rank go first when the table is too wide; 0 stays.
    rank: u8,
    cells: Vec<String>,
}

/// The whole text, each line ended. With `bold`, headings are set off by terminal codes.
pub fn text(snapshot: &Snapshot, width: usize, bold: bool) -> String {
    let width = width.clamp(*WIDTHS.start(), *WIDTHS.end());
    let mut lines = head(snapshot);
    if !snapshot.clients.is_empty() {
        lines.push(String::new());
        lines.extend(table(client_columns(&snapshot.clients, snapshot.taken), width, bold));
    }
    lines.push(String::new());
    lines.extend(table(worker_columns(snapshot), width, bold));
    lines.push(drops(snapshot));
    let mut text = lines.iter().flat_map(|line| wrap(line, width)).collect::<Vec<_>>().join("\n");
    text.push('\n');
    text
}

/// A span of seconds in its two largest units: `2d 3h`, `12m`, `5s`.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

fn head(snapshot: &Snapshot) -> Vec<String> {
    let gateway = &snapshot.gateway;
    let listen: Vec<String> = gateway.listen.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!(
            "gateway {}: up {}, pid {}, minivpn {}, {} on {}",
            plain(&gateway.name),
            span(snapshot.taken.saturating_sub(gateway.since)),
            gateway.pid,
            plain(&gateway.version),
            plain(&gateway.device),
            if listen.is_empty() { "no address".to_owned() } else { listen.join(", ") },
        ),
        format!("data path: {}, AEAD {}", plain(&gateway.data_path.engine), plain(&gateway.data_path.aead)),
    ];
    lines.extend(gateway.data_path.notes.iter().map(|note| format!("  {}", plain(note))));
    if gateway.control_restarts > 0 {
        let times = match gateway.control_restarts {
            1 => "once".to_owned(),
            many => format!("{many} times"),
        };
        lines.push(format!("control process started anew {times}"));
    }
    let mut clients = format!(
        "clients: {} of at most {}, {} connecting",
        snapshot.clients.len(),
        gateway.max_clients,
        gateway.connecting
    );
    for (family, used, size) in [
        ("IPv4", snapshot.pool.ipv4_used, snapshot.pool.ipv4_size),
        ("IPv6", snapshot.pool.ipv6_used, snapshot.pool.ipv6_size),
    ] {
        if size > 0 {
            clients.push_str(&format!("; {family} pool {used} of {size}"));
        }
    }
    lines.push(clients);
    lines
}

fn client_columns(clients: &[ClientRow], taken: u64) -> Vec<Column> {
    let column = |head, right, rank, cell: &dyn Fn(&ClientRow) -> String| Column {
        head,
        right,
        rank,
        cells: clients.iter().map(cell).collect(),
    };
    let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), |rate| bits(rate as f64));
    let mut columns = vec![
        column("NAME", false, 0, &|client| {
            if client.common_name.is_empty() { "-".to_owned() } else { plain(&client.common_name) }
        }),
        column("REAL ADDRESS", false, 0, &|client| client.real_address.to_string()),
        column("INNER", false, 0, &|client| match (client.ipv4, client.ipv6) {
            (Some(address), _) => address.to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => "-".to_owned(),
        }),
        column("RECEIVED", true, 0, &|client| bytes(client.bytes_in)),
        column("SENT", true, 0, &|client| bytes(client.bytes_out)),
        column("IN", true, 6, &|client| rate(client.rate_in)),
        column("OUT", true, 6, &|client| rate(client.rate_out)),
        column("SINCE", true, 2, &|client| span(taken.saturating_sub(client.since))),
        column("KEY", true, 4, &|client| span(client.key_age)),
        column("CIPHER", false, 5, &|client| plain(&client.cipher)),
        column("W", true, 3, &|client| client.worker.to_string()),
    ];
    if clients.iter().all(|client| client.rate_in.is_none() && client.rate_out.is_none()) {
        columns.retain(|column| column.rank != 6);
    }
    columns
}

fn worker_columns(snapshot: &Snapshot) -> Vec<Column> {
    let column = |head, right, rank, cell: &dyn Fn(&super::status::WorkerRow) -> String| Column {
        head,
        right,
        rank,
        cells: snapshot.workers.iter().map(cell).collect(),
    };
    vec![
        column("WORKER", true, 0, &|worker| worker.worker.to_string()),
        column("CPU", true, 0, &|worker| worker.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string())),
        column("PEERS", true, 0, &|worker| worker.peers.to_string()),
        column("RECEIVED", true, 0, &|worker| {
            format!("{} pkt {}", worker.inbound.packets, bytes(worker.inbound.bytes))
        }),
        column("SENT", true, 0, &|worker| format!("{} pkt {}", worker.outbound.packets, bytes(worker.outbound.bytes))),
        column("RELAYED", true, 2, &|worker| worker.relayed.packets.to_string()),
        column("HANDED OVER", true, 3, &|worker| worker.handed_over.to_string()),
        column("DROPPED", true, 0, &|worker| {
            worker.drops.values().fold(0, |a: u64, b| a.saturating_add(*b)).to_string()
        }),
        column("OFFLOADS", false, 4, &|worker| plain(&worker.offloads)),
    ]
}

fn drops(snapshot: &Snapshot) -> String {
    let list: Vec<String> =
        snapshot.drops().iter().map(|(reason, count)| format!("{} {count}", plain(reason))).collect();
    if list.is_empty() { "dropped: none".to_owned() } else { format!("dropped: {}", list.join(", ")) }
}

/// The lines of a table: columns go by their rank until it fits, then the first is cut short.
fn table(mut columns: Vec<Column>, width: usize, bold: bool) -> Vec<String> {
    let needed =
        |columns: &[Column]| columns.iter().map(|column| column.width() + GAP).sum::<usize>().saturating_sub(GAP);
    while needed(&columns) > width
        && let Some(rank) = columns.iter().map(|column| column.rank).max().filter(|rank| *rank > 0)
    {
        columns.retain(|column| column.rank != rank);
    }
    let excess = needed(&columns).saturating_sub(width);
    if let Some(first) = columns.first_mut()
        && excess > 0
    {
        let room = first.width().saturating_sub(excess).max(8);
        first.cells.iter_mut().for_each(|cell| shorten(cell, room));
    }
    let heads = columns.iter().map(|column| (column, column.head.to_owned())).collect::<Vec<_>>();
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let heading = row(&heads);
    let mut lines = vec![if bold { format!("\u{1b}[1m{heading}\u{1b}[0m") } else { heading }];
    for at in 0..rows {
        let cells: Vec<_> =
            columns.iter().map(|column| (column, column.cells.get(at).cloned().unwrap_or_default())).collect();
        lines.push(row(&cells));
    }
    lines
}

fn row(cells: &[(&Column, String)]) -> String {
    let mut line = String::new();
    for (column, cell) in cells {
        let width = column.width();
        let cell = if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
        line.push_str(&cell);
        line.push_str("  ");
    }
    line.trim_end().to_owned()
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0).max(self.head.chars().count())
    }
}

fn shorten(cell: &mut String, room: usize) {
    if cell.chars().count() > room {
        *cell = cell.chars().take(room.saturating_sub(1)).chain(['…']).collect();
    }
}

/// A sentence that is too long goes on in the next line; a line of a table fits.
fn wrap(line: &str, width: usize) -> Vec<String> {
    if line.contains('\u{1b}') || line.chars().count() <= width {
        return vec![line.to_owned()];
    }
    let indent = "  ";
    let mut lines: Vec<String> = Vec::new();
    let mut open = String::new();
    for word in line.split(' ') {
        if !open.trim().is_empty() && open.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut open, format!("{indent}{word}")));
        } else {
            if !open.is_empty() {
                open.push(' ');
            }
            open.push_str(word);
        }
    }
    lines.push(open);
    lines
}

/// A name comes from a peer: it moves no terminal's cursor.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::snapshot;
    use super::*;

    #[test]
    fn a_wide_terminal_shows_every_column() {
        let text = text(&snapshot(), 120, false);
        for part in [
            "gateway office: up 1d 0h, pid 4711, minivpn 0.1.0, tun0 on 0.0.0.0:1194",
            "data path: uring, AEAD ipsec-mb",
            "  no steering of the TUN's queues",
            "clients: 2 of at most 1024, 1 connecting; IPv4 pool 2 of 253; IPv6 pool 1 of 65536",
            "NAME ",
            "client, x",
            "127.0.0.1:43673",
            "10.99.0.2",
            "dropped: no_route 1, replayed 5",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.lines().any(|line| line.starts_with("client, x") && line.contains("3s")), "{text}");
    }

    #[test]
    fn a_control_process_that_was_started_anew_is_told_of() {
        let mut anew = snapshot();
        assert!(!text(&anew, 120, false).contains("anew"));
        anew.gateway.control_restarts = 1;
        assert!(text(&anew, 120, false).contains("control process started anew once\n"));
        anew.gateway.control_restarts = 2;
        assert!(text(&anew, 120, false).contains("control process started anew 2 times\n"));
    }

    #[test]
    fn every_line_fits_whatever_the_terminal() {
        let mut long = snapshot();
        long.clients[0].common_name = "x".repeat(64);
        long.clients[1].real_address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        long.gateway.data_path.notes.push("a long sentence ".repeat(20));
        for width in [0, 79, 80, 100, 120, 500] {
            let text = text(&long, width, false);
            let limit = width.clamp(80, 120);
            assert!(text.lines().all(|line| line.chars().count() <= limit), "{width}:\n{text}");
            assert!(text.contains("REAL ADDRESS") && text.contains("SENT"));
        }
        assert!(text(&long, 80, false).contains('…'));
        assert!(!text(&long, 80, false).contains("CIPHER"));
    }

    #[test]
    fn a_gateway_without_clients_has_no_table_of_them() {
        let text = text(&Snapshot::default(), 100, false);
        assert!(!text.contains("NAME") && text.contains("clients: 0 of at most 0") && text.contains("dropped: none"));
    }

    #[test]
    fn a_hostile_name_moves_no_cursor_and_headings_are_bold_where_allowed() {
        let mut hostile = snapshot();
        hostile.clients[0].common_name = "a\u{1b}[2J\nb".to_owned();
        assert!(!text(&hostile, 100, false).contains('\u{1b}'));
        assert_eq!(text(&hostile, 100, true).matches('\u{1b}').count(), 4);
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3_599, "59m 59s"), (3_600, "1h 0m"), (90_000, "1d 1h")]
        {
            assert_eq!(span(seconds), expected);
        }
    }
}
