//! What `vllm bench serve` leaves behind: its text log, and its result file.
//!
//! The log has lines such as `Mean TTFT (ms):   12.34`, and, where the lists were printed, `TTFTs: [...]`, `TPOTs`,
//! `ITLs` and `e2els`. The result file (`--save-result --save-detailed`) has the same as JSON: `mean_ttft_ms`, `ttfts`,
//! `itls`, `input_lens`, `output_lens`, and in newer versions `start_times`. Files that give aggregates alone, under
//! names such as `Mean E2E(ms)`, are read too. Lists are in seconds in vLLM's own files; logs in which they fit the
//! mean only as milliseconds are taken so.
//!
//! Left out: texts, errors of single requests beyond that there was one.

use std::collections::BTreeMap;

use serde_json::Value;

/// What one run of the client measured. Lists are in the order of the requests, times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bench {
    /// `<ttft|tpot|itl|e2e>_ms_<mean|std|pNN>` and `rps`, as far as the file says; a median is `p50`.
    pub figures: BTreeMap<String, f64>,
    pub ttft_ms: Vec<f64>,
    pub tpot_ms: Vec<f64>,
    pub e2e_ms: Vec<f64>,
    pub input_tokens: Vec<i64>,
    pub output_tokens: Vec<i64>,
    /// Since the first of them.
    pub start_ms: Vec<f64>,
    /// Requests that failed.
    pub failed: Vec<bool>,
}

/// Reads either kind of file.
///
/// # Errors
/// What is wrong with it, in words for the user.
pub fn bench(text: &str) -> Result<Bench, String> {
    let found = if text.trim_start().starts_with('{') { result(text)? } else { log(text)? };
    if found.figures.is_empty() && found.ttft_ms.is_empty() {
        return Err("has neither a line such as `Mean TTFT (ms): 12.3` nor a list `TTFTs: [...]`".to_string());
    }
    Ok(found)
}

fn log(text: &str) -> Result<Bench, String> {
    let mut bench = Bench::default();
    for line in text.lines() {
        let Some((name, value)) = line.rsplit_once(':') else { continue };
        if let (Some(key), Some(value)) = (figure(name), number(value)) {
            bench.figures.entry(key).or_insert(value);
        }
    }
    let list = |names: &[&str]| -> Result<Vec<Vec<f64>>, String> {
        names.iter().find_map(|name| after(text, name)).map_or(Ok(Vec::new()), lists)
    };
    let flat = |all: Vec<Vec<f64>>| all.into_iter().flatten().collect::<Vec<f64>>();
    bench.ttft_ms = flat(list(&["TTFTs"])?);
    bench.tpot_ms = flat(list(&["TPOTs"])?);
    bench.e2e_ms = flat(list(&["e2els", "E2ELs", "E2Es", "e2es"])?);
    bench.in_ms();
    Ok(bench)
}

fn result(text: &str) -> Result<Bench, String> {
    let json: Value = serde_json::from_str(text).map_err(|e| format!("is no JSON: {e}"))?;
    let object = json.as_object().ok_or("is no JSON object")?;
    let mut bench = Bench::default();
    for (name, value) in object {
        if let (Some(key), Some(value)) = (figure(name), value.as_f64()) {
            bench.figures.entry(key).or_insert(value);
        }
    }
    let list = |name: &str| object.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let floats = |name: &str| list(name).iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect::<Vec<f64>>();
    let counts = |name: &str| list(name).iter().map(|v| v.as_i64().unwrap_or(0)).collect::<Vec<i64>>();
    bench.ttft_ms = floats("ttfts");
    bench.input_tokens = counts("input_lens");
    bench.output_tokens = counts("output_lens");
    bench.failed = list("errors").iter().map(|e| e.as_str().is_some_and(|e| !e.is_empty())).collect();
    let gaps: Vec<f64> =
        list("itls").iter().map(|gaps| gaps.as_array().into_iter().flatten().filter_map(Value::as_f64).sum()).collect();
    if gaps.len() == bench.ttft_ms.len() {
        bench.e2e_ms = bench.ttft_ms.iter().zip(&gaps).map(|(first, rest)| first + rest).collect();
        if bench.output_tokens.len() == gaps.len() {
            let mean = |(rest, tokens): (&f64, &i64)| if *tokens > 1 { rest / (*tokens - 1) as f64 } else { f64::NAN };
            bench.tpot_ms = gaps.iter().zip(&bench.output_tokens).map(mean).collect();
        }
    }
    if bench.tpot_ms.is_empty() {
        bench.tpot_ms = floats("tpots");
    }
    if bench.e2e_ms.is_empty() {
        bench.e2e_ms = floats("e2els");
    }
    bench.in_ms();
    let starts = floats("start_times");
    let first = starts.iter().copied().fold(f64::INFINITY, f64::min);
    bench.start_ms = starts.iter().map(|t| (t - first) * 1e3).collect();
    Ok(bench)
}

impl Bench {
    /// Lists as they stand in the file, in seconds or milliseconds, become milliseconds.
    fn in_ms(&mut self) {
        for (metric, list) in [("ttft", &mut self.ttft_ms), ("tpot", &mut self.tpot_ms), ("e2e", &mut self.e2e_ms)] {
            let known: Vec<f64> = list.iter().copied().filter(|v| v.is_finite()).collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            let told = self.figures.get(&format!("{metric}_ms_mean"));
            let already = told.is_some_and(|told| (mean - told).abs() < (mean * 1e3 - told).abs());
            if !already {
                list.iter_mut().for_each(|v| *v *= 1e3);
            }
        }
    }
}

