//! A picture of every kind of chart, and of what is hard to draw: nothing, one row, no numbers, dark paper, many plots.

use super::chart::{Chart, ChartAxis, ChartKind, Limits, Rule, Series};
use super::golden::check_picture;

/// A test per picture, so that one that changed does not hide another.
macro_rules! pictures {
    ($($name:ident: $chart:expr,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn is_as_before() {
                check_picture(stringify!($name), &$chart);
            }
        }
    )*};
}

pictures! {
    line: lines(),
    line_dark: Chart { dark: true, ..lines() },
    line_limits: Chart { y_limits: limits(None, Some(300.0)), x_limits: limits(Some(2.0), None), ..lines() },
    line_facets: by_gpu(lines()),
    line_one_row: one_row(ChartKind::Line),
    line_no_rows: frame(ChartKind::Line, "Nothing met the objective", "Rate (requests/s)", "TTFT p99 (ms)"),
    line_only_nulls: Chart { series: vec![series("a", [(1.0, f64::NAN), (f64::INFINITY, 2.0)])], ..lines() },
    line_many_series: many_series(),
    scatter: scatter(),
    scatter_labels: labelled(),
    scatter_labels_dark: Chart { dark: true, ..labelled() },
    bar: bars(),
    bar_facets_dark: Chart { dark: true, ..by_gpu(bars()) },
    bar_one_row: one_row(ChartKind::Bar),
    cdf: distribution(ChartKind::Cdf),
    cdf_facets: by_gpu(distribution(ChartKind::Cdf)),
    histogram: distribution(ChartKind::Histogram),
    histogram_facets: by_gpu(distribution(ChartKind::Histogram)),
    step: steps(),
    area: areas(),
    area_one_row: one_row(ChartKind::Area),
    area_limits_dark: Chart { dark: true, y_limits: limits(None, Some(200.0)), ..areas() },
    boxes: boxes(),
    boxes_dark: Chart { dark: true, ..boxes() },
    heat: heat(),
    heat_dark: Chart { dark: true, ..heat() },
    heat_facets: by_gpu(heat()),
    parallel: parallel(true),
    parallel_dark: Chart { dark: true, ..parallel(true) },
    parallel_series: parallel(false),
    parallel_facets: Chart { height: 400, ..by_gpu(parallel(true)) },
    parallel_constant: parallel_of(&[[4.0, 7.0, 0.0], [8.0, 7.0, 1.0]]),
    parallel_gaps: parallel_of(&[[4.0, f64::NAN, 0.0], [8.0, 7.0, f64::NAN], [f64::NAN, 3.0, f64::NAN], [6.0, 2.0, 1.0]]),
    parallel_no_rows: parallel_of(&[]),
    span: spans(),
    span_dark: Chart { dark: true, ..spans() },
    span_limits: Chart { x_limits: limits(Some(100.0), Some(420.0)), ..spans() },
    span_facets: by_gpu(spans()),
    span_one_row: Chart { rows: vec!["r1".into()], series: vec![Series { ends: vec![5.0], ..series("prefill", [(2.0, 0.0)]) }], ..spans() },
    facets_many: Chart { width: 640, height: 420, ..many_facets() },
}

fn frame(kind: ChartKind, title: &str, x: &str, y: &str) -> Chart {
    Chart {
        kind,
        title: title.into(),
        x_label: x.into(),
        y_label: y.into(),
        width: 480,
        height: 300,
        ..Chart::default()
    }
}

fn series(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Series {
    Series { name: name.into(), points: points.into_iter().collect(), ..Series::default() }
}

fn limits(low: Option<f64>, high: Option<f64>) -> Limits {
    Limits { low, high }
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

/// The chart cut into three: every third point is in the same facet.
fn by_gpu(chart: Chart) -> Chart {
    let cut = |s: &Series| {
        let count = s.points.len().max(s.tuples.len());
        Series { facets: (0..count).map(|i| i % 3).collect(), ..s.clone() }
    };
    Chart {
        facets: texts(&["a100-sxm", "h100-sxm", "h200"]),
        facet_label: "GPU".into(),
        series: chart.series.iter().map(cut).collect(),
        ..chart
    }
}

/// Numbers that look random, the same in every run.
fn noise(seed: u64, count: usize) -> impl Iterator<Item = f64> {
    let mut state = seed;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    })
}

