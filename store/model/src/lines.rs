//! The lines of a location. Nearly every location has one, which is kept where a longer list would have its pointer and
//! length: a symbol table of many locations is smaller by a third, and none of them is a piece of memory by itself.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::slice;

use crate::Line;

/// Lines of a location: inlined functions first, the function that really holds the address last; empty where it is
/// unresolved.
#[derive(Clone)]
pub struct Lines(Held);

#[derive(Clone)]
enum Held {
    One(Line),
    List(Box<[Line]>),
}

const _: () =
    assert!(size_of::<Lines>() == size_of::<Box<[Line]>>(), "a single line has its place in a list's");

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match &self.0 {
            Held::One(line) => slice::from_ref(line),
            Held::List(lines) => lines,
        }
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self(Held::List(Box::default()))
    }
}

impl From<Line> for Lines {
    fn from(line: Line) -> Self {
        Self(Held::One(line))
    }
}

impl From<&[Line]> for Lines {
    fn from(lines: &[Line]) -> Self {
        match lines {
            [line] => Self::from(*line),
            _ => Self(Held::List(lines.into())),
        }
    }
}

impl From<Vec<Line>> for Lines {
    fn from(lines: Vec<Line>) -> Self {
        match lines[..] {
            [line] => Self::from(line),
            _ => Self(Held::List(lines.into())),
        }
    }
}

impl FromIterator<Line> for Lines {
    fn from_iter<I: IntoIterator<Item = Line>>(lines: I) -> Self {
        let mut lines = lines.into_iter().fuse();
        match (lines.next(), lines.next()) {
            (Some(line), None) => Self::from(line),
            (first, second) => Self(Held::List(first.into_iter().chain(second).chain(lines).collect())),
        }
    }
}

impl<'a> IntoIterator for &'a Lines {
    type Item = &'a Line;
    type IntoIter = slice::Iter<'a, Line>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Lines {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Lines {}

impl Hash for Lines {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FunctionId;

    #[test]
    fn lines_are_the_same_however_they_are_made() {
        for count in 0..4 {
            let line = |n| Line { function: FunctionId(n), line: 7 * n };
            let expected: Vec<Line> = (0..count).map(line).collect();
            let made =
                [(0..count).map(line).collect(), Lines::from(&expected[..]), Lines::from(expected.clone())];
            for lines in &made {
                assert_eq!((&**lines, lines), (&expected[..], &made[0]));
                assert_eq!(lines.into_iter().count(), expected.len());
                assert_eq!(format!("{lines:?}"), format!("{expected:?}"));
            }
        }
        assert_eq!(*Lines::default(), []);
        let line = Line { function: FunctionId(1), line: 2 };
        assert_eq!(*Lines::from(line), [line]);
    }
}
