//! How a search went: the best so far, and the hypervolume, after every trial.
//!
//! Hypervolumes are measured on objectives that are scaled to the range of the first [`FIRST`] complete trials, with the
//! reference a tenth beyond it: so the trace never falls, and what comes later does not change what came before.

use pipe_kernel::tune::hypervolume::Archive;
use pipe_kernel::tune::pareto;
use pipe_kernel::tune::stagnation::Stagnation;

use super::trials::{Done, State};

/// Complete trials that the scale is taken from.
const FIRST: usize = 10;
/// Where a hypervolume ends, on objectives from 0 to 1.
const REFERENCE: f64 = 1.1;
/// Hypervolumes of more objectives take too long.
const OBJECTIVES_MAX: usize = 4;

/// After a trial.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Of every objective, to be minimized; `None` as long as no trial is complete.
    pub best: Vec<Option<f64>>,
    pub hypervolume: Option<f64>,
    pub front_size: Option<i64>,
}

/// The trace of a search.
pub(super) struct History {
    objectives: usize,
    pub entries: Vec<Entry>,
    best: Vec<Option<f64>>,
    /// Complete trials, until there are enough for a scale.
    first: Vec<Vec<f64>>,
    scaled: Option<Scaled>,
    /// What stagnation looks at; infinite as long as there is nothing.
    trace: Vec<f64>,
}

struct Scaled {
    low: Vec<f64>,
    high: Vec<f64>,
    archive: Archive,
}

impl History {
    pub fn new(objectives: usize) -> History {
        History {
            objectives,
            entries: Vec::new(),
            best: vec![None; objectives],
            first: Vec::new(),
            scaled: None,
            trace: Vec::new(),
        }
    }

    pub fn push(&mut self, done: &Done) {
        if let (State::Complete, Some(values)) = (done.state, &done.minimized) {
            for (best, value) in self.best.iter_mut().zip(values) {
                *best = Some(best.map_or(*value, |b| b.min(*value)));
            }
            if self.objectives > 1 && self.objectives <= OBJECTIVES_MAX {
                self.add(values);
            }
        }
        let hypervolume = self.scaled.as_ref().map(|s| s.archive.hypervolume());
        let front_size = self.scaled.as_ref().map(|s| s.archive.front_size() as i64);
        self.trace.push(match self.objectives {
            1 => self.best[0].unwrap_or(f64::INFINITY),
            _ => hypervolume.unwrap_or(f64::INFINITY),
        });
        self.entries.push(Entry { best: self.best.clone(), hypervolume, front_size });
    }

    fn add(&mut self, values: &[f64]) {
        if let Some(scaled) = &mut self.scaled {
            scaled.archive.push(&pareto::normalized(values, &scaled.low, &scaled.high));
            return;
        }
        self.first.push(values.to_vec());
        if self.first.len() == FIRST {
            let (low, high) = pareto::bounds(&self.first);
            let mut archive = Archive::new(&vec![REFERENCE; self.objectives]);
            for point in &self.first {
                archive.push(&pareto::normalized(point, &low, &high));
            }
            self.scaled = Some(Scaled { low, high, archive });
        }
    }

    /// Whether the search should end after its last trial.
    pub fn stagnates(&self, stagnation: &Stagnation) -> bool {
        stagnation.stops(&self.trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(values: &[f64]) -> Done {
        Done {
            number: 0,
            values: Vec::new(),
            raw: None,
            broken: 0,
            origin: "random",
            parents: Vec::new(),
            state: State::Complete,
            rung: 0,
            share: 1.0,
            evaluated: None,
            minimized: Some(values.to_vec()),
            violation: 0.0,
            error: None,
            times_us: (0, 0),
        }
    }

    #[test]
    fn the_hypervolume_is_that_of_the_scaled_front_and_never_falls() {
        let mut history = History::new(2);
        // Along a diagonal from (0, 9) to (9, 0): scaled, every point is (i / 9, 1 - i / 9).
        for i in 0..10 {
            history.push(&complete(&[f64::from(i), f64::from(9 - i)]));
            assert_eq!(history.entries[i as usize].hypervolume.is_some(), i == 9);
        }
        // Stairs of ten: the sum of width times height up to (1.1, 1.1).
        let expect: f64 = (0..10)
            .map(|i| {
                let width = if i == 9 { 0.1 } else { 1.0 / 9.0 };
                width * (1.1 - (1.0 - f64::from(i) / 9.0))
            })
            .sum();
        let last = |history: &History| history.entries.last().cloned().unwrap();
        assert!((last(&history).hypervolume.unwrap() - expect).abs() < 1e-12);
        assert_eq!(last(&history).front_size, Some(10));
        let failed = Done { state: State::Failed, minimized: None, ..complete(&[]) };
        history.push(&failed);
        assert!((last(&history).hypervolume.unwrap() - expect).abs() < 1e-12);
        // One that beats all: the whole square, and more of it.
        history.push(&complete(&[0.0, 0.0]));
        assert!((last(&history).hypervolume.unwrap() - 1.21).abs() < 1e-12);
        assert_eq!((last(&history).best, last(&history).front_size), (vec![Some(0.0), Some(0.0)], Some(1)));
    }

    #[test]
    fn one_objective_stagnates_by_its_best() {
        let mut history = History::new(1);
        let stagnation = Stagnation { trials: 3, eps: 0.01 };
        for value in [5.0, 4.0, 4.5, 3.999, 4.0] {
            assert!(!history.stagnates(&stagnation));
            history.push(&complete(&[value]));
        }
        assert!(history.stagnates(&stagnation));
        assert_eq!(history.entries[2].best, [Some(4.0)]);
    }
}
