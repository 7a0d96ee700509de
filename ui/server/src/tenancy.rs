//! Whose request it is: the header `X-Scope-OrgID`, as Pyroscope, Grafana, the SDKs and Alloy send it.
//!
//! It is a name and no proof: who must not choose freely comes by way of a proxy that sets it.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use pyrite_model::{Tenant, Tenants};

use crate::ApiError;
use crate::state::Shared;

const HEADER: HeaderName = HeaderName::from_static("x-scope-orgid");

/// Whether tenants are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tenancy {
    /// No: everything is the default tenant's, whatever requests say.
    #[default]
    One,
    /// Yes: every request for or with data says whose it is.
    Many {
        /// Whose what runs on this node is.
        node: Tenant,
    },
}

impl Tenancy {
    /// Whose what runs on this node is.
    pub fn of_node(&self) -> Tenant {
        match self {
            Self::One => Tenant::default(),
            Self::Many { node } => node.clone(),
        }
    }

    /// Whose data a request asks for.
    pub(crate) fn readers(&self, headers: &HeaderMap) -> Result<Tenants, ApiError> {
        if *self == Self::One {
            return Ok(Tenants::default());
        }
        let mut values = headers.get_all(HEADER).iter();
        let names = values.next().map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
        if names.is_empty() {
            return Err(ApiError::NoTenant);
        }
        match values.next() {
            Some(_) => Err(ApiError::ManyTenants { expected: "given once" }),
            None => Ok(names.parse()?),
        }
    }

    /// Whose data a request brings.
    pub(crate) fn writer(&self, headers: &HeaderMap) -> Result<Tenant, ApiError> {
        let several = ApiError::ManyTenants { expected: "one tenant where data is pushed" };
        self.readers(headers)?.only().cloned().ok_or(several)
    }

    /// Whether what runs on this node is theirs to see.
    pub(crate) fn shows_node_to(&self, tenants: &Tenants) -> bool {
        match self {
            Self::One => true,
            Self::Many { node } => tenants.contains(node),
        }
    }
}

/// Whose data a request asks for, as a handler's argument.
pub(crate) struct Readers(pub(crate) Tenants);

impl FromRequestParts<Shared> for Readers {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        state.tenancy.readers(&parts.headers).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many() -> Tenancy {
        Tenancy::Many { node: "ops".parse().unwrap() }
    }

    #[track_caller]
    fn check(values: &[&[u8]], read: Result<&str, u16>, written: Result<&str, u16>) {
        let value = |value: &&[u8]| (HEADER, axum::http::HeaderValue::from_bytes(value).unwrap());
        let headers: HeaderMap = values.iter().map(value).collect();
        let status = |error: ApiError| error.status().0.as_u16();
        let readers = many().readers(&headers).map_err(status);
        assert_eq!(readers, read.map(|names| names.parse().unwrap()), "{values:?}");
        let writer = many().writer(&headers).map_err(status);
        assert_eq!(writer, written.map(|name| name.parse().unwrap()), "{values:?}");
        assert_eq!(Tenancy::One.readers(&headers).unwrap(), Tenants::default());
        assert_eq!(Tenancy::One.writer(&headers).unwrap(), Tenant::default());
    }

    #[test]
    fn the_header_names_whom_it_is_about() {
        check(&[b"a"], Ok("a"), Ok("a"));
        check(&[b"anonymous"], Ok("anonymous"), Ok("anonymous"));
        check(&[b"b|a"], Ok("a|b"), Err(400));
        check(&[b"a|a"], Ok("a"), Ok("a"));
    }

    #[test]
    fn nobody_is_not_somebody() {
        check(&[], Err(401), Err(401));
        check(&[b""], Err(401), Err(401));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = [b'x'; 200];
        let bad: [&[u8]; 8] = [b"a|", b"|", b"|a", b"\"a\"", "ä".as_bytes(), b"\xff", b"..", &long];
        for value in bad {
            check(&[value], Err(400), Err(400));
        }
        check(&[b"a", b"a"], Err(400), Err(400));
        check(&[b"a", b""], Err(400), Err(400));
        check(&[b"", b"a"], Err(401), Err(401));
    }

    #[test]
    fn the_node_is_its_own_tenants() {
        let tenants = |names: &str| names.parse::<Tenants>().unwrap();
        assert!(many().shows_node_to(&tenants("a|ops")));
        assert!(!many().shows_node_to(&tenants("a|anonymous")));
        assert!(Tenancy::One.shows_node_to(&Tenants::default()));
    }
}
