//! Parallel samples: requests with `n` above 1, so many replies to one prompt.
//!
//! | rule | source | test (`timelines/samples.rs`) |
//! |---|---|---|
//! | 1. **vLLM's V1** makes `n` requests of one in its frontend, which reach the queue at once, in order. To the scheduler they are requests like others: each has a seat, a place in the batch, and blocks of its own but for what the prefix cache shares; each is preempted by itself | `v1/engine/async_llm.py` `add_request`, `v1/engine/parallel_sampling.py` `ParentRequest` | `samples_are_requests_that_share_what_the_cache_finds`, `every_sample_takes_a_seat`, `samples_are_preempted_one_by_one` |
//! | 2. **SGLang** first sends a request that computes the prompt and generates nothing that anybody gets (`max_new_tokens: 0`), and when that is done `n` requests, which find its pages | `managers/tokenizer_manager.py` `_handle_batch_request` | `sglang_computes_the_prompt_before_the_samples` |
//! | 3. **TensorRT-LLM** makes a request and `n - 1` children of one as it takes it from the queue, which it does only where all of them may be active beside those that are; then they are requests like others, of which all but the first wait for the prefix (rule 6 of [`Trtllm`](super::scheduler::Trtllm)) | `_torch/pyexecutor/request_utils.py` `get_from_waiting_queue`, `merge_requests`; `llm_request.py` `create_child_request` | `trtllm_takes_all_samples_at_once` |
//! | 4. **vLLM's version 0** has one request of `n` sequences ([`groups`](super::groups)) | `core/scheduler.py`, version 0.6 | `timelines/groups.rs` |
//! | 5. **One decision of the router** for all of them: each of these is the frontend of one engine | the same | `samples_stay_together` |
//! | 6. **The request** has its first token with the first of any sample, is done with the last token of the last one, and goes whole when its client goes | `parallel_sampling.py` `get_outputs`; SGLang `_handle_batch_request` | `the_first_token_of_any_and_the_last_of_all`, `a_client_takes_all_samples_along` |
//!
//! *Lengths.* All samples of a request have the length that the trace gives: it knows no other. A cap cuts each of them.
//!
//! *Contents.* What follows the prompt differs from sample to sample. Where the trace knows the contents of the reply, they are
//! those of the first sample: the one that a conversation goes on with. The whole blocks of the prompt are the same in all of
//! them also where the trace says nothing of them: then they are shared with nobody else. The block in which the prompt ends is
//! each sample's own. Without prefix caching every sample computes the whole prompt, as in both engines.
//!
//! *Figures.* Tokens, gaps between tokens, recomputed tokens and preemptions of a row are those of all samples together (a group
//! is preempted once), the
//! time lost to preemptions that of the sample that lost most, the tokens found in the prefix cache those of the sample
//! that was admitted first; the hits of the others are in the totals of the cache. What engines tell of their queues, seats and
//! batches counts samples: they are the scheduler's requests. Routers count a request once among those that they have sent.
//! The token that ends SGLang's request for the prompt is nobody's.
//!
//! *Refused*: the other schedulers ([`unfit`]), speculative decoding, encoders, tiers behind the prefix cache, and prefill,
//! decode and encode pools; for TensorRT-LLM more samples than may be active, which its queue would wait for forever; beams
//! ([`beams`](super::beams)) in the same scenario.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::kv::hashes::mix;
use super::log::stats_of;
use super::node::{Env, Out, Work};
use super::replica::{Live, Replica};
use super::scheduler::{Samples, Scheduler};
use super::{RequestRow, SimError};
use crate::pools::{Role, Site};
use crate::request::Requests;
use crate::scenario::{Load, Scenario};
use crate::units::{SimDuration, SimTime};

/// Most samples of a request: vLLM's `VLLM_MAX_N_SEQUENCES`.
pub const N_MAX: u32 = 16_384;
/// Tokens, about, of the blocks by which prompts are told apart that the trace says nothing of.
const UNIT: u32 = 256;

