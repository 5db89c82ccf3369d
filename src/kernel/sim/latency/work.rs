//! What batches cost in arithmetic and memory traffic, whatever time a model says they take.
//!
//! One count of weights, operations and bytes, from which the physical latency models take their terms and figures such
//! as MFU and MBU follow. Operations are those of matrix multiplications, two per weight and token and four per head
//! dimension and pair of tokens that attend: the "model FLOPs" of MFU (PaLM, appendix B). Bytes are weights read once per
//! step, cache entries read and written once, and the hidden state of new tokens. Left out: embedding and output
//! matrix, norms, the router of a mixture, traffic between GPUs, and that latent attention computes in the latent space.
//!
//! A replica is one engine here: a data-parallel rank. With `enable_expert_parallel` the ranks share the experts, and are
//! taken to run in balance: every rank's step has as many tokens, and every expert is as likely. A rank's tokens are then
//! as much arithmetic on its GPUs as if it had all experts to itself (others compute for it what it computes for them),
//! but it reads its part only of the experts that the tokens of all ranks together choose.

use crate::pools::Site;
use crate::scenario::{Deployment, GpuSpec, ModelSpec, Scenario};
use crate::sim::{Summary, WorkSums, facts};

/// Arithmetic and memory traffic over all GPUs of a replica: amounts, or peaks per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read from and written to GPU memory.
    pub bytes: f64,
}

/// Costs of one replica over all its GPUs, where not said otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// Operations of the weights that one token uses, and of one pair of tokens that attend.
    pub token_flop: f64,
    pub pair_flop: f64,
    /// Weights that every step reads, and those of one expert in all mixture layers; 0 for dense models.
    pub shared_params: f64,
    pub expert_params: f64,
    pub experts: f64,
    /// Share of the experts that a token does not use.
    unused: f64,
    /// Data-parallel ranks that share the experts.
    pub ranks: f64,
    pub weight_bytes: f64,
    /// Cache entries of one token on one GPU: heads that are fewer than the GPUs are held more than once.
    pub kv_numbers_per_gpu: f64,
    kv_bytes: f64,
    /// Numbers in the hidden states of one token after every layer.
    pub hidden_numbers: f64,
    tp: f64,
    peak: Work,
}

