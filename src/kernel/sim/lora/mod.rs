//! LoRA adapters: requests that ask for one (column `adapter`) need it on the GPU, which has slots for few.
//!
//! | rule | source | test (`timelines/lora.rs`, else the unit tests here) |
//! |---|---|---|
//! | 1. An adapter is *in use* on a replica while a request that asks for it runs there; of the rest, those on the GPU are *idle*. Requests without an adapter are not concerned by any rule | vLLM 0.11 `v1/core/sched/scheduler.py` (`scheduled_loras`) | `no_more_adapters_at_once_than_slots` |
//! | 2. `loading: in_step`: a waiting request may be admitted if its adapter is in use, or fewer than `max_loras` are. If it is not on the GPU, it is loaded before the batch runs, one after the other: the step lasts as much longer | vLLM (the scheduler counts, `v1/worker/lora_model_runner_mixin.py` loads in `set_active_loras`) | `a_step_loads_what_its_batch_needs` |
//! | 3. `loading: background`: a request may be admitted if its adapter is on the GPU. One adapter is loaded at a time, while steps run; a load begins when a step is formed, before anybody is admitted: for the first waiting request (with `gate: head_of_line`, only the head) whose adapter is not there, if there is a slot for it | inference-sim `sim/simulator.go` (`maybeStartAdapterLoad`) | `the_next_load_begins_with_a_step`, `loads_go_on_while_steps_run` |
//! | 4. `gate: skip`: requests behind one that may not be admitted for its adapter's sake may be, in their order. `gate: head_of_line`: it blocks them | vLLM (`skipped_waiting_requests`); inference-sim `sim/batch_formation.go` | `those_behind_go_first_or_wait` |
//! | 5. A slot is free, or the idle adapter gives it up that has been idle for longest (since its last request left, or since it came). In the background, one that a request asks for that stands before in the queue is spared | vLLM `lora/models.py` (`LRUCacheLoRAModelManager`); inference-sim `sim/lora/resident_set.go` | `the_one_longest_idle_goes`, `what_the_first_in_the_queue_needs_stays` |
//! | 6. With `disk_gb_per_s`, the host's memory holds the `max_cpu_loras` adapters used last, those on the GPU among them; others are read from disk first | vLLM (`max_cpu_loras`, `_registered_adapters`) | `the_host_forgets_what_it_has_no_room_for` |
//! | 7. A load takes `load_base_us + bytes / load_gb_per_s`, after `disk_base_us + bytes / disk_gb_per_s` where it is read from disk; bytes are those of the adapter's own rank on one GPU. In the background it takes whole ticks, rounded up, at least one | inference-sim `sim/lora/cost_model.go` (`LoadLatency`) | `loads_take_what_their_bytes_take` |
//! | 8. A step with `n` distinct adapters in its batch, the largest of rank `r`, takes `t (1 + n k(r)) + step_us + n per_adapter_us`, where `t` is what the latency model says, in whole ticks, and `k` is interpolated in `factors` (beyond the first and the last, theirs) | inference-sim (`StepOverheadFactor`: the nearest tier) | `steps_take_longer_with_more_and_larger_adapters` |
//! | 9. The slots take `max_loras * max_lora_rank * bytes per rank` of every GPU from the KV cache that is planned; blocks that the deployment sets (`num_gpu_blocks`) are as many as it says | vLLM (stacked tensors of the largest rank); inference-sim (`AdapterReservedBytes`) | `slots_take_memory` |
//! | 10. Blocks of equal tokens under different adapters have different contents. What a router remembers of prompts it has sent does not tell them apart | vLLM `v1/core/kv_cache_utils.py` (`_gen_lora_extra_hash_keys`) | `a_prefix_is_found_under_its_own_adapter_only` |
//! | 11. SGLang: requests without an adapter need a slot, too, one for all of them, which is given up last; nothing is loaded into it, and no rule on costs counts it. Only `gate: skip` | SGLang 0.5.9 `lora/lora_manager.py` (`validate_lora_batch`: the base model is one of `max_loras_per_batch`), `lora/mem_pool.py` | `timelines/sglang.rs`: `adapters_of_a_batch_have_slots`, `requests_without_an_adapter_need_a_slot` |
//! | 12. A request that is fetched from tiers waits all the while and has no adapter in use: it asks for it when it is admitted. When it leaves the queue to be fetched, the next load in the background may begin at once | as 1: vLLM looks at adapters before it asks its connector | `timelines/tiers.rs`: `tiers_tell_adapters_apart` |
//! | 13. TensorRT-LLM: a request may be scheduled if there is a slot for its adapter beside those of the requests that generate, or that were scheduled before it in the same step, also where they get no tokens. Else it is passed over; with MAX_UTILIZATION it is as if its blocks did not fit. Only `loading: in_step` and `gate: skip` | TensorRT-LLM 1.2 `capacityScheduler.cpp` (`determineNumPages`, `getMaxDevicePages`), `peftCacheManager.cpp` (`ensureBatch` before the batch runs) | `timelines/lora.rs`: `trtllm_passes_over_who_has_no_slot`, `slots_are_claimed_without_tokens`, `with_max_utilization_all_wait_behind_who_has_no_slot` |
//!
//! **Bytes per rank** on one GPU: two per number, over the layers of the largest pipeline stage and `target_modules`, of
//! `in + out` numbers each. Of matrices that tensor parallelism cuts by their output (`q k v gate up`), a GPU has all of the
//! input side and its part of the output side; of those cut by their input (`o down`) the other way round; with
//! `fully_sharded_loras` its part of both (vLLM `lora/layers/`). Experts have no adapters, and neither have embeddings, the
//! output matrix and layers of linear attention; latent attention counts its two query matrices as `q_proj`, the
//! compressing one as `k_proj` and the expanding one as `v_proj`. Llama 3.1 8B: 5,242,880 bytes; inference-sim has 2,000,000
//! for any model (`bytes_per_rank: 2e6`).
//!
//! At one instant: steps end; then a load is over; then requests enter the queue, clients that went are noticed, and steps
//! are formed. A load that has begun is paid for, and counts, whoever still needs it.
//!
//! # For whoever forms batches
//!
//! The fast engine: take the next request from [`Replica::next_waiting`](crate::sim) in the place of `waiting.front()`, and
//! take it out by `dequeue` in the place of `waiting.pop_front()`; where tiers are asked, from `next_ready`, which may say one
//! of [`Replica::loaded`](crate::sim), to be taken out by `unload`. One that goes through `waiting.iter()` in an order of its
//! own asks `gate(slot)` of each: `Go`, `Skip` (the next one may go) or `Stop` (none behind may). Everything else hangs on
//! `seat`, `preempt`, `leave` and `launch`. The oracle: `head` heeds adapters; who looks at `waiting` itself asks `gate`. Then
//! set [`Common::knows_adapters`](crate::sim::scheduler); schedulers that do not are refused.
//!
//! # What differs
//!
//! - vLLM counts the adapters of the requests scheduled in a step, here of those that run: with asynchronous scheduling,
//!   one whose last request waits for its last token is in use for one step more. vLLM's order among adapters that
//!   became idle in the same step is that of a Python set; here, that in which their requests left.
//! - SGLang's `max_loras_per_batch` is `max_loras`, its `max_loaded_loras` `max_cpu_loras`, `enable_lora_overlap_loading`
//!   `loading: background`. There, adapters of requests that have ended stay in use until the next step of replies; with
//!   overlap several are on their way at once, one after the other, and none while the batch is full; here one is, which begins
//!   before the queue is ordered.
//! - vLLM's version 0 counts adapters as version 1 does (`core/scheduler.py`, `_schedule_prefills`); with swapped requests it
//!   is refused here. Sarathi-Serve, Orca, FasterTransformer and LightLLM have no adapters (S-LoRA is a project of its own).
//! - TensorRT-LLM's PEFT cache has pages, of which an adapter takes more the larger its rank is; here each takes a slot of
//!   `max_loras`. There, prompts under way do not count as users of their adapters (rule 13), and where one before them in the
//!   list takes the slot that they hold, the engine fails; here they count. Its cache in the host's memory refuses an adapter
//!   that it has no room for; here rule 6 holds.
//! - The router's `lora-affinity` goes by what it has sent, with a `max_loras` of its own, not by what is on the GPU.
//! - inference-sim orders by the last admission, here by the end of use; there, a preempted request keeps its adapter in
//!   use, here not. Its nearest tier is here an interpolation, equal at the tiers.

