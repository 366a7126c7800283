//! The time line in characters.

use std::fmt::Write as _;

use super::event::Event;
use super::rows::{Kind, Row, Rows};

/// Characters of a label.
const LABEL: usize = 34;
/// Characters of the time line.
const LINE: usize = 60;

/// The drawing, in lines.
pub(super) fn draw(events: &[Event]) -> String {
    let rows = Rows::new(events);
    let mut text = format!("\n{:<LABEL$}  0 s{:>width$}\n", "", format!("{:.3} s", rows.end), width = LINE - 3);
    for row in &rows.rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line(row, rows.end).trim_end());
    }
    if rows.left_out > 0 {
        let _ = writeln!(text, "… and {} more", rows.left_out);
    }
    text
}

fn line(row: &Row, end: f64) -> String {
    let (indent, mark) = match row.kind {
        Kind::Attempt => return row.label.clone(),
        Kind::Stage => ("", '█'),
        Kind::Out => ("  → ", '▶'),
        Kind::Again => ("  → ", '▷'),
        Kind::In => ("  ← ", '◀'),
        Kind::Ignored => ("  ✗ ", '✗'),
        Kind::Established => ("", '✓'),
        Kind::Failed => ("", '✗'),
    };
    let label: String = format!("{indent}{}", row.label).chars().take(LABEL).collect();
    let (from, to) = (place(row.from, end), place(row.to, end));
    let mut line: Vec<char> = vec!['·'; LINE];
    line.iter_mut().take(to + 1).skip(from).for_each(|c| *c = mark);
    let line: String = line.into_iter().collect();
    let note = match row.kind {
        Kind::Stage => format!("{:.3} s", row.to - row.from),
        _ => row.note.clone(),
    };
    format!("{label:<LABEL$}  {line}  {note}")
}

/// Which character of the time line stands for a time.
fn place(t: f64, end: f64) -> usize {
    let share = (t / end).clamp(0.0, 1.0);
    // Between 0 and LINE - 1.
    (share * (LINE - 1) as f64).round() as usize
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::story;
    use super::*;

    #[test]
    fn marks_stand_where_their_time_is() {
        let drawing = draw(&story());
        let column = |word: &str, mark: char| {
            let line = drawing.lines().find(|line| line.contains(word) && line.contains(mark)).unwrap();
            line.chars().skip(LABEL + 2).position(|c| c == mark)
        };
        assert_eq!(column("HARD_RESET_CLIENT_V2", '▶'), Some(0), "{drawing}");
        assert_eq!(column("ignored: unexpected_state", '✗'), Some(6), "{drawing}");
        assert_eq!(column("×2", '▷'), Some(12), "{drawing}");
        assert_eq!(column("timeout", '✗'), Some(LINE - 1), "{drawing}");
        assert_eq!(drawing.matches('█').count(), 16 + 45, "{drawing}");
        assert!(drawing.contains("7.500 s"));
    }

    #[test]
    fn nothing_is_drawn_of_nothing_and_no_time_is_outside() {
        assert_eq!(draw(&[]).lines().count(), 2);
        for t in [f64::NAN, f64::INFINITY, -1.0, 2.0] {
            assert!(place(t, 1.0) < LINE);
        }
    }
}
