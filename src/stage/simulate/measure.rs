//! Which requests of a simulation count in its figures, and the span that its rates refer to.

use pipe_kernel::scenario::Measure;
use pipe_kernel::sim::RequestRow;
use pipe_kernel::units::{SimDuration, SimTime};

/// Whether each request is measured, see [`Measure`]. A warm-up or cool-down of zero leaves nothing out.
pub(super) fn measured(measure: &Measure, rows: &[RequestRow]) -> Vec<bool> {
    let Measure { warmup_s, cooldown_s, warmup_requests, cooldown_requests } = *measure;
    if *measure == Measure::default() || rows.is_empty() {
        return vec![true; rows.len()];
    }
    let (first, last) = span(rows.iter().map(|r| r.arrival)).unwrap_or_default();
    let (warmup, cooldown) = (SimDuration::from_s(warmup_s).0, SimDuration::from_s(cooldown_s).0);
    let begin = first.0.saturating_add(warmup);
    let end = last.0.saturating_sub(cooldown);
    let mut within: Vec<bool> =
        rows.iter().map(|r| r.arrival.0 >= begin && (cooldown == 0 || r.arrival.0 < end)).collect();
    if warmup_requests > 0 || cooldown_requests > 0 {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by_key(|i| (rows[*i].arrival, rows[*i].request));
        let after = rows.len().saturating_sub(cooldown_requests as usize);
        order[..rows.len().min(warmup_requests as usize)].iter().for_each(|i| within[*i] = false);
        order[after..].iter().for_each(|i| within[*i] = false);
    }
    within
}

fn span(times: impl Iterator<Item = SimTime>) -> Option<(SimTime, SimTime)> {
    times.fold(None, |found, t| match found {
        None => Some((t, t)),
        Some((first, last)) => Some((t.min(first), t.max(last))),
    })
}

/// What was served in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    pub window_ns: i64,
    pub requests: i64,
    pub output_tokens: i64,
}

/// What the rates of a scenario are made of.
///
/// Without warm-up and cool-down: everything, from the first arrival to `end`. With them: what ends after the first
/// measured arrival and until the last, whether it is measured or not. What ends then arrived earlier and what arrived
/// then ends later; in a steady state as many requests end in a span as arrive in it, while of those that arrive in it
/// fewer end in it.
pub(super) fn served(measure: &Measure, rows: &[RequestRow], measured: &[bool], end: SimTime) -> Served {
    let all = *measure == Measure::default();
    let arrivals = rows.iter().zip(measured).filter(|(_, measured)| **measured).map(|(r, _)| r.arrival);
    let Some((first, last)) = span(arrivals) else { return Served::default() };
    let last = if all { end } else { last };
    let mut served = Served { window_ns: (last - first).0.max(0), ..Served::default() };
    for row in rows.iter().filter(|r| r.status.served()) {
        if all || row.finished.is_some_and(|t| first < t && t <= last) {
            served.requests += 1;
            served.output_tokens += i64::from(row.output_tokens);
        }
    }
    served
}