/// Whether some request may have several samples.
pub(crate) fn asked(load: &Load, requests: &Requests) -> bool {
    asked_of_all(load) || requests.n.iter().flatten().any(|n| *n > 1)
}

/// The same of what a scenario says itself.
pub(crate) fn asked_of_all(load: &Load) -> bool {
    most_of_all(load) > 1
}

/// Most samples that a scenario itself asks for.
pub(crate) fn most_of_all(load: &Load) -> u32 {
    load.classes.values().filter_map(|class| class.n).chain(load.n).max().unwrap_or(1)
}

/// Most samples that a request may have.
pub(crate) fn most(load: &Load, requests: &Requests) -> u32 {
    requests.n.iter().flatten().copied().chain([most_of_all(load)]).max().unwrap_or(1)
}

/// Why a pool serves no requests of so many samples, which are several.
pub(crate) fn unfit(site: &Site, n: u32) -> Option<String> {
    let d = &site.deployment;
    let engine = match &d.scheduler {
        Scheduler::VllmV1(_) | Scheduler::Sglang(_) => None,
        Scheduler::Trtllm(rules) => (n > rules.max_batch_size).then(|| {
            let most = rules.max_batch_size;
            format!("{n} samples can never be active together, max_batch_size is {most}")
        }),
        Scheduler::VllmV0(rules) => super::groups::unfit(rules, site, n),
        Scheduler::Lightllm(_) => Some("samples are not simulated with lightllm".to_string()),
        Scheduler::FasterTransformer(_) => Some("samples are not simulated with faster_transformer".to_string()),
        Scheduler::Sarathi(_) => Some("Sarathi-Serve knows requests of one sequence only".to_string()),
        Scheduler::Orca(_) => Some("Orca knows requests of one sequence only".to_string()),
        Scheduler::Exclusive(_) => Some("an exclusive server holds one request, with one reply".to_string()),
    };
    let rest = [
        (site.role != Role::Mixed, "samples are not simulated where prompts and replies are computed apart"),
        (d.speculative.is_some(), "samples are not simulated with speculative decoding"),
        (d.encoder.is_some(), "samples are not simulated with an encoder"),
        (!d.kv.tiers.is_empty(), "samples are not simulated with tiers behind the prefix cache"),
    ];
    engine.or_else(|| rest.into_iter().find(|(is, _)| *is).map(|(_, message)| message.to_string()))
}

/// # Errors
/// Requests ask for samples, and a number of them is impossible, or a pool has none.
pub(crate) fn check(scenario: &Scenario, requests: &Requests) -> Result<(), SimError> {
    let wrong = |n: &Option<u32>| n.is_some_and(|n| !(1..=N_MAX).contains(&n));
    if let Some(i) = requests.n.iter().position(wrong) {
        let n = requests.n[i].unwrap_or_default();
        let message = format!("request {i} has an n of {n}; must be 1 to {N_MAX}");
        return Err(SimError::Invalid { path: "workload".into(), message });
    }
    let most = most(&scenario.workload, requests);
    if most < 2 {
        return Ok(());
    }
    let Some(why) = scenario.sites().iter().find_map(|site| unfit(site, most)) else { return Ok(()) };
    Err(match requests.n.iter().position(|n| *n == Some(most)) {
        Some(i) => {
            SimError::Invalid { path: "workload".into(), message: format!("request {i} has an n of {most}: {why}") }
        }
        None => SimError::Invalid { path: "workload.n".into(), message: format!("is above 1: {why}") },
    })
}

