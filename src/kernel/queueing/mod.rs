//! The queueing model of a cluster: rates and FIFO queues alone, without batches, KV cache or transfers.
//!
//! Monolithic GPUs (`mono`) hold one request each, from the start of its prompt to its last token. Disaggregated ones
//! (`disagg`) are two stations: a prefill GPU works on the prompt, then the request joins the queue of the decode GPUs
//! and holds one of those for its whole output. Arrivals are Poisson, token counts lognormal.
//!
//! Keys, defaults, random numbers and figures are those of the public project llm-simulator: the same settings give the
//! same requests, the same times and the same figures, except that its own `mono` reports nothing (it takes the clock for
//! the time to first token). Source: the facts of its documentation and its runs, no code.
//!
//! | file | holds |
//! |---|---|
//! | this one | what a user writes, and what can be wrong with it |
//! | `numbers` | the random numbers of Python and of numpy's legacy generator |
//! | `run` | requests, stations, times |
//! | `figures` | what a run comes to |
//!
//! Times are doubles in seconds here, not integer nanoseconds as in [`sim`](crate::sim): the figures are compared with
//! that project's to 1e-9, and roundings to whole nanoseconds add up to more than that. They are sums and maxima in a
//! fixed order, and so the same on every machine. The exclusive scheduler of [`sim`](crate::sim) is the same model in
//! integers, with traces, classes and timeouts; a test holds the two together.

mod figures;
mod numbers;
mod run;

pub use figures::{Figures, Quantiles, figures};
#[doc(hidden)]
pub use numbers::PythonRandom;
pub use run::{Request, run};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::workload::{Lognormal, LognormalMeanStd, LognormalP50P90, MAX_TOKENS, Problem};

/// Most requests that a run may expect: they are held in memory together.
const REQUESTS_MAX: f64 = 5e7;
/// Longest run: 31 years, so that its nanoseconds fit into 64 bits.
const SECONDS_MAX: f64 = 1e9;
/// Widest distribution of token counts. Beyond it a draw has no meaning as a number of tokens.
const SIGMA_MAX: f64 = 10.0;

/// A cluster by its rates: how many GPUs, how many tokens per second each, and how the requests arrive. The keys are those
/// of the public project llm-simulator.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Queueing {
    /// Which of the two clusters is simulated.
    #[serde(default)]
    pub mode: Mode,
    /// The simulation ends at this time.
    #[serde(default = "six_hundred")]
    pub sim_seconds: f64,
    /// First tokens before this time do not count in the times to first token.
    #[serde(default = "sixty")]
    pub warmup_seconds: f64,
    /// Seed of arrivals and token counts.
    #[serde(default = "forty_two")]
    pub random_seed: u32,
    #[serde(default)]
    pub arrival: Arrival,
    /// Prompt lengths.
    #[serde(default)]
    pub prompt_tokens: TokenCounts,
    /// Output lengths.
    #[serde(default)]
    pub output_tokens: TokenCounts,
    /// The cluster of mode `mono`.
    #[serde(default)]
    pub cluster_mono: ClusterMono,
    /// The cluster of mode `disagg`.
    #[serde(default)]
    pub cluster_disagg: ClusterDisagg,
}

/// A kind of cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Monolithic: a GPU does a whole request.
    Mono,
    /// Disaggregated: prefill and decode have GPUs of their own.
    #[default]
    Disagg,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Mono => "mono",
            Mode::Disagg => "disagg",
        }
    }
}

/// How requests arrive: independently of each other, at a mean rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    /// Requests per second.
    #[serde(default = "two")]
    pub rate_per_s: f64,
}

/// Lognormal token counts, cut down to whole tokens. Which keys have a meaning depends on `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCounts {
    /// What the distribution is given by.
    #[serde(default)]
    pub mode: TokenCountMode,
    /// Mode `log`: mean of the natural logarithm of the tokens (default 6); mode `real_mean_std`: mean in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Mode `log`: standard deviation of the natural logarithm of the tokens (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
    /// Mode `real_mean_std`: standard deviation in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Mode `p50_p90`: median in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// Mode `p50_p90`: 90 % quantile in tokens, above the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90: Option<f64>,
    /// Least tokens: what is drawn below gets so many.
    #[serde(default = "one")]
    pub min_value: u32,
}

