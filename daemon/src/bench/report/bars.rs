//! A plot of bars: groups of contenders, one bar each to the median, a whisker from p25 to p75, every value a point. Names
//! stand at the bars, so there is no legend.

use std::io;

use plotters::style::RGBColor;

use super::canvas::{self, Align, Canvas, GRID, INK, Scale, TEXT, TITLE, WIDTH};
use super::stats;
use super::text;

/// Pixels left of the bars, for names.
const LEFT: i32 = 190;
/// Pixels right of the bars, for medians.
const RIGHT: i32 = 84;
/// Pixels above the first group.
const TOP: i32 = 44;
/// Pixels below the last group.
const BOTTOM: i32 = 52;
/// Height of a bar with the gap below it.
const ROW: i32 = 20;
/// Height of a group's title.
const HEADER: i32 = 26;
/// Bars in one plot; a run has a dozen contenders and a few tests.
const MOST_ROWS: usize = 400;

/// One plot of bars.
pub(crate) struct Bars {
    /// What is shown.
    pub(crate) title: String,
    /// The unit, which gets a prefix (`b/s`) unless it has one (`ns`).
    pub(crate) unit: &'static str,
    /// What the axis shows, without unit.
    pub(crate) axis: &'static str,
    /// From top to bottom.
    pub(crate) groups: Vec<Group>,
}

/// The bars of one test.
pub(crate) struct Group {
    /// The test.
    pub(crate) title: String,
    /// From top to bottom.
    pub(crate) bars: Vec<Bar>,
}

/// One contender in one test.
pub(crate) struct Bar {
    /// The contender.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
    /// The values of its rounds.
    pub(crate) values: Vec<f64>,
}

impl Bars {
    /// As SVG; none when there is not one value.
    pub(crate) fn draw(&self) -> io::Result<Option<String>> {
        let values = || self.groups.iter().flat_map(|group| &group.bars).flat_map(|bar| &bar.values);
        let most = values().copied().filter(|value| value.is_finite()).fold(f64::NEG_INFINITY, f64::max);
        if most == f64::NEG_INFINITY {
            return Ok(None);
        }
        let (divisor, prefix) = if self.unit == "ns" { (1.0, "") } else { text::prefix(most) };
        let scale = Scale::from_zero(most / divisor, (LEFT, WIDTH - RIGHT));
        let bottom = TOP + self.height();
        canvas::draw(bottom + BOTTOM, |canvas| {
            canvas.bold((16, 20), Align::Left, TITLE, &self.title)?;
            canvas.text((WIDTH - 12, TOP - 8), Align::Right, TEXT, "median")?;
            self.axis(canvas, &scale, bottom, &format!("{} ({prefix}{})", self.axis, self.unit))?;
            let mut y = TOP;
            for group in &self.groups {
                y = group.draw(canvas, &scale, divisor, y)?;
            }
            canvas.line(vec![(LEFT, TOP), (LEFT, bottom)], INK, 1)
        })
        .map(Some)
    }

    fn height(&self) -> i32 {
        self.groups.iter().map(|group| HEADER + ROW * group.shown().len() as i32).sum()
    }

    fn axis(&self, canvas: &Canvas, scale: &Scale, bottom: i32, title: &str) -> io::Result<()> {
        for tick in scale.ticks() {
            let x = scale.pixel(tick);
            canvas.line(vec![(x, TOP), (x, bottom)], GRID, 1)?;
            canvas.text((x, bottom + 12), Align::Centre, TEXT, &tick_label(tick))?;
        }
        canvas.text(((LEFT + WIDTH - RIGHT) / 2, bottom + 34), Align::Centre, TEXT, title)
    }
}

impl Group {
    fn shown(&self) -> &[Bar] {
        self.bars.get(..MOST_ROWS).unwrap_or(&self.bars)
    }

    /// Returns where the next group begins.
    fn draw(&self, canvas: &Canvas, scale: &Scale, divisor: f64, top: i32) -> io::Result<i32> {
        canvas.bold((16, top + 15), Align::Left, TEXT, &self.title)?;
        let mut y = top + HEADER;
        for bar in self.shown() {
            bar.draw(canvas, scale, divisor, y + ROW / 2 - 2)?;
            y += ROW;
        }
        Ok(y)
    }
}

impl Bar {
    fn draw(&self, canvas: &Canvas, scale: &Scale, divisor: f64, middle: i32) -> io::Result<()> {
        canvas.text((LEFT - 8, middle), Align::Right, TEXT, &text::short(&self.name, 26))?;
        let values: Vec<f64> = self.values.iter().map(|value| value / divisor).collect();
        let Some(summary) = stats::summary(&values) else {
            return canvas.text((LEFT + 6, middle), Align::Left, TEXT, "no value");
        };
        let end = scale.pixel(summary.median).max(LEFT + 1);
        canvas.bar((LEFT, middle - 6), (end, middle + 6), self.colour)?;
        let (low, high) = (scale.pixel(summary.p25), scale.pixel(summary.p75));
        canvas.line(vec![(low, middle), (high, middle)], INK, 1)?;
        for x in [low, high] {
            canvas.line(vec![(x, middle - 4), (x, middle + 4)], INK, 1)?;
        }
        for value in values.iter().filter(|value| value.is_finite()) {
            canvas.ring((scale.pixel(*value), middle), 2, 1, INK)?;
        }
        canvas.text((WIDTH - 12, middle), Align::Right, TEXT, &text::number(summary.median))
    }
}

/// A tick's figure without digits that say nothing.
pub(crate) fn tick_label(tick: f64) -> String {
    let label = match tick.abs() {
        size if size >= 1e6 => return format!("{tick:.0e}"),
        size if size >= 10.0 => format!("{tick:.0}"),
        _ => format!("{tick:.3}"),
    };
    match label.contains('.') {
        true => label.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(values: &[f64]) -> Bars {
        let bar = Bar { name: "a".to_owned(), colour: INK, values: values.to_vec() };
        let group = Group { title: "group".to_owned(), bars: vec![bar] };
        Bars { title: "title".to_owned(), unit: "b/s", axis: "throughput", groups: vec![group] }
    }

    #[test]
    fn the_axis_says_its_unit_and_the_bar_its_median() {
        let svg = bars(&[1e9, 2e9, 3e9]).draw().unwrap().unwrap();
        assert!(svg.contains("throughput (Gb/s)") && svg.contains("\n2.00\n"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn without_a_value_there_is_no_plot() {
        assert!(bars(&[]).draw().unwrap().is_none());
        assert!(bars(&[f64::NAN, f64::INFINITY]).draw().unwrap().is_none());
        assert!(bars(&[0.0]).draw().unwrap().is_some());
    }

    #[test]
    fn ticks_are_written_without_idle_digits() {
        for (tick, label) in
            [(0.0, "0"), (0.5, "0.5"), (2.0, "2"), (20.0, "20"), (100.0, "100"), (0.001, "0.001"), (1e9, "1e9")]
        {
            assert_eq!(tick_label(tick), label);
        }
    }
}
