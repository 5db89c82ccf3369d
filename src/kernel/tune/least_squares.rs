//! Least squares: coefficients with their standard errors, without bounds or not below zero.
//!
//! Columns are scaled to length 1 first, so that tokens squared and an intercept do not drown each other. Unbounded
//! fits go through Householder's QR; those that may not be negative are Lawson and Hanson's active set (1974). Standard
//! errors are the usual ones of a linear model with independent errors, over the columns that are not held at zero.
//!
//! Left out: covariances, robust losses, upper bounds.

/// A fit. Columns are those that were given, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    pub coefficients: Vec<f64>,
    /// `None` for a coefficient that is held at zero, and where there are no more rows than coefficients.
    pub standard_errors: Vec<Option<f64>>,
    /// 1 - (weighted squares left) / (weighted squares around the mean); NaN where all values are the same.
    pub r2: f64,
}

/// Why there is no fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Fewer rows than columns.
    Rows,
    /// A column (its number) follows from the others, so that any share between them fits as well.
    Dependent(usize),
    /// A value that is not finite, or a weight that is not above zero.
    Values,
}

/// Relative length below which what is left of a column counts as nothing.
const NOTHING: f64 = 1e-10;

/// The coefficients of least weighted squares.
///
/// `columns` are of the length of `y`; `weights` multiply squares, and are 1 where there are none. Columns of nothing
/// but zeros get the coefficient 0.
///
/// # Errors
/// [`Unfit`].
pub fn ordinary(columns: &[Vec<f64>], y: &[f64], weights: Option<&[f64]>) -> Result<Fit, Unfit> {
    let problem = Problem::new(columns, y, weights)?;
    let all: Vec<usize> = (0..columns.len()).filter(|&j| problem.scales[j] > 0.0).collect();
    if y.len() < all.len() {
        return Err(Unfit::Rows);
    }
    let solved = problem.solve(&all).map_err(|place| Unfit::Dependent(all[place]))?;
    Ok(problem.fit(&all, &solved))
}

