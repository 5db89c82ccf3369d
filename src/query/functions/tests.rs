//! The functions against values worked out by hand, and in any order and partitioning of the rows.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use datafusion::datasource::MemTable;

use super::exact::ExactSum;
use super::quantile_of;
use crate::query::session::{self, SCHEMA, SessionOptions};

fn sum(values: &[f64]) -> f64 {
    let mut exact = ExactSum::default();
    values.iter().for_each(|v| exact.add(*v));
    exact.value()
}

/// Rust's own parser rounds exact decimal expansions correctly: the oracle for sums of integers over powers of two.
#[test]
fn exact_sums() {
    let cases: &[(&[f64], f64)] = &[
        (&[], 0.0),
        (&[1.5], 1.5),
        (&[0.1; 10], 1.0),
        (&[1e100, 1.0, -1e100], 1.0),
        (&[1e308, 1e308, -1e308, -1e308, 3.0], 3.0),
        (&[f64::MAX, f64::MAX], f64::INFINITY),
        (&[f64::MIN, f64::MIN], f64::NEG_INFINITY),
        (&[5e-324, 5e-324], 1e-323),
        (&[f64::MIN_POSITIVE, -5e-324], 2.225073858507201e-308),
        (&[1.0, f64::EPSILON / 2.0], 1.0),
        (&[1.0, f64::EPSILON / 2.0, 5e-324], 1.0 + f64::EPSILON),
        (&[1.0 + f64::EPSILON, f64::EPSILON / 2.0], 1.0 + 2.0 * f64::EPSILON),
        (&[-1.0, -f64::EPSILON / 2.0, -5e-324], -1.0 - f64::EPSILON),
        (&[9007199254740992.0, 1.0, 1.0], 9007199254740994.0),
        (&[f64::INFINITY, 1.0], f64::INFINITY),
    ];
    for (values, expect) in cases {
        assert_eq!(sum(values).to_bits(), expect.to_bits(), "sum of {values:?} is {}", sum(values));
    }
    assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    assert!(sum(&[f64::NAN, 1.0]).is_nan());
}

#[test]
fn exact_sums_of_integers() {
    let mut exact = ExactSum::default();
    [i64::MAX, i64::MAX, i64::MIN, -1].iter().for_each(|v| exact.add_int((*v).into()));
    assert_eq!(exact.value(), 9223372036854775805i64 as f64);
    exact.add_int(u64::MAX.into());
    exact.remove_int(u64::MAX.into());
    exact.remove_int((i64::MAX - 2).into());
    assert_eq!((exact.value(), exact.count()), (0.0, 3));
}

/// A generator whose output is fixed: splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn parts_merge_to_the_same_bits() {
    let mut state = 7;
    // Any bit pattern that is finite: all magnitudes at once.
    let values: Vec<f64> =
        std::iter::repeat_with(|| f64::from_bits(random(&mut state))).filter(|v| v.is_finite()).take(2000).collect();
    let expect = sum(&values);
    for parts in [1, 3, 7] {
        let mut whole = ExactSum::default();
        for part in 0..parts {
            let mut some = ExactSum::default();
            values.iter().skip(part).step_by(parts).for_each(|v| some.add(*v));
            whole.merge(&ExactSum::from_bytes(&some.to_bytes()).unwrap());
        }
        assert_eq!(whole.value().to_bits(), expect.to_bits(), "{parts} parts");
        values.iter().for_each(|v| whole.remove(*v));
        assert_eq!((whole.value(), whole.count()), (0.0, 0));
    }
    assert!(ExactSum::from_bytes(&[1, 2, 3]).is_none());
}

