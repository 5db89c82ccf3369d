//! What SGLang's server makes of its settings when it starts (`server_args.py`, `model_runner.py`), and what it refuses.

use super::kernels::PARAMETERS;
use super::{AttentionBackend, MoeA2aBackend, SchedulePolicy, Settled, Sglang};
use crate::pools::Site;
use crate::scenario::{Deployment, GpuSpec, KvCache, ModelSpec};
use crate::sim::engine;
use crate::sim::kv::plan;
use crate::sim::latency::TIME_MAX_US;
use crate::sim::scheduler::{Scheduler, bad_overhead};
use crate::sim::speculative::DraftMethod;

/// A setting (dotted path) and what is to be told of it.
type Told = (&'static str, String);

/// `kv.block_size` where nobody says it.
const BLOCK_SIZE_UNSAID: u32 = 16;
/// Requests that may run at once where drafts are verified, and nobody says how many.
const SPECULATIVE_REQUESTS: u32 = 48;
const FACTOR_MAX: f64 = 1e3;

/// Puts what SGLang makes of its settings into the deployment; what a user would want to know of that.
pub(in crate::sim::scheduler) fn settle(d: &mut Deployment, model: &ModelSpec, gpu: &GpuSpec) -> Vec<Told> {
    let Scheduler::Sglang(rules) = &d.scheduler else { return Vec::new() };
    let (mut rules, mut told) = (rules.clone(), Vec::new());
    (d.tp, d.pp, d.dp) = rules.sizes((d.tp, d.pp, d.dp));
    rules.by_speculation(d, &mut told);
    rules.by_memory(d, gpu);
    rules.by_backend(d, model, gpu, &mut told);
    rules.by_parallelism(d, &mut told);
    rules.by_cache(d, &mut told);
    if rules.num_continuous_decode_steps > 1 {
        let what = match rules.disable_overlap_schedule {
            true => "is simulated as SGLang ran it up to 0.3.5; 0.5.9 reads it nowhere: 1 is what that does",
            false => "has no effect: the overlap schedule never looked at it, and SGLang 0.5.9 reads it nowhere",
        };
        told.push(("deployment.scheduler.sglang.num_continuous_decode_steps", what.to_string()));
    }
    d.scheduler = Scheduler::Sglang(rules.clone());
    rules.by_length(d, model, gpu);
    d.scheduler = Scheduler::Sglang(rules);
    told
}

impl Sglang {
    /// `_handle_pd_disaggregation`: a decode server keeps no prefixes.
    pub(in crate::sim::scheduler) fn settle_decode(&mut self, kv: &KvCache) -> Vec<Told> {
        let had = kv.enable_prefix_caching && !self.disable_radix_cache;
        self.disable_radix_cache = true;
        let what = "true: a decode server keeps no prefixes (KV cache is forced as chunk cache for decode server)";
        if had { vec![("deployment.scheduler.sglang.disable_radix_cache", what.into())] } else { Vec::new() }
    }

    /// Tensor-, pipeline- and data-parallel size of a deployment: its own, or where it has 1, these.
    pub(crate) fn sizes(&self, (tp, pp, dp): (u32, u32, u32)) -> (u32, u32, u32) {
        let or = |own: u32, other: Option<u32>| if own == 1 { other.unwrap_or(1) } else { own };
        let dp = or(dp, self.dp_size);
        let shares = if self.enable_dp_attention { dp.max(1) } else { 1 };
        (or(tp, self.tp_size.map(|size| size / shares)), or(pp, self.pp_size), dp)
    }

    /// Ranks of DP attention, which share what is given for all.
    fn ranks(&self, d: &Deployment) -> u32 {
        if self.enable_dp_attention { d.dp.max(1) } else { 1 }
    }

    /// `_handle_gpu_memory_settings`: chunks, CUDA graphs and memory, by the memory of the GPU in MiB.
    fn by_memory(&mut self, d: &Deployment, gpu: &GpuSpec) {
        let ranks = f64::from(self.ranks(d));
        let tp = f64::from(d.tp) * ranks;
        let (mib, large) = (gpu.memory_gib * 1024.0, tp >= 4.0);
        let (chunk, graphs) = match mib / 1024.0 {
            gib if gib < 20.0 => (2048, 8),
            gib if gib < 35.0 => (2048, if large { 80 } else { 24 }),
            gib if gib < 60.0 => (4096, if large { 160 } else { 32 }),
            gib if gib < 160.0 => (8192, if large { 512 } else { 256 }),
            _ => (16_384, 512),
        };
        self.chunked_prefill_size.get_or_insert(chunk);
        let graphs = f64::from(*self.cuda_graph_max_bs.get_or_insert(graphs));
        if self.mem_fraction_static.is_some() {
            return;
        }
        let tokens = self.chunk().unwrap_or(self.max_prefill_tokens).max(2048);
        let mut reserved = 512.0 + f64::from(tokens) * 1.5 + graphs * 2.0 + tp * f64::from(d.pp) / 8.0 * 1024.0;
        if self.enable_dp_attention && d.dp > 1 {
            reserved += graphs * ranks * if graphs > 300.0 { 4.5 } else { 3.0 };
        }
        if mib > 60.0 * 1024.0 {
            reserved = reserved.max(10.0 * 1024.0);
        }
        reserved += match d.speculative.as_ref().map(|drafts| drafts.method) {
            Some(DraftMethod::DraftModel) => 6.0 * 1024.0,
            Some(DraftMethod::Eagle | DraftMethod::Mtp) => 2.0 * 1024.0,
            Some(DraftMethod::Ngram) | None => 0.0,
        };
        self.mem_fraction_static = Some(((mib - reserved) / mib * 1000.0).round() / 1000.0);
    }

    /// `_handle_speculative_decoding`.
    fn by_speculation(&mut self, d: &Deployment, told: &mut Vec<Told>) {
        let Some(drafts) = &d.speculative else { return };
        self.settled.verified = 1 + drafts.longest();
        if self.max_running_requests.is_none() {
            self.max_running_requests = Some(SPECULATIVE_REQUESTS);
            let what =
                format!("{SPECULATIVE_REQUESTS}: what SGLang sets with speculative decoding where nothing is said");
            told.push(("deployment.scheduler.sglang.max_running_requests", what));
        }
        if !self.disable_overlap_schedule {
            self.disable_overlap_schedule = true;
            let what = "true: without SGLANG_ENABLE_SPEC_V2 SGLang speculates without the overlap schedule";
            told.push(("deployment.scheduler.sglang.disable_overlap_schedule", what.into()));
        }
        if self.enable_mixed_chunk {
            self.enable_mixed_chunk = false;
            let what = "false: SGLang has no mixed chunks with speculative decoding";
            told.push(("deployment.scheduler.sglang.enable_mixed_chunk", what.into()));
        }
    }

    /// `_handle_attention_backend_compatibility`.
    fn by_backend(&mut self, d: &mut Deployment, model: &ModelSpec, gpu: &GpuSpec, told: &mut Vec<Told>) {
        use AttentionBackend as Backend;
        if let Some(page) = self.page_size
            && d.kv.block_size == BLOCK_SIZE_UNSAID
        {
            d.kv.block_size = page;
        }
        let agreed = self.page_size.is_none_or(|page| page == d.kv.block_size);
        let both = [self.attention_backend, self.decode_attention_backend];
        if let Some(backend @ (Backend::TorchNative | Backend::FlexAttention)) = self.attention_backend
            && !self.disable_cuda_graph
        {
            self.disable_cuda_graph = true;
            told.push(("deployment.scheduler.sglang.disable_cuda_graph", format!("true: {backend:?} has none")));
        }
        let mut pages = |fits: &[u32], page: u32, why: &str| {
            if fits.contains(&d.kv.block_size) {
                return;
            }
            told.push(("deployment.kv.block_size", format!("{page}, not {}: {why}", d.kv.block_size)));
            repage(&mut d.kv, page);
        };
        if both.contains(&Some(Backend::Flashmla)) {
            pages(&[64], 64, "FlashMLA only supports a page_size of 64");
        }
        if both.contains(&Some(Backend::CutlassMla)) {
            pages(&[128], 128, "Cutlass MLA only supports a page_size of 128");
        }
        if both.contains(&Some(Backend::TrtllmMla)) && blackwell(gpu) {
            pages(&[32, 64], 64, "TensorRT-LLM MLA only supports a page_size of 32 or 64");
        }
        if self.uses_trtllm_mha() && blackwell(gpu) {
            pages(&[16, 32, 64], 64, "TensorRT-LLM MHA only supports a page_size of 16, 32 or 64");
        }
        if self.prefill_attention_backend == Some(Backend::Fa4) && model.mla.is_none() {
            pages(&[128], 128, "FA4 only supports a page_size of 128 where attention is not latent");
        }
        if agreed {
            self.page_size = self.page_size.map(|_| d.kv.block_size);
        }
        if self.attention_backend == Some(Backend::Aiter) && d.max_model_len.unwrap_or(model.max_pos) > 8192 {
            self.mem_fraction_static = self.mem_fraction_static.map(|share| share * 0.85);
            told.push(("deployment.scheduler.sglang.mem_fraction_static", "0.85 of it: aiter, long contexts".into()));
        }
        if self.attention_backend == Some(Backend::DualChunkFlashAttn) {
            let had = self.enable_mixed_chunk || !self.disable_radix_cache;
            (self.enable_mixed_chunk, self.disable_radix_cache) = (false, true);
            if had {
                let what = "dual-chunk attention has neither mixed chunks nor the radix cache: both are off";
                told.push(("deployment.scheduler.sglang.attention_backend", what.into()));
            }
        }
    }

    /// `_handle_data_parallelism`, `_handle_pipeline_parallelism`.
    fn by_parallelism(&mut self, d: &Deployment, told: &mut Vec<Told>) {
        if self.enable_dp_attention && d.dp > 1 {
            self.schedule_conservativeness *= 0.3;
            told.push((
                "deployment.scheduler.sglang.schedule_conservativeness",
                format!("{}: 0.3 of it with DP attention", self.schedule_conservativeness),
            ));
            if let Some(size) = self.chunked_prefill_size {
                let each = size.div_euclid(i64::from(d.dp));
                self.chunked_prefill_size = Some(each);
                let what = format!("{each} on each of the {} ranks of DP attention", d.dp);
                told.push(("deployment.scheduler.sglang.chunked_prefill_size", what));
            }
        }
        if d.pp > 1 && !self.disable_overlap_schedule {
            self.disable_overlap_schedule = true;
            let what = "true: pipeline parallelism is incompatible with overlap schedule";
            told.push(("deployment.scheduler.sglang.disable_overlap_schedule", what.into()));
        }
    }

    /// `SchedulePolicy._validate_and_adjust_policy`.
    fn by_cache(&mut self, d: &mut Deployment, told: &mut Vec<Told>) {
        self.disable_radix_cache |= !d.kv.enable_prefix_caching;
        d.kv.enable_prefix_caching = !self.disable_radix_cache;
        let looks = matches!(self.schedule_policy, SchedulePolicy::Lpm | SchedulePolicy::DfsWeight);
        if looks && self.disable_radix_cache {
            self.schedule_policy = SchedulePolicy::Fcfs;
            told.push((
                "deployment.scheduler.sglang.schedule_policy",
                "fcfs: there is no radix cache to look at".into(),
            ));
        }
    }

    /// `init_req_max_new_tokens`, `max_req_input_len`, `_resolve_max_num_reqs`.
    fn by_length(&mut self, d: &mut Deployment, model: &ModelSpec, gpu: &GpuSpec) {
        // What is beyond the model's positions is refused as it is written.
        let Ok(blocks) = plan::blocks(d, model, gpu) else { return };
        if d.max_model_len.is_some_and(|len| len > model.max_pos || len < 2) {
            return;
        }
        let limit = engine::max_len(d, model, blocks);
        let held = blocks.saturating_mul(u64::from(d.kv.block_size));
        let most = (held.saturating_mul(512) / u64::from(limit.max(1))).clamp(2048, 4096);
        let running_max = match self.max_running_requests {
            Some(all) => most.min(u64::from(all / self.ranks(d))),
            None => most.min(held / 2),
        };
        let input_max = limit.saturating_sub(7);
        self.settled = Settled { input_max, running_max: running_max as u32, ..self.settled };
        d.max_model_len = Some(limit.saturating_sub(2).max(2));
    }

    fn uses_trtllm_mha(&self) -> bool {
        let all = [self.attention_backend, self.decode_attention_backend, self.prefill_attention_backend];
        all.contains(&Some(AttentionBackend::TrtllmMha))
    }

    /// What is wrong with it, by path, once settled.
    pub(in crate::sim) fn problems(&self, site: &Site) -> Vec<Told> {
        let mut p = Vec::new();
        self.wrong_sizes(&site.deployment, &mut p);
        self.wrong_numbers(site, &mut p);
        self.wrong_kernels(&site.gpu, &mut p);
        p
    }

    /// Two names of one thing must agree.
    fn wrong_sizes(&self, d: &Deployment, p: &mut Vec<Told>) {
        let ranks = self.ranks(d);
        for (path, given, own, name) in [
            ("deployment.scheduler.sglang.tp_size", self.tp_size, d.tp.saturating_mul(ranks), "tp"),
            ("deployment.scheduler.sglang.pp_size", self.pp_size, d.pp, "pp"),
            ("deployment.scheduler.sglang.dp_size", self.dp_size, d.dp, "dp"),
            ("deployment.scheduler.sglang.page_size", self.page_size, d.kv.block_size, "kv.block_size"),
        ] {
            let Some(size) = given.filter(|size| *size != own) else { continue };
            if path.ends_with("tp_size") && !size.is_multiple_of(ranks) {
                p.push((
                    path,
                    format!("{size} GPUs cannot be shared by {ranks} ranks of DP attention; must be a multiple"),
                ));
            } else if size == 0 {
                p.push((path, "is 0; must be at least 1".into()));
            } else {
                p.push((path, format!("is {size}, but deployment.{name} says {own}; say it once, or the same")));
            }
        }
    }

    fn wrong_numbers(&self, site: &Site, p: &mut Vec<Told>) {
        let d = &site.deployment;
        let page = d.kv.block_size.max(1);
        if let Some(chunk) = self.chunk().filter(|chunk| !chunk.is_multiple_of(page)) {
            let message = format!("{chunk} is refused: chunked_prefill_size must be divisible by page_size ({page})");
            p.push(("deployment.scheduler.sglang.chunked_prefill_size", message));
        }
        if let Some(drafts) = &d.speculative {
            if d.pp > 1 {
                let message = "is refused: pipeline parallelism is not compatible with speculative decoding";
                p.push(("deployment.pp", message.into()));
            }
            if self.enable_dp_attention && matches!(drafts.method, DraftMethod::DraftModel | DraftMethod::Ngram) {
                let message = "is refused: neither a draft model of its own nor ngram supports DP attention";
                p.push(("deployment.speculative.method", message.into()));
            }
        }
        if d.pp > 1 && self.enable_mixed_chunk {
            let message = "is refused: pipeline parallelism is not compatible with mixed chunked prefill";
            p.push(("deployment.scheduler.sglang.enable_mixed_chunk", message.into()));
        }
        if self.max_running_requests.is_some_and(|all| all / self.ranks(d) == 0) {
            let message = "is refused: max_running_request is zero (of every rank of DP attention)";
            p.push(("deployment.scheduler.sglang.max_running_requests", message.into()));
        }
        for (path, value, max, must) in [
            (
                "deployment.scheduler.sglang.schedule_conservativeness",
                self.schedule_conservativeness,
                FACTOR_MAX,
                "schedule_conservativeness must be non-negative",
            ),
            (
                "deployment.scheduler.sglang.init_new_token_ratio",
                self.init_new_token_ratio,
                FACTOR_MAX,
                "must be 0 or more",
            ),
            (
                "deployment.scheduler.sglang.min_new_token_ratio_factor",
                self.min_new_token_ratio_factor,
                1.0,
                "must be 0 to 1",
            ),
        ] {
            if !(0.0..=max).contains(&value) {
                p.push((path, format!("is {value}; {must}")));
            }
        }
        p.extend(bad_overhead("deployment.scheduler.sglang.scheduler_overhead_us", self.scheduler_overhead_us));
        if let Some(share) = self.mem_fraction_static.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            p.push((
                "deployment.scheduler.sglang.mem_fraction_static",
                format!("is {share}; must be above 0 and below 1"),
            ));
        }
        let (graphs, prompts) = (self.cuda_graph_max_bs.unwrap_or(1), self.prefill_max_requests.unwrap_or(1));
        for (path, value, message) in [
            (
                "deployment.scheduler.sglang.tokenizer_worker_num",
                self.tokenizer_worker_num,
                "is refused: tokenizer worker num must >= 1",
            ),
            ("deployment.scheduler.sglang.cuda_graph_max_bs", graphs, "is 0; must be at least 1"),
            (
                "deployment.scheduler.sglang.new_token_ratio_decay_steps",
                self.new_token_ratio_decay_steps,
                "is 0; must be at least 1",
            ),
            ("deployment.scheduler.sglang.prefill_max_requests", prompts, "is 0; no prompt would ever be added"),
        ] {
            if value == 0 {
                p.push((path, message.into()));
            }
        }
    }

    fn wrong_kernels(&self, gpu: &GpuSpec, p: &mut Vec<Told>) {
        if self.enable_two_batch_overlap && self.moe_a2a_backend == MoeA2aBackend::None {
            let message = "is refused: when enabling two batch overlap, moe_a2a_backend cannot be `none`";
            p.push(("deployment.scheduler.sglang.enable_two_batch_overlap", message.into()));
        }
        let mla = [self.attention_backend, self.decode_attention_backend].contains(&Some(AttentionBackend::TrtllmMla));
        if (mla || self.uses_trtllm_mha()) && !blackwell(gpu) {
            let message = "is refused: the TensorRT-LLM backends are only supported on Blackwell GPUs (in the catalog: with \
                           fp4_tflops)";
            p.push(("deployment.scheduler.sglang.attention_backend", message.into()));
        }
        for (parameter, values) in &self.kernel_factors {
            if !PARAMETERS.contains(&parameter.as_str()) {
                let message = format!("has no parameter `{parameter}`; valid are {}", PARAMETERS.join(", "));
                p.push(("deployment.scheduler.sglang.kernel_factors", message));
            }
            for (value, cost) in values {
                let all = [cost.prefill, cost.decode];
                let more = [cost.prefill_us, cost.decode_us];
                if !all.iter().all(|f| *f > 0.0 && *f <= FACTOR_MAX)
                    || !more.iter().all(|us| (0.0..=TIME_MAX_US).contains(us))
                {
                    let message = format!(
                        "{parameter}: {value}: factors must be above 0, up to {FACTOR_MAX}; times 0 to {TIME_MAX_US} us"
                    );
                    p.push(("deployment.scheduler.sglang.kernel_factors", message));
                }
            }
        }
    }

    /// The same, once the blocks of a replica are known.
    pub(in crate::sim) fn problems_of_cache(&self, site: &Site, blocks: u64) -> Vec<Told> {
        if self.settled.input_max > 0 && self.settled.running_max > 0 {
            return Vec::new();
        }
        let held = blocks.saturating_mul(u64::from(site.deployment.kv.block_size));
        let path = if held < 8 { "deployment.kv.num_gpu_blocks" } else { "deployment.max_model_len" };
        let message = "is refused: memory pool size is too small; a prompt may have all but 7 of the tokens that cache and \
                       context hold";
        vec![(path, message.into())]
    }
}

/// Pages of another size, for as many tokens.
fn repage(kv: &mut KvCache, page: u32) {
    let tokens = |blocks: u64| blocks.saturating_mul(u64::from(kv.block_size)) / u64::from(page);
    kv.num_gpu_blocks = kv.num_gpu_blocks.map(tokens);
    kv.block_size = page;
}

/// SM100: the GPUs that compute in four bits.
fn blackwell(gpu: &GpuSpec) -> bool {
    gpu.fp4_tflops > 0.0
}
