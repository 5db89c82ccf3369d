//! Routers: which replica a request goes to.
//!
//! A decision is made when a request arrives (and for the prefill or mixed part again, where an encoder came first). Its
//! candidates are the engines of all pools that serve the model in the role that is needed, in the order of their
//! numbers. All sets of candidates use the same kind of router, each with its own state and its own random stream:
//! `router` for the first set in the order of (first pool of the model, role), `router/1`, `router/2`, ... for the others.
//!
//! # What a router knows
//!
//! Of its own accord and at once, for every candidate `a`:
//!
//! - *outstanding*: requests for which `a` was chosen and that have not ended. (A decode replica is chosen when the
//!   request arrives, and counts it from then on; a prefill replica until its part is over.)
//! - *prompt tokens pending*: of those requests, the prompts that `a` has not dealt with: until the first token is out
//!   (or the prefill part over), the KV cache has come from elsewhere, or the request has left. An encoder's prompt is
//!   its encoder tokens.
//!
//! As old as [`Signals`](crate::pools::Signals) say: with a refresh interval, all engines are looked at at every multiple
//! of it (after what ends at that instant, before what arrives), and the router sees that from `delay_ms` later on (from
//! the very instant, with no delay: before what arrives); before the first such time it sees empty replicas. Without an
//! interval it sees the present. These are:
//!
//! - *waiting*, *running*: requests in the queue of the engine's scheduler; requests that it has admitted;
//! - *KV usage*: blocks in use over all blocks (0 for an engine without blocks);
//! - *hit*: tokens of the longest prefix of the prompt that is in its prefix cache, whole blocks, never the last token of
//!   the prompt (with `recompute_full_hits: false` also that).
//!
//! # Ties
//!
//! "One of" below is: uniformly at random among equals. Every decision of a router takes exactly one number `u` (64 bits)
//! from its stream, however many are equal; of `n` equals in the order of their numbers it takes number `u * n >> 64`.
//! `power_of_two` takes two, and `kv_aware` with a temperature one. `round_robin` takes none, and so do the sticky routers
//! where they keep a replica. Scores are equal if they are the same double.

mod affinity;
mod balance;
mod costs;
mod counts;
mod holders;
mod least;
mod picker;
mod prefixes;
mod scorers;
mod sent;
mod settings;
#[cfg(test)]
mod tests;
mod turns;

#[doc(hidden)]
pub use picker::Draws;
pub(in crate::sim) use picker::{Ask, Kind, Load, Needs, Picker};
pub use settings::{KvAware, PrefixAffinity, RankedSticky, Router, Scorers, TolerantSticky, Weighted};
