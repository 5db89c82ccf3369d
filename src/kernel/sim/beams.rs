//! Beam search: requests with a `beam_width` above 1, of which so many candidates of a reply go on at every step. The best one
//! is the reply.
//!
//! | rule | source | test (`timelines/beams.rs`) |
//! |---|---|---|
//! | 1. **The prompt** is computed once. The step that completes it yields the first token of every beam; from then on every step has a token of each: as many decode requests, each with a context of its own | TensorRT-LLM `microBatchScheduler.cpp` (`getBeamWidthByIter`); FasterTransformer `ParallelGpt.cc`; vLLM 0.6.2 `Scheduler.schedule` | `beams_share_whole_blocks_of_their_prompt` |
//! | 2. **TensorRT-LLM's blocks.** Whole blocks of the prompt are shared. A block in which it ends is each beam's own, from the start of the prompt on; so are all further ones | `kvCacheManager.cpp` `addSequence` (`isShareLastContextBlock`), `adjustBlocksIfNeeded` | the same |
//! | 3. **GUARANTEED_NO_EVICT** sets aside what is yet to come: the whole blocks of the prompt once, all further ones up to prompt and cap for each beam | `getRemainingBlocksToCompletion` | `beams_are_admitted_only_with_all_their_blocks` |
//! | 4. **MAX_UTILIZATION** asks for the blocks of a step: those of rule 2 for who starts, one for each beam of whose last block is full | `getNeededBlocksOneStep` | `beams_that_are_paused_begin_anew` |
//! | 5. A request that is **paused** loses the tokens of all beams, and begins anew with its prompt | `llmRequest.h` `pause` | the same |
//! | 6. Of the **tokens of a step** each beam takes one; the first request for all of whose beams there are none ends the search | `microBatchScheduler.cpp` | `a_step_has_tokens_for_all_beams_or_none` |
//! | 7. **`max_beam_width`** is the width that every request must have; one with another is rejected (`RequestError`) | `py_executor.py` `_validate_request`, release 1.2 | `a_request_of_another_width_is_rejected` |
//! | 8. The **longest sequence** is what the cache holds where its blocks are dealt out to `max_beam_width` beams | `getMaxAttentionWindowUpperBound` | `the_cache_is_dealt_out_to_the_beams` |
//! | 9. **Off or refused** with beams there: reuse of blocks (turned off), drafts, sliding windows, states of linear layers | `llmapi` (`_ConfigArbitrator`: beam search claims `enable_block_reuse` false); the sampler of drafts (width must be 1); `detachFrontBlock`; `_util.py` (`MambaHybridCacheManager`) | `what_beams_do_not_go_with_is_refused`, `blocks_are_not_reused` |
//! | 10. **FasterTransformer** reserves memory for every beam, and shares none of it. A batch has one width: a request with another ends it | `ParallelGpt.cc` `allocateBuffer`, batch x beams | `a_static_batch_has_one_width`, `memory_is_reserved_for_every_beam` |
//! | 11. There a prompt that is **alone** in its batch is computed for every beam (with `padded`); those of several requests, once each | `shared_contexts_ratio`, 1 by default, is heeded with more than one request | `a_prompt_alone_is_computed_for_every_beam` |
//! | 12. **vLLM's version 0** (to 0.6.2) has a group of sequences (`use_beam_search`, `best_of`): rules 1 to 7 of `groups` | `sequence.py` `get_max_num_running_seqs` | `beams_are_a_group_of_sequences` |
//!
//! *Which beams survive* nobody knows who knows lengths alone. Here every beam goes on as itself, as far as blocks are told
//! apart. TensorRT-LLM and FasterTransformer keep all blocks of all beams whatever happens, and tell by a table of indices
//! (`cache_indirection`) whose tokens a beam attends to: there it makes no difference. In vLLM beams that come of one share
//! its blocks, and copy the last when they write; those of a beam that is dropped are free: it would hold less there, and
//! copy more. All beams have the length that the trace gives, and end together.
//!
//! *Figures.* A row tells of the best beam: tokens, gaps and throughput count it alone, once, as benchmark clients do who get one
//! reply; fair sharing charges for it alone. What engines tell of their work counts all: decode requests and contexts of
//! steps, and blocks. Requests that run or wait, and preemptions, are counted as requests. One that began anew (rule 5) has the
//! first token and the gaps of its last life; gaps of those before are in the summary alone.
//!
//! *Different here*: FasterTransformer's backend takes the width of the first request of a batch for all of them (rule 10).
//! TensorRT-LLM asks for `disable_overlap_scheduler`, which is what is simulated, and for `cuda_graph_config: None`: that is
//! up to the latency model (`cuda_graph_max_bs: 0` of `roofline`). A latency model is shown a beam as a decode request of its
//! own, although a kernel may read the shared blocks once for all.
//! *Left out*: TensorRT-LLM's later releases take narrower requests, and its PyTorch executor reuses blocks of prompts that
//! have beams; widths that change with the steps (`beam_width_array`); early stopping, which the length in the trace has in it;
//! several of the beams as a reply (`n` beside `best_of`).
//!
//! *Refused*: vLLM's V1 and SGLang, whose engines have no beam search; Sarathi-Serve, Orca, LightLLM and exclusive servers;
//! parallel samples in the same scenario, adapters, encoders, tiers, pools of several roles, and pipeline stages but for
//! TensorRT-LLM.

