//! Serde and JSON Schema of the types that know their place.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{FilePath, Paths, Ref, Text, Tree, TreeValue, de};

/// Takes what [`de::De`] handed over, or reads a plain value of another format.
struct Handed {
    wanted: &'static str,
}

impl<'de> Visitor<'de> for Handed {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(de::take().unwrap_or_else(|| Tree::new(TreeValue::Null, None)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        serde_json::Value::deserialize(d).map(Tree::from_json)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_newtype_struct(de::TREE, Handed { wanted: "a value" })
    }
}

/// A value, and the YAML that it was read from.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    pub value: Box<T>,
    pub tree: Tree,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Both<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Both<T> {
            type Value = Placed<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Placed<T>, D::Error> {
                // Taken first: what the value is made of is handed over in the same way.
                let tree = de::take().unwrap_or_else(|| Tree::new(TreeValue::Null, None));
                T::deserialize(d).map(|value| Placed { value: Box::new(value), tree })
            }
        }

        d.deserialize_newtype_struct(de::PLACED, Both(std::marker::PhantomData))
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for Placed<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(g)
    }
}

/// A string with its place, as a tree.
fn text<'de, D: Deserializer<'de>>(d: D) -> Result<(String, Tree), D::Error> {
    let mut tree = d.deserialize_newtype_struct(de::TEXT, Handed { wanted: "text" })?;
    match std::mem::replace(&mut tree.value, TreeValue::Null) {
        TreeValue::String(s) => Ok((s, tree)),
        _ => Err(D::Error::custom("expected text")),
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text(d).map(|(value, tree)| Text::new(value, tree.at))
    }
}

// Without its place, which is no part of a recipe.
impl Serialize for Text {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.value)
    }
}

impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Ref {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Text::deserialize(d).map(Ref)
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (written, tree) = text(d)?;
        if written.is_empty() {
            return Err(D::Error::custom("a path cannot be empty"));
        }
        let path = match &tree.base {
            // An absolute path replaces the base; an address of a store is none of our paths.
            Some(base) if !written.contains("://") => base.join(&written).components().collect(),
            _ => PathBuf::from(&written),
        };
        Ok(FilePath { written, path, at: tree.at })
    }
}

struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Paths;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a path or a list of paths")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Paths, D::Error> {
        FilePath::deserialize(d).map(|path| Paths(vec![path]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Paths, A::Error> {
        let mut paths = Vec::new();
        while let Some(path) = seq.next_element()? {
            paths.push(path);
        }
        if paths.is_empty() { Err(A::Error::custom("a list of paths cannot be empty")) } else { Ok(Paths(paths)) }
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_newtype_struct(de::TEXTS, OneOrMany)
    }
}

impl schemars::JsonSchema for Paths {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Paths".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }]
        })
    }
}

impl std::hash::Hash for Text {
    fn hash<H: std::hash::Hasher>(&self, h: &mut H) {
        self.value.hash(h);
    }
}

impl Eq for Text {}

macro_rules! schema_of {
    ($($t:ty as $other:ty),*) => {$(
        impl schemars::JsonSchema for $t {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($t).into()
            }
            fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <$other>::json_schema(g)
            }
        }
    )*};
}

schema_of!(FilePath as String, Ref as String, Text as String, Tree as serde_json::Value);
