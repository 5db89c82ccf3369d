//! YAML to a typed pipeline in which every value knows where it was written.
//!
//! [`load`] reads the file and its includes, applies `--set`, replaces `${name}` and `${env:NAME}`, and reports every
//! problem at once. It reads YAML files only: whether tables, traces and SQL make sense is the business of `plan`.

mod kinds;

use std::path::{Path, PathBuf};

pub use kinds::*;

use crate::diag::{Result, Span};

/// A string, and where it stands.
pub type Text = crate::diag::Spanned<String>;

/// The name of a table or stage that something reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Ref(pub Text);

/// A path to a file, made absolute: relative to the file that it was written in, or to the working directory when it
/// came from `--set`.
#[derive(Clone, Debug, PartialEq)]
pub struct FilePath {
    /// As written, for messages.
    pub written: String,
    pub path: PathBuf,
    pub at: Option<Span>,
}

/// A piece of YAML that gets its type later, when a scenario is complete: values with their places.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    pub value: TreeValue,
    pub at: Option<Span>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TreeValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Tree>),
    /// In the order of the file; keys are unique.
    Map(Vec<(Text, Tree)>),
}

/// A pipeline, checked as far as its own text goes.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub name: String,
    pub seed: u64,
    /// In the order of the file.
    pub stages: Vec<Stage>,
    /// The pipeline's file, as given.
    pub file: PathBuf,
    /// Every YAML file read, with its text, for showing the lines that diagnostics point at.
    pub sources: Sources,
}

#[derive(Clone, Debug)]
pub struct Stage {
    pub name: Text,
    pub spec: StageSpec,
}

/// Texts of the files that spans point into, by [`Span::file`].
#[derive(Clone, Debug, Default)]
pub struct Sources(pub std::collections::BTreeMap<std::sync::Arc<str>, std::sync::Arc<str>>);

/// Reads a pipeline.
///
/// `set` are the `--set` arguments as `(path, value)`: a name of `params`, or a dotted path into the document
/// (`stages.sim.simulate.deployment.tp`). Values are read as YAML.
///
/// # Errors
/// Every problem found, each with its place.
pub fn load(_file: &Path, _set: &[(String, String)]) -> Result<Pipeline> {
    unimplemented!()
}

/// The JSON Schema of a pipeline file.
pub fn json_schema() -> serde_json::Value {
    unimplemented!()
}

mod glue {
    //! Serde and JSON Schema of the types that know their place.
    use super::{FilePath, Ref, Text, Tree};
    macro_rules! opaque {
        ($t:ty, $schema:ty) => {
            impl<'de> serde::Deserialize<'de> for $t {
                fn deserialize<D: serde::Deserializer<'de>>(_d: D) -> Result<Self, D::Error> {
                    unimplemented!()
                }
            }
            impl schemars::JsonSchema for $t {
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($t).into()
                }
                fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    <$schema>::json_schema(g)
                }
            }
        };
    }
    opaque!(FilePath, String);
    opaque!(Ref, String);
    opaque!(Text, String);
    opaque!(Tree, serde_json::Value);
    impl std::hash::Hash for Text {
        fn hash<H: std::hash::Hasher>(&self, h: &mut H) {
            self.value.hash(h);
        }
    }
    impl Eq for Text {}
}
