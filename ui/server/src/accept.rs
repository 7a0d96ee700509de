//! The `Accept` header: whether it parses, and whether the client knows UTF-8 label names.

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::ApiError;

/// Whether the client takes label names that Prometheus of old would not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Utf8Labels(pub(crate) bool);

impl Utf8Labels {
    /// Whether a label name may be shown to the client.
    pub(crate) fn shows(self, name: &str) -> bool {
        let legacy = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        self.0 || legacy
    }
}

/// Reads the header for every route, as Pyroscope does.
pub(crate) async fn layer(mut request: Request, next: Next) -> Response {
    match parse(request.headers()) {
        Ok(labels) => {
            request.extensions_mut().insert(labels);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn parse(headers: &HeaderMap) -> Result<Utf8Labels, ApiError> {
    let mut allowed = false;
    for value in headers.get_all(header::ACCEPT) {
        let bad = || ApiError::Accept { found: String::from_utf8_lossy(value.as_bytes()).into_owned() };
        let text = value.to_str().ok().ok_or_else(bad)?;
        for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !media.split('/').all(is_token) || media.split('/').count() > 2 {
                return Err(bad());
            }
            for parameter in parts.filter(|parameter| !parameter.is_empty()) {
                let (name, value) = parameter.split_once('=').ok_or_else(bad)?;
                if !is_token(name) {
                    return Err(bad());
                }
                allowed |=
                    name.eq_ignore_ascii_case("allow-utf8-labelnames") && value.trim_matches('"') == "true";
            }
        }
    }
    Ok(Utf8Labels(allowed))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expected: Option<bool>) {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        assert_eq!(parse(&headers).ok(), expected.map(Utf8Labels), "{accept}");
    }

    #[test]
    fn any_media_type_can_carry_the_parameter() {
        check("*/*", Some(false));
        check("", Some(false));
        check("*/*;allow-utf8-labelnames=true", Some(true));
        check("text/html, application/json; allow-utf8-labelnames=true", Some(true));
        check("application/json;allow-utf8-labelnames=false", Some(false));
        check("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", Some(false));
    }

    #[test]
    fn what_does_not_parse_is_an_error() {
        check("a b", None);
        check("application/json;utf8", None);
        check("application/json;=x", None);
        check("a/b/c", None);
    }

    #[test]
    fn dotted_names_show_only_on_request() {
        assert!(Utf8Labels(true).shows("k8s.pod"));
        assert!(!Utf8Labels(false).shows("k8s.pod"));
        assert!(Utf8Labels(false).shows("__name__"));
        assert!(!Utf8Labels(false).shows("9lives"));
    }
}
