//! What the gateway sees of its engines: at once, or as of the last look that has reached it.

use std::collections::BTreeSet;

use super::parts::Machine;
use super::pools::Pool;
use crate::pools::Signals;
use crate::request::Requests;
use crate::units::{SimDuration, SimTime};

/// One engine, as it was at a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    pub waiting: usize,
    pub running: usize,
    pub used: usize,
    /// Contents of the blocks in its prefix cache.
    pub contents: BTreeSet<u64>,
}

impl Sight {
    pub(super) fn of(machine: &Machine) -> Sight {
        Sight {
            waiting: machine.waiting.len(),
            running: machine.running.len(),
            used: machine.used(),
            contents: machine.by_hash.keys().copied().collect(),
        }
    }

    /// Tokens of the longest prefix of a request's prompt that is in the cache of this engine.
    pub(super) fn hit(&self, pool: &Pool, requests: &Requests, request: u32) -> usize {
        let i = request as usize;
        let prompt = requests.input_tokens[i] as usize;
        let usable = if pool.common.recompute_full_hits { prompt - 1 } else { prompt };
        let known = pool.derivation.known_blocks(requests, i, pool.block_size as u32) as usize;
        let most = known.min(usable / pool.block_size);
        let there = |block: &usize| self.contents.contains(&pool.derivation.hash(requests, i, *block as u32));
        (0..most).take_while(there).count() * pool.block_size
    }
}

/// See the head of the file.
pub(super) struct Sights {
    refresh: Option<SimDuration>,
    delay: SimDuration,
    /// The next time to look.
    due: SimTime,
    /// What was seen of all engines, and from when on the gateway knows it.
    looks: Vec<(SimTime, Vec<Sight>)>,
}

impl Sights {
    pub(super) fn new(signals: &Signals) -> Sights {
        let ns = |ms: f64| SimDuration::from_us(ms * 1e3);
        let refresh = (signals.refresh_ms > 0.0).then(|| ns(signals.refresh_ms).max(SimDuration(1)));
        Sights { refresh, delay: ns(signals.delay_ms), due: SimTime::ZERO, looks: Vec::new() }
    }

    /// The looks before `now`, when nothing has happened since the last instant: they all see the same.
    pub(super) fn look_until(&mut self, now: SimTime, machines: &[Machine]) {
        let Some(refresh) = self.refresh else { return };
        // The last one that is known is all that counts of those before.
        if let Some(known) = self.looks.iter().rposition(|(known, _)| *known <= now) {
            self.looks.drain(..known);
        }
        if self.due < now {
            self.look(machines);
            let past = (now - self.due).0;
            self.due = self.due + SimDuration((past + refresh.0 - 1) / refresh.0 * refresh.0);
        }
    }

    /// The look at `now`, if there is one, after what ends at that time.
    pub(super) fn look_at(&mut self, now: SimTime, machines: &[Machine]) {
        let Some(refresh) = self.refresh else { return };
        if self.due == now {
            self.look(machines);
            self.due = self.due + refresh;
        }
    }

    fn look(&mut self, machines: &[Machine]) {
        let known = SimTime(self.due.0.saturating_add(self.delay.0));
        self.looks.push((known, machines.iter().map(Sight::of).collect()));
    }

    /// What the gateway knows of an engine.
    pub(super) fn seen(&self, now: SimTime, engine: usize, machines: &[Machine]) -> Sight {
        if self.refresh.is_none() {
            return Sight::of(&machines[engine]);
        }
        let known = self.looks.iter().rev().find(|(known, _)| *known <= now);
        known.map(|(_, sights)| sights[engine].clone()).unwrap_or_default()
    }
}
