//! Interpolation between measured points: linear, over axes that need not be regular.
//!
//! Outside of what was measured: below the first point, its value (small shapes are bound by fixed costs, which do not
//! shrink); above the last, its value times the ratio of the sizes: the slope of a roofline, at the efficiency of the
//! last point. Every function says whether it had to.

/// Values over one increasing axis. Never empty.
#[derive(Clone, Debug)]
pub(super) struct Series {
    xs: Vec<f64>,
    ys: Vec<f64>,
}

/// A value, and whether all that it came from was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Read {
    pub value: f64,
    pub inside: bool,
}

/// What a table has at a place: a value, or several that lie at the same place of all its rows.
pub(super) trait Value: Copy {
    /// By this share of the way.
    fn between(low: Self, high: Self, share: f64) -> Self;
    fn times(self, factor: f64) -> Self;
    fn outside(self) -> Self;
}

impl Value for Read {
    #[inline]
    fn between(low: Read, high: Read, share: f64) -> Read {
        Read { value: low.value + (high.value - low.value) * share, inside: low.inside && high.inside }
    }

    #[inline]
    fn times(self, factor: f64) -> Read {
        Read { value: self.value * factor, inside: self.inside }
    }

    #[inline]
    fn outside(self) -> Read {
        Read { inside: false, ..self }
    }
}

impl<const N: usize> Value for [Read; N] {
    #[inline]
    fn between(low: [Read; N], high: [Read; N], share: f64) -> [Read; N] {
        std::array::from_fn(|i| Read::between(low[i], high[i], share))
    }

    #[inline]
    fn times(self, factor: f64) -> [Read; N] {
        self.map(|read| read.times(factor))
    }

    #[inline]
    fn outside(self) -> [Read; N] {
        self.map(Read::outside)
    }
}

/// Between which of the increasing `xs` a value lies.
enum Place {
    /// At or below the first, with whether it is at it.
    First(bool),
    /// Above the last.
    Beyond,
    /// After this one, by this share of the way to the next.
    After(usize, f64),
}

fn place(xs: &[f64], x: f64) -> Place {
    let above = xs.partition_point(|known| *known <= x);
    if above == 0 {
        return Place::First(false);
    }
    let (at, last) = (above - 1, xs.len() - 1);
    if xs[at] == x {
        return if at == 0 { Place::First(true) } else { Place::After(at - 1, 1.0) };
    }
    if at == last { Place::Beyond } else { Place::After(at, (x - xs[at]) / (xs[at + 1] - xs[at])) }
}

/// Where a value lay on the axis of the row before. Rows of a table mostly have the same axis: what was found on one is
/// tried first on the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Near {
    at: usize,
    share: f64,
    /// Of the last one; equal as long as there was none, so that they fit nowhere.
    low: f64,
    high: f64,
}

impl Near {
    /// As [`place`], which it equals to the bit: the same interval, and so the same share.
    #[inline(always)]
    fn place(&mut self, xs: &[f64], x: f64) -> Place {
        if let Some([low, high]) = xs.get(self.at..self.at + 2)
            && *low == self.low
            && *high == self.high
        {
            return Place::After(self.at, self.share);
        }
        self.find(xs, x)
    }

    #[inline(never)]
    fn find(&mut self, xs: &[f64], x: f64) -> Place {
        let place = place(xs, x);
        if let Place::After(at, share) = place {
            *self = Near { at, share, low: xs[at], high: xs[at + 1] };
        }
        place
    }
}

impl Series {
    /// From points with distinct x, in increasing order; `None` without any.
    pub(super) fn new(points: impl IntoIterator<Item = (f64, f64)>) -> Option<Series> {
        let (xs, ys): (Vec<f64>, Vec<f64>) = points.into_iter().unzip();
        (!xs.is_empty()).then_some(Series { xs, ys })
    }

    pub(super) fn first(&self) -> f64 {
        self.xs[0]
    }

    pub(super) fn last(&self) -> f64 {
        self.xs[self.xs.len() - 1]
    }

    pub(super) fn at(&self, x: f64) -> Read {
        self.read(place(&self.xs, x), x)
    }

    /// The same, with what is known of the row before for this very x.
    #[inline(always)]
    pub(super) fn at_near(&self, x: f64, near: &mut Near) -> Read {
        self.read(near.place(&self.xs, x), x)
    }

