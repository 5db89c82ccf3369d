//! Every kind of chart, in both formats. With `PIPE_CHARTS` set, the pictures stay in that folder.

use super::*;

fn series(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Series {
    Series { name: name.into(), points: points.into_iter().collect(), ..Series::default() }
}

fn base(kind: ChartKind, title: &str, x: &str, y: &str) -> Chart {
    Chart {
        kind,
        title: title.into(),
        x_label: x.into(),
        y_label: y.into(),
        width: 960,
        height: 600,
        ..Chart::default()
    }
}

/// Numbers that look random, the same in every run.
fn noise(count: u64) -> impl Iterator<Item = f64> {
    let mut state = 42_u64;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    })
}

fn lines() -> Chart {
    let rates = [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0];
    let curve = |limit: f64| move |r: f64| (r, 40.0 + 900.0 / (1.05 - (r / limit)).max(0.08) / limit);
    Chart {
        legend: "TP".into(),
        series: [(25.0, "1"), (30.0, "2"), (40.0, "4"), (60.0, "8")]
            .map(|(limit, name)| series(name, rates.map(curve(limit))))
            .into(),
        ..base(ChartKind::Line, "Time to first token by load", "Rate (requests/s)", "TTFT p99 (ms)")
    }
}

fn log_scatter() -> Chart {
    let points = noise(400).zip(noise(800).skip(400)).map(|(a, b)| {
        let input = libm::pow(10.0, 1.0 + 4.0 * a);
        (input, input * 0.05 * libm::pow(10.0, b - 0.5) + 5.0)
    });
    let long = noise(300).zip(noise(900).skip(500)).map(|(a, b)| (libm::pow(10.0, 3.0 + 2.0 * a), 20.0 + 4e3 * b * b));
    Chart {
        x_log: true,
        y_log: true,
        series: vec![series("chat", points.chain([(0.0, 10.0), (f64::NAN, 1.0)])), series("documents", long)],
        ..base(ChartKind::Scatter, "Prompt length against time to first token", "Input tokens", "TTFT (ms)")
    }
}

fn bars() -> Chart {
    let names = ["round_robin", "least_outstanding", "prefix_affinity", "power_of_two"];
    Chart {
        categories: Some(names.map(String::from).into()),
        legend: "GPU".into(),
        series: vec![
            series("a100-sxm", [(0.0, 3100.0), (1.0, 3900.0), (2.0, 5200.0), (3.0, 3800.0)]),
            series("h100-sxm", [(0.0, 6400.0), (1.0, 7900.0), (2.0, 11_050.0), (3.0, 7700.0)]),
            series("h200", [(0.0, 8800.0), (2.0, 14_500.0), (3.0, 10_100.0)]),
        ],
        ..base(ChartKind::Bar, "Goodput by router", "Router", "Output (tokens/s)")
    }
}

fn many_bars() -> Chart {
    let names = (0..24).map(|i| format!("configuration number {i} with a long name"));
    Chart {
        categories: Some(names.collect()),
        series: vec![series("", (0..24).map(|i| (f64::from(i), f64::from(i * i) - 90.0)))],
        ..base(ChartKind::Bar, "", "Configuration", "Change of cost (USD/hour)")
    }
}

fn cdf() -> Chart {
    let of = |name: &str, scale: f64| series(name, noise(700).map(|u| (-scale * libm::log(1.0 - u) + 8.0, 0.0)));
    Chart {
        legend: "Scheduler".into(),
        series: vec![of("vllm_v1", 90.0), of("sglang", 60.0), of("static", 200.0)],
        ..base(ChartKind::Cdf, "Time to first token", "TTFT (ms)", "Fraction of rows")
    }
}

fn many_lines() -> Chart {
    let one = |i: i32| {
        series(
            &format!("meta-llama/Llama-3.1-{i}B on h100-sxm with chunks"),
            (0..30).map(|x| (f64::from(x), f64::from(x * i))),
        )
    };
    Chart { series: (1..=23).map(one).collect(), ..base(ChartKind::Line, "Many series", "Step", "Tokens") }
}

fn one_point() -> Chart {
    Chart {
        series: vec![series("", [(8.0, 123.4)])],
        ..base(ChartKind::Line, "One point", "Replicas", "Goodput (requests/s)")
    }
}

