//! Whether a deployment keeps up with its load, told from the arrivals and completions of a simulation.
//!
//! Three detectors of inference-sim (Apache-2.0; `sim/saturation`), which replays a finished run event by event and asks
//! each detector after every one. The verdict is the one given most often in the last minute of the run, the worse one
//! where two are given equally often.
//!
//! - **composite**: the share of the arrivals that are not completed (the rate deficit), and how much longer the second
//!   half of the completions took than the first (the latency trend, which only counts where the means of all four
//!   quarters rise, and from 20 completions on). Both are compared with the noise of so many arrivals, `1/sqrt(n)`:
//!   overloaded if the trend is above it, backlogged if only the deficit is not below it.
//! - **backlog drift**: the slope, by least squares, of the number of requests in the system at the ends of minutes:
//!   backlogged above `1/sqrt(n)` requests per minute, overloaded above three times that.
//! - **threshold**: the mean end-to-end latency of what is completed, against 5 s.
//!
//! Left out, because they say nothing about the load: requests that can never run, and those whose clients went away of
//! their own accord. A request that timed out, or is in flight at the horizon, is an arrival without completion.
//!
//! Users who wait for their replies (`concurrency`) cannot overload anything: as many requests as there are users are
//! always on their way, and are no deficit.

use serde::{Deserialize, Serialize};

use pipe_kernel::sim::{RequestRow, Status};

const WINDOW_NS: i64 = 60_000_000_000;
const BUCKET_NS: i64 = 60_000_000_000;
/// Completions from which on a latency trend is believed.
const TREND_MIN: usize = 20;
/// Slopes above so many times the noise are an overload.
const DRIFT_OVERLOADED: f64 = 3.0;
const THRESHOLD_NS: i128 = 5_000_000_000;

/// How a deployment stands to its load; the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    #[default]
    Stable,
    Backlogged,
    Overloaded,
}

const LEVELS: [Level; 3] = [Level::Stable, Level::Backlogged, Level::Overloaded];

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Stable => "stable",
            Level::Backlogged => "backlogged",
            Level::Overloaded => "overloaded",
        }
    }

    /// What made the composite detector say so.
    pub fn composite_rule(self) -> &'static str {
        match self {
            Level::Stable => "below_noise",
            Level::Backlogged => "rate_deficit",
            Level::Overloaded => "latency_trend",
        }
    }
}

/// The verdicts of all detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdicts {
    pub composite: Level,
    pub backlog_drift: Level,
    pub threshold: Level,
}

/// Judges a run by its requests, in any order; `users` wait for their replies before they send again, 0 where nobody does.
pub(super) fn judge(rows: &[RequestRow], users: u32) -> Verdicts {
    let lives = rows.iter().filter_map(|row| match row.status {
        Status::Finished | Status::LengthCapped | Status::TimedOut | Status::InFlight => {
            Some((row.arrival.0, row.finished.map(|t| t.0)))
        }
        Status::Rejected | Status::Cancelled => None,
    });
    judge_lives(&lives.collect::<Vec<_>>(), users)
}

/// The same, from arrivals and completions in nanoseconds.
fn judge_lives(lives: &[(i64, Option<i64>)], users: u32) -> Verdicts {
    let mut arrivals: Vec<i64> = lives.iter().map(|(arrival, _)| *arrival).collect();
    let mut completions: Vec<(i64, i64)> =
        lives.iter().filter_map(|(a, done)| Some(((*done)?, (*done)? - a))).collect();
    arrivals.sort_unstable();
    completions.sort_unstable();
    let last = arrivals.last().copied().max(completions.last().map(|(done, _)| *done)).unwrap_or(0);
    let mut seen = Seen { users: u64::from(users), ..Seen::default() };
    let mut votes = [Votes::default(), Votes::default(), Votes::default()];
    let mut arriving = arrivals.into_iter().peekable();
    let mut completing = completions.into_iter().peekable();
    loop {
        // At one instant, arrivals come first; but those of users who waited follow from completions.
        let now = match (arriving.peek(), completing.peek()) {
            (Some(at), done) if done.is_none_or(|(done, _)| at < done || (at == done && users == 0)) => {
                let at = *at;
                arriving.next();
                seen.arrive(at);
                at
            }
            (_, Some(&(done, latency))) => {
                completing.next();
                seen.complete(done, latency);
                done
            }
            (_, None) => break,
        };
        if now >= last.saturating_sub(WINDOW_NS) {
            votes[0].add(seen.composite());
            votes[1].add(seen.backlog_drift());
            votes[2].add(seen.threshold());
        }
    }
    let [composite, backlog_drift, threshold] = votes.map(Votes::winner);
    Verdicts { composite, backlog_drift, threshold }
}

