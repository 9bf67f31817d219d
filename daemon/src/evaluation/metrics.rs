//! The paper's metrics (section 2.5), of whole studies: pure functions of scores, labels and masks.
//!
//! What a set of studies doesn't define is no number: each answer is a value or the reason why there is none.

/// Why a metric has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undefined {
    /// The curve needs both.
    #[error("{positives} positive and {negatives} negative studies; at least one of each is needed")]
    SingleClass {
        /// Studies with the disease.
        positives: usize,
        /// Studies without.
        negatives: usize,
    },
    /// Ranks of fewer than two, or of values that are all equal, can't correlate.
    #[error("{studies} studies of {distinct} distinct values; two of each are needed")]
    NoRanks {
        /// Studies.
        studies: usize,
        /// Distinct values on the side that has fewer.
        distinct: usize,
    },
    /// There is nothing to average.
    #[error("no study")]
    Empty,
    /// Another method, or none, measures it.
    #[error("not measured by this method")]
    NotMeasured,
    /// The data set lacks lesion masks.
    #[error("no true severity: the data set has no lesion masks")]
    NoTruth,
}

/// Area under the ROC curve of `(score, is positive)`: the chance that a positive study has the higher score, ties counting half.
///
/// # Errors
/// [`Undefined::SingleClass`].
pub fn roc_auc(scored: &[(f64, bool)]) -> Result<f64, Undefined> {
    let positives = scored.iter().filter(|(_, positive)| *positive).count();
    let negatives = scored.len() - positives;
    if positives == 0 || negatives == 0 {
        return Err(Undefined::SingleClass { positives, negatives });
    }
    let ranks = ranks(&scored.iter().map(|(score, _)| *score).collect::<Vec<_>>());
    let sum: f64 =
        ranks.iter().zip(scored).filter(|(_, (_, positive))| *positive).map(|(rank, _)| rank).sum();
    let (p, n) = (positives as f64, negatives as f64);
    Ok((sum - p * (p + 1.0) / 2.0) / (p * n))
}

/// The ROC curve as (false, true) positive rates, from (0, 0) to (1, 1), one point a distinct score.
///
/// # Errors
/// [`Undefined::SingleClass`].
pub fn roc_curve(scored: &[(f64, bool)]) -> Result<Vec<(f64, f64)>, Undefined> {
    let positives = scored.iter().filter(|(_, positive)| *positive).count();
    let negatives = scored.len() - positives;
    if positives == 0 || negatives == 0 {
        return Err(Undefined::SingleClass { positives, negatives });
    }
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut curve = vec![(0.0, 0.0)];
    let (mut seen_false, mut seen_true) = (0.0, 0.0);
    for (at, (score, positive)) in sorted.iter().enumerate() {
        *(if *positive { &mut seen_true } else { &mut seen_false }) += 1.0;
        if sorted.get(at + 1).is_none_or(|(next, _)| next != score) {
            curve.push((seen_false / negatives as f64, seen_true / positives as f64));
        }
    }
    Ok(curve)
}

/// Spearman's rank correlation; equal values share their mean rank.
///
/// # Errors
/// [`Undefined::NoRanks`].
pub fn spearman(pairs: &[(f64, f64)]) -> Result<f64, Undefined> {
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let distinct = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.dedup();
        sorted.len()
    };
    let distinct = distinct(&x).min(distinct(&y));
    if distinct < 2 {
        return Err(Undefined::NoRanks { studies: pairs.len(), distinct });
    }
    let (x, y) = (ranks(&x), ranks(&y));
    // The mean of ranks is the same, whatever ties there are.
    let mean = (pairs.len() + 1) as f64 / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    Ok(product(&x, &y) / (product(&x, &x) * product(&y, &y)).sqrt())
}

/// Dice score of two masks of one size; 1 where both are empty, as the paper's code has it.
pub fn dice(a: &[bool], b: &[bool]) -> f64 {
    let both = a.iter().zip(b).filter(|(a, b)| **a && **b).count();
    let sum = a.iter().filter(|v| **v).count() + b.iter().filter(|v| **v).count();
    if sum == 0 { 1.0 } else { 2.0 * both as f64 / sum as f64 }
}

/// Mean and standard deviation (of the whole set, not of a sample: as NumPy and the paper's tables).
///
/// # Errors
/// [`Undefined::Empty`].
pub fn mean_std(values: &[f64]) -> Result<(f64, f64), Undefined> {
    if values.is_empty() {
        return Err(Undefined::Empty);
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    Ok((mean, variance.sqrt()))
}

/// A 95 % interval of `metric` by drawing the studies again, with replacement, `rounds` times: percentiles 2.5 and 97.5 of the rounds in which
/// it is defined; `None` where those are fewer than half. The same seed gives the same interval.
pub fn bootstrap<T: Clone>(
    studies: &[T],
    rounds: usize,
    seed: u64,
    metric: impl Fn(&[T]) -> Result<f64, Undefined>,
) -> Option<[f64; 2]> {
    let mut random = Random(seed);
    let mut values: Vec<f64> = (0..rounds)
        .filter_map(|_| {
            let drawn: Vec<T> =
                (0..studies.len()).map(|_| studies[random.below(studies.len())].clone()).collect();
            metric(&drawn).ok()
        })
        .collect();
    if values.is_empty() || values.len() * 2 < rounds {
        return None;
    }
    values.sort_by(f64::total_cmp);
    Some([percentile(&values, 0.025), percentile(&values, 0.975)])
}

/// Percentile of sorted values, between two of them in proportion (NumPy's default).
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * (at - at.floor())
}

/// Ranks from 1 on; equal values share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    for group in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let before = order.partition_point(|i| values[*i] < values[group[0]]);
        let mean = before as f64 + (group.len() + 1) as f64 / 2.0;
        group.iter().for_each(|i| ranks[*i] = mean);
    }
    ranks
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; its bias, 2⁻⁵⁰ for a few thousand studies, is nothing.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