/// What a distribution of token counts is given by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenCountMode {
    /// `mean` and `sigma` of the natural logarithm.
    #[default]
    Log,
    /// `mean` and `std` in tokens.
    RealMeanStd,
    /// `p50` and `p90` in tokens.
    P50P90,
}

/// GPUs that each do whole requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterMono {
    /// GPUs.
    #[serde(default = "four")]
    pub num_gpus: u32,
    /// Prompt tokens per second of one GPU.
    #[serde(default = "eight_thousand")]
    pub prefill_tokens_per_s: f64,
    /// Output tokens per second of one GPU, which does one request at a time.
    #[serde(default = "two_thousand")]
    pub decode_tokens_per_s: f64,
}

/// GPUs for prompts, and GPUs for outputs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterDisagg {
    /// GPUs for prompts.
    #[serde(default = "two_gpus")]
    pub prefill_gpus: u32,
    /// GPUs for outputs.
    #[serde(default = "two_gpus")]
    pub decode_gpus: u32,
    /// Prompt tokens per second of one prefill GPU.
    #[serde(default = "eight_thousand")]
    pub prefill_tokens_per_s: f64,
    /// Output tokens per second of one decode GPU, which does one request at a time.
    #[serde(default = "two_thousand")]
    pub decode_tokens_per_s: f64,
}

fn one() -> u32 {
    1
}
fn two_gpus() -> u32 {
    2
}
fn four() -> u32 {
    4
}
fn forty_two() -> u32 {
    42
}
fn two() -> f64 {
    2.0
}
fn sixty() -> f64 {
    60.0
}
fn six_hundred() -> f64 {
    600.0
}
fn two_thousand() -> f64 {
    2_000.0
}
fn eight_thousand() -> f64 {
    8_000.0
}

impl Default for Queueing {
    fn default() -> Self {
        Queueing {
            mode: Mode::default(),
            sim_seconds: six_hundred(),
            warmup_seconds: sixty(),
            random_seed: forty_two(),
            arrival: Arrival::default(),
            prompt_tokens: TokenCounts::default(),
            output_tokens: TokenCounts::default(),
            cluster_mono: ClusterMono::default(),
            cluster_disagg: ClusterDisagg::default(),
        }
    }
}

impl Default for Arrival {
    fn default() -> Self {
        Arrival { rate_per_s: two() }
    }
}

impl Default for TokenCounts {
    fn default() -> Self {
        let mode = TokenCountMode::default();
        TokenCounts { mode, mean: None, sigma: None, std: None, p50: None, p90: None, min_value: one() }
    }
}

impl Default for ClusterMono {
    fn default() -> Self {
        ClusterMono { num_gpus: four(), prefill_tokens_per_s: eight_thousand(), decode_tokens_per_s: two_thousand() }
    }
}

impl Default for ClusterDisagg {
    fn default() -> Self {
        ClusterDisagg {
            prefill_gpus: two_gpus(),
            decode_gpus: two_gpus(),
            prefill_tokens_per_s: eight_thousand(),
            decode_tokens_per_s: two_thousand(),
        }
    }
}

/// The GPUs of the mode that is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cluster {
    /// GPUs that prompts wait for.
    pub gpus: u32,
    /// GPUs that outputs wait for; `None` where those of the prompts go on with them.
    pub decode_gpus: Option<u32>,
    pub prefill_tokens_per_s: f64,
    pub decode_tokens_per_s: f64,
}

impl Queueing {
    pub(crate) fn cluster(&self) -> Cluster {
        match self.mode {
            Mode::Mono => {
                let ClusterMono { num_gpus, prefill_tokens_per_s, decode_tokens_per_s } = self.cluster_mono;
                Cluster { gpus: num_gpus, decode_gpus: None, prefill_tokens_per_s, decode_tokens_per_s }
            }
            Mode::Disagg => {
                let ClusterDisagg { prefill_gpus, decode_gpus, prefill_tokens_per_s, decode_tokens_per_s } =
                    self.cluster_disagg;
                Cluster {
                    gpus: prefill_gpus,
                    decode_gpus: Some(decode_gpus),
                    prefill_tokens_per_s,
                    decode_tokens_per_s,
                }
            }
        }
    }

    /// GPUs of the cluster that is simulated.
    pub fn gpus(&self) -> u64 {
        let cluster = self.cluster();
        u64::from(cluster.gpus) + u64::from(cluster.decode_gpus.unwrap_or(0))
    }