/// How often each level was given.
#[derive(Default)]
struct Votes([u64; LEVELS.len()]);

impl Votes {
    fn add(&mut self, level: Level) {
        self.0[level as usize] += 1;
    }

    fn winner(self) -> Level {
        // Of equal counts the last is taken: the worst.
        let most = LEVELS.into_iter().max_by_key(|level| self.0[*level as usize]);
        most.filter(|level| self.0[*level as usize] > 0).unwrap_or_default()
    }
}

/// What the detectors have seen so far.
struct Seen {
    /// Requests that are always on their way.
    users: u64,
    arrivals: u64,
    /// `latency_sums[i]`: latencies of the first `i` completions together.
    latency_sums: Vec<i128>,
    drift: Drift,
}

impl Default for Seen {
    fn default() -> Self {
        Seen { users: 0, arrivals: 0, latency_sums: vec![0], drift: Drift::default() }
    }
}

impl Seen {
    fn arrive(&mut self, at: i64) {
        self.arrivals += 1;
        self.drift.set(at, self.in_system());
    }

    fn complete(&mut self, at: i64, latency: i64) {
        self.latency_sums.push(self.latencies(0, self.completions()) + i128::from(latency));
        self.drift.set(at, self.in_system());
    }

    fn completions(&self) -> usize {
        self.latency_sums.len() - 1
    }

    fn in_system(&self) -> i64 {
        self.arrivals as i64 - self.completions() as i64
    }

    /// Sum of the latencies of completions `from..to`.
    fn latencies(&self, from: usize, to: usize) -> i128 {
        self.latency_sums[to] - self.latency_sums[from]
    }

    fn mean(&self, from: usize, to: usize) -> f64 {
        self.latencies(from, to) as f64 / (to - from) as f64
    }

    /// What so many arrivals leave to chance.
    fn noise(&self) -> f64 {
        1.0 / (self.arrivals as f64).sqrt()
    }

    fn composite(&self) -> Level {
        let answered = (self.completions() as u64).saturating_add(self.users);
        let deficit = (1.0 - answered as f64 / self.arrivals as f64).max(0.0);
        let trend = self.latency_trend();
        if deficit.max(trend.min(1.0)) < self.noise() {
            Level::Stable
        } else if trend > self.noise() {
            Level::Overloaded
        } else {
            Level::Backlogged
        }
    }

    fn latency_trend(&self) -> f64 {
        let n = self.completions();
        if n < TREND_MIN || !self.quarters_rise() {
            return 0.0;
        }
        let (first, second) = (self.mean(0, n / 2), self.mean(n / 2, n));
        if first > 0.0 { ((second - first) / first).max(0.0) } else { 0.0 }
    }

    /// Whether the mean latencies of all quarters rise. The last takes what the division by four leaves.
    fn quarters_rise(&self) -> bool {
        let (n, quarter) = (self.completions(), self.completions() / 4);
        let ends = [0, quarter, 2 * quarter, 3 * quarter, n];
        let sum = |i: usize| self.latencies(ends[i], ends[i + 1]);
        let size = |i: usize| (ends[i + 1] - ends[i]) as i128;
        (0..3).all(|i| sum(i) * size(i + 1) < sum(i + 1) * size(i))
    }

    fn backlog_drift(&self) -> Level {
        let slope = self.drift.slope();
        if slope <= self.noise() {
            Level::Stable
        } else if slope <= DRIFT_OVERLOADED * self.noise() {
            Level::Backlogged
        } else {
            Level::Overloaded
        }
    }

    fn threshold(&self) -> Level {
        let n = self.completions();
        if self.latencies(0, n) < THRESHOLD_NS * n as i128 || n == 0 { Level::Stable } else { Level::Overloaded }
    }
}

