//! Serde over a [`Tree`]: places survive, choices may be bare names, problems are in words for the user.
//!
//! Types that know their place ask for it by a private newtype name; the tree is then handed to their visitor through
//! a slot of the thread, since serde's data model has no room for it. They still deserialize from any other format,
//! without places.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor, value::StrDeserializer};

use super::{Text, Tree, TreeValue};

/// Names by which [`Text`], [`super::FilePath`] and [`Tree`] ask for the value with its place.
pub(super) const TEXT: &str = "$pipe::text";
pub(super) const TREE: &str = "$pipe::tree";
/// The name by which [`super::Placed`] asks for the tree beside the value that is read from it.
pub(super) const PLACED: &str = "$pipe::placed";
/// By which [`super::Paths`] asks for one text or a list of them.
pub(super) const TEXTS: &str = "$pipe::texts";

thread_local! {
    static SLOT: RefCell<Option<Tree>> = const { RefCell::new(None) };
}

/// The tree that [`De`] handed over; `None` under another format's deserializer.
pub(super) fn take() -> Option<Tree> {
    SLOT.with(|slot| slot.borrow_mut().take())
}

/// What is wrong with a tree, as seen from the value at `path`.
#[derive(Debug)]
pub(super) struct Problem {
    pub kind: Kind,
    /// From the innermost entry outwards.
    pub path: Vec<Step>,
    /// It is the key of the last step that is wrong, not its value.
    pub on_key: bool,
}

/// What a text that is wrong or missing is read as, so that what is around it can be looked at.
pub(crate) const STAND_IN: &str = "stand_in";

/// One level down into a tree: the index in the list or in the entries of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step(pub usize);

