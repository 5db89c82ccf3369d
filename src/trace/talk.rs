//! Made-up conversations for the samples: sentences from a small grammar, so that they tokenize like real ones.

use super::sample::Draw;

/// What the assistant is told before a conversation; each begins many conversations.
const SYSTEM: [(&str, &str); 3] = [
    (
        "You are the support assistant of Harbour & Hill, a shop for garden tools, seeds and outdoor furniture.",
        "Answer in a friendly tone and keep to the facts of the order that the customer names. ",
    ),
    (
        "You are a programming tutor who helps beginners with small exercises in Python, SQL and shell scripts.",
        "Explain one step at a time, show a short example, and ask what the learner has tried already. ",
    ),
    (
        "You are an analyst in the planning office of a city of medium size, and you write notes for its council.",
        "Name the assumption behind every number, separate facts from opinions, and suggest what to look at next. ",
    ),
];

const RULES: [&str; 14] = [
    "Never promise a date that is not written in the order.",
    "If a question has several parts, answer them in the order in which they were asked.",
    "Use short paragraphs, and a list when there are more than three items.",
    "When something is unclear, ask one question before you go on.",
    "Do not repeat the question, and do not apologise more than once.",
    "Amounts are written with two decimals and the currency behind them.",
    "Say so plainly when you do not know the answer.",
    "Personal data such as addresses, telephone numbers and passwords must not be repeated.",
    "Prefer common words to technical terms, and explain a term where it cannot be avoided.",
    "Quote a rule by its number when a decision depends on it.",
    "Legal and medical questions are passed on to a person who is trained for them.",
    "Examples are complete: the reader can copy them and see the same result.",
    "If the reader seems annoyed, first say what will be done, and then why it happened.",
    "End with the next step, in one sentence.",
];

const THINGS: [&str; 24] = [
    "the delivery",
    "a wooden bench",
    "the invoice",
    "the tomato seeds",
    "a water pump",
    "the return label",
    "the greenhouse",
    "a list of numbers",
    "the second query",
    "the loop",
    "an empty file",
    "the join of both tables",
    "the error message",
    "a nested function",
    "the bus line",
    "the school on the hill",
    "the water price",
    "the parking plan",
    "a survey of residents",
    "the budget of next year",
    "the old bridge",
    "the heating network",
    "the opening hours",
    "a replacement part",
];

const STATES: [&str; 16] = [
    "arrived later than expected",
    "does not fit the description",
    "was charged twice",
    "returns the wrong result",
    "stops after the first line",
    "costs more than last year",
    "has been under repair since March",
    "is used by about two thousand people a day",
    "works on one machine but not on the other",
    "is missing from the overview",
    "was changed without notice",
    "takes far too long",
    "looks right at first sight",
    "depends on the weather",
    "needs a second look",
    "was approved in the last meeting",
];

const QUESTIONS: [&str; 12] = [
    "What should I do first?",
    "Can you explain why?",
    "Is there a simpler way?",
    "How long will that take?",
    "Which of the two would you choose?",
    "Could you give me an example?",
    "What have I overlooked?",
    "Who decides about that?",
    "How can I check it myself?",
    "Would it help to start again from the beginning?",
    "Does that also hold for the other case?",
    "Can I change it afterwards?",
];

const STEPS: [&str; 18] = [
    "look at the last entry and compare it with the first one",
    "write down what you expect before you run it again",
    "send us a photo that shows the label on the back",
    "divide the total by the number of days, not by the number of orders",
    "replace the condition by `count > 0` and keep the rest as it is",
    "ask the office for the figures of the last three years",
    "open the settings, choose the second tab and save without changes",
    "leave the valve closed for at least ten minutes",
    "sort the rows by date, so that equal values stand next to each other",
    "keep the packaging until the exchange is confirmed",
    "put the slow part into a function of its own and measure it",
    "take the lower estimate, because it rests on fewer assumptions",
    "print the value of `total` inside the loop",
    "water the plants in the morning, never at noon",
    "begin with the smallest case that still goes wrong",
    "name the source next to every figure",
    "remove one change at a time until it works",
    "wait for the answer of the supplier, which usually takes two days",
];

const OPENINGS: [&str; 10] = [
    "That is a good question.",
    "Thank you for the details.",
    "Let us take it step by step.",
    "In short: yes.",
    "There are two reasons for that.",
    "This happens more often than one would think.",
    "I have looked it up.",
    "The answer depends on one thing.",
    "Here is what I would do.",
    "You are nearly there.",
];

const LINKS: [&str; 8] = [
    "First",
    "After that",
    "Then",
    "If that does not help",
    "At the same time",
    "As a rule",
    "Finally",
    "In your case",
];

/// The rules that open a conversation of kind `kind` (0 to 2): a few hundred tokens, always the same.
pub fn system(kind: usize) -> String {
    let (role, manner) = SYSTEM[kind];
    let rules: Vec<String> =
        RULES.iter().cycle().skip(kind * 4).take(11).enumerate().map(|(i, r)| format!("{}. {r}", i + 1)).collect();
    format!("{role} {manner}\nRules:\n{}", rules.join("\n"))
}

/// What a user says.
pub fn question(draw: &mut Draw) -> String {
    let mut text = String::new();
    for _ in 0..1 + draw.below(3) {
        let (thing, state, number) = (draw.pick(&THINGS), draw.pick(&STATES), draw.below(90) + 10);
        text += &match draw.below(4) {
            0 => format!("I think that {thing} {state}. "),
            1 => format!("Since number {number} was closed, {thing} {state}. "),
            2 => format!("It seems {thing} {state}, and {} {} as well. ", draw.pick(&THINGS), draw.pick(&STATES)),
            _ => format!("My colleague says {thing} {state}, but I am not sure. "),
        };
    }
    text + draw.pick(&QUESTIONS)
}

/// What the assistant answers.
pub fn answer(draw: &mut Draw) -> String {
    let mut text = draw.pick(&OPENINGS).to_string();
    let list = draw.below(3) == 0;
    for i in 0..2 + draw.below(5) {
        let (link, step, thing) = (draw.pick(&LINKS), draw.pick(&STEPS), draw.pick(&THINGS));
        text += &match (list, draw.below(3)) {
            (true, _) => format!("\n{}. {link}, {step}.", i + 1),
            (_, 0) => format!(" {link}, {step}."),
            (_, 1) => format!(" {link}, {step}; {thing} {} otherwise.", draw.pick(&STATES)),
            _ => format!(" When {thing} {}, {step}.", draw.pick(&STATES)),
        };
    }
    text
}

/// Every word of the grammar, sorted.
pub fn words() -> std::collections::BTreeSet<String> {
    let systems = (0..SYSTEM.len()).map(system);
    let lists = [&THINGS[..], &STATES, &QUESTIONS, &STEPS, &OPENINGS, &LINKS].concat();
    let texts = systems.chain(lists.into_iter().map(str::to_string));
    texts
        .flat_map(|t| t.split(|c: char| !c.is_alphanumeric()).map(str::to_string).collect::<Vec<_>>())
        .filter(|w| !w.is_empty())
        .collect()
}
