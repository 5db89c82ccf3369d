//! What the oracle's world is made of: requests, steps, replicas with their blocks.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::adapters::Shelf;
use super::forming::sglang;
use super::lanes::Line;
use super::pools::Pool;
use super::speculating::{self, AdaptiveEntry};
use super::steptime::Noise;
use super::tiers::{Shelf as Store, Trip};
use crate::sim::latency::BatchShape;
use crate::sim::load::Demand;
use crate::sim::lora::Mix;
use crate::sim::{ItlStats, RequestRow, Status, StepRow};
use crate::units::{SimDuration, SimTime};

/// What is being done for a request, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its encoder tokens are computed, or what came of them is on its way.
    Encode,
    /// Its prompt is computed, for a decode replica.
    Prefill,
    /// Its prompt is computed for a decode replica, which has nothing to do then.
    PrefillOnly,
    /// Prompt and reply.
    Whole,
    /// The reply to a prompt that was computed elsewhere.
    Reply,
}

/// A choice of the router that still counts, or has counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub engine: usize,
    /// Tokens of the prompt, or of the encoder's prompt, and of them those that were not found in the prefix cache.
    pub prompt: usize,
    pub uncached: usize,
    /// Tokens of the prompt that steps that have ended computed or found.
    pub done: usize,
    /// The request counts as outstanding, and its prompt as pending.
    pub outstanding: bool,
    pub pending: bool,
}

/// Everything about one request.
pub(super) struct Life {
    pub request: u32,
    pub place: usize,
    /// How many samples it has; those that entered a queue; of a sample: its request, its number, and that it only computes
    /// the prompt of the others.
    pub samples: u32,
    pub children: Vec<usize>,
    pub parent: Option<usize>,
    pub sample: u32,
    pub ahead: bool,
    /// Of a group of sequences: the others, known from the end of the prompt, and of one of them the first. How many beams it
    /// has, and blocks that it holds for those that are not there yet; of such a one, that its tokens are nobody's.
    pub forks: Vec<usize>,
    pub leader: Option<usize>,
    pub beams: u32,
    pub apart: Vec<usize>,
    pub silent: bool,
    /// What its blocks were before they were copied to the host.
    pub away: Vec<usize>,
    /// When it is sent, or [`SimTime::MAX`] where that is not known yet.
    pub arrival: SimTime,
    /// It was routed, or will never be sent.
    pub arrived: bool,
    pub stage: Stage,
    /// Every choice that was made for it, the last one last.
    pub sent: Vec<Sent>,
    /// The engine of its row, and the one that computes its prompt for that.
    pub home: usize,
    pub prefill: Option<usize>,
    pub input: usize,
    /// Tokens of the prompt of this stage.
    pub prompt: usize,
    /// Tokens that it generates, and whether that cuts its reply; 0 before it is known that it can run.
    pub output: usize,
    pub cut: bool,
    /// When its client goes, and what it is then.
    pub abort: Option<(SimTime, Status)>,
    pub encoded: Option<SimTime>,
    pub queued: Option<SimTime>,
    pub scheduled: Option<SimTime>,
    pub prefilled: Option<SimTime>,
    pub kv_ready: Option<SimTime>,
    /// Tokens in the cache, as soon as the step that computes them is formed.
    pub computed: usize,
    /// When each of its tokens came out, and from the first one until the client has it.
    pub tokens: Vec<SimTime>,
    pub after_token: SimDuration,
    /// Tokens that must be computed before the next one can come out.
    pub target: usize,
    pub blocks: Vec<usize>,
    /// Blocks on the decode replica, while its KV cache moves there, the tokens of that, and the bytes.
    pub room: Vec<usize>,
    pub loaded: usize,
    pub bytes: u128,
    /// How long its prompt is estimated to take, and the engine where its tenant was charged for it.
    pub estimate: SimDuration,
    pub charged: Option<usize>,
    /// Where the scheduler keeps a list of active requests: its place there.
    pub listed: Option<usize>,
    /// Its KV cache has come, and it waits for a seat.
    pub ready: bool,
    /// A part of it comes from tiers; it came, and the prefix cache had so many blocks.
    pub trip: Option<Trip>,
    pub hits: Option<usize>,
    pub fetched_tokens: usize,
    /// Blocks at the start of the prompt that it should hold but does not: `recompute_full_hits`.
    pub missing: usize,
    pub cached: usize,
    /// Tokens that were drafted and are not verified.
    pub drafts: usize,
    /// Most tokens that it ever had in the cache of this replica.
    pub most: usize,
    pub recomputed: usize,
    pub preemptions: u32,
    /// Since when it has been losing time to preemptions, and what it had lost before.
    pub losing: Option<SimTime>,
    pub lost: SimDuration,
    /// From when to when it has lost time so far.
    pub losses: Vec<(SimTime, SimTime)>,
    /// Its row is out.
    pub gone: bool,
}

