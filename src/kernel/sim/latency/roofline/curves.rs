//! How much of the roofline operators reach by their arithmetic intensity, and tables of times by a count: both are made
//! once, and looked up in a few nanoseconds.

/// Points `[intensity, share]`: at an arithmetic intensity of so many times that of the GPU's ridge (where arithmetic and
/// memory take as long), an operator reaches this share of the roofline. Between points linear over the logarithm of
/// the intensity, before the first and behind the last one constant.
pub type Curve = Vec<[f64; 2]>;

/// Most points of a curve.
const POINTS_MAX: usize = 64;

/// What is wrong with a curve, if anything is.
pub(super) fn problem(curve: &Curve) -> Option<String> {
    if curve.is_empty() || curve.len() > POINTS_MAX {
        return Some(format!("has {} points; must have 1 to {POINTS_MAX}", curve.len()));
    }
    let mut last = 0.0;
    for [intensity, share] in curve {
        if !(*intensity > last && *intensity <= 1e6) {
            return Some(format!("has the intensity {intensity} after {last}; must rise, from above 0 to 1000000"));
        }
        if !(*share >= 1e-3 && *share <= 1.0) {
            return Some(format!("has the share {share} at {intensity}; must be 0.001 to 1"));
        }
        last = *intensity;
    }
    None
}

/// Intensities from 2^-16 to 2^16 in eighths of octaves, each of them cut into equal spans.
const OCTAVES: u64 = 16;
const CELLS: usize = 2 * OCTAVES as usize * 8;
/// Bits of a double below the exponent and the three that tell the eighth.
const REST: u32 = 52 - 3;
const BIAS: u64 = 1023;

/// A curve, at evenly spaced places; between them linear in the intensity itself.
pub(super) struct Shares {
    at: [f64; CELLS + 1],
}

impl Shares {
    pub(super) fn new(curve: &Curve) -> Shares {
        let mut at = [1.0; CELLS + 1];
        for (cell, share) in at.iter_mut().enumerate() {
            let bits = ((BIAS - OCTAVES) << 52) + ((cell as u64) << REST);
            *share = interpolate(curve, f64::from_bits(bits));
        }
        Shares { at }
    }

    /// The share at an intensity above 0.
    #[inline]
    pub(super) fn of(&self, intensity: f64) -> f64 {
        const LOW: f64 = 1.0 / (1u64 << OCTAVES) as f64;
        const HIGH: f64 = (1u64 << OCTAVES) as f64;
        if intensity >= HIGH {
            return self.at[CELLS];
        }
        // Nothing over nothing is no number, and takes no time.
        if intensity > LOW {
            let bits = intensity.to_bits() - ((BIAS - OCTAVES) << 52);
            let (cell, rest) = ((bits >> REST) as usize, bits & ((1 << REST) - 1));
            let (low, high) = (self.at[cell], self.at[cell + 1]);
            low + (high - low) * (rest as f64 / (1u64 << REST) as f64)
        } else {
            self.at[0]
        }
    }
}

fn interpolate(curve: &Curve, intensity: f64) -> f64 {
    let behind = curve.partition_point(|[x, _]| *x <= intensity);
    match (behind.checked_sub(1).map(|at| curve[at]), curve.get(behind)) {
        (Some([x0, y0]), Some([x1, y1])) => y0 + (y1 - y0) * (libm::log2(intensity / x0) / libm::log2(x1 / x0)),
        (Some([_, share]), None) | (None, Some(&[_, share])) => share,
        (None, None) => 1.0,
    }
}

/// Counts that each have their entry, the spacing of the entries beyond, and the count from which on the last slope holds.
const DENSE: usize = 512;
const SPACING: usize = 32;
const LAST: usize = 16_384;

/// Nanoseconds by a count, never less than for a smaller count.
pub(super) struct Table {
    dense: Vec<f64>,
    sparse: Vec<f64>,
}

impl Table {
    pub(super) fn new(ns: impl Fn(f64) -> f64) -> Table {
        let mut longest = 0.0;
        let mut rising = |count: usize| {
            longest = ns(count as f64).max(longest);
            longest
        };
        let dense: Vec<f64> = (0..=DENSE).map(&mut rising).collect();
        let sparse = (1..=(LAST - DENSE) / SPACING).map(|i| rising(DENSE + i * SPACING));
        let sparse = std::iter::once(dense[DENSE]).chain(sparse).collect();
        Table { dense, sparse }
    }

    #[inline]
    pub(super) fn of(&self, count: u64) -> f64 {
        if let Some(ns) = self.dense.get(count as usize) {
            return *ns;
        }
        let over = count as usize - DENSE;
        let cell = (over / SPACING).min(self.sparse.len() - 2);
        let (low, high) = (self.sparse[cell], self.sparse[cell + 1]);
        low + (high - low) * ((over - cell * SPACING) as f64 / SPACING as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_interpolated_over_the_logarithm() {
        let curve = vec![[0.25, 0.8], [1.0, 0.4], [4.0, 0.6]];
        let shares = Shares::new(&curve);
        // Half way between 1/4 and 1 in the logarithm is 1/2.
        for (intensity, expect) in [
            (1e-9, 0.8),
            (0.01, 0.8),
            (0.25, 0.8),
            (0.5, 0.6),
            (1.0, 0.4),
            (2.0, 0.5),
            (4.0, 0.6),
            (1e9, 0.6),
            (f64::NAN, 0.8),
        ] {
            let got = shares.of(intensity);
            assert!((got - expect).abs() < 1e-12, "{intensity}: {got}");
        }
        // Between the places it knows exactly.
        let got = shares.of(1.44);
        assert!((got - (0.4 + 0.1 * 1.44_f64.log2())).abs() < 1e-3, "{got}");
    }

    #[test]
    fn tables_are_exact_linear_or_go_on() {
        let table = Table::new(|n| 3.0 * n + 7.0);
        for count in [0, 1, 511, 512, 513, 1_000, 16_383, 16_384, 1_000_000] {
            assert!((table.of(count) - (3.0 * count as f64 + 7.0)).abs() < 1e-6, "{count}");
        }
        // A smaller count never takes longer.
        let table = Table::new(|n| if n == 10.0 { 50.0 } else { n });
        assert_eq!([9, 10, 49, 51].map(|n| table.of(n)), [9.0, 50.0, 50.0, 51.0]);
    }

    #[test]
    fn bad_curves_are_told() {
        let good = vec![[0.5, 0.1], [1.0, 1.0]];
        assert_eq!(problem(&good), None);
        for bad in [
            vec![],
            vec![[0.0, 0.5]],
            vec![[1.0, 0.5], [1.0, 0.6]],
            vec![[1.0, 0.0]],
            vec![[1.0, 1.1]],
            vec![[1.0, f64::NAN]],
            vec![[f64::NAN, 0.5]],
            vec![[1e7, 0.5]],
            (1..=65).map(|i| [f64::from(i), 0.5]).collect(),
        ] {
            assert!(problem(&bad).is_some(), "{bad:?}");
        }
    }
}
