//! Calls that would take too much memory are refused, and all others give what DataFusion gives.

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::context::SessionContext;

use crate::query::session::{self, SessionOptions};

fn context() -> SessionContext {
    session::context(&SessionOptions { target_partitions: 1, memory_bytes: 1 << 28 }).unwrap()
}

async fn text(ctx: &SessionContext, sql: &str) -> Result<String, String> {
    let rows = async { ctx.sql(sql).await?.collect().await };
    let rows = rows.await.map_err(|e| e.to_string())?;
    Ok(pretty_format_batches(&rows).unwrap().to_string())
}

#[tokio::test]
async fn calls_that_would_take_too_much_are_refused() {
    let gb = 1_000_000_000u64;
    let cases = [
        ("SELECT repeat('x', 2000000000)", "repeat()", Some(2 * gb)),
        ("SELECT repeat('xyz', 9223372036854775807)", "repeat()", Some(u64::MAX)),
        // 1,000 rows of a million bytes.
        ("SELECT length(repeat('x', 1000000 + value - value)) FROM generate_series(1, 1000)", "repeat()", Some(gb)),
        // The text is written down for every row, even if none of them wants it.
        ("SELECT length(repeat(repeat('x', 10000000), value - 2000)) FROM generate_series(1, 1000)", "repeat()", None),
        ("SELECT length(repeat('x', 200000) || value) FROM generate_series(1, 8192)", "||", None),
        ("SELECT length(concat(repeat('x', 200000), value)) FROM generate_series(1, 8192)", "concat()", None),
        ("SELECT length(concat('a', repeat('x', 200000), value)) FROM generate_series(1, 8192)", "concat()", None),
        ("SELECT length(concat_ws(repeat('x', 200000), value, 1)) FROM generate_series(1, 8192)", "concat_ws()", None),
        ("SELECT length(regexp_replace(repeat('x', 20000), 'x', repeat('y', 20000), 'g'))", "regexp_replace()", None),
        ("SELECT replace(repeat('a', 1000000), 'a', repeat('b', 1001))", "replace()", Some(1_001_000_000)),
        ("SELECT lpad('x', 300000000)", "lpad()", Some(300_000_001)),
        ("SELECT rpad('x', 1000000000, 'ab')", "rpad()", None),
        ("SELECT rpad('x', 200000000, 'äö€')", "rpad()", None),
        ("SELECT array_repeat(1, 1000000000)", "array_repeat()", Some(8 * gb)),
        ("SELECT list_repeat('0123456789', 100000000)", "array_repeat()", None),
        ("SELECT array_repeat([1, 2, 3, 4], 10000000)", "array_repeat()", None),
        ("SELECT cardinality(array_repeat(value, 100000000)) FROM generate_series(1, 3)", "array_repeat()", None),
        ("SELECT array_resize([1], 1000000000)", "array_resize()", None),
        ("SELECT list_resize(['a'], 100000000, 'b')", "array_resize()", None),
        ("SELECT range(0, 10000000000)", "range()", None),
        ("SELECT range(9223372036854775807)", "range()", None),
        ("SELECT range(0, -10000000000, -7)", "range()", None),
        ("SELECT generate_series(1, 100000000)", "generate_series()", Some(800_000_000)),
        ("SELECT cardinality(range(value, 100000000)) FROM generate_series(1, 1)", "range()", None),
        (
            "SELECT cardinality(range(CAST(CAST(value AS INT) AS DATE), DATE '9999-01-01', INTERVAL '1' DAY)) \
             FROM generate_series(1, 100)",
            "range()",
            None,
        ),
        (
            "SELECT generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2021-01-01', INTERVAL '1 millisecond')",
            "generate_series()",
            None,
        ),
    ];
    let ctx = context();
    for (sql, function, bytes) in cases {
        let error = text(&ctx, sql).await.expect_err(sql);
        let begin = format!("result of {function} would take ");
        assert!(error.contains(&begin) && error.contains(" bytes; at most 256 MiB"), "{sql}: {error}");
        if let Some(bytes) = bytes {
            assert!(error.contains(&format!("{begin}{bytes} bytes")), "{sql}: {error}");
        }
    }
}

/// With the functions of a session of ours, and with those of DataFusion alone.
#[tokio::test]
async fn other_calls_are_unchanged() {
    let calls = [
        "repeat('ab', 3), repeat('x', -1), repeat(NULL, 3), repeat('a', NULL), length(repeat('x', 200000000))",
        "lpad('abc', 5), lpad('abc', 2), lpad('abc', 7, 'äö'), lpad('abc', -1), lpad('a', NULL), lpad('a', 9, '')",
        "rpad('abc', 5), rpad('abc', 2), rpad('abc', 7, 'äö'), length(rpad('', 100000, 'ö')), rpad(NULL, 3, 'x')",
        "replace('aXbX', 'X', 'yy'), replace('abc', '', '-'), replace('a', NULL, 'b')",
        "array_repeat(1, 3), array_repeat('a', 2), array_repeat([1, 2], 2), array_repeat(NULL, 2), list_repeat(1.5, 0)",
        "array_repeat(true, 2), array_repeat(1, NULL), array_repeat(named_struct('a', 1), 2)",
        "array_resize([1, 2, 3], 5, 0), array_resize([1, 2, 3], 2), list_resize(['a'], 3, 'b')",
        "range(3), range(1, 4), range(1, 10, 4), range(5, 1, -2), range(5, 1), range(1, NULL), range(3, 3)",
        "generate_series(1, 3), generate_series(3, 1, -1), generate_series(9223372036854775806, 9223372036854775807)",
        "range(DATE '2020-01-31', DATE '2020-06-01', INTERVAL '1' MONTH)",
        "generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2020-01-02', INTERVAL '6 hours')",
        "'a' || 'b', 'a' || NULL, NULL || 'b', 1 || 'x', 'x' || 2.5, 'ä' || '€' || 1",
        "column1 || '-' || column2, column2 || column1, column1 || column1 FROM (VALUES ('a', 1), (NULL, 2), ('c', NULL))",
        "arrow_typeof(column1 || 'x'), arrow_typeof([1] || [2]), [1] || 2, [column2] || column2 FROM (VALUES ('a', 1))",
        "concat('a', column1, NULL, column2, 'z', 'y'), concat_ws('-', column1, column2, 'x', 'y') FROM (VALUES ('a', 1), (NULL, 2))",
        "regexp_replace(column1, '(a)(b)', '$2$1', 'g'), regexp_replace(column1, 'a', '') FROM (VALUES ('abab'), (NULL))",
        "length(regexp_replace(repeat('ab', 1000000), 'b', 'ccc', 'g')), regexp_replace('x', 'X', 'y', 'i')",
        "repeat(column1, column2) FROM (VALUES ('a', 1), ('b', 2), (NULL, 3))",
        "array_repeat(column1, column2) FROM (VALUES ('a', 1), ('b', NULL))",
        "array_resize(column1, column2, column2) FROM (VALUES ([1], 3), (NULL, 2))",
    ];
    let (ours, plain) = (context(), SessionContext::new());
    for call in calls {
        let sql = format!("SELECT {call}");
        let expect = text(&plain, &sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert_eq!(text(&ours, &sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")), expect, "{sql}");
    }
}

#[tokio::test]
async fn errors_of_datafusion_are_kept() {
    let ctx = context();
    for (sql, expect) in [("SELECT range(1, 5, 0)", "step can't be 0"), ("SELECT array_resize([1], -1)", "size")] {
        let error = text(&ctx, sql).await.expect_err(sql);
        assert!(error.contains(expect), "{sql}: {error}");
    }
}
