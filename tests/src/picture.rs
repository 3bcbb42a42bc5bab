//! A picture of the Grafana dashboard, as SVG, from its own file and what Prometheus answers to its queries.
//!
//! It shows what is where and what it looks like; Grafana draws it better.

use std::fmt::Write as _;

use serde_json::Value;

/// Points across for one of the 24 columns, and down for one row.
const COLUMN: f64 = 60.0;
const ROW: f64 = 27.0;
const COLOURS: [&str; 8] = ["#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#e02f44", "#b877d9", "#37872d", "#8ab8ff"];
/// Lines of a panel's legend at most.
const LEGEND: usize = 4;

/// A line of a panel.
#[derive(Debug)]
pub struct Series {
    /// As the panel's legend calls it.
    pub name: String,
    /// Seconds, and what it was then; in order.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// What Prometheus told of a range, under the panel's name for it, like `{{handler}} {{outcome}}`.
    pub fn of(told: &Value, legend: &str) -> Self {
        let name = legend.split("{{").enumerate().map(|(n, part)| match part.split_once("}}") {
            Some((label, rest)) if n > 0 => {
                format!("{}{rest}", told["metric"][label].as_str().unwrap_or_default())
            }
            _ => part.to_owned(),
        });
        let point = |point: &Value| Some((point[0].as_f64()?, point[1].as_str()?.parse().ok()?));
        let points = told["values"].as_array().into_iter().flatten().filter_map(point);
        Self { name: name.collect(), points: points.filter(|(_, value): &(f64, f64)| value.is_finite()).collect() }
    }

    fn peak(&self) -> f64 {
        self.points.iter().map(|point| point.1).fold(0.0, f64::max)
    }
}

/// The dashboard with what `ask` gives for each query and its legend.
pub fn dashboard(dashboard: &Value, ask: impl Fn(&str, &str) -> Vec<Series>) -> String {
    let panels = dashboard["panels"].as_array().expect("panels");
    let place = |panel: &Value, side: &str| panel["gridPos"][side].as_f64().expect("a place");
    let rows = panels.iter().map(|panel| place(panel, "y") + place(panel, "h")).fold(0.0, f64::max);
    let (width, height) = (24.0 * COLUMN, rows * ROW + 10.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#111217\"/>\n"
    );
    for panel in panels {
        let (x, y) = (place(panel, "x") * COLUMN + 4.0, place(panel, "y") * ROW + 4.0);
        let (w, h) = (place(panel, "w") * COLUMN - 8.0, place(panel, "h") * ROW - 8.0);
        let title = escaped(panel["title"].as_str().unwrap_or_default());
        let kind = panel["type"].as_str().unwrap_or_default();
        if kind == "row" {
            let _ =
                writeln!(svg, "<text x=\"{x}\" y=\"{}\" fill=\"#ccccdc\" font-size=\"15\">{title}</text>", y + 15.0);
            continue;
        }
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        let asked = panel["targets"].as_array().into_iter().flatten().flat_map(|target| {
            ask(target["expr"].as_str().unwrap_or_default(), target["legendFormat"].as_str().unwrap_or_default())
        });
        let mut series: Vec<Series> = asked.filter(|series| !series.points.is_empty()).collect();
        series.sort_by(|a, b| b.peak().total_cmp(&a.peak()));
        let _ = write!(
            svg,
            "<g transform=\"translate({x} {y})\"><rect width=\"{w}\" height=\"{h}\" fill=\"#181b1f\" stroke=\"#2c3235\"/>\
             <text x=\"8\" y=\"17\" fill=\"#ccccdc\">{title}</text>"
        );
        match kind {
            "stat" => stat(&mut svg, &series, unit, w, h),
            _ => lines(&mut svg, &series, unit, w, h),
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn stat(svg: &mut String, series: &[Series], unit: &str, w: f64, h: f64) {
    let last = series.first().and_then(|series| series.points.last());
    let text = last.map_or("no data".to_owned(), |(_, value)| shown(*value, unit));
    let (x, y) = (w / 2.0, h / 2.0 + 22.0);
    let _ = write!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" fill=\"{}\" font-size=\"44\" text-anchor=\"middle\">{text}</text>",
        COLOURS[0]
    );
}

fn lines(svg: &mut String, series: &[Series], unit: &str, w: f64, h: f64) {
    let all = || series.iter().flat_map(|series| &series.points);
    let ends = |of: fn(&(f64, f64)) -> f64| {
        let each = || all().map(of);
        (each().fold(f64::INFINITY, f64::min), each().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((from, to), (_, top)) = (ends(|point| point.0), ends(|point| point.1));
    if from > to {
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" fill=\"#8e8e99\" text-anchor=\"middle\">no data</text>",
            w / 2.0,
            h / 2.0
        );
        return;
    }
    let top = if top > 0.0 { top * 1.1 } else { 1.0 };
    let (left, under) = (62.0, 26.0);
    let bottom = h - 18.0 * series.len().min(LEGEND).div_ceil(2) as f64 - 8.0;
    let at = |(time, value): &(f64, f64)| {
        let x = left + (time - from) / (to - from).max(1.0) * (w - left - 12.0);
        (x, bottom - (value.max(0.0) / top) * (bottom - under))
    };
    for part in [0.0, 0.5, 1.0] {
        let y = bottom - part * (bottom - under);
        let _ = write!(
            svg,
            "<path d=\"M{left} {y:.1}H{}\" stroke=\"#2c3235\"/><text x=\"{}\" y=\"{:.1}\" fill=\"#8e8e99\" font-size=\"10\" text-anchor=\"end\">{}</text>",
            w - 12.0,
            left - 6.0,
            y + 4.0,
            shown(part * top, unit)
        );
    }
    for (n, line) in series.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let points: Vec<String> = line.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            points.join(" ")
        );
        if n < LEGEND {
            let (x, y) = (10.0 + (n % 2) as f64 * w / 2.0, bottom + 17.0 + (n / 2) as f64 * 16.0);
            let _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"3\" fill=\"{colour}\"/><text x=\"{}\" y=\"{y}\" fill=\"#ccccdc\" font-size=\"10\">{}</text>",
                y - 5.0,
                x + 17.0,
                escaped(&line.name)
            );
        }
    }
}

/// A number in the panel's unit, short.
fn shown(value: f64, unit: &str) -> String {
    let scaled = |value: f64, of: f64, units: &[&str]| {
        let (mut value, mut n) = (value, 0);
        while value >= of && n + 1 < units.len() {
            (value, n) = (value / of, n + 1);
        }
        format!("{}{}", short(value), units[n])
    };
    match unit {
        "s" if value >= 1.0 || value == 0.0 => format!("{} s", short(value)),
        "s" if value >= 0.001 => format!("{} ms", short(value * 1e3)),
        "s" => format!("{} µs", short(value * 1e6)),
        "bytes" => scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"]),
        "percentunit" => format!("{} %", short(value * 100.0)),
        "ops" | "reqps" => scaled(value, 1000.0, &["/s", "k/s", "M/s"]),
        _ => scaled(value, 1000.0, &["", "k", "M", "G"]),
    }
}

fn short(value: f64) -> String {
    let digits = if value >= 100.0 || value.fract() == 0.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
