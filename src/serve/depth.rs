//! Statements that are too deep: what plans them walks a tree, and needs stack for each of its levels. Without a limit, a
//! client's `1+1+1+...` would end the server.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{ObjectName, Query, Statement, Visit, Visitor};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;

/// Tables that a statement reads once the queries of its WITHs stand wherever they are named. Twenty queries that each name
/// the one before twice are a million.
const TABLES: u64 = 1_000;

/// Words and signs of a request.
const TOKENS: usize = 50_000;
/// Operators one on another: each is a level of the tree.
const CHAIN: usize = 250;
/// Tables that are joined, or queries that a UNION joins.
const JOINED: usize = 100;

/// What to do about it.
pub const HINT: &str = "write x = ANY($1) or x IN (...) in place of many ORs";

/// Why these words are not planned; `None` where they are.
pub fn too_deep<'a>(tokens: impl Iterator<Item = &'a Token> + Clone) -> Option<String> {
    let words = tokens.clone().filter(|t| !matches!(t, Token::Whitespace(_))).count();
    if words > TOKENS {
        return Some(format!("the statement has {words} words and signs: at most {TOKENS} are read"));
    }
    let (chain, joined) = depth(tokens);
    (chain > CHAIN || joined > JOINED).then(|| {
        format!(
            "the statement is too deep: {chain} operators on one another, {joined} joins and unions; {CHAIN} and {JOINED} \
             are planned"
        )
    })
}

/// Why a statement that is not too deep is not planned; `None` where it is.
pub fn too_wide(statement: &Statement) -> Option<String> {
    let mut tables = Tables { open: vec![Scope::default()], ctes: BTreeMap::new() };
    let _ = statement.visit(&mut tables);
    let read = tables.open.first().map_or(0, |scope| scope.read);
    (read > TABLES).then(|| {
        format!("the statement reads {read} tables, with the queries of WITH written out: {TABLES} are planned")
    })
}

/// Counts tables, inside out.
struct Tables {
    /// The queries around what is visited now.
    open: Vec<Scope>,
    /// The queries of WITHs that are still to be visited, by where they lie, and their names.
    ctes: BTreeMap<usize, String>,
}

#[derive(Default)]
struct Scope {
    read: u64,
    /// What each query of the WITH reads.
    named: BTreeMap<String, u64>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.ctes.insert(std::ptr::from_ref::<Query>(&cte.query) as usize, cte.alias.name.value.to_lowercase());
        }
        self.open.push(Scope::default());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let name = self.ctes.remove(&(std::ptr::from_ref(query) as usize));
        let done = self.open.pop();
        if let (Some(done), Some(around)) = (done, self.open.last_mut()) {
            match name {
                Some(name) => drop(around.named.insert(name, done.read)),
                None => around.read = around.read.saturating_add(done.read),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        let known = match name.0.as_slice() {
            [one] => one.as_ident().map(|i| i.value.to_lowercase()),
            _ => None,
        };
        let tables = known.and_then(|name| self.open.iter().rev().find_map(|scope| scope.named.get(&name).copied()));
        if let Some(scope) = self.open.last_mut() {
            // One that reads nothing is planned all the same.
            scope.read = scope.read.saturating_add(tables.unwrap_or(1).max(1));
        }
        ControlFlow::Continue(())
    }
}

/// How deep the tree of these words will be: operators on one another, and joins and unions; at most, and not much less.
fn depth<'a>(tokens: impl Iterator<Item = &'a Token>) -> (usize, usize) {
    let mut reader = Reader { open: vec![Level::default()], deepest: 0, joined: 0, due: false, is: false, with: false };
    tokens.filter(|t| !matches!(t, Token::Whitespace(_))).for_each(|t| reader.read(t));
    (reader.deepest, reader.joined)
}

/// What is open: the term that is read, what AND and OR joined of it, and the deepest before.
#[derive(Default)]
struct Level {
    term: usize,
    logic: usize,
    most: usize,
    /// Commas are between tables.
    from: bool,
}

impl Level {
    fn all(&self) -> usize {
        self.term.max(self.logic).max(self.most)
    }

    /// What comes now is beside what was before.
    fn next(&mut self) {
        *self = Level { most: self.all(), from: self.from, ..Level::default() };
    }
}

