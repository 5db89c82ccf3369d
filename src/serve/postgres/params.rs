//! Parameters of prepared statements: their types, and their values as literals in the statement.
//!
//! A value takes the place of `$1` in the syntax tree, never in text: no value can become SQL. Where no value is known yet,
//! when a client asks what a statement returns, a NULL of the parameter's type does.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use chrono::{DateTime, Days, NaiveDate, TimeDelta};
use datafusion::arrow::datatypes::Field;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{
    Array, CastKind, Expr, LimitClause, Query, Statement, UnaryOperator, Value, VisitMut, VisitorMut, visit_expressions,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_postgres::pgwire::api::Type;

use super::encode::pg_type;
use super::fault::Fault;

/// Bytes of all literals that take the places of parameters. Plans hold a few copies of each.
const MOST_BYTES: usize = 64 << 20;
/// Bytes of an item of a list, besides its text.
const ITEM: usize = 256;

/// Parameters that a statement may have, as for PostgreSQL.
const MOST: usize = 65_535;

/// How many parameters a statement has: the highest number that it names.
///
/// # Errors
/// `$0`, a number above what the protocol can count, or a placeholder that is no number.
pub fn count(statement: &Statement) -> Result<usize, Fault> {
    let mut most = 0;
    let mut wrong = None;
    let _ = visit_expressions(statement, |e: &Expr| {
        if let Some(name) = placeholder(e) {
            match number(name) {
                Some(n) => most = most.max(n),
                None => wrong = Some(name.to_string()),
            }
        }
        ControlFlow::<()>::Continue(())
    });
    match wrong {
        Some(name) => Err(Fault::new("42P02", format!("there is no parameter {name}")).hint("they are $1, $2, ...")),
        None => Ok(most),
    }
}

fn placeholder(e: &Expr) -> Option<&str> {
    match e {
        Expr::Value(v) => match &v.value {
            Value::Placeholder(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

fn number(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse().ok().filter(|n| (1..=MOST).contains(n))
}

/// The types of `count` parameters: what the client declared, else what the plan of the statement with its placeholders
/// tells, else text.
pub fn types(count: usize, declared: &[u32], statement: &Statement, plan: Option<&LogicalPlan>) -> Vec<Type> {
    let limits = limits(statement);
    let inferred: BTreeMap<usize, Type> = plan
        .and_then(|p| p.get_parameter_types().ok())
        .into_iter()
        .flatten()
        .filter_map(|(name, kind)| Some((number(&name)?, pg_type(&Field::new("", kind?, true)))))
        .collect();
    (1..=count)
        .map(|n| {
            let of_client = declared.get(n - 1).filter(|oid| **oid != 0 && **oid != Type::UNKNOWN.oid());
            let of_client = of_client.map(|oid| Type::from_oid(*oid).unwrap_or(Type::TEXT));
            let of_plan = || if limits.contains(&n) { Some(Type::INT8) } else { inferred.get(&n).cloned() };
            of_client.or_else(of_plan).unwrap_or(Type::TEXT)
        })
        .collect()
}

/// Parameters that count rows.
fn limits(statement: &Statement) -> Vec<usize> {
    let mut found = Vec::new();
    let mut note = |e: &Expr| found.extend(placeholder(e).and_then(number));
    if let Statement::Query(query) = statement {
        match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                limit.iter().for_each(&mut note);
                offset.iter().for_each(|o| note(&o.value));
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => [offset, limit].into_iter().for_each(note),
            None => {}
        }
    }
    found
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    Null,
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Option<String>>),
}

impl Given {
    /// The bytes that its literal takes, about.
    fn size(&self) -> usize {
        match self {
            Given::Null => 0,
            Given::Text(text) => text.len(),
            Given::Bytes(bytes) => 2 * bytes.len(),
            Given::List(items) => items.iter().map(|i| ITEM + i.as_ref().map_or(0, String::len)).sum(),
        }
    }
}

/// Bytes of values that are kept.
pub fn size(values: &[Given]) -> usize {
    let bytes = |v: &Given| match v {
        Given::List(items) => items.iter().map(|i| size_of::<String>() + i.as_ref().map_or(0, String::len)).sum(),
        Given::Bytes(bytes) => bytes.len(),
        other => other.size(),
    };
    values.iter().map(bytes).sum()
}

/// Reads the value that a client sent.
///
/// # Errors
/// Bytes that are no value of the type.
pub fn read(kind: &Type, binary: bool, value: Option<&[u8]>) -> Result<Given, Fault> {
    let Some(bytes) = value else { return Ok(Given::Null) };
    let wrong = || Fault::new("22P02", format!("a parameter is no valid value of type {}", kind.name()));
    if let Some(item) = element(kind) {
        return if binary { list_of(bytes, &item).ok_or_else(wrong) } else { list_in(bytes).ok_or_else(wrong) };
    }
    if *kind == Type::BYTEA {
        return if binary { Ok(Given::Bytes(bytes.to_vec())) } else { hex(bytes).map(Given::Bytes).ok_or_else(wrong) };
    }
    let text = if binary { decode(kind, bytes) } else { utf8(bytes) };
    text.map(Given::Text).ok_or_else(wrong)
}

fn utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().filter(|t| !t.contains('\0')).map(str::to_string)
}

fn hex(bytes: &[u8]) -> Option<Vec<u8>> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_prefix("\\x")?;
    let byte = |i: usize| u8::from_str_radix(digits.get(i..i + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The type of an array's elements.
fn element(kind: &Type) -> Option<Type> {
    match kind.kind() {
        tokio_postgres::types::Kind::Array(item) => Some(item.clone()),
        _ => None,
    }
}

/// A value in PostgreSQL's binary format, as text.
fn decode(kind: &Type, bytes: &[u8]) -> Option<String> {
    let epoch = NaiveDate::from_ymd_opt(2000, 1, 1)?;
    let eight = || Some(i64::from_be_bytes(bytes.try_into().ok()?));
    let four = || Some(i32::from_be_bytes(bytes.try_into().ok()?));
    let moment = || {
        let at = epoch.and_hms_opt(0, 0, 0)?.checked_add_signed(TimeDelta::microseconds(eight()?))?;
        Some(at.format("%Y-%m-%d %H:%M:%S%.6f").to_string())
    };
    match *kind {
        Type::BOOL => Some((*bytes.first()? != 0).to_string()),
        Type::INT2 => Some(i16::from_be_bytes(bytes.try_into().ok()?).to_string()),
        Type::INT4 => four().map(|n| n.to_string()),
        Type::OID => four().map(|n| (n as u32).to_string()),
        Type::INT8 => eight().map(|n| n.to_string()),
        Type::FLOAT4 => Some(f32::from_be_bytes(bytes.try_into().ok()?).to_string()),
        Type::FLOAT8 => Some(f64::from_be_bytes(bytes.try_into().ok()?).to_string()),
        Type::DATE => {
            let days = four()?;
            let far = Days::new(u64::from(days.unsigned_abs()));
            let date = if days < 0 { epoch.checked_sub_days(far) } else { epoch.checked_add_days(far) };
            date.map(|d| d.to_string())
        }
        Type::TIMESTAMP => moment(),
        Type::TIMESTAMPTZ => moment().map(|m| m + "+00:00"),
        Type::TIME => {
            let at = DateTime::from_timestamp_micros(eight()?)?;
            Some(at.format("%H:%M:%S%.6f").to_string())
        }
        Type::NUMERIC => numeric(bytes),
        Type::UUID => {
            let h: String = <[u8; 16]>::try_from(bytes).ok()?.iter().map(|b| format!("{b:02x}")).collect();
            Some([&h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]].join("-"))
        }
        Type::JSONB => utf8(bytes.strip_prefix(&[1])?),
        Type::INTERVAL => {
            let micros = i64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
            let days = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
            let months = i32::from_be_bytes(bytes.get(12..16)?.try_into().ok()?);
            Some(format!("{months} months {days} days {micros} microseconds"))
        }
        _ => utf8(bytes),
    }
}

fn numeric(bytes: &[u8]) -> Option<String> {
    let word = |i: usize| Some(i16::from_be_bytes(bytes.get(2 * i..2 * i + 2)?.try_into().ok()?));
    let (count, weight, sign, scale) = (word(0)?, word(1)?, word(2)? as u16, usize::from(word(3)? as u16));
    if !matches!(sign, 0 | 0x4000) || bytes.len() != 8 + 2 * usize::try_from(count).ok()? || scale > 1000 {
        return None;
    }
    if !(-300..=300).contains(&weight) {
        return None;
    }
    let group = |position: i16| {
        let index = weight - position;
        if index < 0 || index >= count { Some(0) } else { word(4 + index as usize).filter(|g| (0..10_000).contains(g)) }
    };
    let mut text = String::from(if sign == 0 { "" } else { "-" });
    let mut whole = String::new();
    for position in (0..=weight.max(0)).rev() {
        whole += &format!("{:04}", group(position)?);
    }
    text += match whole.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    };
    if scale > 0 {
        let mut fraction = String::new();
        for position in 1..=(scale.div_ceil(4) as i16) {
            fraction += &format!("{:04}", group(-position)?);
        }
        text = text + "." + fraction.get(..scale)?;
    }
    Some(text)
}

/// An array in binary: dimensions, whether it has NULLs, the type of its elements, then each with its length.
fn list_of(bytes: &[u8], item: &Type) -> Option<Given> {
    let word = |at: usize| Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    match word(0)? {
        0 => return Some(Given::List(Vec::new())),
        1 => {}
        _ => return None,
    }
    let count = usize::try_from(word(12)?).ok()?;
    let mut at = 20;
    let mut items = Vec::new();
    for _ in 0..count {
        let length = word(at)?;
        at += 4;
        if length < 0 {
            items.push(None);
            continue;
        }
        let end = at.checked_add(usize::try_from(length).ok()?)?;
        items.push(Some(decode(item, bytes.get(at..end)?)?));
        at = end;
    }
    (at == bytes.len()).then_some(Given::List(items))
}

/// An array as text: `{1,2,NULL,"a \"b\""}`.
fn list_in(bytes: &[u8]) -> Option<Given> {
    let text = utf8(bytes)?;
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    let (mut item, mut quoted, mut open) = (String::new(), false, false);
    let mut chars = inner.chars();
    let mut close = |item: &mut String, quoted: &mut bool| {
        let text = std::mem::take(item);
        let null = !*quoted && text.trim().eq_ignore_ascii_case("null");
        let text = if *quoted { text } else { text.trim().to_string() };
        *quoted = false;
        items.push((!null).then_some(text));
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => item.push(chars.next()?),
            '"' => {
                open = !open;
                quoted = true;
            }
            ',' if !open => close(&mut item, &mut quoted),
            '{' | '}' if !open => return None,
            c => item.push(c),
        }
    }
    if open {
        return None;
    }
    if !inner.trim().is_empty() {
        close(&mut item, &mut quoted);
    }
    Some(Given::List(items))
}

/// Puts literals in place of placeholders.
///
/// # Errors
/// A value that cannot be of its type; a long one that is used so often that its copies would take the memory.
pub fn fill(statement: &mut Statement, types: &[Type], values: &[Given]) -> Result<(), Fault> {
    let mut bytes = 0_usize;
    let _ = visit_expressions(statement, |e: &Expr| {
        let given = placeholder(e).and_then(number).and_then(|n| values.get(n - 1));
        bytes = bytes.saturating_add(given.map_or(0, Given::size));
        ControlFlow::<()>::Continue(())
    });
    if bytes > MOST_BYTES {
        let message =
            format!("the values of parameters, as often as they are used, are longer than {MOST_BYTES} bytes");
        let hint = "use a long value once: WITH v AS (SELECT $1 AS x) SELECT ... FROM v";
        return Err(Fault::new("54000", message).hint(hint));
    }
    let literals: Vec<Expr> = types.iter().zip(values).map(|(t, v)| literal(t, v)).collect::<Result<_, _>>()?;
    let _ = statement.visit(&mut Filler { literals });
    Ok(())
}

struct Filler {
    literals: Vec<Expr>,
}

impl VisitorMut for Filler {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        // `LIMIT ALL`, as drivers write no limit.
        if let Some(LimitClause::LimitOffset { limit: limit @ Some(_), .. }) = &mut query.limit_clause {
            let null = |e: &Expr| matches!(e, Expr::Cast { expr, .. } if is_null(expr));
            let filled = limit.as_ref().and_then(placeholder).and_then(number).and_then(|n| self.literals.get(n - 1));
            if filled.is_some_and(null) {
                *limit = None;
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        if let Some(filled) = placeholder(e).and_then(number).and_then(|n| self.literals.get(n - 1)) {
            *e = filled.clone();
        }
        ControlFlow::Continue(())
    }
}

fn is_null(e: &Expr) -> bool {
    matches!(e, Expr::Value(v) if matches!(v.value, Value::Null))
}

fn literal(kind: &Type, value: &Given) -> Result<Expr, Fault> {
    let wrong = |text: &str| {
        let text: String = text.chars().take(60).collect();
        Fault::new("22P02", format!("invalid input for type {}: \"{text}\"", kind.name()))
    };
    let quoted = |text: &str| Expr::Value(Value::SingleQuotedString(text.to_string()).with_empty_span());
    match value {
        Given::Null => cast(Expr::Value(Value::Null.with_empty_span()), sql_type(kind)),
        Given::Bytes(bytes) => {
            let digits = bytes.iter().map(|b| format!("{b:02X}")).collect();
            Ok(Expr::Value(Value::HexStringLiteral(digits).with_empty_span()))
        }
        Given::List(items) => {
            let item = element(kind).unwrap_or(Type::TEXT);
            let given = |i: &Option<String>| i.clone().map_or(Given::Null, Given::Text);
            let elem = items.iter().map(|i| literal(&item, &given(i))).collect::<Result<_, _>>()?;
            cast(Expr::Array(Array { elem, named: true }), sql_type(kind))
        }
        Given::Text(text) => match *kind {
            Type::BOOL => match text.trim().to_lowercase().as_str() {
                "t" | "true" | "y" | "yes" | "on" | "1" => Ok(truth(true)),
                "f" | "false" | "n" | "no" | "off" | "0" => Ok(truth(false)),
                _ => Err(wrong(text)),
            },
            Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => {
                let n: i64 = text.trim().parse().map_err(|_| wrong(text))?;
                Ok(whole(n))
            }
            Type::FLOAT4 | Type::FLOAT8 => {
                let n: f64 = text.trim().parse().map_err(|_| wrong(text))?;
                cast(quoted(&n.to_string()), "DOUBLE PRECISION".into())
            }
            Type::NUMERIC => {
                let text = text.trim();
                text.parse::<f64>().map_err(|_| wrong(text))?;
                let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.".contains(&b));
                let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
                let fits = plain && text.len() <= 38;
                cast(quoted(text), if fits { format!("DECIMAL(38, {scale})") } else { "DOUBLE PRECISION".into() })
            }
            Type::DATE | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::INTERVAL => {
                cast(quoted(text), sql_type(kind))
            }
            _ => Ok(quoted(text)),
        },
    }
}

fn truth(value: bool) -> Expr {
    Expr::Value(Value::Boolean(value).with_empty_span())
}

fn whole(n: i64) -> Expr {
    let digits = Expr::Value(Value::Number(n.unsigned_abs().to_string(), false).with_empty_span());
    if n < 0 { Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(digits) } } else { digits }
}

/// Its name in SQL. Whole numbers of all sizes are one type, so that a statement has one result, whatever is sent.
fn sql_type(kind: &Type) -> String {
    if let Some(item) = element(kind) {
        return sql_type(&item) + "[]";
    }
    match *kind {
        Type::BOOL => "BOOLEAN",
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => "BIGINT",
        Type::FLOAT4 | Type::FLOAT8 => "DOUBLE PRECISION",
        Type::NUMERIC => "DECIMAL(38, 10)",
        Type::DATE => "DATE",
        Type::TIME => "TIME",
        Type::TIMESTAMP => "TIMESTAMP",
        Type::TIMESTAMPTZ => "TIMESTAMP WITH TIME ZONE",
        Type::INTERVAL => "INTERVAL",
        Type::BYTEA => "BYTEA",
        _ => "TEXT",
    }
    .to_string()
}

fn cast(expr: Expr, kind: String) -> Result<Expr, Fault> {
    let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(&kind).and_then(|mut p| p.parse_data_type());
    let data_type = parsed.map_err(|e| Fault::new("XX000", format!("no type {kind}: {e}")))?;
    Ok(Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sql: &str) -> Statement {
        Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0)
    }

    #[test]
    fn values_in_both_formats() {
        let text = |t: &str| Ok(Given::Text(t.into()));
        let list = |l: &[Option<&str>]| Ok(Given::List(l.iter().map(|i| i.map(str::to_string)).collect()));
        let array: Vec<u8> = [1_i32, 1, 23, 2, 1, 4, 7, -1].iter().flat_map(|n| n.to_be_bytes()).collect();
        // 1234567.89: groups 123, 4567, 8900; the first weighs 10000.
        let number: Vec<u8> = [3_i16, 1, 0, 2, 123, 4567, 8900].iter().flat_map(|n| n.to_be_bytes()).collect();
        type Case<'a> = (Type, bool, &'a [u8], Result<Given, ()>);
        let cases: Vec<Case> = vec![
            (Type::INT4, true, &[0, 0, 1, 0], text("256")),
            (Type::INT4, true, &[0, 1, 0], Err(())),
            (Type::INT8, false, b"12", text("12")),
            (Type::DATE, true, &[0, 0, 0, 31], text("2000-02-01")),
            (Type::DATE, true, &[255, 255, 255, 255], text("1999-12-31")),
            (Type::TIMESTAMPTZ, true, &[0, 0, 0, 0, 0, 15, 66, 64], text("2000-01-01 00:00:01.000000+00:00")),
            (Type::NUMERIC, true, &number, text("1234567.89")),
            (Type::BOOL, true, &[1], text("true")),
            (Type::TEXT, false, b"a'b", text("a'b")),
            (Type::TEXT, false, &[0xff], Err(())),
            (Type::TEXT, true, b"a\0b", Err(())),
            (Type::INT4_ARRAY, true, &array, list(&[Some("7"), None])),
            (Type::INT4_ARRAY, true, &array[..30], Err(())),
            (
                Type::TEXT_ARRAY,
                false,
                b"{a,\"b,\\\"c\",NULL,\"NULL\"}",
                list(&[Some("a"), Some("b,\"c"), None, Some("NULL")]),
            ),
            (Type::INT4_ARRAY, false, b"{}", list(&[])),
            (Type::INT4_ARRAY, false, b"{{1},{2}}", Err(())),
            (Type::BYTEA, false, b"\\x00ff", Ok(Given::Bytes(vec![0, 255]))),
        ];
        for (kind, binary, bytes, expected) in cases {
            let got = read(&kind, binary, Some(bytes)).map_err(|_| ());
            assert_eq!(got, expected, "{kind} {bytes:?}");
        }
    }

    #[test]
    fn placeholders_become_literals_and_nothing_else() {
        let cases = [
            (Type::INT4, Given::Text("-3".into()), "SELECT * FROM t WHERE a = -3"),
            (Type::TEXT, Given::Text("x' OR 'a'='a".into()), "SELECT * FROM t WHERE a = 'x'' OR ''a''=''a'"),
            (Type::FLOAT8, Given::Text("1e300".into()), ""),
            (Type::DATE, Given::Null, "SELECT * FROM t WHERE a = CAST(NULL AS DATE)"),
            (
                Type::INT8_ARRAY,
                Given::List(vec![Some("1".into()), None]),
                "SELECT * FROM t WHERE a = CAST(ARRAY[1, CAST(NULL AS BIGINT)] AS BIGINT[])",
            ),
        ];
        for (kind, value, expected) in cases {
            let mut statement = parse("SELECT * FROM t WHERE a = $1");
            assert_eq!(count(&statement).unwrap(), 1);
            fill(&mut statement, std::slice::from_ref(&kind), &[value]).unwrap();
            assert!(expected.is_empty() || statement.to_string() == expected, "{statement}");
        }
        let mut statement = parse("SELECT $1");
        assert!(fill(&mut statement, &[Type::INT4], &[Given::Text("1; DROP".into())]).is_err());
        // Ten uses of ten million bytes would be too many.
        for (uses, fits) in [(6, true), (10, false)] {
            let mut statement = parse(&format!("SELECT {}", vec!["$1"; uses].join(", ")));
            let long = Given::Text("x".repeat(10 << 20));
            assert_eq!(fill(&mut statement, &[Type::TEXT], &[long]).is_ok(), fits, "{uses}");
        }
        assert!(count(&parse("SELECT $0")).is_err() && count(&parse("SELECT $70000")).is_err());
        assert_eq!(types(2, &[0, 23], &parse("SELECT $2 LIMIT $1"), None), [Type::INT8, Type::INT4]);
    }
}