mod adapters;
mod costs;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(in crate::sim) use adapters::{Adapters, Claims, Gated, NO_ADAPTER, Plan};
pub(in crate::sim) use costs::{Costs, Mix, bytes_per_rank};

use crate::pools::{Role, Site};
use crate::request::Requests;
use crate::sim::scheduler::{QueueOrder, Scheduler};
use crate::units::SimDuration;

/// Ranks that vLLM lays slots out for (`vllm/config/lora.py`, `MaxLoRARanks`).
const MAX_LORA_RANKS: [u32; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];
/// Longest base time: one minute, in microseconds.
const BASE_MAX_US: f64 = 60e6;
/// Largest factor per adapter.
const FACTOR_MAX: f64 = 1e3;
/// Least bandwidth: a megabyte per second. What is slower is not the way of an adapter, and its loads would not end.
const GB_PER_S_MIN: f64 = 1e-3;
/// Most bytes per rank: an adapter of the largest rank is then larger than the memory of any GPU.
const BYTES_PER_RANK_MAX: f64 = 1e9;

/// Adapters and their slots, in vLLM's words where it has some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// Slots for adapters on the GPU: distinct adapters that the requests that run ask for.
    pub max_loras: u32,
    /// Adapters in the host's memory, those on the GPU among them; not below `max_loras`. Has a meaning with
    /// `disk_gb_per_s`. Default: `max_loras`.
    pub max_cpu_loras: Option<u32>,
    /// Largest rank of an adapter, for which every slot is laid out.
    pub max_lora_rank: u32,
    /// Cut both sides of every adapter over the tensor-parallel GPUs, not one.
    pub fully_sharded_loras: bool,
    /// Rank of the adapters that are not listed. Default: `max_lora_rank`.
    pub default_rank: Option<u32>,
    /// Adapters that differ from the others, by name; where the trace has no names, by number.
    pub adapters: BTreeMap<String, Adapter>,
    /// Matrices that adapters have a part for.
    pub target_modules: BTreeSet<Module>,
    /// Bytes of an adapter per rank on one GPU. Default: from the sizes of the model. inference-sim: 2e6.
    pub bytes_per_rank: Option<f64>,
    /// Whether requests go ahead of one that waits for its adapter.
    pub gate: Gate,
    /// When adapters are loaded.
    pub loading: Loading,
    /// From the start of a load until its bytes flow, in microseconds. inference-sim: 1500.
    pub load_base_us: f64,
    /// Bandwidth from the host to one GPU in GB/s (10^9 bytes). Default: `pcie_gb_per_s` of the GPU, or 25, of a PCIe 4.0 link
    /// of 16 lanes. inference-sim: 2000.
    pub load_gb_per_s: Option<f64>,
    /// From the start of a read from disk until its bytes flow, in microseconds.
    pub disk_base_us: f64,
    /// Bandwidth from the disk, or whatever adapters are kept on, in GB/s. Default: the host's memory holds all of them.
    pub disk_gb_per_s: Option<f64>,
    /// Time that a step takes longer with any adapter in its batch, in microseconds. Default: 0, as there is no number that
    /// holds for every model and kernel: Punica measures 2 ms per token (Chen et al., MLSys 2024, abstract), for 7B to 70B
    /// on A100, with its own kernels.
    pub step_us: f64,
    /// Time that a step takes longer for every distinct adapter in its batch, in microseconds.
    pub per_adapter_us: f64,
    /// Share of the step by which it takes longer for every distinct adapter in its batch, by the largest rank among them.
    /// Default: none. inference-sim: 0.02 at rank 8, 0.035 at 16, 0.06 at 32.
    pub factors: Vec<RankFactor>,
}

