//! What a deployment costs: dollars by prices that a user names, and energy by the power of its GPUs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use arrow::datatypes::{DataType, Field};
use indexmap::IndexMap;

use pipe_kernel::scenario::Scenario;

use super::totals::Totals;
use crate::catalog::Catalog;
use crate::diag::Diagnostic;
use crate::spec::Text;
use crate::table::column;

/// Share of its board power that an idle GPU draws, where the catalog has no figure: what simulators of fleets assume
/// (arXiv 2602.05116).
const IDLE: f64 = 0.15;

/// Prices by the names of the catalog, in US dollars of a GPU per hour.
///
/// # Errors
/// Unknown GPUs, and prices that are not above 0, as problems `code`.
pub(crate) fn prices(
    given: &IndexMap<Text, f64>,
    code: &'static str,
    catalog: &Catalog,
) -> Result<BTreeMap<String, f64>, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let mut prices = BTreeMap::new();
    for (gpu, price) in given {
        if !(*price > 0.0 && price.is_finite()) {
            let message =
                format!("the price of `{}` is {price}; must be above 0, in US dollars of a GPU per hour", gpu.value);
            problems.push(Diagnostic::new(code, message).at(gpu.at.clone()));
        }
        match catalog.gpu(&gpu.value) {
            Ok((name, _)) => drop(prices.insert(name.to_string(), *price)),
            Err(d) => problems.push(d.at(gpu.at.clone())),
        }
    }
    if problems.is_empty() { Ok(prices) } else { Err(problems) }
}

/// GPUs, and dollars per hour, of a scenario; the latter where all prices are known.
pub(crate) fn cost(scenario: &Scenario, prices: &BTreeMap<String, f64>) -> (u64, Option<f64>) {
    let mut gpus = 0;
    let mut usd = Some(0.0);
    for site in scenario.sites() {
        let of_site = site.deployment.gpus();
        gpus += of_site;
        usd = usd.zip(prices.get(&site.deployment.gpu)).map(|(sum, price)| sum + of_site as f64 * price);
    }
    (gpus, usd)
}

/// Watt-hours that the GPUs of a scenario draw over its duration: their board power in steps, and what they draw without
/// work for the rest. An upper bound, because a step seldom draws all. `None` where the power of a GPU is not known.
pub(crate) fn energy_wh(scenario: &Scenario, totals: &Totals) -> Option<f64> {
    let mut joules = 0.0;
    for (site, (engines, busy_ns)) in scenario.sites().iter().zip(totals.busy_of_pools()) {
        let watts = site.gpu.tdp_w;
        if watts <= 0.0 || engines <= 0 {
            return None;
        }
        let idle = if site.gpu.idle_w > 0.0 { site.gpu.idle_w } else { IDLE * watts };
        let all_s = totals.duration_ns() as f64 * engines as f64 / 1e9;
        let busy_s = (busy_ns as f64 / 1e9).min(all_s);
        let gpus = site.deployment.gpus() as f64 / engines as f64;
        joules += gpus * (busy_s * watts + (all_s - busy_s) * idle);
    }
    Some(joules / 3600.0)
}

/// The columns of [`columns`].
pub(crate) fn fields() -> Vec<Field> {
    let float = |name: &str, unit: &str, what: &str| column(name, DataType::Float64, true, unit, what);
    vec![
        float("usd_per_hour", "USD/h", "What the GPUs cost by `prices`"),
        float("usd_per_million_output_tokens", "USD", "What a million output tokens cost at `output_tps`"),
        float("energy_wh", "Wh", "Board power of the GPUs in steps, idle power for the rest of the duration"),
    ]
}

/// What a scenario costs, in one row.
pub(crate) fn columns(scenario: &Scenario, totals: &Totals, prices: &BTreeMap<String, f64>) -> Vec<ArrayRef> {
    let (_, usd) = cost(scenario, prices);
    let tokens_per_hour = totals.output_tps().filter(|tps| *tps > 0.0).map(|tps| tps * 3600.0);
    let per_million = usd.zip(tokens_per_hour).map(|(usd, tokens)| usd / tokens * 1e6);
    let one = |value: Option<f64>| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
    vec![one(usd), one(per_million), one(energy_wh(scenario, totals))]
}
