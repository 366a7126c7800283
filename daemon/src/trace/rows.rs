//! What is drawn: stages as bars and packets as marks, one row each, on one time line. No characters and no pixels yet.

use super::event::{Event, More, Operation};
use super::line;
use crate::bench::report::text::clean;

/// Rows of a drawing; what comes after them is only counted.
pub(super) const MAX_ROWS: usize = 400;

/// A time line with its rows.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rows {
    /// The end of the time line in seconds, above 0; it begins with 0.
    pub(super) end: f64,
    pub(super) rows: Vec<Row>,
    /// Rows that are too many.
    pub(super) left_out: usize,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// In seconds.
    pub(super) from: f64,
    /// In seconds; of a mark the same as `from`.
    pub(super) to: f64,
    pub(super) label: String,
    /// What there is to say beside the mark.
    pub(super) note: String,
}

/// What a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An attempt, which is a heading.
    Attempt,
    /// A stage: a bar.
    Stage,
    /// A packet of ours.
    Out,
    /// A packet of ours that was sent before.
    Again,
    /// A packet of the server.
    In,
    /// A packet that was ignored.
    Ignored,
    /// The session was established.
    Established,
    /// It was not.
    Failed,
}

impl Rows {
    /// The rows of these events.
    pub(super) fn new(events: &[Event]) -> Rows {
        let end = events.iter().map(|event| event.t).fold(0.0, f64::max);
        let mut rows: Vec<Row> = Vec::new();
        let mut open: Option<usize> = None;
        for event in events {
            // A stage lasts until the next one, or until the attempt is over.
            if matches!(event.operation, Operation::State | Operation::Failure | Operation::Attempt | Operation::End)
                && let Some(row) = open.take().and_then(|place| rows.get_mut(place))
            {
                row.to = event.t;
            }
            if let Some(row) = row(event) {
                if row.kind == Kind::Stage {
                    open = Some(rows.len());
                }
                rows.push(row);
            }
        }
        let left_out = rows.len().saturating_sub(MAX_ROWS);
        rows.truncate(MAX_ROWS);
        // So that a trace of no duration divides nothing by zero.
        Rows { end: end.max(0.001), rows, left_out }
    }
}

fn row(event: &Event) -> Option<Row> {
    let at = |kind, label: String, note: String| {
        Some(Row { kind, from: event.t, to: event.t, label: clean(&label), note: clean(&note) })
    };
    match (&event.operation, &event.more, &event.packet) {
        (_, More::Attempt { remote, .. }, _) => {
            at(Kind::Attempt, format!("attempt {}: {remote}", event.attempt), String::new())
        }
        // Failures have a row of their own, with the reason.
        (Operation::State, ..) if event.stage == "S_ERROR" => None,
        (Operation::State, ..) => at(Kind::Stage, event.stage.to_owned(), String::new()),
        (_, More::Failure { reason, .. }, _) => {
            at(Kind::Failed, format!("failed at {}", event.stage), (*reason).to_owned())
        }
        (_, More::Established(agreed), _) => {
            at(Kind::Established, "established".to_owned(), format!("{}, data {}", agreed.tls, agreed.cipher))
        }
        (operation, more, Some(packet)) => {
            let kind = match operation {
                Operation::PacketOut if event.is_retransmission() => Kind::Again,
                Operation::PacketOut => Kind::Out,
                Operation::PacketDropped => Kind::Ignored,
                _ => Kind::In,
            };
            let short = packet.opcode.strip_prefix("P_").unwrap_or(&packet.opcode);
            let short = short.strip_prefix("CONTROL_").filter(|rest| rest.contains("RESET")).unwrap_or(short);
            let id = packet.id.map(|id| format!(" {id}")).unwrap_or_default();
            let mut notes = line::tags(event);
            if let Some(attempts) = packet.send_attempts.filter(|attempts| *attempts > 1) {
                notes.insert(0, format!("×{attempts}"));
            }
            if let More::Reason { reason, .. } = more {
                notes.insert(0, format!("ignored: {reason}"));
            }
            at(kind, format!("{short}{id}"), notes.join(", "))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use controlplane::Instant;
    use controlplane::error::DropReason;
    use controlplane::packet::Opcode;
    use controlplane::trace::{Packet, Record, Stage, What};

    /// A handshake that was repeated once, interfered with once, and failed.
    pub(in crate::trace) fn story() -> Vec<Event> {
        let record = |ms: u64, stage, what| {
            Event::of_record(&Record { at: Instant(ms * 1_000_000), generation: 1, stage, what }, Instant(0))
        };
        let reset =
            |send_attempts| Packet { opcode: Some(Opcode::HardResetClientV2), send_attempts, ..Packet::default() };
        let answer = Packet { opcode: Some(Opcode::HardResetServerV2), ..Packet::default() };
        let plain = |operation, t, more| Event::plain(operation, Stage::Start, t, 1, more);
        let remote = "192.0.2.1:1194<&".to_owned();
        vec![
            plain(Operation::Attempt, 0.0, More::Attempt { remote, local: String::new() }),
            record(0, Stage::PreStart, What::Stage),
            record(0, Stage::PreStart, What::Out(reset(1))),
            record(1_000, Stage::PreStart, What::Dropped(answer.clone(), DropReason::UnexpectedState)),
            record(2_000, Stage::PreStart, What::Out(reset(2))),
            record(2_500, Stage::PreStart, What::In(answer)),
            record(2_500, Stage::Start, What::Stage),
            record(10_000, Stage::Error, What::Stage),
            plain(Operation::Failure, 10.0, More::Failure { reason: "timeout", why: String::new(), exit_status: 4 }),
        ]
    }

    #[test]
    fn a_stage_lasts_until_the_next_one_and_a_packet_not_at_all() {
        let rows = Rows::new(&story());
        assert_eq!((rows.end, rows.left_out), (10.0, 0));
        let bars: Vec<_> =
            rows.rows.iter().filter(|r| r.kind == Kind::Stage).map(|r| (r.label.as_str(), r.from, r.to)).collect();
        assert_eq!(bars, [("S_PRE_START", 0.0, 2.5), ("S_START", 2.5, 10.0)]);
        let kinds: Vec<Kind> = rows.rows.iter().map(|row| row.kind).collect();
        let expected =
            [Kind::Attempt, Kind::Stage, Kind::Out, Kind::Ignored, Kind::Again, Kind::In, Kind::Stage, Kind::Failed];
        assert_eq!(kinds, expected);
        assert_eq!(rows.rows[3].note, "ignored: unexpected_state");
        assert_eq!(rows.rows[4].note, "×2");
        assert!(rows.rows.iter().filter(|row| row.kind != Kind::Stage).all(|row| row.from == row.to));
    }

    #[test]
    fn a_drawing_is_bounded_and_an_empty_one_is_none() {
        let many: Vec<Event> = story().into_iter().cycle().take(9 * 200).collect();
        let rows = Rows::new(&many);
        assert_eq!((rows.rows.len(), rows.left_out), (MAX_ROWS, 8 * 200 - MAX_ROWS));
        let empty = Rows::new(&[]);
        assert!(empty.rows.is_empty() && empty.end > 0.0);
    }
}
