//! Requests that come about because others are done: turns of sessions, steps of agents.
//!
//! Sessions begin at the times of the arrival process. What follows in a session has an estimate of its arrival: that
//! of the last request that it waits for, the time that a request is assumed to take, and its think time. Of all that
//! could arrive, the first `requests` are made. Session `s` is the same however many follow; the number of requests
//! decides only where it is cut.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rand_pcg::Pcg64;

use super::chains::Graph;
use super::generate::{Cx, Made, tidy};
use super::mix::Asked;
use super::prefix::{self, Piece, Prefixes, push_blocks};
use super::shape::{Shape, Shapes, Streams};
use super::{ArrivalProcess, MAX_TOKENS, StepContext, Synthetic, SyntheticSessions, chain};
use crate::request::Requests;
use crate::rng;
use crate::scenario::ThinkTime;
use crate::units::{SimDuration, SimTime};

/// What a session is made of.
pub(super) enum Plan<'a> {
    Turns(Cow<'a, SyntheticSessions>),
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
        if let ArrivalProcess::ClosedLoop(users) = &workload.arrivals {
            return Some(Plan::Turns(Cow::Owned(users.sessions())));
        }
        workload.sessions.as_ref().map(|s| Plan::Turns(Cow::Borrowed(s))).or(steps)
    }

    fn max_context(&self) -> u64 {
        let max_context = match self {
            Plan::Turns(sessions) => sessions.max_context,
            Plan::Steps { max_context, .. } => *max_context,
        };
        u64::from(max_context.unwrap_or(MAX_TOKENS))
    }

    fn turn(&self) -> SimDuration {
        SimDuration::from_s(match self {
            Plan::Turns(sessions) => sessions.turn_s,
            Plan::Steps { turn_s, .. } => *turn_s,
        })
    }
}

/// A session that has begun.
struct Session {
    /// What its prompts begin with.
    prefix: Vec<Piece>,
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
    /// Of the whole prompt.
    input: u32,
    shape: Shape,
}

/// What a prompt holds: the prefix of the session, or all that another request held and its reply; then replies of
/// others; then something new.
struct Content {
    of: Option<u32>,
    replies: Vec<u32>,
    new: u32,
}

struct Maker<'a> {
    workload: &'a Synthetic,
    plan: &'a Plan<'a>,
    cx: &'a Cx,
    prefixes: Prefixes,
    /// By step; one of all turns.
    shapes: Vec<Shapes>,
    sessions: Vec<Session>,
    /// What may arrive next: by time, then session, then place in it.
    pending: BTreeMap<(SimTime, u32, u32), Pending>,
    made: Made,
    /// By request: its session and its place in it, and what its prompt holds.
    places: Vec<(u32, u32)>,
    contents: Vec<Content>,
    /// Requests by session and place.
    numbers: BTreeMap<(u32, u32), u32>,
}

/// The requests of a workload of sessions.
pub(super) fn generate(workload: &Synthetic, plan: &Plan, cx: &Cx) -> Made {
    // There are no more sessions than requests.
    let begins = match &workload.arrivals {
        ArrivalProcess::ClosedLoop(users) => users.begins(),
        process => {
            let most = workload.starts.map_or(cx.most, |starts| cx.most.min(starts as usize));
            process.arrivals(&workload.load(), most, cx.until, cx.seed, "workload/arrivals")
        }
    };
    let shapes = match plan {
        Plan::Turns(_) => vec![workload.shapes(None, None)],
        Plan::Steps { graph, .. } => {
            graph.steps.iter().map(|n| workload.shapes(n.step.input.as_ref(), n.step.output.as_ref())).collect()
        }
    };
    let requests = Requests { block_hash_offsets: vec![0], depends_on_offsets: vec![0], ..Requests::default() };
    let mut maker = Maker {
        workload,
        plan,
        cx,
        prefixes: workload.prefixes(cx),
        shapes,
        sessions: Vec::new(),
        pending: BTreeMap::new(),
        made: Made { requests, ..Made::default() },
        places: Vec::new(),
        contents: Vec::new(),
        numbers: BTreeMap::new(),
    };
    maker.fill(begins.into_iter());
    maker.hash();
    maker.finish()
}

