//! The table of the stage, its settings, and workload files of other tools.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use pipe_kernel::request::Requests;
use pipe_kernel::workload::Made;

use super::rows::{HASHES, ROWS, batch, end_of_batch, turns};
use super::*;
use crate::spec::{Tree, from_tree};
use crate::stage::tokenize::testing;

fn synthesize(more: Value) -> Synthesize {
    let mut settings = json!({
        "requests": 70_000,
        "rate_rps": 10.0,
        "input": { "constant": { "tokens": 20 } },
        "output": { "constant": { "tokens": 5 } },
    });
    let Value::Object(more) = more else { panic!("settings are a map") };
    settings.as_object_mut().unwrap().extend(more);
    from_tree(&Tree::from_json(settings)).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// What the stage draws, of settings that name no tables.
fn made(spec: &Synthesize, seed: u64) -> Made {
    let workload = match peers::workload(spec) {
        Some(read) => {
            let read = read.unwrap_or_else(|problems| panic!("{problems:?}"));
            assert!(read.refused.is_empty(), "{:?}", read.refused);
            Workload::Many(read.clients)
        }
        None => settings::own(&spec.value, &spec.tree).unwrap_or_else(|problems| panic!("{problems:?}")),
    };
    assert!(settings::problems(&workload, spec).is_empty(), "{:?}", settings::problems(&workload, spec));
    match workload {
        Workload::One(one) => generate_all(&one, seed),
        Workload::Many(many) => generate_clients(&many, seed),
    }
}

/// The rows of the stage's table, which are those of all requests in one batch.
async fn run(spec: &Synthesize) -> (RecordBatch, Requests) {
    let dir = tempfile::tempdir().unwrap();
    let cx = testing::cx(dir.path(), 2);
    spec.run(cx.clone()).await.unwrap();
    let rows = testing::read(&cx, "t");
    let made = made(spec, cx.seed);
    let n = made.requests.len();
    assert_eq!(rows, batch(&made, &turns(&made.requests), 0..n).unwrap());
    assert_eq!(rows.num_rows(), n);
    (rows, made.requests)
}

#[tokio::test]
async fn the_table_holds_what_the_kernel_draws() {
    let spec = synthesize(json!({ "shared_prefix": { "groups": 2, "tokens": 32 } }));
    let (rows, _) = run(&spec).await;
    for name in ["session_id", "turn", "class", "think_ns", "depends_on", "model", "adapter", "encoder_tokens"] {
        assert_eq!(rows.column_by_name(name).unwrap().null_count(), 70_000, "{name}");
    }
}

#[tokio::test]
async fn sessions_and_steps_fill_their_columns() {
    let think = json!({ "constant": { "s": 3 } });
    let spec = synthesize(json!({
        "requests": 1000,
        "sessions": { "turns": { "constant": { "tokens": 3 } }, "think_time": think },
        "models": { "m": 1 },
        "adapters": { "count": 1 },
        "images": { "share": 1, "tokens": { "constant": { "tokens": 9 } } },
    }));
    let (rows, made) = run(&spec).await;
    let text = |rows: &RecordBatch, name: &str, i: usize| {
        rows.column_by_name(name).unwrap().as_string::<i32>().value(i).to_string()
    };
    let turn = rows.column_by_name("turn").unwrap().as_primitive::<Int32Type>().values().to_vec();
    let thinks = rows.column_by_name("think_ns").unwrap().as_primitive::<Int64Type>();
    for (i, (turn, think)) in turn.into_iter().zip(thinks).enumerate() {
        assert_eq!(text(&rows, "session_id", i), format!("s{}", made.session[i].unwrap()));
        assert_eq!(turn as u32, (made.input_tokens[i] - 29) / 34);
        assert_eq!(think, (turn > 0).then_some(3_000_000_000));
    }
    assert_eq!((text(&rows, "model", 7), text(&rows, "adapter", 7)), ("m".to_string(), "adapter-0".to_string()));
    assert_eq!(rows.column_by_name("encoder_tokens").unwrap().as_primitive::<Int32Type>().value(7), 9);

    let steps = json!({ "a": {}, "b": { "after": ["a"] }, "c": { "after": ["a", "b"], "tool_time": think } });
    let (rows, made) = run(&synthesize(json!({ "requests": 600, "chains": { "steps": steps } }))).await;
    let depends_on = rows.column_by_name("depends_on").unwrap().as_list::<i32>();
    for i in 0..600 {
        let class = text(&rows, "class", i);
        assert_eq!(depends_on.is_null(i), class == "a");
        let before = depends_on.value(i).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(before.len(), ["a", "b", "c"].iter().position(|c| *c == class).unwrap());
        assert!(before.iter().all(|b| made.session[*b as usize] == made.session[i] && *b < i as i64));
    }
}

#[test]
fn batches_end_where_their_hashes_are_many() {
    let made = |hashes: &[u64]| Requests {
        arrival: vec![pipe_kernel::units::SimTime::ZERO; hashes.len() - 1],
        block_hash_offsets: hashes.to_vec(),
        ..Requests::default()
    };
    let few = made(&[0, 1, 2, 3]);
    assert_eq!(end_of_batch(&few, 0), 3);
    let many = made(&[0, HASHES, HASHES + 1, 3 * HASHES, 3 * HASHES]);
    assert_eq!([0, 1, 2, 3].map(|start| end_of_batch(&many, start)), [1, 2, 3, 4]);
    let rows = made(&vec![0; ROWS + 9]);
    assert_eq!((end_of_batch(&rows, 0), end_of_batch(&rows, ROWS)), (ROWS, ROWS + 8));
}

/// Settings as a user writes them, with places.
fn yaml(text: &str) -> std::result::Result<Synthesize, Vec<Diagnostic>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    std::fs::write(&path, text).unwrap();
    crate::spec::read_file(&FilePath { written: "s.yaml".to_string(), path, at: None })
}

