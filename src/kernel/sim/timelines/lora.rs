//! Timelines of LoRA adapters. A step takes a millisecond, and so does the load of an adapter of rank 16.

use super::*;
use crate::sim::lora::{Adapter, AdapterSums, Gate, Loading, Lora, RankFactor};
use crate::sim::scheduler::{CapacitySchedulerPolicy, Scheduler, Trtllm, VllmV0};

/// A request that asks for an adapter.
fn with(adapter: u32, ask: Ask) -> Ask {
    Ask { adapter: Some(adapter), ..ask }
}

fn slots(s: &mut Scenario, max_loras: u32) -> &mut Lora {
    let lora = Lora { max_loras, bytes_per_rank: Some(62_500.0), load_gb_per_s: Some(1.0), ..Lora::default() };
    s.deployment.lora.insert(lora)
}

fn background(s: &mut Scenario, max_loras: u32, gate: Gate) -> &mut Lora {
    let lora = slots(s, max_loras);
    (lora.loading, lora.gate) = (Loading::Background, gate);
    lora
}

/// Loads, evictions, ms that requests waited without their adapters, steps by distinct adapters.
#[track_caller]
fn sums(s: &Summary, expect: (u64, u64, f64, &[u64])) {
    let AdapterSums { loads, evictions, wait_ns, steps_by_adapters, .. } = &s.adapters;
    assert_eq!((*loads, *evictions, *wait_ns as f64 / MS, steps_by_adapters.as_slice()), expect);
    assert_eq!(s.adapters, s.pools[0].adapters);
}

#[test]
fn without_adapters_nobody_looks_at_what_requests_ask_for() {
    check(
        |_, _| (),
        &[with(0, ask(0.0, 3, 1)), with(1, ask(0.0, 3, 1))],
        &["finished q0 s0 f1 d1 o1"; 2],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b2"],
        |s| assert_eq!(s.adapters, AdapterSums::default()),
    );
}

fn two_adapters() -> [Ask; 4] {
    [with(0, ask(0.0, 3, 3)), with(1, ask(0.0, 3, 1)), with(0, ask(0.0, 3, 1)), ask(0.0, 3, 1)]
}

/// With one slot, where those behind the second pass it.
const PASSED_ROWS: [&str; 4] =
    ["finished q0 s0 f2 d4 o3", "finished q0 s4 f6 d6 o1", "finished q0 s0 f2 d2 o1", "finished q0 s0 f2 d2 o1"];
const PASSED_STEPS: [&str; 4] = [
    "0+2 d0 p9/3 c0 r3 w1 x0 b3",
    "2+1 d1 p0/0 c3 r1 w1 x0 b1",
    "3+1 d1 p0/0 c4 r1 w1 x0 b2",
    "4+2 d0 p3/1 c0 r1 w0 x0 b1",
];
/// The same where they wait.
const WAITED_ROWS: [&str; 4] =
    ["finished q0 s0 f2 d4 o3", "finished q0 s4 f6 d6 o1", "finished q0 s6 f8 d8 o1", "finished q0 s6 f8 d8 o1"];
const WAITED_STEPS: [&str; 5] = [
    "0+2 d0 p3/1 c0 r1 w3 x0 b1",
    "2+1 d1 p0/0 c3 r1 w3 x0 b1",
    "3+1 d1 p0/0 c4 r1 w3 x0 b2",
    "4+2 d0 p3/1 c0 r1 w2 x0 b1",
    "6+2 d0 p6/2 c0 r2 w0 x0 b2",
];

#[test]
fn those_behind_go_first_or_wait() {
    check(
        |s, _| slots(s, 1).gate = Gate::Skip,
        &two_adapters(),
        &PASSED_ROWS,
        &PASSED_STEPS,
        |s| sums(s, (2, 1, 4.0, &[0, 4])),
    );
    // The third has its adapter on the GPU until 4 ms, and waits without it until 6 ms.
    check(
        |s, _| slots(s, 1).gate = Gate::HeadOfLine,
        &two_adapters(),
        &WAITED_ROWS,
        &WAITED_STEPS,
        |s| sums(s, (3, 2, 6.0, &[0, 5])),
    );
}

#[test]
fn no_more_adapters_at_once_than_slots() {
    // One after the other, two at once, or all three: each loads its own.
    let asked = [0, 1, 2].map(|adapter| with(adapter, ask(0.0, 3, 1)));
    let row = |from: f64, until: f64| format!("finished q0 s{from} f{until} d{until} o1");
    for (count, times, steps) in [
        (1, [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)], vec![0, 3]),
        (2, [(0.0, 3.0), (0.0, 3.0), (3.0, 5.0)], vec![0, 1, 1]),
        (3, [(0.0, 4.0); 3], vec![0, 0, 0, 1]),
    ] {
        let rows = times.map(|(from, until)| row(from, until));
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        check(
            |s, _| slots(s, count).gate = Gate::Skip,
            &asked,
            &rows,
            &[],
            |s| assert_eq!((s.adapters.loads, &s.adapters.steps_by_adapters), (3, &steps)),
        );
    }
}