impl Maker<'_> {
    /// Makes the requests to arrive, as many and as long as is asked for.
    fn fill(&mut self, begins: impl Iterator<Item = SimTime>) {
        let mut prefix = rng::stream(self.cx.seed, "workload/prefix");
        let mut turns = rng::stream(self.cx.seed, "workload/turns");
        let mut asked = Asked::new(&self.workload.models, self.workload.adapters, self.cx.seed);
        let turns_of = match self.plan {
            Plan::Turns(sessions) => Some(sessions.turns.sampler()),
            Plan::Steps { .. } => None,
        };
        let mut begins = begins.peekable();
        while self.made.requests.len() < self.cx.most {
            let next = self.pending.first_key_value().map(|((at, ..), _)| *at);
            if let Some(at) = begins.next_if(|begin| next.is_none_or(|next| *begin <= next)) {
                let (model, adapter) = asked.draw();
                let prefix = self.prefixes.draw(&mut prefix);
                let turns = turns_of.as_ref().map_or(0, |of| of.sample(&mut turns));
                self.sessions.push(Session { prefix, turns, model, adapter });
                self.begin(at);
            } else if let Some(((at, session, place), next)) = self.pending.pop_first() {
                // What is due later is due later than this too.
                if at >= self.cx.until && self.cx.until != SimTime::MAX {
                    break;
                }
                let request = self.add(at, session, place, next);
                self.follow(request);
            } else {
                break;
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
            if u64::from(next.input) + u64::from(next.shape.output) <= self.plan.max_context() {
                let wait = self.plan.turn().0.saturating_add(next.think.map_or(0, |t| t.0));
                let at = SimTime(self.made.requests.arrival[request as usize].0.saturating_add(wait));
                self.pending.insert((at, session, place), next);
            }
        }
    }

    /// The request at a place of a session.
    fn draw(&self, session: u32, place: u32, after: Vec<u32>) -> Pending {
        let (name, shapes, think, inherits) = match self.plan {
            Plan::Turns(s) => {
                let think = (!after.is_empty()).then_some(s.think_time);
                (place.to_string(), &self.shapes[0], think, s.accumulate)
            }
            Plan::Steps { graph, .. } => {
                let step = graph.steps[place as usize].step;
                let inherits = step.context == StepContext::Inherit;
                (step.name.clone(), &self.shapes[place as usize], step.tool_time, inherits)
            }
        };
        let mut streams = Streams::new(self.cx.seed, format!("workload/sessions/{session}/{name}"));
        let shape = shapes.draw(&mut streams);
        let new = shape.input;
        let content = match after.split_first() {
            Some((first, others)) if inherits => Content { of: Some(*first), replies: others.to_vec(), new },
            Some(_) | None => Content { of: None, replies: Vec::new(), new },
        };
        let think = match think {
            Some(time) => Some(bounded(&time, streams.get("think"))),
            None => (!after.is_empty()).then_some(SimDuration::ZERO),
        };
        let tokens = |of: &[u32], request: u32| u64::from(of[request as usize]);
        let (inputs, outputs) = (&self.made.requests.input_tokens, &self.made.requests.output_tokens);
        let before = match content.of {
            Some(of) => tokens(inputs, of) + tokens(outputs, of),
            None => prefix::tokens(&self.sessions[session as usize].prefix),
        };
        let replies: u64 = content.replies.iter().map(|r| tokens(outputs, *r)).sum();
        let input = before + replies + u64::from(new);
        // What does not fit is longer than any context, and is never made.
        Pending { think, after, content, input: u32::try_from(input).unwrap_or(u32::MAX), shape }
    }

    /// Gives a request its number.
    fn add(&mut self, at: SimTime, session: u32, place: u32, next: Pending) -> u32 {
        let Pending { think, after, content, input, shape } = next;
        let request = self.made.requests.len() as u32;
        let of = &self.sessions[session as usize];
        self.made.images.push(shape.media);
        self.made.reasoning.push(shape.reasoning);
        let made = &mut self.made.requests;
        made.arrival.push(at);
        made.input_tokens.push(input);
        made.output_tokens.push(shape.output);
        made.session.push(Some(session));
        made.think.push(think);
        made.model.push(of.model);
        made.adapter.push(of.adapter);
        made.encoder_tokens.push(shape.encoder);
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
        if !accumulates && self.prefixes.is_empty() && !self.cx.hash {
            let n = self.made.requests.len();
            self.made.requests.block_hash_offsets.resize(n + 1, 0);
            return;
        }
        self.made.requests.block_tokens = self.workload.block_tokens;
        let names = Names::new(self.cx.seed);
        for request in 0..self.made.requests.len() as u32 {
            let (session, _) = self.places[request as usize];
            let Session { prefix, model, adapter, .. } = &self.sessions[session as usize];
            let pieces = self.pieces(request, prefix, &names);
            let root = self.cx.root(*model, *adapter);
            let made = &mut self.made.requests;
            push_blocks(root, &pieces, made.block_tokens, &mut made.block_hashes);
            made.block_hash_offsets.push(made.block_hashes.len() as u64);
        }
    }

    /// The words of prompt and reply.
    fn pieces(&self, request: u32, prefix: &[Piece], names: &Names) -> Vec<Piece> {
        let reply = |of: u32| Piece {
            words: names.of(self.places[of as usize], 1),
            tokens: self.made.requests.output_tokens[of as usize],
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
        pieces.extend(prefix.iter().rev());
        pieces.reverse();
        pieces
    }

    fn finish(self) -> Made {
        let Made { requests: mut made, images, reasoning, .. } = self.made;
        if made.depends_on.is_empty() {
            made.depends_on_offsets.clear();
        }
        if let Plan::Steps { graph, .. } = self.plan {
            made.class_names = graph.steps.iter().map(|node| node.step.name.clone()).collect();
        }
        tidy(&mut made);
        Made { requests: made, images, reasoning, ..Made::default() }
    }
}

/// A think time. Half of what fits at most, so that the sum of two times always fits.
fn bounded(time: &ThinkTime, rng: &mut Pcg64) -> SimDuration {
    SimDuration(SimDuration::from_s(time.sample(rng)).0.min(i64::MAX / 2))
}

/// Names of words. The seed is part of them, so that two workloads in one table never seem to share a block.
struct Names {
    unique: u64,
}

impl Names {
    fn new(seed: u64) -> Names {
        let name = |label: &[u8]| chain(rng::fnv1a(label), seed);
        Names { unique: name(b"workload/sessions/unique") }
    }

    fn of(&self, (session, place): (u32, u32), part: u64) -> u64 {
        chain(chain(chain(self.unique, u64::from(session)), u64::from(place)), part)
    }
}
