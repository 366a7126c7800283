//! A plot of lines: panels above each other that share both axes, the second logarithmic, and one legend below all of them.

use std::io;

use plotters::style::RGBColor;

use super::bars::tick_label;
use super::canvas::{self, Align, Canvas, GRID, INK, Marker, Point, Scale, TEXT, TITLE, WIDTH};
use super::text;

/// Pixels left of the panels, for the axis.
const LEFT: i32 = 76;
/// Pixels right of the panels.
const RIGHT: i32 = 24;
/// Pixels above the first panel.
const TOP: i32 = 36;
/// Height of a panel's title.
const HEADER: i32 = 24;
/// Height of a panel without title and labels.
const PANEL: i32 = 230;
/// Pixels below a panel: labels of the axis and air.
const LABELS: i32 = 30;
/// Height of the title of the first axis.
const AXIS: i32 = 20;
/// Names up to this many characters stand three in a row, longer ones two.
const SHORT_NAME: usize = 25;
/// Height of a row of the legend.
const ROW: i32 = 20;
/// Labels of the first axis are at least so many pixels apart.
const LABEL_WIDTH: i32 = 36;

/// One plot of lines.
pub(crate) struct Lines {
    /// What is shown.
    pub(crate) title: String,
    /// The first axis, with unit.
    pub(crate) x_title: &'static str,
    /// Places and labels on the first axis, rising; the first and last are its ends.
    pub(crate) x_ticks: Vec<(f64, String)>,
    /// The second axis, with unit.
    pub(crate) y_title: &'static str,
    /// From top to bottom.
    pub(crate) panels: Vec<Panel>,
}

/// One panel.
pub(crate) struct Panel {
    /// What it shows.
    pub(crate) title: String,
    /// Its lines.
    pub(crate) lines: Vec<Line>,
}

/// One line.
pub(crate) struct Line {
    /// Its name in the legend; a name has one colour and one marker.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
    /// Its marker.
    pub(crate) marker: Marker,
    /// Its points, by rising place.
    pub(crate) points: Vec<(f64, f64)>,
    /// The points that get a marker.
    pub(crate) marks: Vec<(f64, f64)>,
}

impl Lines {
    /// As SVG; none when there is not one point.
    pub(crate) fn draw(&self) -> io::Result<Option<String>> {
        let figures = || self.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
        if figures().next().is_none() {
            return Ok(None);
        }
        let ends = (self.x_ticks.first().map_or(0.0, |tick| tick.0), self.x_ticks.last().map_or(1.0, |tick| tick.0));
        let x = Scale::between(ends, (LEFT, WIDTH - RIGHT));
        let legend = self.legend();
        let panels = (HEADER + PANEL + LABELS) * self.panels.len() as i32;
        let height = TOP + panels + AXIS + ROW * legend.len().div_ceil(columns(&legend)) as i32 + 16;
        canvas::draw(height, |canvas| {
            canvas.bold((16, 20), Align::Left, TITLE, &self.title)?;
            let mut top = TOP;
            for panel in &self.panels {
                let y = Scale::decades(figures().map(|point| point.1), (top + HEADER + PANEL, top + HEADER));
                canvas.bold((LEFT, top + 12), Align::Left, TEXT, &panel.title)?;
                self.axes(canvas, &x, &y, top + HEADER)?;
                panel.lines.iter().try_for_each(|line| line.draw(canvas, &x, &y))?;
                top += HEADER + PANEL + LABELS;
            }
            canvas.text(((LEFT + WIDTH - RIGHT) / 2, top + 2), Align::Centre, TEXT, self.x_title)?;
            draw_legend(canvas, &legend, top + AXIS + ROW / 2 + 4)
        })
        .map(Some)
    }

    /// Every name once, in the order in which the panels name them.
    fn legend(&self) -> Vec<&Line> {
        let mut legend: Vec<&Line> = Vec::new();
        for line in self.panels.iter().flat_map(|panel| &panel.lines) {
            if !legend.iter().any(|known| known.name == line.name) {
                legend.push(line);
            }
        }
        legend
    }

