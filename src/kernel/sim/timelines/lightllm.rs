//! Timelines of LightLLM: steps of prompts, looks at the queue, and the forecast. Blocks have one token.

use super::orca::{check_of, sizes, windows};
use super::*;
use crate::sim::check;
use crate::sim::scheduler::Lightllm;

fn rules(edit: impl Fn(&mut Lightllm)) -> Scheduler {
    let mut rules = Lightllm::default();
    edit(&mut rules);
    Scheduler::Lightllm(rules)
}

/// A cache of so many tokens, and requests of so many at most.
fn tokens(cache: u64, longest: u32) -> impl Fn(&mut Scenario) {
    move |s| {
        sizes(cache, longest)(s);
        s.deployment.kv.block_size = 1;
    }
}

fn capped(at: f64, input: u32, output: u32, most: u32) -> Ask {
    Ask { max_tokens: Some(most), ..ask(at, input, output) }
}

#[test]
fn prompts_are_computed_every_so_many_steps() {
    check_of(
        rules(|r| r.max_waiting_iters = 2),
        tokens(100, 50),
        &[ask(0.0, 3, 6), capped(0.5, 2, 3, 3)],
        &["finished q0 s0 f1 d7 o6 i6/1.96/2", "finished q0.5 s3 f4 d6 o3"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b3",
            "1+1 d1 p0/0 c3 r1 w1 x0 b4",
            "2+1 d1 p0/0 c4 r1 w1 x0 b5",
            "3+1 d0 p2/1 c0 r2 w0 x0 b7",
            "4+1 d2 p0/0 c7 r2 w0 x0 b9",
            "5+1 d2 p0/0 c9 r2 w0 x0 b11",
            "6+1 d1 p0/0 c7 r1 w0 x0 b8",
        ],
        |s| {
            assert_eq!((s.steps, s.busy.0), (7, 7_000_000));
            assert_eq!(s.itl, [(SimDuration(1_000_000), 6), (SimDuration(2_000_000), 1)]);
        },
    );
    // The default waits ten steps of tokens: from 1 to 11. With 0 every step of tokens is one that may be put off.
    let asked = [ask(0.0, 3, 12), capped(0.5, 2, 1, 1)];
    let at = |every: u32, rows: &[&str]| {
        check_of(rules(|r| r.max_waiting_iters = every), tokens(100, 50), &asked, rows, &[], whatever);
    };
    at(10, &["finished q0 s0 f1 d13 o12 i12/1.9/2", "finished q0.5 s11 f12 d12 o1"]);
    at(0, &["finished q0 s0 f1 d13 o12 i12/1.9/2", "finished q0.5 s1 f2 d2 o1"]);
    // Looks at an empty queue count: at 3 ms there is nobody, and who comes then waits until 5 ms.
    let asked = [ask(0.0, 3, 12), capped(3.5, 2, 1, 1)];
    check_of(
        rules(|r| r.max_waiting_iters = 2),
        tokens(100, 50),
        &asked,
        &["finished q0 s0 f1 d13 o12 i12/1.9/2", "finished q3.5 s5 f6 d6 o1"],
        &[],
        whatever,
    );
}

#[test]
fn the_forecast_admits_what_fits_at_its_peak() {
    // Each may have four tokens and so hold 4 + 3 - 1 = 6 before it is done: twice that is not less than 12.
    let asked = [capped(0.0, 3, 4, 4), capped(0.0, 3, 4, 4)];
    check_of(
        rules(|_| ()),
        tokens(12, 12),
        &asked,
        &["finished q0 s0 f1 d4 o4", "finished q0 s4 f5 d8 o4"],
        &["0+1 d0 p3/1 c0 r1 w1 x0 b3", "1+1 d1 p0/0 c3 r1 w1 x0 b4"],
        |s| assert_eq!(s.kv_blocks_max, 6),
    );
    check_of(
        rules(|_| ()),
        tokens(13, 13),
        &asked,
        &["finished q0 s0 f1 d4 o4"; 2],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b6", "1+1 d2 p0/0 c6 r2 w0 x0 b8"],
        |s| assert_eq!(s.kv_blocks_max, 12),
    );
    // One that ends early makes room for what the other still takes: 4 + 4, then 5 to 8.
    check_of(
        rules(|_| ()),
        tokens(10, 10),
        &[capped(0.0, 3, 2, 2), capped(0.0, 3, 6, 6)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d6 o6"],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b6", "1+1 d2 p0/0 c6 r2 w0 x0 b8", "2+1 d1 p0/0 c4 r1 w0 x0 b5"],
        whatever,
    );
    // It goes by what they may have, not by what they will.
    let short = [ask(0.0, 3, 2), ask(0.0, 3, 2)];
    check_of(
        rules(|_| ()),
        tokens(12, 12),
        &short,
        &["finished q0 s0 f1 d2 o2", "finished q0 s2 f3 d4 o2"],
        &["0+1 d0 p3/1 c0 r1 w1 x0 b3"],
        whatever,
    );
    check_of(
        rules(|_| ()),
        |s| {
            tokens(12, 12)(s);
            s.workload.exact_max_tokens = true;
        },
        &short,
        &["finished q0 s0 f1 d2 o2"; 2],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b6"],
        whatever,
    );
}

