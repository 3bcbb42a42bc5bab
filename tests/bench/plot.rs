//! Plots: one line of points over a logarithmic axis, as an SVG file that needs nothing to be looked at.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// What one run of a sweep gave.
pub(crate) struct Point {
    /// How large what grows is.
    pub(crate) x: u64,
    /// Records a second.
    pub(crate) rate: f64,
    /// Resident memory at the end, in MiB.
    pub(crate) resident: f64,
}

/// How the rate changes from one power of ten to the next, as a share of it, between the first and the last point.
pub(crate) fn slope(points: &[Point]) -> f64 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return f64::NAN };
    (last.rate / first.rate).powf(1.0 / (last.x as f64 / first.x as f64).log10()) - 1.0
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 70.0;

/// Writes the plot: the rate as a line from zero on, and the memory beside each point.
pub(crate) fn write(path: &Path, name: &str, unit: &str, points: &[Point]) -> Result<()> {
    let [low, high] =
        [f64::min as fn(f64, f64) -> f64, f64::max].map(|of| points.iter().map(|p| (p.x as f64).log10()).reduce(of));
    let (low, high) = (low.unwrap_or(0.0), high.unwrap_or(1.0));
    let top = points.iter().map(|p| p.rate).fold(1.0, f64::max) * 1.1;
    let at = |p: &Point| {
        let x = MARGIN + ((p.x as f64).log10() - low) / (high - low).max(f64::EPSILON) * (WIDTH - 2.0 * MARGIN);
        (x, HEIGHT - MARGIN + 20.0 - p.rate / top * (HEIGHT - 2.0 * MARGIN + 20.0))
    };
    let floor = HEIGHT - MARGIN + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"15\">{name}: records a second, and MiB at the end</text>\n\
         <line x1=\"{MARGIN}\" y1=\"{floor}\" x2=\"{}\" y2=\"{floor}\" stroke=\"black\"/>\n",
        WIDTH - MARGIN
    );
    let line: Vec<String> = points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#1565c0\" stroke-width=\"2\"/>", line.join(" "))?;
    for point in points {
        let (x, y) = at(point);
        writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#1565c0\"/>")?;
        let middle = "text-anchor=\"middle\"";
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" {middle}>{:.0}</text>", y - 10.0, point.rate)?;
        writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" {middle} fill=\"gray\">{:.0} MiB</text>",
            y + 18.0,
            point.resident
        )?;
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" {middle}>{}</text>", floor + 18.0, point.x)?;
    }
    writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{unit}</text>\n</svg>",
        WIDTH - MARGIN,
        HEIGHT - 12.0
    )?;
    std::fs::write(path, svg).with_context(|| format!("write {}", path.display()))
}
