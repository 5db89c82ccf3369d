//! `synthesize`: requests drawn from distributions.
//!
//! The kernel draws; this stage checks its settings and writes the table. Rows depend on the settings and the seed of
//! the pipeline only.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::UInt64Builder;
use arrow::array::{ArrayRef, Int32Array, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use pipe_kernel::request::Requests;
use pipe_kernel::workload::{self, Problem, Synthetic, generate};
use serde_json::{Value, json};

use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result, Span, nearest};
use crate::spec::{ChainStep, Chains, Synthesize, Text};
use crate::table::requests;

/// Rows of a batch, and the hashes that all but a batch of one row has at most.
const ROWS: usize = 1 << 16;
const HASHES: u64 = 1 << 24;

#[async_trait]
impl Kind for Synthesize {
    fn kind(&self) -> &'static str {
        "synthesize"
    }

    fn seeded(&self) -> bool {
        true
    }

    fn version(&self) -> u32 {
        3
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(Vec::new())
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        vec![TableShape { name: stage.to_string(), schema: Some(requests::schema()) }]
    }

    fn check(&self, stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        // Most settings have no places of their own: the name of the stage is the nearest.
        let at = cx.stages.iter().find(|s| s.name.value == stage).and_then(|s| s.name.at.clone());
        let problems = self.workload().problems().into_iter();
        problems.map(|p| self.diagnostic(&p, at.as_ref())).collect()
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Synthesize {
            requests,
            rate_rps,
            arrivals,
            input,
            output,
            shared_prefix,
            block_tokens,
            sessions,
            chains,
            models,
            adapters,
            images,
        } = self;
        json!({
            "requests": requests,
            "rate_rps": rate_rps,
            "arrivals": arrivals,
            "input": input,
            "output": output,
            "shared_prefix": shared_prefix,
            "block_tokens": block_tokens,
            "sessions": sessions,
            "chains": chains.as_ref().map(of_kernel),
            "models": models,
            "adapters": adapters,
            "images": images,
        })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let workload = self.workload();
        super::tokenize::blocking(move || {
            cx.progress.0.total(u64::from(workload.requests), "requests");
            let requests = generate(&workload, cx.seed);
            let turns = turns(&requests);
            let mut writer = cx.out.table(&cx.stage, requests::schema())?;
            let mut start = 0;
            while start < requests.len() {
                cx.cancel.check()?;
                let end = end_of_batch(&requests, start);
                writer.write(&batch(&requests, &turns, start..end)?)?;
                cx.progress.0.advance((end - start) as u64);
                start = end;
            }
            writer.finish()?;
            Ok(Outcome::default())
        })
        .await
    }
}

impl Synthesize {
    fn workload(&self) -> Synthetic {
        Synthetic {
            requests: self.requests,
            rate_rps: self.rate_rps,
            arrivals: self.arrivals,
            input: self.input,
            output: self.output,
            shared_prefix: self.shared_prefix,
            block_tokens: self.block_tokens,
            sessions: self.sessions.clone(),
            chains: self.chains.as_ref().map(of_kernel),
            models: self.models.clone(),
            adapters: self.adapters,
            images: self.images,
        }
    }

    /// A problem at the step, or the name in its `after`, that it is about; elsewhere `at`.
    fn diagnostic(&self, problem: &Problem, at: Option<&Span>) -> Diagnostic {
        let message = format!("`{}` {}", problem.path, problem.message);
        let steps = self.chains.as_ref().map(|c| &c.steps);
        let named = problem.path.strip_prefix("chains.steps.").zip(steps);
        let found = named.and_then(|(path, steps)| {
            // A name that is none may have dots itself.
            let of = |key: &Text| path.strip_prefix(&key.value).filter(|rest| rest.is_empty() || rest.starts_with('.'));
            steps.iter().find_map(|(key, step)| Some((key, step, of(key)?)))
        });
        let Some((key, step, field)) = found else {
            return Diagnostic::new("synthesize::value", message).at(at.cloned());
        };
        let entry = field.strip_prefix(".after.").and_then(|i| step.after.get(i.parse::<usize>().ok()?));
        let Some(entry) = entry else {
            return Diagnostic::new("synthesize::value", message).at(key.at.clone().or(at.cloned()));
        };
        let found = Diagnostic::new("synthesize::order", message).at(entry.at.clone().or(key.at.clone()));
        let names = || steps.into_iter().flat_map(|s| s.keys()).map(|k| k.value.as_str());
        if step.after.iter().filter(|a| **a == *entry).count() > 1 {
            return found.help("once is enough");
        }
        if names().any(|name| name == entry.value) {
            return found.help("a step can only wait for steps that do not wait for it");
        }
        let all = names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        found.help(match nearest(&entry.value, names()) {
            Some(near) => format!("did you mean `{near}`? the steps are {all}"),
            None => format!("the steps are {all}"),
        })
    }
}