/// The requests, with contents of their own for the prompts of which the trace does not know them, and that have several
/// samples.
pub(crate) fn complete<'a>(scenario: &Scenario, requests: &'a Requests) -> Cow<'a, Requests> {
    let load = &scenario.workload;
    let sites = scenario.sites();
    let caches = |site: &&Site| {
        let common = site.deployment.scheduler.common();
        site.deployment.kv.enable_prefix_caching && common.is_some_and(|common| common.caches_prefixes)
    };
    let sizes: Vec<u32> = sites.iter().filter(caches).map(|site| site.deployment.kv.block_size.max(1)).collect();
    if sizes.is_empty() || !asked(load, requests) {
        return Cow::Borrowed(requests);
    }
    let known = requests.block_tokens > 0 && !requests.block_hashes.is_empty();
    let unit = if known { requests.block_tokens } else { common_unit(&sizes) };
    let (mut hashes, mut offsets) = (Vec::new(), vec![0]);
    for i in 0..requests.len() {
        let of_class = |class: u32| load.classes.get(requests.class_names.get(class as usize)?)?.n;
        let class = requests.class.get(i).copied().flatten();
        let n = requests.n.get(i).copied().flatten().or_else(|| class.and_then(of_class)).or(load.n).unwrap_or(1);
        let own = if known { requests.hashes(i) } else { &[] };
        hashes.extend_from_slice(own);
        let blocks = requests.input_tokens[i].div_ceil(unit);
        if n > 1 {
            let of_request = mix(0x6e, i as u32);
            hashes.extend((own.len() as u32..blocks).map(|block| mix(of_request, block)));
        }
        offsets.push(hashes.len() as u64);
    }
    Cow::Owned(Requests { block_hashes: hashes, block_hash_offsets: offsets, block_tokens: unit, ..requests.clone() })
}