impl Costs {
    pub(crate) fn new(d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> Costs {
        let (layers, moe) = (f64::from(m.layers), facts::moe_layers(m));
        let expert_params = facts::expert_params(m) * moe;
        let cached = f64::from(facts::cache_layers(m));
        let shared_params = facts::attention_params(m) * cached
            + m.other_params_b * 1e9
            + facts::dense_mlp_params(m) * facts::dense_layers(m)
            + f64::from(m.shared_experts) * expert_params;
        let experts = f64::from(m.experts);
        let gpus = f64::from(d.tp) * f64::from(d.pp);
        Costs {
            token_flop: 2.0 * (shared_params + f64::from(m.top_k) * expert_params),
            pair_flop: cached * f64::from(m.heads) * 4.0 * f64::from(m.head_dim),
            shared_params,
            expert_params,
            experts,
            unused: if experts > 0.0 { ((experts - f64::from(m.top_k)) / experts).max(0.0) } else { 0.0 },
            ranks: facts::expert_ranks(d),
            weight_bytes: d.dtype.bytes(),
            kv_numbers_per_gpu: cached * facts::kv_numbers_per_gpu(d, m),
            kv_bytes: d.kv.kv_cache_dtype.bytes(),
            hidden_numbers: layers * f64::from(m.hidden),
            tp: f64::from(d.tp),
            peak: Work { flops: facts::peak_flops(d, g) * gpus, bytes: g.memory_tb_per_s * 1e12 * gpus },
        }
    }

    /// Experts per mixture layer that a step of `tokens` new tokens reads, if every token chooses uniformly and on its
    /// own: `experts * (1 - unused^tokens)`. Of ranks that share them: this rank's part of those that the tokens of all
    /// ranks choose.
    pub(crate) fn experts_read(&self, tokens: f64) -> f64 {
        self.experts * (1.0 - libm::pow(self.unused, tokens * self.ranks)) / self.ranks
    }

    /// What one replica can do in a second.
    pub(crate) fn peak(&self) -> Work {
        self.peak
    }

    /// What all steps together did.
    pub(crate) fn work(&self, s: &WorkSums) -> Work {
        let tokens = s.decode_requests as f64 + s.prefill_tokens as f64;
        // A token attends to what is in the cache and to itself; token k of a chunk to the k - 1 before it as well.
        let chunks = (s.prefill_tokens_squared as f64 + s.prefill_tokens as f64) / 2.0;
        let pairs = s.decode_context as f64 + s.decode_requests as f64 + s.prefill_tokens_x_context as f64 + chunks;
        let cached = s.decode_context as f64 + s.prefill_context as f64 + tokens;
        Work {
            flops: self.token_flop * tokens + self.pair_flop * pairs,
            bytes: self.params_read(&s.steps_by_tokens) * self.weight_bytes
                + cached * self.kv_numbers_per_gpu * self.tp * self.kv_bytes
                + tokens * self.hidden_numbers * self.weight_bytes,
        }
    }

    /// Weights read by all steps; a step without tokens reads none.
    fn params_read(&self, steps_by_tokens: &[u64]) -> f64 {
        let by_tokens = steps_by_tokens.iter().enumerate().skip(1);
        let steps: u64 = by_tokens.clone().map(|(_, steps)| steps).sum();
        let shared = self.shared_params * steps as f64;
        if self.expert_params == 0.0 {
            return shared;
        }
        let experts: f64 =
            by_tokens.filter(|(_, s)| **s > 0).map(|(n, s)| *s as f64 * self.experts_read(n as f64)).sum();
        shared + self.expert_params * experts
    }
}

/// What only the engines of each pool know, in the order of [`Scenario::sites`]. Of a summary that does not tell its pools
/// apart, all of it.
pub fn by_pool(summary: &Summary) -> &[Summary] {
    if summary.pools.is_empty() { std::slice::from_ref(summary) } else { &summary.pools }
}

/// Utilization of arithmetic and of memory bandwidth while replicas are in steps (MFU, MBU), as shares of the peaks.
/// `None` where the latency model of a pool knows no facts of model and GPU, or nothing ran.
pub fn utilization(scenario: &Scenario, summary: &Summary) -> Option<(f64, f64)> {
    let mut done = Work { flops: 0.0, bytes: 0.0 };
    let mut possible = done;
    for (site, pool) in scenario.sites().iter().zip(by_pool(summary)) {
        let (work, peak) = done_and_possible(site, pool)?;
        (done.flops, done.bytes) = (done.flops + work.flops, done.bytes + work.bytes);
        (possible.flops, possible.bytes) = (possible.flops + peak.flops, possible.bytes + peak.bytes);
    }
    ratio(&done, &possible)
}

/// The least time that one engine of a pool can take for some tokens, in seconds: the operations of the weights in its
/// layers, at the peak of its GPUs. Attention, memory, and everything else come on top.
pub fn least_seconds(site: &Site, tokens: u64) -> f64 {
    let costs = Costs::new(&site.deployment, &site.model, &site.gpu);
    // The head is needed for the last token of a prompt only, and embeddings are looked up.
    let layers = costs.token_flop - 2.0 * site.model.other_params_b * 1e9;
    layers * tokens as f64 / costs.peak.flops
}

/// [`utilization`] of the engines of one pool.
pub fn utilization_of_pool(site: &Site, pool: &Summary) -> Option<(f64, f64)> {
    let (done, possible) = done_and_possible(site, pool)?;
    ratio(&done, &possible)
}

/// What the engines of a pool did, and what they could have done in that time.
fn done_and_possible(site: &Site, pool: &Summary) -> Option<(Work, Work)> {
    let model = super::of(site).ok()?;
    let (work, peak, busy_s) = (model.work(&pool.work)?, model.peak()?, pool.busy.as_s());
    Some((work, Work { flops: peak.flops * busy_s, bytes: peak.bytes * busy_s }))
}

fn ratio(done: &Work, possible: &Work) -> Option<(f64, f64)> {
    (possible.flops > 0.0).then(|| (done.flops / possible.flops, done.bytes / possible.bytes))
}

#[cfg(test)]
mod tests {
    use super::super::{BatchShape, Latency, Rates, build};
    use super::*;
    use crate::sim::swarm::{h100, llama_8b, scenario_8b};

    /// Two layers, 48 weights of attention and 96 of the feed-forward network in each.
    fn dense() -> ModelSpec {
        ModelSpec { layers: 2, hidden: 4, intermediate: 8, heads: 2, kv_heads: 1, head_dim: 2, ..llama_8b() }
    }

    /// The second layer has four experts of 24 weights, of which a token uses one, and one that all use.
    fn mixture() -> ModelSpec {
        ModelSpec { experts: 4, top_k: 1, shared_experts: 1, moe_intermediate: 2, first_dense: 1, ..dense() }
    }