use super::kv::plan;
use super::scheduler::{Scheduler, Trtllm};
use super::{SimError, engine, samples};
use crate::pools::{Role, Site};
use crate::request::Requests;
use crate::scenario::{Load, Scenario};

/// Most beams of a request: `kMaxBeamWidth` of TensorRT-LLM.
pub const BEAM_WIDTH_MAX: u32 = 1024;

/// Where all of them are set.
const PATH: &str = "workload.beam_width";
const WIDTH: &str = "deployment.scheduler.trtllm.max_beam_width";

/// Most beams that a request may have.
pub(crate) fn most(load: &Load, requests: &Requests) -> u32 {
    let classes = load.classes.values().filter_map(|class| class.beam_width);
    requests.beam_width.iter().flatten().copied().chain(classes).chain(load.beam_width).max().unwrap_or(1)
}

/// Beams of a request.
pub(crate) fn of_request(load: &Load, requests: &Requests, request: usize) -> u32 {
    let class = requests.class.get(request).copied().flatten();
    let of_class = || load.classes.get(requests.class_names.get(class? as usize)?)?.beam_width;
    let own = requests.beam_width.get(request).copied().flatten();
    own.or_else(of_class).or(load.beam_width).unwrap_or(1)
}

/// What a scenario itself says is wrong about its beams.
pub(crate) fn problems(load: &Load) -> Vec<(&'static str, String)> {
    let wrong = |width: &u32| !(1..=BEAM_WIDTH_MAX).contains(width);
    let mut found = Vec::new();
    if let Some(width) = load.beam_width.filter(wrong) {
        found.push((PATH, format!("is {width}; must be 1 to {BEAM_WIDTH_MAX}")));
    }
    for (name, class) in &load.classes {
        if let Some(width) = class.beam_width.filter(wrong) {
            found.push(("workload.classes", format!("{name}.beam_width is {width}; must be 1 to {BEAM_WIDTH_MAX}")));
        }
    }
    found
}

/// The same, of a pool and the widths above 1 that the scenario sets for all requests or for a class.
pub(crate) fn problems_of(site: &Site, load: &Load) -> Vec<(&'static str, String)> {
    let of_all = load.beam_width.map(|width| (PATH, String::new(), width));
    let of_class = |(name, width): (&String, u32)| ("workload.classes", format!("{name}.beam_width "), width);
    let classes = load.classes.iter().filter_map(|(name, class)| Some(of_class((name, class.beam_width?))));
    let several = of_all.into_iter().chain(classes).filter(|(.., width)| (2..=BEAM_WIDTH_MAX).contains(width));
    several
        .filter_map(|(path, name, width)| Some((path, format!("{name}is {width}: {}", unfit(site, width)?))))
        .collect()
}

/// Why a pool serves no requests of so many beams, which are several.
fn unfit(site: &Site, width: u32) -> Option<String> {
    let d = &site.deployment;
    let engine = match &d.scheduler {
        Scheduler::Trtllm(rules) if width != rules.max_beam_width => {
            Some(format!("TensorRT-LLM takes requests of max_beam_width beams only, which is {}", rules.max_beam_width))
        }
        Scheduler::Trtllm(_) => None,
        Scheduler::FasterTransformer(_) if d.pp > 1 => {
            Some("beams are not simulated with pipeline stages of faster_transformer".to_string())
        }
        Scheduler::FasterTransformer(_) => None,
        Scheduler::VllmV0(rules) => super::groups::unfit(rules, site, width),
        Scheduler::VllmV1(_) => Some(
            "vLLM's V1 engine has no beam search: a helper in front of it asks for the next token of every beam, a request \
             each, at every step"
                .to_string(),
        ),
        Scheduler::Sglang(_) => Some("SGLang has no beam search".to_string()),
        Scheduler::Lightllm(_) => Some("beams are not simulated with lightllm".to_string()),
        Scheduler::Sarathi(_) => Some("Sarathi-Serve knows requests of one sequence only".to_string()),
        Scheduler::Orca(_) => Some("Orca knows requests of one sequence only".to_string()),
        Scheduler::Exclusive(_) => Some("an exclusive server holds one request, with one reply".to_string()),
    };
    engine.or_else(|| hindrance(site).map(str::to_string))
}