/// A multiple of all these block sizes.
fn common_unit(sizes: &[u32]) -> u32 {
    let all = sizes.iter().fold(1_u64, |all, size| all / gcd(all, u64::from(*size)) * u64::from(*size));
    let all = u32::try_from(all).unwrap_or(sizes[0]);
    all.saturating_mul((UNIT / all).max(1))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A request of several samples that is on a replica.
pub(super) struct Parent {
    /// Samples that have not left, those included that have not entered.
    left: u32,
    /// It waits for the one that computes its prompt.
    behind: bool,
    place: u32,
    /// Slots of those that entered, in order.
    slots: Vec<u32>,
    /// What is known of those that have left.
    row: Option<RequestRow>,
    /// When the one that is spoken of was admitted first, and its number.
    first: Option<(SimTime, u32)>,
    gaps: Vec<i64>,
    /// Somebody was told that its prompt is done; tokens of the prompt that somebody was told of.
    told: bool,
    progressed: u32,
}

/// Those that are on a replica, by request.
pub(super) type Parents = BTreeMap<u32, Parent>;

impl Replica {
    /// Samples of a request that enters the queue now: their numbers, and whether it is one that computes the prompt alone.
    pub(super) fn samples_of(&mut self, place: u32, request: u32, env: &Env<'_>) -> (std::ops::Range<u32>, bool) {
        let n = env.demand.samples(request);
        if n == 1 || self.common.samples == Samples::Group {
            return (0..1, false);
        }
        let ahead = self.common.samples == Samples::BehindPrompt;
        let new = Parent {
            left: n,
            behind: ahead,
            place,
            slots: Vec::new(),
            row: None,
            first: None,
            gaps: Vec::new(),
            told: !env.reports.prompts,
            progressed: 0,
        };
        match self.parents.get_mut(&request) {
            // The one that computed the prompt has left.
            Some(parent) => {
                parent.behind = false;
                (1..n + 1, false)
            }
            None => {
                self.parents.insert(request, new);
                if ahead { (0..1, true) } else { (0..n, false) }
            }
        }
    }

    /// A sample entered the queue.
    pub(super) fn sample_entered(&mut self, slot: u32) {
        if let Some(parent) = self.parents.get_mut(&self.live[slot as usize].request) {
            parent.slots.push(slot);
        }
    }

    /// This one, and the samples that entered the queue with it.
    pub(super) fn siblings(&self, slot: u32) -> Vec<u32> {
        match self.parents.get(&self.live[slot as usize].request) {
            Some(parent) => parent.slots.clone(),
            None => vec![slot],
        }
    }

    /// Blocks of a sample whose content the trace knows, of so many of its request.
    pub(super) fn known_of_sample(&self, live: &Live, known: u32) -> u32 {
        let first = u32::from(self.common.samples == Samples::BehindPrompt);
        if live.several && live.sample != first { known.min(live.input / self.block_size) } else { known }
    }

    /// Tokens of replies of requests whose samples have not entered the queue: here is the one that computes the prompt.
    pub(super) fn replies_behind(&self, live: &Live, env: &Env<'_>) -> u64 {
        let output = env.demand.output(live.request, env.len_of(live.request)).0;
        u64::from(output) * u64::from(env.demand.samples(live.request))
    }

    /// The first token of a sample is out; whether somebody is to be told of the prompt.
    pub(super) fn prompt_of_sample(&mut self, request: u32) -> bool {
        self.parents.get_mut(&request).is_some_and(|parent| !std::mem::replace(&mut parent.told, true))
    }

    /// So many tokens of the prompt of a sample are there; returns how many of them nobody was told of.
    pub(super) fn progress_of_sample(&mut self, request: u32, upto: u32) -> u32 {
        let Some(parent) = self.parents.get_mut(&request) else { return 0 };
        let more = upto.saturating_sub(parent.progressed);
        parent.progressed += more;
        more
    }

    /// A sample has left at this time, with this row; tells of the request where it was the last one.
    pub(super) fn sample_left(&mut self, at: SimTime, sample: u32, row: RequestRow, gaps: Vec<i64>, out: &mut Out) {
        let Some(parent) = self.parents.get_mut(&row.request) else { unreachable!("no samples of {}", row.request) };
        let served = row.status.served();
        let prompt = parent.behind;
        let row = if prompt { without_tokens(row) } else { row };
        let now = row.scheduled.map(|at| (at, sample));
        let first = parent.first.is_none_or(|first| now.is_some_and(|now| now < first));
        let cached = row.cached_tokens;
        let mut all = match parent.row.take() {
            None => row,
            Some(all) => merged(all, row),
        };
        if first {
            (parent.first, all.cached_tokens) = (now, cached);
        }
        parent.gaps.extend(gaps);
        if prompt && served {
            // What it was for sets out.
            parent.row = Some(all);
            let place = parent.place;
            self.pending.push(std::cmp::Reverse((at, place, Work::Whole)));
            return;
        }
        parent.left = if prompt { 0 } else { parent.left - 1 };
        if parent.left > 0 {
            parent.row = Some(all);
            return;
        }
        let Some(mut parent) = self.parents.remove(&row.request) else { unreachable!("it is there") };
        let sum = SimDuration(parent.gaps.iter().sum());
        all.itl = stats_of(&mut parent.gaps, sum);
        out.rows.push((at, self.id, all));
    }
}

/// The row of what only computed the prompt for others.
fn without_tokens(row: RequestRow) -> RequestRow {
    RequestRow { first_token: None, finished: None, output_tokens: 0, prefill_preempted: SimDuration::ZERO, ..row }
}

/// What is known of samples that have left, and of another one that leaves after them, but for gaps and hits.
fn merged(all: RequestRow, one: RequestRow) -> RequestRow {
    let earlier = |a: Option<SimTime>, b: Option<SimTime>| a.into_iter().chain(b).min();
    let first_token = earlier(all.first_token, one.first_token);
    let firsts = [&all, &one].into_iter().filter(|row| row.first_token == first_token);
    let prefill_preempted = firsts.map(|row| row.prefill_preempted).max().unwrap_or_default();
    RequestRow {
        status: one.status,
        scheduled: earlier(all.scheduled, one.scheduled),
        first_token,
        finished: if one.status.served() { one.finished } else { None },
        output_tokens: all.output_tokens + one.output_tokens,
        fetched_tokens: all.fetched_tokens + one.fetched_tokens,
        recomputed_tokens: all.recomputed_tokens + one.recomputed_tokens,
        preemptions: all.preemptions + one.preemptions,
        preempted: all.preempted.max(one.preempted),
        prefill_preempted,
        ..all
    }
}
