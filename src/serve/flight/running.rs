//! Queries that run, by the identity of the `FlightInfo` that announced them, so that another call can cancel them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
pub struct Running {
    queries: Arc<Mutex<HashMap<Vec<u8>, Entry>>>,
}

struct Entry {
    cancel: CancellationToken,
    /// One ticket may be redeemed several times at once.
    streams: usize,
}

impl Running {
    /// Notes a query until the value is dropped.
    pub fn note(&self, id: &[u8]) -> Noted {
        let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Entry { cancel: CancellationToken::new(), streams: 0 };
        let entry = queries.entry(id.to_vec()).or_insert_with(new);
        entry.streams += 1;
        Noted { running: self.clone(), id: id.to_vec(), cancel: entry.cancel.clone() }
    }

    /// Cancels a query. Whether there was one.
    pub fn cancel(&self, id: &[u8]) -> bool {
        let queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        let found = queries.get(id);
        found.inspect(|entry| entry.cancel.cancel());
        found.is_some()
    }
}

/// A query that runs.
pub struct Noted {
    running: Running,
    id: Vec<u8>,
    pub cancel: CancellationToken,
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut queries = self.running.queries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = queries.get_mut(&self.id) {
            entry.streams -= 1;
            if entry.streams == 0 {
                queries.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_can_be_cancelled_and_nothing_else() {
        let running = Running::default();
        assert!(!running.cancel(b"a"));
        let (first, again, other) = (running.note(b"a"), running.note(b"a"), running.note(b"b"));
        drop(first);
        assert!(running.cancel(b"a"));
        assert!(again.cancel.is_cancelled() && !other.cancel.is_cancelled());
        drop(again);
        assert!(!running.cancel(b"a"));
        // The next one of that name is not cancelled.
        assert!(!running.note(b"a").cancel.is_cancelled());
    }
}
