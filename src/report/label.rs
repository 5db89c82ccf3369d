//! Column names as axis labels: `ttft_ms_p99` reads "TTFT p99 (ms)".

/// Words that are not capitalized like others.
const WORDS: [(&str, &str); 24] = [
    ("ttft", "TTFT"),
    ("tpot", "TPOT"),
    ("itl", "ITL"),
    ("e2e", "E2E"),
    ("kv", "KV"),
    ("gpu", "GPU"),
    ("gpus", "GPUs"),
    ("cpu", "CPU"),
    ("hbm", "HBM"),
    ("slo", "SLO"),
    ("llm", "LLM"),
    ("tp", "TP"),
    ("pp", "PP"),
    ("dp", "DP"),
    ("ep", "EP"),
    ("id", "ID"),
    ("mfu", "MFU"),
    ("mbu", "MBU"),
    ("vllm", "vLLM"),
    ("sglang", "SGLang"),
    ("qps", "QPS"),
    ("cdf", "CDF"),
    ("lru", "LRU"),
    ("fcfs", "FCFS"),
];

/// Units that column names end with, and how they are written.
const UNITS: [(&str, &str); 19] = [
    ("ns", "ns"),
    ("us", "µs"),
    ("ms", "ms"),
    ("s", "s"),
    ("rps", "requests/s"),
    ("tps", "tokens/s"),
    ("usd", "USD"),
    ("bytes", "bytes"),
    ("kib", "KiB"),
    ("mib", "MiB"),
    ("gib", "GiB"),
    ("gb", "GB"),
    ("gbps", "GB/s"),
    ("tflops", "TFLOP/s"),
    ("pct", "%"),
    ("percent", "%"),
    ("w", "W"),
    ("kwh", "kWh"),
    ("mtok", "Mtok"),
];

/// The column name `column` as a label, with its unit in parentheses.
pub fn pretty(column: &str) -> String {
    let mut parts: Vec<&str> = column.split('_').filter(|p| !p.is_empty()).collect();
    let unit = take_unit(&mut parts);
    let name = parts.iter().enumerate().map(|(i, p)| word(p, i == 0)).collect::<Vec<_>>().join(" ");
    match (name.is_empty(), unit) {
        (false, Some(unit)) => format!("{name} ({unit})"),
        (false, None) => name,
        (true, Some(unit)) => unit,
        (true, None) => column.to_string(),
    }
}

/// Takes the last unit out of the name, together with what it is per: `usd_per_mtok`. The first word is a unit only
/// where nothing else would be left.
fn take_unit(parts: &mut Vec<&str>) -> Option<String> {
    let unit_of = |p: &str| UNITS.iter().find(|(from, _)| p.eq_ignore_ascii_case(from)).map(|(_, to)| *to);
    let per = parts.iter().position(|p| *p == "per").filter(|i| *i > 0 && i + 1 < parts.len());
    if let Some(i) = per
        && let Some(unit) = unit_of(parts[i - 1])
    {
        let below = unit_of(parts[i + 1]).unwrap_or(parts[i + 1]).to_string();
        parts.drain(i - 1..=i + 1);
        return Some(format!("{unit}/{below}"));
    }
    let at = parts.iter().rposition(|p| unit_of(p).is_some()).filter(|i| *i > 0 || parts.len() == 1)?;
    unit_of(parts.remove(at)).map(str::to_string)
}

fn word(part: &str, first: bool) -> String {
    if let Some((_, known)) = WORDS.iter().find(|(from, _)| part.eq_ignore_ascii_case(from)) {
        return (*known).to_string();
    }
    let quantile = part.strip_prefix('p').is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
    if !first || quantile {
        return part.to_string();
    }
    let mut chars = part.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::pretty;

    #[test]
    fn columns_become_labels() {
        let cases = [
            ("ttft_ms_p99", "TTFT p99 (ms)"),
            ("rate_rps", "Rate (requests/s)"),
            ("output_tps", "Output (tokens/s)"),
            ("kv_blocks_max", "KV blocks max"),
            ("deployment_tp", "Deployment TP"),
            ("input_tokens", "Input tokens"),
            ("cost_usd_per_hour", "Cost (USD/hour)"),
            ("usd_per_mtok", "USD/Mtok"),
            ("tokens_per_step", "Tokens per step"),
            ("ms", "ms"),
            ("gpus", "GPUs"),
            ("p99", "p99"),
            ("_", "_"),
        ];
        for (column, expect) in cases {
            assert_eq!(pretty(column), expect, "{column}");
        }
    }
}
