//! A scrape of the daemon's metrics, read as a scraper reads it.

use std::collections::BTreeMap;
use std::fs;

use crate::http::{Call, Reply};
use crate::sandbox::Sandbox;

/// The labels of a series, by name.
pub type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The page.
    pub text: String,
    series: Vec<(String, Labels, f64)>,
}

impl Sandbox {
    /// A request to where the sandbox's daemon tells how it is.
    pub fn monitor(&self, path: &str) -> Call {
        let url = fs::read_to_string(self.data().join("metrics.url")).expect("the address of the metrics");
        Call::new("GET", &format!("{}{path}", url.trim()))
    }

    /// A scrape.
    pub fn scrape(&self) -> Metrics {
        Metrics::of(&self.monitor("/metrics").send().expect_status(200))
    }
}

impl Metrics {
    /// A page in Prometheus' text format.
    pub fn of(reply: &Reply) -> Self {
        let text = reply.text();
        let series = text.lines().filter(|line| !line.starts_with('#')).map(series).collect();
        Self { text, series }
    }

    /// The sum of the series of this name that have these values, `None` if there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |of: &Labels| labels.iter().all(|(name, value)| of.get(*name).is_some_and(|found| found == value));
        let values = self.series.iter().filter(|(found, of, _)| found == name && fits(of)).map(|(_, _, value)| *value);
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// The same, of series that must be there.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no series {name} {labels:?} in\n{}", self.text))
    }

    /// The labels of each series of this name.
    pub fn labels(&self, name: &str) -> Vec<Labels> {
        self.series.iter().filter(|(found, ..)| found == name).map(|(_, labels, _)| labels.clone()).collect()
    }

    /// How many series there are.
    pub fn count(&self) -> usize {
        self.series.len()
    }
}

/// `name{label="value"} 1`
fn series(line: &str) -> (String, Labels, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("no number in {line}"));
    let Some((name, rest)) = head.split_once('{') else { return (head.to_owned(), Labels::new(), value) };
    let (mut labels, mut rest) = (Labels::new(), rest);
    while let Some((label, quoted)) = rest.split_once("=\"") {
        let (mut text, mut escaped, mut end) = (String::new(), false, quoted.len());
        for (at, c) in quoted.char_indices() {
            match (escaped, c) {
                (false, '"') => {
                    end = at;
                    break;
                }
                (false, '\\') => escaped = true,
                (true, 'n') => (text, escaped) = (text + "\n", false),
                (_, c) => {
                    text.push(c);
                    escaped = false;
                }
            }
        }
        labels.insert(label.trim_start_matches(',').to_owned(), text);
        rest = &quoted[end + 1..];
    }
    assert_eq!(rest, "}", "{line}");
    (name.to_owned(), labels, value)
}
