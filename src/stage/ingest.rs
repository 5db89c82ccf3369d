//! ingest

use async_trait::async_trait;
use serde_json::Value;

use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Result};
use crate::spec::{Ingest, Text};

#[async_trait]
impl Kind for Ingest {
    fn kind(&self) -> &'static str {
        "ingest"
    }
    fn version(&self) -> u32 {
        1
    }
    fn inputs(&self) -> Result<Vec<Text>> {
        unimplemented!()
    }
    fn tables(&self, _stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        unimplemented!()
    }
    fn check(&self, _stage: &str, _cx: &CheckCx) -> Vec<Diagnostic> {
        unimplemented!()
    }
    fn recipe(&self, _cx: &CheckCx) -> Value {
        unimplemented!()
    }
    async fn run(&self, _cx: RunCx) -> Result<Outcome> {
        unimplemented!()
    }
}
