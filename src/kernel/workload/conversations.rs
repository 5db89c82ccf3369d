//! Requests that come about because others are done: turns of sessions, steps of agents.
//!
//! Sessions begin at the times of the arrival process. What follows in a session has an estimate of its arrival: that of
//! the last request that it waits for, the time that a request is assumed to take, and its think time. Of all that could
//! arrive, the first `requests` are made. Session `s` is the same however many follow; the number of requests decides
//! only where it is cut.

use std::collections::BTreeMap;

use rand_pcg::Pcg64;

use super::chains::Graph;
use super::generate::tidy;
use super::mix::{Asked, Popularity, root};
use super::{Lengths, MAX_TOKENS, StepContext, Synthetic, SyntheticSessions, chain};
use crate::request::Requests;
use crate::rng;
use crate::scenario::ThinkTime;
use crate::units::{SimDuration, SimTime};

/// What a session is made of.
pub(super) enum Plan<'a> {
    Turns(&'a SyntheticSessions),
    Steps { graph: Graph<'a>, max_context: Option<u32>, turn_s: f64 },
}

impl Plan<'_> {
    /// `None` where requests do not belong to sessions.
    pub fn of(workload: &Synthetic) -> Option<Plan<'_>> {
        let steps = workload.chains.as_ref().map(|chains| Plan::Steps {
            graph: Graph::new(chains),
            max_context: chains.max_context,
            turn_s: chains.turn_s,
        });
        workload.sessions.as_ref().map(Plan::Turns).or(steps)
    }

    fn max_context(&self) -> u64 {
        let (Plan::Turns(SyntheticSessions { max_context, .. }) | Plan::Steps { max_context, .. }) = self;
        u64::from(max_context.unwrap_or(MAX_TOKENS))
    }

    fn turn(&self) -> SimDuration {
        let (Plan::Turns(SyntheticSessions { turn_s, .. }) | Plan::Steps { turn_s, .. }) = self;
        SimDuration::from_s(*turn_s)
    }
}

/// A session that has begun.
struct Session {
    /// Of its prefix, where it has one.
    group: Option<u64>,
    /// Of sessions with turns.
    turns: u32,
    model: Option<u32>,
    adapter: Option<u32>,
}

/// A request that may come about. It has a number once it is the next to arrive.
struct Pending {
    think: Option<SimDuration>,
    /// Requests that it waits for, in the order that the settings name them.
    after: Vec<u32>,
    content: Content,
    input: u32,
    output: u32,
    of_images: Option<u32>,
}

/// What a prompt holds: the prefix of the session, or all that another request held and its reply; then replies of
/// others; then something new.
struct Content {
    of: Option<u32>,
    replies: Vec<u32>,
    new: u32,
}

/// Draws the parts of one request, each from a stream of its own.
struct Draw {
    seed: u64,
    of: String,
}

impl Draw {
    fn stream(&self, what: &str) -> Pcg64 {
        rng::stream(self.seed, &format!("{}/{what}", self.of))
    }
}

struct Maker<'a> {
    workload: &'a Synthetic,
    plan: &'a Plan<'a>,
    seed: u64,
    sessions: Vec<Session>,
    /// What may arrive next: by time, then session, then place in it.
    pending: BTreeMap<(SimTime, u32, u32), Pending>,
    made: Requests,
    /// By request: its session and its place in it, and what its prompt holds.
    places: Vec<(u32, u32)>,
    contents: Vec<Content>,
    /// Requests by session and place.
    numbers: BTreeMap<(u32, u32), u32>,
}

/// The requests of a workload of sessions.
pub(super) fn generate(workload: &Synthetic, plan: &Plan, seed: u64) -> Requests {
    let n = workload.requests as usize;
    // There are no more sessions than requests.
    let begins = workload.arrivals.times(workload.rate_rps, n, &mut rng::stream(seed, "workload/arrivals")).into_iter();
    let mut maker = Maker {
        workload,
        plan,
        seed,
        sessions: Vec::new(),
        pending: BTreeMap::new(),
        made: Requests { block_hash_offsets: vec![0], depends_on_offsets: vec![0], ..Requests::default() },
        places: Vec::new(),
        contents: Vec::new(),
        numbers: BTreeMap::new(),
    };
    maker.fill(begins, n);
    maker.hash();
    maker.finish()
}

