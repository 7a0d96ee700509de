//! Selectors: which series a query is about, in the grammar of a `PromQL` metric selector.
//!
//! ```text
//! selector := [name] "{" [matcher {"," matcher} [","]] "}" | name
//! matcher  := (identifier | quoted) ("=" | "!=" | "=~" | "!~") quoted | quoted
//! quoted   := "…" | '…' | `…`            the first two with Go's escapes
//! ```
//!
//! A name before the braces, or a lone quoted one inside, is the matcher `__name__="name"`. Label names outside
//! quotes are `[a-zA-Z_][a-zA-Z0-9_]*`; quoted ones are any UTF-8. Regular expressions match the whole value.
//! A label that a series lacks has the empty value.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use crate::labels::names::PROFILE_NAME;
use crate::literals::{self, Candidates};
use crate::selector_scan::Scanner;
use crate::{LabelSet, ProfileType, Tenant, names};

/// Compiled size of one regular expression, so that `(a{1000}){1000}` is an error and not a gigabyte.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// What the names of profiles begin with that Go's delta profiler made.
pub(crate) const DELTA_PROFILER: &str = "godeltaprof_";

/// Names that every series has without storing them, in byte order.
pub const SYNTHETIC_LABELS: [&str; 7] = [
    names::PROFILE_NAME,
    "__period_type__",
    "__period_unit__",
    names::PROFILE_TYPE,
    "__service_name__",
    "__type__",
    "__unit__",
];

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// The stored labels.
    pub labels: LabelSet,
    /// What is counted.
    pub profile_type: ProfileType,
    /// Whose it is. No label tells it, so that nobody can ask for another's, and no selector looks at it.
    pub tenant: Tenant,
}

impl SeriesKey {
    /// Whether values are counted since the start of a program, so that only the difference between two profiles says what
    /// happened. Whoever pushes says otherwise by the label `__delta__="false"` or by a profile of Go's delta profiler.
    pub fn is_cumulative(&self) -> bool {
        let pushed_as = self.labels.get(names::NAME_REPLACED).unwrap_or_default();
        self.profile_type.may_be_cumulative()
            && self.labels.get(names::DELTA) != Some("false")
            && !pushed_as.starts_with(DELTA_PROFILER)
    }

    /// The value of a stored or synthetic label; `None` where there is none or it is empty.
    pub fn label(&self, name: &str) -> Option<Cow<'_, str>> {
        let kind = &self.profile_type;
        let value = match name {
            names::PROFILE_NAME => kind.name.as_str(),
            names::PROFILE_TYPE => return Some(Cow::Owned(kind.to_string())),
            "__type__" => kind.sample_type.as_str(),
            "__unit__" => kind.sample_unit.as_str(),
            "__period_type__" => kind.period_type.as_str(),
            "__period_unit__" => kind.period_unit.as_str(),
            "__service_name__" => self.labels.get(names::SERVICE_NAME)?,
            _ => self.labels.get(name)?,
        };
        (!value.is_empty()).then_some(Cow::Borrowed(value))
    }

    /// The names of all labels that have a value, stored and synthetic, unordered.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        let stored = self.labels.iter().map(|label| label.name.as_str());
        let stored = stored.filter(|name| !SYNTHETIC_LABELS.contains(name));
        stored.chain(SYNTHETIC_LABELS.into_iter().filter(|name| self.label(name).is_some()))
    }
}

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl MatchOp {
    /// The operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// One condition on one label.
#[derive(Clone, Debug)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    /// Present for the two regular expression operators.
    regex: Option<Regex>,
}

impl Matcher {
    /// A condition; only a regular expression that does not compile can make it fail.
    pub fn new(
        name: impl Into<String>,
        op: MatchOp,
        value: impl Into<String>,
    ) -> Result<Self, Box<regex::Error>> {
        let (name, value) = (name.into(), value.into());
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(anchored(&value)?),
        };
        Ok(Self { name, op, value, regex })
    }

    /// The condition `name="value"`.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    /// The label that is looked at.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is compared.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// What it is compared with.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label value, empty for a label that is not there, meets the condition.
    pub fn matches(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Equal => value == self.value,
            MatchOp::NotEqual => value != self.value,
            MatchOp::Regex => self.regex_matches(value),
            MatchOp::NotRegex => !self.regex_matches(value),
        }
    }

    /// Where the values are that [`matches`](Self::matches) answers otherwise than the empty one.
    pub fn candidates(&self) -> Candidates {
        match (self.op, self.value.as_str()) {
            (MatchOp::Equal | MatchOp::NotEqual, "") | (MatchOp::Regex | MatchOp::NotRegex, ".+") => {
                Candidates::Every
            }
            (MatchOp::Equal | MatchOp::NotEqual, value) => Candidates::Exactly(vec![value.to_owned()]),
            (MatchOp::Regex | MatchOp::NotRegex, ".*") => Candidates::Exactly(Vec::new()),
            (MatchOp::Regex | MatchOp::NotRegex, _) if self.regex_matches("") => Candidates::Any,
            (MatchOp::Regex | MatchOp::NotRegex, pattern) => literals::of_regex(pattern),
        }
    }

    fn regex_matches(&self, value: &str) -> bool {
        self.regex.as_ref().is_some_and(|regex| regex.is_match(value))
    }
}

