//! A histogram whose buckets are fixed: what was observed, by size.
//!
//! An observation is two additions and a short search, and takes no lock; many are two additions for each bucket that they are in. Whoever reads it meanwhile may miss the newest one, never half of one's bucket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of buckets, and what one step of them is in the unit that is told.
#[derive(Debug)]
pub struct Bounds {
    steps: &'static [u64],
    unit: f64,
}

/// Times within the daemon, in microseconds; told in seconds.
pub const SHORT: Bounds = Bounds {
    steps: &[
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
        5_000_000, 10_000_000, 30_000_000,
    ],
    unit: 1e-6,
};

/// Times across Kafka, in milliseconds; told in seconds.
pub const LONG: Bounds = Bounds {
    steps: &[
        1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 21_600_000,
    ],
    unit: 1e-3,
};

/// Numbers of things.
pub const NUMBERS: Bounds = Bounds { steps: &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000], unit: 1.0 };

/// More than any of the bounds have.
const BUCKETS: usize = 20;
const _: () = assert!(SHORT.steps.len() < BUCKETS && LONG.steps.len() < BUCKETS && NUMBERS.steps.len() < BUCKETS);

/// The histogram.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// One for each bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one.
    pub fn new(bounds: &'static Bounds) -> Self {
        let counts = (0..=bounds.steps.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Notes a value, in the steps of its bounds.
    pub fn observe(&self, value: u64) {
        self.observe_all([value]);
    }

    /// Notes values. They are added up here first, since an addition that other threads see costs more than the search.
    pub fn observe_all(&self, values: impl IntoIterator<Item = u64>) {
        let (mut counts, mut sum) = ([0; BUCKETS], 0);
        for value in values {
            let bucket = self.bounds.steps.partition_point(|bound| *bound < value);
            if let Some(count) = counts.get_mut(bucket) {
                *count += 1;
                sum += value;
            }
        }
        for (count, more) in self.counts.iter().zip(counts).filter(|(_, more)| *more > 0) {
            count.fetch_add(more, Ordering::Relaxed);
        }
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    /// Notes a time, for bounds in microseconds.
    pub fn time(&self, time: Duration) {
        self.times([time]);
    }

    /// Notes times, for bounds in microseconds.
    pub fn times(&self, times: impl IntoIterator<Item = Duration>) {
        self.observe_all(times.into_iter().map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)));
    }

    /// How many values were noted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The sum of what was noted, in the unit that is told.
    pub fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 * self.bounds.unit
    }

    /// For each bound, in the unit that is told, how many values were not above it. The last one is infinite.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.steps.iter().map(|step| round(*step as f64 * self.bounds.unit));
        let mut so_far = 0;
        let add = |(bound, count): (f64, &AtomicU64)| {
            so_far += count.load(Ordering::Relaxed);
            (bound, so_far)
        };
        bounds.chain([f64::INFINITY]).zip(&self.counts).map(add).collect()
    }
}

/// A bound as it is written: 250 microseconds are 0.00025, whatever the product is in binary.
fn round(bound: f64) -> f64 {
    (bound * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_it_is_not_above() {
        let numbers = Histogram::new(&NUMBERS);
        numbers.observe(0);
        numbers.observe_all([1, 2, 3, 5, 6, 5_000, 5_001, 1_000_000]);
        let counts: Vec<u64> = numbers.buckets().iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 3, 5, 6, 6, 6, 6, 6, 6, 6, 7, 9]);
        assert_eq!((numbers.count(), numbers.sum()), (9, 1_010_018.0));
    }

    #[test]
    fn bounds_are_told_in_seconds_and_as_they_are_written() {
        let short = Histogram::new(&SHORT);
        short.time(Duration::from_micros(250));
        short.time(Duration::from_secs(60));
        let bounds: Vec<String> = short.buckets().iter().map(|(bound, _)| format!("{bound:?}")).collect();
        assert_eq!(bounds.iter().take(4).collect::<Vec<_>>(), ["0.0001", "0.00025", "0.0005", "0.001"]);
        assert_eq!(bounds.last().map(String::as_str), Some("inf"));
        assert!((short.sum() - 60.00025).abs() < 1e-9);
        let long = Histogram::new(&LONG).buckets();
        assert_eq!(long.iter().rev().nth(1).map(|(bound, _)| *bound), Some(21_600.0));
    }
}