/// What a check finds: line, column and message.
fn found(text: &str) -> Vec<String> {
    let spec = match yaml(text) {
        Ok(spec) => spec,
        Err(problems) => return shown(&problems),
    };
    let tables = std::collections::BTreeMap::from([(
        "trace".to_string(),
        TableShape { name: "trace".to_string(), schema: Some(requests::schema()) },
    )]);
    let cx = CheckCx { stages: &[], tables: &tables, seed: 1, project: std::path::Path::new(".") };
    shown(&spec.check("s", &cx))
}

fn shown(problems: &[Diagnostic]) -> Vec<String> {
    let one = |d: &Diagnostic| {
        let at = d.at.as_ref().map_or("?".to_string(), |at| format!("{}:{}", at.line, at.column));
        format!("{at} {}", d.message)
    };
    problems.iter().map(one).collect()
}

fn expect(text: &str, problems: &[&str]) {
    assert_eq!(found(text), problems, "{text}");
}

const BASE: &str =
    "requests: 10\nrate_rps: 2\ninput: { constant: { tokens: 9 } }\noutput: { constant: { tokens: 9 } }\n";

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    expect(BASE, &[]);
    expect(
        &format!("{BASE}correlation: {{ gaussian: {{ rho: 2 }} }}\n"),
        &["5:33 `correlation.gaussian.rho` must be from -1 to 1, not 2"],
    );
    expect(
        "rate_rps: 1\narrivals:\n  weibull: { cv: 99 }\ninput: { zipf: { min: 0, max: 5, theta: 1 } }\n",
        &["1:1 `output` is missing: the lengths of the replies"],
    );
    expect(
        "rate_rps: 1\narrivals:\n  weibull: { cv: 99 }\ninput: { zipf: { min: 0, max: 5, theta: 1 } }\noutput: { constant: { tokens: 1 } }\n",
        &[
            "1:1 `requests` is missing: how many requests, or for how long (`duration_s`)",
            "3:18 `arrivals.weibull.cv` must be from 0.0107 to 15, not 99",
            "4:23 `input.zipf.min` must be from 1 to 16777216 tokens, not 0",
        ],
    );
    expect(
        &format!("{BASE}fit: {{ scale: 2 }}\n"),
        &["5:1 `fit` has no meaning without `from`: the table of requests that is to be imitated"],
    );
    expect(
        &format!("{BASE}preset: chatbot\n"),
        &[
            "3:1 `input` cannot be there together with `preset`, which says it all",
            "4:1 `output` cannot be there together with `preset`, which says it all",
        ],
    );
    expect(
        &format!("{BASE}joint: {{ from: trace, input: prompt_tokens }}\n"),
        &["5:30 table `trace` has no column `prompt_tokens`"],
    );
    expect("requests: 5\nrate_rps: 1\npreset: chat\n", &["3:9 unknown preset `chat`"]);
}

#[test]
fn clients_say_what_is_wrong_where_it_stands() {
    let clients = "clients:\n  a: { share: 0 }\n  b: { rate_rps: 1, share: 2 }\n  c: { timeout_s: -1, sessions: { turns: { constant: { tokens: 0 } }, think_time: { constant: { s: 1 } } } }\n";
    expect(
        &format!("{BASE}{clients}"),
        &[
            "6:15 `clients.a.share` must be a number above 0, not 0",
            "7:28 `clients.b.share` has no meaning for a client that has a rate of its own",
        ],
    );
    let clients = "clients:\n  a: { share: 1 }\n  c: { timeout_s: -1, sessions: { turns: { constant: { tokens: 0 } }, think_time: { constant: { s: 1 } } } }\n";
    expect(
        &format!("{BASE}{clients}"),
        &[
            "7:19 `clients.c.timeout_s` must be a number above 0, not -1",
            "7:64 `clients.c.sessions.turns.constant.tokens` must be from 1 to 16777216 tokens, not 0",
        ],
    );
    let bad = BASE.replace("9 } }\noutput", "0 } }\noutput");
    expect(
        &format!("{bad}clients:\n  a: {{ share: 1 }}\n  b: {{ share: 1 }}\nmodels: {{ m: 1 }}\n"),
        &["8:9 `models` cannot be there together with `clients`"],
    );
    expect(
        &format!("{bad}clients:\n  a: {{ share: 1 }}\n  b: {{ share: 1 }}\n"),
        &["3:30 `clients.a.input.constant.tokens` must be from 1 to 16777216 tokens, not 0"],
    );
    expect(
        "requests: 5\nclients: { a: { input: { constant: { tokens: 1 } } } }\n",
        &[
            "2:15 `clients.a.output` is missing: neither the client nor the stage has it",
            "2:15 `clients.a.rate_rps` is missing: neither the client nor the stage has it",
        ],
    );
}

