//! Tenants: whose data it is. What one tenant pushed, no other can read.
//!
//! A store is never asked without [`Tenants`], and takes in nothing that is not of one [`Tenant`]. Where only one is
//! kept, everything is of the default one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Who a batch or a series belongs to: 1 to 150 bytes of ASCII letters, digits and `!-_.*'()`, but neither `.` nor `..`,
/// which is what servers with the header `X-Scope-OrgID` have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(
    /// `None` for the default one, so that it costs nothing.
    Option<Arc<str>>,
);

impl Tenant {
    /// The name of the default tenant.
    pub const DEFAULT_NAME: &str = "anonymous";
    /// The longest name.
    pub const MAX_BYTES: usize = 150;

    /// Its name.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(Self::DEFAULT_NAME)
    }

    /// Whether it is the one that everything is of where only one is kept.
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tenant {
    type Err = TenantError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "!-_.*'()".contains(c);
        if let Some(found) = name.chars().find(|c| !allowed(*c)) {
            return Err(TenantError::Character { found });
        }
        match name {
            "" => Err(TenantError::Empty),
            "." | ".." => Err(TenantError::Dots),
            name if name.len() > Self::MAX_BYTES => Err(TenantError::TooLong { bytes: name.len() }),
            Self::DEFAULT_NAME => Ok(Self(None)),
            name => Ok(Self(Some(name.into()))),
        }
    }
}

/// Whose data a query is about: at least one tenant, each once, in order. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenants(Arc<[Tenant]>);

impl Tenants {
    /// The most that one query may be about.
    pub const MAX: usize = 16;

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, Tenant> {
        self.0.iter()
    }

    /// Whether the query is about this tenant's data.
    pub fn contains(&self, tenant: &Tenant) -> bool {
        self.0.contains(tenant)
    }

    /// The tenant, where it is one.
    pub fn only(&self) -> Option<&Tenant> {
        if let [tenant] = &*self.0 { Some(tenant) } else { None }
    }
}

impl Default for Tenants {
    /// The default tenant.
    fn default() -> Self {
        Tenant::default().into()
    }
}

impl From<Tenant> for Tenants {
    fn from(tenant: Tenant) -> Self {
        Self(Arc::new([tenant]))
    }
}

impl<'a> IntoIterator for &'a Tenants {
    type Item = &'a Tenant;
    type IntoIter = std::slice::Iter<'a, Tenant>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromStr for Tenants {
    type Err = TenantError;

    /// Reads `a` and `a|b`.
    fn from_str(names: &str) -> Result<Self, Self::Err> {
        let mut tenants = names.split('|').map(str::parse).collect::<Result<Vec<Tenant>, _>>()?;
        tenants.sort_unstable();
        tenants.dedup();
        if tenants.len() > Self::MAX {
            return Err(TenantError::TooMany { found: tenants.len() });
        }
        Ok(Self(tenants.into()))
    }
}

/// Why a text names no tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// Nothing at all, or nothing beside a `|`.
    #[error("the name of a tenant is empty")]
    Empty,
    /// One of the two names that mean a directory.
    #[error("the name of a tenant is neither \".\" nor \"..\"")]
    Dots,
    /// Too long.
    #[error("the name of a tenant has {bytes} bytes, at most {} are allowed", Tenant::MAX_BYTES)]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// A character that names do not have.
    #[error("the name of a tenant has {found:?} in it; allowed are letters, digits and !-_.*'()")]
    Character {
        /// The first such character.
        found: char,
    },
    /// More tenants than one query may be about.
    #[error("{found} tenants, at most {} are allowed at once", Tenants::MAX)]
    TooMany {
        /// How many different ones.
        found: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[&str], TenantError>) {
        let parsed = text.parse::<Tenants>();
        let names = parsed.as_ref().map(|tenants| tenants.iter().map(Tenant::as_str).collect::<Vec<_>>());
        assert_eq!(names, expected.as_ref().map(|names| names.to_vec()), "{text:?}");
    }

    #[test]
    fn names_are_sorted_and_each_is_there_once() {
        check("a", Ok(&["a"]));
        check("b|a|b", Ok(&["a", "b"]));
        check("Team-1_x.y!*'()", Ok(&["Team-1_x.y!*'()"]));
        check("...", Ok(&["..."]));
        check(&"x".repeat(150), Ok(&[&"x".repeat(150)]));
        let sixteen: Vec<String> = (10..26).map(|i| i.to_string()).collect();
        check(&sixteen.join("|"), Ok(&sixteen.iter().map(String::as_str).collect::<Vec<_>>()));
        check(&["a"; 100].join("|"), Ok(&["a"]));
    }

    #[test]
    fn what_names_nobody_is_an_error() {
        for empty in ["", "|", "a|", "|a", "a||b"] {
            check(empty, Err(TenantError::Empty));
        }
        check(".", Err(TenantError::Dots));
        check("a|..", Err(TenantError::Dots));
        check(&"x".repeat(151), Err(TenantError::TooLong { bytes: 151 }));
        for (text, found) in [
            ("a b", ' '),
            ("\"a\"", '"'),
            ("ä", 'ä'),
            ("a/b", '/'),
            ("a\0", '\0'),
            ("a,b", ','),
            ("a:b", ':'),
        ] {
            check(text, Err(TenantError::Character { found }));
        }
        let many: Vec<String> = (0..17).map(|i| i.to_string()).collect();
        check(&many.join("|"), Err(TenantError::TooMany { found: 17 }));
    }

    #[test]
    fn the_default_tenant_has_a_name() {
        assert_eq!("anonymous".parse(), Ok(Tenant::default()));
        assert_eq!("anonymous".parse(), Ok(Tenants::default()));
        assert_eq!(Tenant::default().to_string(), "anonymous");
        assert_ne!("Anonymous".parse(), Ok(Tenant::default()));
    }

    #[test]
    fn one_tenant_is_told_from_several() {
        let tenants = |text: &str| text.parse::<Tenants>().unwrap();
        assert_eq!(tenants("a|a").only(), Some(&"a".parse().unwrap()));
        assert_eq!(tenants("a|b").only(), None);
        assert!(tenants("a|b").contains(&"b".parse().unwrap()));
        assert!(!tenants("a|b").contains(&Tenant::default()));
    }
}
