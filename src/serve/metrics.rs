//! Figures about the server itself, in the text format of OpenMetrics, which Prometheus reads.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Wire;
use super::refusal::Reason;

/// Seconds: from a lookup in a small table to a scan of a large one.
const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWire {
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    protocol: &'static str,
    outcome: &'static str,
}

/// Counters and gauges of a server.
pub struct Metrics {
    registry: Registry,
    queries: Family<Outcome, Counter>,
    seconds: Family<OfWire, Histogram, fn() -> Histogram>,
    rows: Family<OfWire, Counter>,
    connections: Family<OfWire, Gauge>,
    denied: Family<OfWire, Counter>,
    running: Gauge,
    waiting: Gauge,
    memory: Gauge,
    tables: Gauge,
    published: Gauge<f64, AtomicU64>,
    refreshes: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pipe");
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let metrics = Metrics {
            queries: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            rows: Family::default(),
            connections: Family::default(),
            denied: Family::default(),
            running: Gauge::<i64, AtomicI64>::default(),
            waiting: Gauge::default(),
            memory: Gauge::default(),
            tables: Gauge::default(),
            published: Gauge::default(),
            refreshes: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("queries", "Statements that ended, by protocol and outcome", metrics.queries.clone());
        let text = "Time from a statement's arrival to its last row, waiting for the client not counted";
        registry.register_with_unit("query_duration", text, Unit::Seconds, metrics.seconds.clone());
        registry.register("rows_sent", "Rows that clients took", metrics.rows.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("access_denied", "Attempts without a valid password or token", metrics.denied.clone());
        registry.register("queries_running", "Statements that run now", metrics.running.clone());
        registry.register("queries_waiting", "Statements that wait for others to end", metrics.waiting.clone());
        let text = "Memory that operators of queries hold now";
        registry.register_with_unit("query_memory", text, Unit::Bytes, metrics.memory.clone());
        registry.register("tables", "Tables that are served", metrics.tables.clone());
        let text = "When the tables that are served were loaded, since 1970";
        registry.register_with_unit("tables_loaded", text, Unit::Seconds, metrics.published.clone());
        registry.register("refreshes", "Times that tables were loaded anew after a run", metrics.refreshes.clone());
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    /// The text that a scrape gets.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A statement ended.
    pub fn ended(&self, wire: Wire, outcome: Option<Reason>, seconds: f64, rows: u64) {
        let protocol = wire.name();
        let outcome = outcome.map_or("ok", Reason::name);
        self.queries.get_or_create(&Outcome { protocol, outcome }).inc();
        self.seconds.get_or_create(&OfWire { protocol }).observe(seconds);
        self.rows.get_or_create(&OfWire { protocol }).inc_by(rows);
    }

    /// A client was not let in.
    pub fn denied(&self, wire: Wire) {
        self.denied.get_or_create(&OfWire { protocol: wire.name() }).inc();
    }

    /// A connection that is open until the value is dropped.
    pub fn connection(&self, wire: Wire) -> Up {
        Up::new(self.connections.get_or_create(&OfWire { protocol: wire.name() }).clone())
    }

    /// A statement that runs until the value is dropped.
    pub fn running(&self) -> Up {
        Up::new(self.running.clone())
    }

    /// A statement that waits until the value is dropped.
    pub fn waiting(&self) -> Up {
        Up::new(self.waiting.clone())
    }

    /// What queries hold now.
    pub fn memory(&self, bytes: usize) {
        self.memory.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Tables were loaded.
    pub fn loaded(&self, tables: usize, at: std::time::SystemTime, again: bool) {
        self.tables.set(i64::try_from(tables).unwrap_or(i64::MAX));
        let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.published.set(since.as_secs_f64());
        if again {
            self.refreshes.inc();
        }
    }
}

/// One more in a gauge, while it lives.
pub struct Up(Gauge);

impl Up {
    fn new(gauge: Gauge) -> Up {
        gauge.inc();
        Up(gauge)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.ended(Wire::Postgres, None, 0.003, 5);
        metrics.ended(Wire::Postgres, Some(Reason::Timeout), 70.0, 0);
        let open = metrics.connection(Wire::Http);
        metrics.loaded(3, std::time::UNIX_EPOCH + std::time::Duration::from_millis(1500), false);
        let text = metrics.text();
        for line in [
            "pipe_queries_total{protocol=\"postgres\",outcome=\"ok\"} 1",
            "pipe_queries_total{protocol=\"postgres\",outcome=\"timeout\"} 1",
            "pipe_rows_sent_total{protocol=\"postgres\"} 5",
            "pipe_query_duration_seconds_bucket{le=\"0.005\",protocol=\"postgres\"} 1",
            "pipe_query_duration_seconds_count{protocol=\"postgres\"} 2",
            "pipe_connections{protocol=\"http\"} 1",
            "pipe_tables 3",
            "pipe_tables_loaded_seconds 1.5",
            "pipe_refreshes_total 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        drop(open);
        assert!(metrics.text().contains("pipe_connections{protocol=\"http\"} 0"));
    }
}