#[test]
fn quantiles_by_hand() {
    // By numpy's formula, 4 - (1 - t) with t = 0.97 for the 99th percentile, which is not quite 3.97.
    let cases: &[(&[f64], f64, Option<f64>)] = &[
        (&[], 0.5, None),
        (&[7.0], 0.99, Some(7.0)),
        (&[4.0, 1.0, 3.0, 2.0], 0.0, Some(1.0)),
        (&[4.0, 1.0, 3.0, 2.0], 0.25, Some(1.75)),
        (&[4.0, 1.0, 3.0, 2.0], 0.5, Some(2.5)),
        (&[4.0, 1.0, 3.0, 2.0], 0.9, Some(3.7)),
        (&[4.0, 1.0, 3.0, 2.0], 0.99, Some(3.9699999999999998)),
        (&[4.0, 1.0, 3.0, 2.0], 1.0, Some(4.0)),
        (&[1.0, f64::INFINITY], 0.75, Some(f64::INFINITY)),
        (&[1.0, f64::INFINITY], 0.0, Some(1.0)),
        (&[f64::INFINITY, f64::INFINITY], 0.5, Some(f64::INFINITY)),
        (&[-1e308, 1e308, 1e308], 0.25, Some(0.0)),
    ];
    for (values, q, expect) in cases {
        let got = quantile_of(&mut values.to_vec(), *q);
        assert_eq!(got, *expect, "quantile {q} of {values:?}");
    }
    assert!(quantile_of(&mut [1.0, f64::NAN], 0.5).unwrap().is_nan());
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("g", DataType::Int64, false),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
    ]))
}

type Row = (i64, Option<i64>, Option<f64>);

fn batch(rows: &[Row]) -> RecordBatch {
    RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))),
            Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.1))),
            Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.2))),
        ],
    )
    .unwrap()
}

async fn query(partitions: Vec<Vec<RecordBatch>>, threads: usize, sql: &str) -> Vec<RecordBatch> {
    let ctx = session::context(&SessionOptions { target_partitions: threads, memory_bytes: 1 << 28 }).unwrap();
    let table = MemTable::try_new(schema(), partitions).unwrap();
    session::register(&ctx, SCHEMA, "t", Arc::new(table)).unwrap();
    ctx.sql(sql).await.unwrap().collect().await.unwrap()
}

async fn one(rows: &[Row], expression: &str) -> Option<f64> {
    let batches = query(vec![vec![batch(rows)]], 2, &format!("SELECT {expression} AS v FROM t")).await;
    let column = batches[0].column(0).as_primitive::<Float64Type>().clone();
    column.is_valid(0).then(|| column.value(0))
}

#[tokio::test]
async fn functions_in_sql() {
    let rows: &[Row] = &[(1, Some(1), Some(0.1)), (1, Some(2), Some(0.2)), (2, None, None), (2, Some(5), Some(0.3))];
    let cases: &[(&str, Option<f64>)] = &[
        ("quantile(n, 0.5)", Some(2.0)),
        ("quantile(n, 1 / 4.0)", Some(1.5)),
        ("quantile(n, 0.5) FILTER (WHERE g = 1)", Some(1.5)),
        ("quantile(n, 0.5) FILTER (WHERE g = 9)", None),
        ("quantile(CAST(n AS INT), 1)", Some(5.0)),
        ("quantile(DISTINCT g, 0.5)", Some(1.5)),
        ("quantile(NULL, 0.5)", None),
        ("quantile(n, 0.4, 'lower')", Some(1.0)),
        ("quantile(n, 0.4, 'higher')", Some(2.0)),
        ("quantile(n, 0.4, 'lin' || 'ear')", Some(1.8)),
        ("sum(x)", Some(0.6)),
        ("sum(x) FILTER (WHERE g = 9)", None),
        ("avg(n)", Some(8.0 / 3.0)),
        ("avg(x)", Some(0.6 / 3.0)),
        ("mean(g)", Some(1.5)),
        ("avg(DISTINCT g)", Some(1.5)),
        ("sum(DISTINCT x)", Some(0.6)),
        ("slo_attainment(n <= 2)", Some(0.5)),
        ("slo_attainment(true) FILTER (WHERE g = 9)", None),
        ("goodput(n <= 2, g * 1000000000, n * 1000000000)", Some(0.5)),
        ("goodput(true, g, g)", Some(4e9)),
        ("goodput(true, 1, 1)", None),
        ("max(ms(n * 1000000))", Some(5.0)),
        ("max(s(n))", Some(5e-9)),
        ("tokens_per_s(sum(n), sum(g) * 1000000000)", Some(8.0 / 6.0)),
        ("tokens_per_s(sum(n), sum(g - g))", None),
        ("tokens_per_s(avg(n), 500000000)", Some(16.0 / 3.0)),
        ("max(tokens_per_s(n, 0))", None),
        ("CAST(max(width_bucket(n, 0, 6, 3)) AS DOUBLE)", Some(3.0)),
        ("CAST(max(width_bucket(x, 0.3, 0.1, 2)) AS DOUBLE)", Some(3.0)),
        // 1 and 2 are in the only bucket from 1 to 3; 5 comes after the second of two.
        ("CAST(sum(width_bucket(n, 1, 3, g)) AS DOUBLE)", Some(1.0 + 1.0 + 3.0)),
    ];
    for (expression, expect) in cases {
        assert_eq!(one(rows, expression).await, *expect, "{expression}");
    }
}