#[derive(Debug)]
pub(super) enum Kind {
    UnknownField { name: String, valid: &'static [&'static str] },
    UnknownChoice { what: &'static str, name: String, valid: &'static [&'static str] },
    Missing { field: &'static str, valid: &'static [&'static str] },
    Type { wanted: String, found: String, help: Option<String> },
    Other { message: String, help: Option<String> },
}

impl Problem {
    fn new(kind: Kind) -> Self {
        Problem { kind, path: Vec::new(), on_key: false }
    }

    fn below(mut self, index: usize) -> Self {
        self.path.push(Step(index));
        self
    }

    fn on_key(mut self, index: usize) -> Self {
        self.on_key = true;
        self.below(index)
    }

    fn other(message: impl Into<String>, help: Option<String>) -> Self {
        Problem::new(Kind::Other { message: message.into(), help })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(msg: T) -> Self {
        Problem::other(msg.to_string(), None)
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Problem::new(Kind::UnknownField { name: field.to_owned(), valid: expected })
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Problem::new(Kind::UnknownChoice { what: "", name: variant.to_owned(), valid: expected })
    }
    fn missing_field(field: &'static str) -> Self {
        Problem::new(Kind::Missing { field, valid: &[] })
    }
}

type Result<T> = std::result::Result<T, Problem>;

/// Deserializes from a tree.
#[derive(Clone, Copy)]
pub(super) struct De<'a>(pub &'a Tree);

impl De<'_> {
    fn wrong<T>(self, wanted: impl Into<String>) -> Result<T> {
        self.wrong_help(wanted, None)
    }

    fn wrong_help<T>(self, wanted: impl Into<String>, help: Option<String>) -> Result<T> {
        Err(Problem::new(Kind::Type { wanted: wanted.into(), found: self.0.describe(), help }))
    }

    fn integer(self, low: i128, high: i128) -> Result<i128> {
        match &self.0.value {
            _ if self.0.stand_in => Ok(1),
            TreeValue::Int(i) if (low..=high).contains(&i128::from(*i)) => Ok(i128::from(*i)),
            TreeValue::Int(i) if i128::from(*i) < low => self.wrong(format!("a whole number of at least {low}")),
            TreeValue::Int(_) => self.wrong(format!("a whole number of at most {high}")),
            TreeValue::Float(f) if f.fract() == 0.0 && f.abs() < 1e15 => {
                self.wrong_help("a whole number", Some(format!("write {f:.0}")))
            }
            TreeValue::String(s) if s.trim().parse::<i64>().is_ok() => {
                self.wrong_help("a whole number", Some(format!("write {} without quotes", s.trim())))
            }
            _ => self.wrong("a whole number"),
        }
    }

    fn string(self) -> Result<String> {
        match &self.0.value {
            _ if self.0.stand_in => Ok(STAND_IN.to_owned()),
            TreeValue::String(s) => Ok(s.clone()),
            TreeValue::Bool(_) | TreeValue::Int(_) | TreeValue::Float(_) => {
                self.wrong_help("text", Some(format!("quote it to make it text: \"{}\"", self.0.to_json())))
            }
            TreeValue::Null | TreeValue::List(_) | TreeValue::Map(_) => self.wrong("text"),
        }
    }

    fn map_of<'de, V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        match &self.0.value {
            _ if self.0.stand_in => visitor.visit_map(StandIns { fields, next: 0 }),
            TreeValue::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
            _ => {
                let help = (!fields.is_empty()).then(|| format!("its keys are {}", super::problems::list(fields)));
                self.wrong_help("a map", help)
            }
        }
        .map_err(|mut problem| {
            if let Kind::Missing { valid, .. } = &mut problem.kind
                && valid.is_empty()
            {
                *valid = fields;
            }
            problem
        })
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $t:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            let i = self.integer(<$t>::MIN as i128, <$t>::MAX as i128)?;
            // In range by the line above.
            visitor.$visit(i as $t)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for De<'_> {
    type Error = Problem;

    integers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.0.value {
            TreeValue::Null => visitor.visit_unit(),
            TreeValue::Bool(b) => visitor.visit_bool(*b),
            TreeValue::Int(i) => visitor.visit_i64(*i),
            TreeValue::Float(f) => visitor.visit_f64(*f),
            TreeValue::String(s) => visitor.visit_str(s),
            TreeValue::List(_) => self.deserialize_seq(visitor),
            TreeValue::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.0.value {
            _ if self.0.stand_in => visitor.visit_bool(false),
            TreeValue::Bool(b) => visitor.visit_bool(*b),
            TreeValue::String(s) => {
                let help = match s.to_lowercase().as_str() {
                    "yes" | "on" | "true" | "y" => Some("write true".to_owned()),
                    "no" | "off" | "false" | "n" => Some("write false".to_owned()),
                    _ => None,
                };
                self.wrong_help("true or false", help)
            }
            _ => self.wrong("true or false"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.0.value {
            _ if self.0.stand_in => visitor.visit_f64(1.0),
            TreeValue::Int(i) => visitor.visit_f64(*i as f64),
            TreeValue::Float(f) => visitor.visit_f64(*f),
            TreeValue::String(s) if s.trim().parse::<f64>().is_ok() => {
                self.wrong_help("a number", Some(format!("write {} without quotes", s.trim())))
            }
            _ => self.wrong("a number"),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_string(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_string(self.string()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_string(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if matches!(self.0.value, TreeValue::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.0.value {
            TreeValue::Null => visitor.visit_unit(),
            _ => self.wrong("nothing"),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        match &self.0.value {
            TreeValue::Map(entries) if entries.is_empty() => visitor.visit_unit(),
            _ => self.deserialize_unit(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        match name {
            TEXT => {
                let text = TreeValue::String(self.string()?);
                let tree = Tree::new(text, self.0.at.clone()).with_base(self.0.base.clone());
                SLOT.with(|slot| *slot.borrow_mut() = Some(tree));
                visitor.visit_unit()
            }
            TREE => {
                SLOT.with(|slot| *slot.borrow_mut() = Some(self.0.clone()));
                visitor.visit_unit()
            }
            PLACED => {
                SLOT.with(|slot| *slot.borrow_mut() = Some(self.0.clone()));
                visitor.visit_newtype_struct(self)
            }
            TEXTS if matches!(self.0.value, TreeValue::List(_)) => self.deserialize_seq(visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.0.value {
            _ if self.0.stand_in => visitor.visit_seq(Items { items: &[], next: 0 }),
            TreeValue::List(items) => {
                let mut access = Items { items, next: 0 };
                let value = visitor.visit_seq(&mut access)?;
                if access.next < items.len() {
                    return self.wrong(format!("a list of {} values", access.next));
                }
                Ok(value)
            }
            TreeValue::Bool(_) | TreeValue::Int(_) | TreeValue::Float(_) => {
                self.wrong_help("a list", Some(format!("a list of one is written [{}]", self.0.to_json())))
            }
            TreeValue::Null | TreeValue::String(_) | TreeValue::Map(_) => self.wrong("a list"),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        match &self.0.value {
            _ if self.0.stand_in => {
                let items = vec![Tree::stand_in(None); len];
                visitor.visit_seq(Items { items: &items, next: 0 })
            }
            TreeValue::List(items) if items.len() == len => visitor.visit_seq(Items { items, next: 0 }),
            TreeValue::List(items) => {
                let found = format!("a list of {}", items.len());
                Err(Problem::new(Kind::Type { wanted: format!("a list of {len} values"), found, help: None }))
            }
            _ => self.wrong(format!("a list of {len} values")),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, len: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.map_of(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.map_of(fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let choice = |name: &str| visitor_choice(name, variants);
        let access = match &self.0.value {
            _ if self.0.stand_in => Choice { name: choice(""), content: Content::StandIn },
            TreeValue::String(s) => Choice { name: s, content: Content::Bare(self.0) },
            TreeValue::Map(entries) => match entries.as_slice() {
                [(key, value)] => Choice { name: &key.value, content: Content::Value(value) },
                [] => return self.wrong_choice(name, variants),
                [_, _, ..] => return Err(several(entries, name, variants)),
            },
            _ => return self.wrong_choice(name, variants),
        };
        visitor.visit_enum(access).map_err(|mut problem| {
            if let Kind::UnknownChoice { what, .. } = &mut problem.kind
                && what.is_empty()
            {
                *what = name;
            }
            problem
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_string(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }
}

/// The first variant that exists, for a stand-in.
fn visitor_choice(name: &str, variants: &'static [&'static str]) -> &'static str {
    debug_assert!(name.is_empty());
    variants.first().copied().unwrap_or_default()
}

impl De<'_> {
    fn wrong_choice<T>(self, name: &'static str, variants: &'static [&'static str]) -> Result<T> {
        let what = super::problems::choice_in_words(name);
        let help = format!("one of {}, or a map with one of them as its key", super::problems::list(variants));
        let found = if matches!(self.0.value, TreeValue::Map(_)) { "an empty map".into() } else { self.0.describe() };
        Err(Problem::new(Kind::Type { wanted: format!("the name of a {what}"), found, help: Some(help) }))
    }
}

/// A map with several keys where one choice is made. The odd one out is the first that is no choice, else the second.
fn several(entries: &[(Text, Tree)], name: &'static str, variants: &'static [&'static str]) -> Problem {
    let what = super::problems::choice_in_words(name);
    let odd = entries.iter().position(|(k, _)| !variants.contains(&k.value.as_str())).unwrap_or(1);
    let found: Vec<&str> = entries.iter().map(|(k, _)| k.value.as_str()).collect();
    let message = format!("a {what} is written with one key, found {}: {}", found.len(), super::problems::list(&found));
    let help = match entries.iter().find(|(k, _)| variants.contains(&k.value.as_str())) {
        Some((k, _)) if odd != 1 || k.value == entries[0].0.value => {
            format!(
                "its settings stand under `{}`, indented; it is one of {}",
                k.value,
                super::problems::list(variants)
            )
        }
        _ => format!("it is one of {}", super::problems::list(variants)),
    };
    let problem = Problem::other(message, Some(help));
    problem.on_key(odd)
}

struct Items<'a> {
    items: &'a [Tree],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(De(item)).map(Some).map_err(|p| p.below(self.next - 1))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Entries<'a> {
    entries: &'a [(Text, Tree)],
    next: usize,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        seed.deserialize(Key(key)).map(Some).map_err(|p| p.on_key(self.next))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value> {
        assert!(self.next < self.entries.len(), "a value is asked for after its key");
        let (_, value) = &self.entries[self.next];
        self.next += 1;
        seed.deserialize(De(value)).map_err(|p| p.below(self.next - 1))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len() - self.next)
    }
}

/// Every field of a struct that was wrong as a whole.
struct StandIns {
    fields: &'static [&'static str],
    next: usize,
}

impl<'de> de::MapAccess<'de> for StandIns {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some(field) = self.fields.get(self.next) else { return Ok(None) };
        self.next += 1;
        let key: StrDeserializer<'_, Problem> = (*field).into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value> {
        seed.deserialize(De(&Tree::stand_in(None)))
    }
}

/// A key of a map.
struct Key<'a>(&'a Text);

impl<'de> de::Deserializer<'de> for Key<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_str(&self.0.value)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        if name == TEXT {
            let tree = Tree::new(TreeValue::String(self.0.value.clone()), self.0.at.clone());
            SLOT.with(|slot| *slot.borrow_mut() = Some(tree));
            return visitor.visit_unit();
        }
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A variant of an enum and what it contains.
struct Choice<'a> {
    name: &'a str,
    content: Content<'a>,
}

enum Content<'a> {
    /// Only the name is given.
    Bare(&'a Tree),
    Value(&'a Tree),
    StandIn,
}

impl<'a, 'de> de::EnumAccess<'de> for Choice<'a> {
    type Error = Problem;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let name: StrDeserializer<'_, Problem> = self.name.into_deserializer();
        match seed.deserialize(name) {
            Ok(variant) => Ok((variant, self)),
            Err(problem) if matches!(self.content, Content::Value(_)) => Err(problem.on_key(0)),
            Err(problem) => Err(problem),
        }
    }
}

impl Choice<'_> {
    /// Deserializes the content; a bare name, or nothing after the name, stands for settings that are all left out.
    fn settings<T>(&self, read: impl FnOnce(De<'_>) -> Result<T>) -> Result<T> {
        let all_default = |at| Tree::new(TreeValue::Map(Vec::new()), at);
        let read_default = |tree: &Tree, read: &mut dyn FnMut(De<'_>) -> Result<T>| {
            read(De(&all_default(tree.at.clone()))).map_err(|problem| match problem.kind {
                Kind::Type { wanted, .. } if problem.path.is_empty() => {
                    Problem::other(format!("`{}` needs {wanted}: `{}: ...`", self.name, self.name), None)
                }
                _ => problem,
            })
        };
        let mut read = Some(read);
        // `FnOnce` behind a reference: called once, in one of the arms.
        let mut once = |de: De<'_>| match read.take() {
            Some(read) => read(de),
            None => de.wrong("one reading"),
        };
        match self.content {
            Content::StandIn => once(De(&Tree::stand_in(None))),
            Content::Bare(tree) => read_default(tree, &mut once),
            Content::Value(tree) if matches!(tree.value, TreeValue::Null) && !tree.stand_in => {
                read_default(tree, &mut once).map_err(|p| p.below(0))
            }
            Content::Value(tree) => once(De(tree)).map_err(|p| p.below(0)),
        }
    }
}

impl<'de> de::VariantAccess<'de> for Choice<'_> {
    type Error = Problem;

    fn unit_variant(self) -> Result<()> {
        let Content::Value(tree) = self.content else { return Ok(()) };
        match &tree.value {
            TreeValue::Null => Ok(()),
            TreeValue::Map(entries) if entries.is_empty() => Ok(()),
            TreeValue::Map(_) => Err(Problem::other(format!("`{}` has no settings", self.name), None).below(0)),
            _ => De(tree).wrong("nothing").map_err(|p: Problem| p.below(0)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        self.settings(|de| seed.deserialize(de))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.settings(|de| de::Deserializer::deserialize_tuple(de, len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.settings(|de| de.map_of(fields, visitor))
    }
}
