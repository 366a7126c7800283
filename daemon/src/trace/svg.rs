//! The time line as a picture (SVG 1.1).

use std::fmt::Write as _;

use super::event::Event;
use super::rows::{Kind, Row, Rows};
use crate::bench::report::text::html;

/// Pixels: a row, the labels, the time line, what stands beside it, and the edge.
const ROW: usize = 18;
const LABELS: f64 = 250.0;
const LINE: f64 = 560.0;
const NOTES: f64 = 420.0;
const EDGE: f64 = 12.0;

/// The picture.
pub(super) fn draw(events: &[Event]) -> String {
    let rows = Rows::new(events);
    let width = EDGE + LABELS + LINE + NOTES;
    let height = (rows.rows.len() + 4) * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    // Writing to a string does not fail, here and below.
    for fifth in 0..=5 {
        let (x, t) = (EDGE + LABELS + LINE * f64::from(fifth) / 5.0, rows.end * f64::from(fifth) / 5.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{ROW}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#d8dee4\"/>\
             <text x=\"{x:.1}\" y=\"12\" text-anchor=\"middle\" fill=\"#1f2328\">{t:.3} s</text>",
            height - 2 * ROW
        );
    }
    for (number, row) in rows.rows.iter().enumerate() {
        draw_row(&mut svg, row, ((number + 1) * ROW) as f64 + ROW as f64 / 2.0, rows.end);
    }
    if rows.left_out > 0 {
        text(&mut svg, EDGE, (height - 2 * ROW) as f64, &format!("… and {} more", rows.left_out), "#1f2328");
    }
    text(&mut svg, EDGE, (height - ROW) as f64, "▶ sent   ▷ sent again   ◀ received   ✕ ignored", "#57606a");
    svg.push_str("</svg>\n");
    svg
}

fn draw_row(svg: &mut String, row: &Row, y: f64, end: f64) {
    let x = |t: f64| EDGE + LABELS + LINE * (t / end).clamp(0.0, 1.0);
    let (from, to) = (x(row.from), x(row.to));
    let baseline = y + 4.0;
    let indent =
        if matches!(row.kind, Kind::Attempt | Kind::Stage | Kind::Established | Kind::Failed) { 0.0 } else { 14.0 };
    // The colour of a bar is too light for letters.
    let ink = if row.kind == Kind::Stage { "#1f2328" } else { colour(row.kind) };
    text(svg, EDGE + indent, baseline, &row.label, ink);
    match row.kind {
        Kind::Attempt => {}
        Kind::Stage => {
            let width = (to - from).max(1.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"12\" fill=\"{}\" opacity=\"0.75\"/>",
                y - 6.0,
                colour(row.kind)
            );
        }
        // They point the way the packet went: to the server on the right, to us on the left.
        Kind::Out | Kind::Again => triangle(svg, from, y, 9.0, row.kind),
        Kind::In => triangle(svg, from, y, -9.0, row.kind),
        Kind::Established => {
            let _ = writeln!(svg, "<circle cx=\"{from:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{}\"/>", colour(row.kind));
        }
        Kind::Ignored | Kind::Failed => {
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1}l8 8m-8 0l8 -8\" stroke=\"{}\" stroke-width=\"2\"/>",
                from - 4.0,
                y - 4.0,
                colour(row.kind)
            );
        }
    }
    let note = if row.kind == Kind::Stage { format!("{:.3} s", row.to - row.from) } else { row.note.clone() };
    text(svg, EDGE + LABELS + LINE + 14.0, baseline, &note, "#57606a");
}

fn triangle(svg: &mut String, x: f64, y: f64, length: f64, kind: Kind) {
    let fill = if kind == Kind::Again { "#ffffff" } else { colour(kind) };
    let _ = writeln!(
        svg,
        "<path d=\"M{x:.1} {:.1}l{length} 5l{} 5z\" fill=\"{fill}\" stroke=\"{}\"/>",
        y - 5.0,
        -length,
        colour(kind)
    );
}

fn text(svg: &mut String, x: f64, y: f64, words: &str, colour: &str) {
    if !words.is_empty() {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{}</text>", html(words));
    }
}

/// Colours that can be told apart also by who sees red and green alike.
fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Attempt => "#1f2328",
        Kind::Stage => "#56b4e9",
        Kind::Out | Kind::Again => "#0072b2",
        Kind::In => "#009e73",
        Kind::Ignored | Kind::Failed => "#d55e00",
        Kind::Established => "#007a5a",
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::story;
    use super::*;

    #[test]
    fn every_row_is_drawn_and_foreign_text_is_harmless() {
        let svg = draw(&story());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("192.0.2.1:1194&lt;&amp;"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 1 + 2, "paper and two stages");
        assert_eq!(svg.matches("5z").count(), 3, "three triangles");
        assert_eq!(svg.matches("stroke-width").count(), 2, "two crosses");
        for word in ["S_PRE_START", "HARD_RESET_SERVER_V2", "ignored: unexpected_state", "×2", "timeout", "7.500 s"] {
            assert!(svg.contains(word), "{word}");
        }
    }

    #[test]
    fn nothing_makes_a_picture_too() {
        assert!(draw(&[]).ends_with("</svg>\n"));
    }
}