/// The same, with coefficients that are not below zero.
///
/// # Errors
/// [`Unfit::Rows`] and [`Unfit::Values`]; of columns that depend on each other some are held at zero.
pub fn non_negative(columns: &[Vec<f64>], y: &[f64], weights: Option<&[f64]>) -> Result<Fit, Unfit> {
    let problem = Problem::new(columns, y, weights)?;
    if y.is_empty() {
        return Err(Unfit::Rows);
    }
    let n = columns.len();
    let mut free: Vec<usize> = Vec::new();
    let mut x = vec![0.0; n];
    // Columns that were tried in vain since the last step.
    let mut refused = vec![false; n];
    let size = libm::sqrt(problem.y.iter().map(|y| y * y).sum());
    // Every round ends with less squares, so no set of free columns comes twice; rounding errors are what this is for.
    for _ in 0..10 * (n + 1) {
        let left = problem.residuals(&x);
        let slope = |j: usize| problem.columns[j].iter().zip(&left).map(|(a, r)| a * r).sum::<f64>();
        let candidates = (0..n).filter(|j| !free.contains(j) && !refused[*j] && problem.scales[*j] > 0.0);
        let steepest = candidates.map(|j| (slope(j), j)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let Some((_, entering)) = steepest.filter(|(s, _)| *s > size * NOTHING) else { break };
        free.push(entering);
        free.sort_unstable();
        if free.len() > y.len() || problem.solve(&free).is_err() {
            free.retain(|j| *j != entering);
            refused[entering] = true;
            continue;
        }
        while let Ok(solved) = problem.solve(&free) {
            let place = free.iter().position(|j| *j == entering);
            if place.is_some_and(|p| solved.x[p] <= 0.0 && x[entering] == 0.0) {
                // It would leave again at once: its slope was a rounding error.
                free.retain(|j| *j != entering);
                refused[entering] = true;
                break;
            }
            if solved.x.iter().all(|v| *v > 0.0) {
                x = vec![0.0; n];
                free.iter().zip(&solved.x).for_each(|(&j, v)| x[j] = *v);
                refused = vec![false; n];
                break;
            }
            // As far towards the solution as no coefficient falls below zero.
            let part = free.iter().zip(&solved.x).filter(|(_, v)| **v <= 0.0);
            let part = part.map(|(&j, v)| x[j] / (x[j] - v)).fold(1.0f64, f64::min);
            for (&j, v) in free.iter().zip(&solved.x) {
                x[j] += part * (v - x[j]);
                // Those that set the limit are zero but for rounding.
                if *v <= 0.0 && x[j] <= NOTHING * (v.abs() + x[j].abs()) {
                    x[j] = 0.0;
                }
            }
            free.retain(|&j| x[j] > 0.0);
        }
    }
    match problem.solve(&free) {
        Ok(solved) => Ok(problem.fit(&free, &solved)),
        Err(place) => Err(Unfit::Dependent(free[place])),
    }
}

/// Scaled columns and values, each row times the root of its weight.
struct Problem {
    columns: Vec<Vec<f64>>,
    /// Lengths of the columns before; 0 for one of nothing but zeros.
    scales: Vec<f64>,
    y: Vec<f64>,
    /// Weighted squares of `y` around its weighted mean; 0 where all of it is the same.
    total: f64,
}

/// The solution for some columns, in scaled units.
struct Solved {
    x: Vec<f64>,
    /// Squares left.
    left: f64,
    /// Diagonal of the inverse of the normal matrix.
    inverse: Vec<f64>,
}

impl Problem {
    fn new(columns: &[Vec<f64>], y: &[f64], weights: Option<&[f64]>) -> Result<Problem, Unfit> {
        let finite = columns.iter().flatten().chain(y).all(|v| v.is_finite());
        let weighty = weights.is_none_or(|w| w.len() == y.len() && w.iter().all(|w| w.is_finite() && *w > 0.0));
        if !finite || !weighty || columns.iter().any(|c| c.len() != y.len()) {
            return Err(Unfit::Values);
        }
        let roots: Vec<f64> = (0..y.len()).map(|i| weights.map_or(1.0, |w| libm::sqrt(w[i]))).collect();
        let weighted = |values: &[f64]| -> Vec<f64> { values.iter().zip(&roots).map(|(v, r)| v * r).collect() };
        let mut scales = Vec::new();
        let mut scaled = Vec::new();
        for column in columns {
            let mut column = weighted(column);
            let length = norm(&column);
            if length > 0.0 {
                column.iter_mut().for_each(|v| *v /= length);
            }
            scales.push(length);
            scaled.push(column);
        }
        let weight: f64 = roots.iter().map(|r| r * r).sum();
        let mean = y.iter().zip(&roots).map(|(y, r)| y * r * r).sum::<f64>() / weight;
        // Of equal values the mean may be off by a rounding error, and the squares around it no longer nothing.
        let constant = y.windows(2).all(|pair| pair[0] == pair[1]);
        let squares = || y.iter().zip(&roots).map(|(y, r)| (y - mean) * (y - mean) * r * r).sum();
        let total = if constant { 0.0 } else { squares() };
        Ok(Problem { columns: scaled, scales, y: weighted(y), total })
    }

    fn residuals(&self, x: &[f64]) -> Vec<f64> {
        let mut left = self.y.clone();
        for (column, x) in self.columns.iter().zip(x).filter(|(_, x)| **x != 0.0) {
            left.iter_mut().zip(column).for_each(|(r, a)| *r -= a * x);
        }
        left
    }

    /// Least squares over `chosen`; the place of the first column that depends on those before it where there is none.
    fn solve(&self, chosen: &[usize]) -> Result<Solved, usize> {
        let k = chosen.len();
        let mut a: Vec<Vec<f64>> = chosen.iter().map(|&j| self.columns[j].clone()).collect();
        let mut y = self.y.clone();
        let mut diagonal = vec![0.0; k];
        for p in 0..k {
            let length = norm(&a[p][p..]);
            if length < NOTHING {
                return Err(p);
            }
            // The mirror that turns the rest of this column into one number.
            let alpha = if a[p][p] > 0.0 { -length } else { length };
            let mut mirror = a[p][p..].to_vec();
            mirror[0] -= alpha;
            let squares: f64 = mirror.iter().map(|v| v * v).sum();
            let reflect = |column: &mut [f64]| {
                let along = 2.0 * mirror.iter().zip(column.iter()).map(|(v, c)| v * c).sum::<f64>() / squares;
                column.iter_mut().zip(&mirror).for_each(|(c, v)| *c -= along * v);
            };
            a[p + 1..].iter_mut().for_each(|column| reflect(&mut column[p..]));
            reflect(&mut y[p..]);
            diagonal[p] = alpha;
        }
        let upper = |row: usize, column: usize| if row == column { diagonal[row] } else { a[column][row] };
        let back = |right: &[f64]| -> Vec<f64> {
            let mut x = vec![0.0; k];
            for row in (0..k).rev() {
                let known: f64 = (row + 1..k).map(|c| upper(row, c) * x[c]).sum();
                x[row] = (right[row] - known) / diagonal[row];
            }
            x
        };
        let x = back(&y[..k]);
        let mut inverse = vec![0.0; k];
        for unit in 0..k {
            let right: Vec<f64> = (0..k).map(|i| if i == unit { 1.0 } else { 0.0 }).collect();
            back(&right).iter().zip(&mut inverse).for_each(|(r, sum)| *sum += r * r);
        }
        Ok(Solved { x, left: y[k..].iter().map(|v| v * v).sum(), inverse })
    }

    fn fit(&self, chosen: &[usize], solved: &Solved) -> Fit {
        let mut coefficients = vec![0.0; self.columns.len()];
        let mut standard_errors = vec![None; self.columns.len()];
        let freedom = self.y.len().saturating_sub(chosen.len());
        for (place, &j) in chosen.iter().enumerate() {
            coefficients[j] = solved.x[place] / self.scales[j];
            if freedom > 0 {
                let variance = solved.left / freedom as f64 * solved.inverse[place];
                standard_errors[j] = Some(libm::sqrt(variance) / self.scales[j]);
            }
        }
        let r2 = if self.total > 0.0 { 1.0 - solved.left / self.total } else { f64::NAN };
        Fit { coefficients, standard_errors, r2 }
    }
}

fn norm(values: &[f64]) -> f64 {
    libm::sqrt(values.iter().map(|v| v * v).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFILL: [f64; 10] = [0.0, 512.0, 0.0, 2048.0, 128.0, 0.0, 4096.0, 64.0, 0.0, 1024.0];
    const DECODES: [f64; 10] = [1.0, 4.0, 16.0, 0.0, 32.0, 64.0, 8.0, 128.0, 256.0, 2.0];
    const TIMES: [f64; 10] = [7100.0, 17350.0, 7600.0, 47100.0, 10500.0, 8800.0, 87500.0, 11900.0, 13400.0, 27600.0];

    fn columns() -> Vec<Vec<f64>> {
        vec![vec![1.0; 10], PREFILL.to_vec(), DECODES.to_vec()]
    }

    fn close(ours: &[f64], theirs: &[f64]) {
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() <= 1e-9 * b.abs().max(1e-6), "{ours:?}, not {theirs:?}");
        }
    }

    fn errors(fit: &Fit) -> Vec<f64> {
        fit.standard_errors.iter().map(|e| e.unwrap_or(f64::NAN)).collect()
    }

    #[test]
    fn figures_of_numpy() {
        // numpy 2: b = linalg.lstsq(X, y)[0]; r = y - X @ b; sqrt(diag(r @ r / 7 * inv(X.T @ X))); 1 - r @ r / SS(y).
        let fit = ordinary(&columns(), &TIMES, None).unwrap();
        close(&fit.coefficients, &[7249.391186264643, 19.542029027625127, 24.503396539899256]);
        close(&errors(&fit), &[86.4662636045196, 0.048511943265324105, 0.7865401218913468]);
        close(&[fit.r2], &[0.9999603727707367]);
        // The same with rows and values divided by y: relative errors.
        let weights: Vec<f64> = TIMES.iter().map(|y| 1.0 / (y * y)).collect();
        let fit = ordinary(&columns(), &TIMES, Some(&weights)).unwrap();
        close(&fit.coefficients, &[7171.014057285533, 19.654181144780246, 25.065142966617394]);
        close(&errors(&fit), &[56.39228974657561, 0.15837459406613486, 0.6443700692223979]);
        close(&[fit.r2], &[0.9995609631745288]);
        // Where nothing wants to be negative, both are the same.
        let same = non_negative(&columns(), &TIMES, Some(&weights)).unwrap();
        close(&same.coefficients, &fit.coefficients);
        close(&errors(&same), &errors(&fit));
    }

    #[test]
    fn what_wants_to_be_negative_is_zero() {
        // Two columns more, and times less 90 or 180 us per unit of the last. Of all subsets of columns whose
        // numpy.linalg.lstsq is not negative, the one with the least squares is the first three.
        let last = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0];
        let product: Vec<f64> = PREFILL.iter().zip(DECODES).map(|(p, d)| p * d / 1000.0).collect();
        let y = [6830.0, 17170.0, 7240.0, 46920.0, 10050.0, 7180.0, 87320.0, 10820.0, 12950.0, 27060.0];
        let mut all = columns();
        all.extend([product, last.to_vec()]);
        let fit = non_negative(&all, &y, None).unwrap();
        close(&fit.coefficients[..3], &[6681.1781954468825, 19.660820182318034, 23.40164690865688]);
        assert_eq!(fit.coefficients[3..], [0.0, 0.0]);
        assert_eq!(fit.standard_errors[3..], [None, None]);
        assert!(ordinary(&all, &y, None).unwrap().coefficients[4] < -190.0);
    }

    #[test]
    fn what_cannot_be_fitted_is_said() {
        let mut twice = columns();
        twice.push(PREFILL.iter().map(|x| 3.0 * x).collect());
        assert_eq!(ordinary(&twice, &TIMES, None), Err(Unfit::Dependent(3)));
        let held = non_negative(&twice, &TIMES, None).unwrap();
        assert!((held.coefficients[1] + 3.0 * held.coefficients[3] - 19.542).abs() < 1e-3);
        assert!(held.coefficients[1] == 0.0 || held.coefficients[3] == 0.0);
        assert_eq!(ordinary(&[vec![1.0], vec![2.0]], &[3.0], None), Err(Unfit::Rows));
        assert_eq!(ordinary(&columns(), &[f64::NAN; 10], None), Err(Unfit::Values));
        assert_eq!(ordinary(&columns(), &TIMES, Some(&[0.0; 10])), Err(Unfit::Values));
        // A column of zeros says nothing, and takes nothing from the others.
        let mut idle = columns();
        idle.push(vec![0.0; 10]);
        let fit = ordinary(&idle, &TIMES, None).unwrap();
        assert_eq!((fit.coefficients[3], fit.standard_errors[3]), (0.0, None));
        close(&fit.coefficients[..3], &ordinary(&columns(), &TIMES, None).unwrap().coefficients);
    }

    #[test]
    fn equal_values_have_no_share_that_is_explained() {
        // Values whose mean is off by a rounding error, fitted exactly and not at all; and one value alone.
        for fitted in [vec![1.0; 10], PREFILL.to_vec()] {
            for weights in [None, Some(&TIMES[..])] {
                let fit = ordinary(std::slice::from_ref(&fitted), &[0.1; 10], weights).unwrap();
                assert!(fit.r2.is_nan(), "{fitted:?} {weights:?}: {}", fit.r2);
                assert!(non_negative(std::slice::from_ref(&fitted), &[0.1; 10], weights).unwrap().r2.is_nan());
            }
        }
        assert!(ordinary(&[vec![2.0]], &[3.0], None).unwrap().r2.is_nan());
        // The smallest difference is one.
        let mut nearly = [0.1; 10];
        nearly[3] = 0.2;
        assert!(ordinary(&[vec![1.0; 10]], &nearly, None).unwrap().r2.abs() < 1e-9);
    }

    #[test]
    fn scales_far_apart_do_not_drown_each_other() {
        // An intercept beside a product of 10^12.
        let big: Vec<f64> = (0..50).map(|i| f64::from(i) * f64::from(i) * 1e9).collect();
        let y: Vec<f64> = big.iter().map(|x| 5.0 + 2e-9 * x).collect();
        let fit = non_negative(&[vec![1.0; 50], big], &y, None).unwrap();
        close(&fit.coefficients, &[5.0, 2e-9]);
    }
}
