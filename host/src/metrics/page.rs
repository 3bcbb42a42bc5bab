//! The page as text: Prometheus' own format, or OpenMetrics.
//!
//! All series of a family stand together, under its `HELP` and `TYPE`, whatever order they came in; a family without series has both
//! all the same. It escapes what labels hold, and knows no family by name.
//!
//! Sources: Prometheus, "Exposition formats" (text format 0.0.4); OpenMetrics 1.0.0.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::histogram::Histogram;

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at a start.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Observations by size.
    Histogram,
}

impl Kind {
    /// As it stands behind `TYPE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Series of one name.
#[derive(Debug)]
pub struct Family {
    /// The whole name, with its unit and, of a counter, `_total`.
    pub name: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// One sentence for whoever reads a dashboard, without a full stop.
    pub help: &'static str,
}

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format.
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// The one that a scraper prefers by its `Accept`; Prometheus' own where it prefers none.
    pub fn of_accept(accept: &str) -> Self {
        let quality = |kind: &str| {
            let quality = accept.split(',').filter_map(|part| {
                let mut words = part.split(';').map(str::trim);
                words.next().filter(|name| name.eq_ignore_ascii_case(kind))?;
                let quality = words.find_map(|word| word.strip_prefix("q="));
                Some(quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
            });
            quality.fold(0.0, f64::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A page that is being written.
#[derive(Debug, Default)]
pub struct Page {
    /// The lines of each family, by its name.
    series: HashMap<&'static str, String>,
}

impl Page {
    /// One number, with the values of the family's labels in their order.
    pub fn put(&mut self, family: &Family, labels: &[&str], value: f64) {
        let lines = self.series.entry(family.name).or_default();
        line(lines, family.name, family.labels, labels, None, value);
    }

    /// The same, of a whole number.
    pub fn count(&mut self, family: &Family, labels: &[&str], value: u64) {
        self.put(family, labels, value as f64);
    }

    /// A histogram.
    pub fn histogram(&mut self, family: &Family, labels: &[&str], histogram: &Histogram) {
        let lines = self.series.entry(family.name).or_default();
        let bucket = format!("{}_bucket", family.name);
        let (buckets, sum) = (histogram.buckets(), histogram.sum());
        for (bound, count) in &buckets {
            line(lines, &bucket, family.labels, labels, Some(*bound), *count as f64);
        }
        line(lines, &format!("{}_sum", family.name), family.labels, labels, None, sum);
        let count = buckets.last().map_or(0, |(_, count)| *count);
        line(lines, &format!("{}_count", family.name), family.labels, labels, None, count as f64);
    }

    /// The text, with these families in this order.
    pub fn write(&self, families: &[&Family], format: Format) -> String {
        let mut text = String::with_capacity(self.series.values().map(|lines| lines.len() + 200).sum());
        for family in families {
            // OpenMetrics has the suffix with the series only.
            let name = match (format, family.kind) {
                (Format::OpenMetrics, Kind::Counter) => family.name.strip_suffix("_total").unwrap_or(family.name),
                _ => family.name,
            };
            let _ = writeln!(text, "# HELP {name} {}", family.help);
            let _ = writeln!(text, "# TYPE {name} {}", family.kind.name());
            text.push_str(self.series.get(family.name).map_or("", String::as_str));
        }
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

fn line(text: &mut String, name: &str, names: &[&str], values: &[&str], bound: Option<f64>, value: f64) {
    text.push_str(name);
    let mut before = '{';
    let mut label = |text: &mut String, name: &str, value: &str| {
        text.push(before);
        before = ',';
        let _ = write!(text, "{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    };
    for (name, value) in names.iter().zip(values) {
        label(text, name, value);
    }
    if let Some(bound) = bound {
        // As OpenMetrics writes it, so that a series is the same in both formats.
        let bound = if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:?}") };
        label(text, "le", &bound);
    }
    if before == ',' {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

#[cfg(test)]
mod tests {
    use super::super::histogram::NUMBERS;
    use super::*;

    const DONE: Family =
        Family { name: "tidemill_done_total", kind: Kind::Counter, labels: &["handler", "how"], help: "What was done" };
    const SIZE: Family = Family { name: "tidemill_size", kind: Kind::Histogram, labels: &["store"], help: "Sizes" };
    const UP: Family = Family { name: "tidemill_up", kind: Kind::Gauge, labels: &[], help: "Whether" };

    fn page() -> Page {
        let mut page = Page::default();
        let sizes = Histogram::new(&NUMBERS);
        [1, 3, 70_000].into_iter().for_each(|size| sizes.observe(size));
        page.count(&DONE, &["a", "well"], 3);
        page.histogram(&SIZE, &["s"], &sizes);
        page.put(&DONE, &["a\"b\\c\nd", ""], 0.5);
        page
    }

    #[test]
    fn s2_10_families_stand_together_with_help_and_type_and_labels_are_escaped() {
        let text = page().write(&[&DONE, &SIZE, &UP], Format::Prometheus);
        let expected = r#"# HELP tidemill_done_total What was done
# TYPE tidemill_done_total counter
tidemill_done_total{handler="a",how="well"} 3
tidemill_done_total{handler="a\"b\\c\nd",how=""} 0.5
# HELP tidemill_size Sizes
# TYPE tidemill_size histogram
tidemill_size_bucket{store="s",le="1.0"} 1
tidemill_size_bucket{store="s",le="2.0"} 1
tidemill_size_bucket{store="s",le="5.0"} 2
tidemill_size_bucket{store="s",le="10.0"} 2
tidemill_size_bucket{store="s",le="20.0"} 2
tidemill_size_bucket{store="s",le="50.0"} 2
tidemill_size_bucket{store="s",le="100.0"} 2
tidemill_size_bucket{store="s",le="200.0"} 2
tidemill_size_bucket{store="s",le="500.0"} 2
tidemill_size_bucket{store="s",le="1000.0"} 2
tidemill_size_bucket{store="s",le="5000.0"} 2
tidemill_size_bucket{store="s",le="+Inf"} 3
tidemill_size_sum{store="s"} 70004
tidemill_size_count{store="s"} 3
# HELP tidemill_up Whether
# TYPE tidemill_up gauge
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn s2_10_openmetrics_names_a_counter_without_its_suffix_and_ends_with_a_mark() {
        let text = page().write(&[&DONE], Format::OpenMetrics);
        assert!(text.starts_with("# HELP tidemill_done What was done\n# TYPE tidemill_done counter\n"), "{text}");
        assert!(text.contains("\ntidemill_done_total{handler=\"a\",how=\"well\"} 3\n"), "{text}");
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn s2_10_a_scraper_gets_the_format_that_it_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; q=0.4, text/plain; q=0.5", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text;q=much", Format::Prometheus),
            ("text/plain", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            assert_eq!(Format::of_accept(accept), format, "{accept}");
        }
    }
}
