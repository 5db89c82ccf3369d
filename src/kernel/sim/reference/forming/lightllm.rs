//! LightLLM: a cache of single tokens, and a forecast of its peak.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::Lightllm;

impl World<'_> {
    pub(super) fn form_lightllm(&mut self, r: usize, rules: &Lightllm, f: &mut Forming) {
        let idle = self.replicas[r].running.is_empty();
        if idle || self.replicas[r].iterations >= rules.max_waiting_iters {
            self.replicas[r].iterations = 0;
            self.admit_forecast(r, rules, f);
        } else if !self.replicas[r].waiting.is_empty() {
            self.fire("lightllm: the queue is not looked at");
        }
        if !f.batch.is_empty() {
            if !idle {
                self.fire("lightllm: tokens wait for prompts");
            }
            return;
        }
        for i in self.replicas[r].running.clone() {
            let goes_on = self.go_on(r, i, 1, f);
            assert!(goes_on, "the cache was forecast to hold this");
        }
        if !idle {
            self.replicas[r].iterations += 1;
        }
    }

    fn admit_forecast(&mut self, r: usize, rules: &Lightllm, f: &mut Forming) {
        let pool = self.pool(r);
        let most = match rules.batch_max_tokens {
            Some(said) => said as usize,
            None => (pool.blocks / 6).max(pool.max_len),
        };
        while let Some(at) = self.head(r) {
            let i = self.replicas[r].waiting[at];
            if self.replicas[r].running.len() >= rules.running_max_req_size as usize {
                self.fire("lightllm: all seats are taken");
                return;
            }
            let prompts: usize = f.batch.iter().map(|part| part.tokens).sum();
            if prompts + self.lives[i].prompt > most {
                self.fire("lightllm: the prompts of the step are too long");
                return;
            }
            if pool.fixed > 0 {
                self.fire("lightllm: windows and states are forecast");
            }
            if self.forecast(r, i) >= pool.blocks {
                if !self.replicas[r].running.is_empty() {
                    self.fire("lightllm: the forecast refuses");
                    return;
                }
                self.fire("lightllm: alone against the forecast");
            }
            self.lives[i].target = self.lives[i].prompt;
            self.take_seat(r, at, Vec::new(), self.lives[i].prompt, f);
        }
    }

    /// The most tokens in the cache at once, if all that run, and one more, went on together to the most that they may have.
    /// Those admitted in this step count as what they were before it.
    fn forecast(&self, r: usize, more: usize) -> usize {
        let (longest, fixed) = (self.replicas[r].pool.max_len as u32, self.replicas[r].pool.fixed);
        let mut rest: Vec<(usize, usize)> = Vec::new();
        for i in self.replicas[r].running.iter().copied().chain([more]) {
            let life = &self.lives[i];
            let most = self.demand.cap(life.request, longest) as usize;
            // Tokens after its next one, and after that one what it may still have.
            rest.push(match life.tokens.len() {
                0 => (life.prompt + 1, most.max(2) - 2),
                out => (life.prompt + out, most - out - 1),
            });
        }
        let mut peak = 0;
        while !rest.is_empty() {
            peak = peak.max(rest.iter().map(|(held, _)| held + fixed).sum());
            rest.retain(|(_, left)| *left > 0);
            rest.iter_mut().for_each(|(held, left)| (*held, *left) = (*held + 1, *left - 1));
        }
        peak
    }
}