/// Of the requests that arrived, the share that was served until the last arrival: completions to arrivals per second
/// of the same span. `None` where all arrive at once. As (served, arrived).
pub(super) fn keeping_up(rows: &[RequestRow]) -> Option<(i64, i64)> {
    let (_, last) = span(rows.iter().map(|r| r.arrival)).filter(|(first, last)| first < last)?;
    let done = |r: &&RequestRow| r.status.served() && r.finished.is_some_and(|t| t <= last);
    Some((rows.iter().filter(done).count() as i64, rows.len() as i64))
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::row;
    use super::*;
    use pipe_kernel::sim::Status;

    const S: i64 = 1_000_000_000;

    /// Requests by (arrival, end) in seconds, with ten tokens each; no end: timed out.
    fn rows(lives: &[(i64, Option<i64>)]) -> Vec<RequestRow> {
        let one = |(i, (arrival, end)): (u32, &(i64, Option<i64>))| RequestRow {
            arrival: SimTime(arrival * S),
            finished: end.map(|t| SimTime(t * S)),
            output_tokens: 10,
            ..row(i, if end.is_some() { Status::Finished } else { Status::TimedOut }, 4, 10)
        };
        (0..).zip(lives).map(one).collect()
    }

    #[track_caller]
    fn check(measure: Measure, arrivals: &[i64], expect: &[i64]) {
        let rows = rows(&arrivals.iter().map(|t| (*t, Some(t + 1))).collect::<Vec<_>>());
        let kept: Vec<i64> = measured(&measure, &rows)
            .into_iter()
            .zip(&rows)
            .filter(|(measured, _)| *measured)
            .map(|(_, r)| r.arrival.0 / S)
            .collect();
        assert_eq!(kept, expect);
    }

    #[test]
    fn warm_up_and_cool_down_are_left_out() {
        let all = [10, 11, 12, 13, 14, 15];
        let none = Measure::default();
        check(none, &all, &all);
        // From the first arrival: at its end a request counts. Up to the last arrival: at its start none does.
        check(Measure { warmup_s: 2.0, ..none }, &all, &[12, 13, 14, 15]);
        check(Measure { cooldown_s: 2.0, ..none }, &all, &[10, 11, 12]);
        check(Measure { cooldown_s: 0.5, ..none }, &all, &[10, 11, 12, 13, 14]);
        check(Measure { warmup_requests: 2, cooldown_requests: 1, ..none }, &all, &[12, 13, 14]);
        check(Measure { warmup_s: 1.0, warmup_requests: 3, ..none }, &all, &[13, 14, 15]);
        check(Measure { warmup_s: 3.0, cooldown_s: 3.0, ..none }, &all, &[]);
        check(Measure { warmup_requests: 9, ..none }, &all, &[]);
        check(Measure { warmup_s: 1e300, ..none }, &all, &[]);
        // By arrival, not by number; of those that arrive at once, the first by number.
        check(Measure { warmup_requests: 1, cooldown_requests: 1, ..none }, &[14, 10, 12, 10], &[12, 10]);
        check(Measure { warmup_s: 1.0, ..none }, &[], &[]);
    }

    #[test]
    fn rates_are_those_of_the_window() {
        // One a second, each takes four seconds, but the third times out.
        let lives: Vec<(i64, Option<i64>)> = (0..10).map(|t| (t, (t != 2).then_some(t + 4))).collect();
        let rows = rows(&lives);
        let of = |measure: Measure| served(&measure, &rows, &measured(&measure, &rows), SimTime(13 * S));
        // Nothing left out: all nine, from the first arrival to the end.
        assert_eq!(of(Measure::default()), Served { window_ns: 13 * S, requests: 9, output_tokens: 90 });
        // Measured are 3 to 7; in (3 s, 7 s] end the requests of 0, 1 and 3 (that of 2 does not).
        let cut = Measure { warmup_s: 3.0, cooldown_s: 1.5, ..Measure::default() };
        assert_eq!(of(cut), Served { window_ns: 4 * S, requests: 3, output_tokens: 30 });
        let nothing = Measure { warmup_s: 30.0, ..Measure::default() };
        assert_eq!(of(nothing), Served::default());
        let one = Measure { warmup_requests: 9, ..Measure::default() };
        assert_eq!(of(one), Served { window_ns: 0, requests: 0, output_tokens: 0 });
        // Served by 9 s, the last arrival: 0 to 5 but 2.
        assert_eq!(keeping_up(&rows), Some((5, 10)));
        assert_eq!(keeping_up(&rows[..1]), None);
    }

    #[test]
    fn in_a_steady_state_the_rate_does_not_depend_on_what_is_left_out() {
        let lives: Vec<(i64, Option<i64>)> = (0..1_000).map(|t| (t, Some(t + 50))).collect();
        let rows = rows(&lives);
        for (warmup_s, cooldown_s) in [(60.0, 0.0), (100.0, 100.0), (500.0, 1.0)] {
            let measure = Measure { warmup_s, cooldown_s, ..Measure::default() };
            let served = served(&measure, &rows, &measured(&measure, &rows), SimTime(1_049 * S));
            assert_eq!(served.requests * S, served.window_ns, "{warmup_s} {cooldown_s}");
        }
    }
}