/// Compiles an expression that must match a whole value; `.` matches a newline too, as in Prometheus.
fn anchored(pattern: &str) -> Result<Regex, Box<regex::Error>> {
    let compile = |text: &str| RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build().map_err(Box::new);
    // By itself first: `a)|(b` is no expression, though it becomes one inside the group below.
    compile(pattern)?;
    compile(&format!("^(?s:{pattern})$"))
}

/// Conditions that a series must all meet.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    matchers: Vec<Matcher>,
}

impl Selector {
    /// The selector `{}`, which matches every series.
    pub fn all() -> Self {
        Self::default()
    }

    /// This selector with one more condition.
    #[must_use]
    pub fn with(mut self, matcher: Matcher) -> Self {
        self.matchers.push(matcher);
        self
    }

    /// The conditions in the order they were written.
    pub fn matchers(&self) -> &[Matcher] {
        &self.matchers
    }

    /// Whether the series meets every condition.
    pub fn matches(&self, series: &SeriesKey) -> bool {
        self.matchers.iter().all(|m| m.matches(series.label(&m.name).as_deref().unwrap_or_default()))
    }

    /// Takes out the `__name__="…"` condition, which in a render query holds the profile type id.
    pub fn take_name(&mut self) -> Option<String> {
        let at = self.matchers.iter().position(|m| m.name == PROFILE_NAME && m.op == MatchOp::Equal)?;
        Some(self.matchers.remove(at).value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, Matcher { name, op, value, .. }) in self.matchers.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            if is_identifier(name) {
                f.write_str(name)?;
            } else {
                write_quoted(f, name)?;
            }
            f.write_str(op.as_str())?;
            write_quoted(f, value)?;
        }
        f.write_str("}")
    }
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            _ => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// Why a string is not a selector. Positions are byte offsets from 0.
#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    /// Nothing but white space; the selector of everything is `{}`.
    #[error("empty selector; write {{}} to select everything")]
    Empty,
    /// Something else was needed here.
    #[error("at position {position}: expected {expected}, found {found}")]
    Unexpected {
        /// Byte offset in the selector.
        position: usize,
        /// What the grammar allows here.
        expected: &'static str,
        /// What is there instead.
        found: String,
    },
    /// A quote without its end.
    #[error("at position {position}: string without closing {quote}")]
    Unterminated {
        /// Byte offset of the opening quote.
        position: usize,
        /// The quote that is missing.
        quote: char,
    },
    /// A backslash followed by what is no escape.
    #[error("at position {position}: invalid escape sequence")]
    BadEscape {
        /// Byte offset of the backslash.
        position: usize,
    },
    /// Escapes that together are no UTF-8.
    #[error("at position {position}: string is not valid UTF-8")]
    NotUtf8 {
        /// Byte offset of the opening quote.
        position: usize,
    },
    /// A regular expression that does not compile.
    #[error("at position {position}: invalid regular expression {pattern:?}")]
    Regex {
        /// Byte offset of the expression's opening quote.
        position: usize,
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: Box<regex::Error>,
    },
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut scan = Scanner::new(text);
        if scan.at_end() {
            return Err(SelectorError::Empty);
        }
        let mut selector = Self::all();
        if let Some(name) = scan.metric_name() {
            selector.matchers.push(Matcher::equal(PROFILE_NAME, name));
        }
        if selector.matchers.is_empty() || !scan.at_end() {
            scan.expect('{', "\"{\"")?;
            while !scan.take('}') {
                selector.matchers.push(parse_matcher(&mut scan)?);
                if !scan.take(',') {
                    scan.expect('}', "\",\" or \"}\"")?;
                    break;
                }
            }
        }
        if scan.at_end() { Ok(selector) } else { Err(scan.unexpected("the end")) }
    }
}

