//! A fitted polynomial of second degree in four numbers of a batch.
//!
//! The form of inference-sim's version of August 2025: decode tokens, prompt tokens, the largest chunk of a prompt and
//! the number of prompts, their squares and all their products, and an intercept, with coefficients in seconds. Its
//! optimizer names coefficients by what they multiply (`sum_decode_tokensmnumprefills`); these names are understood too.
//! The context, which that form leaves out, has three terms of pipe's own. Coefficients may be negative, as those of least
//! squares often are: a step lasts at least 1 ns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::linear::TimeUnit;
use super::{BatchShape, DecodeForm, LatencyModel, NO_TIME, TIME_MAX_US, ns, shortest_of_growing};
use crate::units::SimDuration;

macro_rules! coefficients {
    ($($(#[$meta:meta])* $name:ident;)*) => {
        /// Every coefficient that is left out is 0. In brackets the names of inference-sim's optimizer. Times are in
        /// `unit`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct Regression {
            $($(#[$meta])* pub $name: f64,)*
            /// What all these numbers are in, whatever their names say: `us`, `ms` or `s`.
            #[serde(skip_serializing_if = "TimeUnit::is_us")]
            pub unit: TimeUnit,
        }

        impl Regression {
            /// The same in microseconds.
            fn in_us(&self) -> Regression {
                let us = self.unit.us();
                Regression { $($name: self.$name * us,)* unit: TimeUnit::Us }
            }

            /// Every coefficient with its path.
            fn coefficients(&self) -> Vec<(&'static str, f64)> {
                vec![$((concat!("deployment.latency.regression.", stringify!($name)), self.$name),)*]
            }
        }
    };
}

coefficients! {
    /// Of every step (`intercept`).
    #[serde(alias = "intercept")]
    intercept_us;
    /// Per request that decodes (`sum_decode_tokens`).
    #[serde(alias = "sum_decode_tokens")]
    sum_decode_tokens_us;
    /// Per prompt token computed in the step (`sum_prefill_tokens`).
    #[serde(alias = "sum_prefill_tokens")]
    sum_prefill_tokens_us;
    /// Per token of the largest chunk of a prompt (`max_prefill_tokens`).
    #[serde(alias = "max_prefill_tokens")]
    max_prefill_tokens_us;
    /// Per prompt in the step (`num_prefills`).
    #[serde(alias = "num_prefills")]
    num_prefills_us;
    /// Times the square of the decode tokens (`sum_decode_tokenss2`).
    #[serde(alias = "sum_decode_tokenss2")]
    sum_decode_tokens_squared_us;
    /// Times the square of the sum of prompt tokens (`sum_prefill_tokenss2`).
    #[serde(alias = "sum_prefill_tokenss2")]
    sum_prefill_tokens_squared_us;
    /// Times the square of the largest chunk (`max_prefill_tokenss2`).
    #[serde(alias = "max_prefill_tokenss2")]
    max_prefill_tokens_squared_us;
    /// Times the square of the number of prompts (`num_prefillss2`).
    #[serde(alias = "num_prefillss2")]
    num_prefills_squared_us;
    /// Times decode tokens and prompt tokens (`sum_decode_tokensmsumprefill_tokens`).
    #[serde(alias = "sum_decode_tokensmsumprefill_tokens")]
    sum_decode_tokens_x_sum_prefill_tokens_us;
    /// Times decode tokens and the largest chunk (`sum_decode_tokensmmaxprefill_tokens`).
    #[serde(alias = "sum_decode_tokensmmaxprefill_tokens")]
    sum_decode_tokens_x_max_prefill_tokens_us;
    /// Times decode tokens and the number of prompts (`sum_decode_tokensmnumprefills`).
    #[serde(alias = "sum_decode_tokensmnumprefills")]
    sum_decode_tokens_x_num_prefills_us;
    /// Times prompt tokens and the largest chunk (`sum_prefill_tokensmmaxprefill_tokens`).
    #[serde(alias = "sum_prefill_tokensmmaxprefill_tokens")]
    sum_prefill_tokens_x_max_prefill_tokens_us;
    /// Times prompt tokens and the number of prompts (`sum_prefill_tokensmnumprefills`).
    #[serde(alias = "sum_prefill_tokensmnumprefills")]
    sum_prefill_tokens_x_num_prefills_us;
    /// Times the largest chunk and the number of prompts (`max_prefill_tokensmnumprefills`).
    #[serde(alias = "max_prefill_tokensmnumprefills")]
    max_prefill_tokens_x_num_prefills_us;
    /// Per token that is in the cache of requests that decode.
    decode_context_us;
    /// Per token that is in the cache of prompts, before the chunks of this step.
    prefill_context_us;
    /// Per pair of a prompt token computed in the step and a token that it attends to, itself included.
    prefill_pairs_us;
    /// Between arrival and the scheduler's queue. Not negative, as all that follow.
    queue_base_us;
    /// The same, per prompt token.
    queue_per_input_token_us;
    /// From the end of a step until the client has its token.
    per_output_token_us;
    /// From the last token until the client has the end of the reply.
    after_request_us;
}

/// Coefficients at the end of the list that are no part of a step.
const OUTSIDE: usize = 4;

impl Regression {
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let all = self.in_us().coefficients();
        let steps = all.len() - OUTSIDE;
        let mut problems = Vec::new();
        for (at, (path, value)) in all.iter().enumerate() {
            let min = if at < steps { -TIME_MAX_US } else { 0.0 };
            if !(min..=TIME_MAX_US).contains(value) {
                problems.push((*path, format!("is {value}; must be {min} to {TIME_MAX_US} microseconds")));
            }
        }
        if self.intercept_us == 0.0 && !(self.has_decodes() && self.has_prompts()) {
            problems.push(("deployment.latency.regression.intercept_us", NO_TIME.to_string()));
        }
        problems
    }

    /// Whether requests that decode take time on their own.
    fn has_decodes(&self) -> bool {
        [self.sum_decode_tokens_us, self.sum_decode_tokens_squared_us, self.decode_context_us].iter().any(|c| *c != 0.0)
    }

    /// The same of prompts, their first chunk as any other.
    fn has_prompts(&self) -> bool {
        let of_prompts = [
            self.sum_prefill_tokens_us,
            self.max_prefill_tokens_us,
            self.num_prefills_us,
            self.sum_prefill_tokens_squared_us,
            self.max_prefill_tokens_squared_us,
            self.num_prefills_squared_us,
            self.sum_prefill_tokens_x_max_prefill_tokens_us,
            self.sum_prefill_tokens_x_num_prefills_us,
            self.max_prefill_tokens_x_num_prefills_us,
            self.prefill_pairs_us,
        ];
        of_prompts.iter().any(|c| *c != 0.0)
    }
}

/// The coefficients of one deployment, in microseconds.
pub(crate) struct Terms {
    c: Regression,
    /// No coefficient of a step is negative.
    grows: bool,
}

impl Terms {
    pub(crate) fn new(fitted: &Regression) -> Terms {
        let c = fitted.in_us();
        Terms { c, grows: c.coefficients().iter().all(|(_, value)| *value >= 0.0) }
    }

    fn form(&self, decode_requests: u64) -> DecodeForm {
        let (c, n) = (&self.c, decode_requests as f64);
        let us = c.intercept_us + (c.sum_decode_tokens_us + c.sum_decode_tokens_squared_us * n) * n;
        DecodeForm::affine(us * 1e3, c.decode_context_us * 1e3)
    }
}

impl LatencyModel for Terms {
    fn step(&self, s: &BatchShape) -> SimDuration {
        if s.prefill_requests == 0 {
            return self.form(s.decode_requests).at(s.decode_context);
        }
        let c = &self.c;
        let (decode, prefill) = (s.decode_requests as f64, s.prefill_tokens as f64);
        let (max, prompts) = (s.prefill_tokens_max as f64, s.prefill_requests as f64);
        let us = c.intercept_us
            + decode
                * (c.sum_decode_tokens_us
                    + c.sum_decode_tokens_squared_us * decode
                    + c.sum_decode_tokens_x_sum_prefill_tokens_us * prefill
                    + c.sum_decode_tokens_x_max_prefill_tokens_us * max
                    + c.sum_decode_tokens_x_num_prefills_us * prompts)
            + prefill
                * (c.sum_prefill_tokens_us
                    + c.sum_prefill_tokens_squared_us * prefill
                    + c.sum_prefill_tokens_x_max_prefill_tokens_us * max
                    + c.sum_prefill_tokens_x_num_prefills_us * prompts)
            + max
                * (c.max_prefill_tokens_us
                    + c.max_prefill_tokens_squared_us * max
                    + c.max_prefill_tokens_x_num_prefills_us * prompts)
            + prompts * (c.num_prefills_us + c.num_prefills_squared_us * prompts)
            + c.decode_context_us * s.decode_context as f64
            + c.prefill_context_us * s.prefill_context as f64
            + c.prefill_pairs_us * s.prefill_pairs();
        SimDuration(ns(us * 1e3))
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        Some(self.form(decode_requests))
    }

    fn shortest_step(&self) -> SimDuration {
        if !self.grows {
            return SimDuration::ZERO;
        }
        // The sums are added in another order there.
        SimDuration((shortest_of_growing(self).0 - 1).max(0))
    }

    fn before_queue(&self, input_tokens: u32) -> SimDuration {
        SimDuration::from_us(self.c.queue_base_us + self.c.queue_per_input_token_us * f64::from(input_tokens))
    }

    fn after_token(&self) -> SimDuration {
        SimDuration::from_us(self.c.per_output_token_us)
    }

    fn after_request(&self) -> SimDuration {
        SimDuration::from_us(self.c.after_request_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three requests that decode after 100 tokens in all; chunks of 5 tokens after 20, and of 2 after 7.
    fn batch() -> BatchShape {
        BatchShape {
            decode_requests: 3,
            decode_context: 100,
            prefill_requests: 2,
            prefill_tokens: 7,
            prefill_context: 27,
            prefill_tokens_x_context: 5 * 20 + 2 * 7,
            prefill_tokens_squared: 25 + 4,
            prefill_tokens_max: 5,
            ..BatchShape::default()
        }
    }

    #[test]
    fn every_term_multiplies_what_it_is_named_after() {
        // 100 cached tokens of decodes; pairs: 5 x 20 + 2 x 7, and 5 x 6 / 2 + 2 x 3 / 2 within the chunks.
        let cases = [
            ("intercept", 1.0),
            ("sum_decode_tokens", 3.0),
            ("sum_prefill_tokens", 7.0),
            ("max_prefill_tokens", 5.0),
            ("num_prefills", 2.0),
            ("sum_decode_tokenss2", 9.0),
            ("sum_prefill_tokenss2", 49.0),
            ("max_prefill_tokenss2", 25.0),
            ("num_prefillss2", 4.0),
            ("sum_decode_tokensmsumprefill_tokens", 21.0),
            ("sum_decode_tokensmmaxprefill_tokens", 15.0),
            ("sum_decode_tokensmnumprefills", 6.0),
            ("sum_prefill_tokensmmaxprefill_tokens", 35.0),
            ("sum_prefill_tokensmnumprefills", 14.0),
            ("max_prefill_tokensmnumprefills", 10.0),
            ("decode_context_us", 100.0),
            ("prefill_context_us", 27.0),
            ("prefill_pairs_us", 114.0 + 15.0 + 3.0),
        ];
        for (name, factor) in cases {
            let fitted: Regression = serde_json::from_str(&format!(r#"{{"{name}": 2, "unit": "ms"}}"#)).unwrap();
            let step = Terms::new(&fitted).step(&batch());
            assert_eq!(step, SimDuration((factor * 2e6) as i64), "{name}");
        }
        // 15 of the published form, and three of the context.
        assert_eq!(Regression::default().coefficients().len() - OUTSIDE, cases.len());
        let both = r#"{"intercept_us": 7, "sum_decode_tokens_x_num_prefills_us": -0.5, "unit": "s"}"#;
        let fitted: Regression = serde_json::from_str(both).unwrap();
        assert_eq!(Terms::new(&fitted).step(&batch()), SimDuration(4_000_000_000));
    }

    #[test]
    fn times_outside_of_steps() {
        let fitted = Regression {
            queue_base_us: 10.0,
            queue_per_input_token_us: 0.25,
            per_output_token_us: 3.0,
            after_request_us: 4.0,
            ..Regression::default()
        };
        let model = Terms::new(&fitted);
        assert_eq!(model.before_queue(100), SimDuration(35_000));
        assert_eq!((model.after_token(), model.after_request()), (SimDuration(3_000), SimDuration(4_000)));
    }

    #[test]
    fn steps_without_prompts_are_the_form_and_none_is_shorter_than_the_shortest() {
        let fitted = Regression {
            intercept_us: 700.0,
            sum_decode_tokens_us: 3.3,
            sum_decode_tokens_squared_us: 0.01,
            decode_context_us: 0.007,
            sum_prefill_tokens_us: 11.1,
            ..Regression::default()
        };
        let model = Terms::new(&fitted);
        let decode = BatchShape { decode_requests: 40, decode_context: 9_000, ..BatchShape::default() };
        // 700 + 132 + 16 + 63 us.
        assert_eq!(model.step(&decode), SimDuration(911_000));
        assert_eq!(model.decode_form(40).unwrap().at(9_000), model.step(&decode));
        // 700 + 3.3 + 0.01, and 1 ns less.
        assert_eq!(model.shortest_step(), SimDuration(703_310 - 1));
        let falls = Terms::new(&Regression { max_prefill_tokens_us: -1e-9, ..fitted });
        assert_eq!(falls.shortest_step(), SimDuration::ZERO);
    }

    #[test]
    fn bad_coefficients_are_named() {
        let paths = |r: &Regression| r.problems().iter().map(|(path, _)| *path).collect::<Vec<_>>();
        assert_eq!(paths(&Regression::default()), ["deployment.latency.regression.intercept_us"]);
        let good = Regression { intercept_us: -3.0, sum_decode_tokens_us: 1.0, ..Regression::default() };
        assert!(paths(&good).is_empty());
        // Something must be left of a batch of either kind; what only both together take is not.
        let without = Regression { intercept_us: 0.0, sum_prefill_tokens_us: 2.0, ..good };
        assert!(paths(&without).is_empty());
        for none in [
            Regression { sum_decode_tokens_us: 0.0, sum_decode_tokens_x_num_prefills_us: 5.0, ..without },
            Regression { sum_prefill_tokens_us: 0.0, prefill_context_us: 5.0, ..without },
        ] {
            assert_eq!(none.problems(), [("deployment.latency.regression.intercept_us", NO_TIME.to_string())]);
        }
        for value in [f64::NAN, f64::INFINITY, 1e9, -1e9] {
            let bad = Regression { num_prefills_us: value, ..good };
            assert_eq!(paths(&bad), ["deployment.latency.regression.num_prefills_us"], "{value}");
        }
        // Fine in microseconds.
        let seconds = Regression { unit: TimeUnit::S, intercept_us: 61.0, ..good };
        assert_eq!(paths(&seconds), ["deployment.latency.regression.intercept_us"]);
        let negative = Regression { queue_base_us: -1.0, ..good };
        assert_eq!(paths(&negative), ["deployment.latency.regression.queue_base_us"]);
    }
}