#[tokio::test]
async fn clients_fill_their_columns() {
    let spec = synthesize(json!({
        "requests": 4000,
        "clients": {
            "a": { "share": 3, "tenant": "acme", "class": "gold", "model": "m", "adapter": "lora", "priority": -1,
                   "deadline_ms": 500, "timeout_s": 2, "system_prompt": { "tokens": 32 } },
            "b": { "share": 1, "input": { "constant": { "tokens": 7 } },
                   "images": { "count": { "constant": { "tokens": 2 } }, "tokens": { "constant": { "tokens": 5 } } },
                   "reasoning": { "share": { "constant": { "value": 0.6 } } } },
        },
    }));
    let (rows, _) = run(&spec).await;
    let text = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
    let int = |name: &str, i: usize| {
        let column =
            arrow::compute::cast(rows.column_by_name(name).unwrap(), &arrow::datatypes::DataType::Int64).unwrap();
        let column = column.as_primitive::<Int64Type>();
        column.is_valid(i).then(|| column.value(i))
    };
    let client = text("client");
    let n = (0..4000).filter(|i| client.value(*i) == "a").count();
    assert!(n.abs_diff(3000) < 130, "{n}");
    for i in 0..4000 {
        let a = client.value(i) == "a";
        for (name, value) in [("tenant", "acme"), ("class", "gold"), ("model", "m"), ("adapter", "lora")] {
            let column = text(name);
            assert_eq!(column.is_valid(i).then(|| column.value(i)), a.then_some(value), "{name}");
        }
        assert_eq!((int("priority", i), int("deadline_ns", i)), (a.then_some(-1), a.then_some(500_000_000)));
        assert_eq!((int("timeout_ns", i), int("reasoning_tokens", i)), (a.then_some(2_000_000_000), (!a).then_some(3)));
        assert_eq!((int("images", i), int("encoder_tokens", i)), ((!a).then_some(2), (!a).then_some(10)));
        assert_eq!(int("input_tokens", i), Some(if a { 52 } else { 17 }));
    }
}

#[tokio::test]
async fn lengths_pairs_and_rates_come_from_tables() {
    let dir = tempfile::tempdir().unwrap();
    let mut cx = testing::cx(dir.path(), 2);
    let source = synthesize(
        json!({ "requests": 5000, "input": { "uniform": { "min": 1, "max": 50 } }, "correlation": "comonotone",
        "output": { "uniform": { "min": 101, "max": 150 } } }),
    );
    source.run(cx.clone()).await.unwrap();
    let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(vec![
        crate::table::column("at_s", arrow::datatypes::DataType::Int64, false, "s", "Time"),
        crate::table::column("rate_rps", arrow::datatypes::DataType::Float64, false, "1/s", "Rate"),
    ]));
    let columns: Vec<arrow::array::ArrayRef> = vec![
        std::sync::Arc::new(arrow::array::Int64Array::from(vec![0, 100, 200])),
        std::sync::Arc::new(arrow::array::Float64Array::from(vec![0.0, 20.0, 20.0])),
    ];
    let mut writer = cx.out.table("rates", schema.clone()).unwrap();
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    writer.finish().unwrap();
    for name in ["t", "rates"] {
        cx.inputs.insert(name.to_string(), cx.out.handle(name).unwrap());
    }
    let spec: Synthesize = from_tree(&Tree::from_json(json!({
        "requests": 3000,
        "rate_schedule": { "from": "rates", "interpolate": "linear", "after": "hold" },
        "joint": { "from": "t" },
        "images": { "tokens": { "empirical": { "from": "t", "column": "input_tokens" } } },
    })))
    .unwrap();
    let mut names: Vec<String> = spec.inputs().unwrap().into_iter().map(|n| n.value).collect();
    names.sort();
    assert_eq!(names, ["rates", "t", "t"]);
    cx.stage = "drawn".to_string();
    spec.run(cx.clone()).await.unwrap();
    let rows = testing::read(&cx, "drawn");
    let column = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Int32Type>().values().to_vec();
    let (input, output, images) = (column("input_tokens"), column("output_tokens"), column("encoder_tokens"));
    assert!((0..3000).all(|i| output[i] - 100 == input[i] - images[i] && (1..=50).contains(&images[i])));
    // A thousand requests while the rate climbs, and twenty per second from then on.
    let arrival = rows.column_by_name("arrival_ns").unwrap().as_primitive::<Int64Type>().values().to_vec();
    let climbed = arrival.iter().filter(|t| **t < 100_000_000_000).count();
    assert!(climbed.abs_diff(1000) < 130, "{climbed}");
    // What a table does not have is said.
    cx.inputs.remove("rates");
    let failure = spec.run(cx.clone()).await.unwrap_err();
    assert_eq!(failure.diagnostics[0].message, "table `rates` was not made");
}

