//! How well the best trials are known: more simulations of each, with seeds that they have in common, and the differences
//! to the best of them.

use pipe_kernel::tune::paired;

use super::trials::{Done, Run, State};
use crate::diag::Result;

/// Trials that are replicated with one objective, unless the user says how many.
const BEST: usize = 5;

/// One objective of one trial.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Interval {
    pub trial: u64,
    pub objective: String,
    pub replications: usize,
    pub mean: Option<f64>,
    pub standard_error: Option<f64>,
    /// Of the mean.
    pub ends: Option<(f64, f64)>,
    pub best_trial: Option<u64>,
    /// To the best trial: mean, and the ends of its interval.
    pub difference: Option<(f64, f64, f64)>,
}

/// Which trials are replicated: the front, or with one objective the best.
fn chosen(run: &Run<'_>, trials: &[Done], front: &[usize]) -> Vec<usize> {
    let mut chosen: Vec<usize> = match run.shared.judge.objectives.len() {
        1 => {
            let mut complete: Vec<usize> = (0..trials.len()).filter(|&i| trials[i].state == State::Complete).collect();
            let value = |i: usize| trials[i].minimized.as_ref().map_or(f64::INFINITY, |o| o[0]);
            complete.sort_by(|&a, &b| value(a).total_cmp(&value(b)));
            complete.truncate(BEST.max(run.spec.replicate.unwrap_or(0) as usize));
            complete
        }
        _ => front.to_vec(),
    };
    chosen.retain(|&i| trials[i].origin != "imported");
    chosen.truncate(run.spec.replicate.map_or(usize::MAX, |n| n as usize));
    chosen
}

/// Replicates the best trials, and says how they differ.
///
/// # Errors
/// Interrupted; objectives that cannot be evaluated.
pub(super) async fn intervals(run: &Run<'_>, trials: &[Done], front: &[usize]) -> Result<Vec<Interval>> {
    if run.spec.replications < 2 {
        return Ok(Vec::new());
    }
    let chosen = chosen(run, trials, front);
    let points: Vec<(u64, &[serde_json::Value])> =
        chosen.iter().map(|&i| (trials[i].number, trials[i].values.as_slice())).collect();
    run.cx.progress.0.total(
        trials.len() as u64 + points.len() as u64 * u64::from(run.spec.replications - 1),
        "trials and replications",
    );
    // Per replication and trial: the objectives.
    let mut results: Vec<Vec<Vec<Option<f64>>>> = Vec::new();
    for replication in 0..run.spec.replications {
        run.cx.cancel.check()?;
        let evaluated = run.evaluate(&points, None, replication).await?;
        let missing = || vec![None; run.shared.judge.objectives.len()];
        results.push(evaluated.into_iter().map(|e| e.figures.map_or_else(|_| missing(), |f| f.objectives)).collect());
    }
    let mut intervals = Vec::new();
    for (j, objective) in run.shared.judge.objectives.iter().enumerate() {
        let of = |place: usize| -> Option<Vec<f64>> { results.iter().map(|r| r[place][j]).collect() };
        let values: Vec<Option<Vec<f64>>> = (0..chosen.len()).map(of).collect();
        let mean = |v: &Vec<f64>| v.iter().sum::<f64>() / v.len() as f64;
        let rank = |v: &Option<Vec<f64>>| v.as_ref().map_or(f64::INFINITY, |v| objective.minimized(mean(v)));
        let best = (0..chosen.len()).min_by(|&a, &b| rank(&values[a]).total_cmp(&rank(&values[b])));
        let best = best.filter(|&b| values[b].is_some());
        for (place, &i) in chosen.iter().enumerate() {
            let own = values[place].as_ref();
            let spread = own.and_then(|v| paired::difference(v, &vec![0.0; v.len()], run.spec.confidence));
            let against = best.and_then(|b| values[b].as_ref());
            let difference = own.zip(against).and_then(|(a, b)| paired::difference(a, b, run.spec.confidence));
            intervals.push(Interval {
                trial: trials[i].number,
                objective: objective.name.clone(),
                replications: results.len(),
                mean: own.map(mean),
                standard_error: spread.map(|d| d.standard_error),
                ends: spread.map(|d| (d.low, d.high)),
                best_trial: best.map(|b| trials[chosen[b]].number),
                difference: difference.map(|d| (d.mean, d.low, d.high)),
            });
        }
    }
    Ok(intervals)
}
