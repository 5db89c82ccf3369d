//! Functions of SQL against numpy.

use crate::project::{Project, repository};
use crate::serving::python;

/// Values with ties, and their number even and odd.
const SAMPLES: [&[f64]; 3] = [
    &[4.0, 1.5, 9.25, 1.5, 7.0, 3.125],
    &[0.1, 0.2, 0.3, 0.7, 11.0, 5.5, 5.5],
    &[1e9, 123456.789, 3.0, 2.5e-3, 17.0, 1e6, 42.0, 8.0, 99.5, 12.0, 6.25],
];
const METHODS: [&str; 13] = [
    "inverted_cdf",
    "averaged_inverted_cdf",
    "closest_observation",
    "interpolated_inverted_cdf",
    "hazen",
    "weibull",
    "linear",
    "median_unbiased",
    "normal_unbiased",
    "lower",
    "higher",
    "midpoint",
    "nearest",
];
const QUANTILES: [f64; 9] = [0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0];

/// Numbers that a Python program prints, one a line; `None` without numpy.
fn numpy(program: &str) -> Option<Vec<f64>> {
    let text = python(&["numpy"], &format!("import numpy as np\n{program}"), &[], repository())?;
    Some(text.lines().map(|l| l.parse().unwrap_or_else(|e| panic!("{l}: {e}"))).collect())
}

fn values(sample: &[f64]) -> String {
    sample.iter().map(|v| format!("(CAST({v:e} AS DOUBLE))")).collect::<Vec<_>>().join(", ")
}

/// The first row of a query, as numbers.
fn row(project: &Project, sql: &str) -> Vec<f64> {
    let csv = project.run(&["sql", sql, "--format", "csv"]).ok().out;
    csv.lines().nth(1).expect("a row").split(',').map(|v| v.parse().expect("a number")).collect()
}

#[test]
fn quantiles_are_numpys() {
    let project = Project::new();
    for sample in SAMPLES {
        let program = format!(
            "for m in {METHODS:?}:\n for q in {QUANTILES:?}:\n  print(repr(float(np.quantile({sample:?}, q, method=m))))"
        );
        let Some(expect) = numpy(&program) else { return };
        let columns: Vec<String> = METHODS
            .iter()
            .flat_map(|m| QUANTILES.map(|q| format!("quantile(column1, {q:?}, '{m}') AS \"{m} {q}\"")))
            .collect();
        let got = row(&project, &format!("SELECT {} FROM (VALUES {})", columns.join(", "), values(sample)));
        assert_eq!(got.len(), expect.len());
        for ((got, expect), column) in got.iter().zip(&expect).zip(&columns) {
            assert_eq!(got, expect, "{column} of {sample:?}");
        }
    }
}

/// numpy's last bin has its upper end; no value here is there.
#[test]
fn histograms_are_numpys() {
    let project = Project::new();
    for (sample, (lo, hi, n)) in SAMPLES.into_iter().zip([(1.0, 10.0, 4), (0.0, 6.0, 5), (-10.5, 120.25, 7)]) {
        let inside = sample.iter().filter(|v| (lo..hi).contains(*v)).count() as f64;
        let Some(expect) = numpy(&format!("print(*np.histogram({sample:?}, {n}, ({lo}, {hi}))[0], sep='\\n')")) else {
            return;
        };
        let counts = (2..=n + 1).map(|i| format!("h[{i}]")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {counts} FROM (SELECT histogram(column1, {lo:?}, {hi:?}, {n}) AS h FROM (VALUES {}))",
            values(sample)
        );
        let got = row(&project, &sql);
        assert_eq!(got, expect, "{sample:?}");
        assert_eq!(got.iter().sum::<f64>(), inside);
        // The same, a row per bucket.
        let sql = format!(
            "SELECT b, count(*) AS rows FROM (SELECT width_bucket(column1, {lo:?}, {hi:?}, {n}) AS b FROM (VALUES {})) \
             WHERE b BETWEEN 1 AND {n} GROUP BY b ORDER BY b",
            values(sample)
        );
        for found in project.rows(&sql) {
            let bucket = found["b"].as_u64().expect("a bucket") as usize;
            assert_eq!(found["rows"].as_f64(), Some(expect[bucket - 1]), "bucket {bucket} of {sample:?}");
        }
    }
}
