//! The routers that go by one count: least of it, and the sticky routers that begin so.

use super::least::Least;
use super::picker::{Ask, Call, Load, Policy};
use super::turns::Turns;
use crate::sim::kv::table::Table;

/// What every request still counts for where it was sent.
pub(super) struct Left(Vec<u32>);

impl Left {
    pub(super) fn new(requests: usize) -> Left {
        Left(vec![0; requests])
    }

    /// The request counts for so much.
    pub(super) fn put(&mut self, request: u32, amount: u32) {
        self.0[request as usize] = amount;
    }

    /// It counts for so much less; returns by how much, as it cannot be less than nothing.
    pub(super) fn take(&mut self, request: u32, most: u32) -> u32 {
        let left = &mut self.0[request as usize];
        let taken = most.min(*left);
        *left -= taken;
        taken
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Outstanding,
    Waiting,
    /// Prompt tokens pending.
    Tokens,
    /// Requests with prompt tokens pending.
    Prompts,
    /// Prompt tokens pending that no step has dealt with.
    TokensLeft,
}

/// The least of one count.
pub(super) struct Counts {
    what: What,
    values: Least<u64>,
    left: Left,
}

impl Counts {
    /// For so many requests.
    pub(super) fn new(what: What, candidates: usize, requests: usize) -> Counts {
        let each = match what {
            What::Outstanding | What::Waiting => 0,
            What::Tokens | What::Prompts | What::TokensLeft => requests,
        };
        Counts { what, values: Least::new(candidates, 0), left: Left::new(each) }
    }

    #[inline]
    pub(super) fn get(&self, candidate: usize) -> u64 {
        self.values.get(candidate)
    }

    /// A fewest one.
    pub(super) fn least(&self, call: &mut Call) -> usize {
        self.values.nth(call.one_of(self.values.count()))
    }

    pub(super) fn score(&self, call: &mut Call) {
        call.score(|candidate| Some(0.0 - self.get(candidate) as f64));
    }

    /// The request was sent there.
    pub(super) fn count(&mut self, candidate: usize, call: &Call) {
        let Ask { request, prompt, .. } = call.ask;
        let amount = match self.what {
            What::Waiting => return,
            What::Outstanding => return self.values.set(candidate, self.get(candidate) + 1),
            What::Tokens | What::TokensLeft => prompt,
            What::Prompts => prompt.min(1),
        };
        self.left.put(request, amount);
        self.values.set(candidate, self.get(candidate) + u64::from(amount));
    }

    fn take(&mut self, candidate: usize, request: u32, most: u32) {
        let taken = self.left.take(request, most);
        if taken > 0 {
            self.values.set(candidate, self.get(candidate) - u64::from(taken));
        }
    }
}

impl Policy for Counts {
    fn pick(&mut self, call: &mut Call) -> usize {
        self.score(call);
        let candidate = self.least(call);
        self.count(candidate, call);
        candidate
    }

    fn progress(&mut self, candidate: usize, request: u32, tokens: u32) {
        match self.what {
            What::TokensLeft => self.take(candidate, request, tokens),
            What::Outstanding | What::Waiting | What::Tokens | What::Prompts => {}
        }
    }

    fn prompt_done(&mut self, candidate: usize, request: u32) {
        match self.what {
            What::Outstanding | What::Waiting => {}
            What::Tokens | What::Prompts | What::TokensLeft => self.take(candidate, request, u32::MAX),
        }
    }

    fn ended(&mut self, candidate: usize, request: u32) {
        match self.what {
            What::Outstanding => self.values.set(candidate, self.get(candidate) - 1),
            What::Waiting => {}
            What::Tokens | What::Prompts | What::TokensLeft => self.take(candidate, request, u32::MAX),
        }
    }

    fn see(&mut self, candidate: usize, load: Load) {
        if self.what == What::Waiting {
            self.values.set(candidate, u64::from(load.waiting));
        }
    }
}

/// The replica of every session.
pub(super) struct Sessions(Table);

impl Sessions {
    pub(super) fn new() -> Sessions {
        Sessions(Table::new())
    }

    /// The candidate of the request's session, if it has one that was chosen.
    pub(super) fn of(&self, call: &Call) -> Option<usize> {
        let chosen = self.0.get(u64::from(call.session()?));
        (chosen as usize).checked_sub(1)
    }

    /// The candidate is the session's from now on.
    pub(super) fn put(&mut self, call: &Call, candidate: usize) {
        let Some(session) = call.session() else { return };
        let (session, chosen) = (u64::from(session), candidate as u32 + 1);
        if self.0.get_or_insert(session, chosen) != chosen {
            self.0.replace(session, chosen);
        }
    }
}

/// How a sticky router chooses for a session's first request.
pub(super) enum First {
    Turns(Turns),
    Least(Counts),
}

/// The replica of the session's first request.
pub(super) struct Sticky {
    pub(super) sessions: Sessions,
    pub(super) first: First,
}

impl Policy for Sticky {
    fn pick(&mut self, call: &mut Call) -> usize {
        let kept = self.sessions.of(call);
        let candidate = match (&mut self.first, kept) {
            (First::Turns(turns), None) => turns.pick(call),
            (First::Turns(_) | First::Least(_), Some(kept)) => {
                call.score(|_| None);
                kept
            }
            (First::Least(counts), None) => {
                counts.score(call);
                counts.least(call)
            }
        };
        if let First::Least(counts) = &mut self.first {
            counts.count(candidate, call);
        }
        self.sessions.put(call, candidate);
        candidate
    }

    fn prompt_done(&mut self, candidate: usize, request: u32) {
        if let First::Least(counts) = &mut self.first {
            counts.prompt_done(candidate, request);
        }
    }

    fn ended(&mut self, candidate: usize, request: u32) {
        if let First::Least(counts) = &mut self.first {
            counts.ended(candidate, request);
        }
    }
}
