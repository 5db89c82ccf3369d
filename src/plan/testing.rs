//! Stages that do what a test tells them, for tests of planning and running.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Dag, Kinds, check_with};
use crate::diag::{Diagnostic, Result, Span};
use crate::spec::{Columns, FilePath, Format, Ingest, Paths, Pipeline, Sources, Stage, StageSpec, Text};
use crate::stage::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::table::column;

type Work = dyn Fn(&RunCx) -> Result<Vec<i64>> + Send + Sync;

pub(crate) struct Fake {
    pub reads: Vec<String>,
    pub files: Vec<FilePath>,
    pub config: Value,
    pub version: u32,
    pub violated: Option<String>,
    pub problem: Option<String>,
    pub extra_table: Option<String>,
    pub work: Arc<Work>,
    pub runs: Arc<AtomicUsize>,
}

pub(crate) fn fake(reads: &[&str], rows: &[i64]) -> Fake {
    let rows = rows.to_vec();
    Fake {
        reads: reads.iter().map(ToString::to_string).collect(),
        files: Vec::new(),
        config: json!({ "rows": rows }),
        version: 1,
        violated: None,
        problem: None,
        extra_table: None,
        work: Arc::new(move |_| Ok(rows.clone())),
        runs: Arc::default(),
    }
}

impl Fake {
    pub fn doing(mut self, work: impl Fn(&RunCx) -> Result<Vec<i64>> + Send + Sync + 'static) -> Fake {
        self.work = Arc::new(work);
        self
    }
}

pub(crate) fn values_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("v", DataType::Int64, false, "ns", "A value"),
        Field::new("w", DataType::Int64, true),
    ]))
}

pub(crate) fn values(rows: &[i64]) -> RecordBatch {
    let v = Int64Array::from(rows.to_vec());
    let w: Int64Array = rows.iter().map(|r| (r % 3 != 0).then_some(r * 2)).collect();
    RecordBatch::try_new(values_schema(), vec![Arc::new(v), Arc::new(w)]).unwrap()
}

#[async_trait]
impl Kind for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }
    fn seeded(&self) -> bool {
        true
    }
    fn version(&self) -> u32 {
        self.version
    }
    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(self.reads.iter().map(|r| Text::new(r.clone(), None)).collect())
    }
    fn files(&self) -> Vec<FilePath> {
        self.files.clone()
    }
    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        let main = TableShape { name: stage.to_string(), schema: Some(values_schema()) };
        let extra = self.extra_table.iter().map(|name| TableShape { name: name.clone(), schema: None });
        std::iter::once(main).chain(extra).collect()
    }
    fn check(&self, _stage: &str, _cx: &CheckCx) -> Vec<Diagnostic> {
        self.problem.iter().map(|p| Diagnostic::new("fake", p.clone())).collect()
    }
    fn recipe(&self, _cx: &CheckCx) -> Value {
        self.config.clone()
    }
    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let mut writer = cx.out.table(&cx.stage, values_schema())?;
        let rows = (self.work)(&cx)?;
        writer.write(&values(&rows))?;
        writer.finish()?;
        std::fs::write(cx.out.file(&format!("{}.svg", cx.stage))?, "<svg/>").unwrap();
        cx.progress.0.total(1, "rows");
        cx.progress.0.advance(1);
        Ok(Outcome { answer: vec![format!("{} rows", rows.len())], violated: self.violated.clone() })
    }
}

pub(crate) struct Fakes(BTreeMap<String, Fake>);

impl Kinds for Fakes {
    fn of<'a>(&'a self, stage: &'a Stage) -> &'a dyn Kind {
        &self.0[&stage.name.value]
    }
}

/// A pipeline `p` of fakes, checked.
pub(crate) fn pipeline(project: &Path, stages: Vec<(&str, Fake)>) -> (Pipeline, Result<Dag>) {
    let spec = || {
        StageSpec::Ingest(Ingest {
            path: Paths(vec![FilePath { written: "x".into(), path: "x".into(), at: None }]),
            format: Format::Auto,
            columns: Columns::default(),
            time_unit: Default::default(),
            measured: None,
            run: None,
            tokens: None,
            block_tokens: None,
            on_error: Default::default(),
            limit: None,
        })
    };
    let span = |line: usize| Span { file: "p.yaml".into(), line: line as u32, column: 3, len: 1 };
    let stage = |(i, (name, _)): (usize, &(&str, Fake))| Stage {
        name: Text::new(name.to_string(), Some(span(i + 1))),
        spec: spec(),
    };
    let pipeline = Pipeline {
        name: "p".into(),
        seed: 7,
        stages: stages.iter().enumerate().map(stage).collect(),
        file: "p.yaml".into(),
        sources: Sources::default(),
    };
    let kinds = Fakes(stages.into_iter().map(|(name, fake)| (name.to_string(), fake)).collect());
    let dag = check_with(&pipeline, project, Arc::new(kinds));
    (pipeline, dag)
}