#[tokio::test]
async fn a_trace_is_imitated() {
    let dir = tempfile::tempdir().unwrap();
    let mut cx = testing::cx(dir.path(), 2);
    let source = synthesize(json!({
        "requests": 20_000,
        "clients": {
            "a": { "share": 3, "tenant": "acme", "arrivals": { "gamma": { "cv": 2 } } },
            "b": { "share": 1, "input": { "constant": { "tokens": 70 } } },
        },
    }));
    source.run(cx.clone()).await.unwrap();
    cx.inputs.insert("t".to_string(), cx.out.handle("t").unwrap());
    let spec: Synthesize =
        from_tree(&Tree::from_json(json!({ "from": "t", "rate_rps": 30, "duration_s": 2000 }))).unwrap();
    cx.stage = "like".to_string();
    spec.run(cx.clone()).await.unwrap();
    let (rows, fit) = (testing::read(&cx, "like"), testing::read(&cx, "like_fit"));
    assert!((rows.num_rows() as f64 / 60_000.0 - 1.0).abs() < 0.04, "{}", rows.num_rows());
    let (client, input) =
        (rows.column_by_name("client").unwrap().as_string::<i32>(), rows.column_by_name("input_tokens").unwrap());
    let of_b = (0..rows.num_rows()).filter(|i| client.value(*i) == "b").count() as f64 / rows.num_rows() as f64;
    assert!((of_b - 0.25).abs() < 0.02, "{of_b}");
    assert!(
        (0..rows.num_rows())
            .all(|i| input.as_primitive::<Int32Type>().value(i) == if client.value(i) == "b" { 70 } else { 20 })
    );
    let (figure, value) =
        (fit.column_by_name("figure").unwrap().as_string::<i32>(), fit.column_by_name("value").unwrap());
    let of = fit.column_by_name("client").unwrap().as_string::<i32>();
    let cv = (0..fit.num_rows()).find(|i| figure.value(*i) == "gaps_cv" && of.value(*i) == "a").unwrap();
    let cv = value.as_primitive::<Float64Type>().value(cv);
    assert!((cv - 2.0).abs() < 0.1, "{cv}");
}

/// The mean of a column of what is drawn.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

fn drawn(settings: Value) -> Made {
    made(&from_tree(&Tree::from_json(settings)).unwrap_or_else(|problems| panic!("{problems:?}")), 5)
}

#[test]
fn presets_have_their_means() {
    for (preset, input, output) in [
        ("chatbot", 256.0, 256.0),
        ("contentgen", 1024.0, 1024.0),
        ("summarization", 4096.0, 512.0),
        ("multidoc", 10_240.0, 1536.0),
    ] {
        let made = drawn(json!({ "preset": preset, "requests": 20_000, "rate_rps": 10 })).requests;
        let of = |tokens: &[u32]| mean(tokens.iter().map(|t| f64::from(*t)));
        // The limits are far out, but for chatbot, whose shortest is two and a half deviations below.
        let (got_in, got_out) = (of(&made.input_tokens), of(&made.output_tokens));
        assert!((got_in / input - 1.0).abs() < 0.02 && (got_out / output - 1.0).abs() < 0.02, "{got_in} {got_out}");
        assert_eq!(made.arrival[19_999].0, 2_000_000_000_000);
    }
}

fn sample(name: &str) -> Value {
    let path = crate::repository().join("data/samples/workloads").join(name);
    json!({ "path": path.to_str().unwrap() })
}

#[test]
fn guidellm_files_are_read() {
    let made = drawn(json!({ "spec": sample("guidellm.yaml") }));
    let r = &made.requests;
    assert_eq!(r.len(), 1200);
    assert!((r.arrival[1199].0 as f64 / 200e9 - 1.0).abs() < 0.1, "{}", r.arrival[1199].0);
    assert!((mean(r.input_tokens.iter().map(|t| f64::from(*t))) - 1020.0).abs() < 25.0);
    assert!((mean(r.output_tokens.iter().map(|t| f64::from(*t))) - 180.0).abs() < 7.0);
    let firsts: std::collections::BTreeSet<u64> = (0..1200).map(|i| r.hashes(i)[0]).collect();
    assert_eq!(firsts.len(), 4);
    let base =
        json!({ "rate": { "rate": 4, "max-requests": 600 }, "data": { "prompt_tokens": 100, "output_tokens": 10 } });
    let with = |path: &str, value: Value| {
        let mut spec = base.clone();
        *spec
            .pointer_mut(path.rsplit_once('/').unwrap().0)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .entry(path.rsplit_once('/').unwrap().1)
            .or_insert(Value::Null) = value;
        drawn(json!({ "spec": { "inline": spec } })).requests
    };
    let plain = with("/rate/arrival_type", json!("Constant"));
    assert_eq!((plain.arrival[599].0, plain.input_tokens[7], plain.output_tokens[7]), (150_000_000_000, 100, 10));
    // Without a deviation lengths are uniform within their limits.
    let even = with("/data/prompt_tokens_max", json!(120));
    assert!(even.input_tokens.iter().all(|t| (100..=120).contains(t)) && even.input_tokens.contains(&120));
    let talks = with("/data/turns", json!(3));
    assert!(talks.input_tokens.contains(&320) && talks.session.iter().all(Option::is_some));
    let users = with("/rate/arrival_type", json!("concurrent"));
    assert_eq!(users.session.iter().flatten().max(), Some(&3));
    let buckets =
        with("/data/prefix_buckets", json!([{ "bucket_weight": 3, "prefix_tokens": 64 }, { "bucket_weight": 1 }]));
    let long = buckets.input_tokens.iter().filter(|t| **t == 164).count();
    assert!(long.abs_diff(450) < 50, "{long}");
}