    #[inline(always)]
    fn read(&self, place: Place, x: f64) -> Read {
        match place {
            Place::First(inside) => Read { value: self.ys[0], inside },
            Place::After(i, share) => {
                let exact = |value| Read { value, inside: true };
                // Points themselves come out as they are.
                if share == 1.0 {
                    exact(self.ys[i + 1])
                } else {
                    exact(self.ys[i] + (self.ys[i + 1] - self.ys[i]) * share)
                }
            }
            Place::Beyond => {
                let last = self.xs.len() - 1;
                let ratio = if self.xs[last] > 0.0 { x / self.xs[last] } else { 1.0 };
                Read { value: self.ys[last] * ratio, inside: false }
            }
        }
    }
}

/// Values over several axes: a series of something at each point of an axis.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    xs: Vec<f64>,
    rows: Vec<T>,
}

impl<T> Table<T> {
    /// From rows with distinct x, in increasing order; `None` without any.
    pub(super) fn new(rows: impl IntoIterator<Item = (f64, T)>) -> Option<Table<T>> {
        let (xs, rows): (Vec<f64>, Vec<T>) = rows.into_iter().unzip();
        (!xs.is_empty()).then_some(Table { xs, rows })
    }

    /// The value at `x`, where `read` gives that of a row.
    #[inline]
    pub(super) fn at<V: Value>(&self, x: f64, read: impl FnMut(&T) -> V) -> V {
        self.read(place(&self.xs, x), x, read)
    }

    /// The same, with what is known of the table before for this very x.
    #[inline]
    pub(super) fn at_near<V: Value>(&self, x: f64, near: &mut Near, read: impl FnMut(&T) -> V) -> V {
        self.read(near.place(&self.xs, x), x, read)
    }

    #[inline]
    fn read<V: Value>(&self, place: Place, x: f64, mut read: impl FnMut(&T) -> V) -> V {
        match place {
            Place::First(true) => read(&self.rows[0]),
            Place::First(false) => read(&self.rows[0]).outside(),
            Place::After(i, 1.0) => read(&self.rows[i + 1]),
            Place::After(i, share) => {
                let low = read(&self.rows[i]);
                V::between(low, read(&self.rows[i + 1]), share)
            }
            Place::Beyond => {
                let last = self.xs.len() - 1;
                let ratio = if self.xs[last] > 0.0 { x / self.xs[last] } else { 1.0 };
                read(&self.rows[last]).times(ratio).outside()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: f64, inside: bool) -> Read {
        Read { value, inside }
    }

    #[test]
    fn points_are_exact_and_lines_lie_between() {
        let s = Series::new([(2.0, 0.1), (4.0, 0.3), (8.0, 0.2)]).unwrap();
        for (x, value, inside) in [
            (2.0, 0.1, true),
            (4.0, 0.3, true),
            (8.0, 0.2, true),
            (6.0, 0.25, true),
            (1.0, 0.1, false),
            (16.0, 0.4, false),
        ] {
            assert_eq!(s.at(x), read(value, inside), "{x}");
        }
        assert!(Series::new([]).is_none());
        // One point: a constant below, a ratio above.
        let one = Series::new([(10.0, 5.0)]).unwrap();
        assert_eq!((one.at(1.0), one.at(10.0), one.at(20.0)), (read(5.0, false), read(5.0, true), read(10.0, false)));
    }

    #[test]
    fn what_is_known_of_another_row_changes_nothing() {
        let rows: Vec<Series> =
            [&[1.0, 2.0, 4.0, 8.0][..], &[1.0, 2.0], &[2.0, 4.0, 8.0, 16.0], &[1.0, 2.0, 5.0], &[3.0]]
                .iter()
                .map(|xs| Series::new(xs.iter().map(|x| (*x, 10.0 / *x))).unwrap())
                .collect();
        for x in [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0, 8.0, 20.0] {
            for first in &rows {
                for second in &rows {
                    let mut near = Near::default();
                    assert_eq!(first.at_near(x, &mut near), first.at(x), "{x}");
                    assert_eq!(second.at_near(x, &mut near), second.at(x), "{x}");
                }
            }
        }
    }

    #[test]
    fn rows_may_end_at_different_places() {
        let short = Series::new([(1.0, 1.0), (2.0, 2.0)]).unwrap();
        let long = Series::new([(1.0, 3.0), (4.0, 6.0)]).unwrap();
        let t = Table::new([(1.0, short), (2.0, long)]).unwrap();
        let at = |x: f64, y: f64| t.at(x, |row| row.at(y));
        assert_eq!(at(1.0, 2.0), read(2.0, true));
        assert_eq!(at(1.5, 2.0), read(3.0, true));
        // The short row ends at 2: twice that at 4; the long one has 6 there.
        assert_eq!(at(1.5, 4.0), read(5.0, false));
        assert_eq!(at(4.0, 4.0), read(12.0, false));
        assert_eq!(at(0.5, 1.0), read(1.0, false));
    }
}
