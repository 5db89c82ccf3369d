//! Forming a step by the rules of [`Lightllm`].
//!
//! Every look at the queue that can admit somebody makes the forecast anew, request by request, as LightLLM does: what runs
//! comes closer to its end while the first of the queue stays where it is, and the peak of both together moves either way.

use crate::sim::batch::{Forming, Seat};
use crate::sim::node::Env;
use crate::sim::replica::{Live, Replica};
use crate::sim::scheduler::{Forecast, Lightllm, Outlook};

/// See the head of the file.
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: Lightllm,
    /// Steps of tokens since the queue was looked at.
    waited: u32,
}

impl State {
    pub(super) fn new(rules: &Lightllm) -> State {
        State { rules: *rules, waited: 0 }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        let idle = replica.running.is_empty();
        if idle || self.waited >= self.rules.max_waiting_iters {
            self.waited = 0;
            if self.is_open(replica) && self.admit(replica, f, env) {
                f.pause = true;
                return;
            }
        }
        if idle {
            return;
        }
        assert!(replica.decode_need() <= replica.pool.free(), "the cache holds what was forecast");
        replica.decode_all(f, env);
        self.waited += 1;
        replica.blocked = !replica.nobody_waits();
    }

    /// See [`super::Former::quiet_steps`].
    pub(super) fn quiet_steps(&self, replica: &Replica) -> u64 {
        if self.is_open(replica) {
            u64::from(self.rules.max_waiting_iters.saturating_sub(self.waited))
        } else {
            u64::MAX
        }
    }

    /// See [`super::Former::ran`]. A look in between had nobody to admit, or no seat.
    pub(super) fn ran(&mut self, steps: u64) {
        let period = u64::from(self.rules.max_waiting_iters.max(1));
        if steps > 0 {
            self.waited = ((u64::from(self.waited) + steps - 1) % period) as u32 + 1;
        }
    }

    /// A look at the queue may admit somebody.
    fn is_open(&self, replica: &Replica) -> bool {
        !replica.nobody_waits() && replica.running.len() < self.rules.running_max_req_size as usize
    }

    /// Whether anybody was admitted.
    fn admit(&self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) -> bool {
        let cache = replica.pool.total();
        let mut left = self.rules.tokens_of_prompts(cache, env.max_len);
        let running = |slot: &u32| {
            let live = &replica.live[*slot as usize];
            let out = replica.emitted(live);
            Outlook {
                held: live.input + out + replica.fixed,
                left: env.demand.cap(live.request, env.max_len) - out - 1,
            }
        };
        let mut forecast = Forecast::of(replica.running.iter().map(running).collect());
        while let Some(slot) = replica.waiting.front()
            && replica.running.len() < self.rules.running_max_req_size as usize
        {
            let live = &replica.live[slot as usize];
            let (tokens, outlook) = (live.target, waiting(live, replica.fixed, env));
            let fits = forecast.peak_with(outlook) < cache || replica.running.is_empty();
            if !fits || u64::from(tokens) > left {
                break;
            }
            forecast.add(outlook);
            left -= u64::from(tokens);
            replica.waiting.pop_front();
            replica.seat(slot, &Seat { hits: 0, tokens, spare: 0 }, f, env);
        }
        !replica.next.chunks.is_empty()
    }
}

fn waiting(live: &Live, fixed: u32, env: &Env<'_>) -> Outlook {
    let most = env.demand.cap(live.request, env.max_len);
    Outlook { held: live.input + 1 + fixed, left: most.saturating_sub(2) }
}