#[test]
fn a_step_loads_what_its_batch_needs() {
    // Half a millisecond for rank 8. What is there is not loaded again.
    check(
        |s, _| {
            slots(s, 2).adapters.insert("1".to_string(), Adapter { rank: 8 });
        },
        &[with(0, ask(0.0, 3, 1)), with(1, ask(0.0, 3, 1)), with(0, ask(5.0, 3, 1))],
        &["finished q0 s0 f2.5 d2.5 o1", "finished q0 s0 f2.5 d2.5 o1", "finished q5 s5 f6 d6 o1"],
        &["0+2.5 d0 p6/2 c0 r2 w0 x0 b2", "5+1 d0 p3/1 c0 r1 w0 x0 b1"],
        |s| {
            sums(s, (2, 0, 0.0, &[0, 1, 1]));
            assert_eq!(s.adapters.load_time.0, 1_500_000);
        },
    );
}

#[test]
fn the_next_load_begins_with_a_step() {
    // The first is there at 1 ms. Of the second, which is not the head then, the load begins with the step after that.
    let asked = [with(0, ask(0.0, 3, 3)), with(1, ask(0.0, 3, 1))];
    check(
        |s, _| {
            background(s, 2, Gate::HeadOfLine);
        },
        &asked,
        &["finished q0 s1 f2 d4 o3", "finished q0 s3 f4 d4 o1"],
        &["1+1 d0 p3/1 c0 r1 w1 x0 b1", "2+1 d1 p0/0 c3 r1 w1 x0 b1", "3+1 d1 p3/1 c4 r2 w0 x0 b3"],
        |s| sums(s, (2, 0, 4.0, &[0, 2, 1])),
    );
    // Where not only the head is looked at, it begins as soon as nothing else is loaded.
    check(
        |s, _| {
            background(s, 2, Gate::Skip);
        },
        &asked,
        &["finished q0 s1 f2 d4 o3", "finished q0 s2 f3 d3 o1"],
        &["1+1 d0 p3/1 c0 r1 w1 x0 b1", "2+1 d1 p3/1 c3 r2 w0 x0 b2", "3+1 d1 p0/0 c4 r1 w0 x0 b2"],
        |s| sums(s, (2, 0, 3.0, &[0, 2, 1])),
    );
}

#[test]
fn loads_go_on_while_steps_run() {
    // From 1 ms, when a step is formed, for 1.7 ms; then the next step has it.
    check(
        |s, _| background(s, 1, Gate::Skip).load_base_us = 700.0,
        &[ask(0.0, 3, 5), with(0, ask(0.5, 3, 1))],
        &["finished q0 s0 f1 d5 o5", "finished q0.5 s3 f4 d4 o1"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d1 p0/0 c3 r1 w1 x0 b1",
            "2+1 d1 p0/0 c4 r1 w1 x0 b2",
            "3+1 d1 p3/1 c5 r2 w0 x0 b3",
            "4+1 d1 p0/0 c6 r1 w0 x0 b2",
        ],
        |s| sums(s, (1, 0, 2.2, &[4, 1])),
    );
    // Whole ticks.
    check(
        |s, _| {
            background(s, 1, Gate::Skip).load_base_us = 0.5;
            s.deployment.tick = Some("1ms".parse().unwrap());
        },
        &[with(0, ask(0.0, 3, 1))],
        &["finished q0 s2 f3 d3 o1"],
        &["2+1 d0 p3/1 c0 r1 w0 x0 b1"],
        |s| assert_eq!(s.adapters.load_time.0, 1_000_500),
    );
}

#[test]
fn a_load_counts_whoever_still_needs_it() {
    // The client is gone at 0.5 ms. The other's load begins when that one is over, in its place.
    check(
        |s, _| {
            background(s, 1, Gate::HeadOfLine);
        },
        &[with(0, Ask { cancel: Some(0.5), ..ask(0.0, 3, 1) }), with(1, ask(0.6, 3, 1))],
        &["cancelled q0 s- f- d- o0", "finished q0.6 s2 f3 d3 o1"],
        &["2+1 d0 p3/1 c0 r1 w0 x0 b1"],
        |s| sums(s, (2, 1, 1.9, &[0, 1])),
    );
}

