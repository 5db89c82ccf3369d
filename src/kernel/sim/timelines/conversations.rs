//! Timelines of requests that wait for others: turns, users, tools.

use super::*;
use crate::scenario::{ConstantTime, Sessions, ThinkTime};

fn turn(session: u32, asked: Ask) -> Ask {
    Ask { session: Some(session), ..asked }
}

fn closed(s: &mut Scenario) {
    s.workload.sessions = Sessions::Closed;
}

#[test]
fn a_turn_comes_a_think_time_after_the_one_before() {
    let asked =
        [turn(0, ask(0.0, 3, 2)), turn(0, ask(4.0, 3, 2)), turn(0, Ask { think: Some(0.5), ..ask(10.0, 3, 2) })];
    let open = ["finished q0 s0 f1 d2 o2", "finished q4 s4 f5 d6 o2", "finished q10 s10 f11 d12 o2"];
    check(|_, _| (), &asked, &open, &[], whatever);
    // As far apart as in the trace, unless it says how long its user thinks.
    let own = ["finished q0 s0 f1 d2 o2", "finished q6 s6 f7 d8 o2", "finished q8.5 s8.5 f9.5 d10.5 o2"];
    check(|s, _| closed(s), &asked, &own, &[], |s| assert_eq!((s.injected, s.never_sent), (3, 0)));
    // That goes before what holds for all.
    let drawn = ["finished q0 s0 f1 d2 o2", "finished q3 s3 f4 d5 o2", "finished q5.5 s5.5 f6.5 d7.5 o2"];
    check(
        |s, _| {
            closed(s);
            s.workload.think_time = Some(ThinkTime::Constant(ConstantTime { s: 1e-3 }));
        },
        &asked,
        &drawn,
        &[],
        whatever,
    );
}

#[test]
fn without_a_think_time_a_turn_comes_when_the_step_ends_that_completes_the_one_before() {
    check(
        |s, _| {
            closed(s);
            s.workload.think_time = Some(ThinkTime::Constant(ConstantTime { s: 0.0 }));
        },
        &[turn(0, ask(0.0, 3, 1)), turn(0, ask(9.0, 3, 1)), ask(0.0, 3, 3)],
        &["finished q0 s0 f1 d1 o1", "finished q1 s1 f2 d2 o1", "finished q0 s0 f1 d3 o3"],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b2", "1+1 d1 p3/1 c3 r2 w0 x0 b2"],
        |s| assert_eq!(s.steps, 3),
    );
}

#[test]
fn nothing_follows_a_turn_that_failed() {
    // Its client goes at 3.5 ms, which is noticed at 4: neither the next turn nor what waits for that is sent.
    check(
        |s, _| closed(s),
        &[
            turn(0, ask(0.0, 3, 1)),
            turn(0, Ask { timeout: Some(1.5), ..ask(1.0, 3, 9) }),
            turn(0, ask(2.0, 3, 1)),
            Ask { waits: &[2], ..ask(0.0, 3, 1) },
            turn(7, ask(2.0, 3, 1)),
        ],
        &[
            "finished q0 s0 f1 d1 o1",
            "timed_out q2 s2 f3 d- o2",
            "cancelled q- s- f- d- o0",
            "cancelled q- s- f- d- o0",
            "finished q2 s2 f3 d3 o1",
        ],
        &[],
        |s| {
            assert_eq!((s.injected, s.finished, s.timed_out), (5, 2, 1));
            assert_eq!((s.cancelled, s.never_sent), (2, 2));
        },
    );
    // A rejected turn ends its session, too.
    check(
        |s, _| {
            closed(s);
            s.deployment.max_model_len = Some(10);
        },
        &[turn(0, ask(0.0, 10, 1)), turn(0, ask(1.0, 3, 1))],
        &["rejected q- s- f- d- o0", "cancelled q- s- f- d- o0"],
        &[],
        |s| assert_eq!((s.rejected, s.cancelled, s.never_sent, s.steps), (1, 1, 1, 0)),
    );
}

#[test]
fn a_request_comes_a_while_after_the_last_that_it_waits_for() {
    // A tool runs for 2.5 ms from 4 ms on; without one the request comes at once.
    let asked = [
        ask(0.0, 3, 2),
        ask(0.0, 3, 4),
        Ask { waits: &[0, 1], think: Some(2.5), ..ask(0.0, 3, 1) },
        Ask { waits: &[0], ..ask(0.0, 3, 1) },
    ];
    check(
        |_, _| (),
        &asked,
        &[
            "finished q0 s0 f1 d2 o2",
            "finished q0 s0 f1 d4 o4",
            "finished q6.5 s6.5 f7.5 d7.5 o1",
            "finished q2 s2 f3 d3 o1",
        ],
        &[],
        |s| assert_eq!(s.injected, 4),
    );
    // At the horizon it was not sent: it did not arrive.
    check(
        |s, _| s.workload.horizon_s = Some(6.5e-3),
        &asked[..3],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d4 o4"],
        &[],
        |s| assert_eq!((s.injected, s.in_flight), (2, 0)),
    );
}

#[test]
fn two_users_have_three_conversations() {
    // One has two turns, a millisecond apart as in the trace; the other begins the third when the second is done.
    check(
        |s, _| s.workload.concurrency = Some(2),
        &[turn(0, ask(7.0, 3, 2)), turn(0, ask(8.0, 3, 2)), ask(9.0, 3, 4), ask(9.0, 3, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q3 s3 f4 d5 o2", "finished q0 s0 f1 d4 o4", "finished q4 s4 f5 d5 o1"],
        &[],
        |s| assert_eq!((s.injected, s.running_max), (4, 2)),
    );
    // Alone, one after the other; what follows from a client that went at 1 ms does so a nanosecond later.
    check(
        |s, _| s.workload.concurrency = Some(1),
        &[Ask { timeout: Some(0.5), ..ask(0.0, 3, 9) }, ask(0.0, 3, 1)],
        &["timed_out q0 s0 f1 d- o1", "finished q1.000001 s1.000001 f2.000001 d2.000001 o1"],
        &[],
        whatever,
    );
}
