//! The histogram of the gaps between tokens: bins that are narrow where gaps are short.
//!
//! Gaps below 64 ns have a bin each; above, every power of two is cut into 32 bins of equal width. So a bin is at most
//! 1/32 as wide as the shortest gap in it, and any gap has one.

use pipe_kernel::units::SimDuration;

/// Bins per power of two, as a power of two.
const BITS: u32 = 5;
/// Gaps below have a bin each.
const EXACT: i64 = 2 << BITS;

/// Counts by bin, those that are not empty, in order: number of the bin, gaps in it.
pub(super) fn bins(sorted: &[(SimDuration, u64)]) -> Vec<(u32, u64)> {
    let mut bins: Vec<(u32, u64)> = Vec::new();
    for (gap, count) in sorted.iter().filter(|(_, count)| *count > 0) {
        let bin = bin(gap.0);
        match bins.last_mut() {
            Some((last, n)) if *last == bin => *n += count,
            _ => bins.push((bin, *count)),
        }
    }
    bins
}

/// The number of the bin of a gap.
fn bin(gap: i64) -> u32 {
    let gap = gap.max(0);
    if gap < EXACT {
        return gap as u32;
    }
    // 5 for gaps from 64 on: the highest bit is at 6, and five more are looked at.
    let shift = gap.ilog2() - BITS;
    (shift << BITS) + (gap >> shift) as u32
}

/// The shortest gap of a bin, and the shortest of the next.
pub(super) fn bounds(bin: u32) -> (i64, i64) {
    if i64::from(bin) < EXACT {
        return (i64::from(bin), i64::from(bin) + 1);
    }
    let shift = (bin >> BITS) - 1;
    let leading = i128::from(bin - (shift << BITS));
    let at = |leading: i128| i64::try_from(leading << shift).unwrap_or(i64::MAX);
    (at(leading), at(leading + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_where_they_should_be() {
        // (gap, shortest of its bin, shortest of the next)
        let cases = [
            (0, 0, 1),
            (1, 1, 2),
            (63, 63, 64),
            (64, 64, 66),
            (65, 64, 66),
            (66, 66, 68),
            (127, 126, 128),
            (128, 128, 132),
            (1_000, 992, 1_008),
            (1_023, 1_008, 1_024),
            (1_024, 1_024, 1_056),
            (20_000_000, 19_922_944, 20_447_232),
            (i64::MAX, i64::MAX - (1 << 57) + 1, i64::MAX),
        ];
        for (gap, low, high) in cases {
            assert_eq!(bounds(bin(gap)), (low, high), "{gap}");
        }
    }

    #[test]
    fn bins_leave_no_gap_out_and_are_narrow() {
        for number in 0..1_900 {
            let (low, high) = bounds(number);
            if high == i64::MAX {
                break;
            }
            assert_eq!(bounds(number + 1).0, high);
            assert_eq!((bin(low), bin(high - 1), bin(high)), (number, number, number + 1));
            assert!(high - low == 1 || (high - low) * 32 <= low, "{low} {high}");
        }
    }

    #[test]
    fn counts_are_kept() {
        let gaps = [(SimDuration(63), 2), (SimDuration(64), 3), (SimDuration(65), 4), (SimDuration(66), 0)];
        assert_eq!(bins(&gaps), [(63, 2), (64, 7)]);
        assert_eq!(bins(&[]), []);
    }
}
