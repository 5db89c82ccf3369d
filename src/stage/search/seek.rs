//! One search: a configuration and an SLO.

use super::Judged;
use super::bracket::{Bracket, Ended, Step};
use super::setup::Setup;

/// How a search stands or ended.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Searching,
    /// The border is known.
    Found,
    /// Even the easiest value fails.
    NonePasses,
    /// Even the hardest value passes.
    AllPass,
    /// A value of a list, which passes.
    Passes,
    /// A value of a list, which fails.
    Fails,
    /// It cannot become the best any more.
    Dropped,
    /// It cannot be simulated; why.
    Impossible(String),
}

impl State {
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Searching => "searching",
            State::Found => "found",
            State::NonePasses => "none_passes",
            State::AllPass => "all_pass",
            State::Passes => "passes",
            State::Fails => "fails",
            State::Dropped => "dropped",
            State::Impossible(_) => "impossible",
        }
    }

    /// It has an answer that others are compared with.
    pub fn has_answer(&self) -> bool {
        matches!(self, State::Found | State::AllPass | State::Passes)
    }
}

/// How the next value is chosen.
#[derive(Clone, Debug)]
pub enum Way {
    Bracket(Bracket),
    /// This value and no other.
    Once(f64),
}

/// A value that a search asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Visit {
    pub value: f64,
    pub probe: usize,
    pub judged: Judged,
    /// What was believed after it.
    pub passing: Option<f64>,
    pub failing: Option<f64>,
}

/// A search of one configuration for one SLO.
#[derive(Clone, Debug)]
pub struct Seek {
    pub configuration: usize,
    pub slo: usize,
    pub state: State,
    pub visits: Vec<Visit>,
    /// No harder value can pass, by what the hardware can do at best; `None` where nothing is known.
    pub ceiling: Option<f64>,
    way: Way,
}

impl Seek {
    pub fn new(configuration: usize, slo: usize, way: Way) -> Seek {
        Seek { configuration, slo, state: State::Searching, visits: Vec::new(), ceiling: None, way }
    }

    /// The value that it must know of to go on; `None` where it is at an end.
    pub fn wants(&mut self) -> Option<f64> {
        if self.state != State::Searching {
            return None;
        }
        match &self.way {
            Way::Once(value) => Some(*value),
            Way::Bracket(bracket) => match bracket.next() {
                Step::Try(value) => Some(value),
                Step::End(ended) => {
                    self.state = match ended {
                        Ended::Found => State::Found,
                        Ended::NonePasses => State::NonePasses,
                        Ended::AllPass => State::AllPass,
                    };
                    None
                }
            },
        }
    }

    pub fn learn(&mut self, value: f64, probe: usize, judged: Judged) {
        match &mut self.way {
            Way::Once(_) => self.state = if judged.passes { State::Passes } else { State::Fails },
            Way::Bracket(bracket) => bracket.learn(value, judged.passes),
        }
        let visit = Visit { value, probe, judged, passing: None, failing: None };
        self.visits.push(visit);
        let (passing, failing) = (self.passing(), self.failing());
        if let Some(last) = self.visits.last_mut() {
            (last.passing, last.failing) = (passing, failing);
        }
    }

    pub fn give_up(&mut self, why: &str) {
        if self.state == State::Searching {
            self.state = State::Impossible(why.to_string());
        }
    }

    /// The hardest value that passes.
    pub fn passing(&self) -> Option<f64> {
        match &self.way {
            Way::Bracket(bracket) => bracket.passing(),
            Way::Once(value) => self.visits.iter().any(|v| v.judged.passes).then_some(*value),
        }
    }

    /// The easiest value that fails.
    pub fn failing(&self) -> Option<f64> {
        match &self.way {
            Way::Bracket(bracket) => bracket.failing(),
            Way::Once(value) => self.visits.iter().any(|v| !v.judged.passes).then_some(*value),
        }
    }

    /// Values that pass beyond one that fails.
    pub fn contradictions(&self) -> usize {
        match &self.way {
            Way::Bracket(bracket) => bracket.contradictions(),
            Way::Once(_) => 0,
        }
    }

    /// The probe of the answer.
    pub fn answer(&self) -> Option<usize> {
        let value = self.passing().filter(|_| self.state.has_answer())?;
        self.visits.iter().find(|v| v.value == value).map(|v| v.probe)
    }
}

/// Which searches wait, because their hardware promises less than that of another one of the same SLO and model that is
/// not at its end: they may turn out to be hopeless before anything of theirs is simulated.
pub fn waiting(seeks: &[Seek], setup: &Setup) -> Vec<bool> {
    let promise: Vec<Option<f64>> =
        seeks.iter().map(|seek| seek.ceiling.map(|v| setup.score(seek.configuration, v))).collect();
    let waits = |at: usize| {
        let Some(own) = promise[at].filter(|_| seeks[at].visits.is_empty()) else { return false };
        let ahead = |other: usize| {
            let first = promise[other].is_some_and(|p| p > own || (p == own && other < at));
            first && seeks[other].state == State::Searching && setup.are_rivals(&seeks[at], &seeks[other])
        };
        (0..seeks.len()).any(ahead)
    };
    (0..seeks.len()).map(waits).collect()
}

/// Ends searches whose answer is known to be worse than that of another one of the same SLO and model: the easiest value at
/// which they failed, or that their hardware cannot carry, is worth less than what another has passed.
pub fn drop_hopeless(seeks: &mut [Seek], setup: &Setup) {
    let worth: Vec<(Option<f64>, Option<f64>)> = seeks
        .iter()
        .map(|seek| {
            let of = |value: Option<f64>| value.map(|v| setup.score(seek.configuration, v));
            let hope = [of(seek.failing().map(|v| setup.next_easier(v))), of(seek.ceiling)];
            (of(seek.passing()), hope.into_iter().flatten().min_by(f64::total_cmp))
        })
        .collect();
    for at in 0..seeks.len() {
        let Some(hope) = worth[at].1.filter(|_| seeks[at].state == State::Searching) else { continue };
        let rival = |other: usize| {
            other != at
                && setup.are_rivals(&seeks[at], &seeks[other])
                && worth[other].0.is_some_and(|sure| sure >= hope)
        };
        if (0..seeks.len()).any(rival) {
            seeks[at].state = State::Dropped;
        }
    }
}