struct Reader {
    open: Vec<Level>,
    deepest: usize,
    joined: usize,
    /// An operand must follow: a word is a name then, whatever it means elsewhere.
    due: bool,
    /// After IS, up to where what is asked is said.
    is: bool,
    /// The word before was AS: parentheses hold a query that later ones read.
    with: bool,
}

impl Reader {
    fn read(&mut self, token: &Token) {
        let (due, is, with) = (self.due, self.is, self.with);
        (self.due, self.is, self.with) = (false, false, false);
        let Some(top) = self.open.last_mut() else { return };
        match token {
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => {}
            Token::Period => self.due = true,
            Token::LParen | Token::LBracket => {
                self.joined += usize::from(with);
                self.open.push(Level::default());
            }
            Token::RParen | Token::RBracket => self.close(),
            Token::Comma => {
                self.joined += usize::from(top.from);
                top.next();
            }
            Token::Word(word) if word.quote_style.is_none() => self.word(word.keyword, due, is),
            Token::Word(_) => {}
            // Every other sign is an operator.
            _ => {
                top.term += 1;
                self.due = true;
            }
        }
        self.deepest = self.deepest.max(self.open.last().map_or(0, Level::all) + self.open.len());
    }

    /// Only what begins a clause ends what was before it: words such as TRUE, NULL and INT are within it.
    fn word(&mut self, keyword: Keyword, due: bool, is: bool) {
        let Some(top) = self.open.last_mut() else { return };
        match keyword {
            Keyword::CASE => self.open.push(Level::default()),
            Keyword::END => self.close(),
            Keyword::AND | Keyword::OR | Keyword::XOR => {
                top.logic = top.logic.max(top.term) + 1;
                top.term = 0;
                self.due = true;
            }
            Keyword::IS => {
                top.term += 1;
                self.is = true;
            }
            Keyword::NOT | Keyword::DISTINCT if is => self.is = true,
            // IS DISTINCT FROM
            Keyword::FROM if is => self.due = true,
            Keyword::NOT
            | Keyword::IN
            | Keyword::BETWEEN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::SIMILAR
            | Keyword::MATCH
            | Keyword::MEMBER
            | Keyword::OVERLAPS
            | Keyword::OPERATOR
            | Keyword::DIV
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::EXPLAIN
            | Keyword::DESCRIBE => {
                top.term += 1;
                self.due = true;
            }
            Keyword::NOTNULL => top.term += 1,
            Keyword::TO | Keyword::TIME | Keyword::ZONE | Keyword::ESCAPE => self.due = true,
            Keyword::AS => self.with = true,
            // AS [NOT] MATERIALIZED
            Keyword::MATERIALIZED => self.with = true,
            Keyword::JOIN | Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::MINUS => {
                self.joined += 1;
                if !due {
                    top.next();
                }
            }
            Keyword::FROM => {
                // Also after `SELECT *`, which seems to lack an operand.
                top.from = true;
                top.next();
            }
            Keyword::SELECT
            | Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::ORDER
            | Keyword::LIMIT
            | Keyword::OFFSET
            | Keyword::WINDOW
            | Keyword::QUALIFY
            | Keyword::WITH
            | Keyword::VALUES
                if !due =>
            {
                top.from = false;
                top.next();
            }
            Keyword::ON | Keyword::WHEN | Keyword::THEN | Keyword::ELSE if !due => top.next(),
            _ => {}
        }
    }

