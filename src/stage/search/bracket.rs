//! Which load to try next: bracketing, then bisection. No I/O.
//!
//! Loads are tried at `start` times powers of two, and halfway between two of them, so that searches of several SLOs of one
//! configuration ask for the same ones. What is believed follows from all that is known, in whatever order it was learnt:
//! the **border** is the first failure on the way from the easy end (a low load, many replicas). A load that passes beyond
//! it contradicts that more load is harder; it is counted, and not believed.

/// What is searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The highest value that passes, until the border is known up to this share of itself.
    Highest { tolerance: f64 },
    /// The lowest whole number that passes.
    Fewest,
}

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub start: f64,
    pub min: f64,
    pub max: f64,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The border is known as well as was asked for.
    Found,
    /// Even the easiest value fails.
    NonePasses,
    /// Even the hardest value passes.
    AllPass,
}

/// One search.
#[derive(Clone, Debug)]
pub struct Bracket {
    goal: Goal,
    range: Range,
    /// (value, passes), by value, each value once.
    known: Vec<(f64, bool)>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    Try(f64),
    End(Ended),
}

impl Bracket {
    /// The start is moved into the range.
    pub fn new(goal: Goal, range: Range) -> Bracket {
        let start = range.start.clamp(range.min, range.max);
        Bracket { goal, range: Range { start, ..range }, known: Vec::new() }
    }

    /// A value was tried, by whom does not matter.
    pub fn learn(&mut self, value: f64, passes: bool) {
        let at = self.known.partition_point(|(v, _)| *v < value);
        if self.known.get(at).is_none_or(|(v, _)| *v != value) {
            self.known.insert(at, (value, passes));
        }
    }

