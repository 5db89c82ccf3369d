//! Small symmetric matrices and their eigenvectors, by Jacobi's rotations: exact enough, and the same on every machine.

/// A square matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    n: usize,
    values: Vec<f64>,
}

impl Matrix {
    pub fn identity(n: usize) -> Matrix {
        let mut matrix = Matrix { n, values: vec![0.0; n * n] };
        (0..n).for_each(|i| matrix.set(i, i, 1.0));
        matrix
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.n + column]
    }

    pub fn set(&mut self, row: usize, column: usize, value: f64) {
        self.values[row * self.n + column] = value;
    }

    pub fn times(&self, x: &[f64]) -> Vec<f64> {
        self.values.chunks(self.n).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    }

    pub fn transposed_times(&self, x: &[f64]) -> Vec<f64> {
        (0..self.n).map(|j| x.iter().enumerate().map(|(i, x)| self.at(i, j) * x).sum()).collect()
    }
}

/// Rotations through all pairs; few are ever needed.
const SWEEPS: u32 = 60;

/// Eigenvalues of a symmetric matrix, and its eigenvectors in columns of the same order.
pub(super) fn eigen(matrix: &Matrix) -> (Vec<f64>, Matrix) {
    let n = matrix.n;
    let (mut a, mut axes) = (matrix.clone(), Matrix::identity(n));
    for _ in 0..SWEEPS {
        let pairs = || (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
        let off: f64 = pairs().map(|(i, j)| a.at(i, j) * a.at(i, j)).sum();
        let on: f64 = (0..n).map(|i| a.at(i, i) * a.at(i, i)).sum();
        if off <= on * 1e-32 {
            break;
        }
        for (p, q) in pairs() {
            let apq = a.at(p, q);
            if apq == 0.0 {
                continue;
            }
            // The rotation that makes this entry zero; the smaller of the two angles.
            let theta = (a.at(q, q) - a.at(p, p)) / (2.0 * apq);
            let t = if theta >= 0.0 { 1.0 } else { -1.0 } / (theta.abs() + libm::sqrt(theta * theta + 1.0));
            let c = 1.0 / libm::sqrt(t * t + 1.0);
            let s = t * c;
            for k in 0..n {
                let (kp, kq) = (a.at(k, p), a.at(k, q));
                a.set(k, p, c * kp - s * kq);
                a.set(k, q, s * kp + c * kq);
            }
            for k in 0..n {
                let (pk, qk) = (a.at(p, k), a.at(q, k));
                a.set(p, k, c * pk - s * qk);
                a.set(q, k, s * pk + c * qk);
                let (kp, kq) = (axes.at(k, p), axes.at(k, q));
                axes.set(k, p, c * kp - s * kq);
                axes.set(k, q, s * kp + c * kq);
            }
        }
    }
    ((0..n).map(|i| a.at(i, i)).collect(), axes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn vectors_and_values_make_the_matrix_again() {
        let mut rng = rng::stream(1, "eigen");
        for n in 1..9 {
            let mut m = Matrix::identity(n);
            for i in 0..n {
                for j in 0..=i {
                    let x = rng::standard_normal(&mut rng);
                    m.set(i, j, x);
                    m.set(j, i, x);
                }
            }
            let (values, axes) = eigen(&m);
            for i in 0..n {
                for j in 0..n {
                    let again: f64 = (0..n).map(|k| axes.at(i, k) * values[k] * axes.at(j, k)).sum();
                    assert!((again - m.at(i, j)).abs() < 1e-12, "{n}");
                    let dot: f64 = (0..n).map(|k| axes.at(k, i) * axes.at(k, j)).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12, "{n}");
                }
            }
        }
    }
}