#[test]
fn the_one_longest_idle_goes() {
    // The third use of the first makes the second the oldest; then it is the third's turn.
    let asked = [(0, 0.0), (1, 5.0), (0, 10.0), (2, 15.0), (0, 20.0), (1, 25.0)];
    check(
        |s, _| {
            slots(s, 2);
        },
        &asked.map(|(adapter, at)| with(adapter, ask(at, 3, 1))),
        &[
            "finished q0 s0 f2 d2 o1",
            "finished q5 s5 f7 d7 o1",
            "finished q10 s10 f11 d11 o1",
            "finished q15 s15 f17 d17 o1",
            "finished q20 s20 f21 d21 o1",
            "finished q25 s25 f27 d27 o1",
        ],
        &[],
        |s| sums(s, (4, 2, 0.0, &[0, 6])),
    );
}

#[test]
fn what_the_first_in_the_queue_needs_stays() {
    // The first has its adapter at 1 ms, but no blocks until 6 ms; the third, which could go before it, gets no slot.
    check(
        |s, _| {
            blocks(s, 3);
            background(s, 1, Gate::Skip);
        },
        &[with(0, ask(0.0, 9, 1)), ask(0.0, 3, 6), with(1, ask(1.5, 3, 1))],
        &["finished q0 s6 f7 d7 o1", "finished q0 s0 f1 d6 o6", "finished q1.5 s8 f9 d9 o1"],
        &["0+1 d0 p3/1 c0 r1 w1 x0 b1", "1+1 d1 p0/0 c3 r1 w1 x0 b1", "2+1 d1 p0/0 c4 r1 w2 x0 b2"],
        |s| sums(s, (2, 1, 7.5, &[6, 2])),
    );
}

#[test]
fn the_host_forgets_what_it_has_no_room_for() {
    // Two milliseconds from disk, one from the host, one for the step.
    let row = |(at, took): (u32, u32)| format!("finished q{at} s{at} f{0} d{0} o1", at + took);
    let run = |held: Option<u32>, asked: &[(u32, u32, u32)], reads: u64| {
        let asks: Vec<Ask> = asked.iter().map(|(adapter, at, _)| with(*adapter, ask(f64::from(*at), 3, 1))).collect();
        let rows: Vec<String> = asked.iter().map(|(_, at, took)| row((*at, *took))).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        check(
            |s, _| {
                let lora = slots(s, 1);
                (lora.max_cpu_loras, lora.disk_gb_per_s) = (held, Some(0.5));
            },
            &asks,
            &rows,
            &[],
            |s| {
                let loads = asked.len() as u64;
                assert_eq!((s.adapters.loads, s.adapters.reads, s.adapters.evictions), (loads, reads, loads - 1));
                assert_eq!(s.adapters.load_time.0 as u64, (loads + 2 * reads) * 1_000_000);
            },
        );
    };
    // Room for one beside that on the GPU: the third adapter costs the second its place.
    run(Some(2), &[(0, 0, 4), (1, 10, 4), (0, 20, 2), (2, 30, 4), (1, 40, 4), (2, 50, 2)], 4);
    // By default for none.
    run(None, &[(0, 0, 4), (1, 10, 4), (0, 20, 4)], 3);
}