    /// From the easy end to the hard one.
    fn easy_first(&self) -> Box<dyn Iterator<Item = (f64, bool)> + '_> {
        match self.goal {
            Goal::Highest { .. } => Box::new(self.known.iter().copied()),
            Goal::Fewest => Box::new(self.known.iter().rev().copied()),
        }
    }

    /// The hardest value that passes before the first failure.
    pub fn passing(&self) -> Option<f64> {
        self.easy_first().take_while(|(_, passes)| *passes).last().map(|(value, _)| value)
    }

    /// The first failure.
    pub fn failing(&self) -> Option<f64> {
        self.easy_first().find(|(_, passes)| !passes).map(|(value, _)| value)
    }

    /// Values that pass beyond the first failure.
    pub fn contradictions(&self) -> usize {
        self.easy_first().skip_while(|(_, passes)| *passes).filter(|(_, passes)| *passes).count()
    }

    /// What to try next.
    pub fn next(&self) -> Step {
        let Range { start, min, max } = self.range;
        let (easiest, hardest) = match self.goal {
            Goal::Highest { .. } => (min, max),
            Goal::Fewest => (max, min),
        };
        match (self.passing(), self.failing()) {
            (None, None) => Step::Try(start),
            (Some(passing), None) if passing == hardest => Step::End(Ended::AllPass),
            (None, Some(failing)) if failing == easiest => Step::End(Ended::NonePasses),
            (Some(passing), None) => Step::Try(self.harder(passing)),
            (None, Some(failing)) => Step::Try(self.easier(failing)),
            (Some(passing), Some(failing)) if self.is_close(passing, failing) => Step::End(Ended::Found),
            (Some(passing), Some(failing)) => Step::Try(self.between(passing, failing)),
        }
    }

    fn harder(&self, value: f64) -> f64 {
        match self.goal {
            Goal::Highest { .. } => (2.0 * value).min(self.range.max),
            Goal::Fewest => (value / 2.0).floor().max(self.range.min),
        }
    }

    fn easier(&self, value: f64) -> f64 {
        match self.goal {
            Goal::Highest { .. } => (value / 2.0).max(self.range.min),
            Goal::Fewest => (2.0 * value).min(self.range.max),
        }
    }

    fn is_close(&self, passing: f64, failing: f64) -> bool {
        match self.goal {
            Goal::Highest { tolerance } => {
                failing - passing <= tolerance * failing || self.between(passing, failing) <= passing
            }
            Goal::Fewest => passing - failing <= 1.0,
        }
    }

    fn between(&self, passing: f64, failing: f64) -> f64 {
        let middle = passing + (failing - passing) / 2.0;
        match self.goal {
            Goal::Highest { .. } => middle,
            Goal::Fewest => middle.floor(),
        }
    }

    /// Most values that a search may have to try.
    #[cfg(test)]
    fn most(&self) -> usize {
        let Range { min, max, .. } = self.range;
        let doublings = (max / min).log2().ceil() as usize + 2;
        let halvings = match self.goal {
            Goal::Highest { tolerance } => (1.0 / tolerance).log2().ceil() as usize + 1,
            Goal::Fewest => max.log2().ceil() as usize + 1,
        };
        doublings + halvings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(mut bracket: Bracket, passes: impl Fn(f64) -> bool) -> (Ended, Bracket, Vec<f64>) {
        let mut tried = Vec::new();
        loop {
            match bracket.next() {
                Step::End(ended) => return (ended, bracket, tried),
                Step::Try(value) => {
                    assert!(!tried.contains(&value), "{value} again: {tried:?}");
                    assert!(tried.len() < bracket.most(), "{tried:?}");
                    tried.push(value);
                    bracket.learn(value, passes(value));
                }
            }
        }
    }

    #[test]
    fn the_highest_load_is_within_the_tolerance_wherever_the_border_is() {
        for border in [0.02, 0.3, 0.99, 1.0, 3.7, 4.0, 57.0, 999.0] {
            for start in [0.01, 1.0, 3.0, 1000.0] {
                let bracket = Bracket::new(Goal::Highest { tolerance: 0.01 }, Range { start, min: 0.01, max: 1000.0 });
                let (ended, bracket, tried) = search(bracket, |x| x <= border);
                let (low, high) = (bracket.passing().unwrap(), bracket.failing().unwrap());
                assert_eq!(ended, Ended::Found, "{border} {start}");
                assert!(
                    low <= border && border < high && high - low <= 0.01 * high,
                    "{border} {low} {high}: {tried:?}"
                );
                assert_eq!(bracket.contradictions(), 0);
            }
        }
        let range = Range { start: 4.0, min: 0.5, max: 100.0 };
        let bracket = || Bracket::new(Goal::Highest { tolerance: 0.1 }, range);
        // 4 and 8 pass, 16 fails, then 12, 14, 15: 14 passes, and 1/15 is close enough.
        let (_, found, tried) = search(bracket(), |x| x <= 14.5);
        assert_eq!(
            (tried, found.passing(), found.failing()),
            (vec![4.0, 8.0, 16.0, 12.0, 14.0, 15.0], Some(14.0), Some(15.0))
        );
        let (ended, found, tried) = search(bracket(), |_| false);
        assert_eq!((ended, found.passing(), tried), (Ended::NonePasses, None, vec![4.0, 2.0, 1.0, 0.5]));
        let (ended, found, tried) = search(bracket(), |_| true);
        assert_eq!((ended, found.failing(), tried), (Ended::AllPass, None, vec![4.0, 8.0, 16.0, 32.0, 64.0, 100.0]));
    }

    #[test]
    fn the_fewest_are_exact_wherever_the_border_is() {
        for border in 1..=64_u32 {
            for start in [1.0, 5.0, 64.0] {
                let bracket = Bracket::new(Goal::Fewest, Range { start, min: 1.0, max: 64.0 });
                let (ended, bracket, _) = search(bracket, |n| n >= f64::from(border));
                let all = if border == 1 { Ended::AllPass } else { Ended::Found };
                assert_eq!((ended, bracket.passing()), (all, Some(f64::from(border))), "{border} {start}");
            }
        }
        let bracket = Bracket::new(Goal::Fewest, Range { start: 3.0, min: 1.0, max: 20.0 });
        let (ended, _, tried) = search(bracket, |_| false);
        assert_eq!((ended, tried), (Ended::NonePasses, vec![3.0, 6.0, 12.0, 20.0]));
    }

    #[test]
    fn what_passes_beyond_a_failure_is_counted_and_not_believed() {
        let mut bracket = Bracket::new(Goal::Highest { tolerance: 0.1 }, Range { start: 4.0, min: 1.0, max: 100.0 });
        for (value, passes) in [(8.0, true), (4.0, false), (2.0, true), (16.0, false), (8.0, false)] {
            bracket.learn(value, passes);
        }
        assert_eq!((bracket.passing(), bracket.failing(), bracket.contradictions()), (Some(2.0), Some(4.0), 1));
        assert_eq!(bracket.next(), Step::Try(3.0));
        let mut fewest = Bracket::new(Goal::Fewest, Range { start: 4.0, min: 1.0, max: 100.0 });
        [(2.0, true), (4.0, false), (8.0, true)].into_iter().for_each(|(n, passes)| fewest.learn(n, passes));
        assert_eq!((fewest.passing(), fewest.failing(), fewest.contradictions()), (Some(8.0), Some(4.0), 1));
        assert_eq!(fewest.next(), Step::Try(6.0));
    }

    #[test]
    fn searches_of_one_configuration_meet_at_the_same_loads() {
        let range = Range { start: 4.0, min: 0.1, max: 1000.0 };
        let bracket = Bracket::new(Goal::Highest { tolerance: 0.02 }, range);
        let (_, strict, mut first) = search(bracket.clone(), |x| x <= 5.3);
        let (_, lenient, second) = search(bracket, |x| x <= 5.6);
        let shared = second.iter().filter(|x| first.contains(x)).count();
        assert!(shared >= 5, "{first:?} {second:?}");
        first.extend(second);
        // What one learnt from the other is where it would have looked itself.
        assert!(strict.passing() < lenient.passing());
    }
}