    /// The same settings with what they leave out, so that equal scenarios are written alike.
    pub fn with_defaults(mut self) -> Queueing {
        self.prompt_tokens = self.prompt_tokens.with_defaults();
        self.output_tokens = self.output_tokens.with_defaults();
        self
    }

    /// Everything that is wrong with the settings, in the order of the fields. Of the clusters, only the one that is
    /// simulated is looked at.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let seconds = self.sim_seconds;
        let mut require = |ok: bool, path: &str, message: String| {
            if !ok {
                found.push(Problem { path: path.to_string(), message });
            }
            ok
        };
        let sound = require(
            seconds > 0.0 && seconds <= SECONDS_MAX,
            "sim_seconds",
            format!("is {seconds}; must be above 0, and at most {SECONDS_MAX}"),
        );
        let warmup = self.warmup_seconds;
        let starts = require(warmup >= 0.0, "warmup_seconds", format!("is {warmup}; must be a number from 0 up"));
        if sound && starts {
            let message = format!("is {warmup}, and the simulation ends at {seconds} s: nothing would be measured");
            require(warmup < seconds, "warmup_seconds", message);
        }
        let rate = self.arrival.rate_per_s;
        if require(rate > 0.0, "arrival.rate_per_s", format!("is {rate}; must be a number above 0")) && sound {
            let message = format!(
                "is {rate}, which is {} requests in {seconds} s; at most {REQUESTS_MAX} are simulated",
                rate * seconds
            );
            require(rate * seconds <= REQUESTS_MAX, "arrival.rate_per_s", message);
        }
        for (name, counts) in [("prompt_tokens", &self.prompt_tokens), ("output_tokens", &self.output_tokens)] {
            let named = |p: Problem| Problem { path: format!("{name}.{}", p.path), ..p };
            found.extend(counts.problems().into_iter().map(named));
        }
        found.extend(self.cluster_problems());
        found
    }

    fn cluster_problems(&self) -> Vec<Problem> {
        let cluster = self.cluster();
        let (key, gpus, decode_gpus) = match self.mode {
            Mode::Mono => ("cluster_mono", "num_gpus", ""),
            Mode::Disagg => ("cluster_disagg", "prefill_gpus", "decode_gpus"),
        };
        let mut found = Vec::new();
        for (name, count) in [(gpus, Some(cluster.gpus)), (decode_gpus, cluster.decode_gpus)] {
            if count == Some(0) {
                let message = format!("is 0; mode `{}` needs at least 1", self.mode.as_str());
                found.push(Problem { path: format!("{key}.{name}"), message });
            }
        }
        for (name, rate) in [
            ("prefill_tokens_per_s", cluster.prefill_tokens_per_s),
            ("decode_tokens_per_s", cluster.decode_tokens_per_s),
        ] {
            if !(rate.is_finite() && rate > 0.0) {
                let message = format!("is {rate}; must be a number above 0");
                found.push(Problem { path: format!("{key}.{name}"), message });
            }
        }
        found
    }
}

impl TokenCountMode {
    pub fn as_str(self) -> &'static str {
        match self {
            TokenCountMode::Log => "log",
            TokenCountMode::RealMeanStd => "real_mean_std",
            TokenCountMode::P50P90 => "p50_p90",
        }
    }

    /// The keys that have a meaning, besides `min_value`.
    fn keys(self) -> [&'static str; 2] {
        match self {
            TokenCountMode::Log => ["mean", "sigma"],
            TokenCountMode::RealMeanStd => ["mean", "std"],
            TokenCountMode::P50P90 => ["p50", "p90"],
        }
    }
}

impl TokenCounts {
    fn with_defaults(mut self) -> TokenCounts {
        match self.mode {
            TokenCountMode::Log => {
                self.mean = self.mean.or(Some(6.0));
                self.sigma = self.sigma.or(Some(1.0));
            }
            // These have none.
            TokenCountMode::RealMeanStd | TokenCountMode::P50P90 => {}
        }
        self
    }

    /// The distribution in log space. For settings without [`Queueing::problems`].
    pub fn log_space(&self) -> Lognormal {
        let TokenCounts { mode, mean, sigma, std, p50, p90, min_value: min } = self.with_defaults();
        let given = |value: Option<f64>| value.unwrap_or(f64::NAN);
        match mode {
            TokenCountMode::Log => Lognormal { mu: given(mean), sigma: given(sigma), min, max: None },
            TokenCountMode::RealMeanStd => {
                LognormalMeanStd { mean: given(mean), std: given(std), min, max: None }.log_space()
            }
            TokenCountMode::P50P90 => LognormalP50P90 { p50: given(p50), p90: given(p90), min, max: None }.log_space(),
        }
    }

