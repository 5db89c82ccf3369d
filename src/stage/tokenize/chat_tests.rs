//! Templates as transformers renders them. What is expected was worked out with Jinja 3.1 under the settings that
//! transformers gives it; `python_tests` asks it again where it is installed.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde_json::json;

use super::chat::{Chat, Message, Source};

pub(super) const TALK: [Message; 3] = [
    Message { role: "user", content: " Was \"geht\"? " },
    Message { role: "assistant", content: "a <b>é😀</b>\n" },
    Message { role: "user", content: "c" },
];

fn chat(template: &str) -> Result<Chat, String> {
    let tokens = BTreeMap::from([("eos_token".to_string(), "</s>".to_string())]);
    let source = Source { template: template.to_string(), tokens, ..Source::default() };
    let variables = [("flag".to_string(), json!(false)), ("deep".to_string(), json!({ "list": [1, "two", null] }))];
    Chat::new(&source, &variables, NaiveDate::from_ymd_opt(2025, 1, 31).unwrap())
}

/// Templates, and what they make of [`TALK`].
pub(super) const TEMPLATES: [(&str, &str); 13] = [
    ("  {% for m in messages %}\n{{ m.role }}\n  {% endfor %}\n", "user\nassistant\nuser\n"),
    ("{{ messages[0]['content'] | trim }}|{{ messages[-1].content }}|{{ messages[1:] | length }}", "Was \"geht\"?|c|2"),
    (
        "{{ messages[0].content.strip() }}|{{ 'a,b'.split(',')[-1] }}|{{ 'abc'.startswith('ab') }}",
        "Was \"geht\"?|b|True",
    ),
    (
        "{% set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + loop.index0 %}{% endfor %}\
         {{ ns.n }}",
        "3",
    ),
    (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
        "assistant",
    ),
    ("{% macro f(m) -%} <{{ m.role }}> {%- endmacro %}{{ f(messages[0]) }}", "<user>"),
    (
        "{{ bos_token }}{{ eos_token }}{{ bos_token is defined }}{{ tools is none }}{{ documents is none }}",
        "</s>FalseTrueTrue",
    ),
    ("{{ flag is false }} {{ deep.list }} {{ none }} {{ 7 // 2 }} {{ 3 / 2 }}", "True [1, 'two', None] None 3 1.5"),
    ("{{ strftime_now('%d %b %Y') }}", "31 Jan 2025"),
    ("{{ messages[1] | tojson }}", r#"{"role": "assistant", "content": "a <b>é😀</b>\n"}"#),
    ("{{ deep | tojson(indent=2) }}", "{\n  \"list\": [\n    1,\n    \"two\",\n    null\n  ]\n}"),
    ("a\n{% generation %}\n b\n{%- endgeneration -%}\n c", "a\n bc"),
    ("{% if add_generation_prompt %}yes{% endif %}", "yes"),
];

#[test]
fn what_templates_use() {
    for (template, expect) in TEMPLATES {
        assert_eq!(chat(template).and_then(|c| c.render(&TALK, true)).as_deref(), Ok(expect), "{template}");
    }
}

#[test]
fn templates_that_fail_say_why() {
    let say = |template: &str| chat(template).and_then(|c| c.render(&TALK, true)).unwrap_err();
    assert_eq!(say("{{ raise_exception('users only') }}"), "the template refuses: users only");
    assert!(say("\n{% if %}").starts_with("syntax error"), "{}", say("\n{% if %}"));
    assert!(say("\n{% if %}").ends_with("(line 2 of the template)"));
    assert!(say("{{ messages.nothing.there }}").contains("undefined"));
    assert!(say("{{ strftime_now('%!') }}").contains("cannot write a time"));
    assert!(say("{{ 'a'.nonsense() }}").contains("nonsense"));
}
