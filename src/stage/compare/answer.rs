//! What the stage tells at the end of a run: the figures of the scenarios that agree best.

use super::judge::Figure;

/// Scenarios that are told of.
const SCENARIOS: usize = 3;

/// The lines; `names` are the tables, measured first.
pub(super) fn lines(stage: &str, names: [&str; 2], figures: &[&Figure]) -> Vec<String> {
    let mut scenarios: Vec<(i64, f64)> = Vec::new();
    for figure in figures {
        if scenarios.last().is_none_or(|(id, _)| *id != figure.scenario) {
            let mapes = || figures.iter().filter(|f| f.scenario == figure.scenario).filter_map(|f| f.mape);
            let (sum, n) = mapes().fold((0.0, 0.0), |(sum, n), m| (sum + m, n + 1.0));
            scenarios.push((figure.scenario, if n > 0.0 { sum / n } else { f64::INFINITY }));
        }
    }
    let total = scenarios.len();
    // Stable: of equals the first.
    scenarios.sort_by(|a, b| a.1.total_cmp(&b.1));
    scenarios.truncate(SCENARIOS);
    let [measured, simulated] = names;
    let pairs = figures.iter().map(|f| f.pairs).max().unwrap_or(0);
    let which = match total {
        1 => String::new(),
        n if n <= SCENARIOS => format!(", {n} scenarios by mean error"),
        n => format!(", best {SCENARIOS} of {n} scenarios by mean error"),
    };
    let mut lines = vec![format!("{stage}: {simulated} against {measured}, {pairs} requests{which}")];
    let heads = ["scenario", "metric", "measured", "simulated", "mean", "MAPE", "bias", "r", "p50", "p99", "verdict"];
    let mut rows = vec![heads.map(String::from)];
    for (scenario, _) in &scenarios {
        rows.extend(figures.iter().filter(|f| f.scenario == *scenario).map(|f| row(f)));
    }
    // One scenario needs no number.
    let skip = usize::from(total == 1);
    let widths: Vec<usize> =
        (0..heads.len()).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().skip(skip);
        let cells = cells.map(|(i, (cell, width))| match i {
            1 | 10 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        lines.push(format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_string());
    }
    lines
}

fn row(f: &Figure) -> [String; 11] {
    let value = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{v:.2} {}", f.unit));
    let percent = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{:+.1}%", v * 100.0));
    let mape = match (f.mape, f.mape_interval) {
        (Some(mape), Some(i)) => format!("{:.1}% [{:.1}, {:.1}]", mape * 100.0, i.low * 100.0, i.high * 100.0),
        (Some(mape), None) => format!("{:.1}%", mape * 100.0),
        (None, _) => "-".to_string(),
    };
    [
        f.scenario.to_string(),
        f.metric.to_string(),
        value(f.measured),
        value(f.simulated),
        percent(f.mean_error),
        mape,
        percent(f.bias),
        f.pearson.map_or("-".to_string(), |r| format!("{r:.3}")),
        percent(f.quantile_errors[0]),
        percent(f.quantile_errors[3]),
        f.verdict.map_or("-".to_string(), |v| v.as_str().to_string()),
    ]
}
