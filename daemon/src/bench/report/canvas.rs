//! A sheet to draw on, in pixels, and the scales that turn figures into pixels. What is drawn is `bars`' and `lines`'.

use std::io;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontStyle;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::text;

/// A point in pixels, from the upper left.
pub(crate) type Point = (i32, i32);

/// Width of every plot.
pub(crate) const WIDTH: i32 = 760;

/// Size of a title and of ordinary text.
pub(crate) const TITLE: i32 = 15;
/// Size of ordinary text.
pub(crate) const TEXT: i32 = 12;

// The page restyles these three for a dark background, by their value; nothing else may use them.
/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
/// Lines of the grid.
pub(crate) const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
/// Background.
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// Where a text stands, seen from its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// The text begins at the point.
    Left,
    /// The point is its middle.
    Centre,
    /// The text ends at the point.
    Right,
    /// As `Centre`, written upwards.
    Upwards,
}

/// A mark on a line, to tell lines apart without colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// A disc.
    Disc,
    /// A circle.
    Ring,
    /// A square.
    Square,
    /// A triangle.
    Triangle,
    /// A diagonal cross.
    Cross,
}

impl Marker {
    /// The marker of the `index`-th line; they repeat.
    pub(crate) fn of(index: usize) -> Marker {
        [Marker::Disc, Marker::Ring, Marker::Square, Marker::Triangle, Marker::Cross][index % 5]
    }
}

/// A sheet of [`WIDTH`] by some height.
pub(crate) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// Draws onto a sheet of `height` and returns it as SVG.
pub(crate) fn draw(height: i32, draw: impl FnOnce(&Canvas) -> io::Result<()>) -> io::Result<String> {
    let mut svg = String::new();
    let size = (WIDTH.unsigned_abs(), height.max(1).unsigned_abs());
    let canvas = Canvas { area: SVGBackend::with_string(&mut svg, size).into_drawing_area() };
    canvas.area.fill(&PAPER).map_err(io::Error::other)?;
    draw(&canvas)?;
    canvas.area.present().map_err(io::Error::other)?;
    drop(canvas);
    Ok(svg)
}

impl Canvas<'_> {
    /// Text of `size` pixels; foreign text is made harmless here.
    pub(crate) fn text(&self, at: Point, align: Align, size: i32, words: &str) -> io::Result<()> {
        self.styled_text(at, align, size, FontStyle::Normal, words)
    }

    /// The same in bold.
    pub(crate) fn bold(&self, at: Point, align: Align, size: i32, words: &str) -> io::Result<()> {
        self.styled_text(at, align, size, FontStyle::Bold, words)
    }

    fn styled_text(&self, at: Point, align: Align, size: i32, style: FontStyle, words: &str) -> io::Result<()> {
        let h_pos = match align {
            Align::Left => HPos::Left,
            Align::Centre | Align::Upwards => HPos::Center,
            Align::Right => HPos::Right,
        };
        // plotters means the height of a line by the size of a font and writes 1/1.24 of it.
        let mut font = FontDesc::new(FontFamily::SansSerif, f64::from(size) * 1.24, style);
        if align == Align::Upwards {
            font = font.transform(FontTransform::Rotate270);
        }
        let style = font.color(&INK).pos(Pos::new(h_pos, VPos::Center));
        self.area.draw_text(&text::clean(words), &style, at).map_err(io::Error::other)
    }

    /// A line through points.
    pub(crate) fn line(&self, points: Vec<Point>, colour: RGBColor, width: u32) -> io::Result<()> {
        self.area.draw(&PathElement::new(points, colour.stroke_width(width))).map_err(io::Error::other)
    }

    /// A filled rectangle between two corners.
    pub(crate) fn bar(&self, from: Point, to: Point, colour: RGBColor) -> io::Result<()> {
        self.area.draw(&Rectangle::new([from, to], colour.filled())).map_err(io::Error::other)
    }

    /// A mark of about 7 pixels.
    pub(crate) fn mark(&self, (x, y): Point, marker: Marker, colour: RGBColor) -> io::Result<()> {
        match marker {
            Marker::Disc => self.area.draw(&Circle::new((x, y), 3, colour.filled())).map_err(io::Error::other),
            Marker::Ring => self.ring((x, y), 4, 2, colour),
            Marker::Square => self.bar((x - 3, y - 3), (x + 3, y + 3), colour),
            Marker::Triangle => {
                let corners = vec![(x - 4, y + 3), (x + 4, y + 3), (x, y - 4)];
                self.area.draw(&Polygon::new(corners, colour.filled())).map_err(io::Error::other)
            }
            Marker::Cross => {
                self.line(vec![(x - 3, y - 3), (x + 3, y + 3)], colour, 2)?;
                self.line(vec![(x - 3, y + 3), (x + 3, y - 3)], colour, 2)
            }
        }
    }

    /// A circle drawn with a line of `width`.
    pub(crate) fn ring(&self, at: Point, radius: i32, width: u32, colour: RGBColor) -> io::Result<()> {
        self.area.draw(&Circle::new(at, radius, colour.stroke_width(width))).map_err(io::Error::other)
    }
}

/// A scale along one axis of a plot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    /// The figures at the two ends, `from < to`; of a logarithmic scale their decimal logarithms.
    range: (f64, f64),
    /// The pixels at the two ends.
    pixels: (i32, i32),
    logarithmic: bool,
}