/// What is known of one adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    pub rank: u32,
}

/// A point of the curve of `factors`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RankFactor {
    pub rank: u32,
    /// Share of the step per distinct adapter.
    pub factor: f64,
}

/// A matrix of a layer, as `target_modules` of an adapter's configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Module {
    pub const ALL: [Module; 7] = [
        Module::QProj,
        Module::KProj,
        Module::VProj,
        Module::OProj,
        Module::GateProj,
        Module::UpProj,
        Module::DownProj,
    ];
}

/// What becomes of those behind a request that waits for its adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// They may be admitted before it (vLLM).
    #[default]
    Skip,
    /// They wait behind it (inference-sim).
    HeadOfLine,
}

/// When adapters are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loading {
    /// In the step that needs them, before its batch runs (vLLM).
    #[default]
    InStep,
    /// One at a time, while steps run (inference-sim).
    Background,
}

impl Default for Lora {
    fn default() -> Self {
        Lora {
            max_loras: 1,
            max_cpu_loras: None,
            max_lora_rank: 16,
            fully_sharded_loras: false,
            default_rank: None,
            adapters: BTreeMap::new(),
            target_modules: Module::ALL.into(),
            bytes_per_rank: None,
            gate: Gate::default(),
            loading: Loading::default(),
            load_base_us: 0.0,
            load_gb_per_s: None,
            disk_base_us: 0.0,
            disk_gb_per_s: None,
            step_us: 0.0,
            per_adapter_us: 0.0,
            factors: Vec::new(),
        }
    }
}