#[test]
fn windows_are_forecast() {
    // One token and the next: two for each, beside the 6 that it takes before it is done. Twice 8 is not less than 16.
    let asked = [capped(0.0, 3, 4, 4), capped(0.0, 3, 4, 4)];
    let with = |cache, rows: &[&str], steps: &[&str]| {
        let edit = |s: &mut Scenario| {
            tokens(cache, 12)(s);
            windows(s, 1);
        };
        check_of(rules(|_| ()), edit, &asked, rows, steps, whatever);
    };
    with(16, &["finished q0 s0 f1 d4 o4", "finished q0 s4 f5 d8 o4"], &["0+1 d0 p3/1 c0 r1 w1 x0 b5"]);
    with(17, &["finished q0 s0 f1 d4 o4"; 2], &["0+1 d0 p6/2 c0 r2 w0 x0 b10", "1+1 d2 p0/0 c6 r2 w0 x0 b12"]);
}

#[test]
fn room_is_seen_at_the_next_look() {
    // At 1 ms the first is done, and there would be room for the third. The queue is looked at again after three steps of
    // tokens; the last one fits only when nothing else runs.
    let third = |at| capped(at, 3, 1, 4);
    let asked = [third(0.0), capped(0.0, 3, 6, 6), third(0.0), third(0.0)];
    let every = |steps: u32, rows: &[&str]| {
        check_of(rules(|r| r.max_waiting_iters = steps), tokens(16, 16), &asked, rows, &[], whatever);
    };
    every(
        3,
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q0 s0 f1 d7 o6 i6/1.96/2",
            "finished q0 s4 f5 d5 o1",
            "finished q0 s7 f8 d8 o1",
        ],
    );
    // After two: at 3 ms, and at 6 ms the last one fits beside the second, of which the next token is the last.
    every(
        2,
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q0 s0 f1 d8 o6 i7/2/2",
            "finished q0 s3 f4 d4 o1",
            "finished q0 s6 f7 d7 o1",
        ],
    );
}

#[test]
fn the_prompts_of_a_step_are_limited() {
    // Four and three tokens are more than six, and the two of the last one stand behind them.
    check_of(
        rules(|r| (r.batch_max_tokens, r.max_waiting_iters) = (Some(6), 1)),
        tokens(100, 6),
        &[ask(0.0, 4, 2), ask(0.0, 3, 1), ask(0.0, 2, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s2 f3 d3 o1", "finished q0 s2 f3 d3 o1"],
        &["0+1 d0 p4/1 c0 r1 w2 x0 b4", "1+1 d1 p0/0 c4 r1 w2 x0 b5", "2+1 d0 p5/2 c0 r2 w0 x0 b5"],
        whatever,
    );
    // Without the setting: a sixth of the cache.
    check_of(
        rules(|_| ()),
        tokens(60, 6),
        &[ask(0.0, 5, 1), ask(0.0, 5, 1), ask(0.0, 1, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p10/2 c0 r2 w1 x0 b10", "1+1 d0 p1/1 c0 r1 w0 x0 b1"],
        whatever,
    );
}

#[test]
fn seats_are_limited() {
    check_of(
        rules(|r| (r.running_max_req_size, r.max_waiting_iters) = (2, 1)),
        tokens(100, 20),
        &[ask(0.0, 3, 2), ask(0.0, 3, 4), ask(0.0, 3, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d5 o4 i4/1.98/2", "finished q0 s2 f3 d3 o1"],
        &["0+1 d0 p6/2 c0 r2 w1 x0 b6", "1+1 d2 p0/0 c6 r2 w1 x0 b8", "2+1 d0 p3/1 c0 r2 w0 x0 b7"],
        whatever,
    );
}

#[test]
fn a_prompt_that_fills_the_cache_runs_alone() {
    check_of(
        rules(|_| ()),
        tokens(8, 8),
        &[ask(0.0, 7, 1), ask(0.0, 1, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p7/1 c0 r1 w1 x0 b7", "1+1 d0 p1/1 c0 r1 w0 x0 b1"],
        whatever,
    );
}

#[test]
fn lightllm_is_refused_what_it_refuses() {
    let found = |edit: &dyn Fn(&mut Scenario, &mut Lightllm)| -> Vec<String> {
        let mut s = scenario(|_, _| ());
        tokens(100, 50)(&mut s);
        let mut rules = Lightllm::default();
        edit(&mut s, &mut rules);
        s.deployment.scheduler = Scheduler::Lightllm(rules);
        check(&s).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    };
    assert_eq!(found(&|_, _| ()), [""; 0]);
    assert_eq!(
        found(&|s, r| {
            (s.deployment.kv.block_size, s.deployment.pp) = (16, 2);
            r.running_max_req_size = 0;
        }),
        [
            "deployment.scheduler.lightllm.running_max_req_size: is 0; must be at least 1",
            "deployment.kv.block_size: is 16; must be 1: LightLLM hands out its cache token by token",
            "deployment.pp: is 2; must be 1: LightLLM has no pipeline stages",
        ]
    );
    assert_eq!(
        found(&|s, r| {
            s.deployment.max_model_len = Some(101);
            r.batch_max_tokens = Some(99);
        }),
        [
            "deployment.max_model_len: is 101; LightLLM wants a cache that holds a request of that length, and it has 100 \
             tokens",
            "deployment.scheduler.lightllm.batch_max_tokens: is 99; must be at least the longest request of 100 tokens \
             (`max_model_len`), whose prompt could never be computed else",
        ]
    );
    assert_eq!(found(&|_, r| r.batch_max_tokens = Some(50)), [""; 0]);
}