/// The steps without their places.
fn of_kernel(chains: &Chains) -> workload::Chains {
    let Chains { steps, max_context, turn_s } = chains;
    let step = |(name, step): (&Text, &ChainStep)| {
        let ChainStep { after, input, output, tool_time, context } = step;
        workload::ChainStep {
            name: name.value.clone(),
            after: after.iter().map(|a| a.value.clone()).collect(),
            input: *input,
            output: *output,
            tool_time: *tool_time,
            context: *context,
        }
    };
    workload::Chains { steps: steps.iter().map(step).collect(), max_context: *max_context, turn_s: *turn_s }
}

/// The turn of every request: how many of its session come before it. Empty where there are no sessions.
fn turns(made: &Requests) -> Vec<i32> {
    let mut so_far: BTreeMap<u32, i32> = BTreeMap::new();
    let next = |session: &u32| {
        let turn = so_far.entry(*session).or_default();
        *turn += 1;
        *turn - 1
    };
    made.session.iter().flatten().map(next).collect()
}

/// The end of the batch that begins at `start`: at least one row.
fn end_of_batch(made: &Requests, start: usize) -> usize {
    let end = (start + ROWS).min(made.len());
    let offsets = &made.block_hash_offsets;
    let most = offsets[start] + HASHES;
    (start + 1).max(start + offsets[start + 1..=end].partition_point(|hashes| *hashes <= most))
}

/// The requests `rows` as a batch of [`requests::schema`].
fn batch(made: &Requests, turns: &[i32], rows: Range<usize>) -> Result<RecordBatch> {
    let n = rows.len();
    let hashed = made.block_tokens > 0;
    let item = Arc::new(Field::new_list_field(DataType::UInt64, false));
    let mut hashes = ListBuilder::new(UInt64Builder::new()).with_field(item);
    let item = Arc::new(Field::new_list_field(DataType::Int64, false));
    let mut depends_on = ListBuilder::new(Int64Builder::new()).with_field(item);
    for i in rows.clone() {
        hashes.values().append_slice(made.hashes(i));
        hashes.append(hashed);
        let before = made.waits_for(i);
        before.iter().for_each(|request| depends_on.values().append_value(i64::from(*request)));
        depends_on.append(!before.is_empty());
    }
    // Lengths and block sizes are far below 2^31: the kernel bounds them.
    let block_tokens = hashed.then_some(made.block_tokens as i32);
    let int = |values: &[u32]| -> ArrayRef { Arc::new(Int32Array::from_iter_values(values.iter().map(|v| *v as i32))) };
    let arrival = made.arrival[rows.clone()].iter().map(|t| t.0);
    let text = |column: &[Option<u32>], name: &dyn Fn(u32) -> String| -> ArrayRef {
        Arc::new(rows.clone().map(|i| known(column, i).map(name)).collect::<StringArray>())
    };
    let of = |names: &[String], which: u32| names[which as usize].clone();
    let think = rows.clone().map(|i| known(&made.think, i).map(|t| t.0));
    let of_encoder = rows.clone().map(|i| known(&made.encoder_tokens, i).map(|n| n as i32));
    let columns: [(&str, ArrayRef); 14] = [
        ("request_id", Arc::new(Int64Array::from_iter_values(rows.clone().map(|i| i as i64)))),
        ("arrival_ns", Arc::new(Int64Array::from_iter_values(arrival))),
        ("session_id", text(&made.session, &|session| format!("s{session}"))),
        ("turn", Arc::new(rows.clone().map(|i| turns.get(i).copied()).collect::<Int32Array>())),
        ("class", text(&made.class, &|class| of(&made.class_names, class))),
        ("think_ns", Arc::new(think.collect::<Int64Array>())),
        ("depends_on", Arc::new(depends_on.finish())),
        ("model", text(&made.model, &|model| of(&made.model_names, model))),
        ("adapter", text(&made.adapter, &|adapter| format!("adapter-{adapter}"))),
        ("input_tokens", int(&made.input_tokens[rows.clone()])),
        ("output_tokens", int(&made.output_tokens[rows.clone()])),
        ("block_hashes", Arc::new(hashes.finish())),
        ("block_tokens", Arc::new(Int32Array::from(vec![block_tokens; n]))),
        ("encoder_tokens", Arc::new(of_encoder.collect::<Int32Array>())),
    ];
    requests::assemble(&requests::schema(), n, columns)
        .map_err(|e| Failure::stage("synthesize::arrow", format!("cannot put the rows together: {e}")))
}