impl Maker<'_> {
    /// Makes the first `n` requests to arrive.
    fn fill(&mut self, begins: impl Iterator<Item = SimTime>, n: usize) {
        let groups = self.workload.shared_prefix.map(|p| Popularity::zipf(p.groups, p.skew));
        let mut prefix = rng::stream(self.seed, "workload/prefix");
        let mut turns = rng::stream(self.seed, "workload/turns");
        let mut asked = Asked::new(&self.workload.models, self.workload.adapters, self.seed);
        let mut begins = begins.peekable();
        while self.made.len() < n {
            let next = self.pending.first_key_value().map(|((at, ..), _)| *at);
            if let Some(at) = begins.next_if(|begin| next.is_none_or(|next| *begin <= next)) {
                let (model, adapter) = asked.draw();
                let group = groups.as_ref().map(|g| g.sample(&mut prefix));
                let turns = match self.plan {
                    Plan::Turns(sessions) => sessions.turns.sample(&mut turns),
                    Plan::Steps { .. } => 0,
                };
                self.sessions.push(Session { group, turns, model, adapter });
                self.begin(at);
            } else if let Some(((at, session, place), next)) = self.pending.pop_first() {
                let request = self.add(at, session, place, next);
                self.follow(request);
            }
        }
    }

    /// The requests that the last session begins with.
    fn begin(&mut self, at: SimTime) {
        let session = self.sessions.len() as u32 - 1;
        let first: Vec<u32> = match self.plan {
            Plan::Turns(_) => vec![0],
            Plan::Steps { graph, .. } => {
                (0..).zip(&graph.steps).filter(|(_, node)| node.after.is_empty()).map(|(i, _)| i).collect()
            }
        };
        for place in first {
            let next = self.draw(session, place, Vec::new());
            self.pending.insert((at, session, place), next);
        }
    }

    /// What the arrival of `request` makes possible: it was the last that is waited for.
    fn follow(&mut self, request: u32) {
        let (session, place) = self.places[request as usize];
        let next: Vec<u32> = match self.plan {
            Plan::Turns(_) => (place + 1..self.sessions[session as usize].turns).take(1).collect(),
            Plan::Steps { graph, .. } => graph.steps[place as usize].then.clone(),
        };
        for place in next {
            let after: Option<Vec<u32>> = match self.plan {
                Plan::Turns(_) => Some(vec![request]),
                Plan::Steps { graph, .. } => {
                    let numbers = graph.steps[place as usize].after.iter().map(|a| self.numbers.get(&(session, *a)));
                    numbers.map(Option::<&u32>::copied).collect()
                }
            };
            let Some(after) = after else { continue };
            let next = self.draw(session, place, after);
            if u64::from(next.input) + u64::from(next.output) <= self.plan.max_context() {
                let wait = self.plan.turn().0.saturating_add(next.think.map_or(0, |t| t.0));
                let at = SimTime(self.made.arrival[request as usize].0.saturating_add(wait));
                self.pending.insert((at, session, place), next);
            }
        }
    }

    /// The request at a place of a session.
    fn draw(&self, session: u32, place: u32, after: Vec<u32>) -> Pending {
        let w = self.workload;
        let (name, input, output, think, inherits) = match self.plan {
            Plan::Turns(s) => {
                let think = (!after.is_empty()).then_some(s.think_time);
                (place.to_string(), &w.input, &w.output, think, s.accumulate)
            }
            Plan::Steps { graph, .. } => {
                let step = graph.steps[place as usize].step;
                let (input, output) = (step.input.as_ref(), step.output.as_ref());
                let inherits = step.context == StepContext::Inherit;
                let (input, output) = (input.unwrap_or(&w.input), output.unwrap_or(&w.output));
                (step.name.clone(), input, output, step.tool_time, inherits)
            }
        };
        let draw = Draw { seed: self.seed, of: format!("workload/sessions/{session}/{name}") };
        let sample = |lengths: &Lengths, what: &str| lengths.sample(&mut draw.stream(what));
        let of_images = w.images.map(|i| i.sample(&mut draw.stream("images"), &mut draw.stream("images/tokens")));
        let new = sample(input, "input") + of_images.unwrap_or(0);
        let content = match after.split_first() {
            Some((first, others)) if inherits => Content { of: Some(*first), replies: others.to_vec(), new },
            Some(_) | None => Content { of: None, replies: Vec::new(), new },
        };
        let think = match think {
            Some(time) => Some(bounded(&time, &mut draw.stream("think"))),
            None => (!after.is_empty()).then_some(SimDuration::ZERO),
        };
        let tokens = |of: &[u32], request: u32| u64::from(of[request as usize]);
        let (inputs, outputs) = (&self.made.input_tokens, &self.made.output_tokens);
        let before = match content.of {
            Some(of) => tokens(inputs, of) + tokens(outputs, of),
            None => w.shared_prefix.map_or(0, |p| u64::from(p.tokens)),
        };
        let replies: u64 = content.replies.iter().map(|r| tokens(outputs, *r)).sum();
        let input = before + replies + u64::from(new);
        Pending {
            think,
            after,
            content,
            // What does not fit is longer than any context, and is never made.
            input: u32::try_from(input).unwrap_or(u32::MAX),
            output: sample(output, "output"),
            of_images,
        }
    }

    /// Gives a request its number.
    fn add(&mut self, at: SimTime, session: u32, place: u32, next: Pending) -> u32 {
        let Pending { think, after, content, input, output, of_images } = next;
        let request = self.made.len() as u32;
        let of = &self.sessions[session as usize];
        let made = &mut self.made;
        made.arrival.push(at);
        made.input_tokens.push(input);
        made.output_tokens.push(output);
        made.session.push(Some(session));
        made.think.push(think);
        made.model.push(of.model);
        made.adapter.push(of.adapter);
        made.encoder_tokens.push(of_images);
        match self.plan {
            // The turns of a session follow each other anyway.
            Plan::Turns(_) => {}
            Plan::Steps { .. } => {
                made.class.push(Some(place));
                made.depends_on.extend(after);
            }
        }
        made.depends_on_offsets.push(made.depends_on.len() as u64);
        self.places.push((session, place));
        self.contents.push(content);
        self.numbers.insert((session, place), request);
        request
    }

    /// Hashes the full blocks of prompt and reply, where prompts have something in common.
    fn hash(&mut self) {
        let accumulates = match self.plan {
            Plan::Turns(sessions) => sessions.accumulate,
            Plan::Steps { .. } => true,
        };
        if !accumulates && self.workload.shared_prefix.is_none() {
            self.made.block_hash_offsets.resize(self.made.len() + 1, 0);
            return;
        }
        self.made.block_tokens = self.workload.block_tokens;
        let names = Names::new(self.seed);
        for request in 0..self.made.len() as u32 {
            let (session, _) = self.places[request as usize];
            let Session { group, model, adapter, .. } = self.sessions[session as usize];
            let pieces = self.pieces(request, group, &names);
            push_blocks(root(model, adapter), &pieces, self.made.block_tokens, &mut self.made.block_hashes);
            self.made.block_hash_offsets.push(self.made.block_hashes.len() as u64);
        }
    }

    /// The words of prompt and reply.
    fn pieces(&self, request: u32, group: Option<u64>, names: &Names) -> Vec<Piece> {
        let reply = |of: u32| Piece {
            words: names.of(self.places[of as usize], 1),
            tokens: self.made.output_tokens[of as usize],
        };
        // From the end to the start, as every request knows only the one that it goes on from.
        let mut pieces = Vec::new();
        let mut next = Some(request);
        while let Some(of) = next {
            let content = &self.contents[of as usize];
            let words = names.of(self.places[of as usize], 0);
            pieces.extend([reply(of), Piece { words, tokens: content.new }]);
            pieces.extend(content.replies.iter().rev().map(|r| reply(*r)));
            next = content.of;
        }
        let prefix = group.zip(self.workload.shared_prefix);
        pieces.extend(prefix.map(|(group, p)| Piece { words: chain(names.shared, group), tokens: p.tokens }));
        pieces.reverse();
        pieces
    }

    fn finish(self) -> Requests {
        let mut made = self.made;
        if made.depends_on.is_empty() {
            made.depends_on_offsets.clear();
        }
        if let Plan::Steps { graph, .. } = self.plan {
            made.class_names = graph.steps.iter().map(|node| node.step.name.clone()).collect();
        }
        tidy(&mut made);
        made
    }
}

