//! Who waits for whom, from the times of what an agent did.
//!
//! A log says when each request was sent and when it was done, not why it was sent. A request of a stream (a conversation,
//! or a helper that one began) is taken to wait for the last request of its stream that was done when it was sent; the first
//! one of a helper for the last that was done in the stream that began it. A request also waits for the helpers that its
//! stream began and that came to their end since. What was sent while nothing was done waits for nobody. The time between
//! is what the agent took, or its tools: replayed on the server that was logged, every request is sent at its time.

/// A request of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub stream: usize,
    pub start_ns: i64,
    /// When it was done; its start where that is not known.
    pub end_ns: i64,
}

/// What a request waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Places of the requests; empty: for none.
    pub on: Vec<usize>,
    /// From the end of the last of them until it was sent.
    pub think_ns: i64,
}

/// What each of `calls` waits for; `began[s]` is the stream that began the stream `s`.
pub fn waits(calls: &[Call], began: &[Option<usize>]) -> Vec<Waits> {
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|i| (calls[*i].start_ns, *i));
    // Per stream: its last end, with the call that has it, and the streams that it began.
    let mut last: Vec<Option<(i64, usize)>> = vec![None; began.len()];
    for (i, call) in calls.iter().enumerate() {
        let ends = &mut last[call.stream];
        *ends = (*ends).max(Some((call.end_ns, i)));
    }
    let mut helpers: Vec<Vec<usize>> = vec![Vec::new(); began.len()];
    for (stream, by) in began.iter().enumerate() {
        by.iter().for_each(|by| helpers[*by].push(stream));
    }
    // Per stream: the ends of the calls sent so far, in order.
    let mut ends: Vec<Vec<(i64, usize)>> = vec![Vec::new(); began.len()];
    let mut sent = vec![false; calls.len()];
    let mut found = vec![Waits::default(); calls.len()];
    for i in order {
        let call = calls[i];
        let done = |stream: usize| {
            let ends = &ends[stream];
            ends[..ends.partition_point(|(end, _)| *end <= call.start_ns)].last().copied()
        };
        let first = ends[call.stream].is_empty();
        let own = match began[call.stream] {
            Some(by) if first => done(by),
            _ => done(call.stream),
        };
        let since = own.map_or(i64::MIN, |(end, _)| end);
        let joined = helpers[call.stream].iter().filter_map(|helper| last[*helper]);
        // Only of those that were sent before it, so that no two wait for each other.
        let joined = joined.filter(|(end, place)| sent[*place] && since < *end && *end <= call.start_ns);
        let mut on: Vec<(i64, usize)> = own.into_iter().chain(joined.filter(|_| !first)).collect();
        on.sort_unstable();
        let think_ns = on.last().map_or(0, |(end, _)| call.start_ns - end);
        found[i] = Waits { on: on.into_iter().map(|(_, place)| place).collect(), think_ns };
        sent[i] = true;
        let ends = &mut ends[call.stream];
        ends.insert(ends.partition_point(|e| *e < (call.end_ns, i)), (call.end_ns, i));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(calls: &[(usize, i64, i64)], began: &[Option<usize>]) -> Vec<(Vec<usize>, i64)> {
        let calls: Vec<Call> = calls
            .iter()
            .map(|(stream, start_ns, end_ns)| Call { stream: *stream, start_ns: *start_ns, end_ns: *end_ns })
            .collect();
        waits(&calls, began).into_iter().map(|w| (w.on, w.think_ns)).collect()
    }

    #[test]
    fn turns_wait_for_what_was_done_and_not_for_what_ran_beside_them() {
        // The third is sent while the second runs: both wait for the first. The last waits for whichever was done last.
        let calls = [(0, 0, 10), (0, 15, 40), (0, 20, 30), (0, 45, 50)];
        assert_eq!(case(&calls, &[None]), [(vec![], 0), (vec![0], 5), (vec![0], 10), (vec![1], 5)]);
        // Two that begin together wait for nobody; order of the list does not matter.
        assert_eq!(case(&[(0, 5, 9), (0, 0, 7)], &[None]), [(vec![], 0), (vec![], 0)]);
        assert_eq!(case(&[(0, 9, 9), (0, 0, 7)], &[None]), [(vec![1], 2), (vec![], 0)]);
    }

    #[test]
    fn helpers_wait_for_who_began_them_and_are_waited_for_when_they_end() {
        let began = [None, Some(0), Some(0)];
        let calls = [(0, 0, 10), (1, 12, 20), (1, 22, 30), (2, 13, 90), (0, 35, 40), (0, 95, 99)];
        let expect = [(vec![], 0), (vec![0], 2), (vec![1], 2), (vec![0], 3), (vec![0, 2], 5), (vec![4, 3], 5)];
        assert_eq!(case(&calls, &began), expect);
    }
}