#[tokio::test]
async fn results_do_not_depend_on_partitions() {
    let mut state = 42;
    let mut rows: Vec<Row> = (0..6000)
        .map(|i| {
            let r = random(&mut state);
            let x = (r >> 11) as f64 * 1e-3 * if r & 1 == 0 { 1e9 } else { -1e-6 };
            (i % 37, (r & 15 != 0).then_some((r >> 8) as i64), (r & 31 != 0).then_some(x))
        })
        .collect();
    let sql = "SELECT g, sum(x) a, avg(x) b, avg(n) c, quantile(x, 0.99) d, quantile(n, 0.5) e, slo_attainment(x < 0) f, \
               histogram(x, -1e-3, 1e9, 5) h, histogram(n, 0, 1000, 3) i, quantile(x, 0.3, 'hazen') j \
               FROM t GROUP BY g ORDER BY g";
    let expect = query(vec![vec![batch(&rows)]], 1, sql).await;
    let all = "SELECT sum(x) a, avg(x) b, quantile(x, 0.123) c FROM t";
    let expect_all = query(vec![vec![batch(&rows)]], 1, all).await;
    for parts in [1, 3, 7] {
        for i in (1..rows.len()).rev() {
            rows.swap(i, (random(&mut state) % (i as u64 + 1)) as usize);
        }
        let split: Vec<Vec<RecordBatch>> =
            rows.chunks(rows.len() / parts + 1).map(|part| part.chunks(100).map(batch).collect()).collect();
        for threads in [1, parts] {
            // Equality of Float64 arrays is that of their bits, but for NaN, of which there is none here.
            assert_eq!(query(split.clone(), threads, sql).await, expect, "{parts} parts, {threads} threads");
            assert_eq!(query(split.clone(), threads, all).await, expect_all, "{parts} parts, {threads} threads");
        }
    }
}

#[tokio::test]
async fn sums_over_sliding_windows_are_exact() {
    let rows: Vec<Row> = [1e16, 1.0, -1e16, 2.0].iter().map(|x| (0, Some(*x as i64), Some(*x))).collect();
    let sql = "SELECT sum(x) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) v FROM t ORDER BY n";
    let batches = query(vec![vec![batch(&rows)]], 1, sql).await;
    let values: Vec<f64> =
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Float64Type>().values().to_vec()).collect();
    assert_eq!(values, [-1e16, -9999999999999999.0, 3.0, 1e16 + 2.0]);
}

/// One list of counts as text per row of a result.
async fn counts(rows: &[Row], sql: &str) -> Vec<String> {
    let batches = query(vec![vec![batch(rows)], vec![]], 2, sql).await;
    let last = batches[0].num_columns() - 1;
    let list = |b: &RecordBatch| {
        let lists = b.column(last).as_list::<i32>().clone();
        lists
            .iter()
            .map(|l| format!("{:?}", l.unwrap().as_primitive::<Int64Type>().values().to_vec()))
            .collect::<Vec<_>>()
    };
    batches.iter().flat_map(list).collect()
}