fn lines() -> Chart {
    let rates = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0];
    let curve = |limit: f64| move |r: f64| (r, 40.0 + 900.0 / (1.05 - r / limit).max(0.08) / limit);
    let one = |(limit, name)| series(name, rates.map(curve(limit)));
    Chart {
        legend: "TP".into(),
        series: [(16.0, "1"), (20.0, "2"), (30.0, "4"), (60.0, "8")].map(one).into(),
        rules: vec![Rule { value: 250.0, label: "objective".into(), upright: false }],
        caption: "curve: of metrics 3f2a9c71".into(),
        ..frame(ChartKind::Line, "Time to first token by load", "Rate (requests/s)", "TTFT p99 (ms)")
    }
}

fn one_row(kind: ChartKind) -> Chart {
    Chart { series: vec![series("", [(8.0, 123.4)])], ..frame(kind, "One row", "Replicas", "Goodput (requests/s)") }
}

fn many_series() -> Chart {
    let one = |i: i32| series(&format!("configuration {i}"), [0, 7].map(|x| (f64::from(x), f64::from(x * i))));
    Chart { series: (1..=18).map(one).collect(), ..frame(ChartKind::Line, "Many series", "Step", "Tokens") }
}

fn scatter() -> Chart {
    let cloud = |seed, low: f64| {
        let points = noise(seed, 120).zip(noise(seed + 1, 120));
        points.map(move |(a, b)| (libm::pow(10.0, low + 2.0 * a), libm::pow(10.0, 1.0 + a + b)))
    };
    Chart {
        x_log: true,
        y_log: true,
        series: vec![series("chat", cloud(1, 1.0).chain([(0.0, 5.0)])), series("documents", cloud(7, 3.0))],
        ..frame(ChartKind::Scatter, "Prompts and times to first token", "Input tokens", "TTFT (ms)")
    }
}

fn labelled() -> Chart {
    let names =
        ["tp1", "tp2", "tp4", "tp8", "tp2 x 2", "tp2 x 3", "tp4 x 2, chunks of 2048", "tp8 x 2", "tp1 x 9", "knee"];
    let points = [
        (1.0, 900.0),
        (2.0, 520.0),
        (4.0, 330.0),
        (8.0, 260.0),
        (4.1, 345.0),
        (6.0, 300.0),
        (8.2, 255.0),
        (16.0, 180.0),
        (16.2, 186.0),
        (16.1, 183.0),
    ];
    Chart {
        series: vec![Series { labels: texts(&names), ..series("", points) }],
        ..frame(ChartKind::Scatter, "Cost and latency", "GPUs", "TTFT p99 (ms)")
    }
}

fn bars() -> Chart {
    let names = ["round_robin", "least_outstanding", "prefix_affinity"];
    let of = |name: &str, scale: f64| series(name, (0..3).map(|i| (f64::from(i), scale * (1.0 + f64::from(i) * 0.6))));
    Chart {
        categories: Some(texts(&names)),
        legend: "Scheduler".into(),
        series: vec![of("vllm_v1", 4100.0), of("sglang", 5200.0), of("static", 1900.0)],
        ..frame(ChartKind::Bar, "Goodput by router", "Router", "Output (tokens/s)")
    }
}

fn distribution(kind: ChartKind) -> Chart {
    let of = |name: &str, seed, scale: f64| {
        series(name, noise(seed, 300).map(move |u| (-scale * libm::log(1.0 - u) + 8.0, 0.0)))
    };
    let y = if kind == ChartKind::Cdf { "Fraction of rows" } else { "Rows" };
    Chart {
        bins: 20,
        legend: "Scheduler".into(),
        series: vec![of("vllm_v1", 3, 90.0), of("sglang", 4, 60.0)],
        ..frame(kind, "Time to first token", "TTFT (ms)", y)
    }
}

fn steps() -> Chart {
    let replicas = [(0.0, 2.0), (60.0, 3.0), (90.0, 5.0), (180.0, 4.0), (240.0, 2.0), (300.0, 2.0)];
    Chart {
        series: vec![series("replicas", replicas), series("needed", replicas.map(|(x, y)| (x + 12.0, y * 0.9)))],
        rules: vec![Rule { value: 150.0, label: "deploy".into(), upright: true }],
        ..frame(ChartKind::Step, "Replicas over time", "Time (s)", "Replicas")
    }
}

fn areas() -> Chart {
    let part = |name: &str, height: f64| {
        series(name, (0..40).map(|x| (f64::from(x), height * (1.2 + libm::sin(f64::from(x) / 6.0 + height)))))
    };
    Chart {
        legend: "Part".into(),
        series: vec![part("queue", 40.0), part("prefill", 70.0), part("transfer", 12.0)],
        ..frame(ChartKind::Area, "Time to first token", "Time (s)", "Mean (ms)")
    }
}

