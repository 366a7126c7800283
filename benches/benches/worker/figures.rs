//! Figures and what they come to: medians, quartiles, ratios with an interval.

use crate::rows::Row;
use crate::subject::{Backend, Engine};

/// What one repetition came to.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Nanoseconds of the worker's thread per inner packet.
    pub ns: f64,
    /// Packets in one send (sealing) or one TUN write (opening).
    pub grouping: f64,
    /// Nanoseconds per packet that an empty queue costs; already taken off `ns`.
    pub overhead: f64,
}

/// All repetitions of a row on one engine with one AEAD.
#[derive(Debug)]
pub struct Series {
    /// The row.
    pub row: Row,
    /// The engine.
    pub engine: Engine,
    /// The AEAD.
    pub aead: Backend,
    /// In the order of measuring.
    pub figures: Vec<Figure>,
}

impl Series {
    /// An empty one.
    pub fn new(row: Row, engine: Engine, aead: Backend) -> Self {
        Self { row, engine, aead, figures: Vec::new() }
    }

    /// One repetition more.
    pub fn push(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// p25, median, p75 of the nanoseconds.
    pub fn spread(&self) -> [f64; 3] {
        let mut ns: Vec<f64> = self.figures.iter().map(|figure| figure.ns).collect();
        ns.sort_by(f64::total_cmp);
        [0.25, 0.5, 0.75].map(|part| quantile(&ns, part))
    }

    /// Packets in one send or TUN write.
    pub fn grouping(&self) -> f64 {
        median(&mut self.figures.iter().map(|figure| figure.grouping).collect::<Vec<_>>())
    }

    /// This series over `base`, repetition by repetition: median of the ratios, and its 95 % interval.
    pub fn over(&self, base: &Series) -> Ratio {
        let mut ratios: Vec<f64> = self.figures.iter().zip(&base.figures).map(|(a, b)| a.ns / b.ns).collect();
        let (low, high) = interval(&ratios);
        Ratio { median: median(&mut ratios), low, high }
    }
}

/// A median of paired ratios and its 95 % interval.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// 2.5 % of the bootstrapped medians lie below.
    pub low: f64,
    /// 2.5 % of them lie above.
    pub high: f64,
}

/// The median; sorts.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(values, 0.5)
}

/// Of sorted values, linear between neighbours.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = part * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

/// Bootstrapped medians: resampled with replacement, always with the same dice.
fn interval(values: &[f64]) -> (f64, f64) {
    const RESAMPLES: usize = 4_000;
    let mut dice = 0x9e37_79b9_7f4a_7c15u64;
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut sample: Vec<f64> = values
                .iter()
                .map(|_| {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    values[(dice >> 33) as usize % values.len()]
                })
                .collect();
            median(&mut sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (quantile(&medians, 0.025), quantile(&medians, 0.975))
}