/// What a pool has that beams do not go with, whatever its engine.
fn hindrance(site: &Site) -> Option<&'static str> {
    let d = &site.deployment;
    [
        (site.role != Role::Mixed, "beams are not simulated where prompts and replies are computed apart"),
        (d.speculative.is_some(), "drafts are made for one beam only, leave out deployment.speculative"),
        (d.lora.is_some(), "beams are not simulated with adapters"),
        (d.encoder.is_some(), "beams are not simulated with an encoder"),
        (!d.kv.tiers.is_empty(), "beams are not simulated with tiers behind the prefix cache"),
    ]
    .into_iter()
    .find(|(is, _)| *is)
    .map(|(_, why)| why)
}

/// What TensorRT-LLM refuses of its width, and what beams do not go with there.
pub(crate) fn problems_of_trtllm(rules: &Trtllm, site: &Site) -> Vec<(&'static str, String)> {
    let width = rules.max_beam_width;
    if !(1..=BEAM_WIDTH_MAX).contains(&width) {
        return vec![(WIDTH, format!("is {width}; must be 1 to {BEAM_WIDTH_MAX}"))];
    }
    if width == 1 {
        return Vec::new();
    }
    let mut found = Vec::new();
    if (1..width).contains(&rules.max_num_tokens) {
        let message = format!("is {}, less than the tokens of a step of {width} beams", rules.max_num_tokens);
        found.push(("deployment.scheduler.trtllm.max_num_tokens", message));
    }
    let (model, fixed) = (&site.model, plan::blocks_per_request(&site.deployment, &site.model));
    let layers = if model.linear_layers > 0 { "states of linear layers" } else { "sliding windows" };
    let of_layers = (fixed > 0).then(|| format!("TensorRT-LLM has no beams with {layers}"));
    let why = of_layers.or_else(|| hindrance(site).map(str::to_string));
    found.extend(why.map(|why| (WIDTH, format!("is {width}: {why}"))));
    found
}

/// # Errors
/// A request asks for an impossible number of beams, requests ask for beams and a pool has none, or nobody asks for what a
/// pool has.
pub(crate) fn check(scenario: &Scenario, requests: &Requests) -> Result<(), SimError> {
    let refused = |path: &'static str, message: String| Err(SimError::Invalid { path: path.into(), message });
    let wrong = |width: &Option<u32>| width.is_some_and(|width| !(1..=BEAM_WIDTH_MAX).contains(&width));
    if let Some(i) = requests.beam_width.iter().position(wrong) {
        let width = requests.beam_width[i].unwrap_or_default();
        let message = format!("request {i} has a beam_width of {width}; must be 1 to {BEAM_WIDTH_MAX}");
        return refused("workload", message);
    }
    let load = &scenario.workload;
    let most = most(load, requests);
    if most > 1 && samples::most(load, requests) > 1 {
        return refused(PATH, "is above 1: beams and parallel samples (n) are not simulated together".to_string());
    }
    for site in scenario.sites() {
        match site.deployment.scheduler.beam_width() {
            Some(width) if width.max(most) > 1 => {
                let asked = (0..requests.len()).any(|i| of_request(load, requests, i) == width);
                if !asked && !requests.is_empty() {
                    let message = format!(
                        "is {width}, but no request asks for as many beams (workload.beam_width), and TensorRT-LLM rejects \
                         all others"
                    );
                    return refused(WIDTH, message);
                }
            }
            Some(_) => {}
            None if most > 1 => {
                if let Some(why) = unfit(&site, most).or(unreservable(&site, most)?) {
                    return refused(PATH, format!("is above 1: {why}"));
                }
            }
            None => {}
        }
    }
    Ok(())
}

/// Why memory for so many beams can never be reserved, where it is.
///
/// # Errors
/// The cache has no blocks.
fn unreservable(site: &Site, width: u32) -> Result<Option<String>, SimError> {
    let d = &site.deployment;
    if !matches!(d.scheduler, Scheduler::FasterTransformer(_)) {
        return Ok(None);
    }
    let blocks = plan::blocks(d, &site.model, &site.gpu)?;
    let longest = engine::max_len(d, &site.model, blocks);
    let all = u64::from(longest.div_ceil(d.kv.block_size.max(1))) * u64::from(width);
    let all = all + plan::blocks_per_request(d, &site.model);
    Ok((all > blocks).then(|| {
        format!(
            "{width} beams of the longest sequence take {all} blocks, and a replica has {blocks}; lower \
             deployment.max_model_len"
        )
    }))
}
