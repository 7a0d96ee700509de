//! Pyrite's own API: functions, trends, comparisons and single profiles, and what is refused.

use serde_json::{Value, json};

use crate::support::{CPU, Server, now_ms};

/// Stacks in which a function calls itself, directly and by way of another.
const RECURSIVE: [(&str, i64); 4] = [("main;f;g;f", 5), ("main;f", 2), ("main;g;g", 3), ("b", 4)];

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |coded, byte| coded + &format!("%{byte:02X}"))
}

/// The parameters of one side or of a query: `{prefix}Query` and so on, or `query` where there is no prefix.
fn window(prefix: &str, selector: &str, from: i64, until: i64) -> String {
    let name = |name: &str| match prefix {
        "" => name.to_lowercase(),
        prefix => format!("{prefix}{name}"),
    };
    let query = percent(&format!("{CPU}{selector}"));
    format!("{}={query}&{}={from}&{}={until}", name("Query"), name("From"), name("Until"))
}

impl Server {
    async fn ask(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }
}

#[tokio::test]
async fn the_largest_functions_and_the_rest_as_one() {
    let server = Server::new();
    let time = now_ms() - 60_000;
    server.push(&[("service_name", "api")], time, &RECURSIVE).await;
    server.push(&[("service_name", "web")], time, &[("main;w", 100)]).await;
    server.push(&[("service_name", "api")], time + 1000, &[("late", 100)]).await;
    let query = window("", r#"{service_name="api"}"#, time, time + 999);
    let row = |name: &str, own: i64, total: i64| json!({ "name": name, "self": own, "total": total });
    let expected = json!({
        "unit": "nanoseconds", "total": 14, "functions": [row("f", 7, 7), row("b", 4, 4)],
        "rest": { "functions": 2, "self": 3, "total": 10 },
    });
    assert_eq!(server.ask(&format!("/api/v1/top?{query}&limit=2")).await, expected);
    let expected = json!({
        "unit": "nanoseconds", "total": 14, "functions": [row("main", 0, 10)],
        "rest": { "functions": 3, "self": 14, "total": 14 },
    });
    assert_eq!(server.ask(&format!("/api/v1/top?{query}&limit=1&order=total")).await, expected);
    let expected = json!({
        "unit": "nanoseconds", "total": 8, "functions": [row("f", 5, 5), row("g", 3, 8), row("main", 0, 8)],
        "rest": null,
    });
    assert_eq!(server.ask(&format!("/api/v1/top?{query}&function=g")).await, expected);
    let below = server.ask(&format!("/api/v1/top?{query}&callSite=main&callSite=g")).await;
    assert_eq!((&below["total"], &below["functions"][0]), (&json!(3), &row("g", 3, 3)));
    let nothing = server.ask(&format!("/api/v1/top?{}", window("", "{}", 1, 2))).await;
    assert_eq!(nothing, json!({ "unit": "nanoseconds", "total": 0, "functions": [], "rest": null }));
}

#[tokio::test]
async fn a_function_that_no_flame_graph_shows_can_be_the_largest() {
    let server = Server::new();
    let time = now_ms() - 60_000;
    let stacks: Vec<(String, i64)> =
        (0..100).flat_map(|i| [(format!("c{i};lock"), 1), (format!("c{i}"), 50)]).collect();
    let stacks: Vec<(&str, i64)> = stacks.iter().map(|(stack, value)| (stack.as_str(), *value)).collect();
    server.push(&[], time, &stacks).await;
    let request = json!({
        "profileTypeID": CPU, "labelSelector": "{}", "start": time, "end": time, "maxNodes": 100,
    });
    let graph = server.query("SelectMergeStacktraces", &request).await.json();
    assert!(!graph["flamegraph"]["names"].as_array().unwrap().contains(&json!("lock")));
    let top = server.ask(&format!("/api/v1/top?{}&limit=1", window("", "{}", time, time))).await;
    assert_eq!(top["functions"], json!([{ "name": "lock", "self": 100, "total": 100 }]));
    assert_eq!(top["rest"], json!({ "functions": 100, "self": 5000, "total": 5100 }));
}

#[tokio::test]
async fn a_function_over_time() {
    let server = Server::new();
    let start = (now_ms() - 100_000) / 1000 * 1000;
    for (pod, offset, value) in
        [("a", 0, 1), ("a", 1, 2), ("b", 10_000, 4), ("b", 10_001, 8), ("a", 20_000, 16)]
    {
        let stacks = [("main;f;g;f", value), ("main;h", 100), ("g;f", 1000 * value)];
        server.push(&[("pod", pod)], start + offset, &stacks).await;
    }
    let query = window("", "{}", start, start + 24_000);
    let trend = |pod: &str, points: &[(i64, i64)]| {
        let point = |(offset, value): &(i64, i64)| json!({ "time": start + offset, "value": value });
        json!({ "labels": { "pod": pod }, "points": points.iter().map(point).collect::<Vec<_>>() })
    };
    let found = server.ask(&format!("/api/v1/series?{query}&function=main&step=10&groupBy=pod")).await;
    let expected =
        [trend("a", &[(0, 101), (10_000, 102), (20_000, 116)]), trend("b", &[(10_000, 104), (20_000, 108)])];
    assert_eq!(found, json!({ "unit": "nanoseconds", "series": expected }));
    let found =
        server.ask(&format!("/api/v1/series?{query}&function=f&callSite=main&step=10&groupBy=pod")).await;
    let expected =
        [trend("a", &[(0, 1), (10_000, 2), (20_000, 16)]), trend("b", &[(10_000, 4), (20_000, 8)])];
    assert_eq!(found["series"], json!(expected));
    let found = server.ask(&format!("/api/v1/series?{query}&function=f&step=100&limit=1")).await;
    assert_eq!(found["series"], json!([{ "labels": {}, "points": [{ "time": start, "value": 1001 }] }]));
}

/// Name, self change and total change of each function.
fn changes(diff: &Value) -> Vec<(String, f64, f64)> {
    let number = |function: &Value, field: &str| function[field].as_f64().unwrap();
    let row = |function: &Value| {
        let name = function["name"].as_str().unwrap().to_owned();
        (name, number(function, "selfChange"), number(function, "totalChange"))
    };
    diff["functions"].as_array().unwrap().iter().map(row).collect()
}

#[tokio::test]
async fn uniform_growth_shows_by_rate_and_vanishes_by_share() {
    let server = Server::new();
    let time = (now_ms() - 600_000) / 1000 * 1000;
    server.push(&[], time, &[("main;a", 300), ("main", 100)]).await;
    server.push(&[], time + 100_000, &[("main;a", 900), ("main", 300)]).await;
    // Windows of a hundred seconds and of fifty.
    let left = window("left", "{}", time - 49_999, time + 50_000);
    let right = window("right", "{}", time + 75_001, time + 125_000);
    let ask = async |by: &str| server.ask(&format!("/api/v1/diff?{left}&{right}&{by}")).await;
    let total = ask("").await;
    let values = |own: i64, total: i64| json!({ "self": own, "total": total });
    let expected = json!({
        "by": "total", "unit": "nanoseconds", "change": 800.0,
        "left": { "total": 400, "divisor": 1.0 }, "right": { "total": 1200, "divisor": 1.0 },
        "functions": [
            {
                "name": "a", "left": values(300, 300), "right": values(900, 900),
                "selfChange": 600.0, "totalChange": 600.0,
            },
            {
                "name": "main", "left": values(100, 400), "right": values(300, 1200),
                "selfChange": 200.0, "totalChange": 800.0,
            },
        ],
        "flamegraph": {
            "names": ["total", "main", "a"],
            "levels": [
                [0, 400, 0, 0, 1200, 0, 0], [0, 400, 100, 0, 1200, 300, 1], [100, 300, 300, 300, 900, 900, 2],
            ],
            "total": 1600, "maxSelf": 900,
        },
    });
    assert_eq!(total, expected);
    let rate = ask("by=rate&order=total&limit=1").await;
    assert_eq!((&rate["left"]["divisor"], &rate["right"]["divisor"]), (&json!(100.0), &json!(50.0)));
    assert_eq!((&rate["by"], &rate["change"]), (&json!("rate"), &json!(20.0)));
    assert_eq!(changes(&rate), [("main".to_owned(), 5.0, 20.0)]);
    for vanishing in ["by=share", "by=request&leftRequests=7&rightRequests=21"] {
        let diff = ask(vanishing).await;
        let nothing = |name: &str| (name.to_owned(), 0.0, 0.0);
        assert_eq!(changes(&diff), [nothing("a"), nothing("main")], "{vanishing}");
        assert_eq!(diff["change"], 0.0, "{vanishing}");
        assert_eq!(diff["flamegraph"], total["flamegraph"], "{vanishing}");
    }
}

#[tokio::test]
async fn single_profiles_are_listed_and_read_again() {
    let server = Server::new();
    let time = now_ms() - 60_000;
    server.push(&[("pod", "a")], time, &[("main;f", 3)]).await;
    server.push(&[("pod", "b")], time, &[("main;g", 5)]).await;
    server.push(&[("pod", "a")], time + 1000, &[("main;f", 1), ("main;g", 1)]).await;
    server.push(&[("pod", "a")], time + 2000, &[("main;f", 100)]).await;
    let query = window("", "{}", time, time + 1999);
    let listed = server.ask(&format!("/api/v1/profiles?{query}")).await;
    let rows = |listed: &Value| -> Vec<(i64, i64, String)> {
        let row = |profile: &Value| {
            let number = |field: &str| profile[field].as_i64().unwrap();
            (number("time") - time, number("total"), profile["labels"]["pod"].as_str().unwrap().to_owned())
        };
        listed["profiles"].as_array().unwrap().iter().map(row).collect()
    };
    assert_eq!((&listed["count"], &listed["unit"]), (&json!(3), &json!("nanoseconds")));
    assert_eq!(rows(&listed), [(1000, 2, "a".into()), (0, 3, "a".into()), (0, 5, "b".into())]);
    let largest = server.ask(&format!("/api/v1/profiles?{query}&order=total&limit=1")).await;
    assert_eq!((&largest["count"], rows(&largest)), (&json!(3), vec![(0, 5, "b".into())]));
    let through_g = server.ask(&format!("/api/v1/profiles?{query}&function=g")).await;
    assert_eq!(rows(&through_g), [(1000, 1, "a".into()), (0, 5, "b".into())]);

    let ids = [0, 2].map(|at: usize| listed["profiles"][at]["id"].clone());
    let mut request = json!({
        "profileTypeID": CPU, "labelSelector": "{}", "start": time - 1000, "end": time + 5000,
        "profileIdSelector": ids,
    });
    let graph = &server.query("SelectMergeStacktraces", &request).await.json()["flamegraph"];
    assert_eq!((&graph["total"], &graph["names"]), (&json!("7"), &json!(["total", "main", "g", "f"])));
    let pprof = server.query("SelectMergeProfile", &request).await.json();
    assert_eq!(pprof["sample"].as_array().unwrap().len(), 2);
    request["labelSelector"] = json!(r#"{pod="b"}"#);
    assert_eq!(server.query("SelectMergeStacktraces", &request).await.json()["flamegraph"]["total"], "5");
    request["end"] = json!(time - 1);
    let none = server.query("SelectMergeStacktraces", &request).await.json();
    assert_eq!(none["flamegraph"]["names"], json!(["total"]));
    request["profileIdSelector"] = json!(["7c9e6679"]);
    for method in ["SelectMergeStacktraces", "SelectMergeProfile"] {
        let refused = server.query(method, &request).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (400, &json!("invalid_argument")));
    }
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let server = Server::new();
    let (query, left, right) =
        (window("", "{}", 1, 2), window("left", "{}", 1, 2), window("right", "{}", 1, 2));
    let other_unit = right.replace(&percent("process_cpu:cpu:nanoseconds"), &percent("memory:space:bytes"));
    assert_ne!(other_unit, right);
    let with = |endpoint: &str, parameters: &str| format!("/api/v1/{endpoint}?{parameters}");
    let mut refused = vec![
        with("top", ""),
        with("top", "query=&from=1&until=2"),
        with("top", "query=%7B%7D&from=1&until=2"),
        with("top", "query=cpu%7B%7D&from=1&until=2"),
        with("top", &window("", "{a=~\"(\"}", 1, 2)),
        with("top", &window("", "{}", 2, 1)),
        with("series", &query),
        with("series", &format!("{query}&step=0")),
        with("series", &format!("{query}&step=0.0009")),
        with("series", &format!("{query}&step=NaN")),
        with("series", &format!("{query}&step=-1")),
        with("diff", &left),
        with("diff", &right),
        with("diff", &format!("{left}&{right}&by=cpu")),
        with("diff", &format!("{left}&{right}&by=request")),
        with("diff", &format!("{left}&{right}&by=request&leftRequests=1")),
        with("diff", &format!("{left}&{right}&by=request&leftRequests=1&rightRequests=0")),
        with("diff", &format!("{left}&{right}&by=request&leftRequests=1&rightRequests=4294967296")),
        with("diff", &format!("{left}&{right}&by=rate&leftRequests=1&rightRequests=1")),
        with("diff", &format!("{left}&{right}&maxNodes=-1")),
        with("diff", &format!("{left}&{right}&maxNodes=1048577")),
        with("diff", &format!("{left}&{other_unit}")),
        with("profiles", &format!("{query}&order=self")),
    ];
    for endpoint in ["top", "series", "profiles"] {
        let step = if endpoint == "series" { "&step=15" } else { "" };
        let valid = with(endpoint, &format!("{query}{step}"));
        assert_eq!(server.get(&valid).await.status, 200, "{valid}");
        assert_eq!(server.post(&valid, "application/json", "{}").await.status, 405, "{valid}");
        for bad in [
            "limit=0",
            "limit=10001",
            "limit=-1",
            "limit=x",
            "limit=1&limit=2",
            "form=1",
            "from=3",
            "Query=x",
        ] {
            refused.push(format!("{valid}&{bad}"));
        }
        for missing in ["query", "from", "until"] {
            refused.push(valid.replace(&format!("{missing}="), &format!("{missing}=&callSite=")));
        }
        refused.push(valid.replace("from=1", "from=now"));
        refused.push(valid.replace("from=1", "from=1.5"));
        refused.push(valid.replace("until=2", "until=9223372036854775808"));
    }
    for path in refused {
        let answer = server.get(&path).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert_eq!(answer.json()["code"], "invalid_argument", "{path}");
        assert!(!answer.json()["message"].as_str().unwrap().is_empty(), "{path}");
    }
    assert_eq!(server.get(&with("diff", &format!("{left}&{right}"))).await.status, 200);
}