fn rule(value: f64, label: &str, upright: bool) -> Rule {
    Rule { value, label: label.into(), upright }
}

fn steps() -> Chart {
    let replicas = [(0.0, 2.0), (60.0, 3.0), (90.0, 5.0), (180.0, 4.0), (240.0, 2.0), (300.0, 2.0)];
    Chart {
        series: vec![series("replicas", replicas), series("needed", replicas.map(|(x, y)| (x + 12.0, y * 0.9)))],
        rules: vec![rule(6.0, "most that there may be", false), rule(150.0, "deploy", true)],
        ..base(ChartKind::Step, "Replicas over time", "Time (s)", "Replicas")
    }
}

fn areas() -> Chart {
    let part = |name: &str, height: f64| {
        series(name, (0..60).map(|x| (f64::from(x), height * (1.2 + libm::sin(f64::from(x) / 9.0 + height)))))
    };
    Chart {
        legend: "Part".into(),
        series: vec![part("queue", 40.0), part("prefill", 70.0), part("transfer", 12.0)],
        caption: "ttft_parts: of sim_requests 3f2a9c71".into(),
        ..base(ChartKind::Area, "What the time to first token is made of", "Time (s)", "Mean (ms)")
    }
}

fn histogram() -> Chart {
    let of = |name: &str, scale: f64| series(name, noise(2000).map(|u| (libm::pow(10.0, 1.0 + scale * u), 0.0)));
    Chart {
        x_log: true,
        series: vec![of("prompts", 3.0), of("replies", 1.6)],
        ..base(ChartKind::Histogram, "Lengths", "Tokens", "Requests")
    }
}

fn boxes() -> Chart {
    let names = ["round_robin", "least_outstanding", "prefix_affinity"];
    let of = |name: &str, scale: f64| {
        let points = noise(600)
            .enumerate()
            .map(|(i, u)| ((i % 3) as f64, scale * (1.0 + (i % 3) as f64) * libm::pow(u, 2.0) + 30.0));
        series(name, points)
    };
    Chart {
        categories: Some(names.map(String::from).into()),
        series: vec![of("a100-sxm", 300.0), of("h100-sxm", 170.0)],
        rules: vec![rule(500.0, "objective 500 ms", false)],
        ..base(ChartKind::Box, "Time to first token by router", "Router", "TTFT (ms)")
    }
}

fn heat() -> Chart {
    let cells: Vec<(f64, f64)> = (0..8).flat_map(|x| (0..5).map(move |y| (f64::from(1 << x), f64::from(y)))).collect();
    let values = cells.iter().map(|(x, y)| 1.0 / (1.0 + libm::exp(x / 20.0 - 2.0 - y))).collect();
    Chart {
        legend: "Attainment".into(),
        rows: (1..=5).map(|n| format!("{n} replicas")).collect(),
        series: vec![Series { points: cells, values, ..Series::default() }],
        ..base(ChartKind::Heat, "Share of requests within the objective", "Rate (requests/s)", "")
    }
}

fn empty() -> Chart {
    base(ChartKind::Line, "Nothing met the objective", "Rate (requests/s)", "TTFT p99 (ms)")
}

fn cases() -> Vec<(&'static str, Chart)> {
    let small = Chart { width: 320, height: 200, ..lines() };
    let tiny = Chart { width: 100, height: 100, ..cdf() };
    let flat = Chart { series: vec![series("", [(1.0, 5.0), (2.0, 5.0)])], ..one_point() };
    let log_line = Chart { x_log: true, y_log: true, width: 1600, height: 900, ..lines() };
    vec![
        ("line", lines()),
        ("steps", steps()),
        ("areas", areas()),
        ("histogram", histogram()),
        ("boxes", boxes()),
        ("heat", heat()),
        ("dark_line", Chart { dark: true, width: 480, height: 300, ..lines() }),
        ("dark_boxes", Chart { dark: true, width: 480, height: 300, ..boxes() }),
        ("dark_heat", Chart { dark: true, width: 480, height: 300, ..heat() }),
        ("empty_heat", Chart { series: Vec::new(), rows: Vec::new(), width: 320, height: 200, ..heat() }),
        ("empty_histogram", Chart { series: Vec::new(), width: 320, height: 200, ..histogram() }),
        ("log_scatter", log_scatter()),
        ("bars", bars()),
        ("cdf", cdf()),
        ("many_bars", many_bars()),
        ("log_bars", Chart { y_log: true, categories: None, ..bars() }),
        ("log_cdf", Chart { x_log: true, ..cdf() }),
        ("many_lines", many_lines()),
        ("one_point", one_point()),
        ("empty", empty()),
        ("empty_bars", Chart { kind: ChartKind::Bar, ..empty() }),
        ("flat", flat),
        ("log_line", log_line),
        ("small", small),
        ("tiny", tiny),
    ]
}