    #[test]
    fn a_prompt_and_a_token_by_hand() {
        // A step with a prompt of 3 tokens, which attend to 1 + 2 + 3; then a step with a token that attends to 4. Three
        // cache entries written, three read, one written: 7 of 2 layers * 2 * 2 numbers. Four hidden states of 2 * 4.
        let sums = WorkSums {
            decode_requests: 1,
            decode_context: 3,
            prefill_tokens: 3,
            prefill_tokens_squared: 9,
            steps_by_tokens: vec![0, 1, 0, 1],
            ..WorkSums::default()
        };
        let cases = [
            // 288 weights, 2 operations each per token, all read in each step; 32 operations per pair.
            (dense(), 1, 4.0 * 576.0 + 10.0 * 32.0, 2.0 * (2.0 * 288.0 + 7.0 * 8.0 + 4.0 * 8.0)),
            // The one head of the cache is on both GPUs.
            (dense(), 2, 4.0 * 576.0 + 10.0 * 32.0, 2.0 * (2.0 * 288.0 + 2.0 * 7.0 * 8.0 + 4.0 * 8.0)),
            // 216 weights and one expert per token; 3 tokens meet 4 (1 - (3/4)^3) = 37/16 experts, one token one.
            (
                mixture(),
                1,
                4.0 * 480.0 + 10.0 * 32.0,
                2.0 * (2.0 * 216.0 + 24.0 * (37.0 / 16.0 + 1.0) + 7.0 * 8.0 + 4.0 * 8.0),
            ),
        ];
        for (model, tp, flops, bytes) in cases {
            let d = Deployment { tp, ..scenario_8b().deployment };
            let costs = Costs::new(&d, &model, &h100());
            assert_eq!(costs.work(&sums), Work { flops, bytes }, "tp {tp} {model:?}");
        }
    }

    #[test]
    fn a_later_chunk_attends_to_the_chunks_before_it() {
        // A prompt of 5 tokens in chunks of 3 and 2 is as much arithmetic as in one, but reads 3 cache entries again.
        let chunks = WorkSums {
            prefill_tokens: 5,
            prefill_context: 3,
            prefill_tokens_x_context: 6,
            prefill_tokens_squared: 13,
            ..WorkSums::default()
        };
        let whole = WorkSums { prefill_tokens: 5, prefill_tokens_squared: 25, ..WorkSums::default() };
        let costs = Costs::new(&scenario_8b().deployment, &dense(), &h100());
        let (chunks, whole) = (costs.work(&chunks), costs.work(&whole));
        assert_eq!(chunks.flops, whole.flops);
        assert_eq!(chunks.bytes, whole.bytes + 3.0 * 8.0 * 2.0);
    }

    fn sums(s: &BatchShape) -> WorkSums {
        let mut steps_by_tokens = vec![0; (s.decode_requests + s.prefill_tokens) as usize];
        steps_by_tokens.push(1);
        WorkSums {
            decode_requests: s.decode_requests,
            decode_context: u128::from(s.decode_context),
            prefill_tokens: s.prefill_tokens,
            prefill_context: u128::from(s.prefill_context),
            prefill_tokens_x_context: u128::from(s.prefill_tokens_x_context),
            prefill_tokens_squared: u128::from(s.prefill_tokens_squared),
            steps_by_tokens,
        }
    }

    #[test]
    fn a_roofline_step_is_at_one_of_its_limits() {
        let decode = BatchShape { decode_requests: 8, decode_context: 8_000, ..BatchShape::default() };
        let prefill = BatchShape {
            prefill_requests: 1,
            prefill_tokens: 2_000,
            prefill_tokens_squared: 4_000_000,
            ..BatchShape::default()
        };
        let mixture = ModelSpec { experts: 8, top_k: 2, ..llama_8b() };
        for (model, tp, pp) in [(llama_8b(), 1, 1), (llama_8b(), 4, 1), (mixture, 2, 2)] {
            let mut s = scenario_8b();
            (s.model, s.deployment.tp, s.deployment.pp) = (model, tp, pp);
            let of = |shape: &BatchShape| {
                let busy = build(&s.deployment, &s.model, &s.gpu).step(shape);
                utilization(&s, &Summary { busy, work: sums(shape), ..Summary::default() }).unwrap()
            };
            // One stage of a pipeline works at a time.
            let (stages, near) = (f64::from(pp), |a: f64, b: f64| (a / b - 1.0).abs() < 1e-3);
            let (mfu, mbu) = of(&decode);
            assert!(near(mbu * stages, 1.0) && mfu < 0.3, "{tp} {pp}: decode at {mfu} and {mbu}");
            let (mfu, mbu) = of(&prefill);
            assert!(near(mfu * stages, 0.45) && mbu < 1.0, "{tp} {pp}: prefill at {mfu} and {mbu}");
        }
    }

