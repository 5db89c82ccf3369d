//! Statements that are too deep: what plans them walks a tree, and needs stack for each of its levels. Without a limit, a
//! client's `1+1+1+...` would end the server.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;

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

/// How deep the tree of these words will be: operators on one another, and joins and unions; at most, and not much less.
fn depth<'a>(tokens: impl Iterator<Item = &'a Token>) -> (usize, usize) {
    /// What is open: the term that is read, what AND and OR joined of it, and the deepest before.
    #[derive(Default)]
    struct Level {
        term: usize,
        logic: usize,
        most: usize,
    }
    /// What was in parentheses is one value of what is around them.
    fn close(open: &mut Vec<Level>) {
        if open.len() > 1
            && let Some(inner) = open.pop()
            && let Some(top) = open.last_mut()
        {
            top.term = top.term.max(inner.all()) + 1;
        }
    }
    impl Level {
        fn all(&self) -> usize {
            self.term.max(self.logic).max(self.most)
        }
    }
    let mut open = vec![Level::default()];
    let (mut deepest, mut joined) = (0, 0);
    for token in tokens {
        let Some(top) = open.last_mut() else { break };
        match token {
            Token::Whitespace(_) | Token::Number(..) | Token::SingleQuotedString(_) | Token::Period => {}
            Token::LParen | Token::LBracket => open.push(Level::default()),
            Token::RParen | Token::RBracket => close(&mut open),
            Token::Comma => *top = Level { most: top.all(), ..Level::default() },
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::CASE => open.push(Level::default()),
                Keyword::END => close(&mut open),
                Keyword::AND | Keyword::OR => {
                    top.logic = top.logic.max(top.term) + 1;
                    top.term = 0;
                }
                Keyword::NOT | Keyword::IS | Keyword::LIKE | Keyword::ILIKE | Keyword::COLLATE | Keyword::AT => {
                    top.term += 1;
                }
                Keyword::JOIN | Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT => {
                    joined += 1;
                    *top = Level { most: top.all(), ..Level::default() };
                }
                Keyword::NoKeyword => {}
                _ => *top = Level { most: top.all(), ..Level::default() },
            },
            Token::Word(_) => {}
            // Every other sign is an operator.
            _ => top.term += 1,
        }
        deepest = deepest.max(open.last().map_or(0, |l| l.all()) + open.len());
    }
    (deepest, joined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

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
        ];
        for (sql, planned) in cases {
            let tokens = Tokenizer::new(&GenericDialect {}, &sql).tokenize().unwrap();
            let refused = too_deep(tokens.iter());
            assert_eq!(refused.is_none(), planned, "{}: {refused:?}", &sql[..40]);
        }
    }
}
