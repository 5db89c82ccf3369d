//! Groups of sequences, which share the blocks of their prompt. A block takes a millisecond between GPU and host.

use super::vllm_v0::{BLOCK, check_vllm};
use super::*;
use crate::sim::scheduler::{PreemptionMode, VllmV0};

fn several(at: f64, input: u32, output: u32, n: u32) -> Ask {
    Ask { n: Some(n), ..ask(at, input, output) }
}

/// Without a watermark.
fn rules() -> VllmV0 {
    VllmV0 { watermark: 0.0, swap_gb_per_s: BLOCK / 1e6, ..VllmV0::default() }
}

#[test]
fn sequences_share_the_blocks_of_their_prompt() {
    // The first block stays shared; of the second, one is a copy. At 3 ms both have eight tokens, and take a block.
    check_vllm(
        rules(),
        1_000,
        &[several(0.0, 6, 4, 2)],
        &["finished q0 s0 f1 d4 o8 i6/1/1"],
        &[
            "0+1 d0 p6/1 c0 r1 w0 x0 b2",
            "1+1 d2 p0/0 c12 r1 w0 x0 b3",
            "2+1 d2 p0/0 c14 r1 w0 x0 b3",
            "3+1 d2 p0/0 c16 r1 w0 x0 b5",
        ],
    );
}

#[test]
fn a_prompt_that_ends_with_a_block_is_not_copied() {
    check_vllm(
        rules(),
        1_000,
        &[several(0.0, 8, 2, 3)],
        &["finished q0 s0 f1 d2 o6 i3/1/1"],
        &["0+1 d0 p8/1 c0 r1 w0 x0 b2", "1+1 d3 p0/0 c24 r1 w0 x0 b5"],
    );
}

#[test]
fn every_sequence_takes_a_seat() {
    // Two and one are three; at 1 ms one seat is free, and the third request wants two.
    check_vllm(
        VllmV0 { max_num_seqs: 3, ..rules() },
        1_000,
        &[several(0.0, 3, 2, 2), ask(0.0, 3, 1), several(0.0, 3, 1, 2)],
        &["finished q0 s0 f1 d2 o4 i2/1/1", "finished q0 s0 f1 d1 o1", "finished q0 s2 f3 d3 o2"],
        &["0+1 d0 p6/2 c0 r2 w1 x0 b2", "1+1 d2 p0/0 c6 r1 w1 x0 b2", "2+1 d0 p3/1 c0 r1 w0 x0 b1"],
    );
}

#[test]
fn a_group_goes_on_only_if_a_block_is_free_for_each() {
    // Three blocks of four, one of them shared: six and seven tokens have room in them, but one is free, not two. Each time
    // three are copied, and three back.
    let steps = [
        "0+1 d0 p5/1 c0 r1 w0 x0 b2",
        "1+1 d2 p0/0 c10 r1 w0 x0 b3",
        "2+3 d0 p0/0 c0 r0 w1 x1 b0",
        "5+4 d2 p0/0 c12 r1 w0 x0 b3",
        "9+3 d0 p0/0 c0 r0 w1 x1 b0",
        "12+4 d2 p0/0 c14 r1 w0 x0 b3",
    ];
    let rows = ["finished q0 s0 f1 d16 o8 p2 l14 i30/7/7"];
    let swaps = VllmV0 { preemption_mode: PreemptionMode::Swap, ..rules() };
    check_vllm(swaps, 4, &[several(0.0, 5, 4, 2)], &rows, &steps);
    // With another block it goes on.
    check_vllm(rules(), 5, &[several(0.0, 5, 4, 2)], &["finished q0 s0 f1 d4 o8 i6/1/1"], &[]);
}

#[test]
fn a_group_is_swapped_where_others_are_computed_again() {
    // At 2 ms one block is left, and the group wants two. At 5 ms three are free; with its two full ones it needs four.
    check_vllm(
        rules(),
        5,
        &[ask(0.0, 3, 4), several(0.0, 3, 3, 2)],
        &["finished q0 s0 f1 d6 o4 i5/2.96/3", "finished q0 s0 f1 d9 o6 p1 l7 i16/7/7"],
        &[
            "0+1 d0 p6/2 c0 r2 w0 x0 b2",
            "1+1 d3 p0/0 c9 r2 w0 x0 b3",
            "2+3 d1 p0/0 c4 r1 w1 x1 b2",
            "5+1 d1 p0/0 c5 r1 w1 x0 b2",
            "6+3 d2 p0/0 c8 r1 w0 x0 b4",
        ],
    );
}