    #[test]
    fn ranks_that_share_experts_read_those_that_all_their_tokens_choose() {
        // As above, with two ranks of a GPU each: a step of 3 tokens is one of 6, which meet 4 (1 - (3/4)^6) = 3367/1024
        // experts, a step of one token one of 2, which meet 7/4; each rank reads half of them. Arithmetic is its own.
        let sums = WorkSums {
            decode_requests: 1,
            decode_context: 3,
            prefill_tokens: 3,
            prefill_tokens_squared: 9,
            steps_by_tokens: vec![0, 1, 0, 1],
            ..WorkSums::default()
        };
        let of = |dp: u32, enable_expert_parallel: bool| {
            let d = Deployment { dp, enable_expert_parallel, ..scenario_8b().deployment };
            Costs::new(&d, &mixture(), &h100())
        };
        let shared = of(2, true).work(&sums);
        let experts = (3367.0 / 1024.0 + 7.0 / 4.0) / 2.0;
        assert_eq!(shared.flops, 4.0 * 480.0 + 10.0 * 32.0);
        assert_eq!(shared.bytes, 2.0 * (2.0 * 216.0 + 24.0 * experts + 7.0 * 8.0 + 4.0 * 8.0));
        // Copies read what they read alone.
        assert_eq!(of(2, false).work(&sums), of(1, false).work(&sums));
        assert_eq!(of(1, true).work(&sums), of(1, false).work(&sums));
        assert_eq!(of(2, true).peak(), of(1, false).peak());
    }

    #[test]
    fn utilization_of_pools_is_work_over_what_all_could_have_done() {
        let mut s = scenario_8b();
        s.deployment.pools = serde_json::from_str(r#"{"a": {"tp": 2}, "b": {"role": "mixed"}}"#).unwrap();
        s.pools = vec![crate::pools::PoolFacts::new(&s.model, &s.gpu); 2];
        let pool = |seconds: f64, prefill_tokens: u64| Summary {
            busy: crate::units::SimDuration::from_s(seconds),
            work: WorkSums { prefill_tokens, ..WorkSums::default() },
            ..Summary::default()
        };
        let summary = Summary { pools: vec![pool(3.0, 1_000_000), pool(1.0, 500_000)], ..Summary::default() };
        let sites = s.sites();
        let of = |i: usize| utilization_of_pool(&sites[i], &summary.pools[i]).unwrap().0;
        // Two GPUs for three seconds, and one for one.
        let all = utilization(&s, &summary).unwrap().0;
        assert!((all / ((of(0) * 6.0 + of(1)) / 7.0) - 1.0).abs() < 1e-12, "{all} of {} and {}", of(0), of(1));
        // A pool that knows no facts leaves the whole unknown, not the others.
        s.deployment.pools.get_mut("b").unwrap().latency =
            Some(Latency::Rates(Rates { prefill_tokens_per_s: 1.0, decode_tokens_per_s: 1.0 }));
        assert_eq!(utilization(&s, &summary), None);
        assert_eq!(utilization_of_pool(&s.sites()[0], &summary.pools[0]).unwrap().0, of(0));
    }

    #[test]
    fn utilization_needs_facts_and_time() {
        let busy = crate::units::SimDuration::from_s(1.0);
        let one_step = Summary {
            busy,
            work: WorkSums { steps_by_tokens: vec![0, 1], ..WorkSums::default() },
            ..Summary::default()
        };
        let mut s = scenario_8b();
        let (mfu, mbu) = utilization(&s, &one_step).unwrap();
        // 6.98e9 weights of 2 bytes in a second, of 3.35e12.
        assert!(mfu == 0.0 && (mbu / 4.1668e-3 - 1.0).abs() < 1e-4, "{mfu} {mbu}");
        assert_eq!(utilization(&s, &Summary { work: one_step.work.clone(), ..Summary::default() }), None);
        s.deployment.latency = Latency::Rates(Rates { prefill_tokens_per_s: 1.0, decode_tokens_per_s: 1.0 });
        assert_eq!(utilization(&s, &one_step), None);
    }
}