/// Requests in the system at the end of every minute of the trace, from that of the first event to that of the latest,
/// and the sums that the slope through them needs.
#[derive(Default)]
struct Drift {
    minute: i64,
    minutes: i64,
    /// Of the minute that the latest event is in.
    current: i64,
    /// Of the minutes before, as `sum y` and `sum x * y`, `x` from 0.
    sum: i128,
    weighted: i128,
}

impl Drift {
    fn set(&mut self, at: i64, in_system: i64) {
        let minute = at / BUCKET_NS;
        if self.minutes == 0 {
            (self.minute, self.minutes) = (minute, 1);
        }
        // Minutes without events keep the number of the one before.
        let passed = i128::from(minute - self.minute);
        if passed > 0 {
            let first = i128::from(self.minutes - 1);
            let places = passed * first + passed * (passed - 1) / 2;
            self.sum += passed * i128::from(self.current);
            self.weighted += places * i128::from(self.current);
            self.minutes += minute - self.minute;
            self.minute = minute;
        }
        self.current = in_system;
    }

    /// Requests per minute; 0 with fewer than two minutes.
    fn slope(&self) -> f64 {
        if self.minutes < 2 {
            return 0.0;
        }
        let n = i128::from(self.minutes);
        let last = n - 1;
        let (sum_x, sum_xx) = (n * last / 2, last * n * (2 * n - 1) / 6);
        let (sum_y, sum_xy) = (self.sum + i128::from(self.current), self.weighted + last * i128::from(self.current));
        (n * sum_xy - sum_x * sum_y) as f64 / (n * sum_xx - sum_x * sum_x) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Backlogged, Overloaded, Stable};

    const S: i64 = 1_000_000_000;

    /// Arrivals every `gap` ns, latencies by number.
    fn lives(n: i64, gap: i64, latency: impl Fn(i64) -> Option<i64>) -> Vec<(i64, Option<i64>)> {
        (0..n).map(|i| (i * gap, latency(i).map(|l| i * gap + l))).collect()
    }

    #[track_caller]
    fn check(lives: &[(i64, Option<i64>)], composite: Level, backlog_drift: Level, threshold: Level) {
        assert_eq!(judge_lives(lives, 0), Verdicts { composite, backlog_drift, threshold });
    }

    #[test]
    fn what_keeps_up_is_stable() {
        // One request at a time, done before the next: at the end of the last minute, of the 1,000 requests at most one
        // is missing, far below the noise of 1/sqrt(1000).
        check(&lives(1_000, S, |_| Some(S / 2)), Stable, Stable, Stable);
        check(&[], Stable, Stable, Stable);
    }

    #[test]
    fn users_who_wait_overload_nothing() {
        // 64 users of 2 s per request, who send again at once, until 960 requests are sent: in all of the last minute 64
        // of at most 960 are on their way, which is more than the noise of 1/sqrt(960), about 31.
        let closed: Vec<(i64, Option<i64>)> =
            (0..15).flat_map(|round| vec![(round * 2 * S, Some((round + 1) * 2 * S)); 64]).collect();
        assert_eq!(judge_lives(&closed, 64), Verdicts::default());
        assert_eq!(judge_lives(&closed, 0).composite, Backlogged);
        // What grows all the same is told.
        let slower = lives(1_000, S / 10, |i| Some((i + 1) * S / 10));
        assert_eq!(judge_lives(&slower, 64).composite, Overloaded);
    }

    #[test]
    fn latencies_that_rise_are_an_overload() {
        // Latencies from 0.1 to 100 s: the second half takes three times as long as the first.
        // 1,000 arrivals in 100 s, all done by 200 s: the system fills by 0.5 requests for each that arrives.
        let rising = lives(1_000, S / 10, |i| Some((i + 1) * S / 10));
        check(&rising, Overloaded, Stable, Overloaded);
    }

    #[test]
    fn what_does_not_end_is_a_deficit() {
        // Every fourth never ends, the others take a second: the deficit is 0.25, the noise of 1,200 arrivals 0.03. The
        // number of requests in the system rises by 15 each minute.
        let stuck = lives(1_200, S, |i| (i % 4 != 0).then_some(S));
        check(&stuck, Backlogged, Overloaded, Stable);
    }