/// A file of another tool, inline, under `spec`.
fn refused(spec: &str, problems: &[&str]) {
    let indented: String = spec.lines().map(|line| format!("    {line}\n")).collect();
    let all = found(&format!("spec:\n  inline:\n{indented}"));
    assert_eq!(all, problems, "{spec}");
}

#[test]
fn malformed_guidellm_files_are_refused_with_their_places() {
    refused(
        "rate: { rate: 0 }\ndata: { prompt_tokens: 5, output_tokens: 5, tool_call_turns: 2, output_tokens_stdev: -1 }",
        &[
            "4:90 `data.output_tokens_stdev` must be above 0, not -1",
            "4:66 `data.tool_call_turns` is refused: calls of tools are no part of this workload; `chains` has steps with tool times",
            "3:19 `rate.rate` must be a number above 0, not 0",
        ],
    );
    refused(
        "format: LLMPerf\nrate: { rate: 1, arrival_type: Bursty, max-requests: 5 }\ndata: { prompt_tokens: 9, output_tokens: 5, prompt_tokens_min: 20 }",
        &[
            "3:13 `format` is `LLMPerf`: only `GuideLLM` is known",
            "5:11 `data.prompt_tokens_max` is 9, below the shortest, which is 20",
            "4:36 `rate.arrival_type` is `bursty`: known are constant, poisson and concurrent",
        ],
    );
    refused(
        "rate: { rate: 1 }\ndata: { prompt_tokens: 5, output_tokens: 5, promt_tokens: 7 }",
        &["4:49 unknown key `promt_tokens`"],
    );
    refused(
        "rate: { rate: 1 }\ndata: { prompt_tokens: 5, output_tokens: 5 }",
        &["1:1 `requests` is missing: how many requests, or for how long (`duration_s`)"],
    );
    expect(
        "spec: { path: nowhere.yaml, inline: {} }\n",
        &["1:7 `spec` needs one of `path` (a file) and `inline` (what such a file says)"],
    );
    refused("rates: 1", &["3:5 this is no workload that is known by its keys: `rates`"]);
}

#[test]
fn blis_files_are_read() {
    let made = drawn(json!({ "spec": sample("blis.yaml") }));
    let r = &made.requests;
    assert_eq!((r.len(), made.client_names.len()), (1200, 5));
    let of = |name: &str| -> Vec<usize> {
        let number = made.client_names.iter().position(|n| n == name).map(|n| n as u32);
        (0..1200).filter(|i| made.client[*i] == number).collect()
    };
    let chat = of("chat");
    assert!(chat.len().abs_diff(600) < 150, "{}", chat.len());
    for i in &chat {
        assert_eq!((r.class[*i], r.deadline[*i].map(|d| d.0)), (Some(0), Some(800_000_000)));
    }
    assert!(of("reports").iter().all(|i| r.arrival[*i].0 < 400_000_000_000));
    // All but the reports begin with the same words, whatever their client.
    let first: std::collections::BTreeSet<u64> =
        chat.iter().chain(&of("phones-1")).chain(&of("phones-2")).map(|i| r.hashes(*i)[0]).collect();
    assert_eq!((first.len(), made.tenant_names.len(), r.class_names.len()), (1, 2, 3));
    let phones: std::collections::BTreeSet<u32> = of("phones-0").iter().map(|i| r.input_tokens[*i]).collect();
    assert_eq!(phones.into_iter().collect::<Vec<_>>(), [520, 640, 1000]);
}

fn blis(more: Value) -> Made {
    let client = json!({ "id": "c", "rate_fraction": 1, "arrival": { "process": "poisson" },
        "input_distribution": { "type": "constant", "params": { "value": 100 } },
        "output_distribution": { "type": "constant", "params": { "value": 10 } } });
    let mut spec = json!({ "version": "2", "aggregate_rate": 5, "num_requests": 2000, "clients": [client] });
    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v));
            }
            (Value::Array(into), Value::Array(from)) if !into.is_empty() => {
                into.iter_mut().zip(from).for_each(|(into, from)| merge(into, from));
            }
            (into, from) => *into = from,
        }
    }
    merge(&mut spec, more);
    drawn(json!({ "spec": { "inline": spec } }))
}

