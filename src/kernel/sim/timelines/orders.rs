//! Timelines of the orders of the queue by slack and by tenants.

use super::*;

fn of(tenant: u32, at: f64, input: u32, output: u32) -> Ask {
    Ask { tenant: Some(tenant), ..ask(at, input, output) }
}

/// One request at a time.
fn one_by_one(order: QueueOrder) -> impl Fn(&mut Scenario, &mut VllmV1) {
    move |_, r| (r.max_num_seqs, r.scheduling_policy) = (1, order)
}

#[test]
fn the_least_slack_goes_first() {
    // A step takes 1 ms and 1 ms for every token of a prompt. The second must start by 20.5 ms to be done at 30.5 ms, the
    // third, due earlier, by 22.5 ms.
    let slow = |order| {
        move |s: &mut Scenario, r: &mut VllmV1| {
            linear(s).per_prefill_token_us = 1_000.0;
            one_by_one(order)(s, r);
        }
    };
    let due = |deadline, input| Ask { deadline: Some(deadline), ..ask(0.5, input, 1) };
    let asked = [ask(0.0, 3, 1), due(30.0, 9), due(25.0, 2), ask(0.4, 1, 1)];
    check(
        slow(QueueOrder::LeastSlack),
        &asked,
        &[
            "finished q0 s0 f4 d4 o1",
            "finished q0.5 s4 f14 d14 o1",
            "finished q0.5 s14 f17 d17 o1",
            "finished q0.4 s17 f19 d19 o1",
        ],
        &[],
        whatever,
    );
    check(
        slow(QueueOrder::Edf),
        &asked,
        &[
            "finished q0 s0 f4 d4 o1",
            "finished q0.5 s7 f17 d17 o1",
            "finished q0.5 s4 f7 d7 o1",
            "finished q0.4 s17 f19 d19 o1",
        ],
        &[],
        whatever,
    );
}

#[test]
fn the_tenant_that_was_served_least_goes_first() {
    // When its first request is done, the first tenant was charged 4 for the prompt and 6 for three tokens.
    let asked = [of(1, 0.0, 4, 3), of(1, 0.0, 4, 1), of(2, 0.0, 6, 1)];
    let rows = ["finished q0 s0 f1 d3 o3", "finished q0 s4 f5 d5 o1", "finished q0 s3 f4 d4 o1"];
    check(one_by_one(QueueOrder::Fair), &asked, &rows, &[], whatever);
    // With a prompt of 10 and one token, 12 of the second tenant come before 13 of the first, not before 11.
    let asked = |input| [of(1, 0.0, input, 1), of(2, 0.0, 10, 1), of(1, 0.0, 4, 1), of(2, 0.0, 4, 1)];
    let first = ["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"];
    let then = ["finished q0 s2 f3 d3 o1", "finished q0 s3 f4 d4 o1"];
    check(one_by_one(QueueOrder::Fair), &asked(9), &[first[0], first[1], then[0], then[1]], &[], whatever);
    check(one_by_one(QueueOrder::Fair), &asked(11), &[first[0], first[1], then[1], then[0]], &[], whatever);
    // Requests that do not say whom they are for are one tenant.
    let nobody = [ask(0.0, 4, 1), ask(0.0, 3, 1), of(1, 0.0, 3, 1)];
    let rows = ["finished q0 s0 f1 d1 o1", "finished q0 s2 f3 d3 o1", "finished q0 s1 f2 d2 o1"];
    check(one_by_one(QueueOrder::Fair), &nobody, &rows, &[], whatever);
}

#[test]
fn what_is_preempted_is_charged_once_and_the_last_of_the_running_goes() {
    // As with first come, first served: the second goes at 2 ms. Both tenants were charged 7 then; at 5 ms the first was
    // charged 13, the second still 7: it comes back before the third request, which the first tenant sent.
    let edit = |s: &mut Scenario, r: &mut VllmV1| {
        blocks(s, 2);
        r.scheduling_policy = QueueOrder::Fair;
    };
    check(
        edit,
        &[of(1, 0.0, 3, 5), of(2, 0.0, 3, 5), of(1, 1.5, 2, 1)],
        &["finished q0 s0 f1 d5 o5", "finished q0 s0 f1 d8 o5 p1 l4 a4 i7/3.91/4", "finished q1.5 s8 f9 d9 o1"],
        &[],
        whatever,
    );
}

#[test]
fn who_comes_back_has_saved_nothing_up() {
    // Every request costs 6. At 1.5 ms the first tenant stands at 12, and the second starts from there: they take turns.
    let asked = [
        of(1, 0.0, 4, 1),
        of(1, 0.0, 4, 1),
        of(1, 0.0, 4, 1),
        of(1, 0.0, 4, 1),
        of(2, 1.5, 4, 1),
        of(2, 1.5, 4, 1),
        of(2, 1.5, 4, 1),
    ];
    let rows = [
        "finished q0 s0 f1 d1 o1",
        "finished q0 s1 f2 d2 o1",
        "finished q0 s2 f3 d3 o1",
        "finished q0 s4 f5 d5 o1",
        "finished q1.5 s3 f4 d4 o1",
        "finished q1.5 s5 f6 d6 o1",
        "finished q1.5 s6 f7 d7 o1",
    ];
    check(one_by_one(QueueOrder::Fair), &asked, &rows, &[], whatever);
    // Nobody waits at 2.5 ms: the first tenant, whose request left the queue last, stands at 4 + 3 * 2 = 10, at 5 ms at
    // 14; the second starts from 10, and stands at 16 when its first request is under way.
    let asked = [of(1, 0.0, 4, 5), of(2, 2.5, 4, 1), of(1, 2.6, 4, 1), of(2, 2.7, 4, 1)];
    let rows = [
        "finished q0 s0 f1 d5 o5",
        "finished q2.5 s5 f6 d6 o1",
        "finished q2.6 s6 f7 d7 o1",
        "finished q2.7 s7 f8 d8 o1",
    ];
    check(one_by_one(QueueOrder::Fair), &asked, &rows, &[], whatever);
}

#[test]
fn the_head_changes_while_nobody_is_admitted() {
    // From 1 ms on the second request of the first tenant is in front, needs seven blocks of eight, and six are free. At
    // 4 ms the first tenant stands at 4 + 4 * 2 = 12, the second at 9 + 2 = 11, and its request needs one block.
    let eight = |s: &mut Scenario, r: &mut VllmV1| {
        blocks(s, 8);
        r.scheduling_policy = QueueOrder::Fair;
    };
    check(
        eight,
        &[of(1, 0.0, 4, 12), of(2, 0.0, 9, 1), of(1, 0.0, 25, 7), of(2, 0.0, 4, 10)],
        &[
            "finished q0 s0 f1 d12 o12",
            "finished q0 s0 f1 d1 o1",
            "finished q0 s14 f15 d21 o7",
            "finished q0 s4 f5 d14 o10",
        ],
        &[],
        whatever,
    );
}
