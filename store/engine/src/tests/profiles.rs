//! Single profiles: what is one, what names it, and how many there may be.

use std::path::Path;
use std::sync::Arc;

use pyrite_model::{ProfileId, ProfileType, Selector, Tenants, TimeRange, UnixMs};

use super::{EVERYTHING, batch, config, memory_dir};
use crate::files::RealFiles;
use crate::{Limits, QueryError, SeriesProfiles, StackQuery, Store, StoreConfig};

fn open(dir: &Path, limits: Limits) -> Store {
    let config = StoreConfig { limits, ..config(dir) };
    Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap().0
}

fn all() -> StackQuery {
    StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), EVERYTHING)
}

#[test]
fn what_a_series_has_of_an_instant_is_one_profile_wherever_it_is() {
    let dir = memory_dir();
    let store = open(dir.path(), Limits::default());
    store.append_blocking(batch("db", 10, "f", 1)).unwrap();
    store.append_blocking(batch("api", 20, "f", 2)).unwrap();
    store.flush().unwrap();
    store.append_blocking(batch("db", 10, "g", 4)).unwrap();
    store.append_blocking(batch("db", 5, "g", 8)).unwrap();
    let listed = store.profiles(&all()).unwrap();
    let rows: Vec<_> = listed
        .iter()
        .map(|SeriesProfiles { key, profiles }| (key.labels.get("service_name").unwrap(), &profiles[..]))
        .collect();
    let at = |time: i64, total: i64| (UnixMs(time), total);
    assert_eq!(rows, [("api", &[at(20, 2)][..]), ("db", &[at(5, 8), at(10, 5)])]);
    let id = ProfileId::new(&listed[1].key, UnixMs(10));
    let one = |id| StackQuery { profiles: Some(vec![id]), ..all() };
    assert_eq!(store.merge_stacks(&one(id)).unwrap().total(), 5);
    let elsewhere = ProfileId::new(&listed[0].key, UnixMs(10));
    assert_eq!(store.merge_stacks(&one(elsewhere)).unwrap().total(), 0);
    let outside = StackQuery { range: TimeRange::new(UnixMs(11), UnixMs(99)), ..one(id) };
    assert_eq!(store.merge_stacks(&outside).unwrap().total(), 0);
    assert_eq!(store.merge_stacks(&StackQuery { profiles: Some(Vec::new()), ..all() }).unwrap().total(), 0);
}

#[test]
fn more_than_may_be_listed_are_refused() {
    let dir = memory_dir();
    let store = open(dir.path(), Limits { query_points: 3, ..Limits::default() });
    for time in [1, 2, 3, 1, 2, 3, 1, 2, 3] {
        store.append_blocking(batch("db", time, "f", 1)).unwrap();
    }
    assert_eq!(store.profiles(&all()).unwrap()[0].profiles.len(), 3);
    for flush in [false, true] {
        store.append_blocking(batch("api", 1, "f", 1)).unwrap();
        if flush {
            store.flush().unwrap();
        }
        let error = store.profiles(&all()).unwrap_err();
        assert!(matches!(error, QueryError::TooManyProfiles { limit: 3 }), "{error}");
    }
    let some = StackQuery { selector: r#"{service_name="db"}"#.parse().unwrap(), ..all() };
    assert_eq!(store.profiles(&some).unwrap()[0].profiles.len(), 3);
}
