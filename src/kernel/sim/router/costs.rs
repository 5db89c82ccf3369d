//! `kv_aware`: the lowest cost of prefill and decode blocks, without looking at candidates that have nothing of the prompt.
//!
//! The cost of a candidate without a hit is, but for rounding, what it has already and an amount that is the same for all
//! of one block size. So a tree over what they have gives the lowest of them. Candidates which that cannot tell apart
//! from the lowest, and those with a hit, are compared by their costs.

use super::counts::Left;
use super::holders::Holder;
use super::least::Least;
use super::picker::{Call, Kind, Policy};
use super::settings::KvAware;

/// Of a cost, well above what its rounding and that of a key can amount to, which is less than 2^-49.
const ROUNDING: f64 = 1.0 / (1u64 << 48) as f64;

/// Candidates of one block size, by what they have.
struct Group {
    /// By their numbers.
    members: Vec<u32>,
    /// Cost of what they have (the bits of the double, which order as it does), then tokens pending. Where both are
    /// equal, so are the decode blocks: the next double is nearer than one block.
    keys: Least<u128>,
    low: Low,
}

/// What costs least of a group, for one request.
#[derive(Clone, Copy, Default)]
struct Low {
    cost: f64,
    /// No candidate with a higher key costs so little.
    limit: u128,
    /// Just those with the lowest key do.
    alike: bool,
}

/// See the head of the file.
pub(super) struct Costs {
    settings: KvAware,
    block_sizes: Vec<u32>,
    /// Uncached prompt tokens pending, and blocks of the prompts of the outstanding requests.
    pending: Vec<u64>,
    blocks: Vec<u64>,
    pending_of: Left,
    blocks_of: Left,
    groups: Vec<Group>,
    /// Group of every candidate, and place there.
    places: Vec<(u32, u32)>,
    /// Candidates of equal cost; costs and weights. For one decision.
    ties: Vec<u32>,
    costs: Vec<f64>,
}

impl Costs {
    pub(super) fn new(settings: KvAware, kinds: &[Kind], requests: usize) -> Costs {
        let mut members: Vec<(u32, Vec<u32>)> = Vec::new();
        let mut places = Vec::with_capacity(kinds.len());
        for (candidate, kind) in kinds.iter().enumerate() {
            let known = members.iter().position(|(block_size, _)| *block_size == kind.block_size);
            let group = known.unwrap_or_else(|| {
                members.push((kind.block_size, Vec::new()));
                members.len() - 1
            });
            places.push((group as u32, members[group].1.len() as u32));
            members[group].1.push(candidate as u32);
        }
        let group = |(_, members): (u32, Vec<u32>)| {
            let keys = Least::new(members.len(), 0);
            Group { members, keys, low: Low::default() }
        };
        Costs {
            settings,
            block_sizes: kinds.iter().map(|kind| kind.block_size).collect(),
            pending: vec![0; kinds.len()],
            blocks: vec![0; kinds.len()],
            pending_of: Left::new(requests),
            blocks_of: Left::new(requests),
            groups: members.into_iter().map(group).collect(),
            places,
            ties: Vec::new(),
            costs: Vec::new(),
        }
    }

    /// Of a candidate, with so many more tokens of prompt, of which it has `hit`.
    #[inline]
    fn cost(&self, candidate: usize, prompt: u32, hit: u32) -> f64 {
        let block_size = self.block_sizes[candidate];
        let tokens = self.pending[candidate] + u64::from(prompt) - u64::from(hit);
        let decode = self.blocks[candidate] + u64::from(prompt.div_ceil(block_size));
        self.settings.overlap_weight * (tokens as f64 / f64::from(block_size)) + decode as f64
    }

    fn lowest(&mut self, call: &mut Call) -> usize {
        let prompt = call.ask.prompt;
        let mut ties = std::mem::take(&mut self.ties);
        ties.clear();
        for at in 0..self.groups.len() {
            self.groups[at].low = self.low(&self.groups[at], prompt);
        }
        // More tokens found cannot cost more: a candidate with a hit does no harm among those without.
        let of_hit = |(candidate, hit): &Holder| self.cost(*candidate as usize, prompt, *hit);
        let of_groups = self.groups.iter().map(|group| group.low.cost);
        let lowest = call.hits.iter().map(of_hit).chain(of_groups).fold(f64::INFINITY, f64::min);
        let by_hit = |hit: &&Holder| of_hit(hit) == lowest && self.cost(hit.0 as usize, prompt, 0) != lowest;
        ties.extend(call.hits.iter().filter(by_hit).map(|(candidate, _)| *candidate));
        let mut groups = self.groups.iter().filter(|group| group.low.cost == lowest);
        let candidate = match (groups.next(), groups.next()) {
            (Some(group), None) if group.low.alike && ties.is_empty() => {
                group.members[group.keys.nth(call.one_of(group.keys.count()))]
            }
            (first, second) => {
                for group in first.into_iter().chain(second).chain(groups) {
                    self.each_near(group, prompt, group.low.limit, |candidate, cost| {
                        if cost == lowest {
                            ties.push(candidate);
                        }
                    });
                }
                ties.sort_unstable();
                ties[call.one_of(ties.len())]
            }
        };
        self.ties = ties;
        candidate as usize
    }