#[tokio::test]
async fn histograms() {
    let rows: Vec<Row> = (0..10).map(|i| (i % 2, (i != 4).then_some(i), Some(i as f64 / 10.0))).collect();
    let cases: &[(&str, &[&str])] = &[
        ("SELECT histogram(n, 0, 10, 2) FROM t", &["[0, 4, 5, 0]"]),
        ("SELECT histogram(n, 2, 8, 3) FROM t", &["[2, 2, 1, 2, 2]"]),
        ("SELECT histogram(n, 8, 2, 3) FROM t", &["[1, 2, 2, 1, 3]"]),
        ("SELECT histogram(x, 0, 1, 2) FROM t", &["[0, 5, 5, 0]"]),
        ("SELECT histogram(n, 0, 10, 1) FILTER (WHERE n > 100) FROM t", &["[0, 0, 0]"]),
        ("SELECT histogram(NULL, 0, 10, 1) FROM t", &["[0, 0, 0]"]),
        ("SELECT g, histogram(n, 0, 10, 2) FROM t GROUP BY g ORDER BY g", &["[0, 2, 2, 0]", "[0, 2, 3, 0]"]),
        (
            "SELECT x, histogram(n, 0, 10, 1) OVER (ORDER BY x ROWS 1 PRECEDING) FROM t ORDER BY x LIMIT 6",
            &["[0, 1, 0]", "[0, 2, 0]", "[0, 2, 0]", "[0, 2, 0]", "[0, 1, 0]", "[0, 1, 0]"],
        ),
    ];
    for (sql, expect) in cases {
        assert_eq!(counts(&rows, sql).await, *expect, "{sql}");
    }
}

#[tokio::test]
async fn wrong_arguments_are_refused() {
    let ctx = session::context(&SessionOptions { target_partitions: 1, memory_bytes: 1 << 28 }).unwrap();
    let table = MemTable::try_new(schema(), vec![vec![batch(&[(1, Some(1), Some(1.0))])]]).unwrap();
    session::register(&ctx, SCHEMA, "t", Arc::new(table)).unwrap();
    let cases = [
        ("SELECT quantile(x, n) FROM t", "must be a constant"),
        ("SELECT quantile(x, 1.5) FROM t", "from 0 to 1"),
        ("SELECT quantile(x) FROM t", "two arguments"),
        ("SELECT quantile('a', 0.5) FROM t", "two numbers"),
        ("SELECT slo_attainment(x) FROM t", "one condition"),
        ("SELECT ms('a') FROM t", "number of nanoseconds"),
        ("SELECT quantile(x, 0.5, 'linaer') FROM t", "did you mean"),
        ("SELECT quantile(x, 0.5, 7) FROM t", "a name"),
        ("SELECT quantile(x, 0.5, NULL) FROM t", "must be a constant"),
        ("SELECT tokens_per_s('a', 1) FROM t", "number of tokens"),
        ("SELECT width_bucket(x, 0, 1) FROM t", "width_bucket(x, lo, hi, n)"),
        ("SELECT width_bucket(x, 0, 1, 0) FROM t", "greater than zero"),
        ("SELECT width_bucket(x, 1, 1, 2) FROM t", "must differ"),
        ("SELECT width_bucket(x / 0 - x / 0, 0, 1, 2) FROM t", "not a number"),
        ("SELECT histogram(x, 0, n, 2) FROM t", "must be constants"),
        ("SELECT histogram(x, 0, NULL, 2) FROM t", "must be constants"),
        ("SELECT histogram(x, 0, 1, 1000000000) FROM t", "at most 100000 buckets"),
        ("SELECT histogram(x, 1, 1, 2) FROM t", "must differ"),
    ];
    for (sql, expect) in cases {
        let error = match ctx.sql(sql).await {
            Err(e) => e,
            Ok(frame) => frame.collect().await.unwrap_err(),
        };
        assert!(error.to_string().contains(expect), "{sql}: {error}");
    }
}