#[test]
fn the_host_takes_what_is_shared_once() {
    // Of the group before: a full block, and one for each of two sequences. With room for two, vLLM ends.
    for (host_blocks, fails) in [(2.0, true), (3.0, false)] {
        let swap_space_gib = host_blocks * BLOCK / (1 << 30) as f64;
        let mut s = scenario(|s, _| blocks(s, 4));
        s.deployment.scheduler = Scheduler::VllmV0(VllmV0 { swap_space_gib, ..rules() });
        let asked = requests(&[several(0.0, 5, 4, 2)]);
        for (name, engine) in ENGINES {
            let said = engine(&s, &asked, &mut Rows::default(), &AtomicBool::new(false), Quirks::default());
            match said {
                Ok(summary) => assert!(!fails && summary.preemptions == 2, "{name}: {summary:?}"),
                Err(error) => {
                    let told = error.to_string();
                    assert!(
                        fails && told.starts_with("deployment.scheduler.vllm_v0.swap_space_gib: "),
                        "{name}: {told}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_group_ends_where_it_could_not_come_back() {
    // Four tokens each are two full blocks, beyond which two must be free.
    check_vllm(rules(), 3, &[several(0.0, 3, 9, 2)], &["length_capped q0 s0 f1 d2 o4 i2/1/1"], &[]);
    check_vllm(rules(), 4, &[several(0.0, 3, 9, 2)], &["length_capped q0 s0 f1 d30 o12 p3 l27 i58/9/9"], &[]);
    // No second token has room.
    check_vllm(rules(), 1, &[several(0.0, 3, 9, 2)], &["length_capped q0 s0 f1 d1 o2"], &[]);
}

#[test]
fn a_client_takes_the_group_along() {
    let gone = Ask { timeout: Some(2.5), ..several(0.0, 3, 9, 2) };
    check_vllm(
        rules(),
        1_000,
        &[gone, ask(3.0, 3, 1)],
        &["timed_out q0 s0 f1 d- o6 i4/1/1", "finished q3 s3 f4 d4 o1"],
        &[],
    );
    // Before the first of its blocks was copied.
    let gone = Ask { timeout: Some(0.5), ..several(0.0, 3, 9, 2) };
    check_vllm(rules(), 1_000, &[gone], &["timed_out q0 s0 f1 d- o2"], &[]);
    let scheduler = Scheduler::VllmV0(rules());
    let cut = |s: &mut Scenario| s.workload.horizon_s = Some(0.003);
    let rows = ["in_flight q0 s0 f1 d- o6 i4/1/1"];
    check_scheduler(&scheduler, cut, &[several(0.0, 3, 9, 2)], &rows, &[], |s| assert_eq!(s.in_flight, 1));
}

#[test]
fn what_groups_do_not_go_with_is_refused() {
    let found = |edit: &dyn Fn(&mut Scenario, &mut VllmV0)| -> Vec<String> {
        let mut s = scenario(|_, _| ());
        s.workload.n = Some(3);
        let mut rules = VllmV0::default();
        edit(&mut s, &mut rules);
        s.deployment.scheduler = Scheduler::VllmV0(rules);
        let problems = crate::sim::check(&s).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.to_string()).filter(|told| told.starts_with("workload")).collect()
    };
    assert_eq!(found(&|_, _| ()), [""; 0]);
    let why = "workload.n: is above 1: 3 sequences can never run together, max_num_seqs is 2";
    assert_eq!(found(&|_, rules| rules.max_num_seqs = 2), [why]);
    let why = "workload.n: is above 1: groups of sequences are not simulated with pipeline stages";
    assert_eq!(found(&|s, _| s.deployment.pp = 2), [why]);
    let why = "workload.n: is above 1: groups of sequences are not simulated with adapters";
    let lora = || serde_json::from_str(r#"{"max_loras": 1}"#).ok();
    assert_eq!(found(&|s, _| s.deployment.lora = lora()), [why]);
}
