//! Requests that wait for others: sessions, graphs, users, and the time that they take to think.

use std::collections::BTreeMap;

use super::{Dice, MS, Sizes};
use crate::request::Requests;
use crate::scenario::{Arrivals, ConstantTime, ExponentialTime, Load, LognormalTime, Sessions, ThinkTime, UniformTime};
use crate::units::SimDuration;

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, load: &mut Load, r: &mut Requests) {
    if dice.one_in(3) {
        return;
    }
    let count = r.len();
    if !dice.one_in(4) {
        let sessions = dice.range(1, count as u32);
        let alone = dice.pick(&[0, 0, 3]);
        let session = |dice: &mut Dice| (alone == 0 || !dice.one_in(alone)).then(|| dice.range(1, sessions));
        r.session = (0..count).map(|_| session(dice)).collect();
        load.sessions = dice.pick(&[Sessions::Open, Sessions::Closed, Sessions::Closed]);
    }
    if dice.one_in(3) {
        load.concurrency = Some(dice.range(1, 6));
        // The arrivals of users follow from what they got.
        (load.rate_rps, load.arrivals) = (None, Arrivals::Trace);
    }
    if dice.one_in(3) {
        graph(dice, load, r);
    }
    let longest_us = dice.pick(&[0, 3_000, 20_000]);
    r.think = dice.column(2, count, |dice| {
        let ns = i64::from(dice.range(0, longest_us)) * 1_000;
        SimDuration(if sizes.round { ns / MS * MS } else { ns })
    });
    load.think_time = think_time(dice, sizes);
}

fn think_time(dice: &mut Dice, sizes: &Sizes) -> Option<ThinkTime> {
    let s = dice.pick(&[0.0, 0.001, 0.002, 0.01]);
    let constant = ThinkTime::Constant(ConstantTime { s });
    match dice.range(0, 7) {
        0..=2 => None,
        3 | 4 => Some(constant),
        _ if sizes.round => Some(constant),
        5 => Some(ThinkTime::Uniform(UniformTime { min_s: s, max_s: s + 0.005 })),
        6 => Some(ThinkTime::Exponential(ExponentialTime { mean_s: 0.004 })),
        7.. => Some(ThinkTime::Lognormal(LognormalTime { mean_s: 0.004, cv: 1.5 })),
    }
}

/// Requests that wait for one to three others, without a circle.
///
/// A request waits for some that stand before it in an order that sessions keep to: of a session that begins earlier, or
/// earlier in its own. Without sessions and users any order will do, and a request may wait for one that arrives after it.
fn graph(dice: &mut Dice, load: &Load, r: &mut Requests) {
    let count = r.len();
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.sort_by_key(|i| (r.arrival[*i as usize], *i));
    if r.session.is_empty() && load.concurrency.is_none() {
        for _ in 0..dice.pick(&[0, 1, 5]) {
            let (a, b) = (dice.range(0, count as u32 - 1), dice.range(0, count as u32 - 1));
            order.swap(a as usize, b as usize);
        }
    }
    // Place of the first request of a session; a request that belongs to none is one by itself.
    let mut begins: BTreeMap<u32, usize> = BTreeMap::new();
    let mut rank = vec![(0, 0); count];
    for (place, i) in order.iter().enumerate() {
        let session = r.session.get(*i as usize).copied().flatten();
        let begin = session.map_or(place, |session| *begins.entry(session).or_insert(place));
        rank[*i as usize] = (begin, place);
    }
    order.sort_by_key(|i| rank[*i as usize]);
    let mut waits: Vec<Vec<u32>> = vec![Vec::new(); count];
    let share = dice.pick(&[1, 2, 8]);
    for (at, i) in order.iter().enumerate().skip(1) {
        if !dice.one_in(share) {
            continue;
        }
        // Mostly for those just before it.
        let far = if dice.one_in(4) { at } else { at.min(4) };
        let own = &mut waits[*i as usize];
        for _ in 0..dice.range(1, 3) {
            own.push(order[at - dice.range(1, far as u32) as usize]);
        }
        own.sort_unstable();
        own.dedup();
    }
    r.depends_on_offsets = vec![0];
    for own in waits {
        r.depends_on.extend(own);
        r.depends_on_offsets.push(r.depends_on.len() as u64);
    }
}