    /// The lowest of a group, hits left aside.
    fn low(&self, group: &Group, prompt: u32) -> Low {
        let first = group.members[group.keys.nth(0)];
        let cost = self.cost(first as usize, prompt, 0);
        let key = f64::from_bits((group.keys.lowest() >> 64) as u64) + cost * ROUNDING;
        let limit = u128::from(key.to_bits()) << 64 | u128::from(u64::MAX);
        let mut low = Low { cost, limit, alike: group.keys.next() > limit };
        if !low.alike {
            self.each_near(group, prompt, limit, |_, cost| low.cost = low.cost.min(cost));
        }
        low
    }

    /// The candidates of a group whose cost may be the lowest, and their costs, hits left aside.
    fn each_near(&self, group: &Group, prompt: u32, limit: u128, mut each: impl FnMut(u32, f64)) {
        group.keys.each_up_to(limit, &mut |place| {
            let candidate = group.members[place];
            each(candidate, self.cost(candidate as usize, prompt, 0));
        });
    }

    /// At random, the lower costs more often.
    fn tempered(&mut self, call: &mut Call) -> usize {
        let mut costs = std::mem::take(&mut self.costs);
        costs.clear();
        costs.extend((0..call.candidates).map(|candidate| self.cost(candidate, call.ask.prompt, 0)));
        for (candidate, hit) in call.hits {
            costs[*candidate as usize] = self.cost(*candidate as usize, call.ask.prompt, *hit);
        }
        let lowest = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = costs.iter().copied().fold(0.0, f64::max);
        let mut sum = 0.0;
        for cost in &mut costs {
            let scaled = if highest == lowest { 0.0 } else { (*cost - lowest) / (highest - lowest) };
            sum += libm::exp(-scaled / self.settings.temperature);
            *cost = sum;
        }
        let at = call.uniform01() * sum;
        let candidate = costs.iter().position(|up_to| *up_to > at).unwrap_or(call.candidates - 1);
        self.costs = costs;
        candidate
    }

    fn changed(&mut self, candidate: usize) {
        let (group, place) = self.places[candidate];
        let key = u128::from(self.cost(candidate, 0, 0).to_bits()) << 64 | u128::from(self.pending[candidate]);
        self.groups[group as usize].keys.set(place as usize, key);
    }
}

impl Policy for Costs {
    fn pick(&mut self, call: &mut Call) -> usize {
        let prompt = call.ask.prompt;
        call.score(|candidate| Some(0.0 - self.cost(candidate, prompt, 0)));
        for (candidate, hit) in call.hits {
            call.rescore(*candidate, 0.0 - self.cost(*candidate as usize, prompt, *hit));
        }
        let candidate = if self.settings.temperature > 0.0 { self.tempered(call) } else { self.lowest(call) };
        let hit = call.hits.iter().find(|(holder, _)| *holder as usize == candidate).map_or(0, |(_, hit)| *hit);
        let request = call.ask.request;
        let (uncached, blocks) = (prompt - hit, prompt.div_ceil(self.block_sizes[candidate]));
        self.pending_of.put(request, uncached);
        self.blocks_of.put(request, blocks);
        self.pending[candidate] += u64::from(uncached);
        self.blocks[candidate] += u64::from(blocks);
        self.changed(candidate);
        candidate
    }

    fn prompt_done(&mut self, candidate: usize, request: u32) {
        self.pending[candidate] -= u64::from(self.pending_of.take(request, u32::MAX));
        self.changed(candidate);
    }

    fn ended(&mut self, candidate: usize, request: u32) {
        self.pending[candidate] -= u64::from(self.pending_of.take(request, u32::MAX));
        self.blocks[candidate] -= u64::from(self.blocks_of.take(request, u32::MAX));
        self.changed(candidate);
    }
}
