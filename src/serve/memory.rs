//! Memory of queries: what all may hold, and of it what one may.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// The part of a pool that one query may use, so that no query takes it all from the others.
#[derive(Debug)]
pub struct Share {
    all: Arc<dyn MemoryPool>,
    most: usize,
    held: AtomicUsize,
}

impl Share {
    /// At most `most` bytes of `all`.
    pub fn of(all: Arc<dyn MemoryPool>, most: usize) -> Share {
        Share { all, most, held: AtomicUsize::new(0) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "share(held: {}, most: {})", self.held.load(Ordering::Relaxed), self.most)
    }
}

impl MemoryPool for Share {
    fn name(&self) -> &str {
        "share"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.all.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.all.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.all.grow(reservation, additional);
        self.held.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.all.shrink(reservation, shrink);
        self.held.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let fits = |held: usize| held.checked_add(additional).filter(|sum| *sum <= self.most);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map_err(|held| {
            DataFusionError::ResourcesExhausted(format!(
                "the query holds {held} bytes and needs {additional} more; one query may hold {}",
                self.most
            ))
        })?;
        self.all.try_grow(reservation, additional).inspect_err(|_| {
            self.held.fetch_sub(additional, Ordering::Relaxed);
        })
    }

    fn reserved(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    #[test]
    fn one_query_gets_its_share_and_all_together_what_there_is() {
        let all: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let (a, b): (Arc<dyn MemoryPool>, Arc<dyn MemoryPool>) =
            (Arc::new(Share::of(all.clone(), 60)), Arc::new(Share::of(all.clone(), 60)));
        let of_a = MemoryConsumer::new("a").register(&a);
        let of_b = MemoryConsumer::new("b").register(&b);
        of_a.try_grow(60).unwrap();
        assert!(of_a.try_grow(1).unwrap_err().to_string().contains("one query may hold 60"));
        // 60 of 100 are taken.
        assert!(of_b.try_grow(41).is_err());
        of_b.try_grow(40).unwrap();
        assert_eq!((a.reserved(), b.reserved(), all.reserved()), (60, 40, 100));
        drop(of_a);
        assert_eq!((a.reserved(), all.reserved()), (0, 40));
        of_b.try_grow(20).unwrap();
        drop(of_b);
        assert_eq!(all.reserved(), 0);
    }
}