#[test]
fn every_chart_has_the_same_bytes_each_time() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("PIPE_CHARTS").map(std::path::PathBuf::from);
    let folder = kept.as_deref().unwrap_or(temporary.path());
    for (i, (name, chart)) in cases().into_iter().enumerate() {
        let text = svg(&chart).unwrap();
        assert_eq!(text, svg(&chart).unwrap(), "{name}");
        assert!(text.starts_with(&format!("<svg width=\"{}\" height=\"{}\"", chart.width, chart.height)), "{name}");
        std::fs::write(folder.join(name).with_extension("svg"), &text).unwrap();
        // Pictures take a while to draw in a debug build: one of each kind, unless somebody wants to see them.
        if i < 4 || kept.is_some() {
            let (one, two) = (folder.join(name).with_extension("png"), temporary.path().join("again.png"));
            png(&chart, &one).unwrap();
            png(&chart, &two).unwrap();
            assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap(), "{name}");
        }
    }
}

#[test]
fn an_svg_holds_its_texts() {
    let holds = |chart: &Chart, texts: &[&str]| {
        let svg = svg(chart).unwrap();
        for text in texts {
            assert!(svg.contains(&format!(">\n{text}\n<")), "{text} in {svg}");
        }
    };
    holds(&lines(), &["Time to first token by load", "Rate (requests/s)", "TTFT p99 (ms)", "TP", "1", "8"]);
    holds(&bars(), &["prefix_affinity", "h200", "Output (tokens/s)", "10,000"]);
    holds(&cdf(), &["vllm_v1", "TTFT (ms)", "0.2", "1.0"]);
    holds(
        &log_scatter(),
        &["1,000", "10,000", "1 row without a number not drawn; 1 row with x ≤ 0 not on the log axis"],
    );
    holds(&empty(), &["no rows", "Nothing met the objective"]);
    let nasty = Chart { title: "a < b & \"c\"".into(), ..one_point() };
    holds(&nasty, &["a &lt; b &amp; &quot;c&quot;"]);
}

#[test]
fn an_svg_is_xml_whatever_its_texts_hold() {
    let nasty = Chart {
        title: "bell \u{7} end \u{ffff}".into(),
        series: vec![series("a\u{1}b", vec![(1.0, 2.0)])],
        ..one_point()
    };
    let text = svg(&nasty).unwrap();
    assert!(text.contains("a\u{fffd}b") && text.contains("bell \u{fffd} end \u{fffd}"), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{ffff}'), "{text}");
}

#[test]
fn sizes_at_the_limits_are_drawn() {
    for (width, height) in [(100, 100), (100, 8000), (8000, 100)] {
        for (name, chart) in cases().into_iter().take(4) {
            assert!(svg(&Chart { width, height, ..chart }).is_ok(), "{name} {width} x {height}");
        }
    }
}

#[test]
fn many_points_make_a_small_file() {
    let points: Vec<_> = noise(200_000).zip(noise(400_000).skip(200_000)).collect();
    for kind in [ChartKind::Line, ChartKind::Cdf] {
        let chart = Chart { series: vec![series("", points.clone())], ..base(kind, "", "x", "y") };
        let size = svg(&chart).unwrap().len();
        assert!(size < 200_000, "{kind:?}: {size}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let failure = png(&one_point(), Path::new("/nonexistent/folder/a.png")).unwrap_err();
    assert!(failure.to_string().contains("cannot draw the chart"), "{failure}");
}
