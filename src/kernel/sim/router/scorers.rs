//! `weighted`: the highest weighted mean of scores.

use super::holders::Holder;
use super::picker::{Call, Kind, Load, Policy};
use super::sent::{Sent, prompt_hashes};
use super::settings::{Scorers, Weighted};

/// Requests in a queue from which on `load-aware` gives nothing.
const QUEUE: u32 = 128;

/// See the head of the file.
pub(super) struct Mean {
    scorers: Scorers,
    weights: f64,
    /// KV blocks of every candidate.
    blocks: Vec<u64>,
    outstanding: Vec<u32>,
    waiting: Vec<u32>,
    running: Vec<u32>,
    usage: Vec<f64>,
    /// Hashes of prompts, where a scorer goes by them, and adapters.
    prompts: Option<Sent>,
    adapters: Option<Sent>,
    /// Of every candidate, how many were sent a prompt without a match after it was.
    ranks: Vec<u32>,
    /// For one decision.
    matches: Vec<Holder>,
    totals: Vec<f64>,
}

impl Mean {
    pub(super) fn new(settings: &Weighted, kinds: &[Kind]) -> Mean {
        let (n, scorers) = (kinds.len(), settings.scorers());
        let prompts = scorers.prefix_affinity != 0.0 || scorers.no_hit_lru != 0.0;
        let adapters = scorers.lora_affinity != 0.0;
        Mean {
            scorers,
            weights: scorers.weights().iter().fold(0.0, |sum, (_, weight)| sum + weight),
            blocks: kinds.iter().map(|kind| kind.blocks).collect(),
            outstanding: vec![0; n],
            waiting: vec![0; n],
            running: vec![0; n],
            usage: vec![0.0; n],
            prompts: prompts.then(|| Sent::new(n, settings.capacity)),
            adapters: adapters.then(|| Sent::new(n, settings.max_loras)),
            ranks: (0..n as u32).rev().collect(),
            matches: Vec::new(),
            totals: vec![0.0; n],
        }
    }

    /// Adds up the weighted scores; returns whether no candidate has a match.
    fn weigh(&mut self, call: &Call, hashes: &[u64], adapter: &[u64]) -> bool {
        let Scorers {
            precise_prefix_cache,
            prefix_affinity,
            no_hit_lru,
            queue_depth,
            kv_utilization,
            load_balance,
            active_requests,
            running_requests,
            load_aware,
            lora_affinity,
        } = self.scorers;
        let (totals, matches) = (&mut self.totals, &mut self.matches);
        let (outstanding, waiting, running) = (&self.outstanding, &self.waiting, &self.running);
        totals.fill(0.0);
        matches.clear();
        add_hits(totals, precise_prefix_cache, call.hits);
        if let Some(prompts) = &mut self.prompts {
            prompts.matches(hashes, matches);
        }
        for (candidate, known) in matches.iter() {
            totals[*candidate as usize] += prefix_affinity * (f64::from(*known) / hashes.len() as f64);
        }
        let (unmatched, ranks, last) = (matches.is_empty(), &self.ranks, totals.len() - 1);
        add(totals, no_hit_lru, |candidate| match (unmatched, last) {
            (false, _) => 0.5,
            (true, 0) => 1.0,
            (true, last) => f64::from(ranks[candidate]) / last as f64,
        });
        add_few(totals, queue_depth, waiting);
        add(totals, kv_utilization, |candidate| (1.0 - self.usage[candidate]).clamp(0.0, 1.0));
        add(totals, load_balance, |candidate| {
            let requests = [waiting[candidate], running[candidate], outstanding[candidate]];
            1.0 / (1.0 + requests.into_iter().map(u64::from).sum::<u64>() as f64)
        });
        let most = outstanding.iter().copied().max().unwrap_or(0);
        add(totals, active_requests, |candidate| match most {
            0 => 1.0,
            most => f64::from(most - outstanding[candidate]) / f64::from(most),
        });
        add_few(totals, running_requests, running);
        add(totals, load_aware, |candidate| 0.5 * (1.0 - f64::from(waiting[candidate].min(QUEUE)) / f64::from(QUEUE)));
        match &mut self.adapters {
            Some(adapters) if !adapter.is_empty() => {
                adapters.matches(adapter, matches);
                matches.iter().for_each(|(candidate, _)| totals[*candidate as usize] += lora_affinity);
            }
            Some(_) | None => add(totals, lora_affinity, |_| 1.0),
        }
        totals.iter_mut().for_each(|total| *total /= self.weights);
        unmatched
    }

    /// A request without a match is sent to a candidate.
    fn no_match(&mut self, candidate: usize) {
        let before = std::mem::replace(&mut self.ranks[candidate], 0);
        for (other, rank) in self.ranks.iter_mut().enumerate() {
            *rank += u32::from(other != candidate && *rank < before);
        }
    }
}

fn add(totals: &mut [f64], weight: f64, score: impl Fn(usize) -> f64) {
    if weight != 0.0 {
        totals.iter_mut().enumerate().for_each(|(candidate, total)| *total += weight * score(candidate));
    }
}

/// Hits, scaled.
fn add_hits(totals: &mut [f64], weight: f64, hits: &[Holder]) {
    let most = hits.iter().map(|(_, hit)| *hit).max().unwrap_or(0);
    let least = if hits.len() < totals.len() { 0 } else { hits.iter().map(|(_, hit)| *hit).min().unwrap_or(0) };
    if most == least {
        return add(totals, weight, |_| 1.0);
    }
    for (candidate, hit) in hits {
        totals[*candidate as usize] += weight * (f64::from(hit - least) / f64::from(most - least));
    }
}

/// 1 less a count, scaled.
fn add_few(totals: &mut [f64], weight: f64, counts: &[u32]) {
    let (least, most) = counts.iter().fold((u32::MAX, 0), |(least, most), count| (least.min(*count), most.max(*count)));
    if most == least {
        return add(totals, weight, |_| 1.0);
    }
    let range = f64::from(most - least);
    add(totals, weight, |candidate| 1.0 - f64::from(counts[candidate] - least) / range);
}

impl Policy for Mean {
    fn pick(&mut self, call: &mut Call) -> usize {
        let hashes = prompt_hashes(call.ask, call.requests);
        let adapter = call.requests.adapter.get(call.ask.request as usize).copied().flatten().map(u64::from);
        let unmatched = self.weigh(call, hashes, adapter.as_slice());
        call.score(|candidate| Some(self.totals[candidate]));
        let highest = self.totals.iter().copied().fold(0.0, f64::max);
        let candidate = call.one_with(&self.totals, highest);
        if let Some(prompts) = &mut self.prompts {
            prompts.send(candidate, hashes);
            if unmatched {
                self.no_match(candidate);
            }
        }
        if let Some(adapters) = &mut self.adapters {
            adapters.send(candidate, adapter.as_slice());
        }
        self.outstanding[candidate] += 1;
        candidate
    }

    fn ended(&mut self, candidate: usize, _request: u32) {
        self.outstanding[candidate] -= 1;
    }

    fn see(&mut self, candidate: usize, load: Load) {
        let Load { waiting, running, blocks_used } = load;
        (self.waiting[candidate], self.running[candidate]) = (waiting, running);
        let blocks = self.blocks[candidate];
        self.usage[candidate] = if blocks == 0 { 0.0 } else { blocks_used as f64 / blocks as f64 };
    }
}