    /// What was in parentheses is one value of what is around them.
    fn close(&mut self) {
        if self.open.len() > 1
            && let Some(inner) = self.open.pop()
            && let Some(top) = self.open.last_mut()
        {
            top.term = top.term.max(inner.all()) + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    #[test]
    fn queries_that_are_named_often_count_as_often() {
        let doubled = |n: usize| {
            let more: String =
                (1..n).map(|i| format!(", t{i} AS (SELECT a.v FROM t{} a, T{} b)", i - 1, i - 1)).collect();
            format!("WITH t0 AS (SELECT a.v FROM x a, x b){more} SELECT count(*) FROM t{}", n - 1)
        };
        let cases = [
            (doubled(8), None),
            (doubled(24), Some(1 << 24)),
            (format!("SELECT * FROM ({}) AS inside", doubled(24)), Some(1 << 24)),
            (format!("EXPLAIN {}", doubled(24)), Some(1 << 24)),
            (doubled(90), Some(u64::MAX)),
            // Named, and never read.
            (doubled(24).replace("FROM t23", "FROM x"), None),
            // Another of the same name, which is a table.
            ("WITH t AS (SELECT 1) SELECT * FROM p.t".to_string(), None),
        ];
        for (sql, expected) in cases {
            let statement = Parser::parse_sql(&GenericDialect {}, &sql).unwrap().remove(0);
            let told = too_wide(&statement);
            let tables = expected.map(|n| format!("reads {n} tables"));
            let right = match (&told, &tables) {
                (Some(told), Some(tables)) => told.contains(tables),
                (told, tables) => told.is_none() && tables.is_none(),
            };
            assert!(right, "{told:?} {}", &sql[..40.min(sql.len())]);
        }
    }

    #[test]
    fn long_chains_are_refused_and_long_lists_are_not() {
        let ones = |n: usize, with: &str| vec!["1"; n].join(with);
        let cases = [
            (format!("SELECT {}", ones(250, "+")), true),
            (format!("SELECT {}", ones(400, "+")), false),
            (format!("SELECT {}", ones(100_000, "+")), false),
            (format!("SELECT 1 WHERE {}", ones(400, " OR ")), false),
            (format!("SELECT 1 WHERE 1 IN ({})", ones(10_000, ",")), true),
            (format!("SELECT {}", ones(10_000, ", ")), true),
            (ones(90, " UNION SELECT ").replacen('1', "SELECT 1", 1), true),
            (ones(300, " UNION SELECT ").replacen('1', "SELECT 1", 1), false),
            // Words that mean something are no way around it.
            (format!("SELECT 1 WHERE {}", vec!["TRUE"; 20_000].join(" OR ")), false),
            (format!("SELECT {}", vec!["NULL"; 20_000].join(" + ")), false),
            (format!("SELECT 1{}", "::int".repeat(2_000)), false),
            (format!("SELECT 1{}", "::limit".repeat(2_000)), false),
            (format!("SELECT 1{}", " IS NULL".repeat(2_000)), false),
            (format!("SELECT 1{}", " IS NOT DISTINCT FROM 1".repeat(2_000)), false),
            (format!("SELECT {}", vec!["limit"; 2_000].join(" AND ")), false),
            (format!("SELECT {}", vec!["values"; 2_000].join(" COLLATE ")), false),
            (format!("SELECT 1{}", " XOR 1".repeat(2_000)), false),
            (format!("SELECT 1{}", " IN (1)".repeat(2_000)), false),
            (format!("{} SELECT 1", vec!["EXPLAIN"; 2_000].join(" ")), false),
            // Tables with commas between them are joined.
            (format!("SELECT * FROM {}", vec!["t"; 90].join(", ")), true),
            (format!("SELECT * FROM {}", vec!["t"; 300].join(", ")), false),
            (format!("SELECT $1 FROM {} WHERE true", vec!["t"; 300].join(", ")), false),
            (format!("SELECT a IS DISTINCT FROM b, {} FROM t", ones(300, ", ")), true),
            (format!("SELECT * FROM t WHERE a IN (1) ORDER BY {}", ones(300, ", ")), true),
            (format!("SELECT * FROM t GROUP BY {} LIMIT 1", ones(300, ", ")), true),
            (format!("WITH {} SELECT 1", vec!["a AS (SELECT 1)"; 50].join(", ")), true),
            (format!("WITH {} SELECT 1", vec!["a AS (SELECT 1)"; 300].join(", ")), false),
            (format!("SELECT {}", vec!["CAST(a AS INT) AS b"; 300].join(", ")), true),
            (format!("SELECT CASE {} END", vec!["WHEN a IS NULL THEN 1"; 300].join(" ")), true),
        ];
        for (sql, planned) in cases {
            let tokens = Tokenizer::new(&GenericDialect {}, &sql).tokenize().unwrap();
            let refused = too_deep(tokens.iter());
            assert_eq!(refused.is_none(), planned, "{}: {refused:?}", &sql[..40]);
        }
    }
}