#[test]
fn blis_clients_keep_what_they_say() {
    // Sessions, reasoning in percent, and media.
    let dist = |value: u32| json!({ "type": "constant", "params": { "value": value } });
    let talk = blis(json!({ "clients": [{ "timeout": 5e6, "reasoning": { "reason_ratio_distribution": dist(30),
        "multi_turn": { "max_rounds": 3, "think_time_us": 2_000_000, "context_growth": "accumulate" } } }] }));
    assert!(talk.reasoning.iter().all(|r| *r == Some(3)) && talk.requests.input_tokens.contains(&320));
    assert!(talk.requests.think.iter().flatten().all(|t| t.0 == 2_000_000_000));
    assert!(talk.requests.timeout.iter().all(|t| t.is_some_and(|t| t.0 == 5_000_000_000)));
    let media = blis(
        json!({ "clients": [{ "multimodal": { "text_distribution": dist(40), "image_distribution": dist(7),
        "image_count_distribution": dist(3), "audio_distribution": dist(9), "audio_count_distribution": dist(1) } }] }),
    );
    assert!(media.images.iter().all(|n| *n == Some(4)) && media.requests.input_tokens.iter().all(|t| *t == 70));
    // Users, each with a session.
    let users = blis(
        json!({ "aggregate_rate": 0, "clients": [{ "rate_fraction": 0, "concurrency": 8, "think_time_us": 1e6 }] }),
    );
    assert_eq!(users.requests.session.iter().flatten().max(), Some(&7));
    // Gaps with a shape and a scale have a rate of their own: 1 / (0.25 * 0.4 s).
    let own = blis(json!({ "clients": [{ "arrival": { "process": "gamma", "shape": 0.25, "scale": 400_000 } }] }));
    assert!((own.requests.arrival[1999].0 as f64 / 200e9 - 1.0).abs() < 0.15, "{}", own.requests.arrival[1999].0);
    // Windows with rates of their own are filled: 300 and 1200 gaps of which the last ends the window.
    let windows = blis(json!({ "aggregate_rate": 0, "horizon": 400_000_000, "clients": [{ "lifecycle": { "windows": [
        { "start_us": 0, "end_us": 100e6, "trace_rate": 3 },
        { "start_us": 200e6, "end_us": 300e6, "trace_rate": 12, "input_distribution": dist(7) }] } }] }));
    let early = windows.requests.arrival.iter().filter(|t| t.0 < 100_000_000_000).count();
    assert_eq!((early, windows.requests.len()), (299, 299 + 1199));
    assert!(windows.requests.input_tokens[299..].iter().all(|t| *t == 7));
    // A day: on for the whole hour of the peak, for a quarter of that of the trough.
    let dist = |value: u32| json!({ "type": "constant", "params": { "value": value } });
    let day = drawn(
        json!({ "spec": { "inline": { "aggregate_rate": 1, "horizon": 86_400_000_000i64, "cohorts": [{ "id": "d",
        "population": 2, "rate_fraction": 1, "arrival": { "process": "poisson" }, "input_distribution": dist(1),
        "output_distribution": dist(1), "diurnal": { "peak_hour": 12, "peak_to_trough_ratio": 4 } }] } } }),
    );
    let hour = |h: i64| {
        let within =
            |t: &&pipe_kernel::units::SimTime| (h * 3_600_000_000_000..(h + 1) * 3_600_000_000_000).contains(&t.0);
        day.requests.arrival.iter().filter(within).count()
    };
    assert!(hour(12).abs_diff(3600) < 250 && hour(0).abs_diff(900) < 130, "{} {}", hour(12), hour(0));
    // The section of inference-perf: a client per system prompt, requests to the number.
    let perf = drawn(json!({ "spec": { "inline": { "inference_perf": { "stages": [{ "rate": 10, "duration": 60 }],
        "shared_prefix": { "num_unique_system_prompts": 3, "num_users_per_system_prompt": 2, "system_prompt_len": 64,
        "question_len": 20, "output_len": 5 } } } } }));
    assert_eq!((perf.requests.len(), perf.client_names.len(), perf.requests.input_tokens[9]), (600, 3, 84));
}

#[test]
fn malformed_blis_files_are_refused_with_their_places() {
    refused(
        "version: \"3\"\naggregate_rate: 1\nnum_requests: 9\nclients:\n- id: a\n  rate_fraction: 1\n  arrival: { process: bursty }\n  input_distribution: { type: gaussian, params: { mean: 5, std_dev: 1, min: 1, mx: 9 } }\n  output_distribution: { type: cauchy }\n  slo_class: gold\n",
        &[
            "3:14 `version` is 3: known are 1 and 2",
            "12:18 `clients.0.slo_class` is `gold`: known are critical, standard, sheddable, batch, background",
            "10:53 `clients.0.input_distribution.params` of `gaussian` must have `max`",
            "10:88 `clients.0.input_distribution.params.mx` is no parameter of `gaussian`",
            "11:36 `clients.0.output_distribution.type` is `cauchy`: known are gaussian, exponential, lognormal, pareto_lognormal, constant and empirical",
            "9:27 `clients.0.arrival.process` is `bursty`: known are constant, poisson, gamma and weibull",
        ],
    );
    refused("aggregate_rate: 1\nservegen_data: { path: x }\ngoodput: 1\n", &["5:5 unknown key `goodput`"]);
    refused(
        "aggregate_rate: 1\nnum_requests: 5\nservegen_data: { path: x }\n",
        &[
            "5:20 `servegen_data` is refused: `synthesize: { servegen: { path: FOLDER } }` reads such a folder",
            "3:5 `clients` or `cohorts` must have at least one client",
        ],
    );
}

