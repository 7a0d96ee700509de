//! The `name` of an `/ingest` request: an application with labels in a grammar of its own, `app{key=value,…}`.

use pyrite_model::{LabelSet, names};

use crate::ApiError;

/// Who sent a profile to `/ingest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppName {
    /// The application, never empty.
    pub(crate) app: String,
    /// The labels in braces. Values are not quoted.
    pub(crate) labels: LabelSet,
}

impl AppName {
    pub(crate) fn parse(name: &str) -> Result<Self, ApiError> {
        let (app, rest) = name.split_once('{').unwrap_or((name, ""));
        let app = app.trim();
        if app.is_empty() {
            return Err(ApiError::Missing { what: "name" });
        }
        let mut labels = LabelSet::default();
        let inside = rest.split('}').next().unwrap_or_default();
        for pair in inside.split(',').filter(|pair| !pair.trim().is_empty()) {
            let bad = || ApiError::BadValue {
                what: "name",
                expected: "of the form app{key=value,key=value}",
                found: format!("{name:?}"),
            };
            let (key, value) = pair.split_once('=').ok_or_else(bad)?;
            if key.trim().is_empty() {
                return Err(bad());
            }
            labels.set(key.trim(), value.trim());
        }
        Ok(Self { app: app.to_owned(), labels })
    }

    /// The labels to store: `app` names the service unless a label does.
    pub(crate) fn series_labels(&self, app: &str, spy: &str) -> LabelSet {
        let mut labels = self.labels.clone();
        let own = if labels.get(names::SERVICE_NAME).is_some() { "app_name" } else { names::SERVICE_NAME };
        if labels.get(own).is_none() {
            labels.set(own, app);
        }
        labels.set("pyroscope_spy", spy);
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        let parsed = AppName::parse(name).expect(name);
        assert_eq!(parsed.series_labels(&parsed.app, "").to_string(), expected);
    }

    #[test]
    fn the_application_is_the_service() {
        check("app", r#"{service_name="app"}"#);
        check(" my.app {}", r#"{service_name="my.app"}"#);
        check("app{region=eu, zone = a b ,}", r#"{region="eu", service_name="app", zone="a b"}"#);
        check("app{a=b=c}", r#"{a="b=c", service_name="app"}"#);
        check("app{service_name=x}", r#"{app_name="app", service_name="x"}"#);
        check("app{service_name=x,app_name=y}", r#"{app_name="y", service_name="x"}"#);
    }

    #[test]
    fn what_names_nothing_is_an_error() {
        for bad in ["", " ", "{a=b}", "app{a}", "app{=b}"] {
            assert!(AppName::parse(bad).is_err(), "{bad}");
        }
    }
}