fn boxes() -> Chart {
    let of = |name: &str, seed, scale: f64| {
        let place = move |(i, u): (usize, f64)| ((i % 3) as f64, scale * ((i % 3) as f64 + 1.0) * u * u + 30.0);
        series(name, noise(seed, 240).enumerate().map(place))
    };
    Chart {
        categories: Some(texts(&["round_robin", "least_outstanding", "prefix_affinity"])),
        series: vec![of("a100-sxm", 5, 300.0), of("h100-sxm", 6, 170.0)],
        rules: vec![Rule { value: 500.0, label: "objective 500 ms".into(), upright: false }],
        ..frame(ChartKind::Box, "Time to first token by router", "Router", "TTFT (ms)")
    }
}

fn heat() -> Chart {
    let cells: Vec<(f64, f64)> = (0..7).flat_map(|x| (0..5).map(move |y| (f64::from(1 << x), f64::from(y)))).collect();
    let values = cells.iter().map(|(x, y)| 1.0 / (1.0 + libm::exp(x / 12.0 - 1.0 - y))).collect();
    Chart {
        legend: "Attainment".into(),
        rows: (1..=5).map(|n| format!("{n} replicas")).collect(),
        series: vec![Series { values, ..series("", cells) }],
        ..frame(ChartKind::Heat, "Share within the objective", "Rate (requests/s)", "")
    }
}

/// Configurations: numbers of every size, and names.
fn parallel(by_value: bool) -> Chart {
    let axes = [
        ("TP", &[][..]),
        ("Max batched tokens", &[]),
        ("Router", &["round_robin", "least_outstanding", "prefix_affinity"]),
        ("TTFT p99 (ms)", &[]),
        ("Goodput (requests/s)", &[]),
    ];
    let row = |(i, u): (usize, f64)| {
        let tp = f64::from(1 << (i % 4));
        let tokens = f64::from(512 << (i % 5));
        vec![tp, tokens, (i % 3) as f64, 20_000.0 * u * u / tp + 30.0, 9.0 * tp * (0.5 + u / 2.0)]
    };
    let rows: Vec<Vec<f64>> = noise(9, 9).enumerate().map(row).collect();
    let of = |name: &str, rows: &[Vec<f64>]| Series {
        name: name.into(),
        values: if by_value { rows.iter().map(|r| r[4]).collect() } else { Vec::new() },
        tuples: rows.to_vec(),
        ..Series::default()
    };
    Chart {
        legend: if by_value { "Goodput (requests/s)" } else { "Feasible" }.into(),
        axes: axes.map(|(label, names)| ChartAxis { label: label.into(), names: texts(names) }).into(),
        series: if by_value { vec![of("", &rows)] } else { vec![of("yes", &rows[..4]), of("no", &rows[4..])] },
        ..frame(ChartKind::Parallel, "Configurations", "", "")
    }
}

fn parallel_of(rows: &[[f64; 3]]) -> Chart {
    let axes = ["Replicas", "Chunk", "Feasible"].map(|label| ChartAxis {
        label: label.into(),
        names: if label == "Feasible" { texts(&["no", "yes"]) } else { Vec::new() },
    });
    let tuples = rows.iter().map(|r| r.to_vec()).collect();
    Chart {
        axes: axes.into(),
        series: vec![Series { tuples, ..Series::default() }],
        ..frame(ChartKind::Parallel, "Hard rows", "", "")
    }
}

/// What the time of nine requests is made of.
fn spans() -> Chart {
    let parts = ["queue", "prefill", "decode"];
    let mut all: Vec<Series> = parts.iter().map(|p| series(p, [])).collect();
    for (i, u) in noise(11, 9).enumerate() {
        let mut at = 30.0 * i as f64;
        for (part, length) in all.iter_mut().zip([60.0 * u, 40.0 + 20.0 * u, 100.0 + 200.0 * u]) {
            part.points.push((at, i as f64));
            part.ends.push(at + length);
            at += length;
        }
    }
    Chart {
        legend: "Part".into(),
        rows: (1..=9).map(|i| format!("request {i}")).collect(),
        series: all,
        ..frame(ChartKind::Span, "Where the time goes", "Time (ms)", "")
    }
}

fn many_facets() -> Chart {
    let points: Vec<(f64, f64)> = (0..17 * 3).map(|i| (f64::from(i / 17), f64::from(i % 17 * (i / 17)))).collect();
    let facets = (0..points.len()).map(|i| i % 17).collect();
    Chart {
        facets: (0..17).map(|i| format!("configuration {i}")).collect(),
        series: vec![Series { facets, ..series("", points) }],
        ..frame(ChartKind::Line, "Tokens by step", "Step", "Tokens")
    }
}