/// The name of a figure as pipe writes it; `None` for anything else.
fn figure(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    if words.starts_with(&["request", "throughput"]) {
        return Some("rps".to_string());
    }
    let metric = words.iter().find_map(|w| match *w {
        "ttft" => Some("ttft"),
        "tpot" => Some("tpot"),
        "itl" => Some("itl"),
        "e2el" | "e2e" => Some("e2e"),
        _ => None,
    })?;
    let quantile =
        |w: &str| w.strip_prefix('p').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let statistic = words.iter().find_map(|w| match *w {
        "mean" => Some("mean"),
        "median" => Some("p50"),
        "std" => Some("std"),
        other if quantile(other) => Some(other),
        _ => None,
    })?;
    words.contains(&"ms").then(|| format!("{metric}_ms_{statistic}"))
}

fn number(text: &str) -> Option<f64> {
    text.trim().replace(',', "").parse().ok().filter(|v: &f64| v.is_finite())
}

/// What follows `<name>:`, where a list does.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.match_indices(name).find_map(|(at, _)| {
        let begins = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let rest = text[at + name.len()..].trim_start().strip_prefix(':')?.trim_start();
        (begins && rest.starts_with('[')).then_some(rest)
    })
}

/// The numbers of a list as Python prints it, or of each of its lists.
fn lists(text: &str) -> Result<Vec<Vec<f64>>, String> {
    let (mut all, mut depth) = (vec![Vec::new()], 0usize);
    let mut word = String::new();
    let take = |word: &mut String, all: &mut Vec<Vec<f64>>| -> Result<(), String> {
        let plain = word.trim().trim_start_matches("np.float64(").trim_end_matches(')').to_string();
        word.clear();
        if plain.is_empty() {
            return Ok(());
        }
        let value: f64 = plain.parse().map_err(|_| format!("`{plain}` in a list is no number"))?;
        all.last_mut().map_or(Ok(()), |list| {
            list.push(value);
            Ok(())
        })
    };
    for c in text.chars() {
        match c {
            '[' => {
                depth += 1;
                if depth > 1 {
                    all.push(Vec::new());
                }
            }
            ']' => {
                take(&mut word, &mut all)?;
                depth -= 1;
                if depth == 0 {
                    return Ok(all);
                }
            }
            ',' => take(&mut word, &mut all)?,
            other => word.push(other),
        }
    }
    Err("a list has no end: the log is cut".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
============ Serving Benchmark Result ============
Successful requests:                     3
Request throughput (req/s):              1,003.70
---------------Time to First Token----------------
Mean TTFT (ms):                          20.00
Median TTFT (ms):                        20.00
P99 TTFT (ms):                           29.80
Mean TPOT (ms):                          7.50
P99 E2EL (ms):                           90.25
TTFTs: [0.01, 0.02,
 np.float64(0.03)]
ITLs: [[0.1, 0.2], [], [0.3]]
TPOTs : [0.007, 0.008, 0.0075]
e2els: [0.07, 0.08, 0.09]
";

    #[test]
    fn a_log_has_figures_and_lists() {
        let bench = bench(LOG).unwrap();
        let figures: Vec<(&str, f64)> = bench.figures.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(
            figures,
            [
                ("e2e_ms_p99", 90.25),
                ("rps", 1003.7),
                ("tpot_ms_mean", 7.5),
                ("ttft_ms_mean", 20.0),
                ("ttft_ms_p50", 20.0),
                ("ttft_ms_p99", 29.8)
            ]
        );
        assert_eq!(bench.ttft_ms, [10.0, 20.0, 30.0]);
        assert_eq!(bench.e2e_ms.len(), 3);
        // The same lists in milliseconds: the mean tells.
        let ms = LOG.replace("0.01, 0.02,\n np.float64(0.03)", "10.0, 20.0, 30.0");
        assert_eq!(super::bench(&ms).unwrap().ttft_ms, [10.0, 20.0, 30.0]);
    }

    #[test]
    fn a_result_file_has_requests() {
        let json = r#"{"mean_ttft_ms": 15.0, "p99_e2el_ms": 60, "Mean E2E(ms)": 45.5, "request_throughput": 2.5,
            "ttfts": [0.01, 0.02], "itls": [[0.01, 0.02], [0.05]], "input_lens": [7, 9], "output_lens": [3, 2],
            "errors": ["", "lost"], "start_times": [100.5, 101.0]}"#;
        let bench = bench(json).unwrap();
        assert_eq!(
            (bench.figures["ttft_ms_mean"], bench.figures["e2e_ms_mean"], bench.figures["rps"]),
            (15.0, 45.5, 2.5)
        );
        assert_eq!(bench.ttft_ms, [10.0, 20.0]);
        let near = |ours: &[f64], theirs: [f64; 2]| ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(near(&bench.e2e_ms, [40.0, 70.0]) && near(&bench.tpot_ms, [15.0, 50.0]), "{bench:?}");
        assert!(near(&bench.start_ms, [0.0, 500.0]) && bench.failed == [false, true]);
    }

    #[test]
    fn what_is_neither_is_refused() {
        assert!(bench("INFO engine started\n").unwrap_err().contains("Mean TTFT"));
        assert!(bench("TTFTs: [0.1, 0.2").unwrap_err().contains("no end"));
        assert!(bench("TTFTs: [0.1, x]").unwrap_err().contains("`x`"));
        assert!(bench("{").unwrap_err().contains("no JSON"));
    }
}
