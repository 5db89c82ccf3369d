//! What PostgreSQL writes otherwise in any statement: patterns with escapes, names of objects as types, functions without
//! parentheses.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, CastKind, DataType, Expr, FunctionArguments, Value, VisitorMut};

use super::{call, literal, text_of, type_name, unnested, words};

/// What is changed in every statement.
pub struct Always;

impl VisitorMut for Always {
    type Break = ();

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        match e {
            Expr::Like { .. } | Expr::ILike { .. } => match escaped(e) {
                Some(regex) => *e = regex,
                None => with_backslash(e),
            },
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
                if let Some(cast) = of_object(expr, data_type) {
                    *e = cast;
                }
            }
            Expr::Identifier(name)
                if name.quote_style.is_none()
                    && ["current_schema", "session_user"].contains(&name.value.to_lowercase().as_str()) =>
            {
                *e = call(&name.value.to_lowercase(), Vec::new());
            }
            Expr::Function(f) if matches!(f.args, FunctionArguments::None) => {
                // `current_user` and the like, without parentheses.
                if let [name] = words(&f.name).as_slice()
                    && ["current_user", "session_user", "user", "current_role", "current_catalog", "current_schema"]
                        .contains(&name.as_str())
                {
                    *e = call(name, Vec::new());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// `LIKE` with a pattern that escapes signs, as a regular expression: DataFusion loses the escapes where it makes a test of
/// the beginning of it.
fn escaped(e: &Expr) -> Option<Expr> {
    let (Expr::Like { negated, any: false, expr, pattern, escape_char }
    | Expr::ILike { negated, any: false, expr, pattern, escape_char }) = e
    else {
        return None;
    };
    let sign = match escape_char.as_ref().map(|v| &v.value) {
        None => Some('\\'),
        Some(Value::SingleQuotedString(sign)) => sign.chars().next(),
        Some(_) => None,
    };
    let pattern = constant(pattern)?;
    if escape_char.is_none() && !pattern.contains('\\') {
        return None;
    }
    let mut regex = String::from("^(?s:");
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == sign => regex += &regex::escape(&chars.next().unwrap_or(c).to_string()),
            '%' => regex += ".*",
            '_' => regex.push('.'),
            c => regex += &regex::escape(&c.to_string()),
        }
    }
    regex += ")$";
    let op = match (e, negated) {
        (Expr::Like { .. }, false) => BinaryOperator::PGRegexMatch,
        (Expr::Like { .. }, true) => BinaryOperator::PGRegexNotMatch,
        (_, false) => BinaryOperator::PGRegexIMatch,
        (_, true) => BinaryOperator::PGRegexNotIMatch,
    };
    let (left, right) = (Box::new(Expr::Nested(expr.clone())), Box::new(literal(&regex)));
    Some(Expr::Nested(Box::new(Expr::BinaryOp { left, op, right })))
}

/// The text that an expression of literals is.
fn constant(e: &Expr) -> Option<String> {
    match e {
        Expr::Nested(inner) => constant(inner),
        Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } => Some(constant(left)? + &constant(right)?),
        e => text_of(e).map(str::to_string),
    }
}

/// Escapes of a pattern that only the rows tell, as DataFusion's: with a backslash.
fn with_backslash(e: &mut Expr) {
    if let Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } = e
        && let Some(Value::SingleQuotedString(sign)) = escape_char.take().map(|v| v.value)
        && !sign.is_empty()
        && sign != "\\"
    {
        **pattern = call("replace", vec![pattern.as_ref().clone(), literal(&sign), literal("\\")]);
    }
}

/// Casts between names and oids of objects.
fn of_object(expr: &Expr, data_type: &DataType) -> Option<Expr> {
    let kind = type_name(data_type);
    if ["regclass", "regnamespace", "regtype", "regproc", "regprocedure", "regrole"].contains(&kind.as_str()) {
        let name = text_of(expr)?;
        if name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() {
            return Some(Expr::Value(Value::Number(name.to_string(), false).with_empty_span()));
        }
        if kind.starts_with("regproc") {
            // Functions are known by their names in the tables of the catalog.
            return Some(literal(name.rsplit('.').next().unwrap_or(name)));
        }
        return Some(call(&format!("to_{kind}"), vec![expr.clone()]));
    }
    if ["text", "varchar", "name", "character varying"].contains(&kind.as_str())
        && let Expr::Cast { expr: inner, data_type: of, .. } = unnested(expr)
        && text_of(inner).is_none()
    {
        let name = match type_name(of).as_str() {
            "regclass" => "pg_name_of_class",
            "regnamespace" => "pg_name_of_namespace",
            "regtype" => "pg_name_of_type",
            _ => return None,
        };
        return Some(call(name, vec![inner.as_ref().clone()]));
    }
    None
}
