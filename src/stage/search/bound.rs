//! How much load a configuration could carry at best: were its GPUs at the peak of their arithmetic all the time, and did
//! nothing else take any time.
//!
//! A quantile or a fraction of the requests must be done by the end of the arrivals and the SLO's limit. The operations
//! of their tokens take some time at the peak; the load at which the arrivals last just so long is the highest that can
//! pass. Of prompts that may be found in a cache nothing is counted, and only the requests with the least work are.

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::{Arrivals, Load, Measure, Scenario};
use pipe_kernel::sim::latency::Latency;
use pipe_kernel::sim::least_seconds;

use crate::spec::{Limit, Rule};
use crate::stage::slo::seconds_of;

/// By how many standard deviations random arrivals may take longer than they should.
const DEVIATIONS: f64 = 6.0;

/// The highest load, in requests per second, at which a rule can be met; `None` where nothing can be said, or any load.
pub(super) fn highest_qps(scenario: &Scenario, requests: &Requests, rule: &Rule) -> Option<f64> {
    let Scenario { deployment, workload, measure, .. } = scenario;
    // Only of the roofline it is known that it never is faster than the hardware. Whatever makes replies shorter, or
    // arrivals wait for replies, would have to be counted.
    let plain = Load {
        rate_rps: workload.rate_rps,
        arrivals: workload.arrivals,
        max_requests: workload.max_requests,
        deadline_ms: workload.deadline_ms,
        exact_max_tokens: workload.exact_max_tokens,
        ..Load::default()
    };
    let shortened = |all: &[Option<u32>]| all.iter().any(Option::is_some);
    let known = matches!(scenario.supplied.latency.as_ref().unwrap_or(&deployment.latency), Latency::Roofline(_))
        && deployment.pools.is_empty()
        && *workload == plain
        && *measure == Measure::default()
        && rule.class.is_none()
        && requests.depends_on.is_empty()
        && requests.cancel.iter().chain(&requests.timeout).all(Option::is_none)
        && !shortened(&requests.max_tokens);
    if !known {
        return None;
    }
    let of = |limit: &Limit| of_limit(scenario, requests, rule, limit);
    if rule.any.is_empty() {
        rule.all.iter().filter_map(of).min_by(f64::total_cmp)
    } else {
        // One of them is enough, so each must have a bound.
        rule.any.iter().map(of).collect::<Option<Vec<_>>>()?.into_iter().max_by(f64::total_cmp)
    }
}

fn of_limit(scenario: &Scenario, requests: &Requests, rule: &Rule, limit: &Limit) -> Option<f64> {
    let (column, seconds) = seconds_of(limit)?;
    let count = requests.len().min(scenario.workload.max_requests.map_or(usize::MAX, |n| n as usize));
    let reuses = scenario.deployment.kv.enable_prefix_caching && !requests.block_hashes.is_empty();
    let prompt = |i: usize| if reuses { 0 } else { u64::from(requests.input_tokens[i]) };
    let mut tokens: Vec<u64> = match column {
        "ttft_ns" => (0..count).map(prompt).collect(),
        // The first token comes with the prompt.
        "e2e_ns" => (0..count).map(|i| prompt(i) + u64::from(requests.output_tokens[i]).saturating_sub(1)).collect(),
        _ => return None,
    };
    let must = match (rule.quantile, rule.fraction) {
        (Some(q), _) => (q * (count as f64 - 1.0)).floor() + 1.0,
        (None, Some(f)) => (f * count as f64 - 1e-9).ceil(),
        (None, None) => return None,
    };
    tokens.sort_unstable();
    let work: u64 = tokens.iter().take(must.max(0.0) as usize).sum();
    let site = scenario.sites().into_iter().next()?;
    let needed = least_seconds(&site, work) / f64::from(site.engines().max(1));
    let deviation = match scenario.workload.arrivals {
        Arrivals::Trace | Arrivals::Constant => 0.0,
        Arrivals::Poisson => 1.0,
        Arrivals::Gamma(gamma) => gamma.cv,
    };
    let longer = 1.0 + DEVIATIONS * deviation / (count as f64).sqrt();
    (needed > seconds).then(|| count as f64 * longer / (needed - seconds))
}