impl Life {
    pub(super) fn new(demand: &Demand<'_>, place: usize) -> Life {
        let request = demand.nth(place);
        let input = demand.requests.input_tokens[request as usize] as usize;
        Life {
            request,
            place,
            samples: demand.samples(request),
            children: Vec::new(),
            parent: None,
            sample: 0,
            ahead: false,
            forks: Vec::new(),
            leader: None,
            beams: demand.beams(request),
            apart: Vec::new(),
            silent: false,
            away: Vec::new(),
            arrival: demand.arrival(request),
            arrived: false,
            stage: Stage::Whole,
            sent: Vec::new(),
            home: 0,
            prefill: None,
            input,
            prompt: input,
            output: 0,
            cut: false,
            abort: None,
            encoded: None,
            queued: None,
            scheduled: None,
            prefilled: None,
            kv_ready: None,
            computed: 0,
            tokens: Vec::new(),
            after_token: SimDuration::ZERO,
            target: 0,
            blocks: Vec::new(),
            room: Vec::new(),
            loaded: 0,
            bytes: 0,
            estimate: SimDuration::ZERO,
            charged: None,
            listed: None,
            ready: false,
            trip: None,
            hits: None,
            fetched_tokens: 0,
            missing: 0,
            cached: 0,
            drafts: 0,
            most: 0,
            recomputed: 0,
            preemptions: 0,
            losing: None,
            lost: SimDuration::ZERO,
            losses: Vec::new(),
            gone: false,
        }
    }

    /// Sequences of it, where its samples or beams are that.
    pub(super) fn width(&self) -> usize {
        self.samples.max(self.beams) as usize
    }

    /// Its client is gone by now.
    pub(super) fn is_left(&self, now: SimTime) -> bool {
        self.abort.is_some_and(|(at, _)| at <= now)
    }

    /// It yields no tokens of its own: it leaves the replica with the end of its prompt.
    pub(super) fn leaves_with_prompt(&self) -> bool {
        match self.stage {
            Stage::Encode | Stage::Prefill | Stage::PrefillOnly => true,
            Stage::Whole | Stage::Reply => false,
        }
    }

    /// A token comes out.
    pub(super) fn hand_out(&mut self, now: SimTime, after_token: SimDuration) {
        if self.tokens.is_empty() {
            self.after_token = after_token;
        }
        self.tokens.push(now);
    }

    /// Routers do not count its prompt on this engine any more; nor, if `over`, the request.
    pub(super) fn dealt_with(&mut self, engine: usize, over: bool) {
        for sent in self.sent.iter_mut().filter(|sent| sent.engine == engine) {
            sent.pending = false;
            sent.outstanding &= !over;
        }
    }

    /// It has ended: no router counts it any more.
    pub(super) fn over(&mut self) {
        self.gone = true;
        self.sent.iter_mut().for_each(|sent| (sent.outstanding, sent.pending) = (false, false));
    }

    /// The rest of its prompt is computed: every step yields a token.
    pub(super) fn decodes(&self) -> bool {
        self.computed >= self.target
    }

    pub(super) fn end_loss(&mut self, now: SimTime) {
        if let Some(since) = self.losing.take() {
            self.lost += now - since;
            self.losses.push((since, now));
        }
    }

    /// What it lost between being scheduled and its first token.
    pub(super) fn lost_of_prefill(&self) -> SimDuration {
        let (Some(from), Some(to)) = (self.scheduled, self.tokens.first()) else { return SimDuration::ZERO };
        let all = self.losses.iter().map(|(a, b)| ((*a).max(from), (*b).min(*to)));
        all.filter(|(a, b)| a < b).fold(SimDuration::ZERO, |sum, (a, b)| sum + (b - a))
    }

    /// Its row, if it ends now.
    pub(super) fn row(&self, status: Status) -> RequestRow {
        RequestRow {
            prefill_replica: self.prefill.map(|engine| engine as u32),
            encoded: self.encoded,
            queued: self.queued,
            scheduled: self.scheduled,
            prefilled: self.prefilled,
            kv_ready: self.kv_ready,
            first_token: self.tokens.first().map(|t| *t + self.after_token),
            input_tokens: self.input as u32,
            samples: self.samples,
            output_tokens: self.tokens.len() as u32,
            cached_tokens: self.cached as u32,
            fetched_tokens: self.fetched_tokens as u32,
            recomputed_tokens: self.recomputed as u32,
            preemptions: self.preemptions,
            preempted: self.lost,
            prefill_preempted: self.lost_of_prefill(),
            itl: itl(&self.tokens),
            ..RequestRow::new(self.request, self.home as u32, status, self.arrival)
        }
    }
}