/// The greatest figure that has a place on a scale; a greater one is drawn at the end.
const GREATEST: f64 = 1e18;
/// The smallest figure that has a place on a logarithmic scale.
const SMALLEST: f64 = 1e-3;

/// The most steps on a linear scale.
const STEPS: f64 = 8.0;

impl Scale {
    /// From 0 to a round figure not below `most`.
    pub(crate) fn from_zero(most: f64, pixels: (i32, i32)) -> Scale {
        let most = if most > 0.0 { most.min(GREATEST) } else { 1.0 };
        let step = round_step(most / STEPS);
        Scale { range: (0.0, (most / step).ceil() * step), pixels, logarithmic: false }
    }

    /// Between two figures as they are.
    pub(crate) fn between(range: (f64, f64), pixels: (i32, i32)) -> Scale {
        let width = if range.1 > range.0 { range.1 - range.0 } else { 1.0 };
        Scale { range: (range.0, range.0 + width), pixels, logarithmic: false }
    }

    /// Logarithmic, over whole decades around some figures.
    pub(crate) fn decades(values: impl Iterator<Item = f64>, pixels: (i32, i32)) -> Scale {
        let values = values.filter(|value| value.is_finite() && *value > 0.0);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            let exponent = value.clamp(SMALLEST, GREATEST).log10();
            (low, high) = (low.min(exponent.floor()), high.max(exponent.ceil()));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        Scale { range: (low, high.max(low + 1.0)), pixels, logarithmic: true }
    }

    /// The pixel of a figure; what is beyond an end is drawn at it, what is no number at the start.
    pub(crate) fn pixel(&self, value: f64) -> i32 {
        let value = if self.logarithmic { value.max(SMALLEST).log10() } else { value };
        let share = ((value - self.range.0) / (self.range.1 - self.range.0)).clamp(0.0, 1.0);
        let share = if share.is_nan() { 0.0 } else { share };
        self.pixels.0 + (f64::from(self.pixels.1 - self.pixels.0) * share).round() as i32
    }

    /// The figures that get a line of the grid and a label.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.range;
        if !self.logarithmic {
            let step = round_step((high - low) / STEPS);
            let count = ((high - low) / step).round().clamp(1.0, 20.0) as i32;
            return (0..=count).map(|index| low + step * f64::from(index)).collect();
        }
        // 1 2 5 as long as there is room, then decades, then every few of them.
        let decades = high - low;
        let steps: &[f64] = if decades <= 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = (decades / 8.0).ceil().max(1.0) as usize;
        let exponents = (low as i32..=high as i32).step_by(stride);
        let ticks = exponents.flat_map(|exponent| steps.iter().map(move |step| step * 10f64.powi(exponent)));
        ticks.filter(|tick| *tick <= 10f64.powf(high) * 1.001).collect()
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.max(1e-12).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    decade * steps.into_iter().find(|step| step * decade >= least * 0.999).unwrap_or(10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scales_end_at_a_round_figure() {
        let table = [
            (0.0, 1.0),
            (12.0, 12.0),
            (30.2, 35.0),
            (10.0, 10.0),
            (0.97, 1.0),
            (24.3, 25.0),
            (f64::NAN, 1.0),
            (-5.0, 1.0),
        ];
        for (most, end) in table {
            let scale = Scale::from_zero(most, (100, 200));
            assert!((scale.range.1 - end).abs() < 1e-9, "{most}: {scale:?}");
            assert_eq!((scale.pixel(0.0), scale.pixel(end)), (100, 200));
            assert!(scale.ticks().len() <= 9, "{:?}", scale.ticks());
        }
    }

    #[test]
    fn what_is_beyond_a_scale_is_drawn_at_its_end() {
        let scale = Scale::from_zero(10.0, (0, 100));
        for (value, pixel) in
            [(-1.0, 0), (5.0, 50), (11.0, 100), (f64::INFINITY, 100), (f64::NAN, 0), (f64::NEG_INFINITY, 0)]
        {
            assert_eq!(scale.pixel(value), pixel, "{value}");
        }
        let scale = Scale::decades([1.0, 1000.0].into_iter(), (300, 0));
        for (value, pixel) in [(0.0, 300), (1.0, 300), (10.0, 200), (1000.0, 0), (f64::MAX, 0), (f64::NAN, 300)] {
            assert_eq!(scale.pixel(value), pixel, "{value}");
        }
    }

    #[test]
    fn logarithmic_scales_cover_their_figures_with_few_ticks() {
        for values in
            [vec![], vec![5.0], vec![1.0], vec![12.0, 90.0], vec![f64::MIN_POSITIVE, f64::MAX], vec![0.0, f64::NAN]]
        {
            let scale = Scale::decades(values.iter().copied(), (0, 300));
            assert!(scale.range.0 < scale.range.1, "{values:?}");
            assert!((2..=11).contains(&scale.ticks().len()), "{values:?}: {:?}", scale.ticks());
            assert!(scale.ticks().iter().all(|tick| tick.is_finite()));
        }
        assert_eq!(Scale::decades([12.0, 90.0].into_iter(), (0, 1)).ticks(), [10.0, 20.0, 50.0, 100.0]);
    }

    #[test]
    fn text_from_outside_stays_text() {
        let svg = draw(50, |canvas| canvas.text((5, 5), Align::Left, TEXT, "<b>\u{1b}\0&")).unwrap();
        assert!(svg.contains("&lt;b&gt;\u{fffd}\u{fffd}&amp;"), "{svg}");
    }
}
