//! Work on the items of a source on all threads of a pool, with the results in order.
//!
//! ```text
//! source (a thread of its own) ──► work (the pool) ──► sink (the caller's thread)
//! ```
//!
//! Reading, working and writing overlap; at most a few items per thread are in flight, so memory is bounded whatever
//! the size of the source. The caller must not be a thread of the pool.
//!
//! Work on an item begins after work on every item before it has begun, whatever the pool does: an item may wait for
//! something that an earlier one finds out.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use crate::diag::{Failure, Result};

/// Calls `work` for every item of `source` and `sink` with every result, in order. Stops when `sink` breaks.
///
/// # Errors
/// The first error of source, work or sink, in the order of the items.
pub fn ordered<T: Send + 'static, U: Send + 'static>(
    pool: &Arc<rayon::ThreadPool>,
    mut source: impl FnMut() -> Result<Option<T>> + Send,
    work: impl Fn(T) -> Result<U> + Send + Sync + 'static,
    mut sink: impl FnMut(U) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let work = Arc::new(work);
    let waiting = Arc::new(Mutex::new(VecDeque::new()));
    std::thread::scope(|scope| {
        let (queue, results) = sync_channel(2 * pool.current_num_threads());
        scope.spawn(move || {
            loop {
                let (done, result) = sync_channel::<Result<U>>(1);
                match source() {
                    Ok(None) => return,
                    // Nobody may be listening any more; then the result is not needed.
                    Err(failure) => drop(done.send(Err(failure))),
                    Ok(Some(item)) => {
                        let (work, waiting) = (work.clone(), waiting.clone());
                        waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((item, done));
                        pool.spawn(move || {
                            // There is one item per job, but which job comes first is up to the pool.
                            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                            if let Some((item, done)) = next {
                                drop(done.send(work(item)));
                            }
                        });
                    }
                }
                if queue.send(result).is_err() {
                    return;
                }
            }
        });
        // Moved into the loop, so that it is dropped, and the source stops, however the loop ends.
        for result in results {
            let lost = |_| Failure::stage("trace::thread", "a worker thread ended before its work was done");
            if sink(result.recv().map_err(lost)??)?.is_break() {
                break;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_errors_where_they_are() {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap());
        let run = |last: u64| {
            let mut next = 0;
            let mut seen = Vec::new();
            let source = || {
                next += 1;
                if next > 1000 { Ok(None) } else { Ok(Some(next)) }
            };
            let work = |n: u64| if n == 500 { Err(Failure::stage("x", "500")) } else { Ok(n) };
            let result = ordered(&pool, source, work, |n| {
                seen.push(n);
                Ok(if n == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            (result.is_ok(), seen)
        };
        assert_eq!(run(100), (true, (1..=100).collect()));
        assert_eq!(run(1000), (false, (1..500).collect()));
    }
}