/// The gaps between tokens that came out at these times.
pub(super) fn itl(tokens: &[SimTime]) -> Option<ItlStats> {
    stats(tokens.windows(2).map(|w| (w[1] - w[0]).0).collect())
}

/// What is told of these gaps.
pub(super) fn stats(mut gaps: Vec<i64>) -> Option<ItlStats> {
    gaps.sort_unstable();
    let max = *gaps.last()?;
    let sum = gaps.iter().sum();
    // Position 0.99 * (n - 1), in hundredths.
    let rank = 99 * (gaps.len() - 1);
    let (low, part) = (gaps[rank / 100], (rank % 100) as i128);
    let high = *gaps.get(rank / 100 + 1).unwrap_or(&max);
    let hundredths = i128::from(low) * 100 + i128::from(high - low) * part;
    let p99 = ((hundredths + 50) / 100) as i64;
    Some(ItlStats { count: gaps.len() as u64, sum: SimDuration(sum), p99: SimDuration(p99), max: SimDuration(max) })
}

/// What one request does in a step.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub life: usize,
    pub decode: bool,
    /// Tokens in the cache before the step, and tokens that the step computes.
    pub from: usize,
    pub tokens: usize,
    /// Tokens to which those of the step attend.
    pub context: usize,
    /// Of blocks behind so many tokens nobody knew the content before the step.
    pub filled_from: usize,
    /// A token comes out at the end.
    pub yields: bool,
    /// Has computed again, at the end, what preemptions lost; unless it was preempted more often than this by then.
    pub restores: bool,
    pub preemptions: u32,
}

impl Part {
    /// Tokens that are in the cache after the step whatever is accepted.
    pub(super) fn certain(&self) -> usize {
        self.from + if self.decode { 1 } else { self.tokens }
    }
}

/// A step that was formed; the times of its row are known when it starts.
pub(super) struct Step {
    pub batch: Vec<Part>,
    pub shape: BatchShape,
    pub mix: Mix,
    /// The part of its time in which drafts are made.
    pub drafting: SimDuration,
    pub row: StepRow,
}

impl Step {
    pub(super) fn end(&self) -> SimTime {
        self.row.start + self.row.duration
    }
}

#[derive(Clone, Default)]
pub(super) struct Block {
    pub users: usize,
    pub hash: Option<u64>,
}

/// On its way to the queue. Those that get there at the same time do so in the order of the trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Coming {
    pub at: SimTime,
    pub life: usize,
}

/// One engine.
pub(super) struct Machine {
    pub pool: Rc<Pool>,
    pub coming: Vec<Coming>,
    pub waiting: VecDeque<usize>,
    /// In order of admission.
    pub running: Vec<usize>,
    /// What tenants were given, and whose request left the queue last.
    pub counters: BTreeMap<i64, i64>,
    pub last_left: Option<i64>,
    /// Requests that got a place in the list of active ones.
    pub listed: usize,
    pub blocks: Vec<Block>,
    /// Blocks that nobody uses: the first is taken first.
    pub free: VecDeque<usize>,
    /// Blocks by content, those filled first in front.
    pub by_hash: BTreeMap<u64, Vec<usize>>,
    /// The step that runs, and with asynchronous scheduling the one after it.
    pub current: Option<Step>,
    pub next: Option<Step>,
    /// Those in flight behind it, where there may be several.
    pub line: Line,
    /// Encoder tokens that are kept for requests.
    pub encoded: BTreeMap<usize, usize>,
    /// Blocks that requests hold whatever their length.
    pub fixed: BTreeMap<usize, Vec<usize>>,
    /// Requests whose prompts are done elsewhere, and that wait for blocks here to put their KV caches into.
    pub room: VecDeque<usize>,
    /// What its steps vary by, where they do.
    pub noise: Option<Noise>,
    /// Its tiers, fetches that have begun, and contents that were given up since the tiers were told.
    pub shelves: Vec<Store>,
    pub trips: u64,
    pub evicted: Vec<u64>,
    /// Steps that were extrapolated, and were estimates only.
    pub estimates: u64,
    pub sglang: sglang::Memory,
    /// By entry, and what the requests of the step that ends had accepted; tokens that it drafted.
    pub adaptive: Vec<AdaptiveEntry>,
    pub accepted: Vec<usize>,
    pub steps: usize,
    /// Nothing could be formed, and nothing has come or was freed since.
    pub rests: bool,
    /// FasterTransformer: the requests that the batch was formed of.
    pub batch: Vec<usize>,
    /// LightLLM: steps of tokens since it looked at the queue.
    pub iterations: u32,
    pub shelf: Shelf,
}