#[test]
fn inference_perf_files_are_read() {
    let made = drawn(json!({ "spec": sample("inference_perf.yaml") }));
    let r = &made.requests;
    // To the number: 4 for 120 s, a pause of 5 s, 8 for 90 s.
    let first = r.arrival.iter().filter(|t| t.0 < 120_000_000_000).count();
    assert_eq!((first, r.len(), made.client_names.len()), (480, 480 + 720, 4));
    assert!(r.arrival[480].0 >= 125_000_000_000);
    assert!((mean(r.input_tokens.iter().map(|t| f64::from(*t))) - 720.0).abs() < 16.0);
    let firsts: std::collections::BTreeSet<u64> = (0..r.len()).map(|i| r.hashes(i)[0]).collect();
    assert_eq!(firsts.len(), 4);
    let config = |load: Value, more: Value| {
        let mut shared = json!({ "num_groups": 2, "num_prompts_per_group": 3, "system_prompt_len": 0, "question_len": 10,
            "output_len": 5 });
        shared.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        drawn(
            json!({ "spec": { "inline": { "load": load, "data": { "type": "shared_prefix", "shared_prefix": shared } } } }),
        )
    };
    let stage = |rate, duration| json!([{ "rate": rate, "duration": duration }]);
    let poisson = config(json!({ "type": "poisson", "stages": stage(20, 100) }), json!({}));
    assert!(poisson.requests.len().abs_diff(2000) < 180 && poisson.requests.block_hashes.is_empty());
    let chat = config(json!({ "stages": stage(6, 50) }), json!({ "enable_multi_turn_chat": true }));
    assert_eq!((chat.requests.len(), chat.requests.session.iter().flatten().max()), (300, Some(&5)));
    assert_eq!(chat.requests.input_tokens.iter().max(), Some(&(10 + 49 * 15)));
    let users =
        config(json!({ "type": "concurrent", "stages": [{ "num_requests": 90, "concurrency_level": 7 }] }), json!({}));
    assert_eq!((users.requests.len(), users.requests.session.iter().flatten().max()), (90, Some(&6)));
    let split = json!({ "stages": stage(10, 10), "lora_traffic_split": [{ "name": "x", "split": 0.7 }, { "name": "y", "split": 0.3 }] });
    let split = config(split, json!({}));
    let x = split.requests.adapter.iter().filter(|a| **a == Some(0)).count();
    assert_eq!((x, split.requests.adapter_names.join("")), (70, "xy".to_string()));
}

#[test]
fn malformed_inference_perf_files_are_refused_with_their_places() {
    refused(
        "load: { type: replay, stages: [{ rate: 1, duration: 0 }], sweep: { type: linear } }\ndata: { type: shared_prefix, shared_prefix: { question_len: { type: poisson, mean: 5, max: 9, min: 20 } } }\n",
        &[
            "3:70 `load.sweep` is refused: a sweep is a setting of `simulate`, or a stage `search`",
            "3:19 `load.type` is `replay`: known are constant, poisson and concurrent",
            "4:96 `data.shared_prefix.question_len.max` must not be below min, which is 20, not 9",
            "4:65 `data.shared_prefix.question_len` is refused as a Poisson distribution: `normal` with the root of the mean as `std_dev` is near",
            "3:57 `load.stages.0.duration` must be a number above 0",
        ],
    );
    refused(
        "load: { stages: [{ rate: 1, duration: 5 }] }\ndata: { type: shareGPT }\n",
        &["4:19 `data.type` is `shareGPT`: known are shared_prefix (with its section), random and synthetic"],
    );
    refused(
        "load: { stages: [{ rate: 1, duration: 5, ramp: 2 }] }\ndata: { type: random }\n",
        &["3:46 unknown key `ramp`"],
    );
}

#[test]
fn servegen_folders_are_read() {
    let folder = crate::repository().join("data/samples/workloads/servegen");
    let settings = |more: Value| {
        let mut all = json!({ "servegen": { "path": folder.to_str().unwrap() } });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let made = drawn(settings(json!({})));
    // ceil(rate * 600) - 1 in each of the windows.
    let of = |c: u32| made.client.iter().filter(|of| **of == Some(c)).count();
    let expect = |base: f64, from: usize| -> usize {
        let windows = [1.0, 1.4, 1.8, 1.2, 0.8, 0.6].iter().skip(from);
        windows.map(|f| ((base * f * 1e4).round() / 1e4 * 600.0 - 1e-9).ceil() as usize - 1).sum()
    };
    assert_eq!(made.client_names, ["chunk-0", "chunk-1", "chunk-2"]);
    // The third one has no lengths before 1800 s.
    assert_eq!((of(0), of(1), of(2)), (expect(1.6, 0), expect(0.8, 0), expect(0.3, 3)));
    let scaled = drawn(settings(json!({ "rate_rps": 20, "duration_s": 1200 }))).requests;
    assert!((scaled.len() as f64 / 24_000.0 - 1.0).abs() < 0.001, "{}", scaled.len());
    assert!(scaled.arrival.iter().all(|t| t.0 < 1_200_000_000_000));
    let even = json!({ "servegen": { "path": folder.to_str().unwrap(), "scale": "every_window", "from_s": 300 }, "rate_rps": 10 });
    let even = drawn(even).requests;
    for window in [0..300, 300..900, 2700..3300i64] {
        let n = even.arrival.iter().filter(|t| window.contains(&(t.0 / 1_000_000_000))).count() as i64;
        assert!((n - 10 * (window.end - window.start)).abs() <= 4, "{window:?}: {n}");
    }
}

#[test]
fn malformed_servegen_folders_are_refused_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_string();
    let problems = |trace: &str, dataset: &str| {
        std::fs::write(dir.path().join("chunk-4-trace.csv"), trace).unwrap();
        std::fs::write(dir.path().join("chunk-4-dataset.json"), dataset).unwrap();
        found(&format!("servegen: {{ path: {path} }}\n"))
    };
    let good = r#"{ "0": { "input_tokens": "{5: 1.0}", "output_tokens": "{6: 1.0}" } }"#;
    let line = "0,1,1,Gamma,1,1\n";
    assert_eq!(problems(line, good), Vec::<String>::new());
    for (trace, expect) in [
        ("0,1,1,Gamma,1\n", "1:1 expected 6 fields (start, rate, cv, pattern, shape, scale), found 5"),
        ("0,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", "2:1 the window starts at 0 s, not after the one before"),
        ("0,x,1,Gamma,1,1\n", "1:3 the rate is `x`: expected a number from 0 up"),
        ("0,1,1,Pareto,1,1\n", "1:7 the pattern is `Pareto`: expected Gamma, Weibull or nothing"),
        ("0,1,1,Gamma,0,1\n", "1:13 the shape is `0`: expected a number above 0"),
    ] {
        assert_eq!(problems(trace, good), [expect]);
    }
    for (dataset, expect) in [
        (
            "{\n\"0\": { \"input_tokens\": \"[5, }\" } }",
            "2:1 window 0: `input_tokens`: expected a Python dictionary, as {1: 0.5, 2: 0.5}",
        ),
        ("{\n\"0\": { \"input_tokens\": \"{5: x}\" } }", "2:1 window 0: `input_tokens`: `x` is no number"),
        (
            "{\n\"0\": { \"input_tokens\": \"{5.5: 1}\", \"output_tokens\": \"{1: 1}\" } }",
            "2:1 window 0: 5.5 is no number of tokens",
        ),
        ("{\n\"0\": { \"tokens\": \"{5: 1}\" } }", "2:1 window 0: `tokens` is no field of ServeGen"),
        ("{\n\"x\": {} }", "2:1 `x` is no start of a window in seconds"),
        ("[]", "1:1 expected a map of windows"),
    ] {
        assert_eq!(problems(line, dataset), [expect]);
    }
    assert!(problems(line, "{")[0].starts_with("1:1 this is no JSON"));
    std::fs::remove_file(dir.path().join("chunk-4-trace.csv")).unwrap();
    assert!(found(&format!("servegen: {{ path: {path} }}\n"))[0].contains("is no folder of ServeGen"));
}