#[test]
fn steps_take_longer_with_more_and_larger_adapters() {
    // Alone at rank 8: 1 ms (1 + 1/8) + 0.1 + 0.01. With one of rank 12, in the middle of the two: 1 ms (1 + 2/4) + 0.1 +
    // 0.02. Loads of half and three quarters of a millisecond come on top.
    check(
        |s, _| {
            let lora = slots(s, 3);
            (lora.step_us, lora.per_adapter_us) = (100.0, 10.0);
            lora.adapters = [(0, 8), (1, 12)].map(|(name, rank)| (name.to_string(), Adapter { rank })).into();
            lora.factors = [(8, 0.125), (16, 0.375)].map(|(rank, factor)| RankFactor { rank, factor }).into();
        },
        &[with(0, ask(0.0, 3, 4)), with(1, ask(2.0, 3, 2))],
        &["finished q0 s0 f1.735 d6.96 o4 i5.225/2.355/2.37", "finished q2 s2.97 f5.34 d6.96 o2 i1.62/1.62/1.62"],
        &[
            "0+1.735 d0 p3/1 c0 r1 w0 x0 b1",
            "1.735+1.235 d1 p0/0 c3 r1 w0 x0 b1",
            "2.97+2.37 d1 p3/1 c4 r2 w0 x0 b3",
            "5.34+1.62 d2 p0/0 c8 r2 w0 x0 b3",
        ],
        |s| sums(s, (2, 0, 0.97, &[0, 2, 2])),
    );
    // What the model says is cut to whole ticks before it is multiplied, and the step again.
    check(
        |s, _| {
            linear(s).base_us = 1_999.0;
            let lora = slots(s, 1);
            lora.factors = vec![RankFactor { rank: 8, factor: 0.75 }];
            (lora.bytes_per_rank, lora.load_gb_per_s) = (Some(1.0), Some(1e3));
            s.deployment.tick = Some("1ms".parse().unwrap());
        },
        &[with(0, ask(0.0, 3, 1))],
        &["finished q0 s0 f1 d1 o1"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b1"],
        whatever,
    );
}

#[test]
fn a_prefix_is_found_under_its_own_adapter_only() {
    let asked = [Some(0), Some(1), Some(0), None, None];
    let asked: Vec<Ask> =
        (0..).zip(asked).map(|(i, adapter)| Ask { adapter, blocks: &[1, 2], ..ask(f64::from(10 * i), 9, 1) }).collect();
    check(
        |s, _| {
            slots(s, 2);
        },
        &asked,
        &[
            "finished q0 s0 f2 d2 o1",
            "finished q10 s10 f12 d12 o1",
            "finished q20 s20 f21 d21 o1 c8",
            "finished q30 s30 f31 d31 o1",
            "finished q40 s40 f41 d41 o1 c8",
        ],
        &[],
        |s| assert_eq!((s.prefix_blocks_queried, s.prefix_blocks_hit), (10, 4)),
    );
}

#[test]
fn version_0_heeds_them_too() {
    // A step of prompts alone has their adapters only; the reply that waits keeps its own in use.
    let asked = [with(0, ask(0.0, 3, 3)), with(1, ask(0.5, 3, 1)), with(0, ask(2.5, 3, 1))];
    check_scheduler(
        &Scheduler::VllmV0(VllmV0::default()),
        |s| slots(s, 1).gate = Gate::Skip,
        &asked,
        &["finished q0 s0 f2 d5 o3 i3/1.99/2", "finished q0.5 s5 f7 d7 o1", "finished q2.5 s3 f4 d4 o1"],
        &[],
        |s| sums(s, (2, 1, 4.5, &[0, 5])),
    );
}

/// Like [`check`], by TensorRT-LLM's rules, with so many slots.
#[track_caller]
fn by_trtllm(rules: Trtllm, count: u32, asked: &[Ask], rows: &[&str], steps: &[&str], expect: (u64, u64, f64, &[u64])) {
    let edit = |s: &mut Scenario| {
        slots(s, count).gate = Gate::Skip;
        // Else each may need all blocks.
        s.workload.exact_max_tokens = true;
    };
    check_scheduler(&Scheduler::Trtllm(rules), edit, asked, rows, steps, |s| sums(s, expect));
}

#[test]
fn trtllm_passes_over_who_has_no_slot() {
    by_trtllm(Trtllm::default(), 1, &two_adapters(), &PASSED_ROWS, &PASSED_STEPS, (2, 1, 4.0, &[0, 4]));
}

#[test]
fn with_max_utilization_all_wait_behind_who_has_no_slot() {
    // At 4 ms the second has the slot, and the third none: the fourth, which needs none, waits behind it.
    by_trtllm(
        Trtllm { capacity_scheduler_policy: CapacitySchedulerPolicy::MaxUtilization, ..Trtllm::default() },
        1,
        &two_adapters(),
        &WAITED_ROWS,
        &WAITED_STEPS,
        (3, 2, 6.0, &[0, 5]),
    );
}

#[test]
fn slots_are_claimed_without_tokens() {
    // Of four tokens the first leaves one: no block for the second, whose slot is claimed all the same. The third, for which
    // the token would do, has none.
    let asked = [with(0, ask(0.0, 3, 1)), with(1, ask(0.0, 3, 1)), with(2, ask(0.0, 1, 1))];
    by_trtllm(
        Trtllm { max_num_tokens: 4, enable_chunked_context: true, ..Trtllm::default() },
        2,
        &asked,
        &["finished q0 s0 f2 d2 o1", "finished q0 s2 f5 d5 o1", "finished q0 s2 f5 d5 o1"],
        &["0+2 d0 p3/1 c0 r1 w2 x0 b1", "2+3 d0 p4/2 c0 r2 w0 x0 b2"],
        (3, 1, 4.0, &[0, 1, 1]),
    );
    // With a slot more it goes first.
    by_trtllm(
        Trtllm { max_num_tokens: 4, enable_chunked_context: true, ..Trtllm::default() },
        3,
        &asked,
        &["finished q0 s0 f3 d3 o1", "finished q0 s3 f5 d5 o1", "finished q0 s0 f3 d3 o1"],
        &["0+3 d0 p4/2 c0 r2 w1 x0 b2", "3+2 d0 p3/1 c0 r1 w0 x0 b1"],
        (3, 0, 3.0, &[0, 1, 1]),
    );
}
