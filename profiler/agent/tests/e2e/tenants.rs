//! Tenants by the settings of the real binary: told apart, after a crash too, and up to a number.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::common::privileged;
use crate::pyrite::{Pyrite, Response, eventually, now_ms};

fn configuration(directory: &Path, text: &str) -> String {
    let path = directory.join("pyrite.toml");
    fs::write(&path, text).expect("ours to write");
    path.to_str().expect("UTF-8").to_owned()
}

fn push(pyrite: &Pyrite, tenant: Option<&str>, service: &str) -> Response {
    let body = format!("main;{service} 100\n");
    pyrite.request_of(tenant, "POST", &format!("/ingest?name={service}"), ("text/plain", body.as_bytes()))
}

/// The services that somebody is told of.
fn services(pyrite: &Pyrite, tenant: Option<&str>) -> Vec<String> {
    let path = "/pyroscope/label-values?label=service_name";
    let answer = pyrite.request_of(tenant, "GET", path, ("", b""));
    assert_eq!(answer.status, 200, "{tenant:?}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("a list")
}

#[test]
fn tenants_stay_apart_when_the_server_is_killed() {
    let (data, directory) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let config = configuration(directory.path(), "multitenancy = true\nmax_tenants = 2\n");
    let log = directory.path().join("log");
    let pyrite = Pyrite::server_with(data.path(), &log, &["--config", &config]);
    for (tenant, service, status) in [
        (Some("acme"), "a", 200),
        (Some("rival"), "r", 200),
        (Some("third"), "t", 429),
        (Some("acme|rival"), "ar", 400),
        (None, "n", 401),
    ] {
        let answer = push(&pyrite, tenant, service);
        assert_eq!(answer.status, status, "{tenant:?}: {}", answer.text());
    }
    let check = |pyrite: &Pyrite| {
        assert_eq!(services(pyrite, Some("acme")), ["a"]);
        assert_eq!(services(pyrite, Some("rival")), ["r"]);
        assert_eq!(services(pyrite, Some("rival|acme")), ["a", "r"]);
        assert!(services(pyrite, Some("anonymous")).is_empty());
        assert_eq!(pyrite.request_of(None, "GET", "/api/v1/unwind", ("", b"")).status, 401);
    };
    check(&pyrite);
    pyrite.kill();
    let pyrite = Pyrite::server_with(data.path(), &log, &["--multitenancy"]);
    check(&pyrite);
    assert_eq!(push(&pyrite, Some("third"), "t").status, 200, "a thousand unless told otherwise");
    assert!(pyrite.terminate().success());
    let pyrite = Pyrite::server_with(data.path(), &log, &[]);
    assert!(
        services(&pyrite, Some("acme")).is_empty(),
        "the header means nothing, and nothing is anonymous's"
    );
    assert_eq!(push(&pyrite, None, "n").status, 200);
    assert_eq!(services(&pyrite, Some("rival")), ["n"]);
}

#[test]
fn bpf_what_runs_on_the_node_is_its_tenants() {
    let Some(_turn) = privileged("bpf_tenant_of_the_node") else { return };
    let (data, directory) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let config = configuration(directory.path(), "multitenancy = true\ntenant = 'ops'\n");
    let pyrite = Pyrite::run(data.path(), &["--config", &config]);
    eventually("rows of the node", || (!services(&pyrite, Some("ops")).is_empty()).then_some(()));
    assert!(services(&pyrite, Some("anonymous|acme")).is_empty());
    for (tenant, shown) in [("ops", true), ("acme", false)] {
        let path = format!("/api/v1/services?from={}&until={}", now_ms() - 60_000, now_ms());
        let answer = pyrite.request_of(Some(tenant), "GET", &path, ("", b"")).json();
        assert_eq!(answer["node"].is_object(), shown, "{tenant}: {answer}");
        assert_eq!(answer["services"] != json!([]), shown, "{tenant}: {answer}");
    }
}