fn parse_matcher(scan: &mut Scanner<'_>) -> Result<Matcher, SelectorError> {
    let (name, quoted) = match scan.quoted()? {
        Some(name) => (name, true),
        None => (scan.identifier().ok_or_else(|| scan.unexpected("a label name"))?.to_owned(), false),
    };
    let op = match scan.operator() {
        Some(op) => op,
        None if quoted => return Ok(Matcher::equal(PROFILE_NAME, name)),
        None => return Err(scan.unexpected("one of = != =~ !~")),
    };
    scan.skip_space();
    let position = scan.position();
    let value = scan.quoted()?.ok_or_else(|| scan.unexpected("a quoted value"))?;
    Matcher::new(name, op, value.clone()).map_err(|source| SelectorError::Regex {
        position,
        pattern: value,
        source,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series() -> SeriesKey {
        SeriesKey {
            labels: LabelSet::from_pairs([("service_name", "api"), ("k8s.pod", "api-1"), ("zone", "a\nb")]),
            profile_type: ProfileType::cpu_time(),
            tenant: Tenant::default(),
        }
    }

    #[test]
    fn values_accumulate_unless_the_series_says_otherwise() {
        let id = |name: &str, sample_type: &str| format!("{name}:{sample_type}:bytes:space:bytes");
        for (id, labels, expected) in [
            (id("memory", "alloc_space"), &[][..], true),
            (id("memory", "alloc_objects"), &[("__delta__", "true")], true),
            (id("memory", "alloc_space"), &[("__delta__", "false")], false),
            (id("memory", "alloc_space"), &[("__name_replaced__", "godeltaprof_memory")], false),
            (id("memory", "inuse_space"), &[], false),
            (id("process_cpu", "alloc_space"), &[], false),
        ] {
            let labels = LabelSet::from_pairs(labels.iter().copied());
            let key = SeriesKey { labels, profile_type: id.parse().unwrap(), tenant: Tenant::default() };
            assert_eq!(key.is_cumulative(), expected, "{id} {}", key.labels);
        }
    }

    #[track_caller]
    fn check(selector: &str, matches: bool) {
        let parsed: Selector = selector.parse().expect(selector);
        assert_eq!(parsed.matches(&series()), matches, "{selector}");
        let again: Selector = parsed.to_string().parse().expect(selector);
        assert_eq!(again.to_string(), parsed.to_string());
        assert_eq!(again.matches(&series()), matches, "{parsed}");
    }

    #[test]
    fn matches_as_prometheus_does() {
        check("{}", true);
        check(" { } ", true);
        check(r#"{service_name="api"}"#, true);
        check(r#"{service_name="ap"}"#, false);
        check("{service_name='api',}", true);
        check(r#"{service_name=~"a.*", service_name!~"b.*"}"#, true);
        check(r#"{service_name=~"ap"}"#, false);
        check(r#"{service_name=~"x|api"}"#, true);
        check(r#"{missing=""}"#, true);
        check(r#"{missing!=""}"#, false);
        check(r#"{missing=~".*"}"#, true);
        check(r#"{missing=~".+"}"#, false);
        check(r#"{"k8s.pod"="api-1"}"#, true);
        check(r#"{zone=~"a.b"}"#, true);
        check(r#"{zone="a\nb"}"#, true);
        check("{service_name=`api`}", true);
        check(r#"{service_name="\x61\160\u0069"}"#, true);
    }

    #[test]
    fn synthetic_labels_come_from_the_profile_type() {
        check(r#"{__profile_type__="process_cpu:cpu:nanoseconds:cpu:nanoseconds"}"#, true);
        check(r#"{__name__="process_cpu",__type__="cpu",__unit__="nanoseconds"}"#, true);
        check(r#"{__period_type__="cpu",__period_unit__="bytes"}"#, false);
        check(r#"{__service_name__="api"}"#, true);
        check("process_cpu", true);
        check("memory{}", false);
        check(r#"{"process_cpu"}"#, true);
    }

    #[test]
    fn a_render_query_names_its_profile_type() {
        let mut selector: Selector = r#"process_cpu:cpu:nanoseconds:cpu:nanoseconds{a="b"}"#.parse().unwrap();
        let name = selector.take_name();
        assert_eq!(name.as_deref(), Some("process_cpu:cpu:nanoseconds:cpu:nanoseconds"));
        assert_eq!(selector.to_string(), r#"{a="b"}"#);
        assert_eq!(selector.take_name(), None);
    }

    #[test]
    fn label_names_are_stored_ones_and_synthetic_ones() {
        let series = series();
        let mut names: Vec<&str> = series.label_names().collect();
        names.sort_unstable();
        assert_eq!(names[..7], SYNTHETIC_LABELS);
        assert_eq!(names[7..], ["k8s.pod", "service_name", "zone"]);
    }

    #[test]
    fn errors_say_where() {
        for (bad, message) in [
            ("", "empty selector; write {} to select everything"),
            ("  ", "empty selector; write {} to select everything"),
            ("{", "at position 1: expected a label name, found the end"),
            ("{a}", "at position 2: expected one of = != =~ !~, found \"}\""),
            ("{a=}", "at position 3: expected a quoted value, found \"}\""),
            ("{a=\"b}", "at position 3: string without closing \""),
            ("{a=\"b\"", "at position 6: expected \",\" or \"}\", found the end"),
            ("{a=\"b\"} x", "at position 8: expected the end, found \"x\""),
            ("{,}", "at position 1: expected a label name, found \",\""),
            (r#"{a="\q"}"#, "at position 4: invalid escape sequence"),
            (r#"{a="\xff"}"#, "at position 3: string is not valid UTF-8"),
            (r#"{a=~"("}"#, "at position 4: invalid regular expression \"(\""),
            (r#"{a=~"b)|(c"}"#, "at position 4: invalid regular expression \"b)|(c\""),
            ("é{}", "at position 0: expected \"{\", found \"é\""),
        ] {
            let error = bad.parse::<Selector>().expect_err(bad);
            assert_eq!(error.to_string(), message, "{bad}");
        }
        let huge = r#"{a=~"((a{999}){999}){999}"}"#.parse::<Selector>();
        assert!(matches!(huge, Err(SelectorError::Regex { .. })));
    }

    /// Whether a value is or may be one that a condition tells from a missing one, by its candidates.
    fn is_candidate(matcher: &Matcher, value: &str) -> (bool, bool) {
        let both = |is: bool| (is, is);
        match matcher.candidates() {
            Candidates::Exactly(values) => both(values.iter().any(|candidate| candidate == value)),
            Candidates::Every => both(true),
            Candidates::Prefixed(prefixes) => {
                (false, prefixes.iter().any(|prefix| value.starts_with(prefix)))
            }
            Candidates::Any => (false, true),
        }
    }

    fn any_pattern() -> impl Strategy<Value = String> {
        let pieces = [
            "a", "b", "é", "A", "|", "(a|b)", "(?i)", "(?-s)", "(", ")", ".", "*", "+", "?", ".*", ".+",
            "[ab]", "[^a]", "a{0,2}", "{2}", "^", "$", r"\b", r"\n", r"\.", "}", "-", "(?:ab|b)", "()",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..6).prop_map(|pieces| pieces.concat())
    }

    fn any_op() -> impl Strategy<Value = MatchOp> {
        use MatchOp::{Equal, NotEqual, NotRegex, Regex};
        prop::sample::select(vec![Equal, NotEqual, Regex, NotRegex])
    }

    proptest! {
        #[test]
        fn candidates_are_what_is_not_matched_like_a_missing_label(
            pattern in any_pattern(),
            op in any_op(),
            values in prop::collection::vec("[abAé
    ]{1,4}", 1..6),
        ) {
            let Ok(matcher) = Matcher::new("label", op, pattern) else { return Ok(()) };
            let absent = matcher.matches("");
            for value in values {
                let differs = matcher.matches(&value) != absent;
                let (is, may_be) = is_candidate(&matcher, &value);
                prop_assert!(!differs || may_be, "{:?} {:?}", matcher, value);
                prop_assert!(!is || differs, "{:?} {:?}", matcher, value);
            }
        }

        #[test]
        fn never_panics(text in r#"[a-z_:{}=!~,"'`\\ éx0-9(|.*]{0,40}"#) {
            if let Ok(selector) = text.parse::<Selector>() {
                selector.matches(&series());
                let again: Selector = selector.to_string().parse().expect("a selector prints as a selector");
                prop_assert_eq!(again.to_string(), selector.to_string());
            }
        }

        #[test]
        fn any_name_and_value_survive_printing(name in ".{1,8}", value in ".{0,12}") {
            let selector = Selector::all().with(Matcher::equal(name.clone(), value.clone()));
            let again: Selector = selector.to_string().parse().expect("printed");
            prop_assert_eq!(again.matchers()[0].name(), name);
            prop_assert_eq!(again.matchers()[0].value(), value);
        }
    }
}
