//! Timelines of asynchronous scheduling.

use super::*;

fn asynchronous(_: &mut Scenario, r: &mut VllmV1) {
    r.async_scheduling = true;
}

#[test]
fn an_asynchronous_step_is_formed_when_the_one_before_it_starts() {
    // The step from 3 to 4 ms computes a token that is nobody's.
    let steps = [
        "0+1 d0 p3/1 c0 r1 w0 x0 b1",
        "1+1 d1 p0/0 c3 r1 w0 x0 b1",
        "2+1 d1 p0/0 c4 r1 w0 x0 b2",
        "3+1 d1 p0/0 c5 r1 w0 x0 b2",
    ];
    check(asynchronous, &[ask(0.0, 3, 3)], &["finished q0 s0 f1 d3 o3"], &steps, |s| {
        assert_eq!((s.steps, s.busy.0, s.end.0), (4, 4_000_000, 3_000_000));
        assert_eq!((s.work.decode_requests, s.itl[0].1, s.itl.len()), (3, 2, 1));
        // The second block is in use from 1 ms, when the step is formed that needs it.
        assert_eq!((s.kv_block_ns, s.running_ns), (5_000_000, 3_000_000));
    });
    // A cap is known beforehand.
    let capped = Ask { max_tokens: Some(3), ..ask(0.0, 3, 5) };
    check(asynchronous, &[capped], &["length_capped q0 s0 f1 d3 o3"], &steps[..3], |s| assert_eq!(s.steps, 3));
}

#[test]
fn an_arrival_waits_one_step_longer_for_asynchronous_steps() {
    for (at, scheduled) in [(0.5, 1), (1.0, 1), (1.5, 2)] {
        let second = format!("finished q{at} s{scheduled} f{} d{} o1", scheduled + 2, scheduled + 2);
        check(asynchronous, &[ask(0.0, 3, 9), ask(at, 3, 1)], &["finished q0 s0 f1 d9 o9", &second], &[], whatever);
    }
    // While a step runs that is nobody's, no other is formed: the next one starts when that ends.
    check(
        asynchronous,
        &[ask(0.0, 3, 1), ask(1.5, 3, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q1.5 s2 f3 d3 o1"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b1", "1+1 d1 p0/0 c3 r1 w0 x0 b1", "2+1 d0 p3/1 c0 r1 w0 x0 b1"],
        |s| assert_eq!((s.steps, s.waiting_ns), (4, 500_000)),
    );
}

#[test]
fn an_asynchronous_seat_is_free_when_the_last_token_is_out() {
    let one_seat = |s: &mut Scenario, r: &mut VllmV1| {
        asynchronous(s, r);
        r.max_num_seqs = 1;
    };
    // At its own length the step from 2 to 3 ms is its, too; at a cap nothing is formed at 1 ms.
    check(
        one_seat,
        &[ask(0.0, 3, 2), ask(0.0, 3, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s2 f4 d4 o1"],
        &[],
        whatever,
    );
    check(
        one_seat,
        &[Ask { max_tokens: Some(2), ..ask(0.0, 3, 5) }, ask(0.0, 3, 1)],
        &["length_capped q0 s0 f1 d2 o2", "finished q0 s2 f3 d3 o1"],
        &[],
        whatever,
    );
}

#[test]
fn a_request_keeps_the_token_of_the_step_that_ran_when_it_was_preempted() {
    let two = |s: &mut Scenario, r: &mut VllmV1| {
        asynchronous(s, r);
        blocks(s, 2);
    };
    // Preempted at 1 ms, when the step from 2 ms is formed; admitted at 5 ms for the step from 6 ms.
    check(
        two,
        &[ask(0.0, 3, 5), ask(0.0, 3, 5)],
        &["finished q0 s0 f1 d5 o5", "finished q0 s0 f1 d9 o5 p1 l6 a4 i8/4.88/5"],
        &[
            "0+1 d0 p6/2 c0 r2 w0 x0 b2",
            "1+1 d2 p0/0 c6 r2 w0 x0 b2",
            "2+1 d1 p0/0 c4 r1 w1 x1 b2",
            "3+1 d1 p0/0 c5 r1 w1 x0 b2",
            "4+1 d1 p0/0 c6 r1 w1 x0 b2",
            "5+1 d1 p0/0 c7 r1 w1 x0 b2",
            "6+1 d0 p5/1 c0 r1 w0 x0 b2",
        ],
        |s| assert_eq!(s.steps, 10),
    );
    // If that token is its last, it is served out of the queue.
    check(
        two,
        &[ask(0.0, 3, 5), ask(0.0, 3, 2)],
        &["finished q0 s0 f1 d5 o5", "finished q0 s0 f1 d2 o2 p1 l1"],
        &[],
        |s| assert_eq!((s.preemptions, s.recomputed_tokens, s.waiting_ns), (1, 0, 1_000_000)),
    );
}

#[test]
fn a_loss_goes_on_when_the_step_that_would_end_it_runs_for_a_request_preempted_again() {
    // Six blocks. The third request is preempted at 5 ms, when the first needs its third block. It is admitted at 8 ms,
    // when the second is done, for the step from 9 ms; at 9 ms it finds no third block for its next token.
    check(
        |s, r| {
            asynchronous(s, r);
            blocks(s, 6);
        },
        &[ask(0.0, 3, 11), ask(0.0, 1, 8), ask(0.0, 2, 9)],
        &["finished q0 s0 f1 d11 o11", "finished q0 s0 f1 d8 o8", "finished q0 s0 f1 d14 o9 p2 l8 a15 i13/3.93/4"],
        &[],
        whatever,
    );
}

#[test]
fn asynchronous_clients_are_noticed_after_the_first_of_two_steps() {
    check(asynchronous, &[Ask { timeout: Some(1.5), ..ask(0.0, 3, 9) }], &["timed_out q0 s0 f1 d- o2"], &[], |s| {
        assert_eq!((s.steps, s.end.0, s.running_ns, s.itl[0].1), (3, 2_000_000, 2_000_000, 1))
    });
}

#[test]
fn an_asynchronous_horizon_leaves_out_what_is_formed_but_not_run() {
    check(
        |s, r| {
            asynchronous(s, r);
            s.workload.horizon_s = Some(2e-3);
        },
        &[ask(0.0, 3, 9), ask(0.5, 3, 1)],
        &["in_flight q0 s0 f1 d- o2", "in_flight q0.5 s1 f- d- o0"],
        &[],
        |s| assert_eq!((s.steps, s.busy.0, s.running_ns), (2, 2_000_000, 3_000_000)),
    );
}