/// What adapters came to on the replicas of a pool, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterSums {
    /// Adapters that were loaded onto a GPU, those of them that were read from disk, and the time that takes; counted when a
    /// load begins.
    pub loads: u64,
    pub reads: u64,
    pub load_time: SimDuration,
    /// Adapters that gave up their slot.
    pub evictions: u64,
    /// Integral over time of the requests in the queue whose adapter is not on the GPU, times nanoseconds; a request that
    /// waits for a seat or for blocks as well counts.
    pub wait_ns: i128,
    /// `steps_by_adapters[n]` steps had `n` distinct adapters in their batch. Empty where there are no adapters.
    pub steps_by_adapters: Vec<u64>,
}

impl AdapterSums {
    pub(in crate::sim) fn count_steps(&mut self, adapters: u32, steps: u64) {
        let at = adapters as usize;
        if at >= self.steps_by_adapters.len() {
            self.steps_by_adapters.resize(at + 1, 0);
        }
        self.steps_by_adapters[at] += steps;
    }

    pub(in crate::sim) fn merge(&mut self, other: &AdapterSums) {
        self.loads += other.loads;
        self.reads += other.reads;
        self.load_time += other.load_time;
        self.evictions += other.evictions;
        self.wait_ns += other.wait_ns;
        for (adapters, steps) in other.steps_by_adapters.iter().enumerate() {
            self.count_steps(adapters as u32, *steps);
        }
    }
}