/// A value of a column that is empty where the requests say nothing.
fn known<T: Copy>(column: &[Option<T>], i: usize) -> Option<T> {
    column.get(i).copied().flatten()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int32Type, Int64Type};

    use super::*;
    use crate::spec::{Tree, from_tree};
    use crate::stage::tokenize::testing;

    fn synthesize(more: Value) -> Synthesize {
        let mut settings = json!({
            "requests": 70_000,
            "rate_rps": 10.0,
            "input": { "constant": { "tokens": 20 } },
            "output": { "constant": { "tokens": 5 } },
        });
        let Value::Object(more) = more else { panic!("settings are a map") };
        settings.as_object_mut().unwrap().extend(more);
        from_tree(&Tree::from_json(settings)).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    /// The rows of the stage's table, which are those of all requests in one batch.
    async fn run(spec: &Synthesize) -> (RecordBatch, Requests) {
        let dir = tempfile::tempdir().unwrap();
        let cx = testing::cx(dir.path(), 2);
        spec.run(cx.clone()).await.unwrap();
        let rows = testing::read(&cx, "t");
        let made = generate(&spec.workload(), cx.seed);
        assert_eq!(rows, batch(&made, &turns(&made), 0..made.len()).unwrap());
        assert_eq!(rows.num_rows(), spec.requests as usize);
        (rows, made)
    }

    #[tokio::test]
    async fn the_table_holds_what_the_kernel_draws() {
        let spec = synthesize(json!({ "shared_prefix": { "groups": 2, "tokens": 32 } }));
        let (rows, _) = run(&spec).await;
        for name in ["session_id", "turn", "class", "think_ns", "depends_on", "model", "adapter", "encoder_tokens"] {
            assert_eq!(rows.column_by_name(name).unwrap().null_count(), 70_000, "{name}");
        }
    }

    #[tokio::test]
    async fn sessions_and_steps_fill_their_columns() {
        let think = json!({ "constant": { "s": 3 } });
        let spec = synthesize(json!({
            "requests": 1000,
            "sessions": { "turns": { "constant": { "tokens": 3 } }, "think_time": think },
            "models": { "m": 1 },
            "adapters": { "count": 1 },
            "images": { "share": 1, "tokens": { "constant": { "tokens": 9 } } },
        }));
        let (rows, made) = run(&spec).await;
        let text = |rows: &RecordBatch, name: &str, i: usize| {
            rows.column_by_name(name).unwrap().as_string::<i32>().value(i).to_string()
        };
        let turn = rows.column_by_name("turn").unwrap().as_primitive::<Int32Type>().values().to_vec();
        let thinks = rows.column_by_name("think_ns").unwrap().as_primitive::<Int64Type>();
        for (i, (turn, think)) in turn.into_iter().zip(thinks).enumerate() {
            assert_eq!(text(&rows, "session_id", i), format!("s{}", made.session[i].unwrap()));
            assert_eq!(turn as u32, (made.input_tokens[i] - 29) / 34);
            assert_eq!(think, (turn > 0).then_some(3_000_000_000));
        }
        assert_eq!((text(&rows, "model", 7), text(&rows, "adapter", 7)), ("m".to_string(), "adapter-0".to_string()));
        assert_eq!(rows.column_by_name("encoder_tokens").unwrap().as_primitive::<Int32Type>().value(7), 9);

        let steps = json!({ "a": {}, "b": { "after": ["a"] }, "c": { "after": ["a", "b"], "tool_time": think } });
        let (rows, made) = run(&synthesize(json!({ "requests": 600, "chains": { "steps": steps } }))).await;
        let depends_on = rows.column_by_name("depends_on").unwrap().as_list::<i32>();
        for i in 0..600 {
            let class = text(&rows, "class", i);
            assert_eq!(depends_on.is_null(i), class == "a");
            let before = depends_on.value(i).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(before.len(), ["a", "b", "c"].iter().position(|c| *c == class).unwrap());
            assert!(before.iter().all(|b| made.session[*b as usize] == made.session[i] && *b < i as i64));
        }
    }

    #[test]
    fn batches_end_where_their_hashes_are_many() {
        let made = |hashes: &[u64]| Requests {
            arrival: vec![pipe_kernel::units::SimTime::ZERO; hashes.len() - 1],
            block_hash_offsets: hashes.to_vec(),
            ..Requests::default()
        };
        let few = made(&[0, 1, 2, 3]);
        assert_eq!(end_of_batch(&few, 0), 3);
        let many = made(&[0, HASHES, HASHES + 1, 3 * HASHES, 3 * HASHES]);
        assert_eq!([0, 1, 2, 3].map(|start| end_of_batch(&many, start)), [1, 2, 3, 4]);
        let rows = made(&vec![0; ROWS + 9]);
        assert_eq!((end_of_batch(&rows, 0), end_of_batch(&rows, ROWS)), (ROWS, ROWS + 8));
    }
}