impl Machine {
    /// The engine of this number.
    pub(super) fn new(pool: Rc<Pool>, number: usize, seed: u64) -> Machine {
        let blocks = pool.blocks;
        Machine {
            coming: Vec::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            counters: BTreeMap::new(),
            last_left: None,
            listed: 0,
            blocks: vec![Block::default(); blocks],
            free: (0..blocks).collect(),
            by_hash: BTreeMap::new(),
            current: None,
            next: None,
            line: Line::new(&pool.deployment, pool.role),
            encoded: BTreeMap::new(),
            fixed: BTreeMap::new(),
            room: VecDeque::new(),
            shelves: pool.tiers.iter().map(Store::new).collect(),
            trips: 0,
            evicted: Vec::new(),
            estimates: 0,
            sglang: sglang::Memory::new(seed, number),
            adaptive: speculating::entries(&pool),
            accepted: Vec::new(),
            steps: 0,
            shelf: Shelf::default(),
            rests: false,
            noise: (pool.jitter_cv > 0.0).then(|| Noise::new(seed, number, pool.jitter_cv)),
            batch: Vec::new(),
            iterations: 0,
            pool,
        }
    }

    /// Nobody waits and nobody runs.
    pub(super) fn idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Blocks in use.
    pub(super) fn used(&self) -> usize {
        let used = self.blocks.iter().filter(|b| b.users > 0).count();
        assert!(used + self.free.len() == self.blocks.len(), "used + free blocks must be all blocks");
        used
    }

    /// The free block that was not used for the longest time; what it held is forgotten.
    pub(super) fn take(&mut self) -> Option<usize> {
        let id = self.free.pop_front()?;
        self.evicted.extend(self.blocks[id].hash);
        self.forget(id);
        self.blocks[id].users = 1;
        Some(id)
    }

    /// One more user of a block.
    pub(super) fn share(&mut self, id: usize) {
        self.free.retain(|free| *free != id);
        self.blocks[id].users += 1;
    }

    /// Gives up the blocks of a request, the last one first.
    pub(super) fn release(&mut self, ids: &[usize]) {
        self.rests = false;
        for &id in ids.iter().rev() {
            self.blocks[id].users -= 1;
            if self.blocks[id].users == 0 {
                self.free.push_back(id);
            }
        }
    }

    /// A request takes the blocks that it holds whatever its length; or gives them up.
    pub(super) fn hold_fixed(&mut self, life: usize) {
        let taken: Vec<usize> = (0..self.pool.fixed).filter_map(|_| self.take()).collect();
        assert!(taken.len() == self.pool.fixed, "an admitted request must get its blocks");
        self.fixed.insert(life, taken);
    }

    pub(super) fn release_fixed(&mut self, life: usize) {
        let held = self.fixed.remove(&life).unwrap_or_default();
        self.release(&held);
    }

    /// The block is full, and this is its content from now on.
    pub(super) fn fill(&mut self, id: usize, hash: u64) {
        if self.blocks[id].hash.is_none() {
            self.blocks[id].hash = Some(hash);
            self.by_hash.entry(hash).or_default().push(id);
        }
    }

    /// Nothing is known any more of the content of the block.
    pub(super) fn forget(&mut self, id: usize) {
        let Some(hash) = self.blocks[id].hash.take() else { return };
        let holders = self.by_hash.entry(hash).or_default();
        holders.retain(|held| *held != id);
        if holders.is_empty() {
            self.by_hash.remove(&hash);
        }
    }

    /// The block with this content that was filled first.
    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        self.by_hash.get(&hash)?.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_of_a_request() {
        /// Sum, p99 and longest.
        type Gaps = Option<(i64, i64, i64)>;
        let cases: [(&[i64], Gaps); 6] = [
            (&[], None),
            (&[5], None),
            (&[5, 12], Some((7, 7, 7))),
            // Gaps 10 and 20: 10 + 0.99 * 10 = 19.9.
            (&[0, 20, 30], Some((30, 20, 20))),
            // Gaps 1 and 51: 1 + 49.5 = 50.5, half up.
            (&[0, 1, 52], Some((52, 51, 51))),
            // Gaps 10, 20, 30: position 1.98, 20 + 9.8.
            (&[0, 30, 40, 60], Some((60, 30, 30))),
        ];
        for (tokens, expect) in cases {
            let tokens: Vec<SimTime> = tokens.iter().map(|t| SimTime(*t)).collect();
            assert_eq!(itl(&tokens).map(|i| (i.sum.0, i.p99.0, i.max.0)), expect, "{tokens:?}");
        }
        // 101 gaps: the 100th of them, exactly.
        let hundred: Vec<SimTime> = (0..102).map(|i: i64| SimTime(i * (i + 1) / 2)).collect();
        assert_eq!(itl(&hundred).map(|i| (i.p99.0, i.max.0)), Some((100, 101)));
    }
}