/// The facts of the published clients of m-small, where they are there.
#[test]
fn servegen_m_small_has_its_rates_and_lengths() {
    let folder = crate::repository().join("../shared/data/traces/servegen/m-small");
    if !folder.is_dir() {
        return;
    }
    // An hour of the third day, from noon: all clients that have lengths, at 20 requests per second.
    let from = 2.0 * 86_400.0 + 12.0 * 3600.0;
    let spec: Synthesize = from_tree(&Tree::from_json(json!({
        "servegen": { "path": folder.to_str().unwrap(), "from_s": from }, "rate_rps": 20, "duration_s": 3600,
    })))
    .unwrap();
    let Some(Ok(read)) = peers::workload(&spec) else { panic!("the folder is read") };
    assert_eq!(read.warnings[0].split(' ').next(), Some("35"));
    let made = made(&spec, 3);
    let r = &made.requests;
    assert!((r.len() as f64 / 72_000.0 - 1.0).abs() < 0.01, "{}", r.len());
    // By client and window: the rate, the variation of the gaps and the mean length are those of its files.
    let mut checked = 0;
    for (number, client) in read.clients.clients.iter().enumerate() {
        let pipe_kernel::workload::Body::Windows(windows) = &client.body else { panic!("a client of windows") };
        for window in &windows.windows {
            let (start, end) = (window.start_s * 1e9, window.end_s * 1e9);
            let rows: Vec<usize> = (0..r.len())
                .filter(|i| made.client[*i] == Some(number as u32) && (start..end).contains(&(r.arrival[*i].0 as f64)))
                .collect();
            let n = (window.rate_rps * (window.end_s - window.start_s)).ceil() as usize - 1;
            // A gap of no nanosecond may put a request at the end of its window.
            assert!(rows.len().abs_diff(n) <= 2, "{} at {start}: {} not {n}", client.name, rows.len());
            let pipe_kernel::workload::ArrivalProcess::Gamma(gamma) = &window.process else { continue };
            if n < 2000 {
                continue;
            }
            let gaps: Vec<f64> = rows.windows(2).map(|w| (r.arrival[w[1]].0 - r.arrival[w[0]].0) as f64).collect();
            let m = mean(gaps.iter().copied());
            let cv = mean(gaps.iter().map(|g| (g - m).powi(2))).sqrt() / m;
            // Four standard errors: the excess kurtosis of a gamma distribution is 6 cv^2.
            let error = 2.0 * ((6.0 * gamma.cv * gamma.cv + 2.0) / n as f64).sqrt();
            assert!((cv / gamma.cv - 1.0).abs() < error, "{} at {start}: cv {cv}, not {}", client.name, gamma.cv);
            let pipe_kernel::workload::Lengths::Empirical(lengths) = &windows.sets[window.set as usize].input else {
                panic!("lengths as they are")
            };
            let total: f64 = lengths.weights.iter().sum();
            let moment = |k: i32| {
                let weighted = lengths.values.iter().zip(&lengths.weights).map(|(v, w)| f64::from(*v).powi(k) * w);
                weighted.sum::<f64>() / total
            };
            let error = 4.0 * ((moment(2) - moment(1).powi(2)) / n as f64).sqrt();
            let of = mean(rows.iter().map(|i| f64::from(r.input_tokens[*i])));
            assert!((of - moment(1)).abs() < error, "{} at {start}: {of} not {}", client.name, moment(1));
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked}");
}
