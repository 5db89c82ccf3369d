//! Timelines of several batches in flight: [`lanes`](super::super::lanes). Steps of a millisecond pass two stages of half a
//! millisecond each, where nothing else is said.

use super::*;
use crate::sim::changes;
use crate::sim::scheduler::{FasterTransformer, Orca, Reserve, Sarathi, VllmV0};

/// So many stages, and blocks.
fn stages(pp: u32, cache: u64) -> impl Fn(&mut Scenario) {
    move |s| {
        s.deployment.pp = pp;
        s.deployment.max_model_len = Some(40);
        blocks(s, cache);
    }
}

/// Of two requests each is a batch.
fn sarathi(chunk_size: u32) -> Scheduler {
    let rules = Sarathi { chunk_size, batch_size_cap: 2, watermark_blocks_fraction: 0.0, ..Sarathi::default() };
    Scheduler::Sarathi(rules)
}

fn vllm_v1(max_num_batched_tokens: u32) -> Scheduler {
    Scheduler::VllmV1(VllmV1 { max_num_batched_tokens, ..VllmV1::default() })
}

#[test]
fn two_batches_take_turns() {
    // Each has the first stage while the other has the second.
    check_scheduler(
        &sarathi(512),
        stages(2, 1_000),
        &[ask(0.0, 4, 3), ask(0.0, 4, 3)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1.5 d3.5 o3"],
        &[
            "0+1 d0 p4/1 c0 r1 w1 x0 b1",
            "0+1.5 d0 p4/1 c0 r2 w0 x0 b2",
            "1+1 d1 p0/0 c4 r2 w0 x0 b3",
            "1.5+1 d1 p0/0 c4 r2 w0 x0 b4",
            "2+1 d1 p0/0 c5 r2 w0 x0 b4",
            "2.5+1 d1 p0/0 c5 r2 w0 x0 b4",
        ],
        |s| assert_eq!((s.steps, s.busy.0, s.running_ns), (6, 3_500_000, 6_500_000)),
    );
}

#[test]
fn a_prompt_waits_for_its_chunk() {
    check_scheduler(
        &sarathi(4),
        stages(2, 1_000),
        &[ask(0.0, 8, 1)],
        &["finished q0 s0 f2 d2 o1"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b2", "1+1 d0 p4/1 c4 r1 w0 x0 b2"],
        whatever,
    );
}

#[test]
fn a_chunk_follows_the_one_in_flight() {
    // vLLM's; a reply waits for its token.
    check_scheduler(
        &vllm_v1(4),
        stages(2, 1_000),
        &[ask(0.0, 8, 3)],
        &["finished q0 s0 f1.5 d3.5 o3"],
        &[
            "0+1 d0 p4/1 c0 r1 w0 x0 b1",
            "0+1.5 d0 p4/1 c4 r1 w0 x0 b2",
            "1.5+1 d1 p0/0 c8 r1 w0 x0 b3",
            "2.5+1 d1 p0/0 c9 r1 w0 x0 b3",
        ],
        whatever,
    );
}

#[test]
fn who_comes_is_served_beside_the_batch_in_flight() {
    let asked = [ask(0.0, 4, 2), ask(0.2, 4, 1)];
    check_scheduler(
        &sarathi(512),
        stages(2, 1_000),
        &asked,
        &["finished q0 s0 f1 d2 o2", "finished q0.2 s0.2 f1.5 d1.5 o1"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b1", "0.2+1.3 d0 p4/1 c0 r2 w0 x0 b2", "1+1 d1 p0/0 c4 r2 w0 x0 b3"],
        whatever,
    );
    // vLLM's V1 waits for the first batch once there is nothing more to form.
    check_scheduler(
        &vllm_v1(2048),
        stages(2, 1_000),
        &asked,
        &["finished q0 s0 f1 d2 o2", "finished q0.2 s1 f2 d2 o1"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b1", "1+1 d1 p4/1 c4 r2 w0 x0 b3"],
        whatever,
    );
}

#[test]
fn a_long_batch_holds_up_the_short_one_behind_it() {
    // Half a millisecond per token of a prompt: 4 ms and 2 ms.
    let slow = |s: &mut Scenario| {
        stages(2, 1_000)(s);
        linear(s).per_prefill_token_us = 500.0;
    };
    check_scheduler(
        &sarathi(512),
        slow,
        &[ask(0.0, 6, 1), ask(0.0, 2, 1)],
        &["finished q0 s0 f4 d4 o1", "finished q0 s0 f5 d5 o1"],
        &["0+4 d0 p6/1 c0 r1 w1 x0 b2", "0+5 d0 p2/1 c0 r2 w0 x0 b3"],
        whatever,
    );
    check_scheduler(
        &sarathi(512),
        slow,
        &[ask(0.0, 2, 1), ask(0.0, 6, 1)],
        &["finished q0 s0 f2 d2 o1", "finished q0 s0 f5 d5 o1"],
        &["0+2 d0 p2/1 c0 r1 w1 x0 b1", "0+5 d0 p6/1 c0 r2 w0 x0 b3"],
        whatever,
    );
}

#[test]
fn who_is_in_flight_is_no_victim() {
    // At 1.5 ms the first request is in flight and has two of three blocks: the second gives up its own, and finds two at 3 ms.
    check_scheduler(
        &sarathi(512),
        stages(2, 3),
        &[ask(0.0, 4, 3), ask(0.0, 4, 3)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1.5 d5 o3 p1 l2.5 a4 i3.5/2.485/2.5"],
        &[
            "0+1 d0 p4/1 c0 r1 w1 x0 b1",
            "0+1.5 d0 p4/1 c0 r2 w0 x0 b2",
            "1+1 d1 p0/0 c4 r2 w0 x0 b3",
            "2+1 d1 p0/0 c5 r1 w1 x0 b2",
            "3+1 d0 p5/1 c0 r1 w0 x0 b2",
            "4+1 d1 p0/0 c5 r1 w0 x0 b2",
        ],
        whatever,
    );
}

#[test]
fn of_vllm_s_the_last_is_the_victim_and_its_token_comes_out() {
    // At 1 ms the second request is in flight and loses its block; its token comes out at 1.5 ms.
    check_scheduler(
        &vllm_v1(4),
        stages(2, 2),
        &[ask(0.0, 4, 3), ask(0.0, 4, 3)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1.5 d5.5 o3 p1 l3/0.5 a4 i4/2.98/3"],
        &[
            "0+1 d0 p4/1 c0 r1 w1 x0 b1",
            "0+1.5 d0 p4/1 c0 r2 w0 x0 b2",
            "1+1 d1 p0/0 c4 r1 w1 x1 b2",
            "2+1 d1 p0/0 c5 r1 w1 x0 b2",
            "3+1 d0 p4/1 c0 r1 w0 x0 b1",
            "3+1.5 d0 p1/1 c4 r1 w0 x0 b2",
            "4.5+1 d1 p0/0 c5 r1 w0 x0 b2",
        ],
        whatever,
    );
}

#[test]
fn clients_that_go_are_noticed_when_a_batch_ends() {
    let gone = |at, cancel| Ask { cancel: Some(cancel), ..ask(at, 4, 3) };
    // Both times when the second batch ends; of the first request a token is on its way then.
    check_scheduler(
        &sarathi(512),
        stages(2, 1_000),
        &[ask(0.0, 4, 3), gone(0.0, 1.2)],
        &["finished q0 s0 f1 d3 o3", "cancelled q0 s0 f1.5 d- o1"],
        &["0+1 d0 p4/1 c0 r1 w1 x0 b1", "0+1.5 d0 p4/1 c0 r2 w0 x0 b2", "1+1 d1 p0/0 c4 r2 w0 x0 b3"],
        |s| assert_eq!((s.steps, s.running_ns), (4, 4_500_000)),
    );
    check_scheduler(
        &sarathi(512),
        stages(2, 1_000),
        &[gone(0.0, 1.2), ask(0.0, 4, 3)],
        &["cancelled q0 s0 f1 d- o1", "finished q0 s0 f1.5 d3.5 o3"],
        &[],
        |s| assert_eq!((s.steps, s.running_ns), (5, 5_000_000)),
    );
}

#[test]
fn what_is_in_flight_at_the_horizon_has_no_step() {
    check_scheduler(
        &sarathi(512),
        |s| {
            stages(2, 1_000)(s);
            s.workload.horizon_s = Some(0.0012);
        },
        &[ask(0.0, 4, 3), ask(0.0, 4, 3)],
        &["in_flight q0 s0 f1 d- o1", "in_flight q0 s0 f- d- o0"],
        &["0+1 d0 p4/1 c0 r1 w1 x0 b1"],
        |s| assert_eq!((s.steps, s.busy.0), (1, 1_000_000)),
    );
}

#[test]
fn orca_has_as_many_in_every_batch() {
    let now = "finished q0 s0 f1 d2 o2";
    let then = "finished q0 s0 f1.5 d2.5 o2";
    let rules = Orca { batch_size_cap: 2, reserve: Reserve::RequestCap };
    check_scheduler(
        &Scheduler::Orca(rules),
        stages(2, 1_000),
        &[ask(0.0, 3, 2); 5],
        &[now, now, then, then, "finished q0 s2 f3 d4 o2"],
        &["0+1 d0 p6/2 c0 r2 w3 x0 b20", "0+1.5 d0 p6/2 c0 r4 w1 x0 b40", "1+1 d2 p0/0 c6 r4 w1 x0 b40"],
        whatever,
    );
}

#[test]
fn static_batches_take_turns_until_each_is_done() {
    let rules = FasterTransformer { batch_size_cap: 1, reserve: Reserve::RequestCap, ..FasterTransformer::default() };
    check_scheduler(
        &Scheduler::FasterTransformer(rules),
        stages(2, 1_000),
        &[ask(0.0, 4, 2), ask(0.0, 4, 2), ask(0.0, 4, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1.5 d2.5 o2", "finished q0 s2 f3 d3 o1"],
        &[],
        whatever,
    );
}

#[test]
fn replies_follow_the_prompts_that_go_first() {
    // At 1 ms the prompt goes first, and the reply is the batch behind it, not the one after it.
    check_scheduler(
        &Scheduler::VllmV0(VllmV0 { watermark: 0.0, ..VllmV0::default() }),
        stages(2, 1_000),
        &[ask(0.0, 4, 3), ask(1.0, 4, 2)],
        &["finished q0 s0 f1 d3.5 o3 i2.5/1.495/1.5", "finished q1 s1 f2 d3 o2"],
        &[
            "0+1 d0 p4/1 c0 r1 w0 x0 b1",
            "1+1 d0 p4/1 c0 r2 w0 x0 b2",
            "1+1.5 d1 p0/0 c4 r2 w0 x0 b3",
            "2+1 d1 p0/0 c4 r2 w0 x0 b4",
            "2.5+1 d1 p0/0 c5 r2 w0 x0 b4",
        ],
        whatever,
    );
}

/// Rows of the fast engine, and when it was done.
fn rows_of(scheduler: &Scheduler, edit: impl Fn(&mut Scenario), asked: &[Ask]) -> (Rows, Summary) {
    let mut s = scenario(|_, _| ());
    s.deployment.scheduler = scheduler.clone();
    edit(&mut s);
    let mut rows = Rows::default();
    let stop = AtomicBool::new(false);
    let summary = simulate_with(&s, &requests(asked), &mut rows, &stop, Quirks::default()).unwrap();
    (rows, summary)
}

#[test]
fn a_batch_alone_takes_as_long_as_a_step() {
    // Never two requests at a time, and times that no number of stages divides; in whole microseconds, too.
    let asked: Vec<Ask> = (0..9).map(|i| ask(f64::from(i) * 40.0, 3 + i, 1 + i * 2)).collect();
    let all = [
        sarathi(512),
        vllm_v1(2048),
        Scheduler::Orca(Orca::default()),
        Scheduler::FasterTransformer(FasterTransformer::default()),
        Scheduler::VllmV0(VllmV0::default()),
    ];
    for scheduler in &all {
        for tick in [None, Some("1us")] {
            let with = |pp: u32| {
                let edit = |s: &mut Scenario| {
                    stages(pp, 1_000)(s);
                    s.deployment.tick = tick.map(|t| t.parse().unwrap());
                    (linear(s).base_us, linear(s).per_prefill_token_us) = (1_000.007, 3.0);
                };
                rows_of(scheduler, edit, &asked)
            };
            let one = with(1);
            for pp in 2..=7 {
                assert_eq!(with(pp), one, "{scheduler:?} {pp}");
            }
        }
    }
}

#[test]
fn stages_multiply_what_tokens_cost() {
    // 32 replies of 30 tokens, eight in each of four batches. A step of all of them takes the time of 32 tokens; one of eight
    // passes a stage in that of two, and then the next one ends: 32 tokens in the time of eight.
    let asked = [ask(0.0, 1, 30); 32];
    let rules = Sarathi { batch_size_cap: 32, watermark_blocks_fraction: 0.0, ..Sarathi::default() };
    let scheduler = Scheduler::Sarathi(rules);
    let end = |pp: u32, base_us: f64, per_decode_token_us: f64| {
        let edit = |s: &mut Scenario| {
            stages(pp, 1_000)(s);
            let linear = linear(s);
            (linear.base_us, linear.per_decode_token_us) = (base_us, per_decode_token_us);
            linear.per_prefill_token_us = per_decode_token_us;
        };
        rows_of(&scheduler, edit, &asked).1.end.0 as f64
    };
    let gain = end(1, 1.0, 100.0) / end(4, 1.0, 100.0);
    assert!((3.7..4.0).contains(&gain), "{gain}");
    // What a step costs whatever is in it, four batches cost four times, on four stages.
    let gain = end(1, 1_000.0, 0.0) / end(4, 1_000.0, 0.0);
    assert!((0.95..1.0).contains(&gain), "{gain}");
}

#[test]
fn with_what_is_not_simulated_one_batch_at_a_time_passes_the_stages() {
    let ahead = Scheduler::VllmV1(VllmV1 { max_num_batched_tokens: 4, async_scheduling: true, ..VllmV1::default() });
    let asked = [ask(0.0, 4, 3), ask(0.0, 4, 3), ask(0.3, 9, 2)];
    let [one, two] = [1, 2].map(|pp| rows_of(&ahead, stages(pp, 1_000), &asked));
    assert_eq!(one, two);
    let told = |scheduler: &Scheduler, pp: u32| {
        let mut s = scenario(|s, _| s.deployment.pp = pp);
        s.deployment.scheduler = scheduler.clone();
        changes(&s)
    };
    let expect = "one batch at a time passes the 2 stages, not one per stage: with async_scheduling no more than that is \
                  simulated";
    assert_eq!(told(&ahead, 2), [("deployment.pp", expect.to_string())]);
    assert_eq!((told(&ahead, 1), told(&vllm_v1(4), 2)), (Vec::new(), Vec::new()));
}
