//! What the text of a regular expression says about the values that it can match, so that an index of values tries
//! few of them in place of all.

use regex_syntax::Parser;
use regex_syntax::hir::literal::Extractor;

/// What has a meaning in an expression, but for the bar between choices.
const META: [char; 12] = ['\\', '.', '+', '*', '?', '(', ')', '[', ']', '{', '^', '$'];
/// Literals extracted from one expression: its time grows with their square. More are cut to shorter beginnings.
const MAX_LITERALS: usize = 512;
/// Longer literals are cut to their beginnings.
const MAX_LITERAL_BYTES: usize = 2048;

/// Where to look for the values on which a condition decides otherwise than on a label that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// They are these.
    Exactly(Vec<String>),
    /// They are all values there are.
    Every,
    /// Among those that begin with one of these.
    Prefixed(Vec<String>),
    /// Among all values.
    Any,
}

/// Where the values are that an expression matches.
pub(crate) fn of_regex(pattern: &str) -> Candidates {
    if !pattern.contains(META) {
        return Candidates::Exactly(pattern.split('|').map(str::to_owned).collect());
    }
    // As the expression is compiled, but for its anchors: what is extracted is what a match begins with.
    let Ok(hir) = Parser::new().parse(&format!("(?s:{pattern})")) else { return Candidates::Any };
    let mut extractor = Extractor::new();
    extractor.limit_total(MAX_LITERALS).limit_literal_len(MAX_LITERAL_BYTES);
    let found = extractor.extract(&hir);
    let Some(literals) = found.literals() else { return Candidates::Any };
    // Whether `^` or `\b` is met is not looked at when literals are extracted.
    if found.is_exact() && hir.properties().look_set().is_empty() {
        let whole = literals.iter().map(|literal| std::str::from_utf8(literal.as_bytes()).map(str::to_owned));
        return whole.collect::<Result<_, _>>().map_or(Candidates::Any, Candidates::Exactly);
    }
    let prefixes: Vec<String> = literals.iter().map(|literal| valid_start(literal.as_bytes())).collect();
    if prefixes.iter().any(String::is_empty) { Candidates::Any } else { Candidates::Prefixed(prefixes) }
}

/// The whole characters that the bytes begin with: a literal may have been cut inside one.
fn valid_start(bytes: &[u8]) -> String {
    bytes.utf8_chunks().next().map_or_else(String::new, |chunk| chunk.valid().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, exactly: &[&str], prefixed: &[&str]) {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected = match (exactly, prefixed) {
            ([], []) => Candidates::Any,
            (exactly, []) => Candidates::Exactly(owned(exactly)),
            (_, prefixed) => Candidates::Prefixed(owned(prefixed)),
        };
        assert_eq!(of_regex(pattern), expected, "{pattern}");
    }

    #[test]
    fn choices_are_literals_and_beginnings_are_prefixes() {
        check("api", &["api"], &[]);
        check("api|db|web", &["api", "db", "web"], &[]);
        check("api-(1|2)", &["api-1", "api-2"], &[]);
        check("^api$", &[], &["api"]);
        check(r"k8s\.pod", &["k8s.pod"], &[]);
        check("api-.*", &[], &["api-"]);
        check("(api|db)-.+", &[], &["api-", "db-"]);
        check("api|db-.*", &[], &["api", "db-"]);
        check(".*api", &[], &[]);
        check("api|.*", &[], &[]);
        check("[^a]", &[], &[]);
    }

    #[test]
    fn choices_may_be_many() {
        let choices = |n: usize| (0..n).map(|i| format!("service-{i}")).collect::<Vec<_>>();
        assert_eq!(of_regex(&choices(5000).join("|")), Candidates::Exactly(choices(5000)));
        let grouped = |n: usize| of_regex(&format!("({})", choices(n).join("|")));
        assert_eq!(grouped(MAX_LITERALS), Candidates::Exactly(choices(MAX_LITERALS)));
        let Candidates::Prefixed(prefixes) = grouped(MAX_LITERALS + 1) else { panic!("cut to beginnings") };
        assert!(prefixes.iter().all(|prefix| prefix.starts_with("serv")), "{prefixes:?}");
    }
}