    /// Mean and standard deviation in tokens, before counts are cut down and `min_value` applies.
    pub fn real_space(&self) -> (f64, f64) {
        let Lognormal { mu, sigma, .. } = self.log_space();
        let variance = sigma * sigma;
        let mean = libm::exp(mu + 0.5 * variance);
        let std = libm::sqrt((libm::exp(variance) - 1.0) * libm::exp(2.0 * mu + variance));
        (mean, std)
    }

    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut add = |field: &str, message: String| found.push(Problem { path: field.to_string(), message });
        let mode = self.mode.as_str();
        let given =
            [("mean", self.mean), ("sigma", self.sigma), ("std", self.std), ("p50", self.p50), ("p90", self.p90)];
        let keys = self.mode.keys();
        for (name, value) in given {
            match value {
                Some(_) if !keys.contains(&name) => {
                    let others = [TokenCountMode::Log, TokenCountMode::RealMeanStd, TokenCountMode::P50P90];
                    let other = others.into_iter().find(|m| m.keys().contains(&name)).unwrap_or_default();
                    add(
                        name,
                        format!(
                            "has no meaning in mode `{mode}`, which has {} and {}; it belongs to mode `{}`",
                            keys[0],
                            keys[1],
                            other.as_str()
                        ),
                    );
                }
                Some(value) if !value.is_finite() => add(name, format!("is {value}; must be a number")),
                None if keys.contains(&name) && self.mode != TokenCountMode::Log => {
                    add("mode", format!("is `{mode}`, which needs `{name}`"));
                }
                Some(_) | None => {}
            }
        }
        if self.min_value > MAX_TOKENS {
            add("min_value", format!("is {}; must be at most {MAX_TOKENS}", self.min_value));
        }
        if found.is_empty() { self.value_problems() } else { found }
    }

    /// What is wrong with values that are all there.
    fn value_problems(&self) -> Vec<Problem> {
        let TokenCounts { mode, mean, sigma, std, p50, p90, min_value: _ } = self.with_defaults();
        let given = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let (mean, sigma, std, p50, p90) = (given(mean), given(sigma), given(std), given(p50), given(p90));
        let most = f64::from(MAX_TOKENS);
        let mut found = Vec::new();
        let mut require = |ok: bool, field: &str, message: String| {
            if !ok {
                found.push(Problem { path: field.to_string(), message });
            }
        };
        let in_tokens = |value: f64| value > 0.0 && value <= most;
        let not_tokens = |value: f64| format!("is {value}; must be above 0, and at most {MAX_TOKENS} tokens");
        match mode {
            TokenCountMode::Log => {
                let message = format!(
                    "is {mean}, the mean of the logarithm: a median of {} tokens; mode `real_mean_std` takes tokens",
                    libm::exp(mean)
                );
                require(mean <= libm::log(most), "mean", message);
                let message = format!("is {sigma}; the standard deviation of the logarithm is 0 to {SIGMA_MAX}");
                require((0.0..=SIGMA_MAX).contains(&sigma), "sigma", message);
            }
            TokenCountMode::RealMeanStd => {
                require(in_tokens(mean), "mean", not_tokens(mean));
                require((0.0..=most).contains(&std), "std", format!("is {std}; must be 0 to {MAX_TOKENS} tokens"));
            }
            TokenCountMode::P50P90 => {
                require(in_tokens(p50), "p50", not_tokens(p50));
                require(in_tokens(p90), "p90", not_tokens(p90));
                let message = format!("is {p90}; must be above the median, {p50}");
                require(!in_tokens(p50) || !in_tokens(p90) || p50 < p90, "p90", message);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Queueing {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn everything_may_be_left_out() {
        assert_eq!(read("{}"), Queueing::default());
        let nested = r#"{ "arrival": {}, "prompt_tokens": {}, "cluster_mono": {}, "cluster_disagg": {} }"#;
        assert_eq!(read(nested), Queueing::default());
        let q = Queueing::default();
        assert_eq!((q.mode, q.sim_seconds, q.warmup_seconds, q.random_seed), (Mode::Disagg, 600.0, 60.0, 42));
        assert_eq!((q.arrival.rate_per_s, q.gpus()), (2.0, 4));
        assert_eq!(q.problems(), []);
        let written = serde_json::to_value(q.with_defaults()).unwrap();
        assert_eq!(
            written["prompt_tokens"],
            serde_json::json!({ "mode": "log", "mean": 6.0, "sigma": 1.0, "min_value": 1 })
        );
    }

    #[test]
    fn the_three_modes_are_one_distribution() {
        let log = |text: &str| serde_json::from_str::<TokenCounts>(text).unwrap().log_space();
        for (text, mu, sigma) in [
            ("{}", 6.0, 1.0),
            (r#"{ "mean": 6, "sigma": 0.9 }"#, 6.0, 0.9),
            // As llm-simulator prints them.
            (r#"{ "mode": "real_mean_std", "mean": 512, "std": 256 }"#, 6.126752849382402, 0.47238072707743883),
            (r#"{ "mode": "real_mean_std", "mean": 1024, "std": 512 }"#, 6.819900029942348, 0.47238072707743883),
            // ln(64), ln(16) / 1.2815515655446004.
            (r#"{ "mode": "p50_p90", "p50": 64, "p90": 1024 }"#, 4.1588830833596715, 2.1634624753172216),
        ] {
            let found = log(text);
            assert!((found.mu - mu).abs() < 1e-14 && (found.sigma - sigma).abs() < 1e-14, "{text}: {found:?}");
        }
        // As llm-simulator prints them.
        let (mean, std) = TokenCounts { sigma: Some(1.1), ..TokenCounts::default() }.real_space();
        assert!((mean / 738.779869211694 - 1.0).abs() < 1e-14 && (std / 1133.3674567273456 - 1.0).abs() < 1e-14);
    }

    #[test]
    fn wrong_settings_are_named() {
        let paths = |json: &str| read(json).problems().into_iter().map(|p| p.path).collect::<Vec<_>>().join(" ");
        for (json, expect) in [
            (r#"{ "sim_seconds": 0 }"#, "sim_seconds"),
            (r#"{ "sim_seconds": 1e10, "warmup_seconds": -1 }"#, "sim_seconds warmup_seconds"),
            (r#"{ "sim_seconds": 60 }"#, "warmup_seconds"),
            (r#"{ "arrival": { "rate_per_s": -2 } }"#, "arrival.rate_per_s"),
            (r#"{ "arrival": { "rate_per_s": 1e6 } }"#, "arrival.rate_per_s"),
            (r#"{ "prompt_tokens": { "mean": 1024 } }"#, "prompt_tokens.mean"),
            (r#"{ "prompt_tokens": { "mean": 1024, "std": 512 } }"#, "prompt_tokens.std"),
            (r#"{ "prompt_tokens": { "sigma": -1 } }"#, "prompt_tokens.sigma"),
            (r#"{ "output_tokens": { "mode": "real_mean_std", "mean": 5 } }"#, "output_tokens.mode"),
            (
                r#"{ "output_tokens": { "mode": "real_mean_std", "mean": 0, "std": -1 } }"#,
                "output_tokens.mean output_tokens.std",
            ),
            (r#"{ "output_tokens": { "mode": "p50_p90", "p50": 90, "p90": 90 } }"#, "output_tokens.p90"),
            (
                r#"{ "output_tokens": { "mode": "p50_p90", "mean": 90 } }"#,
                "output_tokens.mean output_tokens.mode output_tokens.mode",
            ),
            (r#"{ "output_tokens": { "min_value": 4000000000 } }"#, "output_tokens.min_value"),
            (r#"{ "cluster_mono": { "num_gpus": 0 } }"#, ""),
            (r#"{ "mode": "mono", "cluster_mono": { "num_gpus": 0 } }"#, "cluster_mono.num_gpus"),
            (
                r#"{ "cluster_disagg": { "prefill_gpus": 0, "decode_gpus": 0 } }"#,
                "cluster_disagg.prefill_gpus cluster_disagg.decode_gpus",
            ),
            (
                r#"{ "cluster_disagg": { "prefill_tokens_per_s": 0, "decode_tokens_per_s": -3 } }"#,
                "cluster_disagg.prefill_tokens_per_s cluster_disagg.decode_tokens_per_s",
            ),
        ] {
            assert_eq!(paths(json), expect, "{json}");
        }
        let nan = Queueing { sim_seconds: f64::NAN, warmup_seconds: f64::NAN, ..Queueing::default() };
        assert_eq!(nan.problems().len(), 2);
    }
}