/// A think time. Half of what fits at most, so that the sum of two times always fits.
fn bounded(time: &ThinkTime, rng: &mut Pcg64) -> SimDuration {
    SimDuration(SimDuration::from_s(time.sample(rng)).0.min(i64::MAX / 2))
}

/// Some words, by name, and how many tokens they are.
struct Piece {
    words: u64,
    tokens: u32,
}

/// Names of words. The seed is part of them, so that two workloads in one table never seem to share a block.
struct Names {
    shared: u64,
    unique: u64,
}

impl Names {
    fn new(seed: u64) -> Names {
        let name = |label: &[u8]| chain(rng::fnv1a(label), seed);
        Names { shared: name(b"workload/sessions/shared"), unique: name(b"workload/sessions/unique") }
    }

    fn of(&self, (session, place): (u32, u32), part: u64) -> u64 {
        chain(chain(chain(self.unique, u64::from(session)), u64::from(place)), part)
    }
}

/// Appends the chained hashes of the full blocks of `pieces`. A block is named after the pieces in it, where in each it
/// begins, and how much of each it has: blocks that follow equal blocks have the same name if they hold the same words.
fn push_blocks(root: u64, pieces: &[Piece], block_tokens: u32, hashes: &mut Vec<u64>) {
    let (mut hash, mut content, mut filled) = (root, 0, 0);
    for piece in pieces {
        let mut from = 0;
        while from < piece.tokens {
            let taken = (piece.tokens - from).min(block_tokens - filled);
            let part = u64::from(from) << 32 | u64::from(taken);
            content = chain(chain(content, piece.words), part);
            from += taken;
            filled += taken;
            if filled == block_tokens {
                hash = chain(hash, content);
                hashes.push(hash);
                (content, filled) = (0, 0);
            }
        }
    }
}
