// SPDX-License-Identifier: GPL-2.0

//! Statistical tests of samples.

/// The two-sample Kolmogorov-Smirnov statistic: the largest difference between the two empirical
/// distribution functions, from 0 (identical) to 1 (disjoint).
pub fn kolmogorov_smirnov(one: &[u64], other: &[u64]) -> f64 {
    let (one, other) = (sorted(one), sorted(other));
    let share = |sample: &[u64], value: u64| {
        let below = sample.partition_point(|&found| found <= value);
        below as f64 / sample.len() as f64
    };
    one.iter()
        .chain(&other)
        .map(|&value| (share(&one, value) - share(&other, value)).abs())
        .fold(0.0, f64::max)
}

/// The value that the statistic of two samples of the same distribution exceeds with a probability of
/// at most `significance`: `c sqrt((n + m) / nm)` with `c = sqrt(-ln(significance / 2) / 2)`.
///
/// Source: Knuth, TAOCP vol. 2, section 3.3.1; Smirnov 1948. Exact for large samples of a
/// continuous distribution, conservative where values are equal.
pub fn critical_distance(one: usize, other: usize, significance: f64) -> f64 {
    let (n, m) = (one as f64, other as f64);
    (-(significance / 2.0).ln() / 2.0).sqrt() * ((n + m) / (n * m)).sqrt()
}

fn sorted(sample: &[u64]) -> Vec<u64> {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn distances_of_small_samples() {
        assert_eq!(kolmogorov_smirnov(&[1, 2, 3], &[3, 2, 1]), 0.0);
        assert_eq!(kolmogorov_smirnov(&[1, 2], &[3, 4]), 1.0);
        assert_eq!(kolmogorov_smirnov(&[1, 2, 3, 4], &[3, 4, 5, 6]), 0.5);
        assert_eq!(kolmogorov_smirnov(&[5, 5, 5], &[5, 5, 9, 9]), 0.5);
    }

    #[test]
    fn tabulated_critical_distances() {
        // Published tables list c(0.05) = 1.358 and c(0.001) = 1.949.
        assert!((critical_distance(200, 200, 0.05) - 0.1358).abs() < 1e-4);
        assert!((critical_distance(1024, 1024, 0.001) - 0.0862).abs() < 1e-4);
    }

    /// Samples of the same distribution exceed the critical distance as rarely as expected.
    #[test]
    fn significance_is_what_it_says() {
        let mut rng = Rng::new(1);
        let mut sample = || -> Vec<u64> { (0..100).map(|_| rng.number()).collect() };
        let critical = critical_distance(100, 100, 0.05);
        let exceeds = |_: &u32| kolmogorov_smirnov(&sample(), &sample()) > critical;
        let rejected = (0..1000).filter(exceeds).count();
        assert!((10..=70).contains(&rejected), "{rejected} of 1000");
    }
}