    fn axes(&self, canvas: &Canvas, x: &Scale, y: &Scale, top: i32) -> io::Result<()> {
        let (right, bottom) = (WIDTH - RIGHT, top + PANEL);
        for tick in y.ticks() {
            let at = y.pixel(tick);
            canvas.line(vec![(LEFT, at), (right, at)], GRID, 1)?;
            canvas.text((LEFT - 8, at), Align::Right, TEXT, &tick_label(tick))?;
        }
        let mut free = i32::MIN;
        for (place, label) in &self.x_ticks {
            let at = x.pixel(*place);
            canvas.line(vec![(at, top), (at, bottom)], GRID, 1)?;
            if at >= free {
                canvas.text((at, bottom + 13), Align::Centre, TEXT, label)?;
                free = at + LABEL_WIDTH;
            }
        }
        canvas.line(vec![(LEFT, top), (LEFT, bottom), (right, bottom)], INK, 1)?;
        canvas.text((18, top + PANEL / 2), Align::Upwards, TEXT, self.y_title)
    }
}

impl Line {
    fn draw(&self, canvas: &Canvas, x: &Scale, y: &Scale) -> io::Result<()> {
        let pixel = |point: &(f64, f64)| (x.pixel(point.0), y.pixel(point.1));
        let mut points: Vec<Point> = self.points.iter().map(pixel).collect();
        points.dedup(); // a histogram has more buckets than the plot has pixels
        canvas.line(points, self.colour, 2)?;
        self.marks.iter().try_for_each(|mark| canvas.mark(pixel(mark), self.marker, self.colour))
    }
}

/// Entries of the legend in one row.
fn columns(legend: &[&Line]) -> usize {
    if legend.iter().all(|line| line.name.chars().count() <= SHORT_NAME) { 3 } else { 2 }
}

fn draw_legend(canvas: &Canvas, legend: &[&Line], top: i32) -> io::Result<()> {
    let columns = columns(legend);
    let width = (WIDTH - LEFT - RIGHT) / columns as i32;
    for (index, line) in legend.iter().enumerate() {
        let left = LEFT + width * (index % columns) as i32;
        let middle = top + ROW * (index / columns) as i32;
        canvas.line(vec![(left, middle), (left + 24, middle)], line.colour, 2)?;
        canvas.mark((left + 12, middle), line.marker, line.colour)?;
        canvas.text(
            (left + 32, middle),
            Align::Left,
            TEXT,
            &text::short(&line.name, if columns == 3 { SHORT_NAME } else { 36 }),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(points: &[(f64, f64)]) -> Lines {
        let line = || Line {
            name: "name".to_owned(),
            colour: INK,
            marker: Marker::Disc,
            points: points.to_vec(),
            marks: points.to_vec(),
        };
        let panel = |title: &str| Panel { title: title.to_owned(), lines: vec![line(), line()] };
        let x_ticks = vec![(0.0, "first".to_owned()), (0.01, "squeezed".to_owned()), (2.0, "last".to_owned())];
        let panels = vec![panel("upper"), panel("lower")];
        Lines { title: "title".to_owned(), x_title: "x (a)", x_ticks, y_title: "y (b)", panels }
    }

    #[test]
    fn the_legend_names_a_line_once_and_axes_say_their_units() {
        let svg = lines(&[(0.0, 10.0), (2.0, 1000.0)]).draw().unwrap().unwrap();
        assert_eq!(svg.matches("\nname\n").count(), 1);
        assert!(svg.contains("x (a)") && svg.contains("y (b)"));
    }

    #[test]
    fn a_label_without_room_is_left_out() {
        let svg = lines(&[(0.0, 10.0)]).draw().unwrap().unwrap();
        assert!(svg.contains("\nfirst\n") && svg.contains("\nlast\n") && !svg.contains("squeezed"));
    }

    #[test]
    fn without_a_point_there_is_no_plot() {
        assert!(lines(&[]).draw().unwrap().is_none());
    }
}