/// A problem and the dotted path of its field.
type Problem = (Cow<'static, str>, String);

impl Lora {
    /// Rank of the adapter that requests know by this number.
    pub(in crate::sim) fn rank_of(&self, requests: &Requests, number: u32) -> u32 {
        let named = match requests.adapter_names.get(number as usize) {
            Some(name) => self.adapters.get(name),
            None => self.adapters.get(&number.to_string()),
        };
        named.map_or(self.default_rank.unwrap_or(self.max_lora_rank), |adapter| adapter.rank)
    }

    /// Adapters that the host's memory holds; `None` where it holds all.
    pub(in crate::sim) fn host_slots(&self) -> Option<u32> {
        self.disk_gb_per_s.map(|_| self.max_cpu_loras.unwrap_or(self.max_loras))
    }

    /// What cannot be.
    pub(in crate::sim) fn problems(&self, site: &Site) -> Vec<Problem> {
        let mut all = self.wrong_sizes();
        all.extend(self.wrong_times());
        all.extend(out_of_place(site));
        if self.gate == Gate::HeadOfLine && matches!(site.deployment.scheduler, Scheduler::Sglang(_)) {
            let message = "must be skip: SGLang looks behind a request whose adapter does not fit, and orders its queue anew \
                           after a load has begun";
            all.push(("deployment.lora.gate".into(), message.to_string()));
        }
        if matches!(site.deployment.scheduler, Scheduler::Trtllm(_)) {
            let mut add = |path: &'static str, message: &str| all.push((path.into(), message.to_string()));
            if self.gate == Gate::HeadOfLine {
                add(
                    "deployment.lora.gate",
                    "must be skip: capacity_scheduler_policy says who waits behind a request whose adapter does not fit",
                );
            }
            if self.loading == Loading::Background {
                add(
                    "deployment.lora.loading",
                    "must be in_step: TensorRT-LLM copies the adapters of a batch to the GPU before that runs",
                );
            }
        }
        all
    }

    fn wrong_sizes(&self) -> Vec<Problem> {
        let mut all = Vec::new();
        let mut add = |path: &str, message: String| all.push((format!("deployment.lora.{path}").into(), message));
        let most = self.max_lora_rank;
        if self.max_loras == 0 {
            add("max_loras", "is 0; must be at least 1".to_string());
        }
        if !MAX_LORA_RANKS.contains(&most) {
            add("max_lora_rank", format!("is {most}; vLLM knows {MAX_LORA_RANKS:?}"));
        }
        if let Some(held) = self.max_cpu_loras {
            if held < self.max_loras {
                add("max_cpu_loras", format!("is {held}; must be max_loras ({}) or more", self.max_loras));
            }
            if self.disk_gb_per_s.is_none() {
                add(
                    "max_cpu_loras",
                    "changes nothing without disk_gb_per_s, the way of those that the host forgets".into(),
                );
            }
        }
        let listed = self.adapters.iter().map(|(name, adapter)| (format!("adapters.{name}.rank"), adapter.rank));
        for (path, rank) in self.default_rank.map(|rank| ("default_rank".to_string(), rank)).into_iter().chain(listed) {
            if rank == 0 || rank > most {
                add(&path, format!("is {rank}; must be 1 to max_lora_rank ({most})"));
            }
        }
        match self.bytes_per_rank {
            Some(bytes) if !(bytes > 0.0 && bytes <= BYTES_PER_RANK_MAX) => {
                add("bytes_per_rank", format!("is {bytes}; must be above 0 and at most {BYTES_PER_RANK_MAX:e}"));
            }
            None if self.target_modules.is_empty() => add("target_modules", "is empty: there must be one".to_string()),
            Some(_) | None => {}
        }
        all
    }

    fn wrong_times(&self) -> Vec<Problem> {
        let mut all = Vec::new();
        let mut add = |path: &str, message: String| all.push((format!("deployment.lora.{path}").into(), message));
        for (path, us) in [
            ("load_base_us", self.load_base_us),
            ("disk_base_us", self.disk_base_us),
            ("step_us", self.step_us),
            ("per_adapter_us", self.per_adapter_us),
        ] {
            if !(0.0..=BASE_MAX_US).contains(&us) {
                add(path, format!("is {us}; must be 0 to {BASE_MAX_US} microseconds"));
            }
        }
        for (path, bandwidth) in [("load_gb_per_s", self.load_gb_per_s), ("disk_gb_per_s", self.disk_gb_per_s)] {
            if let Some(gb_per_s) = bandwidth.filter(|b| !(b.is_finite() && *b >= GB_PER_S_MIN)) {
                add(path, format!("is {gb_per_s}; must be a number, {GB_PER_S_MIN} or more"));
            }
        }
        if !self.factors.iter().all(|f| (0.0..=FACTOR_MAX).contains(&f.factor)) {
            add("factors", format!("a factor must be 0 to {FACTOR_MAX}"));
        }
        if !self.factors.is_sorted_by(|a, b| a.rank < b.rank) {
            add("factors", "ranks must grow from one to the next".to_string());
        }
        all
    }
}

/// Why a scheduler heeds no adapters.
fn unknown(scheduler: &Scheduler) -> &'static str {
    match scheduler {
        Scheduler::VllmV0(_) => {
            "adapters are not simulated together with swapped requests; leave out one of the two, or run vllm_v1"
        }
        Scheduler::Sarathi(_) | Scheduler::Orca(_) | Scheduler::FasterTransformer(_) | Scheduler::Lightllm(_) => {
            "the project of this scheduler has no adapters, as it is simulated; vllm_v1, vllm_v0, sglang and trtllm heed \
             them"
        }
        Scheduler::VllmV1(_) | Scheduler::Sglang(_) | Scheduler::Trtllm(_) | Scheduler::Exclusive(_) => {
            "this scheduler heeds no adapters"
        }
    }
}

/// Where adapters are not simulated.
fn out_of_place(site: &Site) -> Option<Problem> {
    let refused = |message: &str| Some(("deployment.lora".into(), message.to_string()));
    match site.deployment.scheduler.common() {
        None => return refused("the exclusive scheduler has no batches, and knows no adapters"),
        Some(common) if !common.knows_adapters => {
            return refused(unknown(&site.deployment.scheduler));
        }
        Some(common) if common.policy == QueueOrder::Fair => {
            return refused("adapters are not simulated with the queue order `fair`");
        }
        Some(_) => {}
    }
    match site.role {
        Role::Mixed | Role::Encode => None,
        Role::Prefill | Role::Decode => refused("adapters are not simulated with prefill and decode pools"),
    }
}

#[cfg(test)]
mod tests;