    #[test]
    fn the_drift_is_compared_with_the_noise() {
        // 100 arrivals a minute over 16 minutes leave k in the system at the end of each: k = 0, 1, 2, ... has slope 1,
        // the noise of 1,600 arrivals is 1/40.
        let slope = |every: i64, by: i64| {
            let mut drift = Drift::default();
            for minute in 0..16 {
                drift.set(minute * BUCKET_NS, minute / every * by);
            }
            drift.slope()
        };
        assert_eq!(slope(1, 1), 1.0);
        assert_eq!(slope(1, -2), -2.0);
        assert_eq!(slope(100, 1), 0.0);
        // Empty minutes count with the number before them: 0 3 3 3 6 has the slope
        // (5 * (3 + 6 + 9 + 24) - 10 * 15) / (5 * 30 - 100) = 60 / 50.
        let mut drift = Drift::default();
        for (minute, n) in [(0, 9), (0, 0), (1, 3), (4, 6)] {
            drift.set(minute * BUCKET_NS, n);
        }
        assert_eq!(drift.slope(), 1.2);
        let mut one = Drift::default();
        one.set(5, 7);
        assert_eq!(one.slope(), 0.0);
    }

    #[test]
    fn a_slow_drift_is_a_backlog() {
        // 3,600 arrivals in an hour, done after half a second; every 900th never ends. In the system at the ends of
        // minutes: 1, from minute 15 on 2, from 30 on 3, from 45 on 4. About the middle, 29.5, that is 15 x (22.5 x 3 +
        // 7.5) / (60 x 3599 / 12) = 0.0625 per minute; the noise is 1/60, three times that 0.05.
        let slow = lives(3_600, S, |i| (i % 900 != 0).then_some(S / 2));
        let mut drift = Drift::default();
        (0..60).for_each(|m| drift.set(m * BUCKET_NS, 1 + m / 15));
        assert!((drift.slope() - 1_125.0 / 17_995.0).abs() < 1e-12);
        check(&slow, Stable, Overloaded, Stable);
        // Half as many stuck: 30 x 15 / 17995 = 0.025, above 1/60 and below 3/60.
        check(&lives(3_600, S, |i| (i % 1_800 != 0).then_some(S / 2)), Stable, Backlogged, Stable);
    }

    #[test]
    fn the_threshold_is_five_seconds() {
        let of = |ns: i64| judge_lives(&lives(10, 100 * S, |_| Some(ns)), 0).threshold;
        assert_eq!([of(5 * S - 1), of(5 * S), of(9 * S)], [Stable, Overloaded, Overloaded]);
    }

    #[test]
    fn ties_go_to_the_worse_and_only_the_last_minute_votes() {
        let mut votes = Votes::default();
        [Stable, Overloaded, Stable, Overloaded, Backlogged].into_iter().for_each(|l| votes.add(l));
        assert_eq!(votes.winner(), Overloaded);
        // A slow start of 1,000 s, then an hour without trouble.
        let recovered = lives(4_600, S, |i| Some(if i < 1_000 { 20 * S } else { S / 2 }));
        assert_eq!(judge_lives(&recovered, 0).threshold, Stable);
    }

    /// The run of inference-sim that its report is about, where the reference material is there.
    #[test]
    fn verdicts_equal_those_of_inference_sim() {
        let case = "shared/reference/cases/blis/19_saturation_detectors";
        let here = crate::repository();
        let Some(folder) = here.ancestors().map(|dir| dir.join(case)).find(|dir| dir.is_dir()) else {
            eprintln!("skipped: no {case}");
            return;
        };
        let json = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let (metrics, report) = (json("metrics.json"), json("19_saturation_detectors.report.json"));
        let ns = |v: &serde_json::Value, unit: f64| (v.as_f64().unwrap() * unit).round() as i64;
        let lives: Vec<(i64, Option<i64>)> = metrics["requests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| (ns(&r["arrived_at"], 1e9), ns(&r["e2e_ms"], 1e6)))
            .map(|(arrival, e2e)| (arrival, Some(arrival + e2e)))
            .collect();
        assert_eq!(lives.len(), 400);
        let found = judge_lives(&lives, 0);
        for (name, level) in
            [("composite", found.composite), ("backlog-drift", found.backlog_drift), ("threshold", found.threshold)]
        {
            assert_eq!(report["final"][name], level.as_str().to_uppercase(), "{name}");
        }
        assert_eq!(found.composite.composite_rule(), "latency_trend");
    }
}
